"""Stochastic gradient descent without a learning rate."""

from __future__ import annotations

from gdjax import tree
from gdjax.arguments import check_offered
from gdjax.parts.parameter_free import Settings, advance, check_settings, start, whole
from gdjax.rule import rule
from gdjax.typing import Number


@rule
def parameter_free_sgd(steps=None, *, learning_rate: Number = 1.0, betas: tuple[Number, ...] = (0.9, 0.99, 0.99), first_distance=None, weight_decay=None):
    """Stochastic gradient descent without a learning rate: one step for all entries, as long as a lower bound of the distance to the minimum.

        h = η (1 − k/N)₊                                    η/√(1 + k/100) without N
        s ← β₃ s + h d² g,  p ← β₃ p + h d² ⟨g, x₀ − x⟩
        d ← max{d, p/‖s‖}
        m ← β₁ m + (1 − β₁) d g,  v ← β₂ v + (1 − β₂) d² ‖g‖²   as means: divided by the sums of their weights
        x ← x − h d (n/√v + λ x),  n = β₁ m + (1 − β₁) d g      likewise
        x̄ ← (1 − w) x̄ + w x,  w = 9/(k + 9)                    without N: the params reported

    Momentum SGD whose learning rate h d/√v is found as it goes. It does not depend on how the space is turned, as SGD does not; where entries differ much in
    scale, ``parameter_free_adam`` is far ahead. The first d is 1 % of max_c (f(x) − f(x − c u))/‖g‖, u = g/‖g‖, on the first batch, c tried from 10⁻⁶ on,
    tenfold, as long as the loss falls.

    Args:
        steps: N > 0, the length of the run: a float is a leaf (another length compiles nothing anew), an int static. After N steps nothing moves. None: not
            known; steps then fall like 1/√k and an average is reported, which costs a buffer and, with batch statistics in a network, a pass to renew these.
        learning_rate: η ≥ 0, a number, shape (), of no units: 1, unless you know better than the bound.
        betas: β₁, β₂, β₃ in [0, 1), three numbers, shape ().
        first_distance: d₀ > 0, a number, shape (), in units of params. None: from the first batch, or 10⁻⁶ where no ``value_fn`` is offered or a mask hides
            some of the params; no less than √n times the mean of the n entries of ε|x₀|, ε that of the params' precision (2⁻⁷ in bfloat16), as steps below
            are lost in rounding.
        weight_decay: λ ≥ 0, a number, shape (): decoupled, as in AdamW. None: 0.

    Returns:
        Rule: ``update`` needs the params, and ``value_fn`` and ``value`` for the first step, which ``fit`` offers. A step at which the gradient is not
        finite is left out. Derivatives pass by the first d, a guess: they are those of the path with d₀ given as the d found.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without params.

    Guarantee:
        All batches convex with a common minimum x⋆:  d ≤ max{δ, ‖x₀ − x⋆‖} at every step, for any β, as p ≤ ⟨s, x₀ − x⋆⟩ ≤ ‖s‖ ‖x₀ − x⋆‖;
        δ is d₀ where given, else 10⁻⁶ or what is just not lost in rounding. The path does not depend on the units of the loss, in float32 while entries of
        gradients that matter are between 10⁻¹⁶ and 10¹⁸, times the first if that is beyond 10⁻¹² to 10¹². Of the loss nothing is proved: "When to use it".

    When to use it: instead of a sweep over learning rates of momentum SGD. Measured (``python -m benchmarks fit``: 21 tasks, three seeds): what is left of
    the way from the start to the best of 13 learning rates of momentum SGD and of Adam, with a cosine: median 0.3 %, worst 19.5 %, no run diverged; without
    N 0.1 % and 19.3 %. The best of the 13 of momentum SGD: 0.7 % and 14.2 %.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> X = jnp.linspace(-1.0, 1.0, 100)
        >>> loss = lambda w, batch: jnp.mean((w[0] + w[1] * batch[0] - batch[1]) ** 2)
        >>> result = gdjax.fit(loss, jnp.zeros(2), (X, 100 + 200 * X), gdjax.parameter_free_sgd(500), batch_size=10, steps=500, key=0)
        >>> print(jnp.round(result.params, 1))
        [100. 200.]

    Reference:
        Mishchenko, Defazio, "Prodigy: an expeditiously adaptive parameter-free learner", ICML 2024, arXiv:2306.06101.
        Defazio, Mishchenko, "Learning-rate-free learning by D-Adaptation", ICML 2023, arXiv:2301.07733.
    """
    settings, geometry = Settings(steps, learning_rate, betas, first_distance, weight_decay), whole()
    check_settings("parameter_free_sgd", settings)

    def init(params):
        return start(geometry, settings, params)

    def update(grads, state, params=None, *, value=None, value_fn=None, **extra):
        check_offered("parameter_free_sgd", params=params)
        return advance(geometry, settings, grads, state, params, value, value_fn)

    if steps is not None:
        return init, update
    return init, update, lambda state, params: tree.cast_like(state.average, params)
