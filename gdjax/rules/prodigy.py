"""Prodigy: Adam that learns the distance to the minimum."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.averaging import widened
from gdjax.parts.distance import check_betas, check_estimate, first_unit, grown, over, root, smallest_move
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Number, Params, Scheduled


class ProdigyState(NamedTuple):
    """What ``prodigy`` keeps between steps; trees are like params, float32 at least, scalars of the params' widest dtype, shape ()."""

    step: jax.Array  # number of steps taken, int32, shape ()
    start: Params  # x₀, like params
    mean: Params  # m, of d g
    squares: Params  # v, of (d g)²
    sum: Params  # s, of w g
    products: jax.Array  # p, of w ⟨g, x₀ − x⟩
    first_distance: jax.Array  # d₀
    distance: jax.Array  # d
    largest: jax.Array  # the largest estimate of the distance so far, which a growth rate holds d below
    learning_rate: jax.Array  # a of the last step
    unit: jax.Array  # what gradients are divided by; 0 before one that is not 0


@rule
def prodigy(
    learning_rate: Scheduled = 1.0, betas: tuple[Number, ...] = (0.9, 0.999), beta3=None, *, eps: Number = 1e-8, weight_decay=None, bias_correction=False,
    safeguard_warmup=False, first_distance: Number = 1e-6, coefficient: Number = 1.0, growth_rate=None,
):  # fmt: skip
    """Prodigy: AdamW whose learning rate is a lower estimate of the largest change that an entry of the params has to make.

        a = d h                                          times √(1 − β₂ᵗ)/(1 − β₁ᵗ) with bias correction, t = 1, 2, ...
        w = d a/d₀                                       the weight of this gradient
        p ← β₃ p + w ⟨g, x₀ − x⟩
        m ← β₁ m + (1 − β₁) d g,  v ← β₂ v + (1 − β₂)(d g)²
        s ← β₃ s + w g                                   with safeguard_warmup d²/d₀ in place of w
        d ← max{d, c p/‖s‖₁}                             growing by at most ρ a step
        x ← x − a m/(√v + d ε) − a λ x

    Args:
        learning_rate: h ≥ 0, a number or a schedule of height 1, shape (), of no units.
        betas: β₁, β₂ in [0, 1), two numbers, shape ().
        beta3: β₃ in [0, 1), a number, shape (). None: √β₂.
        eps: ε ≥ 0, a number, shape (), in the units of the gradient.
        weight_decay: λ ≥ 0, a number, shape (): decoupled, as in AdamW. None: 0.
        bias_correction: bool; Adam's, off as its authors have it, always on in optax. It makes first steps 3.2 times shorter: for losses with exp of params.
        safeguard_warmup: bool; for schedules that start near 0, which would spoil the weights of s.
        first_distance: d₀ > 0, a number, shape (), in units of params, far below the distance to the minimum. Below the mean of ε|x₀|, ε that of the params'
            precision (2⁻⁷ in bfloat16), steps are lost in rounding and d never grows: then d₀ is this mean.
        coefficient: c > 0, a number, shape (); its authors tune this one, between 0.5 and 2, if any.
        growth_rate: ρ ≥ 1, a number, shape (). None: unlimited; 1.02 warms up.

    Returns:
        Rule: ``update`` needs the params. The steps of konstmish/prodigy; with bias correction of ``optax.contrib.prodigy``. Gradients not finite are left out.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without params.

    Guarantee:
        Convex with a minimum x⋆ (of each batch, if there are several), no safeguard:  d ≤ max{d₀, c ‖x₀ − x⋆‖_∞} at every step, whatever the steps were.
        For the loss nothing is proved of this form; of the one without moments, f(x̄) − f⋆ is of the order of G ‖x₀ − x⋆‖ √(ln(‖x₀ − x⋆‖/d₀)/N).
        float32 has room for (d g)² while entries of g are between 10⁻¹⁷/d₀ and 10¹⁸/max{1, d}, in units of the first if beyond 10⁻¹² to 10¹².

    When to use it: deep nets that Adam trains, without tuning, best with a cosine schedule of height 1.

    Example:
        >>> import gdjax
        >>> result = gdjax.minimize(lambda w: (w - 2.0) ** 2, 5.0, gdjax.prodigy())
        >>> print(f"{result.params:.2f}")
        2.00

    Reference:
        Mishchenko, Defazio, "Prodigy: an expeditiously adaptive parameter-free learner", ICML 2024, arXiv:2306.06101.
    """
    check_learning_rate("prodigy", learning_rate)
    check_estimate("prodigy", first_distance, coefficient, growth_rate, weight_decay)
    check_number("prodigy", "eps", eps, low=0, required=True, wanted="a number ≥ 0: type eps=1e-8")
    beta1, beta2 = check_betas("prodigy", betas, "two", (0.9, 0.999))
    check_number("prodigy", "beta3", beta3, low=0, high=1, open_high=True, wanted="a number β₃, 0 ≤ β₃ < 1, or None: type beta3=0.999, or leave it out")

    def init(params):
        zero, zeros = jnp.zeros((), tree.dtype_of(params)), tree.zeros_like(widened(params))
        d = jnp.maximum(jnp.asarray(first_distance, zero.dtype), smallest_move(params))
        return ProdigyState(jnp.int32(0), tree.copy(params), zeros, zeros, zeros, zero, d, d, d, zero, zero)

    def rate_at(step, dtype):
        t = (step + 1).astype(dtype)
        return jnp.asarray(value_at(learning_rate, step), dtype) * (jnp.sqrt(1 - beta2**t) / (1 - beta1**t) if bias_correction else 1)

    def update(grads, state, params=None, **extra):
        check_offered("prodigy", params=params)
        sound, unit, d, b3 = tree.all_finite(grads), first_unit(state.unit, grads), state.distance, jnp.sqrt(beta2) if beta3 is None else beta3
        g = tree.scale(per_unit := over(jnp.ones_like(unit), unit), tree.cast_like(grads, state.mean))
        a, share = (d * rate_at(state.step, d.dtype)).astype(d.dtype), first_distance / state.first_distance  # 1, unless d₀ was raised
        weight = d * a / first_distance * share
        mean = tree.add_scaled(tree.scale(beta1, state.mean), (1 - beta1) * d, g)
        squares = tree.map(lambda v, g: (beta2 * v + (1 - beta2) * (d.astype(g.dtype) * g) ** 2).astype(v.dtype), state.squares, g)
        total = tree.add_scaled(tree.scale(b3, state.sum), d**2 / first_distance * share if safeguard_warmup else weight, g)
        products = (b3 * state.products + weight * tree.vdot(g, tree.subtract(state.start, params))).astype(d.dtype)
        size = sum((jnp.sum(jnp.abs(x)) for x in tree.leaves(total)), jnp.zeros_like(d))  # ‖s‖₁
        largest = jnp.maximum(state.largest, coefficient * over(products, size)).astype(d.dtype)
        distance = grown(d, largest, growth_rate, state.first_distance)
        move = tree.map(lambda m, v: (-a * over(m, root(v) + distance * eps * per_unit)).astype(m.dtype), mean, squares)
        updates = tree.cast_like(move if weight_decay is None else tree.add_scaled(move, -a * weight_decay, params), params)
        kept = state.start, mean, squares, total, products, state.first_distance, distance, largest, a, unit
        new = ProdigyState(jnp.asarray(optax.safe_increment(state.step)), *kept)
        return tree.where(sound, updates, tree.zeros_like(updates)), tree.where(sound, new, state)

    return init, update
