"""What the rules share that learn the distance to the minimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from gdjax import tree
from gdjax.arguments import check_number, short
from gdjax.parts.averaging import polynomial_average, widened
from gdjax.typing import Grads, Params, Updates

USUAL = 2.0**40  # gradients whose largest entry is between its inverse and this are taken as they are
FIRST_SHARE = 1e-6  # the first step, in units of 1 + ‖x₀‖; Ivgi, Hinder, Carmon 2023


class DistanceState(NamedTuple):
    """What ``dog`` and ``dowg`` keep between steps; scalars are of the params' widest dtype, shape ()."""

    step: jax.Array  # number of steps taken, int32, shape ()
    start: Params  # x₀, like params
    distance: jax.Array  # r̄: the largest distance from the start so far, r_ε at first
    gradients: jax.Array  # √(Σ ‖g‖²), dowg: √(Σ r̄² ‖g‖²)
    learning_rate: jax.Array  # a of the last step
    average: Params  # of all points after the start but the last, like params, float32 at least


def check_first_distance(factory: str, first_distance: Any) -> None:
    """The door for the length of the first step: a number > 0 or None."""
    wanted = "a number > 0 or None: type first_distance=1e-6, far below the distance to the minimum"
    check_number(factory, "first_distance", first_distance, low=0, open_low=True, open_high=True, wanted=wanted)


def check_averaging(factory: str, averaging: Any) -> None:
    """The door for the weights of the average: a number ≥ 0."""
    check_number(factory, "averaging", averaging, low=0, required=True, wanted="a number ≥ 0: type averaging=8.0, or averaging=jnp.inf for none")


def check_estimate(factory: str, first_distance: Any, coefficient: Any, growth_rate: Any, weight_decay: Any) -> None:
    """The door for what D-Adaptation and Prodigy have in common."""
    wanted = "a number > 0: type first_distance=1e-6, far below the distance to the minimum"
    check_number(factory, "first_distance", first_distance, low=0, open_low=True, open_high=True, required=True, wanted=wanted)
    check_number(factory, "coefficient", coefficient, low=0, open_low=True, required=True, wanted="a number > 0: type coefficient=1.0")
    check_number(factory, "growth_rate", growth_rate, low=1, wanted="a number ≥ 1: type growth_rate=1.02, or leave it out")
    check_number(factory, "weight_decay", weight_decay, low=0, wanted="a number ≥ 0: type weight_decay=0.01, or leave it out")


def check_betas(factory: str, betas: Any, count: str, example: tuple) -> tuple:
    """The door for the weights of means: the tuple of as many numbers as the example has."""
    wanted = f"{count} numbers β, 0 ≤ β < 1: type betas={example}"
    if not isinstance(betas, (tuple, list)) or len(betas) != len(example):
        raise ValueError(f"{factory}: betas is {short(betas)}; wanted {wanted}.")
    for index, beta in enumerate(betas):
        check_number(factory, f"betas[{index}]", beta, low=0, high=1, open_high=True, required=True, wanted=wanted)
    return tuple(betas)


def initial_distance(params: Params, first_distance: Any) -> jax.Array:
    """r_ε, shape (): as given, or 1e-6 (1 + ‖x₀‖), and no less than moves the params in their precision."""
    dtype = tree.dtype_of(params)
    if first_distance is not None:
        return jnp.asarray(first_distance, dtype)
    spacing = max((float(jnp.finfo(jnp.result_type(x)).eps) for x in tree.leaves(params)), default=0.0)
    return (max(FIRST_SHARE, spacing) * (1 + tree.norm(params))).astype(dtype)


def smallest_move(params: Params) -> jax.Array:
    """ε |x|, shape (), the mean of all entries: steps well below it are lost in rounding, and what is estimated from the way gone never grows.

    The mean, as one large entry must not make the steps of the others long; entries at 0 move at any length.
    """
    dtype, count = tree.dtype_of(params), max(tree.size(params), 1)
    sums = [jnp.sum(jnp.abs(jnp.asarray(x, dtype)) * (float(jnp.finfo(jnp.result_type(x)).eps) / count)) for x in tree.leaves(params)]
    return lax.stop_gradient(sum(sums, jnp.zeros((), dtype)))


def first_unit(unit: jax.Array, grads: Grads) -> jax.Array:
    """What gradients are divided by lest their squares leave the dtype's range, shape (): a power of two, of no effect on a path free of the loss's units.

    1 if the first gradient is of a usual size, else next to its largest entry. 0 before there is one, as in the first state.
    """
    size = tree.largest(grads)
    found = jnp.where((size > 0) & jnp.isfinite(size), tree.power_of_two(size), 0)
    found = jnp.where((size > 1 / USUAL) & (size < USUAL), 1, found).astype(unit.dtype)
    return jnp.where(unit > 0, unit, found)


def hypotenuse(a: jax.Array, b: jax.Array) -> jax.Array:
    """√(a² + b²) without overflow or underflow of the squares, in the dtype of a; its derivative at 0 is 0."""
    larger = jnp.maximum(jnp.abs(a), jnp.abs(b))
    by = lax.stop_gradient(jnp.where(larger > 0, larger, 1))
    return (by * root((a / by) ** 2 + (b / by) ** 2)).astype(a.dtype)


def root(square: jax.Array) -> jax.Array:
    """√x whose derivative at 0 is 0."""
    some = square > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0)


def over(numerator: ArrayLike, denominator: jax.Array) -> jax.Array:
    """The quotient, 0 where the denominator is 0; the derivatives are then 0 too."""
    some = denominator > 0
    return jnp.where(some, numerator / jnp.where(some, denominator, 1), 0).astype(jnp.result_type(numerator))


def grown(distance: jax.Array, largest: jax.Array, growth_rate: Any, first_distance: jax.Array) -> jax.Array:
    """The distance on its way to the largest estimate, which it reaches at once the first time and where no growth rate is set."""
    if growth_rate is None:
        return largest
    return jnp.minimum(largest, growth_rate * jnp.where(distance == first_distance, largest, distance)).astype(distance.dtype)


def begin(first_distance: Any, params: Params) -> DistanceState:
    """The state before the first step."""
    zero = jnp.zeros((), tree.dtype_of(params))
    return DistanceState(jnp.int32(0), tree.copy(params), initial_distance(params, first_distance), zero, zero, widened(params))


def advance(learn: Callable, averaging: Any, grads: Grads, state: DistanceState, params: Params) -> tuple[Updates, DistanceState]:
    """One step. ``learn(gradients, distance, norm)`` returns the sum with this gradient's norm, at this r̄, and the learning rate."""
    norm = tree.norm(grads)
    distance = jnp.maximum(state.distance, tree.norm(tree.subtract(params, state.start)))
    gradients, a = learn(state.gradients, distance, norm)
    step, average = jnp.asarray(optax.safe_increment(state.step)), polynomial_average(state.average, params, state.step, averaging)
    new = DistanceState(step, state.start, distance, gradients, a, average)
    sound = jnp.isfinite(norm)  # a broken batch is left out
    return tree.where(sound, tree.scale(-a, grads), tree.zeros_like(grads)), tree.where(sound, new, state)


def reported(state: Any, params: Params, averaging: Any) -> Params:
    """The average, with the last point; of any state with ``step`` and ``average``."""
    return tree.cast_like(polynomial_average(state.average, params, state.step, averaging), params)
