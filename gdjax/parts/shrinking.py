"""Armijo's search by values alone, as stochastic losses want it: a trial is shortened until the loss falls enough.

Where the decrease that is asked for is lost in the rounding of the loss, slopes tell instead: on a quadratic φ(a) ≤ φ(0) + c a φ′(0) is the same as
φ′(a) ≤ (2c − 1) φ′(0), and that holds at digits which values no longer have.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import tree
from gdjax.linesearch import ROUNDING
from gdjax.typing import Grads, Params, Scalar

TRIALS = 100  # of one search, as in the authors' code


class Shrinking(NamedTuple):
    """A search in flight, or what it found."""

    step: Any  # the last trial
    next: Any  # the next one
    sound: Any  # bool: the loss was finite at the last
    accepted: Any  # bool
    trials: Any  # int32
    still: Any  # bool: the last trial moved nothing


def shrinking(value_fn, params: Params, grads: Grads, value: Any, first: Scalar, sufficient: Any, shrink: Any) -> Shrinking:
    """The first of a₀, βa₀, β²a₀, ... at which the loss has fallen by c a‖g‖², along −g.

    Args:
        value_fn: ``params -> value``.
        params: x.
        grads: g, the gradient there.
        value: f(x), shape ().
        first: a₀, shape ().
        sufficient: c, shape ().
        shrink: β, shape (); 1/10 where the loss is not finite.
    """
    f, norm = jnp.asarray(value, first.dtype), tree.norm(grads)
    rounding = ROUNDING * float(jnp.finfo(jnp.result_type(value)).eps) * jnp.abs(f)  # pyright: ignore[reportArgumentType]
    unit = tree.scale(1 / jnp.where(norm > 0, norm, 1), grads)

    def tried(now, there, enough, still):
        sound = jnp.isfinite(there)
        return Shrinking(now.next, (jnp.where(sound, shrink, 0.1) * now.next).astype(f.dtype), sound, sound & enough & ~still, now.trials + 1, still)

    def promised(now):
        return sufficient * now.next * norm * norm

    def by_value(now):
        there = jnp.asarray(value_fn(tree.add_scaled(params, -now.next, grads)), f.dtype)
        return tried(now, there, there - f <= -promised(now), jnp.bool_(False))  # as a difference, which rounding cannot make true

    def by_slope(now):
        # A choice among steps from a list, which derivatives pass by.
        x, g, u, a = lax.stop_gradient((params, grads, unit, now.next))
        ahead = tree.stored(tree.add(x, tree.stored(tree.scale(-a, g))))
        there, slope = (jnp.asarray(x, f.dtype) for x in jax.jvp(value_fn, (ahead,), (u,)))
        enough = (there - f <= rounding) & (slope >= (2 * sufficient - 1) * norm)
        return tried(now, lax.stop_gradient(there), enough, tree.largest(tree.subtract(ahead, x)) == 0)

    def goes_on(now):
        return ~now.accepted & (now.trials < TRIALS) & (now.next > 0)

    first, no = jnp.where(jnp.isfinite(f) & jnp.isfinite(norm), first, 0), jnp.bool_(False)
    begin = Shrinking(first, first, no, no, jnp.int32(0), no)
    coarse = lax.while_loop(lambda now: goes_on(now) & (promised(now) > rounding), by_value, begin)
    return lax.while_loop(lambda now: goes_on(now) & (norm > 0) & ~now.still, by_slope, coarse)
