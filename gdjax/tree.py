"""Arithmetic on pytrees of arrays, in the dtypes of the leaves, so bfloat16 params stay bfloat16 under any float32 learning rate. Products with a scalar are
taken in float32 at least and then rounded: a learning rate may be far outside the range of float16 where the step is not.

``None`` is an empty subtree, as everywhere in JAX. Reductions accumulate in float32 at least.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

Tree = Any


def _widen(x) -> jax.Array:
    return jnp.asarray(x, dtype_of(x))


def _cast(x, leaf):
    return jnp.asarray(x).astype(jnp.result_type(leaf))


def _times(scalar, x, like) -> jax.Array:
    # s x of a leaf like another: in its dtype, float32 at least.
    dtype = jnp.result_type(like)
    wide = dtype_of(like) if jnp.issubdtype(dtype, jnp.inexact) else dtype
    return jnp.asarray(scalar).astype(wide) * jnp.asarray(x).astype(wide)


def map(function, *trees: Tree) -> Tree:  # the namespace's own map: tree.map, as in jax.tree.map
    """``jax.tree.map``, so that one import serves."""
    return jax.tree.map(function, *trees)


def leaves(a: Tree) -> list[Any]:
    """``jax.tree.leaves``, so that one import serves."""
    return jax.tree.leaves(a)


def add(a: Tree, b: Tree) -> Tree:
    """a + b, in the dtypes of a."""
    return jax.tree.map(lambda x, y: x + _cast(y, x), a, b)


def subtract(a: Tree, b: Tree) -> Tree:
    """a - b, in the dtypes of a."""
    return jax.tree.map(lambda x, y: x - _cast(y, x), a, b)


def scale(scalar, a: Tree) -> Tree:
    """s a."""
    return jax.tree.map(lambda x: _cast(_times(scalar, x, x), x), a)


def add_scaled(a: Tree, scalar, b: Tree) -> Tree:
    """a + s b, in the dtypes of a."""
    return jax.tree.map(lambda x, y: x + _cast(_times(scalar, y, x), x), a, b)


def stored(a: Tree) -> Tree:
    """a as memory holds it: compilers keep more figures of a bfloat16 or float16 sum that is read at once than the sum itself has."""

    def leaf(x):
        x = jnp.asarray(x)
        limits = jnp.finfo(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else None  # of x itself: float16 keeps its subnormal numbers
        return lax.reduce_precision(x, limits.nexp, limits.nmant) if limits is not None and limits.bits < 32 else x

    return jax.tree.map(leaf, a)


def cast_like(a: Tree, like: Tree) -> Tree:
    """a, leaf by leaf in the dtype of ``like``."""
    return jax.tree.map(lambda x, y: jnp.asarray(x).astype(jnp.result_type(y)), a, like)


def zeros_like(a: Tree) -> Tree:
    """Zeros of the same structure, shapes and dtypes."""
    return jax.tree.map(jnp.zeros_like, a)


def copy(a: Tree) -> Tree:
    """New buffers with the same content, so that the originals survive donation."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), a)


def where(condition, a: Tree, b: Tree) -> Tree:
    """a where the scalar condition holds, else b."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def vdot(a: Tree, b: Tree) -> jax.Array:
    """⟨a, b⟩ over all leaves, accumulated in float32 at least; 0 for an empty tree."""
    products = jax.tree.map(lambda x, y: jnp.vdot(_widen(x), _widen(y)), a, b)
    return sum(jax.tree.leaves(products), jnp.zeros((), dtype_of(a)))


@jax.custom_jvp
def _root(square):
    return jnp.sqrt(square)


@_root.defjvp
def _root_jvp(primals, tangents):
    # The derivative of a norm at 0 is taken as 0, not NaN: a run that has arrived stays differentiable.
    root = _root(*primals)
    return root, tangents[0] * jnp.where(root > 0, 0.5 / jnp.where(root > 0, root, 1), 0)


@functools.partial(jax.jit, inline=True)  # outside of jit the choice below would be compiled at every call
def norm(a: Tree) -> jax.Array:
    """‖a‖₂ over all leaves, accumulated in float32 at least, right for every size that the dtype holds; its derivative at 0 is 0.

    Squares overflow and underflow long before their root does, and a loss in units of 1e20 or 1e-20 is no less a loss. So where a sum of squares is outside
    the dtype's range, it is taken again, of numbers brought to about 1 by a power of two, which rounds nothing.
    """
    square = vdot(a, a)
    limits = jnp.finfo(square.dtype)
    sound = (square > limits.tiny / limits.eps) & (square < limits.max)
    return lax.cond(sound, lambda a: _root(square), _rescaled_norm, a)


def _rescaled_norm(a: Tree) -> jax.Array:
    dtype, unit = dtype_of(a), power_of_two(largest(a))
    # Held back: of numbers that XLA knows when it compiles it makes (x c)² into x² c², which overflows.
    inverse = 1 / unit
    squares = [jnp.sum(jnp.square(lax.optimization_barrier(_widen(x).astype(dtype) * inverse))) for x in jax.tree.leaves(a)]
    return unit * _root(sum(squares, jnp.zeros((), dtype)))


def largest(a: Tree) -> jax.Array:
    """‖a‖_∞ over all leaves, NaN where one is; 0 for an empty tree."""
    tops = [jnp.max(jnp.abs(_widen(x)), initial=0).astype(dtype_of(a)) for x in jax.tree.leaves(a)]
    return functools.reduce(jnp.maximum, tops, jnp.zeros((), dtype_of(a)))


def power_of_two(x: jax.Array) -> jax.Array:
    """The power of two at or below |x|, of its dtype, kept where both it and its inverse are normal numbers. Has no derivative."""
    x, limits = lax.stop_gradient(x), jnp.finfo(x.dtype)
    bits = jnp.uint64 if limits.bits == 64 else jnp.uint32
    exponent = lax.bitcast_convert_type(jnp.asarray(jnp.inf, x.dtype), bits)  # all of its bits are those of the exponent
    power = lax.bitcast_convert_type(lax.bitcast_convert_type(x, bits) & exponent, x.dtype)
    return jnp.clip(power, limits.tiny, 1 / limits.tiny)


def dtype_of(a: Tree) -> Any:
    """The dtype scalars about this tree are kept in: the widest of its leaves, float32 at least."""
    with jax.numpy_dtype_promotion("standard"):  # to widen is meant here, whatever is allowed elsewhere
        return jnp.result_type(jnp.float32, *(jnp.result_type(x) for x in jax.tree.leaves(a)))


def all_finite(a: Tree) -> jax.Array:
    """True if no inexact leaf holds NaN or inf."""
    checks = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(a) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.all(jnp.stack(checks)) if checks else jnp.asarray(True)


def size(a: Tree) -> int:
    """The number of entries in all leaves."""
    return sum(jnp.size(x) for x in jax.tree.leaves(a))


def bytes_of(a: Tree) -> int:
    """The bytes of all array leaves (typed keys counted by their data)."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(a) if hasattr(x, "dtype"))


def is_traced(*trees: Tree) -> bool:
    """True if any leaf is a tracer: the call happens inside jit, vmap or grad."""
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(trees))


def stop_gradient(a: Tree) -> Tree:
    """``lax.stop_gradient`` on every leaf."""
    return jax.tree.map(lax.stop_gradient, a)


@jax.jit
def take(a: Tree, places) -> Tree:
    """The entries of every leaf at these places of its leading axis: one program for the tree, where indexing leaf by leaf compiles one for each."""
    return jax.tree.map(lambda x: x[places], a)
