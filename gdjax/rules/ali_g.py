"""ALI-G: Polyak steps with one bound, for models that interpolate."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.value_steps import check_lower_bound, check_max_learning_rate, polyak_ratio
from gdjax.rule import rule
from gdjax.typing import Number, Params


class AliGState(NamedTuple):
    """What ``ali_g`` keeps between steps."""

    learning_rate: jax.Array  # a of the last step, shape (), of the params' widest dtype; 0 at the start
    velocity: Params | None  # v, like params; None without momentum


@rule
def ali_g(max_learning_rate, *, momentum=None, max_norm=None, lower_bound: Number = 0.0):
    """Adaptive learning rates for interpolation: Polyak steps of batches up to a bound, with Nesterov momentum, inside a ball.

        a = min{[f − l]₊/‖g‖², a_max}
        v ← μ v − a g,  x ← x − a g + μ v      without momentum  x ← x − a g
        x ← x min{1, r/‖x‖}                    with a ball

    Args:
        max_learning_rate: a_max > 0, a number, shape (), in units of params² per unit of loss; the one number to choose.
        momentum: μ in [0, 1), a number, shape (); 0.9 by Berrada et al. None keeps no velocity.
        max_norm: r > 0, a number, shape (): the radius of a ball about 0 that the params stay in, in place of weight decay. ``update`` then needs the params.
        lower_bound: l, below the minimum of every batch's loss, a number, shape (), in units of the loss; a = 0 where the loss is not above it.

    Returns:
        Rule: ``update`` needs ``value``. Differs from the authors' code in: no 1e-5 is added to ‖g‖², which would end the linear convergence there.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without what it needs.

    Guarantee:
        Convex losses of batches, one x⋆ in the ball with f = l for all, no momentum:  ‖x₊ − x⋆‖² ≤ ‖x − x⋆‖² − a(f − l): no step leads away from x⋆.
        Over N steps the mean of f − l is at most R²/(αN), α = min{1/(2L), a_max}, for L-smooth losses, R = ‖x₀ − x⋆‖; where ‖g‖ ≤ G and no a is bounded,
        its root mean square is at most GR/√N.

    When to use it: networks large enough to fit their data, trained with a ball in place of weight decay.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> rule, w = gdjax.ali_g(1.0, max_norm=5.0), jnp.array([0.0, 0.0])
        >>> loss, state = lambda w: jnp.sum((w - jnp.array([6.0, 8.0])) ** 2), rule.init(w)
        >>> for step in range(3):
        ...     value, grads = jax.value_and_grad(loss)(w)
        ...     updates, state = rule.update(grads, state, w, value=value)
        ...     w = w + updates
        ...     print(*(f"{x:.3f}" for x in w))
        3.000 4.000
        3.000 4.000
        3.000 4.000

    Reference:
        Berrada, Zisserman, Kumar, "Training neural networks for and by interpolation", ICML 2020, arXiv:1906.05661.
    """
    check_max_learning_rate("ali_g", max_learning_rate, required=True)
    check_number("ali_g", "momentum", momentum, low=0, high=1, open_high=True, wanted="0 ≤ momentum < 1 or None: type ali_g(0.1, momentum=0.9)")
    check_number("ali_g", "max_norm", max_norm, low=0, open_low=True, wanted="a number > 0 or None: type ali_g(0.1, max_norm=100.0)")
    check_lower_bound("ali_g", lower_bound)

    def init(params):
        return AliGState(jnp.zeros((), tree.dtype_of(params)), None if momentum is None else tree.zeros_like(params))

    def update(grads, state, params=None, *, value=None, **extra):
        check_offered("ali_g", value=value)
        dtype = state.learning_rate.dtype
        a = jnp.minimum(polyak_ratio(value, lower_bound, grads, dtype), max_learning_rate).astype(dtype)
        updates, velocity = tree.scale(-a, grads), None
        if momentum is not None:
            new = tree.add_scaled(updates, momentum, state.velocity)
            updates, velocity = tree.add_scaled(updates, momentum, new), tree.where(jnp.isfinite(tree.norm(new)), new, state.velocity)
        if max_norm is not None:
            check_offered("ali_g", params=params, value=value)
            ahead = tree.add(params, updates)
            norm = tree.norm(ahead)
            updates = tree.where(norm > max_norm, tree.subtract(tree.scale(max_norm / jnp.where(norm > 0, norm, 1), ahead), params), updates)
        return updates, AliGState(a, velocity)

    return init, update
