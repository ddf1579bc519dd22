"""Small loops as one kernel: on a CPU, XLA runs a loop operation by operation at some 50 ns each, which is most of the time of a small step."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from gdjax.parts import convolutions

# Attributes and options of XLA come and go with its versions; with another than the one this was tried on, all is compiled as usual.
TRIED = jaxlib.version.__version__.startswith("0.10.")

# Entries that a step may compute: with more, what each kernel does for itself (vector instructions, threads) is worth more than its start.
MOST_ENTRIES = 8192
MOST_PRODUCTS = 1 << 17  # of numbers, in matrices times vectors
TURNS = 8  # counted for loops within of unknown length

# What XLA makes a part of a kernel. Anything else (sorting, factorisations, convolutions, Fourier transforms, calls of the host) is a call of its own.
ELEMENTWISE = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bitcast_convert_type cbrt ceil clamp convert_element_type copy copy_p cos cosh div eq "
    "erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg nextafter not or pow rem round "
    "rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor".split()
)
MOVING = frozenset(
    "broadcast_in_dim concatenate dynamic_slice expand_dims gather iota optimization_barrier pad reshape rev slice split squeeze stack transpose "
    "unstack".split()
)
REDUCING = frozenset("argmax argmin cumsum reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum".split())
RANDOM = frozenset("random_bits random_fold_in random_seed random_unwrap random_wrap threefry2x32".split())
IN_PLACE = frozenset(["dynamic_update_slice"])
CALLS = frozenset("checkpoint closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr custom_vmap_call jit pjit remat remat2".split())

# XLA's plainer code generator for CPUs: half the time to compile, and for small programs as fast. (For 569 rows of 30, at once, no longer: 10 us against 7.7.)
PLAIN = {"xla_cpu_use_fusion_emitters": False}
PLAIN_BELOW = 1e5  # entries of params and data that a step touches, by the driver's estimate


class Compiled:
    """A jitted function that may be compiled plainly."""

    def __init__(self, function, **options):
        self.usual, self.plain = jax.jit(function, **options), jax.jit(function, **options, compiler_options=PLAIN)

    def __call__(self, *args, plain: bool, **kwargs):
        return self._of(plain)(*args, **kwargs)

    def lower(self, *args, plain: bool, **kwargs):
        """As of a jitted function."""
        return self._of(plain).lower(*args, **kwargs)

    def _of(self, plain: bool):
        return self.plain if plain and TRIED else self.usual


def possible(*trees: Any) -> bool:
    """Whether these arrays are all on one CPU device, of an XLA that this was tried on."""
    devices = {device for leaf in jax.tree.leaves(trees) if isinstance(leaf, jax.Array) for device in leaf.devices()}
    return TRIED and len(devices) == 1 and all(device.platform == "cpu" for device in devices)


def while_loop(condition, body, carry: Any, least: float = 0) -> Any:
    """``lax.while_loop`` on a CPU, as one kernel where its step is small; the same numbers to rounding.

    A step that computes fewer entries than ``least`` is left to XLA. The loop is traced once. It becomes a call that XLA is told to keep and to compile as
    a whole: an attribute that XLA sets on its own for loops of less than a kilobyte.
    """
    closed, shape = jax.make_jaxpr(lambda carry: lax.while_loop(condition, body, carry), return_shape=True)(carry)
    closed = convolutions.arrange(closed)
    inputs, count = (*closed.consts, *jax.tree.leaves(carry)), len(closed.consts)

    def run(*inputs):
        return jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, inputs[:count]))(*inputs[count:])

    if not is_small(closed, least) or not all(map(jnp.size, inputs)):
        return jax.tree.unflatten(jax.tree.structure(shape), run(*inputs))
    *made, touched = jax.jit(lambda *inputs: (*run(*inputs), _touch(inputs)))(*inputs)
    made[0] = set_xla_metadata(made[0], xla_cpu_small_call="true", inlineable="false")
    return jax.tree.unflatten(jax.tree.structure(shape), lax.optimization_barrier((*made, touched))[:-1])


def _touch(inputs) -> jax.Array:
    """A number of every input. XLA (of jaxlib 0.10) dies of a call one of whose inputs is of no use, as some may be once it has simplified the loop."""
    data = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.asarray(x) for x in inputs]
    return jnp.stack([x[(0,) * x.ndim].astype(jnp.float32) for x in data])


def refused(error: Exception) -> bool:
    """Whether a compilation failed because something in the loop cannot be part of a kernel after all."""
    return any(word in str(error) for word in ("UNIMPLEMENTED", "Failed to materialize symbols"))


def is_small(closed, least: float = 0) -> bool:
    """Whether one kernel is the faster way, to go by what a turn of the loop computes."""
    [loop] = [equation for equation in closed.jaxpr.eqns if equation.primitive.name == "while"]
    return least <= _work(loop.params["body_jaxpr"].jaxpr) + _work(loop.params["cond_jaxpr"].jaxpr) <= MOST_ENTRIES


def _entries(variables) -> int:
    return sum(math.prod(getattr(v.aval, "shape", ())) for v in variables)


def _work(jaxpr) -> float:
    """Entries that a jaxpr computes, infinite where it cannot be part of a kernel."""
    return sum(map(_work_of, jaxpr.eqns))


def _work_of(equation) -> float:
    name, params = equation.primitive.name, equation.params
    if name in ELEMENTWISE or name in RANDOM:
        return _entries(equation.outvars)
    if name in MOVING:
        return _entries(equation.outvars) / 4
    if name in REDUCING:
        return _entries(equation.invars)
    if name in IN_PLACE:
        return _entries(equation.invars[1:2])
    if name == "dot_general":
        return _work_of_product(equation)
    if name == "cond":
        return max(_work(branch.jaxpr) for branch in params["branches"])
    if name == "while":
        return TURNS * (_work(params["body_jaxpr"].jaxpr) + _work(params["cond_jaxpr"].jaxpr))
    if name == "scan":
        return params["length"] * _work(params["jaxpr"].jaxpr)
    if name in CALLS:
        inner = next((params[key] for key in ("jaxpr", "call", "call_jaxpr", "fun_jaxpr") if key in params), None)
        return math.inf if inner is None else _work(getattr(inner, "jaxpr", inner))
    return math.inf


def _work_of_product(equation) -> float:
    # Products of two matrices go to a library, which no kernel can call.
    (left, right), ((contracted, _), (batched, _)) = (v.aval.shape for v in equation.invars), equation.params["dimension_numbers"]
    summed, mapped = math.prod(left[i] for i in contracted), math.prod(left[i] for i in batched)
    rows, columns = math.prod(left) // max(summed * mapped, 1), math.prod(right) // max(summed * mapped, 1)
    if min(rows, columns, summed) > 1 or (mapped > 1 and max(rows, columns) > 1):
        return math.inf
    return mapped * rows * columns * summed * MOST_ENTRIES / MOST_PRODUCTS + rows * columns * mapped
