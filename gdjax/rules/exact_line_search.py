"""Steepest descent with an exact line search."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.two_points import moved
from gdjax.rule import rule
from gdjax.typing import Grads

TRIALS, ROUNDING = 40, 32  # evaluations a search may take, few are usual; units in the last place of f within which losses are taken as equal


class ExactLineSearchState(NamedTuple):
    """What ``exact_line_search`` keeps between steps."""

    learning_rate: jax.Array  # a of the last step, shape (), of the params' widest dtype
    evaluations: jax.Array  # made by the searches so far, int32, shape ()
    value: jax.Array  # the loss where the last step led, likewise; NaN before it
    grad: Grads  # its gradient there, like params


class Search(NamedTuple):
    """A search in flight: for the a > 0 where φ(a) = f(x − a g) has φ′(a) = 0; slopes are φ′(a)/φ′(0), so 1 at a = 0."""

    trial: jax.Array  # the next a
    low: tuple[jax.Array, jax.Array]  # a and slope of the best point short of the minimum
    high: tuple[jax.Array, jax.Array]  # of the nearest point beyond; a = inf before there is one, slope NaN where it is unknown
    seen: tuple[jax.Array, Grads]  # value and gradient at low
    last: jax.Array  # bool: the last trial was short of the minimum
    found: jax.Array  # bool: low is the answer
    evaluations: jax.Array  # int32


@rule
def exact_line_search(tolerance=None):
    """Steepest descent to the minimum along the gradient, the method of Cauchy.

        x ← x − a g,  a = argmin φ,  φ(a) = f(x − a g)

    The first trial is ‖g‖²/⟨g, H g⟩, exact on a quadratic, with H g from one forward derivative of ``value_and_grad_fn``. Then come secants on φ′,
    kept between a point short of the minimum and one beyond, where φ′ > 0, or f is higher than at x or not finite.

    Args:
        tolerance: ε > 0, a number, shape (): a search ends at |φ′(a)| ≤ ε |φ′(0)|. None: 3.5e-4 in float32 and 1.5e-8 in float64, √ of their precision.

    Returns:
        Rule: ``update`` needs the params, ``value`` and ``value_and_grad_fn``. 3 evaluations a step on a quadratic, H g counted as 2.

    Raises:
        ValueError: a tolerance that is not positive; ``update`` without what it needs.

    Guarantee:
        No step raises the loss, but for rounding; where φ is not convex, a is a local minimum of it. L-smooth with curvature at least μ > 0, κ = L/μ:
        f(x₊) − f⋆ ≤ ((κ − 1)/(κ + 1))² (f(x) − f⋆), attained at each step from (1/μ, 1/L) on the quadratic with curvatures μ and L: 0.6694 for κ = 10.

    When to use it: quadratics without knowledge of L, and as the yardstick for other line searches; ``barzilai_borwein`` needs far fewer.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> loss, w = lambda w: w[0] ** 2 / 2 + 5 * w[1] ** 2, jnp.array([10.0, 1.0])
        >>> result = gdjax.minimize(loss, w, gdjax.exact_line_search(), max_steps=2)
        >>> print(f"{(result.value / loss(w)) ** 0.5:.4f}")
        0.6694

    Reference:
        Cauchy, "Méthode générale pour la résolution des systèmes d'équations simultanées", C. R. Acad. Sci. 25, 1847.
        de Klerk, Glineur, Taylor, "On the worst-case complexity of the gradient method with exact line search", Optim. Lett. 11, 2017.
    """
    check_number("exact_line_search", "tolerance", tolerance, low=0, open_low=True, wanted="a number > 0 or None: type exact_line_search()")

    def init(params):
        zero = jnp.zeros((), tree.dtype_of(params))
        return ExactLineSearchState(zero, jnp.int32(0), zero + jnp.nan, tree.zeros_like(params))

    def update(grads, state, params=None, *, value=None, value_and_grad_fn: Any = None, **extra):
        check_offered("exact_line_search", params=params, value=value, value_and_grad_fn=value_and_grad_fn)
        grads, params, norm = tree.stored(grads), tree.map(jnp.asarray, params), tree.norm(grads)
        unit = tree.scale(1 / jnp.where(norm > 0, norm, 1), grads)
        bend = tree.vdot(unit, jax.jvp(lambda at: value_and_grad_fn(at)[1], (params,), (tree.cast_like(unit, params),))[1])
        blind = jnp.where(state.learning_rate > 0, 2 * state.learning_rate, 1e-2 / jnp.where(norm > 0, norm, 1))  # where φ is not convex
        trial = jnp.where((bend > 0) & jnp.isfinite(bend), 1 / jnp.where(bend > 0, bend, 1), blind)
        one, f = jnp.ones_like(norm), jnp.asarray(value, norm.dtype)
        begin = Search(trial, (0 * one, one), (jnp.inf * one, jnp.nan * one), (f, tree.cast_like(grads, params)), jnp.bool_(True), norm == 0, jnp.int32(2))
        noise, place = ROUNDING * float(jnp.finfo(jnp.result_type(value)).eps) * jnp.abs(f), float(jnp.finfo(norm.dtype).eps)
        epsilon = place**0.5 if tolerance is None else jnp.maximum(tolerance, 8 * place)

        def attempt(search):
            ahead = moved(params, tree.stored(tree.scale(-search.trial, grads)))
            there, towards = value_and_grad_fn(ahead)
            slope = jnp.where(tree.all_finite(ahead), tree.vdot(towards, unit) / norm, jnp.nan)
            return narrowed(search, there.astype(f.dtype), towards, slope, f, noise, epsilon)

        ended = jax.lax.while_loop(lambda search: ~search.found & (search.evaluations < TRIALS), attempt, begin)
        return tree.stored(tree.scale(-ended.low[0], grads)), ExactLineSearchState(ended.low[0], state.evaluations + ended.evaluations, *ended.seen)

    return init, update


def narrowed(search, value, grads, slope, f, noise, epsilon):
    """The search after its trial, where the loss is ``value`` and the slope ``slope``."""
    a, (low, low_slope), (high, high_slope) = search.trial, search.low, search.high
    sound = jnp.isfinite(value) & jnp.isfinite(slope) & (value <= f + noise)
    short = sound & (slope > 0)
    found = sound & (jnp.abs(slope) <= jnp.where(f - value <= noise, 0.5, epsilon))  # less, where the loss no longer shows it, is rounding
    ahead = a + (a - low) * jnp.clip(slope / jnp.where(low_slope > slope, low_slope - slope, 1e-3), 0.5, 9)  # no point beyond yet
    # Illinois: the slope at an end that has stayed twice is halved, so that both ends move.
    halved = jnp.where(short == search.last, 0.5, 1)
    low_end = tree.where(short, (a, slope), (low, low_slope * halved))
    high_end = tree.where(short, (high, high_slope * halved), (a, jnp.where(sound, slope, jnp.nan)))
    share = low_end[1] / (low_end[1] - high_end[1])
    within = low_end[0] + (high_end[0] - low_end[0]) * jnp.where(jnp.isfinite(share), share, 0.5)
    done = found | (high_end[0] - low_end[0] < epsilon * high_end[0])
    seen = tree.where(short | found, (value, tree.cast_like(grads, search.seen[1])), search.seen)
    return Search(jnp.where(jnp.isinf(high_end[0]), ahead, within), tree.where(found, (a, slope), low_end), high_end, seen, short, done, search.evaluations + 1)
