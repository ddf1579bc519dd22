"""Adaptive gradient descent without descent."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import is_word, short
from gdjax.parts.first_step import bend, check_first_learning_rate, pace, probe, search
from gdjax.rule import rule
from gdjax.typing import Grads


class AdGDState(NamedTuple):
    """What ``adgd`` keeps between steps."""

    step: jax.Array  # number of steps taken, int32, shape ()
    evaluations: jax.Array  # made by the search for the first learning rate, int32, shape ()
    learning_rate: jax.Array  # a of the last step, shape (), of the params' widest dtype
    ratio: jax.Array  # θ, that learning rate over the one before it, likewise
    last_grads: Grads  # g₋, at the point before, like params


GROWTH = {"adgd": 1.0, "adgd1": 1.0, "adgd2": 1.5}  # q: θ² ≤ 1/q + θ₋
REACH = {"adgd": 2.0, "adgd1": 2**0.5, "adgd2": 2**0.5}  # what multiplies the curvature
FIRST_RATIO = {"adgd": 1e20, "adgd1": 1 / 3, "adgd2": 1 / 3}  # θ₀; "adgd" takes its second step freely: as good as infinite


@rule
def adgd(first_learning_rate=None, *, variant: Literal["adgd2", "adgd1", "adgd"] = "adgd2"):
    """Adaptive gradient descent (AdGD): learning rates from the curvature just met, without a line search and without a constant to know.

        x ← x − a g
        ℓ = ‖g − g₋‖/‖x − x₋‖,  θ = a₋/a₋₋
        a = min{√(2/3 + θ) a₋, a₋/√[2a₋²ℓ² − 1]₊}       "adgd2", Algorithm 2 of 2023; θ₀ = 1/3
        a = min{√(1 + θ) a₋, 1/(√2 ℓ)}                  "adgd1", Algorithm 1 of 2023; θ₀ = 1/3
        a = min{√(1 + θ) a₋, 1/(2ℓ)}                    "adgd", of 2020; θ₀ = ∞

    Args:
        first_learning_rate: a₀ > 0, a number, shape (); in units of params² per unit of loss. None: found in the first update by 1 to 5
            evaluations, such that 1/2 ≤ a₀ℓ ≤ 3/2 on the first step; without ``value_and_grad_fn`` the first step is one of √ε ‖x‖ to measure ℓ
            on, and a₀ = 1/ℓ follows it.
        variant: str, "adgd2", "adgd1" or "adgd"; they take ever smaller steps.

    Returns:
        Rule: without a first learning rate ``update`` needs the params, and takes ``value_and_grad_fn`` where it is offered.

    Raises:
        ValueError: a first learning rate that is not positive; an unknown variant.

    Guarantee:
        Convex with a minimum x⋆, R = ‖x₀ − x⋆‖; q = 3/2 for "adgd2", else 1. What never grows from step to step, without any further assumption:
        ‖x_k − x⋆‖² + ‖x_k − x_{k−1}‖² + 2a_{k−1}(1 + qθ_{k−1})(f(x_{k−1}) − f⋆). Hence
        min over i ≤ k of f(x_i) − f⋆ ≤ (R² + 2a₀²‖g₀‖² + 2qθ₀a₀(f(x₀) − f⋆))/(2(a₁ + ... + a_k)).
        L-smooth, a₀ large enough: every a_k ≥ 1/(√3 L), "adgd1" 1/(√2 L), "adgd" 1/(2L): O(L R²/k). Locally strongly convex: linear.

    When to use it: convex losses of unknown or unbounded curvature, with a proof; ``barzilai_borwein`` and ``reduced_hessian`` are faster in practice.

    Example:
        >>> import gdjax, jax
        >>> rule, w = gdjax.adgd(0.1), 5.0
        >>> state = rule.init(w)
        >>> for step in range(3):
        ...     updates, state = rule.update(jax.grad(lambda w: (w - 2.0) ** 2)(w), state)
        ...     w = w + updates
        ...     print(f"{w:.3f}")
        4.400
        3.920
        3.424

    Reference:
        Malitsky, Mishchenko, "Adaptive gradient descent without descent", ICML 2020, arXiv:1910.09529.
        Malitsky, Mishchenko, "Adaptive proximal gradient method for convex optimization", arXiv:2308.02261, 2023.
    """
    check_first_learning_rate("adgd", first_learning_rate)
    if not is_word(variant, GROWTH):
        raise ValueError(f'adgd: variant is {short(variant)}; wanted one of {sorted(GROWTH)}: type adgd(variant="adgd2").')

    def init(params):
        zero = jnp.zeros((), tree.dtype_of(params))
        return AdGDState(jnp.int32(0), jnp.int32(0), zero, zero + FIRST_RATIO[variant], tree.zeros_like(params))

    def update(grads, state, params=None, *, value_and_grad_fn=None, **extra):
        probing = first_learning_rate is None and value_and_grad_fn is None
        first, evaluations = first_learning_rate, state.evaluations
        if first is None and params is None:
            raise ValueError("adgd: update got params=None; wanted the params: type rule.update(grads, state, params), or adgd(0.1).")
        if probing:
            first = probe(params, grads)
        elif first is None:
            first, count = search(value_and_grad_fn, params, grads, 0.5, 1.5, state.step == 0)
            evaluations = evaluations + count
        met = bend(grads, state.last_grads)
        a, ratio = pace(first, factor(met.rho, state.ratio), met, state, FIRST_RATIO[variant], probing)
        return tree.scale(-a, grads), AdGDState(jnp.asarray(optax.safe_increment(state.step)), evaluations, a, ratio, grads)

    def factor(rho, ratio):
        growth = jnp.sqrt(1 / GROWTH[variant] + ratio)
        bound = REACH[variant] ** 2 * rho**2 - (1 if variant == "adgd2" else 0)
        bends = bound > 0
        return jnp.where(bends, jnp.minimum(growth, 1 / jnp.sqrt(jnp.where(bends, bound, 1))), growth)

    return init, update
