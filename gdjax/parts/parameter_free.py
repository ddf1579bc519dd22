"""What the parameter-free rules share: steps as long as a lower bound of the distance to the minimum, which the run itself makes larger."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.parts.averaging import polynomial_average, widened
from gdjax.parts.distance import check_betas, first_unit, over, root, smallest_move
from gdjax.parts.masks import is_masked
from gdjax.parts.two_points import moved
from gdjax.typing import Grads, Params, Scalar, Updates

FIRST_DISTANCE = 1e-6  # as Prodigy's
SHARE = 0.01  # of the first batch's bound: minima of single batches lie farther away than that of the whole
TRIALS = 14  # lengths 10⁻⁶, 10⁻⁵, ..., 10⁷ tried on the first batch, as long as the loss falls
HALVED_BY = 300  # steps, without a known end: the height is 1/√(1 + k/100), a half there
GAMMA = 8.0  # of the polynomial average, without a known end; Ivgi, Hinder, Carmon 2023


class Geometry(NamedTuple):
    """How lengths are measured."""

    dual_norm: Any  # of sums of gradients, shape (): dual to the norm of distances
    steepest: Any  # a gradient's direction of steepest ascent, of length 1 in the norm of distances
    squares: Any  # g², a tree like the gradients, or ‖g‖², shape ()
    divide: Any  # (mean, root mean square) -> their quotient, 0 where both are
    smallest: Any  # params -> the length of a step, shape (), that is not lost in rounding


class Settings(NamedTuple):
    """The arguments of a parameter-free rule."""

    steps: Any
    learning_rate: Any
    betas: Any
    first_distance: Any
    weight_decay: Any


class ParameterFreeState(NamedTuple):
    """What a parameter-free rule keeps between steps; trees are like params, float32 at least, scalars of their widest dtype, shape ()."""

    step: jax.Array  # number of steps taken, int32, shape ()
    start: Params  # x₀
    mean: Params  # m, of gradients, with weights d
    squares: Any  # v, of their squares, with weights d²: like params, or shape ()
    sum: Params  # s, of gradients, with weights h d²
    products: jax.Array  # p, of ⟨g, x₀ − x⟩, likewise
    weights: tuple[jax.Array, jax.Array]  # sums of the weights of m and v
    shrink: jax.Array  # (d₋/d)², by which the last step made the weights of s and p smaller
    distance: jax.Array  # d
    learning_rate: jax.Array  # h d of the last step
    average: Params | None  # x̄, where the end is not known; else None
    evaluations: jax.Array  # of the loss on the first batch, int32, shape ()
    unit: jax.Array  # what gradients are divided by, so that no square leaves the dtype's range; 0 before one that is not 0


def entries() -> Geometry:
    """Distances in the largest entry: every entry has a step of its own."""
    return Geometry(
        dual_norm=lambda t: sum((jnp.sum(jnp.abs(x)) for x in tree.leaves(t)), jnp.zeros((), tree.dtype_of(t))),
        steepest=lambda g: tree.map(jnp.sign, g),
        squares=lambda g: tree.map(jnp.square, g),
        divide=lambda mean, rms: tree.map(over, mean, rms),
        smallest=smallest_move,
    )


def whole() -> Geometry:
    """Distances in the Euclidean norm: one step for all entries."""
    return Geometry(
        dual_norm=tree.norm,
        steepest=lambda g: tree.map(lambda x: over(x, tree.norm(g).astype(x.dtype)), g),
        squares=lambda g: tree.norm(g) ** 2,
        divide=lambda mean, rms: tree.map(lambda x: over(x, rms.astype(x.dtype)), mean),
        smallest=lambda params: smallest_move(params) * float(tree.size(params)) ** 0.5,
    )


def check_settings(factory: str, settings: Settings) -> None:
    """The door for the arguments."""
    wanted = f"a number > 0, or None where no end is known: type {factory}(1000)"
    check_number(factory, "steps", settings.steps, low=0, open_low=True, open_high=True, wanted=wanted)
    check_number(factory, "learning_rate", settings.learning_rate, low=0, required=True, wanted="a number ≥ 0: type learning_rate=1.0, which is of no units")
    check_betas(factory, settings.betas, "three", (0.9, 0.99, 0.99))
    wanted = "a number > 0 or None: type first_distance=1e-6, far below the distance to the minimum"
    check_number(factory, "first_distance", settings.first_distance, low=0, open_low=True, open_high=True, wanted=wanted)
    check_number(factory, "weight_decay", settings.weight_decay, low=0, wanted="a number ≥ 0: type weight_decay=0.01, or leave it out")


def start(geometry: Geometry, settings: Settings, params: Params) -> ParameterFreeState:
    """The state before the first step."""
    first, zeros = widened(params), tree.zeros_like(widened(params))
    zero = jnp.zeros((), tree.dtype_of(params))
    given = settings.first_distance
    distance = zero + (jnp.maximum(FIRST_DISTANCE, geometry.smallest(params)) if given is None else jnp.asarray(given, zero.dtype))
    average = tree.copy(first) if settings.steps is None else None
    squares = tree.map(jnp.zeros_like, geometry.squares(zeros))
    none = jnp.int32(0)
    return ParameterFreeState(none, first, zeros, squares, zeros, zero, (zero, zero), zero + 1, distance, zero, average, none, zero)


def height(settings: Settings, step: jax.Array, dtype: Any) -> Scalar:
    """h: a line from the learning rate to 0 over the steps; without an end, its anytime counterpart."""
    k = step.astype(dtype)
    share = 1 / jnp.sqrt(1 + 3 * k / HALVED_BY) if settings.steps is None else jnp.maximum(1 - k / settings.steps, 0)
    return (settings.learning_rate * share).astype(dtype)


def advance(geometry: Geometry, settings: Settings, grads: Grads, state: ParameterFreeState, params: Params, value, value_fn) -> tuple[Updates, Any]:
    """One step: the bound of the distance first, then the means of the gradients with the new weights, then the move."""
    (beta1, beta2, beta3), g = settings.betas, tree.cast_like(grads, state.mean)
    d, more = _first_bound(geometry, settings, g, state, params, value, value_fn)
    unit = first_unit(state.unit, g)
    g = tree.scale(1 / jnp.where(unit > 0, unit, 1), g)
    h = height(settings, state.step, d.dtype)
    total = tree.add_scaled(tree.scale(beta3 * state.shrink, state.sum), h, g)
    products = (beta3 * state.shrink * state.products + h * tree.vdot(g, tree.subtract(state.start, params))).astype(d.dtype)
    distance = jnp.maximum(d, over(products, geometry.dual_norm(total))).astype(d.dtype)
    kept = d / distance
    mean = tree.add_scaled(tree.scale(beta1 * kept, state.mean), 1 - beta1, g)
    squares = tree.add_scaled(tree.scale(beta2 * kept**2, state.squares), 1 - beta2, geometry.squares(g))
    weights = (beta1 * kept * state.weights[0] + 1 - beta1, beta2 * kept**2 * state.weights[1] + 1 - beta2)
    ahead = tree.scale(1 / (beta1 * weights[0] + 1 - beta1), tree.add_scaled(tree.scale(beta1, mean), 1 - beta1, g))
    move = geometry.divide(ahead, tree.map(lambda v: root(v / weights[1].astype(v.dtype)), squares))
    move = move if settings.weight_decay is None else tree.add_scaled(move, settings.weight_decay, params)
    updates = tree.cast_like(tree.scale(-h * distance, move), params)
    step = jnp.asarray(optax.safe_increment(state.step))
    average = state.average if state.average is None else polynomial_average(state.average, moved(params, updates), step, GAMMA)
    weights = tuple(w.astype(d.dtype) for w in weights)
    new = ParameterFreeState(
        step, state.start, mean, squares, total, products, weights, (kept**2).astype(d.dtype), distance, h * distance, average, state.evaluations + more, unit
    )
    sound = tree.all_finite(grads)  # a broken batch is left out
    return tree.where(sound, updates, tree.zeros_like(updates)), tree.where(sound, new, state)


def _first_bound(geometry, settings, g, state, params, value, value_fn) -> tuple[Scalar, jax.Array]:
    """d, and how many losses that took: at the first step a share of max_c (f(x) − f(x − c u))/‖g‖, u steepest, which bounds the distance if f is convex."""
    if settings.first_distance is not None or value_fn is None or value is None or is_masked(params):  # the loss is a function of all params
        return state.distance, jnp.int32(0)
    if not tree.is_traced(state.step) and int(state.step) > 0:
        return state.distance, jnp.int32(0)  # outside of jit the loop would be compiled at every step
    # Derivatives pass by the first bound: it is a guess, and loops of unknown length have none backwards.
    g, params, dtype = tree.stop_gradient(g), tree.stop_gradient(params), state.distance.dtype
    f, u = lax.stop_gradient(jnp.asarray(value, dtype)), geometry.steepest(g)

    def falls(carry):
        trial, _, _, falling = carry
        return (state.step == 0) & falling & (trial < TRIALS)

    def look(carry):
        trial, last, best, _ = carry
        there = tree.add(params, tree.cast_like(tree.scale(-FIRST_DISTANCE * 10.0 ** trial.astype(dtype), u), params))
        seen = lax.stop_gradient(jnp.asarray(value_fn(there), dtype))
        return trial + 1, seen, jnp.maximum(best, jnp.where(seen <= last, f - seen, 0)), seen <= last

    trials, _, best, _ = lax.while_loop(falls, look, (jnp.int32(0), f, jnp.zeros_like(f), jnp.asarray(True)))
    return jnp.maximum(state.distance, SHARE * over(best, geometry.dual_norm(g))).astype(dtype), trials
