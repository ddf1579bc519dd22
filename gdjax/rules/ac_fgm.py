"""The auto-conditioned fast gradient method."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.first_step import check_first_learning_rate, search
from gdjax.rule import rule
from gdjax.typing import Grads, Number, Params, Updates

BETA = 1 - 6**0.5 / 3  # 0.184: the largest for which the proof lets η grow by 4/3 = 2(1 − β)²
ROUNDING = 32  # units in the last place of f below which a difference of losses says nothing


class ACFGMState(NamedTuple):
    """What ``ac_fgm`` keeps between steps; scalars without a dtype are of the params' widest one."""

    step: jax.Array  # number of steps taken, int32, shape ()
    evaluations: jax.Array  # made by the search for the first learning rate, int32, shape ()
    learning_rate: jax.Array  # η of the last step, shape ()
    tau: jax.Array  # τ of the last step, shape ()
    last_tau: jax.Array  # τ of the step before it, shape ()
    last_value: jax.Array  # f at the point before, shape ()
    last_grads: Grads  # g there, like params
    last_updates: Updates  # the last step, like params
    centre: Params  # y, like params


@rule
def ac_fgm(first_learning_rate=None, *, alpha: Number = 0.1):
    """The auto-conditioned fast gradient method (AC-FGM): accelerated, without a line search and without a constant to know.

        z ← y − η g,  y ← (1 − β) y + β z,  x ← (z + τ x)/(1 + τ)
        ℓ = ‖g − g₋‖²/(2[f₋ − f − ⟨g, x₋ − x⟩])
        η = min{4/3 η₋, (1 + τ₋₋)/τ₋ η₋, τ₋/(4ℓ)},  τ = τ₋ + α/2 + 2(1 − α) η ℓ/τ₋,  β = 1 − √6/3
        first step: x ← x − η₁ g, τ = 0;  second: ℓ = ‖g − g₋‖/‖x − x₋‖, η = min{(1 − β) η₁, 1/(4ℓ)}, τ = 1

    Where the difference of losses in ℓ is lost in rounding, half of ⟨g − g₋, x − x₋⟩ stands for it, which is the same on a quadratic.

    Args:
        first_learning_rate: η₁ > 0, a number, shape (), at most 0.4/L. None: found by a few evaluations in the first update, with 0.2 ≤ η₁ℓ ≤ 0.4.
        alpha: α in [0, 1], a number, shape (): 0 lets τ follow the curvature met, 1 makes it k/2 in step k. 0.1 is the authors' choice.

    Returns:
        Rule: ``update`` needs the params and ``value``, and without a first learning rate ``value_and_grad_fn``.

    Raises:
        ValueError: a number out of its range; ``update`` without what it needs.

    Guarantee:
        Convex, R = ‖x₀ − x⋆‖:  f(x_k) − f⋆ ≤ R²/(2β (1 + τ_k) η_{k+1}), all known at the next step but R. L-smooth, α > 0: this is O(L R²/k²), the
        best of orders. Measured at α = 0.1 on Huber functions, quadratics and Nesterov's worst function: never above 12 L R²/(k (k + 1)).

    When to use it: badly conditioned convex losses of unknown curvature, with a proof; not strongly convex ones, of which it makes no use.

    Example:
        >>> import gdjax, jax
        >>> rule, w, loss = gdjax.ac_fgm(0.1), 5.0, lambda w: (w - 2.0) ** 2
        >>> state = rule.init(w)
        >>> for step in range(20):
        ...     value, grads = jax.value_and_grad(loss)(w)
        ...     updates, state = rule.update(grads, state, w, value=value)
        ...     w = w + updates
        >>> print(f"{w:.3f}")
        2.164

    Reference:
        Li, Lan, "A simple uniformly optimal method without line search for convex optimization", Math. Program., 2025, arXiv:2310.10082.
    """
    check_first_learning_rate("ac_fgm", first_learning_rate)
    check_number("ac_fgm", "alpha", alpha, low=0, high=1, required=True, wanted="0 ≤ alpha ≤ 1: type alpha=0.1")

    def init(params):
        zero, zeros = jnp.zeros((), tree.dtype_of(params)), tree.zeros_like(params)
        return ACFGMState(jnp.int32(0), jnp.int32(0), zero, zero, zero, zero, zeros, zeros, tree.copy(params))

    def update(grads, state, params=None, *, value=None, value_and_grad_fn=None, **extra):
        check_offered("ac_fgm", params=params, value=value, value_and_grad_fn=value_and_grad_fn or first_learning_rate)
        eta, count = first_learning_rate, 0
        if eta is None:
            eta, count = search(value_and_grad_fn, params, grads, 0.2, 0.4, state.step == 0)
        eta, tau = paced(jnp.asarray(eta, state.tau.dtype), curvature(grads, value, state), state)
        updates = tree.scale(1 / (1 + tau), tree.subtract(tree.add_scaled(state.centre, -eta, grads), params))
        y = tree.add_scaled(state.centre, jnp.where(state.step == 0, 0, -BETA * eta), grads)
        kept = (eta, tau, state.tau, jnp.asarray(value, tau.dtype), grads, updates, y)
        return updates, ACFGMState(jnp.asarray(optax.safe_increment(state.step)), state.evaluations + count, *kept)

    def curvature(grads, value, state):
        """ℓ times the last learning rate, which is free of units; 0 where there is none."""
        f, change = jnp.asarray(value, state.last_value.dtype), tree.subtract(grads, state.last_grads)
        bent, length = tree.norm(change), tree.norm(state.last_updates)
        some = (bent > 0) & (length > 0)
        bent, length = jnp.where(some, bent, 1), jnp.where(some, length, 1)
        gap = state.last_value - f + tree.vdot(grads, state.last_updates)
        noise = ROUNDING * float(jnp.finfo(jnp.result_type(value)).eps) * (jnp.abs(f) + jnp.abs(state.last_value))
        cosine = tree.vdot(tree.scale(1 / bent, change), tree.scale(1 / length, state.last_updates))
        share = jnp.where(state.step == 1, 1, jnp.where(gap > noise, 2 * gap / bent / length, cosine))
        return jnp.where(some & (share > 0), state.learning_rate * (bent / length) / jnp.where(share > 0, share, 1), 0)

    def paced(first, bend, state):
        """(η, τ) of this step."""
        last_tau = jnp.maximum(state.tau, 1)
        growth = jnp.where(state.step == 1, 1 - BETA, jnp.minimum(4 / 3, (1 + state.last_tau) / last_tau))
        growth = jnp.where(bend > 0, jnp.minimum(growth, last_tau / (4 * jnp.where(bend > 0, bend, 1))), growth)
        eta = jnp.where(state.step == 0, first, growth * state.learning_rate)
        tau = state.tau + alpha / 2 + 2 * (1 - alpha) * growth * bend / last_tau
        return eta, jnp.where(state.step < 2, state.step.astype(state.tau.dtype), tau).astype(state.tau.dtype)

    return init, update
