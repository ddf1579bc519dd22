"""``range_test``: the loss along one short run whose learning rate grows from far too small to far too large."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.brief import brief_repr
from gdjax.checks import check_callable, check_count
from gdjax.contexts import promoting, undisturbed
from gdjax.diagnose.problem import Problem, checked, gradient, rows_of_batches
from gdjax.loop import lanes
from gdjax.parts.held import per_loss
from gdjax.rule import as_rule, needs_examples
from gdjax.rules import sgd
from gdjax.typing import Data, LossFn, ModelState, Params, Seed

WATCHED, WATCHED_LEAST = 8, 256  # examples by which steps are judged: so many batches, so many at least
DECADE = 0.25  # width of the smoothing, in the natural logarithm of the learning rate: a ninth of a decade
MOVED = 1e-3  # of the loss: what falls by less has not moved
LEAST, MOST = 1e-30, 1e30  # learning rates that float32 holds with room to spare
ALL_LOST = 1.0  # the test ends where the loss has risen by so many times what it had fallen, or its first value, and rests there


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["learning_rates", "values", "smoothed", "suggestion", "lowest_at", "diverged_at", "diverged", "moved"],
    meta_fields=[],
)
@dataclass(frozen=True)
class RangeTest:
    """What ``gdjax.range_test`` saw, a pytree. Arrays of shape (steps,) or (); with an axis of seeds before it under ``vmap``.

    Attributes:
        learning_rates: of each step, float32, evenly spaced in the logarithm.
        values: the loss at the start of each step, of all data or of examples that stay the same; NaN once the test has ended.
        smoothed: their mean over a ninth of a decade around each learning rate.
        suggestion: the learning rate at which ``smoothed`` falls fastest, d loss / d log learning rate; NaN where nothing moved.
        lowest_at: the learning rate at which ``smoothed`` is lowest.
        diverged_at: the first learning rate by which all that was gained was lost again; NaN where that did not happen.
        diverged: whether it happened. If not, larger learning rates are worth a try.
        moved: whether the loss fell, by a thousandth of itself at least. If not, there is nothing to suggest.
    """

    learning_rates: Any
    values: Any
    smoothed: Any
    suggestion: Any
    lowest_at: Any
    diverged_at: Any
    diverged: Any
    moved: Any

    __repr__ = brief_repr

    @property
    def message(self) -> str:
        """What was seen, in a sentence."""
        if np.ndim(self.suggestion):
            if np.all(np.isnan(self.suggestion)):
                return f"{np.size(self.suggestion)} tests: the loss moved in none of them"
            return f"{np.size(self.suggestion)} tests: suggestions from {np.nanmin(self.suggestion):.3g} to {np.nanmax(self.suggestion):.3g}"
        rates = np.asarray(self.learning_rates)
        tried = f"learning rates from {rates[0]:.3g} to {rates[-1]:.3g}"
        if not bool(self.moved):
            if bool(self.diverged):
                rose = f"the loss rose from {float(self.diverged_at):.3g} on, and before that fell by less than a thousandth"
                return f"{tried}: {rose}. Start lower, or check that this is no minimum."
            return f"{tried}: the loss hardly moved. Try larger ones: high={rates[-1] * 100:.3g}."
        fell = f"{tried}: the loss falls fastest at {float(self.suggestion):.3g}"
        if bool(self.diverged):
            return f"{fell}, is lowest at {float(self.lowest_at):.3g} and lost from {float(self.diverged_at):.3g} on."
        return f"{fell}; nothing diverged: larger ones may do: high={rates[-1] * 100:.3g}."

    def __str__(self):
        return f"range test: {self.message}"


@undisturbed
@promoting  # params are widened here, which the loss did not ask for
def range_test(
    loss_fn: LossFn, params: Params, data: Data | None = None, make_rule: Any = None, *, batch_size: int | None = None, low: float = 1e-7, high: float = 10.0,
    steps: int = 100, key: Seed | None = None, has_aux: bool = False, stochastic: bool = False, model_state: ModelState = None,
) -> RangeTest:  # fmt: skip
    """A learning-rate range test: ``steps`` steps of a rule whose learning rate grows from ``low`` to ``high``, and where the loss fell fastest.

    Step t = 0, 1, … uses hₜ = low (high/low)^(t/(steps − 1)) on its own batch. With batches, the loss is taken of eight batches' worth of examples, 256 at
    least, the same after every step, so that the curve has no noise of batches. One compiled pass; ``params`` stay as they are. The test ends where the loss
    has lost all that it had gained, and as much again.

    Args:
        loss_fn: as in ``fit``; with ``data=None`` a function of the params alone.
        params: where it starts.
        data: a pytree of arrays with a common leading axis.
        make_rule: a function of a learning rate that returns a rule: ``gdjax.sgd``, ``gdjax.rule(optax.adam)``, or your own. None: ``gdjax.sgd``. The learning
            rate must be a leaf of the rule that its state does not keep, which is how every step gets its own.
        batch_size: None for all data at every step, an int for batches, each example once before any comes again.
        low: the first learning rate, above 0.
        high: the last, above ``low``.
        steps: of the test, each worth a gradient, and with batches a loss of eight (256 examples at least).
        key: a seed or key, for the batches or a ``stochastic`` loss.
        has_aux: as in ``fit``.
        stochastic: as in ``fit``.
        model_state: as in ``fit``.

    Returns:
        A ``RangeTest``; ``print`` it. It is a pure function: ``jax.vmap`` over keys gives one test per seed.

    Raises:
        TypeError, ValueError: bad arguments, named with what is wanted, before anything is computed; a loss that is not finite at the start (outside traces).

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> found = gdjax.range_test(lambda w: jnp.sum(jnp.array([1.0, 10.0]) * w**2), jnp.ones(2), make_rule=gdjax.gd)
        >>> print(bool(found.moved), bool(found.diverged), bool(0.001 < found.suggestion < 0.1))
        True True True

    Reference:
        Smith 2017, arXiv:1506.01186. Differs from it in: the derivative is with respect to the logarithm of the learning rate, the loss that of the same
        examples at every step.
    """
    objective, problem, count = checked("range_test", loss_fn, params, data, batch_size, key, has_aux, stochastic, model_state)
    check_count("steps", steps, 3)
    make_rule = check_callable(sgd if make_rule is None else make_rule, "make_rule")
    check_no_examples("range_test", as_rule(make_rule(0.1), "make_rule(0.1)"))
    for name, rate in (("low", low), ("high", high)):
        check_number("range_test", name, rate, low=LEAST, high=MOST, required=True, wanted=f"{LEAST:g} ≤ low < high ≤ {MOST:g}: type low=1e-5")
        if np.ndim(rate):
            raise ValueError(f"range_test: {name} has shape {np.shape(rate)}; wanted one number: for several tests type jax.vmap.")
    if not tree.is_traced(low, high) and not np.all(np.asarray(low) < np.asarray(high)):
        raise ValueError(f"range_test: low is {low} and high is {high}; wanted low < high: type low=1e-5, high=1.0.")
    sizes = (int(steps), None if batch_size is None else int(batch_size), count)
    found = _test(objective, make_rule, sizes, problem, jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32))
    if not tree.is_traced(found) and not np.all(np.isfinite(np.asarray(found.values)[..., 0])):
        raise ValueError("range_test: the loss is not finite at params; wanted a finite start: check params and data.")
    return found


def check_no_examples(door: str, rule) -> None:
    """Raise for rules that want the examples of the data, such as ``saga``: only ``fit`` has them."""
    if needs_examples(rule):
        raise ValueError(f"{door}: {rule!r} wants the examples of the data, which only fit offers; sweep it: type gdjax.sweep(run, gdjax.grid(...)).")


@functools.partial(per_loss, static_argnums=(0, 1, 2))
def _test(objective, make_rule, sizes: tuple, problem: Problem, low, high) -> RangeTest:
    steps, batch_size, count = sizes
    share = jnp.arange(steps, dtype=jnp.float32) / (steps - 1)
    rates = jnp.exp((1 - share) * jnp.log(low) + share * jnp.log(high)).at[0].set(low).at[-1].set(high)
    keys: Any = (None,) * 3 if problem.key is None else jax.random.split(problem.key, 3)
    order, inner, some = keys
    batches = _Batches(objective, problem, inner)
    if batch_size is not None:
        watched = jax.random.choice(some, count, (min(max(WATCHED * batch_size, WATCHED_LEAST), count),), replace=False)
        batches = batches._replace(rows=rows_of_batches(order, count, batch_size, steps), watched=watched)

    def step(carry, given):
        run, lowest, first, over = carry
        index, rate = given
        run = lanes.when(~over, lambda _, run: _step(batches, make_rule, index, rate, run), run)
        value = run[2]
        first, lowest = jnp.where(index == 0, value, first), jnp.minimum(lowest, value)  # NaN stays NaN
        lost = ~(value - lowest <= (1 + ALL_LOST) * jnp.maximum(first - lowest, jnp.abs(first)))
        return (run, lowest, first, over | lost), jnp.where(over, jnp.nan, value)

    zero = jnp.zeros((), jnp.float32)
    run = problem.params, as_rule(make_rule(low)).init(problem.params), zero
    (run, *_), values = lax.scan(step, (run, jnp.float32(jnp.inf), zero, jnp.asarray(False)), (jnp.arange(steps), rates))
    return _judged(rates, values)


class _Batches(NamedTuple):
    objective: Any
    problem: Problem
    key: Any
    rows: Any = None  # int32, (steps, batch_size); None: all data at every step
    watched: Any = None  # rows by which the loss is judged

    def at(self, index):
        """params -> (value, gradient) on the batch of a step."""
        return gradient(self.objective, self.problem, self._take(None if self.rows is None else self.rows[index]), self._key(index))

    def judge(self, params):
        """The loss by which steps are judged: of the same examples every time, so that it has no noise of batches."""
        return gradient(self.objective, self.problem, self._take(self.watched), self._key(0))(params)[0]

    def _take(self, rows):
        return self.problem.batch if rows is None else jax.tree.map(lambda x: x[rows], self.problem.batch)

    def _key(self, index):
        return jax.random.fold_in(self.key, index) if self.objective.stochastic else None


def _step(batches: _Batches, make_rule, index, rate, run):
    params, state, _ = run
    value_and_grad = batches.at(index)
    value, grads = value_and_grad(params)
    judged = value if batches.watched is None else batches.judge(params)
    offered = {"value": value, "grad": grads, "value_fn": lambda p: value_and_grad(p)[0], "value_and_grad_fn": value_and_grad}
    updates, state = as_rule(make_rule(rate)).update(grads, state, params, **offered)
    return tree.cast_like(tree.add(params, updates), params), state, judged.astype(jnp.float32)


def _judged(rates, values) -> RangeTest:
    place, width = jnp.arange(len(rates)), (jnp.log(rates[-1]) - jnp.log(rates[0])) / (len(rates) - 1)
    seen = jnp.isfinite(values)
    smoothed = _smoothed(values, jnp.maximum(DECADE / width, 1.0))
    lowest = jnp.argmin(jnp.where(seen, smoothed, jnp.inf))
    first, fell = values[0], values[0] - smoothed[lowest]
    moved = fell > MOVED * jnp.maximum(jnp.abs(first), fell)
    # Rates are evenly spaced in the logarithm, so that differences are derivatives with respect to it.
    slope: Any = jnp.gradient(smoothed)
    steepest = jnp.argmin(jnp.where((place <= lowest) & jnp.isfinite(slope), slope, jnp.inf))
    lost = (place > lowest) & ~(values <= first + MOVED * jnp.maximum(jnp.abs(first), fell)) | ~seen & (place > 0)
    diverged = jnp.any(lost)
    at = jnp.where(diverged, rates[jnp.argmax(lost)], jnp.nan)
    return RangeTest(rates, values, smoothed, jnp.where(moved, rates[steepest], jnp.nan), rates[lowest], at, diverged, moved)


def _smoothed(values, width):
    """Means around each value with Gaussian weights of this width, in steps; NaN stays where it is."""
    place = jnp.arange(len(values), dtype=jnp.float32)
    weights = jnp.exp(-0.5 * jnp.square((place[:, None] - place[None, :]) / width)) * jnp.isfinite(values)[None, :].astype(width.dtype)
    return jnp.where(jnp.isfinite(values), weights @ jnp.nan_to_num(values, posinf=0.0, neginf=0.0) / jnp.sum(weights, 1), jnp.nan)
