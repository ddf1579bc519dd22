"""Stochastic gradient descent with Armijo's search on each batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.masks import check_whole
from gdjax.parts.shrinking import TRIALS, shrinking
from gdjax.parts.value_steps import check_growth, check_max_learning_rate, growth_of_a_step
from gdjax.rule import rule
from gdjax.typing import Number


class StochasticLineSearchState(NamedTuple):
    """What ``stochastic_line_search`` keeps between steps; scalars of the params' widest dtype, shape ()."""

    learning_rate: jax.Array  # a of the last step; 0 at the start, and where the search found nothing
    last: jax.Array  # where the next search begins, before it grows: the last step found
    evaluations: jax.Array  # int32, shape (): of values, in all searches


@rule
def stochastic_line_search(
    sufficient: Any = 0.1, *, shrink: Number = 0.9, growth: Number = 2.0, first_learning_rate: Number = 1.0, max_learning_rate=None, steps_per_epoch=None
):
    """Stochastic gradient descent with Armijo's search: on each batch, the step is shortened until the loss of this same batch falls enough.

        x ← x − a g,  f(x₊) ≤ f(x) − c a‖g‖²,  a the first such of a₀, βa₀, β²a₀, ...,  a₀ = min{γ^{b/n} a₋, a_max}

    with the loss f and the gradient g of a batch of b out of n examples. A trial where the loss is not finite is followed by a tenth of it. Where rounding
    hides the decrease the slope decides: ⟨g₊, g⟩ ≥ (2c − 1)‖g‖², the same on a quadratic. A search that finds nothing (100 trials; trials that move no entry)
    moves nothing, and the next begins where this one did, or where it ran out of trials.

    Args:
        sufficient: c in (0, 1), a number, shape (); 0.1 by Vaswani et al., 1/2 or more for the bounds.
        shrink: β in (0, 1), a number, shape ().
        growth: γ ≥ 1, a number, shape (): how much longer the first trial may become in an epoch.
        first_learning_rate: a₋ of the first step, > 0, a number, shape (), in units of params² per unit of loss.
        max_learning_rate: a_max > 0, a number, shape (). None: no bound.
        steps_per_epoch: n/b > 0, a number, shape (). None: as ``fit`` offers it with shuffled data, else 1, as on full batches.

    Returns:
        Rule: ``update`` needs the params, ``value`` and ``value_fn`` of the same batch; one or two values a step. Derivatives with respect to data and params
        take the number of trials as it is; with respect to its own numbers, which the search multiplies, they go forward only (``jax.jvp``, ``jax.jacfwd``).

    Raises:
        ValueError: a mask hides some of the params; a number out of its range or NaN; ``update`` without what it needs.

    Guarantee:
        The loss of the batch never rises in its step, but for rounding. L-smooth losses of batches: a ≥ m = min{a₋ at first, 2β(1 − c)/L, a_max}, unless
        the trials run out (once for each factor of 1/β¹⁰⁰ by which a₋ is too long at first). Convex too, one x⋆ at the
        minimum f⁺ of every batch, c ≥ 1/2:  ‖x₊ − x⋆‖² ≤ ‖x − x⋆‖² − (2 − 1/c) a (f − f⁺), so no step leads away from x⋆; and over N steps the
        mean of f − f⁺ is at most R²/((2 − 1/c)mN), R = ‖x₀ − x⋆‖: the rate of gradient descent, with no lower bound known. Curvature at least μ: a factor
        of 1 − μm in ‖x − x⋆‖² a step.

    When to use it: models that fit all examples, where a learning rate is not known and an evaluation is cheap; ``armijo`` for full batches.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> inputs = jax.random.normal(jax.random.key(0), (100, 3))
        >>> loss = lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2)
        >>> data, rule = (inputs, inputs @ jnp.array([1.0, -2.0, 3.0])), gdjax.stochastic_line_search()
        >>> result = gdjax.fit(loss, jnp.zeros(3), data, rule, batch_size=10, epochs=5, key=jax.random.key(1))
        >>> print(*(f"{w:.3f}" for w in result.params))
        1.000 -2.000 3.000

    Reference:
        Vaswani, Mishkin, Laradji, Schmidt, Gidel, Lacoste-Julien, "Painless stochastic gradient", NeurIPS 2019, arXiv:1905.09997.
    """
    for name, number, example in (("sufficient", sufficient, 0.1), ("shrink", shrink, 0.9)):
        wanted = f"0 < {name} < 1: type stochastic_line_search({name}={example})"
        check_number("stochastic_line_search", name, number, low=0, high=1, open_low=True, open_high=True, required=True, wanted=wanted)
    check_growth("stochastic_line_search", growth, first_learning_rate, steps_per_epoch, required=True)
    check_max_learning_rate("stochastic_line_search", max_learning_rate)

    def init(params):
        zero = jnp.zeros((), tree.dtype_of(params))
        return StochasticLineSearchState(zero, jnp.asarray(first_learning_rate, zero.dtype), jnp.zeros((), jnp.int32))

    def update(grads, state, params=None, *, value: Any = None, value_fn: Any = None, indices=None, num_examples=None, **extra):
        check_offered("stochastic_line_search", params=params, value=value, value_fn=value_fn)
        check_whole("stochastic_line_search", params, "let it take all, or put a rule that evaluates nothing under the mask, as gdjax.sgd(0.1)")
        first = growth_of_a_step(growth, steps_per_epoch, indices, num_examples) * state.last
        first = first if max_learning_rate is None else jnp.minimum(first, max_learning_rate)
        found = shrinking(value_fn, params, grads, value, first.astype(state.last.dtype), sufficient, shrink)
        spent = found.sound & (found.trials == TRIALS)
        a, last = jnp.where(found.accepted, found.step, 0), jnp.where(found.accepted | spent, found.step, state.last)
        return tree.stored(tree.scale(-a, grads)), StochasticLineSearchState(a, last, state.evaluations + found.trials)

    return init, update
