"""A look back at a run whose outcome calls for one: what its advice needs to be right and no step had to compute. On
the host, once, when the run is over.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax import tree
from gdjax.contexts import own_work
from gdjax.loop import step as stepping
from gdjax.loop.batches import Numbers, Plan, fetch
from gdjax.parts.held import per_loss
from gdjax.result import Result, Status, facts

BATCHES = 8  # looked at, of mini-batches
PRODUCTS = 6  # of the Hessian with a vector, for each batch
TRIALS = 17  # learning rates, each a tenth of the one before: from 1/L down, or about the one used where no curvature is met
MOST_ROWS = 4096  # of a matrix that are looked at for the sizes of its columns
WALKS, WALK = 6, 40  # tries of so many steps, each at a quarter of the learning rate before
FAR = (1e2, 1e4, 1e6, 1e8)  # times 1/L: a loss that still falls so far away has no bottom
SMALL, LARGE, LONG = (
    1e7,
    1e9,
    200,
)  # a look costs some twenty evaluations: of a small step, or of one not large after so many
GOLDEN = 0.6180339887498949


def affordable(work: float, steps: int) -> bool:
    """Whether a look is a small thing beside the run, by the entries of params and batch that a step touches."""
    return work <= SMALL or (work <= LARGE and steps >= LONG)


def on_batch(result: Result, start, work: float, objective, batch, key) -> Result:
    """The result of a full-batch run with what its advice asks for; ``start``: (params, model_state) where it began."""

    def look(place):
        return _around_batch(objective, *place, batch, key if objective.stochastic else None, _rate(result))

    if not _may_look(result, work):
        return result
    if facts.asks_about_the_start(result):
        return _told(result, lambda: look(start))
    return _told(result, lambda: look(_end(result))) if facts.asks_about_the_end(result) else result


def on_batches(result: Result, plan: Plan, start, work: float, block, validation, key) -> Result:
    """The same of a mini-batch run, by the batches of its last segment: a ``Block``, None where no step was made."""
    if block is None:
        return result
    stream, made = plan.source == "stream", max(min(block.reach, int(result.steps)) - block.offset, 1)
    given = {"a batch of the stream: data" if stream else "data": block.data, "validation": validation}
    result = of_inputs(result, given, rows_known=not stream)
    numbers = Numbers(*(np.int32(n) for n in (block.reach, block.reach, block.per_epoch, 0, 0, block.offset)))
    steps = np.arange(block.offset, block.offset + min(BATCHES, made), dtype=np.int32)

    def look(place):
        return _around_batches(plan, *place, block.data, block.rows, numbers, steps, key, _rate(result))

    if not _may_look(result, work):
        return result
    if facts.asks_about_the_start(result):
        return _told(result, lambda: look(start))
    return _told(result, lambda: _both_ends(look, start, _end(result))) if facts.asks_about_the_end(result) else result


def _both_ends(look, start, end) -> dict[str, Any]:
    """What is around the end, or around the start if the loss of the same batches is higher at the end: the losses
    seen in training cannot tell.
    """
    here, there = look(end), look(start)
    climbed = (here["mean_value"] - there["mean_value"]) / max(abs(float(there["mean_value"])), np.finfo(np.float32).tiny)
    return (there if climbed > facts.CLIMBED else here) | {"climbed": climbed}


def _may_look(result: Result, work: float) -> bool:
    return affordable(work, int(result.steps)) and not facts.Facts(result).spoilt


def _end(result: Result):
    return result.params, result.model_state


def _rate(result: Result) -> np.ndarray:
    return np.asarray(result.diagnosis.learning_rate, np.float32)


def _told(result: Result, look) -> Result:
    # A loss may have no second derivative, or no memory for it. The run is over and must not be lost for its advice,
    # which then does without numbers.
    try:
        with own_work(), jax.numpy_dtype_promotion("standard"):  # params are widened, which the loss did not ask for
            found = jax.device_get(look())
    except Exception:
        return result
    return told(result, **found)


def told(result: Result, **found: Any) -> Result:
    """The result with further fields of its diagnosis."""
    return dataclasses.replace(result, diagnosis=result.diagnosis._replace(**found))


@functools.partial(per_loss, static_argnums=0)
def _around_batch(objective, params, model_state, batch, key, used):
    def evaluate(params, _):
        return stepping.value_and_grad(objective, params, model_state, batch, key, None)

    return _around(evaluate, _wide(params), jnp.zeros(1, jnp.int32), used)


@functools.partial(per_loss, static_argnums=0)
def _around_batches(plan: Plan, params, model_state, data, rows, numbers, steps, key, used):
    def evaluate(params, step):
        batch, weights = fetch(plan, data, rows, numbers, step)
        inner = jax.random.fold_in(key, step) if plan.objective.stochastic else None
        return stepping.value_and_grad(plan.objective, params, model_state, batch, inner, weights)

    return _around(evaluate, _wide(params), steps, used)


def _wide(params):
    return jax.tree.map(lambda x: jnp.asarray(x, tree.dtype_of(x)), params)


def _around(evaluate, params, steps, used) -> dict[str, Any]:
    """Fields of the diagnosis: what is around the params, by the batches of these steps."""
    dtype, count = tree.dtype_of(params), steps.size

    def add(seen, step):
        value, grads, curvature = seen
        there = evaluate(params, step)
        largest = jnp.maximum(curvature, _largest(lambda p: evaluate(p, step).grads, params, there.grads))
        return (value + there.value / count, tree.add_scaled(grads, 1 / count, there.grads), largest), tree.norm(there.grads)

    zero = jnp.zeros((), dtype)
    (value, grads, curvature), norms = lax.scan(add, (zero, tree.zeros_like(params), zero), steps)
    slope = tree.norm(grads)
    first = jnp.where(curvature > 0, 1 / curvature, used * 10 ** (TRIALS // 2)).astype(dtype)
    rates = first * jnp.concatenate([10.0 ** -jnp.arange(TRIALS, dtype=dtype), jnp.asarray(FAR, dtype)])
    values = lax.map(lambda rate: _mean(evaluate, tree.add_scaled(params, -rate, grads), steps), rates).astype(dtype)
    rates, values, far = rates[:TRIALS], values[:TRIALS], values[TRIALS:]
    rounding = 32 * jnp.finfo(dtype).eps * jnp.abs(value)
    clear = _clear_rate(rates, value - values, rounding, slope)
    return dict(
        mean_value=value,
        curvature=jnp.where(curvature > 0, curvature, jnp.nan),
        clear_rate=clear,
        lasting_rate=_lasting_rate(evaluate, params, steps, clear, value + rounding),
        edge_rate=jnp.nanmin(jnp.where(jnp.isfinite(values), jnp.nan, rates)),
        far_value=jnp.where(jnp.all((far[1:] < far[:-1]) | jnp.isneginf(far[1:])), far[-1], jnp.nan),
        signal=_signal(slope, norms),
    )


def _mean(evaluate, params, steps):
    return jnp.mean(lax.map(lambda step: evaluate(params, step).value, steps))


def _largest(slope, params, grads):
    """The size of the largest curvature met by the power method, from the gradient and a fixed direction with a part
    along every other: a bound from below.
    """
    spread = lambda x: (jnp.mod(jnp.arange(1, x.size + 1) * GOLDEN, 1.0) - 0.5).reshape(x.shape)  # noqa: E731
    aside = _unit(jax.tree.map(lambda x: spread(x).astype(x.dtype), params))

    def product(_, seen):
        image = jax.jvp(slope, (params,), (seen[0],))[1]
        return _unit(image), tree.norm(image)

    return lax.fori_loop(0, PRODUCTS, product, (_unit(tree.add_scaled(_unit(grads), 0.5, aside)), jnp.zeros((), tree.dtype_of(params))))[1]


def _unit(direction):
    norm = tree.norm(direction)
    return tree.scale(jnp.where(norm > 0, 1 / norm, 0), direction)


def _clear_rate(rates, fallen, rounding, slope):
    """The first of these rates at which the loss falls by a quarter of what its slope promises; 0 if it does at none.

    Falls below rounding are not seen. Where all that 1/L promises is below it, nothing speaks against 1/L.
    """
    quarter = 0.25 * rates * slope * slope
    enough = (fallen >= quarter) & (fallen > rounding)
    hidden = (jnp.arange(rates.size) == 0) & (quarter <= rounding) & (jnp.abs(fallen) <= 2 * rounding)
    enough = enough | hidden
    return jnp.where(jnp.any(enough), rates[jnp.argmax(enough)], 0)


def _lasting_rate(evaluate, params, steps, first, most):
    """The first learning rate at which a walk, over one batch after the other, ends no higher than it began; NaN if
    none does. A step alone may mislead.
    """

    def walked(rate):
        step = lambda i, p: tree.add_scaled(p, -rate, evaluate(p, steps[i % steps.size]).grads)  # noqa: E731
        return _mean(evaluate, lax.fori_loop(0, WALK, step, params), steps)

    def again(tried):
        rate, _, count = tried
        return rate / 4, walked(rate) <= most, count + 1

    first = jnp.where(first > 0, first, jnp.nan)
    rate, lasts, _ = lax.while_loop(lambda tried: ~tried[1] & (tried[2] < WALKS) & (tried[0] > 0), again, (first, jnp.asarray(False), 0))
    return jnp.where(lasts, 4 * rate, jnp.nan)


def _signal(slope, norms):
    """‖ḡ‖² of the mean of some gradients over their variance about it, (Σ‖gᵢ‖² − n‖ḡ‖²)/(n − 1); NaN for one."""
    if norms.size == 1:
        return jnp.full_like(slope, jnp.nan)
    largest = jnp.maximum(jnp.max(norms), jnp.finfo(norms.dtype).tiny)
    mean, each = slope / largest, norms / largest
    return mean**2 / jnp.maximum((jnp.sum(each**2) - norms.size * mean**2) / (norms.size - 1), jnp.finfo(norms.dtype).eps)


# ---- what was given


def of_inputs(result: Result, given: dict[str, Any], rows_known: bool = True) -> Result:
    """The result with the first place at which the data given, by name, are not finite, and the first step at which
    the schedule gave no number ≥ 0.
    """
    paths = [jax.tree_util.tree_leaves_with_path(tree_of_data) for tree_of_data in given.values()]
    leaves = [(name + jax.tree_util.keystr(path), leaf) for name, found in zip(given, paths, strict=True) for path, leaf in found]
    result = dataclasses.replace(result, leaf_names=tuple(name for name, _ in leaves))
    if facts.asks_about_the_scales(result):
        result = _of_scales(result, [leaf for _, leaf in leaves])
    if not facts.asks_about_the_inputs(result):
        return result
    for index, (_, leaf) in enumerate(leaves):
        row, number = _first_not_finite(leaf)
        if number is not None:
            result = told(
                result,
                bad_leaf=np.int32(index),
                bad_row=np.int32(row if rows_known else -1),
                bad_number=np.float32(number),
            )
            break
    return _of_schedule(result)


def _first_not_finite(leaf) -> tuple[int, float | None]:
    """(row, number) of the first entry that is NaN or infinite, by blocks of rows; the number is None where there is
    none.
    """
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating) or not getattr(leaf, "is_fully_addressable", True):
        return -1, None
    array = np.asarray(leaf)
    if not array.size:
        return -1, None
    rows = array.reshape(1, -1) if array.ndim == 0 else array.reshape(len(array), -1)
    block = max(1, (1 << 20) // max(rows.shape[1], 1))
    for first in range(0, len(rows), block):
        part = rows[first : first + block]
        bad = ~np.isfinite(part)
        if bad.any():
            row = int(np.argmax(bad.any(axis=1)))
            return (first + row if array.ndim else -1), float(part[row][np.argmax(bad[row])])
    return -1, None


def _of_scales(result: Result, leaves) -> Result:
    """The result with the matrix whose columns differ most in size, to go by some of its rows."""
    factors = [_unevenness(leaf) for leaf in leaves]
    index = int(np.argmax(factors)) if factors else -1
    return told(result, uneven_leaf=np.int32(index), uneven=np.float32(factors[index])) if factors else result


def _unevenness(leaf) -> float:
    """The largest column of a matrix over its smallest that is not 0, in the root of the mean square; 1 for all else."""
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating) or np.ndim(leaf) != 2:
        return 1.0
    if not getattr(leaf, "is_fully_addressable", True) or not np.size(leaf):
        return 1.0
    some = np.asarray(np.asarray(leaf)[:: max(1, len(leaf) // MOST_ROWS)], np.float64)
    sizes = np.sqrt(np.mean(some**2, axis=0))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    return float(sizes.max() / sizes.min()) if len(sizes) else 1.0


def _of_schedule(result: Result) -> Result:
    schedule = facts.chosen_rate(result.rule)
    if not callable(schedule):
        return result
    # What broke a run is a step or two beyond the params returned, the last sound ones.
    broke = result.status in (Status.NONFINITE, Status.DIVERGED)
    try:
        rates = np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(int(result.steps) + (3 if broke else 0))), np.float64)
    except Exception:  # a schedule that takes one step at a time; what it gave is then not known
        return result
    bad = ~(np.isfinite(rates) & (rates >= 0))
    return told(result, bad_step=np.int32(np.argmax(bad)), bad_rate=np.float32(rates[np.argmax(bad)])) if bad.any() else result
