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
COARSE = 2.0 ** np.arange(-7, 5)  # times the learning rate at which the range test is lowest
FINE = 2.0 ** (np.arange(-3, 4) / 2)
MORE = 4  # learning rates added at an edge at which the best stands, and how often
SEEDS = 3  # orders of the data on which the last trials are made
RUNS = len(COARSE) + SEEDS * len(FINE)  # what all trials cost, in runs
SHARE = 0.02  # of the way from the start to the best: a loss this close is as good
JUDGED = 8192  # examples at most by which a trial is judged


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
        smoothness, range_test: what these said; None where they could not be taken.
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
    smoothness: Smoothness | None
    range_test: RangeTest | None
    steps: int
    evaluations: int

    @property
    def sure(self) -> str:
        """How sure, in words."""
        return "sure" if self.factor <= 1.5 else "fairly sure" if self.factor <= 2.5 else "not sure"

    def __str__(self):
        head = f"learning rate {self.learning_rate:.3g}, {self.sure}: {self.low:.3g} to {self.high:.3g} do about as well"
        return "\n".join([head, *(f"  {reason}" for reason in self.reasons), f"  take {self.rule!r}"])


class _Task(NamedTuple):
    loss_fn: Any
    params: Any  # pytree, or a function of a key
    data: Any
    judged: Any  # data by which trials are judged
    make: Any  # learning rate -> rule
    batch_size: int | None
    steps: int  # of a trial
    key: Any
    options: dict[str, Any]

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
    best stands, then 7 around the best a factor of √2 apart on three other orders of the data. The rate of the least mean loss is suggested; where the next
    larger one failed, one that is a little smaller.

    Args:
        loss_fn: as in ``fit``; with ``data=None`` a function of the params alone, as in ``minimize``.
        params: where the runs start; or a function of a key that draws it, so that the trials start from different ones.
        data: a pytree of arrays with a common leading axis.
        make_rule: ``make_rule(learning_rate)``, or ``make_rule(learning_rate, steps)``, which returns a rule. Default: with batches
            ``gdjax.sgd(gdjax.schedules.cosine(learning_rate, steps), momentum=0.9)``, else ``gdjax.gd(learning_rate)``.
        steps: of the run for which a learning rate is wanted.
        batch_size: None for all data at every step.
        key: a seed or key, where there are batches.
        budget: work to spend on trials, in runs of ``steps`` steps. Default: as much as they take, 33 runs. With less the trials are shorter, and their
            learning rate is less surely that of the whole run; see Measured in the README.
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
    coarse, spent = _widened(task, seen.centre * COARSE, [0], 0)
    fine, spent = _widened(task, float(coarse.rates[np.argmin(coarse.means)]) * FINE, list(range(1, 1 + _seeds(task))), spent)
    trials = fine if np.isfinite(fine.means).any() else coarse
    if not np.isfinite(trials.means).any():
        raise ValueError(f"suggest: every trial failed, at learning rates from {coarse.rates[0]:.2g} to {coarse.rates[-1]:.2g}; check the loss and the data.")
    return _suggestion(task, seen, coarse, trials, spent)


class _Seen(NamedTuple):
    smoothness: Smoothness | None
    range_test: RangeTest | None
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
        ranged = range_test(task.loss_fn, params, task.data, task.make, low=LOW, high=HIGH, steps=RANGE_STEPS, **given)
        limit = float(np.min(np.asarray(curved.stable_below())))
        centre = float(ranged.lowest_at) if bool(ranged.moved) else limit / 2
        work = curved.products * 2 * np.size(curved.largest) + RANGE_STEPS * (1 if task.batch_size is None else 4)
        return cls(curved, ranged, initial, float(np.clip(centre, 1e-20, 1e20)), int(work))


def _seeds(task: _Task) -> int:
    return 1 if task.batch_size is None and not callable(task.params) else SEEDS


def _widened(task: _Task, rates: np.ndarray, seeds: list[int], spent: int) -> tuple[_Trials, int]:
    """Trials at these learning rates, and at more beyond an edge at which the best stands."""
    trials = _tried(task, rates, seeds)
    spent += len(rates) * len(seeds) * task.steps
    for _ in range(MORE):
        best, ratio = int(np.argmin(trials.means)), rates[1] / rates[0]
        up = best == len(trials.rates) - 1 and np.isfinite(trials.means[best])
        if not up and best > 0:
            break
        more = trials.rates[-1 if up else 0] * ratio ** (np.arange(1, MORE + 1) * (1 if up else -1))
        trials = trials.joined(_tried(task, more, seeds))
        spent += MORE * len(seeds) * task.steps
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

    made = sweep(run, stacked([as_rule(task.make(float(rate))) for rate in rates]), keys=keys, score=_score)
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
    return np.where(done, least + spread * steps / steps.max(), np.maximum(scores, least + spread))


def _suggestion(task: _Task, seen: _Seen, coarse: _Trials, fine: _Trials, spent: int) -> Suggestion:
    means = fine.means
    best = int(np.argmin(means))
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
        rule=task.make(rate),
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
    found, count = [], len(coarse.rates) + fine.scores.size if fine is not coarse else len(coarse.rates)
    failed = int(np.sum(~np.isfinite(coarse.means)))
    least = f"the least loss, {value:.4g} from {seen.initial:.4g} at the start, near {rate:.3g}"
    failing = f"; from {coarse.rates[~np.isfinite(coarse.means)].min():.3g} on runs fail" if failed else ""
    found.append(f"{count} trials of {task.steps} steps, learning rates from {coarse.rates[0]:.2g} to {coarse.rates[-1]:.2g}: {least}{failing}")
    if careful:
        found.append("the next larger learning rate failed, so this is half a step below the best")
    if seen.range_test is not None:
        found.append(f"range test: {seen.range_test.message}")
    if seen.smoothness is not None:
        limit = float(np.min(np.asarray(seen.smoothness.stable_below())))
        words = "the curvature at the start bounds no learning rate" if not math.isfinite(limit) else f"2/L at the start is {limit:.3g}"
        found.append(f"curvature: {words}{'' if seen.smoothness.largest.ndim == 0 else ' on the steepest of 8 batches'}, for plain gradient steps")
    return tuple(found)


def _checked(loss_fn, params, data, make_rule, steps, batch_size, key, budget, validation, has_aux) -> _Task:
    check_callable(loss_fn, "loss_fn")
    check_count("steps", steps, 1)
    if budget is not None and not (isinstance(budget, (int, float)) and 0 < budget < math.inf):
        raise ValueError(f"suggest: budget is {budget!r}; wanted work in runs, above 0, or None for {RUNS}: type budget=5.0.")
    if data is None and (batch_size is not None or validation is not None):
        raise ValueError("suggest: batch_size or validation without data; wanted data, a pytree of arrays with a common leading axis.")
    if data is not None and sources.is_stream(data):
        raise TypeError("suggest: data is a stream of batches; wanted arrays, of some of the data: type next(iter(stream)).")
    count = None if data is None else sources.check_data(data)
    if key is not None or batch_size is not None or callable(params):
        key = sources.check_key(key, "the batches, or the params, are drawn from it")
    length = int(steps) if budget is None else max(1, min(int(steps), round(steps * budget / RUNS)))
    data = None if data is None else jax.tree.map(jnp.asarray, data)
    judged = data if validation is None else jax.tree.map(jnp.asarray, validation)
    if validation is None and count is not None and count > JUDGED and batch_size is not None:
        rows = jax.random.choice(jax.random.fold_in(sources.check_key(key, ""), 0), count, (JUDGED,), replace=False)
        judged = jax.tree.map(lambda x: x[rows], data)
    make = _maker(make_rule, batch_size, length)
    return _Task(loss_fn, params, data, judged, make, batch_size, length, key, {"has_aux": True} if has_aux else {})


def _with_cosine(learning_rate, steps):
    return sgd(schedules.cosine(learning_rate, steps), momentum=0.9)


def _maker(make_rule: Any, batch_size: int | None, steps: int) -> Any:
    if make_rule is None:
        make_rule = _with_cosine if batch_size is not None else gd
    if not callable(make_rule) or hasattr(make_rule, "update"):
        raise TypeError(f"suggest: make_rule is {make_rule!r}; wanted a function of a learning rate that returns a rule: type gdjax.sgd.")
    takes = [p for p in inspect.signature(make_rule).parameters.values() if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    made = (lambda rate: make_rule(rate, float(steps))) if len(takes) == 2 else make_rule
    as_rule(made(0.1), "make_rule(0.1)")
    return made
