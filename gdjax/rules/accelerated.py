"""Accelerated gradient descent with backtracking and restarts."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import tree
from gdjax.arguments import check_number, check_offered, is_word, short
from gdjax.linesearch import Conditions, first_step, search
from gdjax.parts.backtracking import attempt, backtrack, fall
from gdjax.parts.first_step import check_first_learning_rate
from gdjax.parts.two_points import landed
from gdjax.rule import rule
from gdjax.typing import Grads, Number, Params

FLAT = 0.6  # c₂ of the first search: its h is at least (1 − c₂)/L


class AcceleratedState(NamedTuple):
    """What ``accelerated`` keeps between steps: two vectors like params, and scalars of the params' widest dtype."""

    value: jax.Array  # f at y, the params moved to, shape (); NaN at the start
    grad: Grads  # ∇f there, like params
    evaluations: jax.Array  # int32, shape (): of the loss, with or without gradient
    learning_rate: jax.Array  # h of the last step, shape (); 0 at the start and where nothing was found
    x: Params  # the point a gradient step led to, like params: what is reported
    lowest: jax.Array  # f(x), shape ()
    trial: jax.Array  # the next h, shape ()
    theta: jax.Array  # θ with which y was made, shape (); 1 at the start and after a restart


@rule
def accelerated(first_learning_rate=None, *, restart: Literal["gradient", "function"] | None = "gradient", growth: Number = 1.1):
    """Nesterov's method without a constant to know: backtracking, and a restart of the momentum where it goes uphill.

        x⁺ ← y − h g(y),  where f(x⁺) ≤ f(y) − h‖g(y)‖²/2;  else a shorter h, and θ and y made anew with it
        θ⁺ = (1 + √(1 + 4θ²h/h⁺))/2,  y ← x⁺ + (θ − 1)/θ⁺ (x⁺ − x),  θ₁ = 1;  next trial h⁺ = 1.1 h
        restart, θ = 1 and y = x⁺, where ⟨g(y), x⁺ − x⟩ > 0 ("gradient") or f(x⁺) > f(x) ("function")

    The first h comes from a search along −g, lengthening too: 0.4/L ≤ h, from any first trial. A failed h is followed by that of the parabola through
    the values, within 0.1 and 0.8 of it. The params of the loop are y; ``gdjax.eval_params`` gives x. A y where the loss is not finite becomes x⁺.

    Args:
        first_learning_rate: the first trial, > 0, a number, shape (), in units of params² per unit of loss. None: 1/‖g‖_∞.
        restart: str or None: "gradient", "function" (the loss at x then never rises), None: never.
        growth: what h is multiplied by for the next trial, ≥ 1, a number, shape ().

    Returns:
        Rule: ``update`` needs the params, ``value``, ``value_fn`` and ``value_and_grad_fn``; 2 evaluations a step and 2 more for each failed trial.

    Raises:
        ValueError: a number out of its range; an unknown restart; ``update`` without what it needs.

    Guarantee:
        Convex, L-smooth, R = ‖x₀ − x⋆‖, without restarts: f(x_N) − f⋆ ≤ R²/(2h_Nθ_N²) ≤ 2R²/(m(N + 1)²), m = min{h₁, 0.8/L} ≥ 0.4/L, the least h met.
        Curvature at least μ > 0, κ = L/μ: with restarts linear, about exp(−c N/√κ) as if μ were known (O'Donoghue and Candès; a proof for quadratics).

    When to use it: convex losses, ill-conditioned ones above all; where L and μ are known ``nesterov`` costs half.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> loss = lambda w: (1e8 * w[0] ** 2 + w[1] ** 2) / 2
        >>> result = gdjax.minimize(loss, jnp.array([1.0, 1.0]), gdjax.accelerated(), max_steps=20)
        >>> print(f"{loss(result.params) < 1:}")
        True

    Reference:
        Beck, Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", SIAM J. Imaging Sci. 2, 2009.
        O'Donoghue, Candès, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15, 2015.
        Scheinberg, Goldfarb, Bai, "Fast first-order methods for composite convex optimization with backtracking", ibid. 14, 2014 (θ with h).
    """
    check_first_learning_rate("accelerated", first_learning_rate)
    check_number("accelerated", "growth", growth, low=1, high=jnp.inf, open_high=True, required=True, wanted="growth ≥ 1: type growth=1.1")
    if not is_word(restart, ("gradient", "function", None)):
        raise ValueError(f'accelerated: restart is {short(restart)}; wanted "gradient", "function" or None: type restart="gradient".')

    def init(params):
        zero = jnp.zeros((), tree.dtype_of(params))
        return AcceleratedState(zero + jnp.nan, tree.zeros_like(params), jnp.int32(0), zero, tree.copy(params), zero + jnp.inf, zero, zero + 1)

    def update(grads, state, params=None, *, value: Any = None, grad=None, value_fn: Any = None, value_and_grad_fn: Any = None, **extra):
        check_offered("accelerated", value_and_grad_fn=value_and_grad_fn, value_fn=value_fn, value=value, params=params)
        f, fresh, epsilon = jnp.asarray(value, state.value.dtype), state.learning_rate == 0, float(jnp.finfo(tree.dtype_of(value)).eps)
        first = first_step(params, grads) if first_learning_rate is None else jnp.asarray(first_learning_rate, f.dtype)
        true, minus = grads if grad is None else grad, tree.scale(-1, grads)
        found = search(value_and_grad_fn, params, minus, value, true, jnp.where(fresh, first, 0), conditions=Conditions(0.5, FLAT))
        h, count = jnp.where(fresh, found.step, state.trial), state.evaluations + found.evaluations
        begin = attempt(value_fn, h, state.theta, params, f, tree.cast_like(grads, params), count)
        step, moved = backtrack(value_fn, value_and_grad_fn, begin, state.x, epsilon)
        uphill = {None: False, "gradient": tree.vdot(step.grad, tree.subtract(step.ahead, state.x)) > 0, "function": step.lowest > state.lowest}[restart]
        x, lowest = tree.where(moved & ~jnp.asarray(uphill if restart == "function" else False), (step.ahead, step.lowest), (state.x, state.lowest))
        promised, rounding = fall(step, epsilon)
        trial = jnp.where(promised > rounding, growth, 1).astype(h.dtype) * step.h
        theta = (1 + jnp.sqrt(1 + 4 * step.h * step.theta**2 / jnp.where(trial > 0, trial, 1))) / 2
        momentum, theta = tree.where(moved & ~jnp.asarray(uphill), ((step.theta - 1) / theta, theta), (0 * theta, 0 * theta + 1))
        ahead = landed(params, tree.add_scaled(x, momentum, tree.subtract(x, state.x)))
        there, slopes = value_and_grad_fn(ahead[1])
        sound = jnp.isfinite(there) & tree.all_finite((ahead[1], slopes))
        ((updates, y), theta) = tree.where(sound, (ahead, theta), (landed(params, x), 0 * theta + 1))
        there, slopes = lax.cond(sound, lambda: (there, slopes), lambda: value_and_grad_fn(y))
        seen = jnp.asarray(there, f.dtype), tree.cast_like(slopes, state.grad), step.evaluations + jnp.where(sound, 1, 2)
        return updates, AcceleratedState(*seen, jnp.where(moved, step.h, 0), x, lowest, trial, theta)

    def eval_params(state, params):
        return state.x

    return init, update, eval_params
