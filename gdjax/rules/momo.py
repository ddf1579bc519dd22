"""MoMo: momentum and a Polyak step from one model."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.value_steps import check_lower_bound, over_square
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Number, Params, Scheduled

MARGIN = 0.01  # an estimate that leaves the model less than this share of its height is given up: steps would die out away from the minimum


class MomoState(NamedTuple):
    """What ``momo`` keeps between steps; scalars of the params' widest dtype, shape ()."""

    step: jax.Array  # number of steps taken, int32, shape ()
    learning_rate: jax.Array  # τ of the last step; 0 at the start
    direction: Params  # d, the mean of the gradients, like params
    value: jax.Array  # F, the same mean of the losses
    product: jax.Array  # p, the same mean of ⟨g, x⟩
    lower_bound: jax.Array | None  # the estimate of l; None where it is given


@rule
def momo(learning_rate: Scheduled = 1.0, *, momentum: Number = 0.9, lower_bound: Number | None = 0.0, weight_decay=None):
    """Momentum with the step of a model: the mean of all tangents so far, cut off at a lower bound of the loss.

        d ← μ d + (1 − μ) g,  F ← μ F + (1 − μ) f,  p ← μ p + (1 − μ)⟨g, x⟩      d = g, F = f, p = ⟨g, x⟩ at the first step
        x ← argmin over y of max{F − p + ⟨d, y⟩, l} + ‖y − x‖²/(2h) + λ‖y‖²/2
          = (x − τ d)/(1 + hλ),  τ = min{h, [(1 + hλ)(F − p − l) + ⟨d, x⟩]₊/‖d‖²}

    With ``lower_bound=None`` it is estimated, from 0 and never below it: l ← F − p + ⟨d, x⟩ − τ‖d‖²/2 after each step; and where before one the height of
    the model at the params is not above l by a hundredth, half this height in place of l.

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (); the longest step, in units of params² per unit of loss. 1 by Schaipp et al.
        momentum: μ in [0, 1), a number, shape ().
        lower_bound: l, a number, shape (), in units of the loss; τ = 0 where the model is not above it. None: estimated, for losses ≥ 0 whose minimum is not.
        weight_decay: λ ≥ 0, a number, shape (): adds λ‖x‖²/2 to the loss, not to the values that l bounds.

    Returns:
        Rule: ``update`` needs the params and ``value``. Differs from the authors' code in: the hundredth, without which an estimate may end the run.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without what it needs.

    Guarantee:
        Convex losses of batches, one x⋆ with f = l for all, no weight decay:  ‖x₊ − x⋆‖² ≤ ‖x − x⋆‖² − τ[F − p + ⟨d, x⟩ − l]₊, so no step leads away
        from x⋆, for any h and μ. With μ = 0 it is the Polyak step up to h: over N steps the mean of f − l is at most R²/(N min{1/(2L), h}) for L-smooth
        losses, R = ‖x₀ − x⋆‖. For an estimated l no rate is claimed.

    When to use it: as ``sgd`` with momentum, with a learning rate that may be far too large, on losses whose least value is about known.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> rule, w, loss = gdjax.momo(), jnp.array([1.0, 2.0, 3.0]), lambda w: jnp.sum(w**2)
        >>> state = rule.init(w)
        >>> for step in range(4):
        ...     value, grads = jax.value_and_grad(loss)(w)
        ...     updates, state = rule.update(grads, state, w, value=value)
        ...     w = w + updates
        ...     print(f"{loss(w):.2f}")
        3.50
        3.32
        3.14
        2.97

    Reference:
        Schaipp, Ohana, Eickenberg, Defazio, Gower, "MoMo: momentum models for adaptive learning rates", ICML 2024, arXiv:2305.07583.
    """
    check_learning_rate("momo", learning_rate)
    check_number("momo", "momentum", momentum, low=0, high=1, open_high=True, required=True, wanted="0 ≤ momentum < 1: type momo(momentum=0.9)")
    check_lower_bound("momo", lower_bound, required=False)
    check_number("momo", "weight_decay", weight_decay, low=0, open_high=True, wanted="a number ≥ 0 or None: type momo(weight_decay=1e-4)")

    def init(params):
        zero = jnp.zeros((), tree.dtype_of(params))
        return MomoState(jnp.zeros((), jnp.int32), zero, tree.zeros_like(params), zero, zero, zero if lower_bound is None else None)

    def mean(state, params, f, grads):
        """(d, F, p) with this batch."""
        keep = jnp.where(state.step == 0, 0, momentum)
        direction = tree.add_scaled(tree.scale(1 - keep, grads), keep, state.direction)
        product = keep * state.product + (1 - keep) * tree.vdot(grads, params)
        return direction, (keep * state.value + (1 - keep) * f).astype(f.dtype), product.astype(f.dtype)

    def update(grads, state, params=None, *, value=None, **extra):
        check_offered("momo", params=params, value=value)
        f, h = jnp.asarray(value, state.value.dtype), value_at(learning_rate, state.step)
        d, F, p = mean(state, params, f, grads)
        decay = 1 if weight_decay is None else 1 + h * weight_decay
        inner, norm = tree.vdot(d, params), tree.norm(d)
        bound = lower_bound
        if lower_bound is None:
            height = F - p + inner / decay  # of the model, at x/(1 + hλ)
            bound = jnp.where(height - state.lower_bound < MARGIN * jnp.abs(height), jnp.maximum(height / 2, 0), state.lower_bound)
        sound = jnp.isfinite(f) & jnp.isfinite(norm)
        tau = jnp.minimum(h, over_square(decay * (F - p - bound) + inner, jnp.where(sound, norm, 0))).astype(f.dtype)
        updates = tree.scale(-tau / decay, d)
        updates = updates if weight_decay is None else tree.add_scaled(updates, -h * weight_decay / decay, params)
        bound = None if lower_bound is not None else jnp.maximum(F - p + inner - tau * norm * norm / 2, 0).astype(f.dtype)
        new = MomoState(jnp.asarray(optax.safe_increment(state.step)), tau, d, F, p, bound)
        return updates, tree.where(sound, new, state)

    return init, update
