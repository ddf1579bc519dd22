"""SAGA: steps of single examples whose noise dies out."""

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


class SAGAState(NamedTuple):
    """What ``saga`` keeps between steps."""

    step: jax.Array  # number of steps taken, int32, shape ()
    table: Table  # αᵢ: the slopes of each example when it was last seen, leading axis n; 0 before
    mean: Params  # ᾱ = 1/n Σᵢ αᵢ as gradients, like params, float32 at least
    pace: Pace | None  # None where the learning rate is given


@rule
def saga(learning_rate=None):
    """SAGA: the gradient of a batch, less what it was when these examples were last seen, plus the mean of all those.

        x ← x − h (1/b Σ_{i∈B} (∇ℓᵢ(x) − αᵢ) + ᾱ + ∇r(x)),  ᾱ ← ᾱ + 1/n Σ_{i∈B} (∇ℓᵢ(x) − αᵢ),  αᵢ ← ∇ℓᵢ(x) for i ∈ B

    The loss is f = 1/n Σᵢ ℓᵢ + r, declared by ``gdjax.finite_sum``. Where ℓᵢ sees the params through a few numbers affine in them (one in logistic
    regression), that is found in the loss, and the table holds so many numbers per example; else it holds a gradient per example.

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (). None: 1/(2𝓛), where 𝓛 is the curvature of r plus
            the expected smoothness of a batch, at b = 1 the largest curvature of an ℓᵢ. It is measured at the start (about one pass for linear models with
            one prediction, 4 to 8 else) and raised, and h lowered, when an example shows more: looked at in every step of the first pass, then in every
            64th. The 1/(3𝓛) of theory took 1.2 to 1.5 times as many passes on a logistic regression like a1a; 1.5/𝓛 diverged.

    Returns:
        Rule: for ``gdjax.fit`` with data in memory. Its ``init`` needs what fit offers.

    Raises:
        ValueError: the learning rate is negative or NaN; outside ``fit``, or the loss is not a finite sum.

    Guarantee:
        ℓᵢ convex and L-smooth, f with curvature at least μ > 0, b = 1, i drawn evenly and independently, first table of gradients at x₀:
        h = 1/(3L): E‖x_N − x⋆‖² ≤ (1 − min{1/(4n), μ/(3L)})ᴺ C, without knowing μ; h = 1/(2(μn + L)): (1 − μ/(2(μn + L)))ᴺ C;
        C = ‖x₀ − x⋆‖² + c n (f(x₀) − f⋆ − ⟨∇f(x⋆), x₀ − x⋆⟩), c = 2/(3L) and 1/(μn + L). Both hold for any μ not above the true one.
        1/(2L) is the limit of the second for small μ. Orders without replacement, tables of zeros and batches: measured, not proved here.

    When to use it: convex finite sums in memory to high accuracy, by single examples; ``svrg`` where the table is too large. Of the initial gap of six
    logistic regressions 30 epochs left 10⁻¹⁶ to 2·10⁻⁴, where the default of ``fit`` left 10⁻³ to 3·10⁻²; by batches of 32 neither was better everywhere.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> X, y = jnp.linspace(-1.0, 1.0, 50), 1 + 2 * jnp.linspace(-1.0, 1.0, 50)
        >>> loss = gdjax.finite_sum(lambda w, row: (w[0] + w[1] * row[0] - row[1]) ** 2)
        >>> result = gdjax.fit(loss, jnp.zeros(2), (X, y), gdjax.saga(), batch_size=1, epochs=30, key=0)
        >>> print(jnp.round(result.params, 3), result.state.progress.state.rule_state.table.rows[0].shape)
        [1. 2.] (50,)

    Reference:
        Defazio, Bach, Lacoste-Julien, "SAGA: a fast incremental gradient method with support for non-strongly convex composite objectives", NeurIPS 2014.
        Gazagnadou, Gower, Salmon, "Optimal mini-batch and step sizes for SAGA", ICML 2019.
    """
    if learning_rate is not None:
        check_learning_rate("saga", learning_rate)

    def init(params, *, examples: Any = None, batch_size: Any = None):
        check_finite_sum("saga", examples=examples)
        rows = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(examples.slopes, params))
        mean = tree.map(lambda x: jnp.zeros(jnp.shape(x), tree.dtype_of(x)), params)
        pace = None
        if learning_rate is None:
            pace = first_pace(examples, params, batch_size, lambda found: 1 / (2 * (found.expected + found.regularizer)))
        return SAGAState(jnp.zeros((), jnp.int32), Table(rows), mean, pace)

    def update(grads, state, params=None, *, examples: Any = None, indices: Any = None, num_examples: Any = None, batch_size: Any = None, **extra):
        check_finite_sum("saga", params=params, examples=examples, indices=indices)
        pace = state.pace if learning_rate is not None else keep_pace(state.pace, examples, params, state.step, -(-num_examples // batch_size))
        fresh, old = examples.slopes(params), read(state.table, indices)
        change = examples.mask(tree.subtract(fresh, old))
        moved = examples.combine(params, change)
        first = examples.first(indices)  # a row that comes twice changes the table once
        new = moved if first is None else examples.combine(params, examples.mask(change, first))
        direction = tree.add(tree.add_scaled(state.mean, 1 / examples.weight(tree.dtype_of(params)), moved), examples.regularizer_grad(params))
        h = value_at(learning_rate, state.step) if pace is None else pace.learning_rate
        table = examples.write(state.table, indices, fresh, old)
        mean = tree.add_scaled(state.mean, 1 / num_examples, new)
        return tree.cast_like(tree.scale(-h, direction), params), SAGAState(jnp.asarray(optax.safe_increment(state.step)), table, mean, pace)

    return init, update
