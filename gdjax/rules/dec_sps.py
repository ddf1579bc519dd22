"""Stochastic Polyak steps that decrease."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.value_steps import check_lower_bound, check_max_learning_rate, polyak_ratio
from gdjax.rule import rule
from gdjax.typing import Number


class DecSPSState(NamedTuple):
    """What ``dec_sps`` keeps between steps; scalars of the params' widest dtype, shape ()."""

    step: jax.Array  # number of steps taken, int32, shape ()
    learning_rate: jax.Array  # a of the last step; 0 at the start
    least: jax.Array  # m, the least of all (f − l)/‖g‖² so far and of c₀ a_max


@rule
def dec_sps(lower_bound: Number = 0.0, *, scaling: Number = 1.0, max_learning_rate: Number = 10.0):
    """Stochastic Polyak steps that decrease, down to the minimum where no model fits all examples.

        m ← min{m, (f − l)/‖g‖²},  a = m/(c₀√(k + 1)),  x ← x − a g      k = 0, 1, ...

    Args:
        lower_bound: l, below the minimum of every batch's loss, a number, shape (), in units of the loss; no step where the loss is not above it.
        scaling: c₀ ≥ 1/2, a number, shape (); 1 by Orvieto et al., and in the bound below.
        max_learning_rate: a_max > 0, a number, shape (), in units of params² per unit of loss: m = c₀ a_max at the start; 10 by Orvieto et al.

    Returns:
        Rule: ``update`` needs ``value``.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without the value.

    Guarantee:
        Convex losses of batches, L-smooth, l below all minima, σ² = E f(x⋆) − l, D the largest ‖x − x⋆‖ met (finite under strong convexity), c₀ = 1:
        over N steps the mean of E f − f⋆ is at most (D² max{2L, 1/a_max} + 2σ²)/√N. No constant of the loss has to be known.

    When to use it: sums of convex losses with noise at the minimum, no learning rate at hand, time for 1/√k; ``sps`` is faster where a model fits all.

    Example:
        >>> import gdjax, jax
        >>> rule, w, loss = gdjax.dec_sps(), 5.0, lambda w: (w - 2.0) ** 2
        >>> state = rule.init(w)
        >>> for step in range(3):
        ...     value, grads = jax.value_and_grad(loss)(w)
        ...     updates, state = rule.update(grads, state, w, value=value)
        ...     w = w + updates
        ...     print(f"{w:.3f}")
        3.500
        2.970
        2.690

    Reference:
        Orvieto, Lacoste-Julien, Loizou, "Dynamics of SGD with stochastic Polyak stepsizes", NeurIPS 2022, arXiv:2205.04583.
    """
    check_lower_bound("dec_sps", lower_bound)
    check_number("dec_sps", "scaling", scaling, low=0.5, open_high=True, required=True, wanted="a number ≥ 1/2: type dec_sps(scaling=1.0)")
    check_max_learning_rate("dec_sps", max_learning_rate, required=True)

    def init(params):
        zero = jnp.zeros((), tree.dtype_of(params))
        return DecSPSState(jnp.zeros((), jnp.int32), zero, jnp.asarray(scaling * max_learning_rate, zero.dtype))

    def update(grads, state, params=None, *, value=None, **extra):
        check_offered("dec_sps", value=value)
        ratio = polyak_ratio(value, lower_bound, grads, state.least.dtype)
        least = jnp.where(ratio > 0, jnp.minimum(ratio, state.least), state.least)  # a ratio of 0 says nothing, and kept would end the run
        a = jnp.where(ratio > 0, least / (scaling * jnp.sqrt(state.step.astype(least.dtype) + 1)), 0).astype(least.dtype)
        return tree.scale(-a, grads), DecSPSState(jnp.asarray(optax.safe_increment(state.step)), a, least)

    return init, update
