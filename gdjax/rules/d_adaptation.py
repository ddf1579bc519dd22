"""D-Adaptation: SGD that learns the distance to the minimum."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.averaging import widened
from gdjax.parts.distance import check_estimate, over
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Grads, Number, Params, Scheduled


class DAdaptationState(NamedTuple):
    """What ``d_adaptation`` keeps between steps; scalars are of the params' widest dtype, shape ()."""

    step: jax.Array  # number of steps taken, int32, shape ()
    start: Params  # x₀, like params
    sum: Grads  # s = Σ a g, like params, float32 at least
    products: jax.Array  # Σ a ⟨g, s⟩, each with the s before its gradient
    distance: jax.Array  # d
    first_norm: jax.Array  # ‖g₀‖, of the first gradient that is not 0
    learning_rate: jax.Array  # a of the last step


@rule
def d_adaptation(
    learning_rate: Scheduled = 1.0, momentum: Number = 0.9, *, weight_decay=None, first_distance: Number = 1e-6,
    growth_rate=None, coefficient: Number = 2.0,
):  # fmt: skip
    """D-Adaptation: SGD with momentum whose learning rate is a lower estimate of the distance to the minimum over the norm of the first gradient.

        g ← g + λ x                                    with weight decay
        a = d h/‖g₀‖
        p ← p + a ⟨g, s⟩,  s ← s + a g
        d ← max{d, min{c p/‖s‖, ρ d}}                   c = 2
        x ← μ x + (1 − μ)(x₀ − s)

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (), of no units: 1, or a schedule of that height, which helps as ever.
        momentum: μ in [0, 1), a number, shape ().
        weight_decay: λ ≥ 0, a number, shape (): adds λ‖x‖²/2 to the loss. None: 0.
        first_distance: d > 0 at first, a number, shape (), in units of params, far below the distance to the minimum.
        growth_rate: ρ ≥ 1, a number, shape (): the most d may grow by in a step. None: unlimited; 1.02 warms up where training is unstable.
        coefficient: c > 0, a number, shape (): 2 as its authors do, 1 for a d that is proved to be a lower bound.

    Returns:
        Rule: ``update`` needs the params. Without weight decay the steps of DAdaptSGD 3 of facebookresearch/dadaptation, and the same path for any multiple
        of the loss; with it not theirs: here the decay is part of every gradient, in ‖g₀‖ and p too. A step whose gradient is not finite is left out.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without params.

    Guarantee:
        Convex with a minimum x⋆ (of each batch, if there are several), μ = 0:  d ≤ max{first_distance, c ‖x₀ − x⋆‖} at every step. And N steps give, for
        the mean x̄ of the points weighted by their a,  f(x̄) − f⋆ ≤ (‖x₀ − x⋆‖² + Σ a² ‖g‖²)/(2 Σ a).
        As h is constant the loss of a stochastic problem falls to the level of its noise only: decay it.

    When to use it: nets that SGD trains, with the schedule one would use and nothing else to tune; ``prodigy`` where Adam is needed. Not from a start at
    which the gradient is far smaller than it will be, as on a plateau: ‖g₀‖ is the measure of all steps, which are then too long, and it diverges.

    Example:
        >>> import gdjax, jax
        >>> rule, w = gdjax.d_adaptation(momentum=0.0), 5.0
        >>> state = rule.init(w)
        >>> for step in range(40):
        ...     updates, state = rule.update(jax.grad(lambda w: (w - 2.0) ** 2)(w), state, w)
        ...     w = w + updates
        >>> print(f"{w:.2f} {state.distance:.2f}")
        2.00 2.60

    Reference:
        Defazio, Mishchenko, "Learning-rate-free learning by D-Adaptation", ICML 2023, arXiv:2301.07733.
    """
    check_learning_rate("d_adaptation", learning_rate)
    check_estimate("d_adaptation", first_distance, coefficient, growth_rate, weight_decay)
    check_number("d_adaptation", "momentum", momentum, low=0, high=1, open_high=True, required=True, wanted="0 ≤ momentum < 1: type momentum=0.9")

    def init(params):
        zero = jnp.zeros((), tree.dtype_of(params))
        sums = tree.zeros_like(widened(params))
        return DAdaptationState(jnp.int32(0), tree.copy(params), sums, zero, zero + jnp.asarray(first_distance, zero.dtype), zero, zero)

    def update(grads, state, params=None, **extra):
        check_offered("d_adaptation", params=params)
        gradient = tree.cast_like(grads, state.sum)
        if weight_decay is not None:
            gradient = tree.add_scaled(gradient, weight_decay, params)
        norm, d = tree.norm(gradient), state.distance
        first = jnp.where(state.first_norm > 0, state.first_norm, norm)
        a = (d * value_at(learning_rate, state.step) * over(jnp.ones_like(first), first)).astype(d.dtype)
        step = tree.scale(a, gradient)
        products, total = state.products + tree.vdot(step, state.sum), tree.add(state.sum, step)
        estimate = coefficient * over(products, tree.norm(total))
        d = jnp.maximum(d, estimate if growth_rate is None else jnp.minimum(estimate, growth_rate * d)).astype(d.dtype)
        new = DAdaptationState(jnp.asarray(optax.safe_increment(state.step)), state.start, total, products.astype(d.dtype), d, first, a)
        updates = tree.map(lambda x, x0, s: ((1 - momentum) * ((x0 - x).astype(s.dtype) - s)).astype(jnp.result_type(x)), params, state.start, total)
        sound = jnp.isfinite(norm) & jnp.isfinite(d)
        return tree.where(sound, updates, tree.zeros_like(updates)), tree.where(sound, new, state)

    return init, update
