"""SAG: steps along the mean of the gradients that were last seen."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.parts.examples import Pace, Table, check_finite_sum, first_pace, keep_pace, read
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Params


class SAGState(NamedTuple):
    """What ``sag`` keeps between steps."""

    step: jax.Array  # number of steps taken, int32, shape ()
    table: Table  # αᵢ: the slopes of each example when it was last seen, leading axis n; 0 before
    mean: Params  # 1/n Σᵢ αᵢ as gradients, like params, float32 at least
    pace: Pace | None  # None where the learning rate is given


@rule
def sag(learning_rate=None):
    """Stochastic average gradient: the mean of the gradients of all examples, each from when it was last seen.

        αᵢ ← ∇ℓᵢ(x) for i ∈ B,  x ← x − h (1/m Σᵢ αᵢ + ∇r(x))

    The loss is f = 1/n Σᵢ ℓᵢ + r, declared by ``gdjax.finite_sum``; m is the number of rows drawn so far, at most n. The table is that of ``saga``: a few
    numbers per example where the loss sees the params through a linear model.

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (). None: 1/𝓛, the choice of practice, where 1/(16L) is proved; 𝓛 is measured and watched as
            in ``saga``.

    Returns:
        Rule: for ``gdjax.fit`` with data in memory and ``shuffle="replacement"``: in passes over the data, where αᵢ is up to two passes old, it oscillates
        at every learning rate worth having. Its ``init`` needs what fit offers.

    Raises:
        ValueError: the learning rate is negative or NaN; outside ``fit``; the loss is not a finite sum, or rows come in passes.

    Guarantee:
        ℓᵢ convex and L-smooth, f with curvature at least μ > 0, b = 1, i drawn evenly and independently, m = n, h = 1/(16L):
        E[f(x_N) − f⋆] ≤ (1 − min{μ/(16L), 1/(8n)})ᴺ C, with a constant C of the start.

    When to use it: as ``saga``, which is proved for longer steps; at h = 1/L this one is at times ahead in early passes.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> X, y = jnp.linspace(-1.0, 1.0, 50), 1 + 2 * jnp.linspace(-1.0, 1.0, 50)
        >>> loss = gdjax.finite_sum(lambda w, row: (w[0] + w[1] * row[0] - row[1]) ** 2)
        >>> result = gdjax.fit(loss, jnp.zeros(2), (X, y), gdjax.sag(), batch_size=1, epochs=99, key=0, shuffle="replacement")
        >>> print(jnp.round(result.params, 3))
        [1. 2.]

    Reference:
        Schmidt, Le Roux, Bach, "Minimizing finite sums with the stochastic average gradient", Math. Program. 162, 2017.
    """
    if learning_rate is not None:
        check_learning_rate("sag", learning_rate)

    def init(params, *, examples: Any = None, batch_size: Any = None):
        check_finite_sum("sag", examples=examples)
        if not examples.independent:
            raise ValueError('sag: the rows come in passes over the data, in which it goes astray; wanted independent ones: type shuffle="replacement".')
        rows = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(examples.slopes, params))
        mean = tree.map(lambda x: jnp.zeros(jnp.shape(x), tree.dtype_of(x)), params)
        pace = None
        if learning_rate is None:
            pace = first_pace(examples, params, batch_size, lambda found: 1 / (found.expected + found.regularizer))
        return SAGState(jnp.zeros((), jnp.int32), Table(rows), mean, pace)

    def update(grads, state, params=None, *, examples: Any = None, indices: Any = None, num_examples: Any = None, batch_size: Any = None, **extra):
        check_finite_sum("sag", params=params, examples=examples, indices=indices)
        step, n, dtype = state.step, num_examples, tree.dtype_of(params)
        pace = state.pace if learning_rate is not None else keep_pace(state.pace, examples, params, step, -(-n // batch_size))
        fresh, old = examples.slopes(params), read(state.table, indices)
        change = examples.mask(tree.subtract(fresh, old), examples.first(indices))
        mean = tree.add_scaled(state.mean, 1 / n, examples.combine(params, change))
        drawn = jnp.minimum((step + 1).astype(dtype) * batch_size, n)
        direction = tree.add(tree.scale(n / drawn, mean), examples.regularizer_grad(params))
        h = value_at(learning_rate, step) if pace is None else pace.learning_rate
        table = examples.write(state.table, indices, fresh, old)
        return tree.cast_like(tree.scale(-h, direction), params), SAGState(jnp.asarray(optax.safe_increment(step)), table, mean, pace)

    return init, update
