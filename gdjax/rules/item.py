"""The information-theoretic exact method."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.rule import rule
from gdjax.schedules import check_curvatures
from gdjax.typing import Number, Params


class ItemState(NamedTuple):
    """What ``item`` keeps between steps."""

    weight: jax.Array  # w = 1/(1 + A) in (0, 1], 1 at the start, shape (), of the params' widest dtype; A itself would overflow
    x: Params  # the point a gradient step leads to, like params
    z: Params  # the point the guarantee is about, like params


@rule
def item(smoothness, strong_convexity: Number = 0.0):
    """The information-theoretic exact method (ITEM): no method that takes as many gradients ends nearer to the minimum in the worst case.

        y ← (1 − β) z + β x
        x ← y − g(y)/L
        z ← (1 − qδ) z + qδ y − (δ/L) g(y)
        A⁺ = ((1 + q) A + 2 (1 + √((1 + A)(1 + qA))))/(1 − q)²,  A₀ = 0,  q = μ/L
        β = A/((1 − q) A⁺),  δ = ((1 − q)² A⁺ − (1 + q) A)/(2 (1 + q + qA))

    The params of the loop are y, where gradients are taken; ``gdjax.eval_params`` gives z, or x where μ = 0. It needs no horizon.

    Args:
        smoothness: L > 0, the largest curvature, a number, shape ().
        strong_convexity: μ in [0, L], the least curvature, a number, shape (). With the default, 0, its gradients are those of ``ogm`` before the last step.

    Returns:
        Rule: ``update`` needs the params.

    Raises:
        ValueError: a number is out of its range or NaN, or μ > L.

    Guarantee:
        Curvatures in [μ, L], after any number N of steps, R = ‖x₀ − x⋆‖:  ‖z_N − x⋆‖² ≤ R²/(1 + q A_N) ≤ R²/(1 + q/(1 − √q)^{2N}), which quadratics attain and
        no method improves in high dimension: in the limit a factor of 1 − √q a step. With μ = 0:  f(x_N) − f⋆ ≤ L R²/A_N ≤ L R²/(N + 1)².

    When to use it: the curvatures are known; the first choice in theory. ``triple_momentum`` is the same in the limit, with constant numbers.

    Example:
        >>> import gdjax, jax
        >>> rule, y = gdjax.item(smoothness=10.0, strong_convexity=2.0), 5.0
        >>> state = rule.init(y)
        >>> for step in range(3):
        ...     updates, state = rule.update(jax.grad(lambda w: (w - 2.0) ** 2)(y), state, y)
        ...     y = y + updates
        ...     print(f"{gdjax.eval_params(rule, state, y):.3f}")
        4.000
        3.177
        2.664

    Reference:
        Taylor, Drori, "An optimal gradient method for smooth strongly convex minimization", Math. Program. 199, 2023.
        Drori, Taylor, "On the oracle complexity of smooth strongly convex minimization", J. Complexity 68, 2022 (that it is the best).
    """
    check_curvatures("item", smoothness, strong_convexity, zero=True)

    def coefficients(weight):
        """β and δ of the step from A, and 1/(1 + A⁺): the equations above, with A = (1 − w)/w put in and multiplied through by w."""
        q = strong_convexity / smoothness
        root = jnp.sqrt(weight + q * (1 - weight))
        scaled = (1 + q) * (1 - weight) + 2 * (weight + root)  # (1 − q)² w A⁺
        following = weight * (1 - q) ** 2 / (weight * (1 - q) ** 2 + scaled)
        return (1 - q) * (1 - weight) / scaled, (weight + root) / (weight + q), following

    def init(params):
        return ItemState(jnp.ones((), tree.dtype_of(params)), tree.copy(params), tree.copy(params))

    def update(grads, state, params=None, **extra):
        if params is None:
            raise ValueError("item: update got params=None; wanted the params: type rule.update(grads, state, params).")
        _, delta, weight = coefficients(state.weight)
        beta = coefficients(weight)[0]  # of the next y
        x = tree.add_scaled(params, -1 / smoothness, grads)
        pulled = tree.add_scaled(state.z, strong_convexity / smoothness * delta, tree.subtract(params, state.z))
        z = tree.add_scaled(pulled, -delta / smoothness, grads)
        updates = tree.add_scaled(tree.subtract(z, params), beta, tree.subtract(x, z))
        return updates, ItemState(weight.astype(state.weight.dtype), x, z)

    def eval_params(state, params):
        return tree.where(jnp.asarray(strong_convexity) > 0, state.z, state.x)

    return init, update, eval_params
