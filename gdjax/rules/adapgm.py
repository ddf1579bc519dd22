"""The adaptive (proximal) gradient method, without its proximal part."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdjax import tree
from gdjax.arguments import check_number, is_concrete
from gdjax.parts.first_step import bend, check_first_learning_rate, pace, probe, search
from gdjax.rule import rule
from gdjax.typing import Grads, Number


class AdaPGMState(NamedTuple):
    """What ``adapgm`` keeps between steps."""

    step: jax.Array  # number of steps taken, int32, shape ()
    evaluations: jax.Array  # made by the search for the first learning rate, int32, shape ()
    learning_rate: jax.Array  # a of the last step, shape (), of the params' widest dtype
    ratio: jax.Array  # θ, that learning rate over the one before it, likewise
    last_grads: Grads  # g₋, at the point before, like params


FIRST_RATIO = 1.0  # θ₀, as if the step before had been as long


@rule
def adapgm(first_learning_rate=None, *, q: Number = 5 / 3, r: Number = 5 / 6):
    """The adaptive gradient method AdaPG(q, r): learning rates from two curvatures just met, without a line search and without a constant to know.

        x ← x − a g
        ℓ = ⟨g − g₋, x − x₋⟩/‖x − x₋‖²,  c = ‖g − g₋‖²/⟨g − g₋, x − x₋⟩,  θ = a₋/a₋₋
        a = a₋ min{√(1/q + θ), √((1 − r/q)/[1 − 2r + a₋ℓ (a₋c + 2(r − 1))]₊)}

    Args:
        first_learning_rate: a₀ > 0, a number, shape (); in units of params² per unit of loss. None: found in the first update by 1 to 5
            evaluations, such that the gradient turns by 1/2 to 3/2 of its length on the first step; without ``value_and_grad_fn`` the first step is
            one of √ε ‖x‖ to measure the curvature on, and one over it follows.
        q: a number > r, shape (): the larger, the slower the growth. (q, r) = (5/3, 5/6) is the authors' choice; (1, 1/2) is AdaPGM of 2023 with
            curvature steps √2 times as long; (3/2, 3/4) is ``adgd`` with ℓ put to use, so a step from the same past is as long or longer.
        r: a number in [1/2, 1], shape (): the larger, the less ℓ counts.

    Returns:
        Rule: without a first learning rate ``update`` needs the params, and takes ``value_and_grad_fn`` where it is offered.

    Raises:
        ValueError: a first learning rate that is not positive; q or r out of their ranges.

    Guarantee:
        Convex with a minimum x⋆, R = ‖x₀ − x⋆‖. What never grows from step to step, without any further assumption:
        ‖x_k − x⋆‖² + (q/r − 1)‖x_k − x_{k−1}‖² + 2a_{k−1}(1 + qθ_{k−1})(f(x_{k−1}) − f⋆). Hence, with θ₀ = 1,
        min over i ≤ k of f(x_i) − f⋆ ≤ (R² + (q/r)a₀²‖g₀‖² + 2qa₀(f(x₀) − f⋆))/(2(a₁ + ... + a_k)).
        L-smooth, a₀ large enough: every a_k ≥ √((1 − r/q) min{1, 1/q})/L, 0.55/L as it comes: O(L R²/k). Locally strongly convex: linear.

    When to use it: as ``adgd``, for a little less steps on most losses.

    Example:
        >>> import gdjax, jax
        >>> rule, w = gdjax.adapgm(0.1), 5.0
        >>> state = rule.init(w)
        >>> for step in range(3):
        ...     updates, state = rule.update(jax.grad(lambda w: (w - 2.0) ** 2)(w), state)
        ...     w = w + updates
        ...     print(f"{w:.3f}")
        4.400
        3.793
        3.173

    Reference:
        Latafat, Themelis, Stella, Patrinos, "Adaptive proximal algorithms for convex optimization under local Lipschitz continuity of the gradient",
        Math. Program. 213, 2025, arXiv:2301.04431 (AdaPGM).
        Oikonomidis, Laude, Latafat, Themelis, Patrinos, "Adaptive proximal gradient methods are universal without approximation", ICML 2024,
        arXiv:2402.06271 (the family; convergence for locally Hölder continuous gradients too).
    """
    check_first_learning_rate("adapgm", first_learning_rate)
    check_number("adapgm", "r", r, low=0.5, high=1, required=True, wanted="1/2 ≤ r ≤ 1: type r=5/6")
    check_number("adapgm", "q", q, low=0, required=True, wanted="q > r: type q=5/3")
    if is_concrete(q) and is_concrete(r) and not np.all(np.asarray(q) > np.asarray(r)):
        raise ValueError(f"adapgm: q is {q} with r = {r}; wanted q > r: type q=5/3, r=5/6.")

    def init(params):
        zero = jnp.zeros((), tree.dtype_of(params))
        return AdaPGMState(jnp.int32(0), jnp.int32(0), zero, zero + FIRST_RATIO, tree.zeros_like(params))

    def update(grads, state, params=None, *, value_and_grad_fn=None, **extra):
        probing = first_learning_rate is None and value_and_grad_fn is None
        first, evaluations = first_learning_rate, state.evaluations
        if first is None and params is None:
            raise ValueError("adapgm: update got params=None; wanted the params: type rule.update(grads, state, params), or adapgm(0.1).")
        if probing:
            first = probe(params, grads)
        elif first is None:
            first, count = search(value_and_grad_fn, params, grads, 0.5, 1.5, state.step == 0)
            evaluations = evaluations + count
        met = bend(grads, state.last_grads)
        a, ratio = pace(first, factor(met, state.ratio), met, state, FIRST_RATIO, probing)
        return tree.scale(-a, grads), AdaPGMState(jnp.asarray(optax.safe_increment(state.step)), evaluations, a, ratio, grads)

    def factor(met, ratio):
        growth = jnp.sqrt(1 / q + ratio)
        bound = 1 - 2 * r + met.rho**2 + 2 * (r - 1) * met.sigma  # a₋ℓ = σ and a₋ℓ a₋c = ρ²
        bends = bound > 0
        return jnp.where(bends, jnp.minimum(growth, jnp.sqrt((1 - r / q) / jnp.where(bends, bound, 1))), growth)

    return init, update
