"""How much memory one lane of a ``vmap`` holds at once, read from its program."""

from __future__ import annotations

import math
import os
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from gdjax.parts.blocks import device_memory

SHARE = 0.25  # of the memory that is free, for what the lanes of a block hold: with results put together, up to 2.7 times as much was measured
UNKNOWN = 4 << 30  # bytes, where the machine does not say what is free


def most_lanes(function, *example: Any) -> int:
    """How many lanes of ``function(*example)`` fit in a quarter of the memory that is free; at least 1. ``example``: one lane's arguments, or their shapes."""
    free = device_memory() if jax.default_backend() != "cpu" else _free_memory()
    return max(1, int(SHARE * (free if math.isfinite(free) else UNKNOWN) / max(bytes_of_lane(function, *example), 1)))


def bytes_of_lane(function, *example: Any) -> int:
    """The bytes that a lane holds at once at most, were nothing fused: of what depends on its arguments. What all lanes share does not count. Not run."""
    closed = jax.make_jaxpr(function)(*example)
    return _peak(closed.jaxpr, [True] * len(closed.jaxpr.invars))[0]


def _free_memory() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN


def _peak(jaxpr: Jaxpr, moving: list[bool]) -> tuple[int, list[bool]]:
    """(the largest sum of live values that depend on the moving inputs, which outputs do)."""
    last = {v: i for i, equation in enumerate(jaxpr.eqns) for v in equation.invars if not isinstance(v, Literal)}
    last.update((v, len(jaxpr.eqns)) for v in jaxpr.outvars if not isinstance(v, Literal))
    live = {v: _bytes(v) for v, moves in zip(jaxpr.invars, moving, strict=True) if moves}
    known, most = set(live), sum(live.values())
    for index, equation in enumerate(jaxpr.eqns):
        inputs = [not isinstance(v, Literal) and v in known for v in equation.invars]
        if any(inputs):
            inner = max((_peak(*each)[0] for each in _within(equation, inputs)), default=0)
            own = sum(_bytes(v) for v, moves in zip(equation.invars, inputs, strict=True) if moves)
            made = {v: _bytes(v) for v in equation.outvars}
            most = max(most, sum(live.values()) + max(sum(made.values()), inner - own))
            live.update(made)
            known.update(made)
        for v in [v for v in live if last.get(v, -1) <= index]:
            del live[v]
    return most, [not isinstance(v, Literal) and v in known for v in jaxpr.outvars]


def _within(equation, inputs: list[bool]) -> list[tuple[Jaxpr, list[bool]]]:
    """The programs inside an equation, with which of their inputs move; what a loop carries does."""
    params = equation.params
    if "body_jaxpr" in params:  # while
        consts = params["cond_nconsts"]
        carried = len(inputs) - consts - params["body_nconsts"]
        body = params["body_jaxpr"].jaxpr
        return [(body, inputs[consts : consts + params["body_nconsts"]] + [True] * carried)]
    if "num_carry" in params:  # scan
        consts, carried = params["num_consts"], params["num_carry"]
        return [(params["jaxpr"].jaxpr, inputs[:consts] + [True] * carried + inputs[consts + carried :])]
    found = []
    for each in (x for value in params.values() for x in (value if isinstance(value, tuple) else (value,))):
        inner = each.jaxpr if isinstance(each, ClosedJaxpr) else each
        if isinstance(inner, Jaxpr):
            extra = len(inputs) - len(inner.invars)  # the branches of a cond do not take its index
            found.append((inner, inputs[extra:] if extra >= 0 else [True] * len(inner.invars)))
    return found


def _bytes(variable) -> int:
    aval = variable.aval
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 4) if hasattr(aval, "shape") else 0
