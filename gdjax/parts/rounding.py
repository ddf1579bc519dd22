"""Sums in bfloat16 and float16 whose rounding is known or drawn: all in float32, so that no compiler's liberty with short floats shows.

A loop adds updates of the params' own dtype, so a step from x ends at a point that x plus such a number rounds to. Where the step is less than half of x that
is every point of the dtype; where x shrinks by more, or changes its sign, the update has fewer figures than the way is long, and some points are left out.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import tree
from gdjax.arguments import short
from gdjax.typing import Params

FUNCTIONS = ("value_fn", "value_and_grad_fn", "full_value_and_grad_fn", "example_grads_fn")


def is_low(x: Any) -> bool:
    """Whether a leaf is of bfloat16 or float16."""
    return jnp.result_type(x) in (jnp.bfloat16, jnp.float16)


def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """x, float32, rounded to the nearest of a dtype and kept in float32; ties to even. A cast there and back would not do: compilers drop the pair."""
    limits = jnp.finfo(dtype)
    near = lax.reduce_precision(x, limits.nexp, limits.nmant)
    if dtype == jnp.bfloat16:
        return near
    whole = lax.round(x * 2.0**24, lax.RoundingMethod.TO_NEAREST_EVEN) * 2.0**-24  # reduce_precision knows no subnormal numbers
    return jnp.where(jnp.abs(x) < float(limits.smallest_normal), whole, near)


def straight(x: jax.Array, like: jax.Array) -> jax.Array:
    """x with the derivative of another: rounding is passed through as if it were not there."""
    return lax.stop_gradient(x) + jnp.where(jnp.isfinite(like), like - lax.stop_gradient(like), 0)


def in_float32(x: Any) -> Any:
    """A leaf of bfloat16 or float16 in float32, and rounded: what a compiler knows better than its dtype is not taken. Other leaves as they are."""
    if not is_low(x):
        return x
    wide = jnp.asarray(x).astype(jnp.float32)
    return straight(rounded(wide, jnp.result_type(x)), wide)


def _neighbour(x, side, dtype):
    return lax.nextafter(x.astype(dtype), (side * jnp.inf).astype(dtype)).astype(jnp.float32)


def _step(x, target, dtype, side=None):
    # (u, the point that x + u is rounded to): u of the dtype, nearest to target − x or, of its two neighbours, the one on a side.
    way, largest = target - x, float(jnp.finfo(dtype).max)
    u = rounded(way, dtype)
    if side is not None:
        u = jnp.where(side * (way - u) > 0, _neighbour(u, side, dtype), u)
    u = jnp.where(jnp.isfinite(target), jnp.clip(u, -largest, largest), target)
    return u, rounded(x + u, dtype)


def compensated(x: jax.Array, c: jax.Array, u: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Kahan's step from x + c by u, all float32: the update of the dtype, and the new c, which is what it leaves out. u = 0 changes nothing."""
    y = c + u
    update, landed = _step(x, rounded(x + y, dtype), dtype)
    lost = y - (landed - x)
    still = u == 0
    return jnp.where(still, 0, update), jnp.where(still, c, rounded(jnp.where(jnp.isfinite(lost), lost, 0), dtype))


def drawn(x: jax.Array, u: jax.Array, key: jax.Array, dtype: Any) -> jax.Array:
    """An update of the dtype, one of two, that ends at x + u on average: of the points below and above, each is as likely as the other is far.

    Bits are drawn for the share of the way, not added to the bits of x + u: so steps far below the spacing of float32 count, and float16 is no other case.
    """
    near = rounded(x + u, dtype)
    side = jnp.where((x - near) + u >= 0, 1.0, -1.0)
    beyond = _neighbour(near, side, dtype)
    beyond = jnp.where(jnp.isfinite(beyond), beyond, near)  # no draw overflows what rounding to nearest would not
    (one, here), (other, there) = _step(x, near, dtype, -side), _step(x, beyond, dtype, side)
    gap = there - here
    chance = ((x - here) + u) / jnp.where(gap == 0, 1, gap)
    return jnp.where((jax.random.uniform(key, x.shape, jnp.float32) < chance) & (gap != 0), other, one)


def key_of(key: Any) -> Any:
    """A key to fold, from an int seed, a scalar of ints, a typed or a legacy key; otherwise an error. Arrays of them, as in sweeps, pass."""
    whole = isinstance(key, int) and not isinstance(key, bool)
    dtype: Any = getattr(key, "dtype", jnp.dtype(int if whole else float))
    if jnp.issubdtype(dtype, jnp.integer):
        return jax.random.key(key) if jnp.ndim(key) == 0 else key
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    raise TypeError(f"precise: key is {short(key)}; wanted a seed or a key: type key=0 or key=jax.random.key(0).")


def offered_wide(extra: dict[str, Any], params: Params) -> dict[str, Any]:
    """What drivers offer, as of params in float32; the loss is still evaluated at params in their own dtypes."""

    def moved(function):
        @functools.wraps(function)  # optax's line searches ask it for the names of its arguments
        def seen(x, **more):
            return jax.tree.map(in_float32, function(tree.cast_like(x, params), **more))

        return seen

    functions = {name: moved(what) for name, what in extra.items() if name in FUNCTIONS and what is not None}
    return {**extra, **functions, **{name: jax.tree.map(in_float32, extra[name]) for name in ("value", "grad") if name in extra}}
