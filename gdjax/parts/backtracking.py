"""Backtracking for accelerated methods: a gradient step whose h stands the quadratic upper bound, with the momentum made anew for each h.

A step from y = x + ((θ₋ − 1)/θ)(x − x₋) of length h satisfies f(y − h g) ≤ f(y) − h‖g‖²/2, which h ≤ 1/L does; and hθ(θ − 1) = h₋θ₋², on which the proof of
O(1/k²) rests. So a shorter h has a greater θ, and its own y, nearer x.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import tree
from gdjax.typing import Grads, Params

SHORTER, TRIALS = (0.1, 0.8), 30  # the range of what a failed h is multiplied by; failures after which nothing is found
ROUNDING = 10  # units of rounding of |f(y)| within which values say nothing, as in the line search


class GradientStep(NamedTuple):
    """A gradient step in the making; scalars of shape ()."""

    h: Any
    theta: Any  # θ
    y: Params
    value: Any  # f(y)
    grad: Grads  # g there, or what stands for it
    ahead: Params  # y − h g
    lowest: Any  # f there
    evaluations: jax.Array  # int32, of the loss, with or without gradient


def attempt(value_fn, h, theta, y, value, grad, evaluations) -> GradientStep:
    """The step of length h, evaluated."""
    ahead = tree.stored(tree.add_scaled(y, -h, grad))
    return GradientStep(h, theta, y, value, grad, ahead, jnp.asarray(value_fn(ahead), h.dtype), evaluations + 1)


def fall(step: GradientStep, epsilon: float) -> tuple[Any, Any]:
    """(h‖g‖²/2, what of a difference of values is rounding)."""
    norm = tree.norm(step.grad)  # whose square may be outside the range where h‖g‖² is not
    return step.h * norm * norm / 2, ROUNDING * epsilon * jnp.abs(step.value)


def stands(step: GradientStep, epsilon: float):
    """Whether the quadratic upper bound holds, up to rounding."""
    promised, rounding = fall(step, epsilon)
    return jnp.isfinite(step.lowest) & (step.lowest - step.value <= rounding - promised)


def backtrack(value_fn, value_and_grad_fn, step: GradientStep, x: Params, epsilon: float) -> tuple[GradientStep, Any]:
    """(the first step that stands, whether one does): shorter and shorter, each from its own y between the first and x."""
    energy = step.h * step.theta * (step.theta - 1)

    def shorter(now):
        step, failures = now
        promised, _ = fall(step, epsilon)
        lift = step.lowest - step.value + 2 * promised  # by which the parabola through the values rises above the slope
        share = jnp.where(jnp.isfinite(lift) & (lift > 0), promised / jnp.where(lift > 0, lift, 1), 0)
        h = step.h * jnp.clip(share, *SHORTER)
        theta = (1 + jnp.sqrt(1 + 4 * energy / jnp.where(h > 0, h, 1))) / 2
        y = tree.add_scaled(x, step.theta / theta, tree.subtract(step.y, x))
        value, grad = value_and_grad_fn(y)
        return attempt(value_fn, h, theta, y, jnp.asarray(value, h.dtype), tree.cast_like(grad, step.grad), step.evaluations + 1), failures + 1

    last, _ = lax.while_loop(lambda now: ~stands(now[0], epsilon) & (now[1] < TRIALS), shorter, (step, jnp.int32(0)))
    return last, stands(last, epsilon) & (last.h > 0)
