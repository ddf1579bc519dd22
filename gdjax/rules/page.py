"""PAGE: a gradient estimate carried along by differences, and taken anew when a coin says so."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.parts.examples import Pace, check_finite_sum, first_pace, keep_pace, next_success, seed_words
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Grads, Params


class PAGEState(NamedTuple):
    """What ``page`` keeps between steps."""

    step: jax.Array  # number of steps taken, int32, shape ()
    evaluations: jax.Array  # int32, shape (): made by the rule, in batches; a full gradient is ⌈n/b⌉
    next_full: jax.Array  # int32, shape (): the step at which the coin next falls on its right side; 0 at first
    seed: jax.Array  # uint32, shape (2,): of the coin
    last_params: Params  # x₋, like params
    estimate: Grads  # v, like params
    pace: Pace | None  # None where the learning rate is given


@rule
def page(learning_rate=None, probability=None):
    """Probabilistic gradient estimator: the full gradient with a small probability, else the last estimate plus the change of the batch's gradient.

        v = ∇f(x) with probability p and at the first step, else v₋ + ∇f_B(x) − ∇f_B(x₋);  x ← x − h v

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (). None: 1/(𝓛 + L √((1 − p)/(pb))), with L the largest curvature of an example and 𝓛 the
            expected smoothness of a batch, both plus that of the regulariser, measured and watched as in ``saga``. This needs a ``gdjax.finite_sum``.
        probability: p in (0, 1], a number, shape (). None: b/(n + b), so that full gradients and batches cost the same.

    Returns:
        Rule: for ``gdjax.fit`` with data in memory, whose key also tosses the coin. Two evaluations a step and now and then a full gradient;
        ``result.evaluations`` counts in batches. Under ``vmap`` both sides of the coin are computed at every step.

    Raises:
        ValueError: a number out of its range or NaN; outside ``fit``; no learning rate and not a finite sum.

    Guarantee:
        Not convex, bounded below, all ℓᵢ L-smooth, batches drawn evenly and independently, h ≤ 1/(L(1 + √((1 − p)/(pb)))): the mean over N steps of
        E‖∇f(x)‖² is at most 2(f(x₀) − f⋆)/(hN). With p = b/(n + b), b ≤ √n: E‖∇f‖² ≤ ε² after O(n + √n/ε²) gradients, the least possible.

    When to use it: losses that are not convex, with b of about √n; on convex ones ``saga`` is ahead.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> X, y = jnp.linspace(-1.0, 1.0, 50), 1 + 2 * jnp.linspace(-1.0, 1.0, 50)
        >>> loss = gdjax.finite_sum(lambda w, row: (w[0] + w[1] * row[0] - row[1]) ** 2)
        >>> result = gdjax.fit(loss, jnp.zeros(2), (X, y), gdjax.page(), batch_size=7, epochs=50, key=0)
        >>> print(jnp.round(result.params, 3))
        [1. 2.]

    Reference:
        Li, Bao, Zhang, Richtárik, "PAGE: a simple and optimal probabilistic gradient estimator for nonconvex optimization", ICML 2021.
        Nguyen, Liu, Scheinberg, Takáč, "SARAH: a novel method for machine learning problems using stochastic recursive gradient", ICML 2017 (the differences).
    """
    if learning_rate is not None:
        check_learning_rate("page", learning_rate)
    check_number("page", "probability", probability, low=0, high=1, open_low=True, wanted="0 < probability ≤ 1 or None: type probability=0.01")

    def init(params, *, examples: Any = None, batch_size: Any = None, num_examples: Any = None, key=None):
        zero, pace = jnp.zeros((), jnp.int32), None
        if learning_rate is None:
            check_finite_sum("page", examples=examples)
            p = chance(batch_size, num_examples)
            noise = jnp.sqrt((1 - p) / (p * batch_size))
            rate = lambda found: 1 / (found.expected + found.regularizer + noise * (found.largest + found.regularizer))  # noqa: E731
            pace = first_pace(examples, params, batch_size, rate)
        return PAGEState(zero, zero, zero, seed_words(key), tree.copy(params), tree.zeros_like(params), pace)

    def chance(batch_size, num_examples):
        return batch_size / (num_examples + batch_size) if probability is None else probability

    def update(
        grads, state, params=None, *, examples: Any = None, num_examples: Any = None, batch_size: Any = None,
        value_and_grad_fn: Any = None, full_value_and_grad_fn: Any = None, **extra,
    ):  # fmt: skip
        check_finite_sum("page", params=params, full_value_and_grad_fn=full_value_and_grad_fn, value_and_grad_fn=value_and_grad_fn)
        pass_steps, step = -(-num_examples // batch_size), state.step
        pace = state.pace if learning_rate is not None else keep_pace(state.pace, examples, params, step, pass_steps)
        heads = step >= state.next_full
        carried = lambda: tree.add(state.estimate, tree.subtract(grads, value_and_grad_fn(state.last_params)[1]))  # noqa: E731
        estimate = lax.cond(heads, lambda: tree.cast_like(full_value_and_grad_fn(params)[1], params), carried)
        h = value_at(learning_rate, step) if pace is None else pace.learning_rate
        following = lax.cond(heads, lambda: next_success(state.seed, step, chance(batch_size, num_examples)), lambda: state.next_full)
        count = state.evaluations + jnp.where(heads, pass_steps, 1).astype(jnp.int32)
        new = PAGEState(jnp.asarray(optax.safe_increment(step)), count, following, state.seed, tree.copy(params), estimate, pace)
        return tree.scale(-h, estimate), new

    return init, update
