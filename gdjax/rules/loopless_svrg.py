"""Loopless SVRG: the full gradient is taken anew when a coin says so."""

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


class LooplessSVRGState(NamedTuple):
    """What ``loopless_svrg`` keeps between steps."""

    step: jax.Array  # number of steps taken, int32, shape ()
    evaluations: jax.Array  # int32, shape (): made by the rule, in batches; a full gradient is ⌈n/b⌉
    next_refresh: jax.Array  # int32, shape (): the step at which the coin next falls on its right side
    seed: jax.Array  # uint32, shape (2,): of the coin
    snapshot: Params  # w, like params
    full_grad: Grads  # ∇f(w), like params
    pace: Pace | None  # None where the learning rate is given


@rule
def loopless_svrg(learning_rate=None, probability=None):
    """SVRG without an outer loop: at each step, with a small probability, a new snapshot.

        x₊ = x − h (∇f_B(x) − ∇f_B(w) + ∇f(w)),  w ← x with probability p;  w = x at the first step

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (). None: 1/(6𝓛); 𝓛 is the curvature of the regulariser plus the expected smoothness of a
            batch, measured and watched as in ``saga``. This needs a ``gdjax.finite_sum``.
        probability: p in (0, 1], a number, shape (). None: b/n, once per pass on average.

    Returns:
        Rule: for ``gdjax.fit`` with data in memory, whose key also tosses the coin. Two evaluations a step and now and then a full gradient;
        ``result.evaluations`` counts in batches. Under ``vmap`` both sides of the coin are computed at every step.

    Raises:
        ValueError: a number out of its range or NaN; outside ``fit``; no learning rate and not a finite sum.

    Guarantee:
        ℓᵢ convex and L-smooth, f with curvature at least μ > 0, b = 1, i drawn evenly and independently, h = 1/(6L):
        E Ψ₊ ≤ (1 − min{hμ, p/2}) Ψ for Ψ = ‖x − x⋆‖² + 4h²/(pn) Σᵢ ‖∇fᵢ(w) − ∇fᵢ(x⋆)‖².

    When to use it: as ``svrg``.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> X, y = jnp.linspace(-1.0, 1.0, 50), 1 + 2 * jnp.linspace(-1.0, 1.0, 50)
        >>> loss = gdjax.finite_sum(lambda w, row: (w[0] + w[1] * row[0] - row[1]) ** 2)
        >>> result = gdjax.fit(loss, jnp.zeros(2), (X, y), gdjax.loopless_svrg(), batch_size=1, epochs=50, key=0)
        >>> print(jnp.round(result.params, 3))
        [1. 2.]

    Reference:
        Kovalev, Horváth, Richtárik, "Don't jump through hoops and remove those loops: SVRG and Katyusha are better without the outer loop", ALT 2020.
    """
    if learning_rate is not None:
        check_learning_rate("loopless_svrg", learning_rate)
    check_number("loopless_svrg", "probability", probability, low=0, high=1, open_low=True, wanted="0 < probability ≤ 1 or None: type probability=0.01")

    def init(params, *, examples: Any = None, batch_size: Any = None, num_examples: Any = None, key=None):
        check_finite_sum("loopless_svrg", num_examples=num_examples)
        zero, seed, pace = jnp.zeros((), jnp.int32), seed_words(key), None
        if learning_rate is None:
            check_finite_sum("loopless_svrg", examples=examples)
            pace = first_pace(examples, params, batch_size, lambda found: 1 / (6 * (found.expected + found.regularizer)))
        first = next_success(seed, zero, chance(batch_size, num_examples)) - 1
        return LooplessSVRGState(zero, zero, first, seed, tree.copy(params), tree.zeros_like(params), pace)

    def chance(batch_size, num_examples):
        return batch_size / num_examples if probability is None else probability

    def update(
        grads, state, params=None, *, examples: Any = None, num_examples: Any = None, batch_size: Any = None,
        value_and_grad_fn: Any = None, full_value_and_grad_fn: Any = None, **extra,
    ):  # fmt: skip
        check_finite_sum("loopless_svrg", params=params, full_value_and_grad_fn=full_value_and_grad_fn, value_and_grad_fn=value_and_grad_fn)
        pass_steps, step = -(-num_examples // batch_size), state.step
        pace = state.pace if learning_rate is not None else keep_pace(state.pace, examples, params, step, pass_steps)
        begins, heads = step == 0, step >= state.next_refresh
        fresh = lambda: (tree.copy(params), tree.cast_like(full_value_and_grad_fn(params)[1], params))  # noqa: E731
        kept = state.snapshot, state.full_grad
        here = lax.cond(begins | heads, fresh, lambda: kept)
        snapshot, full = tree.where(begins, here, kept)  # a snapshot of this point is for the next step
        direction = tree.add(tree.subtract(grads, value_and_grad_fn(snapshot)[1]), full)
        h = value_at(learning_rate, step) if pace is None else pace.learning_rate
        following = lax.cond(heads, lambda: next_success(state.seed, step, chance(batch_size, num_examples)), lambda: state.next_refresh)
        count = state.evaluations + 1 + jnp.where(begins | heads, pass_steps, 0).astype(jnp.int32)
        new = LooplessSVRGState(jnp.asarray(optax.safe_increment(step)), count, following, state.seed, here[0], here[1], pace)
        return tree.scale(-h, direction), new

    return init, update
