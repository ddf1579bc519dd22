"""Trials: runs at many learning rates side by side, more of them where the best stands at an edge or trials disagree, and which is best."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax._fit import fit
from gdjax._minimize import minimize
from gdjax._sweep import sweep
from gdjax.loop import step as stepping
from gdjax.objective import declared
from gdjax.result import Status
from gdjax.rule import as_rule
from gdjax.sampling import stacked

EDGES = 4  # how often trials are added at an edge
AGAIN = 2  # how often orders of the data are added where trials disagree
SAME = 1e-6  # of the way from the start to the least loss: what rounding hides
SHARE = 0.02  # of the way: a loss this close is as good
SURE, FAIRLY = 1.5, 2.5  # factors
CAP = 0.05  # of the way: neighbours count as worse by no more


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


def draws(params: Any) -> bool:
    """Whether params is a function that draws them; a module that can be called is params too."""
    return callable(params) and not any(hasattr(x, "dtype") for x in jax.tree.leaves(params))


class Task(NamedTuple):
    """What is tried."""

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
        return self.params(key) if draws(self.params) else self.params

    def initial(self, seeds: list[int]) -> float:
        """The loss at the starts of these trials, the mean."""
        if not draws(self.params):
            return float(self.loss_at(self.params))
        return float(np.mean([self.loss_at(self.start(jax.random.fold_in(self.key, seed))) for seed in seeds]))

    def loss_at(self, params):
        """The loss by which trials are judged."""
        of_all = declared(self.loss_fn, bool(self.options), False, None, "auto", 0 if self.judged is None else None)
        return stepping.value(of_all, params, None, () if self.judged is None else jax.tree.map(jnp.asarray, self.judged), None)[0]


class Trials(NamedTuple):
    """What came of it."""

    rates: np.ndarray  # (rates,), increasing
    scores: np.ndarray  # (rates, seeds): the final loss; inf where the run failed
    steps: np.ndarray  # (rates,): made until convergence, the mean; inf where a run did not converge
    initial: float  # the loss at the start, mean over the seeds

    @property
    def means(self) -> np.ndarray:
        return self.scores.mean(1)

    def least(self) -> int:
        """The place of the least loss; of runs that converged to the same loss, of the one that did so first."""
        low = self.means.min()
        same = self.means <= low + SAME * max(self.initial - low, abs(low)) if np.isfinite(low) else np.zeros(len(self.means), bool)
        sooner = np.where(same, self.steps, np.inf)
        return int(np.argmin(sooner if np.isfinite(sooner).any() else self.means))

    def best(self) -> int:
        """The place of the least loss, taken with a quarter of each neighbour's; what exceeds the least by a twentieth of the way counts as that.

        So of rates that are about as good one is chosen that stands clear of those that are not. Where runs converge, the soonest.
        """
        first = self.least()
        if np.isfinite(self.steps[first]):
            return first
        low = self.means.min()
        capped = np.minimum(self.means, low + CAP * max(self.initial - low, 0.0))
        wide = np.pad(capped, 1, mode="edge")
        return int(np.argmin(np.where(np.isfinite(self.means), 0.25 * wide[:-2] + 0.5 * capped + 0.25 * wide[2:], np.inf)))

    def factor(self, rate: float) -> float:
        """How far off it may be: two standard errors of the best of the single seeds around it, in the logarithm, and half a step of the trials."""
        each = self.rates[np.argmin(self.scores, 0)]
        spread = np.sqrt(np.mean(np.square(np.log(each / rate))))
        return float(np.exp(2 * spread / np.sqrt(len(each))) * (self.rates[1] / self.rates[0]) ** 0.5)

    def interval(self, rate: float) -> tuple[float, float]:
        """The ends of the run of learning rates around this one whose loss is as good as the best."""
        low = self.means.min()
        bad = self.rates[~(self.means <= low + SHARE * max(self.initial - low, 0))]
        first, last = bad[bad < rate].max(initial=0), bad[bad > rate].min(initial=np.inf)
        inside = np.append(self.rates[(self.rates > first) & (self.rates < last)], rate)
        return float(inside.min()), float(inside.max())

    def joined(self, other: Trials) -> Trials:
        """Both, by increasing learning rate."""
        order = np.argsort(np.append(self.rates, other.rates))
        rates, scores, steps = (np.concatenate(pair)[order] for pair in zip(self[:3], other[:3], strict=True))
        return Trials(rates, scores, steps, self.initial)

    def averaged(self) -> Trials:
        """With the means in the place of the scores of the seeds."""
        return self._replace(scores=self.means[:, None])


def widened(task: Task, rates: np.ndarray, seeds: list[int], spent: int) -> tuple[Trials, int]:
    """Trials at these learning rates, and at more beyond an edge at which the best stands; downwards where none made progress."""
    trials, ratio = tried(task, rates, seeds), rates[1] / rates[0]
    spent += len(rates) * len(seeds) * task.steps
    for _ in range(EDGES):
        best = trials.least()
        progress = trials.means[best] < trials.initial
        up = best == len(trials.rates) - 1 and progress
        if progress and not up and best > 0:
            break
        more = trials.rates[-1 if up else 0] * ratio ** (np.arange(1, task.plan.more + 1) * (1 if up else -1))
        trials = trials.joined(tried(task, more, seeds))
        spent += len(more) * len(seeds) * task.steps
    return trials, spent


def tried(task: Task, rates: np.ndarray, seeds: list[int]) -> Trials:
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
    steps, codes = (np.asarray(made.results[name], float).reshape(scores.shape) for name in ("steps", "code"))
    return Trials(rates, scores, np.where(codes == Status.CONVERGED, steps, np.inf).mean(1), task.initial(seeds))


def _score(found):
    failed = (found["code"] == Status.DIVERGED) | (found["code"] == Status.NONFINITE)
    return jnp.where(failed, jnp.inf, found["value"])


def repeated(task: Task, trials: Trials, spent: int) -> tuple[Trials, int]:
    """The same on more orders of the data, where the single ones disagree about what is best, and it matters."""
    seeds = trials.scores.shape[1]
    for turn in range(AGAIN if task.batch_size is not None or draws(task.params) else 0):
        rate = float(trials.rates[trials.best()])
        factor, (low, high) = trials.factor(rate), trials.interval(rate)
        if not np.isfinite(trials.means).any() or factor <= FAIRLY or (low <= rate / factor and rate * factor <= high):
            break
        more = tried(task, trials.rates, list(range(1 + seeds * (turn + 1), 1 + seeds * (turn + 2))))
        before = trials.scores.shape[1]
        initial = (trials.initial * before + more.initial * seeds) / (before + seeds)
        trials = trials._replace(scores=np.concatenate([trials.scores, more.scores], 1), initial=initial)
        spent += len(trials.rates) * seeds * task.steps
    return trials, spent
