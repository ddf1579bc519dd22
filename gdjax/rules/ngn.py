"""Stochastic gradient descent with nonnegative Gauss-Newton steps."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_offered
from gdjax.parts.value_steps import check_lower_bound, polyak_ratio
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Number, Scheduled


class NGNState(NamedTuple):
    """What ``ngn`` keeps between steps."""

    step: jax.Array | None  # number of steps taken, int32, shape (); None for a constant σ
    learning_rate: jax.Array  # a of the last step, shape (), of the params' widest dtype; 0 at the start


@rule
def ngn(learning_rate: Scheduled = 1.0, *, lower_bound: Number = 0.0):
    """Nonnegative Gauss-Newton steps: at most σ, and shorter the steeper the loss is for its height, so that no σ is too large.

        x ← x − a g,  a = σ/(1 + σ‖g‖²/(2(f − l)))

    which is the Gauss-Newton step with damping 1/σ for f − l = r², r = √(f − l). No step where f ≤ l.

    Args:
        learning_rate: σ ≥ 0, a number or a schedule, shape (), in units of params² per unit of loss; a → σ where the gradient is small for the loss.
        lower_bound: l, below the minimum of every batch's loss, a number, shape (), in units of the loss.

    Returns:
        Rule: ``update`` needs ``value``.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without the value.

    Guarantee:
        Any σ. Losses of batches at least l and L-smooth:  σ/(1 + σL) ≤ a ≤ min{σ, 2(f − l)/‖g‖²}. Convex too, f⁺ = f(x⋆) − l of the same batch:
        ‖x₊ − x⋆‖² ≤ ‖x − x⋆‖² + 2a f⁺ − 2a²(f − l)/σ. So if one x⋆ has f = l for all, no step leads away from it; in any case the mean of f − l over N
        steps is at most (1 + σL)²(R²/(2σN) + mean f⁺), R = ‖x₀ − x⋆‖, path by path: it never diverges. With σ ∝ 1/√k it converges.

    When to use it: in place of ``sgd`` where the loss is nonnegative and a learning rate is hard to find: too large a σ does little harm.

    Example:
        >>> import gdjax, jax
        >>> rule, w, loss = gdjax.ngn(100.0), 5.0, lambda w: (w - 2.0) ** 2
        >>> state = rule.init(w)
        >>> for step in range(3):
        ...     value, grads = jax.value_and_grad(loss)(w)
        ...     updates, state = rule.update(grads, state, w, value=value)
        ...     w = w + updates
        ...     print(f"{w:.3f}")
        2.015
        2.000
        2.000

    Reference:
        Orvieto, Xiao, "An adaptive stochastic gradient method with non-negative Gauss-Newton stepsizes", 2024, arXiv:2407.04358.
    """
    check_learning_rate("ngn", learning_rate)
    check_lower_bound("ngn", lower_bound)

    def init(params):
        return NGNState(jnp.zeros((), jnp.int32) if callable(learning_rate) else None, jnp.zeros((), tree.dtype_of(params)))

    def update(grads, state, params=None, *, value=None, **extra):
        check_offered("ngn", value=value)
        ratio = polyak_ratio(value, lower_bound, grads, state.learning_rate.dtype)
        sigma = jnp.asarray(value_at(learning_rate, state.step), ratio.dtype)
        a = (sigma * (ratio / jnp.where(ratio > 0, ratio + sigma / 2, 1))).astype(ratio.dtype)
        return tree.scale(-a, grads), NGNState(None if state.step is None else jnp.asarray(optax.safe_increment(state.step)), a)

    return init, update
