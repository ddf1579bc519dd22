"""Stochastic gradient descent with the Polyak step of each batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.value_steps import check_growth, check_lower_bound, check_max_learning_rate, growth_of_a_step, limited, polyak_ratio
from gdjax.rule import rule
from gdjax.typing import Number


class SPSState(NamedTuple):
    """What ``sps`` keeps between steps; scalars of the params' widest dtype, shape ()."""

    learning_rate: jax.Array  # a of the last step; 0 at the start
    last: jax.Array | None  # the last a > 0, at the start the first one's bound; None without a growth


@rule
def sps(
    lower_bound: Number = 0.0, *, scaling: Number = 0.5, max_learning_rate=None, growth: Number | None = 2.0,
    first_learning_rate: Number = 1.0, steps_per_epoch=None,
):  # fmt: skip
    """Stochastic Polyak steps: as long as the loss of the batch is far from its lower bound.

        x ← x − a g,  a = min{[f − l]₊/(c‖g‖²), a_max, γ^{b/n} a₋}

    with the value f and the gradient g of a batch of b out of n examples.

    Args:
        lower_bound: l, below the minimum of every batch's loss, a number, shape (), in units of the loss; no step where the loss is not above it.
        scaling: c ≥ 1/2, a number, shape (): 1/2 by Loizou et al., on single squared errors Kaczmarz's projections; 1 where no model fits all.
        max_learning_rate: a_max > 0, a number, shape (), in units of params² per unit of loss. None: no bound.
        growth: γ ≥ 1, a number, shape (): how much longer a step may become in an epoch. None: no such bound, as in the theorems of the paper.
        first_learning_rate: a₋ of the first step, > 0, a number, shape (); of no effect without a growth.
        steps_per_epoch: n/b > 0, a number, shape (). None: as ``fit`` offers it with shuffled data, else 1, as on full batches.

    Returns:
        Rule: ``update`` needs ``value``. Differs from the authors' code in: steps of 0 do not bound the next, and l also counts with a growth.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without the value.

    Guarantee:
        Losses of batches at least l, convex, L-smooth, R = ‖x₀ − x⋆‖:  a ≥ α = min{1/(2cL), a_max, a₋ at first}, wherever g is not 0.
        One x⋆ with f = l for all (a model that fits): ‖x₊ − x⋆‖² ≤ ‖x − x⋆‖² − (2 − 1/c) a (f − l), so with c ≥ 1/2 no step leads away from x⋆, and over
        N steps the mean of f − l is at most R²/((2 − 1/c)αN). Curvature at least μ: ‖x₊ − x⋆‖² ≤ (1 − μα)‖x − x⋆‖².
        Otherwise, σ² = E f(x⋆) − l: the mean of E f − f⋆ is at most R²/((2 − 1/c)αN) + (2a_max/((2 − 1/c)α) − 1)σ²; it need not tend to 0.

    When to use it: a model that fits all examples; with others (a regularized loss) ``dec_sps``, as this one ends at a distance from the minimum.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> inputs = jax.random.normal(jax.random.key(0), (100, 3))
        >>> loss = lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2)
        >>> data = (inputs, inputs @ jnp.array([1.0, -2.0, 3.0]))
        >>> result = gdjax.fit(loss, jnp.zeros(3), data, gdjax.sps(), batch_size=1, epochs=2, key=jax.random.key(1))
        >>> print(*(f"{w:.3f}" for w in result.params))
        1.000 -2.000 3.000

    Reference:
        Loizou, Vaswani, Laradji, Lacoste-Julien, "Stochastic Polyak step-size for SGD", AISTATS 2021, arXiv:2002.10542.
        Orvieto, Lacoste-Julien, Loizou, NeurIPS 2022, arXiv:2205.04583 (lower bounds in place of minima).
    """
    check_lower_bound("sps", lower_bound)
    check_number("sps", "scaling", scaling, low=0.5, open_high=True, required=True, wanted="a number ≥ 1/2: type sps(scaling=0.5)")
    check_max_learning_rate("sps", max_learning_rate)
    check_growth("sps", growth, first_learning_rate, steps_per_epoch)

    def init(params):
        zero = jnp.zeros((), tree.dtype_of(params))
        return SPSState(zero, None if growth is None else jnp.asarray(first_learning_rate, zero.dtype))

    def update(grads, state, params=None, *, value=None, indices=None, num_examples=None, **extra):
        check_offered("sps", value=value)
        a = polyak_ratio(value, lower_bound, grads, state.learning_rate.dtype) / scaling
        a = a if max_learning_rate is None else jnp.minimum(a, max_learning_rate)
        factor = None if growth is None else growth_of_a_step(growth, steps_per_epoch, indices, num_examples)
        a, last = limited(a.astype(state.learning_rate.dtype), state.last, factor)
        return tree.scale(-a, grads), SPSState(a, last)

    return init, update
