"""SVRG: gradients of batches, corrected by a full gradient taken now and then."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gdjax import tree
from gdjax.arguments import check_number, short
from gdjax.parts.examples import Pace, check_finite_sum, first_pace, keep_pace
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Grads, Params


class SVRGState(NamedTuple):
    """What ``svrg`` keeps between steps."""

    step: jax.Array  # number of steps taken, int32, shape ()
    evaluations: jax.Array  # int32, shape (): made by the rule, in batches; a full gradient is ⌈n/b⌉
    snapshot: Params  # w, like params
    full_grad: Grads  # ∇f(w), like params
    pace: Pace | None  # None where the learning rate is given


@rule
def svrg(learning_rate=None, period=None):
    """Stochastic variance reduced gradient: the change of the batch's gradient since a snapshot, plus the full gradient there.

        w ← x, every m steps;  x ← x − h (∇f_B(x) − ∇f_B(w) + ∇f(w))

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (). None: 1/(4𝓛), the choice of practice, where about 1/(10L) is proved; 𝓛 is the curvature
            of the regulariser plus the expected smoothness of a batch, measured and watched as in ``saga``. This needs a ``gdjax.finite_sum``.
        period: m ≥ 1, an int: steps between full gradients. None: 2n/b, two passes over the data.

    Returns:
        Rule: for ``gdjax.fit`` with data in memory. Two evaluations a step and a full gradient every m; ``result.evaluations`` counts in batches. With a
        learning rate the loss may be opaque; its ragged last batches then make the correction slightly biased.

    Raises:
        ValueError: the learning rate is negative or NaN, the period not an integer ≥ 1; outside ``fit``; no learning rate and not a finite sum.

    Guarantee:
        ℓᵢ convex and L-smooth, f with curvature at least μ > 0, b = 1, i drawn evenly and independently, h < 1/(4L): each m steps, w being
        one of the m points, drawn evenly: E[f(w₊) − f⋆] ≤ (1/(μh(1 − 2Lh)m) + 2Lh/(1 − 2Lh)) (f(w) − f⋆). Here w is the last of them, as in practice.

    When to use it: finite sums whose table for ``saga`` does not fit in memory; ``loopless_svrg`` has the simpler theory.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> X, y = jnp.linspace(-1.0, 1.0, 50), 1 + 2 * jnp.linspace(-1.0, 1.0, 50)
        >>> loss = gdjax.finite_sum(lambda w, row: (w[0] + w[1] * row[0] - row[1]) ** 2)
        >>> result = gdjax.fit(loss, jnp.zeros(2), (X, y), gdjax.svrg(), batch_size=1, epochs=30, key=0)
        >>> print(jnp.round(result.params, 3))
        [1. 2.]

    Reference:
        Johnson, Zhang, "Accelerating stochastic gradient descent using predictive variance reduction", NeurIPS 2013.
    """
    if learning_rate is not None:
        check_learning_rate("svrg", learning_rate)
    check_number("svrg", "period", period, low=1, wanted="an integer ≥ 1, or None for two passes: type period=1000")
    if period is not None and not isinstance(period, int):
        raise TypeError(f"svrg: period is {short(period)}; wanted an integer ≥ 1, or None for two passes: type period=1000.")

    def init(params, *, examples: Any = None, batch_size: Any = None):
        pace = None
        if learning_rate is None:
            check_finite_sum("svrg", examples=examples)
            pace = first_pace(examples, params, batch_size, lambda found: 1 / (4 * (found.expected + found.regularizer)))
        return SVRGState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), tree.copy(params), tree.zeros_like(params), pace)

    def update(
        grads, state, params=None, *, examples: Any = None, num_examples: Any = None, batch_size: Any = None,
        value_and_grad_fn: Any = None, full_value_and_grad_fn: Any = None, **extra,
    ):  # fmt: skip
        check_finite_sum("svrg", params=params, full_value_and_grad_fn=full_value_and_grad_fn, value_and_grad_fn=value_and_grad_fn)
        pass_steps, step = -(-num_examples // batch_size), state.step
        pace = state.pace if learning_rate is not None else keep_pace(state.pace, examples, params, step, pass_steps)
        due = lax.rem(step, jnp.int32(period or 2 * pass_steps)) == 0
        fresh = lambda: (tree.copy(params), tree.cast_like(full_value_and_grad_fn(params)[1], params))  # noqa: E731
        snapshot, full = lax.cond(due, fresh, lambda: (state.snapshot, state.full_grad))
        direction = tree.add(tree.subtract(grads, value_and_grad_fn(snapshot)[1]), full)
        h = value_at(learning_rate, step) if pace is None else pace.learning_rate
        count = state.evaluations + 1 + jnp.where(due, pass_steps, 0).astype(jnp.int32)
        return tree.scale(-h, direction), SVRGState(jnp.asarray(optax.safe_increment(step)), count, snapshot, full, pace)

    return init, update
