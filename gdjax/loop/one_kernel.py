"""Small loops as one kernel: on a CPU, XLA runs a loop operation by operation at some 50 ns each, which is most of the time of a small step.

XLA compiles a call as one kernel where it is told to by an attribute, which it sets itself for loops that touch less than a kilobyte. It ends the process
(``Check failed``, in ``EmitGlobalBufferPointer``) where such a call has an operand that nothing in it reads, since only what is read is handed to the kernel;
and an operand read by the program as written may become one, when XLA finds it to be a constant and puts a copy of the constant in its place. So:

* Operands come out of a barrier, and one number of each is among the results, which go into a barrier. While barriers stand XLA knows of no operand that it is
  a constant, and of no result that it is not wanted; they fall after the last pass that looks for constants. What a loss closes over is an operand as well.
* What the loop may contain is a grammar, in the tables below: a loop is made of the primitives named, with nested loops, branches and calls made of the same;
  every array in it has one of the dtypes named, a shape of known numbers, and at least one entry; none has an effect. Anything else is left to XLA as it is.
* It is done for the versions of jaxlib alone with which ``tests/fuzz_one_kernel.py`` was run, some thousands of random loops that this grammar allows.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from gdjax.parts import convolutions, xla
from gdjax.parts.held import per_loss

# Entries that a step may compute: with more, what each kernel does for itself (vector instructions, threads) is worth more than its start.
MOST_ENTRIES = 8192
MOST_PRODUCTS = 1 << 17  # of numbers, in matrices times vectors
TURNS = 8  # counted for loops within of unknown length

DTYPES = frozenset("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 bfloat16 float16 float32 float64 key<fry>".split())

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
QUICK = PLAIN | {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}  # for what runs a few times: a third of that again
PLAIN_BELOW = 1e5  # entries of params and data that a step touches, by the driver's estimate


class Compiled:
    """A function of a loss, jitted, that may be compiled plainly."""

    def __init__(self, function, plainly=None, **options):
        self.usual, self.plain = per_loss(function, **options), per_loss(function, **options, compiler_options=plainly or PLAIN)

    def __call__(self, *args, plain: bool, **kwargs):
        return self._of(plain)(*args, **kwargs)

    def lower(self, *args, plain: bool, **kwargs):
        """As of a jitted function."""
        return self._of(plain).lower(*args, **kwargs)

    def _of(self, plain: bool):
        return self.plain if plain and xla.KERNELS else self.usual


def possible(*trees: Any) -> bool:
    """Whether these arrays are all on one CPU device, of an XLA that this was tried on."""
    devices = {device for leaf in jax.tree.leaves(trees) if isinstance(leaf, jax.Array) for device in leaf.devices()}
    return xla.KERNELS and len(devices) == 1 and all(device.platform == "cpu" for device in devices)


def while_loop(condition, body, carry: Any, least: float = 0) -> Any:
    """``lax.while_loop`` on a CPU, as one kernel where its step is small; the same numbers to rounding.

    A step that computes fewer entries than ``least`` is left to XLA. The loop is traced once.
    """
    closed, shape = jax.make_jaxpr(lambda carry: lax.while_loop(condition, body, carry), return_shape=True)(carry)
    closed = convolutions.arrange(closed)
    inputs, count = (*closed.consts, *jax.tree.leaves(carry)), len(closed.consts)

    def run(*inputs):
        return jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, inputs[:count]))(*inputs[count:])

    made = _in_one_kernel(run, inputs) if is_small(closed, least) else run(*inputs)
    return jax.tree.unflatten(jax.tree.structure(shape), made)


def _in_one_kernel(run, inputs) -> list[jax.Array]:
    """The results of a function, in a call between barriers that reads every input: see above."""
    *made, touched = jax.jit(lambda *inputs: (*run(*inputs), _touch(inputs)))(*lax.optimization_barrier(inputs))
    made[0] = set_xla_metadata(made[0], xla_cpu_small_call="true", inlineable="false")
    return lax.optimization_barrier((*made, touched))[:-1]


def _touch(inputs) -> jax.Array:
    """A number of every input."""
    data = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.asarray(x) for x in inputs]
    return jnp.stack([x[(0,) * x.ndim].astype(jnp.float32) for x in data])


def refused(error: Exception) -> bool:
    """Whether a compilation failed because something in the loop cannot be part of a kernel after all."""
    return any(word in str(error) for word in ("UNIMPLEMENTED", "Failed to materialize symbols"))


def is_small(closed: ClosedJaxpr, least: float = 0) -> bool:
    """Whether the grammar allows this loop, and one kernel is the faster way, to go by what a turn computes."""
    [loop] = [equation for equation in closed.jaxpr.eqns if equation.primitive.name == "while"]
    work = _work(loop.params["body_jaxpr"].jaxpr) + _work(loop.params["cond_jaxpr"].jaxpr)
    return all(map(_allowed, (*closed.jaxpr.constvars, *closed.jaxpr.invars))) and not closed.effects and least <= work <= MOST_ENTRIES


def _allowed(variable) -> bool:
    """Whether an array may be part of a kernel."""
    shape, dtype = getattr(variable.aval, "shape", None), getattr(variable.aval, "dtype", None)
    return shape is not None and all(isinstance(size, int) and size > 0 for size in shape) and str(dtype) in DTYPES


def _entries(variables) -> int:
    return sum(math.prod(v.aval.shape) for v in variables)


def _work(jaxpr) -> float:
    """Entries that a jaxpr computes, infinite where it cannot be part of a kernel."""
    variables = (*jaxpr.constvars, *jaxpr.invars, *(v for equation in jaxpr.eqns for v in equation.outvars))
    return sum(map(_work_of, jaxpr.eqns)) if all(map(_allowed, variables)) else math.inf


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
