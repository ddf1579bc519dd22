"""The Polyak step: as long as the loss is far from its minimum."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.parts.value_steps import over_square
from gdjax.rule import rule
from gdjax.typing import Params

SHARE = 0.1  # the path a level is given, as a share of the way come; any positive number keeps the guarantee
FIRST_LENGTH = 1e-3  # of the first step to an estimated level, in units of ‖x‖


class Level(NamedTuple):
    """What an estimated minimum needs; scalars are of the params' widest dtype, shape ()."""

    start: Params  # x₀, like params
    best_params: Params  # where the loss was lowest, like params
    best_value: jax.Array  # there; inf before the first step
    record: jax.Array  # the best value when this level was set
    gap: jax.Array  # δ: the level is that much below the record; 0 before the first step
    path: jax.Array  # length of the steps to this level
    reach: jax.Array  # the largest distance from the start so far


class PolyakState(NamedTuple):
    """What ``polyak`` keeps between steps."""

    learning_rate: jax.Array  # a of the last step, shape (), of the params' widest dtype
    level: Level | None  # None where the minimum is given


@rule
def polyak(min_value: Any = 0.0, *, scaling: Any = 1.0, max_learning_rate=None):
    """Gradient descent with the Polyak step: a model that is linear, followed down to the minimum.

        x ← x − a g,  a = min{c [f − f⋆]₊/‖g‖², a_max}

    With ``min_value=None`` a level δ below the record f̂ stands for f⋆. Where the loss falls by δ/2 below f̂, or the steps to this level are
    together longer than a tenth of the largest distance from the start, a new level is set below the best value, with 2δ or δ/2. ``gdjax.eval_params``
    is then the best point, since steps to a level below the minimum lead away from it.

    Args:
        min_value: f⋆, a number, shape (), in units of the loss; steps end where the loss is at or below it. None: estimated.
        scaling: c in (0, 2], a number, shape (): 1 for convex, 2 for smooth and strongly convex losses; below 2 if the minimum is estimated.
        max_learning_rate: a_max > 0, a number, shape (), in units of params² per unit of loss. None: no bound.

    Returns:
        Rule: ``update`` needs ``value``, and with ``min_value=None`` the params, of which it then keeps two.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without what it needs.

    Guarantee:
        Convex with minimum f⋆ at x⋆, no a_max, R = ‖x₀ − x⋆‖: ‖x − x⋆‖² falls by at least c(2 − c)(f − f⋆)²/‖g‖² a step. Hence after N steps the
        least f − f⋆ is at most G R/√(c(2 − c)N) where ‖g‖ ≤ G, and 2L R²/(c(2 − c)N) for an L-smooth loss.
        c = 2, L-smooth with curvature at least μ: ‖x₊ − x⋆‖² ≤ (aL − 1)(1 − aμ)/(a(L + μ) − 1) ‖x − x⋆‖², at most ((κ − 1)/(κ + 1))²; equal for
        quadratics with curvatures μ and L alone.
        Minimum not given, convex with a minimum: the best value tends to f⋆, whatever the first level; no rate is claimed.

    When to use it: the minimum is known, as 0 for a model that fits its data; with an estimated one for nonsmooth convex losses.

    Example:
        >>> import gdjax, jax
        >>> rule, w, loss = gdjax.polyak(), 5.0, lambda w: (w - 2.0) ** 2
        >>> state = rule.init(w)
        >>> for step in range(3):
        ...     value, grads = jax.value_and_grad(loss)(w)
        ...     updates, state = rule.update(grads, state, w, value=value)
        ...     w = w + updates
        ...     print(f"{w:.3f}")
        3.500
        2.750
        2.375

    Reference:
        Polyak, "Minimization of unsmooth functionals", USSR Comput. Math. Math. Phys. 9, 1969.
        Barré, Taylor, d'Aspremont, "Complexity guarantees for Polyak steps with momentum", COLT 2020, arXiv:2002.00915 (c = 2).
        Goffin, Kiwiel, "Convergence of a simple subgradient level method", Math. Program. 85, 1999 (the levels; here the path is measured by the way come).
    """
    check_number("polyak", "min_value", min_value, open_low=True, open_high=True, wanted="the minimum of the loss, or None: type polyak(0.0)")
    check_number("polyak", "scaling", scaling, low=0, high=2, open_low=True, required=True, wanted="0 < scaling ≤ 2: type scaling=1.0")
    check_number("polyak", "max_learning_rate", max_learning_rate, low=0, open_low=True, wanted="a number > 0 or None: type max_learning_rate=1.0")

    def init(params):
        zero, copies = jnp.zeros((), tree.dtype_of(params)), (tree.copy(params), tree.copy(params))
        return PolyakState(zero, Level(*copies, zero + jnp.inf, zero, zero, zero, zero) if min_value is None else None)

    def update(grads, state, params=None, *, value=None, **extra):
        if value is None or (params is None and min_value is None):
            call = "use gdjax.minimize or gdjax.fit, which offer it, or type rule.update(grads, state, params, value=loss)"
            raise ValueError(f"polyak: update got no {'value' if value is None else 'params'}; wanted it: {call}.")
        norm, f = tree.norm(grads), jnp.asarray(value, state.learning_rate.dtype)
        level = None if state.level is None else leveled(state.level, params, f, norm)
        a = over_square(scaling * (f - (min_value if level is None else level.record - level.gap)), norm)
        a = (a if max_learning_rate is None else jnp.minimum(a, max_learning_rate)).astype(f.dtype)
        level = None if level is None else level._replace(path=(level.path + a * norm).astype(f.dtype))
        return tree.scale(-a, grads), PolyakState(a, level)

    def leveled(level, params, f, norm):
        """The level to step to from params where the loss is f."""
        size, reach = tree.norm(params), jnp.maximum(level.reach, tree.norm(tree.subtract(params, level.start)))
        first, lower, spent = jnp.isinf(level.best_value), f <= level.record - level.gap / 2, level.path > SHARE * reach
        gap = jnp.where(first, FIRST_LENGTH * jnp.where(size > 0, size, 1) * norm, level.gap * jnp.where(lower, 2, jnp.where(spent, 0.5, 1)))
        best, best_params = jnp.minimum(f, level.best_value), tree.where(f < level.best_value, params, level.best_params)
        anew = first | lower | spent
        return Level(level.start, best_params, best, jnp.where(anew, best, level.record), gap, jnp.where(anew, 0, level.path), reach)

    def eval_params(state, params):
        return params if state.level is None else state.level.best_params

    return (init, update, eval_params) if min_value is None else (init, update)
