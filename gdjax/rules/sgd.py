"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Params


class SGDState(NamedTuple):
    """What ``sgd`` keeps between steps."""

    step: jax.Array | None  # number of steps taken, int32, shape (); None without a schedule or dampening
    velocity: Params | None  # v, like params; None without momentum


@rule
def sgd(learning_rate, momentum=None, *, dampening=None, weight_decay=None, nesterov=False, maximize=False, ema=False):
    """Stochastic gradient descent with momentum: the steps of ``torch.optim.SGD``, one for one.

        g ← g + λ x              with weight decay; −g first, to maximize
        v ← μ v + (1 − τ) g      with momentum; v = g at the first step, and where μ = 0
        x ← x − h d              d = v,  or g + μ v with Nesterov momentum,  or g without momentum

    With ``ema`` v is a moving average instead, from 0:  v ← μ v + (1 − μ) g,  d = v or (1 − μ) g + μ v.

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (). Momentum makes steps 1/(1 − μ) times as long: rescale h by 1 − μ when adding it.
        momentum: μ in [0, 1), a number or a schedule, shape (). None keeps no velocity.
        dampening: τ in [0, 1], a number or a schedule, shape (): the share of g kept out of v; τ = μ makes v a mean. Needs momentum.
        weight_decay: λ ≥ 0, a number or a schedule, shape (): adds λ‖x‖²/2 to the loss. ``update`` then needs the params.
        nesterov: bool; a look ahead along v. Needs momentum, forbids dampening.
        maximize: bool; uphill.
        ema: bool; the average as velocity, whose steps are 1 − μ times as long: momentum may be added, or its schedule changed, at the same learning rate.
            Needs momentum, forbids dampening, whose first step is g.

    Returns:
        Rule: without dampening equal to ``optax.sgd(h, μ, nesterov)`` after ``optax.add_decayed_weights(λ)``; with ``ema`` not PyTorch's.

    Raises:
        ValueError: a number is out of its range or NaN; dampening, nesterov or ema without momentum; dampening with one of these.

    Guarantee:
        On quadratics with curvatures in [m, L], m > 0: it converges if and only if 0 < h < 2(1 + μ)/L, with Nesterov momentum 2(1 + μ)/((1 + 2μ)L).
        At h = (2/(√L + √m))², μ = ((√κ − 1)/(√κ + 1))², κ = L/m, the error shrinks in the limit by √μ a step, the best of all first-order methods;
        on other smooth and strongly convex functions this choice may cycle.
        Stochastic, L-smooth, no momentum, h ≤ 1/L, gradients of variance at most σ²:  the mean over N steps of E‖∇f‖² ≤ 2(f(x₀) − f⋆)/(hN) + hLσ².

    When to use it: gradients of batches, with a learning rate that decays. For full batches ``nesterov``, ``heavy_ball`` and others set μ by theory.

    Example:
        >>> import gdjax, jax
        >>> rule, w = gdjax.sgd(0.1, momentum=0.5), 5.0
        >>> state = rule.init(w)
        >>> for step in range(3):
        ...     updates, state = rule.update(jax.grad(lambda w: (w - 2.0) ** 2)(w), state)
        ...     w = w + updates
        ...     print(f"{w:.3f}")
        4.400
        3.620
        2.906

    Reference:
        Robbins, Monro, "A stochastic approximation method", Ann. Math. Stat. 22, 1951.
        Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Comput. Math. Math. Phys. 4, 1964.
        Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013 (this Nesterov form).
    """
    check_learning_rate("sgd", learning_rate)
    check_number("sgd", "momentum", momentum, low=0, high=1, open_high=True, wanted="0 ≤ momentum < 1: type momentum=0.9, or leave it out")
    check_number("sgd", "dampening", dampening, low=0, high=1, wanted="0 ≤ dampening ≤ 1: type dampening=0.1, or leave it out")
    check_number("sgd", "weight_decay", weight_decay, low=0, wanted="weight_decay ≥ 0: type weight_decay=1e-4, or leave it out")
    flag = "nesterov=True" if nesterov else "ema=True" if ema else None
    if momentum is None and (flag or dampening is not None):
        raise ValueError(f"sgd: momentum is None with {flag or f'dampening={dampening}'}; wanted a momentum: type momentum=0.9.")
    if flag and dampening is not None:
        raise ValueError(f"sgd: dampening is {dampening} with {flag}; wanted one of the two: leave dampening out.")
    counts = dampening is not None or any(map(callable, (learning_rate, momentum, weight_decay)))

    def init(params):
        step = jnp.zeros((), jnp.int32) if counts else None
        return SGDState(step, velocity=None if momentum is None else tree.zeros_like(params))

    def accelerate(velocity, grads, step):
        mu = value_at(momentum, step)
        if ema:
            return tree.add_scaled(tree.scale(1 - mu, grads), mu, velocity)
        if dampening is None:
            return tree.add_scaled(grads, mu, velocity)
        share = jnp.where((step == 0) | (mu == 0), 1, 1 - value_at(dampening, step))
        return tree.add_scaled(tree.scale(share, grads), mu, velocity)

    def update(grads, state, params=None, **extra):
        if weight_decay is not None and params is None:
            raise ValueError("sgd: update got params=None; weight_decay wants the params: type rule.update(grads, state, params).")
        step, direction = state.step, tree.scale(-1, grads) if maximize else grads
        if weight_decay is not None:
            direction = tree.add_scaled(direction, value_at(weight_decay, step), params)
        velocity = None if momentum is None else accelerate(state.velocity, direction, step)
        if momentum is not None:
            mu = value_at(momentum, step)
            ahead = tree.scale(1 - mu, direction) if ema else direction
            direction = tree.add_scaled(ahead, mu, velocity) if nesterov else velocity
        return tree.scale(-value_at(learning_rate, step), direction), SGDState(None if step is None else jnp.asarray(optax.safe_increment(step)), velocity)

    return init, update
