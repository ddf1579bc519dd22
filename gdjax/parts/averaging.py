"""Averages of the points of a run, updated step by step."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.typing import Number, Params


def widened(params: Params) -> Params:
    """A copy in float32 at least: what is summed over many steps would stand still in bfloat16, whose next number up is 0.8% away."""
    return tree.map(lambda x: jnp.array(x, tree.dtype_of(x), copy=True), params)


def polynomial_average(average: Params, params: Params, step: Number, gamma: Number) -> Params:
    """The average that weights the t-th of its points by about t^γ:  x̄ ← (1 − w) x̄ + w x,  w = (1 + γ)/(t + γ).

    Shamir and Zhang, "Stochastic gradient descent for non-smooth optimization", ICML 2013.

    Args:
        average: x̄ of the points before, in the dtypes to average in; not looked at for the first point, as w = 1 there.
        params: x, the t-th point, of the same structure.
        step: t, int32, shape (): 1 for the first point; 0 counts as 1.
        gamma: γ ≥ 0, a number, shape (): 0 for the mean of all points, inf for the last point.

    Returns:
        The average with this point, in the dtypes of ``average``.
    """
    dtype = tree.dtype_of(average)
    gamma = jnp.asarray(gamma, dtype)
    some, count = jnp.where(jnp.isinf(gamma), 0, gamma), jnp.maximum(step, 1).astype(dtype)
    weight = jnp.where(jnp.isinf(gamma), 1, (1 + some) / (count + some))

    def mix(mean, x):
        share = weight.astype(mean.dtype)
        return (1 - share) * mean + share * jnp.asarray(x).astype(mean.dtype)

    return jax.tree.map(mix, average, params)
