"""What gdjax does because of one compiler, and the switch that turns all of it off: with ``GDJAX_XLA=0`` in the environment every program is plain JAX.

What hangs on it: one kernel for the loops of small steps, and the plainer code generator for small programs (``loop.one_kernel``); matrices turned on their
side (``parts.turned``); the axes of convolutions (``parts.convolutions``); the rows of a finite sum in parts side by side (``parts.blocks``). None of these
changes what is computed, only how fast; without them numbers are the same to rounding.
"""

from __future__ import annotations

import os

import jax
import jaxlib.version

# Attributes and options of XLA come and go with its versions. These are those with which the whole of tests/fuzz_one_kernel.py was run.
FUZZED = frozenset({"0.10.2"})


def _asked() -> bool:
    given = os.environ.get("GDJAX_XLA", "1")
    if given not in ("0", "1"):
        raise ValueError(f"GDJAX_XLA is {given!r} in the environment; wanted 0 (plain JAX alone) or 1: type export GDJAX_XLA=0.")
    return given == "1"


ON = _asked()
KERNELS = ON and jaxlib.version.__version__ in FUZZED  # attributes and options of XLA that JAX does not know of


def on_cpu() -> bool:
    """Whether programs are arranged for XLA's compiler for CPUs."""
    return ON and jax.default_backend() == "cpu"
