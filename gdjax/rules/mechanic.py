"""Mechanic: a learning rate tuner around any rule."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.averaging import widened
from gdjax.parts.distance import hypotenuse, over
from gdjax.rule import argument_of, as_rule, rule as rule_of
from gdjax.schedules import value_at
from gdjax.typing import Number, Params, RuleState, Updates

BETAS = tuple(1 - 0.1**power for power in range(1, 7))  # the memories, one tuner each: 10 steps, 100, ..., 1,000,000


class MechanicState(NamedTuple):
    """What ``mechanic`` keeps between steps; vectors are of the params' widest dtype, shape (6,), one entry for each memory."""

    inner: RuleState  # of the rule within
    start: Params  # x₀, like params
    offset: Updates  # Δ: the sum of all updates of the rule, like params, float32 at least
    scales: jax.Array  # sᵢ, of which the sum scales Δ
    rewards: jax.Array  # rᵢ
    largest: jax.Array  # mᵢ, the largest |h| remembered
    size: jax.Array  # √vᵢ, the root of the sum of the h² remembered
    step: jax.Array | None  # number of steps taken, int32, shape (); None unless the rule's learning rate is a schedule
    learning_rate: jax.Array  # Σ sᵢ times that of the rule (1 where it has none), at the last step, shape ()


@rule_of
def mechanic(rule, *, first_scale: Any = 1e-6, weight_decay: Number = 0.01):
    """Mechanic: learns by what factor s to multiply the way that another rule has gone, that is its learning rate.

        h = ⟨Δ, g + λ s ‖g‖ x/‖x‖⟩,  s = Σ sᵢ          how the loss changes with s; the second term keeps s in check
        Δ ← Δ + u                                       u the update of the rule
        mᵢ ← max{βᵢ mᵢ, |h|},  vᵢ ← βᵢ² vᵢ + h²,  rᵢ ← [βᵢ rᵢ − sᵢ h]₊        βᵢ = 1 − 10⁻ⁱ, i = 1, ..., 6
        sᵢ ← (s₀ mᵢ/6 + rᵢ)/√vᵢ
        x ← x₀ + (Σ sᵢ) Δ

    Args:
        rule: a rule or optax transformation whose updates do not depend on where it thinks the params are: ``sgd``, ``optax.adamw``, with a schedule or
            without. Its learning rate is a unit of measure, 1 or whatever is at hand.
        first_scale: s₀ > 0, a number, shape (): the scale of the first step, below which s hardly falls: far below any that is right.
        weight_decay: λ ≥ 0, a number, shape (). It swamps the gradient where s comes near 1/λ: give the rule a learning rate that is rather too large,
            or λ = 0.

    Returns:
        Rule: ``update`` needs the params. A step at which the gradient is not finite is left out. It differs from ``optax.contrib.mechanize`` in: Δ
        is kept, not recovered from the params, in which s Δ may be lost to rounding; h is not clipped; no ε, so the units of the loss do not matter.

    Raises:
        TypeError: the rule is none.
        ValueError: a number out of its range or NaN; a rule with points of its own (``eval_params``), which a scale would tear apart.

    Guarantee:
        Nothing is proved of this form. With λ = 0 and a rule whose updates are proportional to its learning rate, only the product of that and s₀ matters.
        s is learnt without end: at a constant learning rate the params keep moving around the minimum.

    When to use it: a rule that works, but at an unknown learning rate.

    Example:
        >>> import gdjax
        >>> for learning_rate in (1e-3, 1.0, 1e3):
        ...     result = gdjax.minimize(lambda w: (w - 2.0) ** 2, 5.0, gdjax.mechanic(gdjax.sgd(learning_rate)), max_steps=2000)
        ...     print(f"{result.params:.1f}")
        2.0
        2.0
        2.0

    Reference:
        Cutkosky, Defazio, Mehta, "Mechanic: a learning rate tuner", NeurIPS 2023, arXiv:2306.00144.
    """
    inner = as_rule(rule, "mechanic: rule")
    rate = argument_of(inner, "learning_rate")
    check_number("mechanic", "first_scale", first_scale, low=0, open_low=True, open_high=True, required=True, wanted="a number > 0: type first_scale=1e-6")
    check_number("mechanic", "weight_decay", weight_decay, low=0, required=True, wanted="a number ≥ 0: type weight_decay=0.01, or 0.0 for none")
    if inner.eval_params is not None:
        raise ValueError(f"mechanic: {inner} takes gradients away from the point it reports; wanted a rule that does not: type mechanic(gdjax.sgd(1.0)).")

    def init(params, **offered):
        zeros = jnp.zeros(len(BETAS), tree.dtype_of(params))
        scales = zeros + jnp.asarray(first_scale, zeros.dtype) / len(BETAS)
        start, step = tree.copy(params), jnp.int32(0) if callable(rate) else None
        inside, offset = inner.init(params, **offered), tree.zeros_like(widened(params))
        return MechanicState(inside, start, offset, scales, zeros, zeros, zeros, step, zeros[0])

    def tuned(state, h):
        """(scales, rewards, largest, size) after the loss has changed by h."""
        betas, h = jnp.asarray(BETAS, h.dtype), jnp.broadcast_to(h, state.scales.shape)
        largest, size = jnp.maximum(betas * state.largest, jnp.abs(h)), hypotenuse(betas * state.size, h)
        rewards = jnp.maximum(betas * state.rewards - state.scales * h, 0)
        scales = jnp.where(size > 0, over(first_scale / len(BETAS) * largest + rewards, size), state.scales)
        return [x.astype(state.scales.dtype) for x in (scales, rewards, largest, size)]

    def update(grads, state, params=None, **extra):
        check_offered("mechanic", params=params)
        step, inside = inner.update(grads, state.inner, params, **extra)
        norm, s = tree.norm(grads), jnp.sum(state.scales)
        pull = weight_decay * s * norm * over(tree.vdot(state.offset, params), tree.norm(params))
        h = tree.vdot(state.offset, grads) + pull
        offset = tree.add(state.offset, step)
        numbers = tuned(state, h)
        # Towards the point anew in every step, so that roundings of the params do not add up.
        scale = jnp.sum(numbers[0])
        back = tree.map(lambda x, x0, way: (x0 - x).astype(way.dtype) + scale.astype(way.dtype) * way, params, state.start, offset)
        updates = tree.cast_like(back, params)
        unit = 1 if rate is None else value_at(rate, state.step)
        count = None if state.step is None else jnp.asarray(optax.safe_increment(state.step))
        learnt = (jnp.sum(numbers[0]) * unit).astype(state.scales.dtype)
        new = MechanicState(inside, state.start, offset, *numbers, step=count, learning_rate=learnt)
        sound = jnp.isfinite(norm) & tree.all_finite(step)
        return tree.where(sound, updates, tree.zeros_like(updates)), tree.where(sound, new, state)

    return init, update
