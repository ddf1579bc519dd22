"""``suggest``: a learning rate for a loss and a rule, with the reasons, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import data as sources, schedules
from gdjax.arguments import short, signature_of
from gdjax.checks import check_callable, check_count, check_flag
from gdjax.contexts import undisturbed
from gdjax.diagnose.curvature import Smoothness, smoothness
from gdjax.diagnose.ranges import WATCHED, WATCHED_LEAST, RangeTest, check_no_examples, range_test
from gdjax.diagnose.trials import FAIRLY, LEAN, SURE, THOROUGH, Task, Trials, draws, repeated, tried, widened
from gdjax.loop import host
from gdjax.loop.options import check_validation
from gdjax.loop.signals import Signals
from gdjax.objective import FiniteSum, leading
from gdjax.rule import Rule, as_rule, rule as lift
from gdjax.rules import gd, sgd
from gdjax.typing import Data, LossFn, Params, Seed

LOW, HIGH, RANGE_STEPS = 1e-8, 1e4, 241  # of the range test: 20 learning rates per decade
STILL = 100  # times as long: a schedule told so many steps does not move during the range test
Confidence: TypeAlias = Literal["sure", "fairly sure", "not sure"]
JUDGED = 8192  # examples at most by which a trial is judged


@dataclass(frozen=True)
class Suggestion:
    """What ``gdjax.suggest`` found. ``print`` it.

    Attributes:
        learning_rate: what to take.
        low, high: learning rates tried between which the final loss stays within 2 % of the way from the start to the best.
        factor: how sure it is: within this factor the best is likely to lie, by how far the best of single orders of the data lie from it.
        rule: ``make_rule`` of it.
        value: the final loss at it, mean over the trials; where it was taken half a step below one that was tried, that of this one.
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
    def sure(self) -> bool:
        """Whether the best is likely to lie so near that it makes no difference: ``confidence`` is "sure"."""
        return self.confidence == "sure"

    @property
    def confidence(self) -> Confidence:
        """How sure it is, in words."""
        if self.value >= self.initial_value or not self.learning_rates[0] < self.learning_rate < self.learning_rates[-1]:
            return "not sure"
        if self.factor <= SURE or (self.low <= self.learning_rate / self.factor and self.learning_rate * self.factor <= self.high):
            return "sure"
        return "fairly sure" if self.factor <= FAIRLY else "not sure"

    def __str__(self):
        head = f"learning rate {self.learning_rate:.3g}, {self.confidence}: {self.low:.3g} to {self.high:.3g} do about as well"
        return "\n".join([head, *(f"  {reason}" for reason in self.reasons), f"  take {self.rule!r}"])

    def __repr__(self):
        found = f"learning_rate={self.learning_rate:.6g}, low={self.low:.3g}, high={self.high:.3g}, confidence={self.confidence!r}"
        return f"Suggestion({found}, value={self.value:.6g}, rule={self.rule!r})"


@undisturbed
def suggest(
    loss_fn: LossFn, params: Params, data: Data | None = None, make_rule: Any = None, *, steps: int, batch_size: int | None = None,
    key: Seed | None = None, budget: float | None = None, validation: Data | None = None, has_aux: bool = False,
) -> Suggestion:  # fmt: skip
    """A learning rate for a run of ``steps`` steps, why, and how sure: by the curvature, a range test, and trials around what these say.

    The curvature (``gdjax.smoothness``) bounds the learning rates that are stable at the start; the range test (``gdjax.range_test``) shows where the loss
    falls and where it is lost. Neither knows the length of the run, its schedule or the noise of the batches, by which the best differs from them by factors
    of 0.02 to 30 on the tasks it was measured on. So trials decide, run side by side: 12 learning rates a factor of 2 apart, more at an edge at which the
    best stands, then 7 around the best a factor of √2 apart on three other orders of the data, on six or nine where these disagree and it matters. The rate
    of the least mean loss is suggested; of several about as good, one whose neighbours are good too; where the next larger one failed, one a little smaller.

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
        KeyboardInterrupt: after Ctrl-C or SIGTERM, as in ``sweep``; its attribute ``result`` is the ``Suggestion`` of the first round of trials, or the
            ``Sweep`` of the trials so far.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> found = gdjax.suggest(lambda w: jnp.sum(jnp.array([1.0, 25.0]) * w**2), jnp.ones(2), steps=100)
        >>> print(0.02 < found.learning_rate < 0.04, f"{found.smoothness.stable_below():.3f}")
        True 0.040
    """
    sources.flattened((params, None if data is None or sources.is_stream(data) else data), "params or data")
    if host.under_trace(loss_fn, params, None if data is None or sources.is_stream(data) else data, key):
        raise ValueError("suggest: called inside jit, vmap or grad, where trials cannot be looked at; call it outside and pass learning_rate on.")
    task = _checked(loss_fn, params, data, make_rule, steps, batch_size, key, budget, validation, has_aux)
    known: tuple = ()
    with Signals(lambda: _suggestion(*known) if known else None) as signals:
        seen = _Seen.of(task)
        signals.obey("suggest")
        coarse, spent = widened(task, seen.centre * task.plan.coarse, [0], 0)
        known = (task, seen, coarse, coarse, spent)
        rates = float(coarse.rates[coarse.least()]) * task.plan.fine
        if task.plan.seeds == 0:
            fine = coarse = coarse.joined(tried(task, rates, [0]))
            spent += len(rates) * task.steps
        else:
            fine, spent = repeated(task, *widened(task, rates, list(range(1, 1 + task.plan.seeds)), spent))
    trials = fine if np.isfinite(fine.means).any() else coarse
    if not np.isfinite(trials.means).any():
        raise ValueError(f"suggest: every trial failed, at learning rates from {coarse.rates[0]:.2g} to {coarse.rates[-1]:.2g}; check the loss and the data.")
    return _suggestion(task, seen, coarse, trials, spent)


class _Seen(NamedTuple):
    smoothness: Smoothness
    range_test: RangeTest
    centre: float  # of the first trials
    work: int

    @classmethod
    def of(cls, task: Task) -> _Seen:
        """What the curvature and the range test say."""
        params = task.start(task.key)
        given: dict[str, Any] = dict(batch_size=task.batch_size, key=task.key, **task.options)
        curved = smoothness(task.loss_fn, params, task.data, **given)
        if not math.isfinite(initial := task.initial([0])):
            raise ValueError(f"suggest: the loss is {initial} at params; wanted a finite start: check params and data.")
        still = _Still(task.make, float(max(task.steps, STILL * RANGE_STEPS)))
        ranged = range_test(task.loss_fn, params, task.data, still, low=LOW, high=HIGH, steps=RANGE_STEPS, **given)
        limit = float(np.min(np.asarray(curved.stable_below())))
        centre = float(ranged.lowest_at) if bool(ranged.moved) else limit / 2 if math.isfinite(limit) else 1.0
        watched = 0 if task.batch_size is None else max(WATCHED, WATCHED_LEAST / task.batch_size) / 3  # a loss is a third of a gradient
        work = curved.products * 2 * np.size(curved.largest) + RANGE_STEPS * (1 + watched)
        return cls(curved, ranged, float(np.clip(centre, 1e-20, 1e20)), int(work))


class _Still(NamedTuple):
    """A function of a learning rate alone, the same for the same arguments, so that programs made for it are found again."""

    make: Any
    steps: float

    def __call__(self, rate):
        return self.make(rate, self.steps)


def _suggestion(task: Task, seen: _Seen, coarse: Trials, fine: Trials, spent: int) -> Suggestion:
    means, best = fine.means, fine.best()
    careful = best + 1 < len(means) and not np.isfinite(means[best + 1])
    # The largest rate that did not fail stands beside one that did: half a step back, towards the next smaller.
    rate = float(np.sqrt(fine.rates[best] * fine.rates[max(best - 1, 0)])) if careful else float(fine.rates[best])
    both = coarse.averaged().joined(fine.averaged()) if fine is not coarse else coarse
    low, high = both.interval(rate)
    count = coarse.scores.size + (0 if fine is coarse else fine.scores.size)
    reasons = _reasons(f"{count} trials of {task.steps} steps", seen, both, fine.initial, rate, means[best], careful)
    return Suggestion(
        learning_rate=rate,
        low=low,
        high=high,
        factor=fine.factor(rate),
        rule=task.rule(rate),
        value=float(means[best]),
        initial_value=fine.initial,
        reasons=reasons,
        learning_rates=both.rates,
        values=both.means,
        smoothness=seen.smoothness,
        range_test=seen.range_test,
        steps=task.steps,
        evaluations=spent + seen.work,
    )


def _reasons(trials: str, seen: _Seen, both: Trials, initial: float, rate: float, value: float, careful: bool) -> tuple[str, ...]:
    failed = both.rates[~np.isfinite(both.means)]
    least = f"the least loss, {value:.4g} from {initial:.4g} at the start, near {rate:.3g}"
    failing = f"; from {failed.min():.3g} on runs fail" if len(failed) else ""
    found = [f"{trials}, learning rates from {both.rates[0]:.2g} to {both.rates[-1]:.2g}: {least}{failing}"]
    if value >= initial:
        found.append("no trial ended below the loss at the start: is that a minimum?")
    if not both.rates[0] < rate < both.rates[-1]:
        found.append("the best stands at the edge of what was tried, which was widened until it was given up")
    if careful:
        found.append("the next larger learning rate failed, so this is half a step below the best")
    found.append(f"range test, a constant learning rate that grows: {seen.range_test.message}")
    limit = float(np.min(np.asarray(seen.smoothness.stable_below())))
    words = "the curvature at the start bounds no learning rate" if not math.isfinite(limit) else f"2/L at the start is {limit:.3g}"
    found.append(f"curvature: {words}{'' if seen.smoothness.largest.ndim == 0 else ' on the steepest of 8 batches'}, for plain gradient steps")
    return tuple(found)


def _checked(loss_fn, params, data, make_rule, steps, batch_size, key, budget, validation, has_aux) -> Task:
    check_callable(loss_fn, "loss_fn")
    check_count("steps", steps, 1)
    has_aux = check_flag("has_aux", has_aux)
    if budget is not None and not (isinstance(budget, (int, float)) and 0 < budget < math.inf):
        raise ValueError(f"suggest: budget is {short(budget)}; wanted work in runs, above 0, or None for {THOROUGH.runs}: type budget=7.")
    if data is None and (batch_size is not None or validation is not None):
        raise ValueError("suggest: batch_size or validation without data; wanted data, a pytree of arrays with a common leading axis.")
    if data is None and isinstance(loss_fn, FiniteSum):
        raise ValueError("suggest: data is None and loss_fn is a finite_sum; wanted the examples it is a sum over: type gdjax.suggest(loss_fn, params, data).")
    for name, given in (("data", data), ("validation", validation)):
        if given is not None and sources.is_stream(given):
            raise TypeError(f"suggest: {name} is a stream of batches; wanted arrays, of some of the data: type next(iter(stream)).")
    data = None if data is None else sources.as_examples(data)
    count = None if data is None else leading(data)
    validation = check_validation(validation, data)
    if key is not None or batch_size is not None or draws(params):
        key = sources.check_key(key, "the batches, or the params, are drawn from it")
    plan = THOROUGH if budget is None or budget >= THOROUGH.runs else LEAN
    if plan is THOROUGH and batch_size is None and not draws(params):
        plan = plan._replace(seeds=1)  # one is as all others
    length = int(steps) if plan is not LEAN else max(1, min(int(steps), round(steps * budget / LEAN.runs)))
    data = None if data is None else jax.tree.map(jnp.asarray, data)
    judged = data if validation is None else jax.tree.map(jnp.asarray, validation)
    if validation is None and count is not None and count > JUDGED and batch_size is not None:
        rows = jax.random.choice(jax.random.fold_in(sources.check_key(key, "batches"), 0), count, (JUDGED,), replace=False)
        judged = jax.tree.map(lambda x: x[rows], data)
    make = _maker(make_rule, batch_size)
    return Task(loss_fn, params, data, judged, make, plan, batch_size, length, key, {"has_aux": True} if has_aux else {})


def _with_cosine(learning_rate, steps):
    return sgd(schedules.cosine(learning_rate, steps), momentum=0.9)


def _maker(make_rule: Any, batch_size: int | None) -> Any:
    if make_rule is None:
        return _with_cosine if batch_size is not None else _Alone(gd)
    if not callable(make_rule) or hasattr(make_rule, "update"):
        raise TypeError(f"suggest: make_rule is {short(make_rule)}; wanted a function of a learning rate that returns a rule: type gdjax.sgd.")
    takes = [p for p in signature_of(make_rule).parameters.values() if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    two = len(takes) == 2
    if not isinstance(make_rule(0.1, 100.0) if two else make_rule(0.1), Rule):
        as_rule(make_rule(0.1, 100) if two else make_rule(0.1), "make_rule(0.1)")
        make_rule = _Lifted(lift(make_rule)) if two else lift(make_rule)  # an optax factory as it is
    made = make_rule if two else _Alone(make_rule)
    if as_rule(made(0.1, 100.0)) == as_rule(made(0.2, 100.0)):
        raise TypeError(f"suggest: make_rule makes {as_rule(made(0.1, 100.0))!r} of every learning rate; wanted a rule that has it: type gdjax.sgd.")
    check_no_examples("suggest", as_rule(made(0.1, 100.0)))
    return made


class _Lifted(NamedTuple):
    """A lifted factory of a learning rate and steps, for which these are structure: optax's schedules look at them."""

    make: Any

    def __call__(self, rate, steps):
        return self.make(rate, int(steps))


class _Alone(NamedTuple):
    """A function of a learning rate as one of steps too."""

    make: Any

    def __call__(self, rate, steps):
        return self.make(rate)
