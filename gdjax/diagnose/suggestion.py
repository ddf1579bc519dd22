"""``suggest``: a learning rate for a loss and a rule, with the reasons, and how sure it is."""

from __future__ import annotations

import functools
import inspect
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import data as sources, schedules
from gdjax._fit import evaluate, fit
from gdjax._minimize import minimize
from gdjax._sweep import sweep
from gdjax.diagnose.curvature import Smoothness, smoothness
from gdjax.diagnose.ranges import RangeTest, range_test
from gdjax.loop import host
from gdjax.loop.options import check_callable, check_count
from gdjax.result import Status
from gdjax.rule import as_rule
from gdjax.rules import gd, sgd
from gdjax.sampling import stacked
from gdjax.typing import Data, Key, LossFn, Params

LOW, HIGH, RANGE_STEPS = 1e-8, 1e4, 241  # of the range test: 20 learning rates per decade
STILL = 100  # times as long: a schedule told so many steps does not move during the range test
EDGES = 4  # how often trials are added at an edge
CAP = 0.05  # of the way: neighbours count as worse by no more
SHARE = 0.02  # of the way from the start to the best: a loss this close is as good
JUDGED = 8192  # examples at most by which a trial is judged


class Plan(NamedTuple):
    """Which trials are made: learning rates times those of the first guess, then times the best of these."""

    coarse: np.ndarray
    fine: np.ndarray
    seeds: int  # orders of the data for the fine ones
    more: int  # learning rates added at an edge at which the best stands, up to four times

    @property
    def runs(self) -> int:
        """What all trials cost, in runs."""
        return len(self.coarse) + self.seeds * len(self.fine)


THOROUGH = Plan(2.0 ** np.arange(-7, 5), 2.0 ** (np.arange(-3, 4) / 2), 3, 4)
LEAN = Plan(4.0 ** np.arange(-3, 2), 2.0 ** np.arange(-1, 2, 2), 0, 2)


@dataclass(frozen=True)
class Suggestion:
    """What ``gdjax.suggest`` found. ``print`` it.

    Attributes:
        learning_rate: what to take.
        low, high: learning rates tried between which the final loss stays within 2 % of the way from the start to the best.
        factor: how sure it is: the best learning rates of single trials (one per order of the data) lay within this factor of the one suggested.
        rule: ``make_rule`` of it.
        value: the final loss at it, mean over the trials.
        initial_value: the loss at the start.
        reasons: sentences.
        learning_rates, values: all that were tried, increasing, and the final loss of each (mean over orders of the data; inf where a trial failed).
        smoothness, range_test: what these said.
        steps: of a trial.
        evaluations: gradients taken for all of it, or about as much work.
    """

    learning_rate: float
    low: float
    high: float
    factor: float
    rule: Any
    value: float
    initial_value: float
    reasons: tuple[str, ...]
    learning_rates: np.ndarray
    values: np.ndarray
    smoothness: Smoothness
    range_test: RangeTest
    steps: int
    evaluations: int

    @property
    def sure(self) -> str:
        """How sure, in words."""
        if self.value >= self.initial_value:
            return "not sure"
        if self.factor <= 1.5 or (self.low <= self.learning_rate / self.factor and self.learning_rate * self.factor <= self.high):
            return "sure"
        return "fairly sure" if self.factor <= 2.5 else "not sure"

    def __str__(self):
        head = f"learning rate {self.learning_rate:.3g}, {self.sure}: {self.low:.3g} to {self.high:.3g} do about as well"
        return "\n".join([head, *(f"  {reason}" for reason in self.reasons), f"  take {self.rule!r}"])


class _Task(NamedTuple):
    loss_fn: Any
    params: Any  # pytree, or a function of a key
    data: Any
    judged: Any  # data by which trials are judged
    make: Any  # (learning rate, steps) -> rule
    plan: Plan
    batch_size: int | None
    steps: int  # of a trial
    key: Any
    options: dict[str, Any]

    def rule(self, rate):
        """For a trial."""
        return self.make(rate, float(self.steps))

    def start(self, key):
        """The params of a trial."""
        return self.params(key) if callable(self.params) else self.params

    def loss_at(self, params):
        """The loss by which trials are judged."""
        return _value(self.loss_fn, bool(self.options), params, self.judged)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _value(loss_fn, has_aux: bool, params, data):
    seen = loss_fn(params) if data is None else evaluate(loss_fn, params, data, has_aux=has_aux)
    return seen[0] if has_aux else seen


class _Trials(NamedTuple):
    rates: np.ndarray  # (rates,), increasing
    scores: np.ndarray  # (rates, seeds): the final loss; inf where the run failed

    @property
    def means(self) -> np.ndarray:
        return self.scores.mean(1)

    def best(self, initial: float) -> int:
        """The learning rate of the least loss, taken with a quarter of each neighbour's; what exceeds the least by a twentieth of the way counts as that.

        So of rates that are about as good one is chosen that stands clear of those that are not.
        """
        least = self.means.min()
        capped = np.minimum(self.means, least + CAP * max(initial - least, 0.0))
        wide = np.pad(capped, 1, mode="edge")
        return int(np.argmin(np.where(np.isfinite(self.means), 0.25 * wide[:-2] + 0.5 * capped + 0.25 * wide[2:], np.inf)))

    def joined(self, other: _Trials) -> _Trials:
        order = np.argsort(np.append(self.rates, other.rates))
        return _Trials(np.append(self.rates, other.rates)[order], np.concatenate([self.scores, other.scores])[order])


def suggest(
    loss_fn: LossFn, params: Params, data: Data | None = None, make_rule: Any = None, *, steps: int, batch_size: int | None = None,
    key: Key | int | None = None, budget: float | None = None, validation: Data | None = None, has_aux: bool = False,
) -> Suggestion:  # fmt: skip
    """A learning rate for a run of ``steps`` steps, why, and how sure: by the curvature, a range test, and trials around what these say.

    The curvature (``gdjax.smoothness``) bounds the learning rates that are stable at the start; the range test (``gdjax.range_test``) shows where the loss
    falls and where it is lost. Neither knows the length of the run, its schedule or the noise of the batches, by which the best differs from them by factors
    of 0.02 to 30 on the tasks it was measured on. So trials decide, run side by side: 12 learning rates a factor of 2 apart, more at an edge at which the
    best stands, then 7 around the best a factor of √2 apart on three other orders of the data. The rate of the least mean loss is suggested, of several
    about as good one whose neighbours are good too; where the next larger one failed, one that is a little smaller.

    Args:
        loss_fn: as in ``fit``; with ``data=None`` a function of the params alone, as in ``minimize``.
        params: where the runs start; or a function of a key that draws it, so that the trials start from different ones.
        data: a pytree of arrays with a common leading axis.
        make_rule: ``make_rule(learning_rate)``, or ``make_rule(learning_rate, steps)``, which returns a rule. Default: with batches
            ``gdjax.sgd(gdjax.schedules.cosine(learning_rate, steps), momentum=0.9)``, else ``gdjax.gd(learning_rate)``.
        steps: of the run for which a learning rate is wanted.
        batch_size: None for all data at every step.
        key: a seed or key, where there are batches.
        budget: work to spend on trials, in runs of ``steps`` steps. Default: 33, as above. With less: 5 learning rates a factor of 4 apart and the two beside
            the best of these, on one order of the data, 7 runs; with less than that these are shorter. See Measured in the README.
        validation: data on which trials are judged. Default: those they are trained on (8192 of them at most).
        has_aux: the loss returns aux beside its value.

    Returns:
        A ``Suggestion``.

    Raises:
        TypeError, ValueError: bad arguments; a loss that is not finite at the start; every trial failed. Inside jit, vmap or grad.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> found = gdjax.suggest(lambda w: jnp.sum(jnp.array([1.0, 25.0]) * w**2), jnp.ones(2), steps=100)
        >>> print(0.02 < found.learning_rate < 0.04, f"{found.smoothness.stable_below():.3f}")
        True 0.040
    """
    if host.under_trace(loss_fn, params, None if data is None or sources.is_stream(data) else data, key):
        raise ValueError("suggest: called inside jit, vmap or grad, where trials cannot be looked at; call it outside and pass learning_rate on.")
    task = _checked(loss_fn, params, data, make_rule, steps, batch_size, key, budget, validation, has_aux)
    seen = _Seen.of(task)
    coarse, spent = _widened(task, seen, seen.centre * task.plan.coarse, [0], 0)
    rates = float(coarse.rates[np.argmin(coarse.means)]) * task.plan.fine
    if task.plan.seeds == 0:
        tried = _tried(task, rates, [0])
        fine = coarse = coarse.joined(tried)
        spent += len(rates) * task.steps
    else:
        fine, spent = _widened(task, seen, rates, list(range(1, 1 + task.plan.seeds)), spent)
    trials = fine if np.isfinite(fine.means).any() else coarse
    if not np.isfinite(trials.means).any():
        raise ValueError(f"suggest: every trial failed, at learning rates from {coarse.rates[0]:.2g} to {coarse.rates[-1]:.2g}; check the loss and the data.")
    return _suggestion(task, seen, coarse, trials, spent)


class _Seen(NamedTuple):
    smoothness: Smoothness
    range_test: RangeTest
    initial: float
    centre: float  # of the first trials
    work: int

    @classmethod
    def of(cls, task: _Task) -> _Seen:
        """What the curvature and the range test say."""
        params = task.start(task.key)
        initial = float(task.loss_at(params))
        if not math.isfinite(initial):
            raise ValueError(f"suggest: the loss is {initial} at params; wanted a finite start: check params and data.")
        given: dict[str, Any] = dict(batch_size=task.batch_size, key=task.key, **task.options)
        curved = smoothness(task.loss_fn, params, task.data, **given)
        still = _Still(task.make, float(max(task.steps, STILL * RANGE_STEPS)))
        ranged = range_test(task.loss_fn, params, task.data, still, low=LOW, high=HIGH, steps=RANGE_STEPS, **given)
        limit = float(np.min(np.asarray(curved.stable_below())))
        centre = float(ranged.lowest_at) if bool(ranged.moved) else limit / 2 if math.isfinite(limit) else 1.0
        work = curved.products * 2 * np.size(curved.largest) + RANGE_STEPS * (1 if task.batch_size is None else 4)
        return cls(curved, ranged, initial, float(np.clip(centre, 1e-20, 1e20)), int(work))


class _Still(NamedTuple):
    """A function of a learning rate alone, the same for the same arguments, so that programs made for it are found again."""

    make: Any
    steps: float

    def __call__(self, rate):
        return self.make(rate, self.steps)


def _widened(task: _Task, seen: _Seen, rates: np.ndarray, seeds: list[int], spent: int) -> tuple[_Trials, int]:
    """Trials at these learning rates, and at more beyond an edge at which the best stands; downwards where none made progress."""
    trials, ratio = _tried(task, rates, seeds), rates[1] / rates[0]
    spent += len(rates) * len(seeds) * task.steps
    for _ in range(EDGES):
        best = int(np.argmin(trials.means))
        progress = trials.means[best] < seen.initial
        up = best == len(trials.rates) - 1 and progress
        if progress and not up and best > 0:
            break
        more = trials.rates[-1 if up else 0] * ratio ** (np.arange(1, task.plan.more + 1) * (1 if up else -1))
        trials = trials.joined(_tried(task, more, seeds))
        spent += len(more) * len(seeds) * task.steps
    return trials, spent


def _tried(task: _Task, rates: np.ndarray, seeds: list[int]) -> _Trials:
    """A run at every learning rate and seed, side by side."""
    rates = np.sort(np.asarray(rates, np.float64))
    keys = None if task.key is None else [jax.random.fold_in(task.key, seed) for seed in seeds]

    def run(rule, key=None):
        start = task.start(key)
        if task.data is None:
            result = minimize(task.loss_fn, start, rule, max_steps=task.steps, history=(), **task.options)
        else:
            result = fit(task.loss_fn, start, task.data, rule, batch_size=task.batch_size, steps=task.steps, key=key, history=(), **task.options)
        value = task.loss_at(result.params) if task.batch_size is not None or task.judged is not task.data else result.value
        return {"value": value, "code": result.code, "steps": result.steps}

    made = sweep(run, stacked([as_rule(task.rule(float(rate))) for rate in rates]), keys=keys, score=_score)
    scores = made.scores.reshape(len(rates), -1)
    if task.batch_size is None:
        scores = _sooner(scores, made.results)
    return _Trials(rates, scores)


def _score(found):
    failed = (found["code"] == Status.DIVERGED) | (found["code"] == Status.NONFINITE)
    return jnp.where(failed, jnp.inf, found["value"])


def _sooner(scores: np.ndarray, results: Any) -> np.ndarray:
    """Full-batch runs that have converged differ by how soon: the later, the more is added, by less than rounding hides."""
    steps, codes = (np.asarray(results[name]).reshape(scores.shape) for name in ("steps", "code"))
    done = codes == Status.CONVERGED
    if not done.any():
        return scores
    least = scores[done].min()
    spread = 1e-6 * max(abs(least), np.ptp(scores[np.isfinite(scores)]), 1e-30)
    return np.where(done, least + spread * steps / max(steps.max(), 1), np.maximum(scores, least + spread))


def _suggestion(task: _Task, seen: _Seen, coarse: _Trials, fine: _Trials, spent: int) -> Suggestion:
    means, best = fine.means, fine.best(seen.initial)
    careful = best + 1 < len(means) and not np.isfinite(means[best + 1])
    # The largest rate that did not fail stands beside one that did: half a step back, towards the next smaller.
    rate = float(np.sqrt(fine.rates[best] * fine.rates[max(best - 1, 0)])) if careful else float(fine.rates[best])
    each = fine.rates[np.argmin(np.where(np.isfinite(fine.scores), fine.scores, np.inf), 0)]
    ratio = float(fine.rates[1] / fine.rates[0]) ** 0.5
    factor = float(np.exp(np.max(np.abs(np.log(each / rate))))) * ratio
    both = coarse.joined(fine._replace(scores=fine.means[:, None])) if fine is not coarse else coarse
    low, high = _around(both, rate, means[best] + SHARE * max(seen.initial - means[best], 0))
    reasons = _reasons(task, seen, coarse, fine, rate, means[best], careful)
    return Suggestion(
        learning_rate=rate,
        low=low,
        high=high,
        factor=factor,
        rule=task.rule(rate),
        value=float(means[best]),
        initial_value=seen.initial,
        reasons=reasons,
        learning_rates=both.rates,
        values=both.means,
        smoothness=seen.smoothness,
        range_test=seen.range_test,
        steps=task.steps,
        evaluations=spent + seen.work,
    )


def _around(trials: _Trials, rate: float, most: float) -> tuple[float, float]:
    """The ends of the run of learning rates around this one whose loss is at most so large."""
    bad = trials.rates[~(trials.means <= most)]
    first, last = bad[bad < rate].max(initial=0), bad[bad > rate].min(initial=np.inf)
    inside = np.append(trials.rates[(trials.rates > first) & (trials.rates < last)], rate)
    return float(inside.min()), float(inside.max())


def _reasons(task: _Task, seen: _Seen, coarse: _Trials, fine: _Trials, rate: float, value: float, careful: bool) -> tuple[str, ...]:
    both = coarse if fine is coarse else coarse.joined(fine._replace(scores=fine.means[:, None]))
    count, failed = coarse.scores.size + (0 if fine is coarse else fine.scores.size), both.rates[~np.isfinite(both.means)]
    least = f"the least loss, {value:.4g} from {seen.initial:.4g} at the start, near {rate:.3g}"
    failing = f"; from {failed.min():.3g} on runs fail" if len(failed) else ""
    found = [f"{count} trials of {task.steps} steps, learning rates from {both.rates[0]:.2g} to {both.rates[-1]:.2g}: {least}{failing}"]
    if value >= seen.initial:
        found.append("no trial ended below the loss at the start: is that a minimum?")
    if careful:
        found.append("the next larger learning rate failed, so this is half a step below the best")
    found.append(f"range test, a constant learning rate that grows: {seen.range_test.message}")
    limit = float(np.min(np.asarray(seen.smoothness.stable_below())))
    words = "the curvature at the start bounds no learning rate" if not math.isfinite(limit) else f"2/L at the start is {limit:.3g}"
    found.append(f"curvature: {words}{'' if seen.smoothness.largest.ndim == 0 else ' on the steepest of 8 batches'}, for plain gradient steps")
    return tuple(found)


def _checked(loss_fn, params, data, make_rule, steps, batch_size, key, budget, validation, has_aux) -> _Task:
    check_callable(loss_fn, "loss_fn")
    check_count("steps", steps, 1)
    if budget is not None and not (isinstance(budget, (int, float)) and 0 < budget < math.inf):
        raise ValueError(f"suggest: budget is {budget!r}; wanted work in runs, above 0, or None for {THOROUGH.runs}: type budget=7.")
    if data is None and (batch_size is not None or validation is not None):
        raise ValueError("suggest: batch_size or validation without data; wanted data, a pytree of arrays with a common leading axis.")
    if data is not None and sources.is_stream(data):
        raise TypeError("suggest: data is a stream of batches; wanted arrays, of some of the data: type next(iter(stream)).")
    count = None if data is None else sources.check_data(data)
    if key is not None or batch_size is not None or callable(params):
        key = sources.check_key(key, "the batches, or the params, are drawn from it")
    plan = THOROUGH if budget is None or budget >= THOROUGH.runs else LEAN
    if plan is THOROUGH and batch_size is None and not callable(params):
        plan = plan._replace(seeds=1)  # one is as all others
    length = int(steps) if plan is not LEAN else max(1, min(int(steps), round(steps * budget / LEAN.runs)))
    data = None if data is None else jax.tree.map(jnp.asarray, data)
    judged = data if validation is None else jax.tree.map(jnp.asarray, validation)
    if validation is None and count is not None and count > JUDGED and batch_size is not None:
        rows = jax.random.choice(jax.random.fold_in(sources.check_key(key, "batches"), 0), count, (JUDGED,), replace=False)
        judged = jax.tree.map(lambda x: x[rows], data)
    make = _maker(make_rule, batch_size)
    return _Task(loss_fn, params, data, judged, make, plan, batch_size, length, key, {"has_aux": True} if has_aux else {})


def _with_cosine(learning_rate, steps):
    return sgd(schedules.cosine(learning_rate, steps), momentum=0.9)


def _maker(make_rule: Any, batch_size: int | None) -> Any:
    if make_rule is None:
        return _with_cosine if batch_size is not None else _Alone(gd)
    if not callable(make_rule) or hasattr(make_rule, "update"):
        raise TypeError(f"suggest: make_rule is {make_rule!r}; wanted a function of a learning rate that returns a rule: type gdjax.sgd.")
    takes = [p for p in inspect.signature(make_rule).parameters.values() if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    made = make_rule if len(takes) == 2 else _Alone(make_rule)
    as_rule(made(0.1, 100.0), "make_rule(0.1)")
    return made


class _Alone(NamedTuple):
    """A function of a learning rate as one of steps too."""

    make: Any

    def __call__(self, rate, steps):
        return self.make(rate)
