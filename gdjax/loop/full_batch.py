"""Full-batch runs as a whole: in compiled segments with the host between them, or as one pure program inside a trace."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax import stop as stopping, tree
from gdjax.loop import deterministic, hindsight, host, one_kernel, step as stepping
from gdjax.loop.deterministic import Progress, Resumable, Run, Verdict
from gdjax.loop.epochs import AFTER_STOPS, NO_SERVICES, Services, best_point, look_at, unwatched
from gdjax.loop.setting import without_key
from gdjax.loop.stochastic import reported
from gdjax.parts.held import per_loss
from gdjax.result import RUNNING, Diagnosis, Result, Status

SMALLEST, MOST_RECORDS = 1024, 1 << 18  # rows of a history buffer


@functools.partial(per_loss, static_argnames=("objective", "names"))
def _begin(objective, rule, params, batch, key, model_state, stop, names) -> Progress:
    return deterministic.begin(objective, rule, params, batch, key, model_state, stop, names)


@functools.partial(one_kernel.Compiled, static_argnames=("objective", "names", "capacity", "compact"))
def _segment(objective, rule, progress, batch, stop, until, max_steps, record_every, names, capacity, compact) -> Run:
    run = deterministic.open_run(objective, progress, batch, names, capacity, keep_previous=False)
    return deterministic.loop(objective, rule, run, batch, stop, until, max_steps, record_every, names, compact=compact, confirms=False)


@functools.partial(one_kernel.Compiled, plainly=one_kernel.QUICK, static_argnames=("objective",))
def _look_closer(objective, stop, batch, progress, value, grad_norm, verdict: Verdict) -> Verdict:
    return deterministic.look_closer(objective, stop, batch, progress.state, progress.seen, value, grad_norm, verdict)


def capacity_for(records: int) -> int:
    """Rows of the history buffer: few sizes, so that another number of steps does not compile anew."""
    return next(size for size in (SMALLEST, 1 << 14, MOST_RECORDS) if records <= size or size == MOST_RECORDS)


def resumed(before: Progress, stop, names) -> Progress:
    """The progress of an earlier run for one that records other things: what only they need begins unknown."""
    unknown = jnp.full_like(before.seen.previous_value, jnp.nan)
    moving, rated = stop.build().needs_update or "update_norm" in names, "learning_rate" in names
    moved = () if not moving else unknown if isinstance(before.update_norm, tuple) else before.update_norm
    rate = () if not rated else jnp.float32(jnp.nan) if isinstance(before.learning_rate, tuple) else before.learning_rate
    return before._replace(update_norm=moved, learning_rate=rate)


def on_host(*, progress, services: Services = NO_SERVICES, **run) -> Result:
    """A run in compiled segments, the host between them."""
    driver = _Driver(services, **run)
    limits = [float(limit) for m in driver.stop.members() if (limit := m.build().seconds) is not None]
    with host.Watch(driver.max_steps, progress, min(limits, default=None), driver.begun_at, driver.so_far) as watch:
        return driver.run(watch)


class _Driver:
    """The segments of one run. Between two of them ``at`` and ``step`` say how far it has come, and ``before`` where the last one began."""

    def __init__(self, services, *, objective, rule, params, batch, stop, max_steps, names, record_every, resume, key=None, model_state=None):
        self.batch, self.held_out = host.on_device((batch, services.validation))  # on the device once, not per segment
        self.as_given, self.objective = objective, objective.laid_out(self.batch)
        self.rule, self.stop, self.record_every, self.services = rule, stop, record_every, services
        self.names = tuple(name for name in names if name != "validation")  # which is no business of the program
        start = (self.objective, rule, params, self.batch, key, model_state, stop, self.names)
        self.at = _begin(*start) if resume is None else resumed(resume.progress, stop, self.names)
        self.step = self.begun_at = int(self.at.state.step)
        self.max_steps = max(max_steps, self.step)
        self.before, self.made = None, None
        fresh = unwatched(services, rule, self.at.state)
        known = resume is not None and jax.tree.structure(resume.watched) == jax.tree.structure(fresh)
        self.watched: Any = resume.watched if resume is not None and known else fresh
        self.told = self.begun_at if known else self.begun_at - 1  # the step up to which points have been looked at
        self.history = _History(names, record_every, resume, self.step, self.at.seen.initial_value.dtype)
        self.capacity = SMALLEST if services.any else capacity_for((self.max_steps - self.step) // record_every + 2)
        work = 10 * tree.size(self.at.state.params) + sum(getattr(x, "size", 1) for x in jax.tree.leaves(self.batch))
        self.began = (params, model_state), work
        self.compact = one_kernel.possible(self.at, self.batch)
        self.plain = self.compact and 10 * work < one_kernel.PLAIN_BELOW

    def run(self, watch) -> Result:
        """Segment after segment, until a verdict or until the host asks to stop."""
        while True:
            if (asked := watch.asked()) != RUNNING:
                return self._result(self._stopped(asked, self._limit() if asked == Status.STOPPED else -1))
            run = self._confirmed(self._segment(self.at, self._until(watch), self.max_steps))
            code, step, value, norm = (x.item() for x in jax.device_get((run.code, run.progress.state.step, run.value, run.grad_norm)))
            watch.saw(step, value)
            if code != RUNNING:
                return self._result(self._looked_at(run) if np.isfinite(value) and np.isfinite(norm) else self._before_it_broke(run))
            self.history.add(run, self.step)
            if (reason := self._look(run)) is not None:
                return self._result(self._stopped(Status.STOPPED, reason))
            if step > self.step:  # it is not, where a closer look sent the run on from where it stood
                self.before = (self.at, self.step)
            self.at, self.step = run.progress, step

    def _until(self, watch) -> int:
        """Where the next segment ends: one step on, where every point is looked at."""
        if self.services.any:
            return self.step + 1
        until = self.step + min(watch.length(), (self.capacity - 2) * self.record_every)
        return until if until < self.max_steps else self.max_steps + 1  # the last step's point is evaluated too

    def so_far(self) -> Result | None:
        """The result if the run ended here, for an exception to carry away; None where nothing has been done."""
        if self.made is None and self.step > self.begun_at:
            self.told = self.step  # callbacks are not called again
            self._result(self._stopped(Status.INTERRUPTED, -1))
        return self.made

    def _segment(self, progress, until, last) -> Run:
        numbers = (until, last, self.record_every, self.names, self.capacity)
        try:
            return _segment(self.objective, self.rule, progress, self.batch, self.stop, *numbers, self.compact, plain=self.plain)
        except jax.errors.JaxRuntimeError as error:
            if not (self.compact and one_kernel.refused(error)):
                raise
            self.compact = False
            return self._segment(progress, until, last)

    def _confirmed(self, run: Run) -> Run:
        """A run that wants to end, after a closer look where one is wanted: ended, or with its last point to be evaluated again."""
        if int(run.code) not in (Status.CONVERGED, Status.STALLED) or not stopping.unconfirmed(self.stop):
            return run
        verdict = Verdict(run.code, run.reason, run.progress.stop_state, run.evidence)
        seen = _look_closer(self.objective, self.stop, self.batch, run.progress, run.value, run.grad_norm, verdict, plain=self.plain)
        rows = run.rows - int(int(seen.code) == RUNNING)  # the point is recorded once it is known what becomes of it
        return run._replace(progress=run.progress._replace(stop_state=seen.stop_state), code=seen.code, reason=seen.reason, evidence=seen.evidence, rows=rows)

    def _stopped(self, code: int, reason: int) -> Run:
        """The run, ended here by the host: one more evaluation, so that value and gradient norm belong to the params that are returned."""
        self.history.cut(self.step)
        last = self._segment(self.at, self.step + 1, self.step)
        if not (np.isfinite(float(last.value)) and np.isfinite(float(last.grad_norm))):
            return self._before_it_broke(last)
        return self._looked_at(last._replace(code=jnp.int32(code), reason=jnp.int32(reason)))

    def _looked_at(self, run: Run) -> Run:
        """A run that has ended at a sound point, which is recorded and looked at."""
        self.history.add(run, self.step)
        self._look(run)
        return run

    def _before_it_broke(self, run: Run) -> Run:
        """Runs again up to the last point at which loss and gradient were finite. Nothing is kept for this while all goes well: the run is deterministic."""
        broke = int(run.progress.state.step)
        if broke == self.step:  # at the first evaluation of this segment: the last step of the segment before led there
            if self.before is None:
                raise_not_finite(float(run.value), float(run.grad_norm))
            self.at, self.step = self.before
        self.history.cut(self.step)
        sound = self._segment(self.at, broke, broke - 1)
        # The evaluations of the second pass are not counted: they are ours, not the algorithm's, and a traced run has none.
        made = run.progress.state.evaluations + run.count - sound.progress.state.evaluations
        sound = sound._replace(code=run.code, reason=run.reason, growth=run.growth, count=made)
        self.history.add(sound, self.step)
        return sound

    def _limit(self) -> int:
        return next(i for i, m in enumerate(self.stop.members()) if m.build().seconds is not None)

    def _look(self, run: Run) -> int | None:
        """What is done where an epoch ends, at the point where this segment, of one step, began: the reason to stop there, if there is one."""
        services, step, state, members = self.services, self.step, self.at.state, len(self.stop.members())
        if not services.any or step <= self.told:
            return None
        self.told = step
        if services.watches:
            self.watched = look_at(self.as_given, self.rule, self.watched, state, run.value, self.held_out)
        validation = float("nan") if self.held_out is None else float(self.watched.validation)
        self.history.validation[step] = validation
        if step > self.begun_at and services.checkpoint is not None:
            services.checkpoint(self._resumable(self.at))
        if step > self.begun_at and services.callbacks:
            report = host.Report(step, step, float(run.value), validation, reported(self.rule, state), state.model_state)
            if any([host.says_stop(callback(report)) for callback in services.callbacks]):
                return members + 1
        return members if services.patience and int(self.watched.waited) >= services.patience else None

    def _resumable(self, progress: Progress) -> Resumable:
        return Resumable(progress._replace(state=without_key(progress.state)), self.history.arrays(), self.watched)

    def _result(self, run: Run) -> Result:
        made = finish(run, self.objective, self.rule, self.batch, self._resumable(run.progress), reasons(self.stop))
        made = compared(made, self.services, self.watched, self.objective, self.batch, run.progress.state) if self.services.watches else made
        broke = self.held_out is not None and self.told > 0 and not np.isfinite(float(self.watched.validation))
        made = hindsight.told(made, validation_broke=np.int32(self.told)) if broke else made
        made = hindsight.of_inputs(made, {"args" if self.objective.splat else "data": self.batch, "validation": self.held_out})
        self.made = hindsight.on_batch(made, *self.began, self.objective, self.batch, self.at.state.key)
        return self.made


def reasons(stop) -> tuple[str, ...]:
    """What may stop a run, by name, in the order in which runs number them."""
    return (*(m.factory.__name__ for m in stop.members()), *AFTER_STOPS)


class _History:
    """Rows drained from the segments of a run, after those of the run it resumes; NaN for what was not recorded then."""

    def __init__(self, names, every, resume, begun_at: int, dtype):
        self.names, self.every, self.dtype = names, every, dtype
        self.inside = tuple(name for name in names if name != "validation")
        self.validation: dict[int, float] = {}  # by step
        self.steps: list[np.ndarray] = [np.zeros(0, np.int32)]
        self.rows: list[np.ndarray] = [np.zeros((0, len(self.inside)), dtype)]
        if resume is not None:
            self._take(resume.history, begun_at)

    def _take(self, earlier, begun_at: int) -> None:
        earlier = {name: np.asarray(column) for name, column in earlier.items()}
        steps = earlier["step"]
        keep = (steps >= 0) & (steps < begun_at)  # a resumed run judges, and records, its first point again
        unknown = np.full(len(steps), np.nan, self.dtype)
        columns = [earlier.get(name, unknown)[keep] for name in self.inside]
        self.steps.append(steps[keep])
        self.rows.append(np.stack(columns, 1) if columns else np.zeros((keep.sum(), 0), self.dtype))
        self.validation = dict(zip(steps.tolist(), earlier.get("validation", unknown).tolist(), strict=True))

    def add(self, run: Run, first: int) -> None:
        """The rows of a segment that began at this step."""
        count, last = int(run.rows), int(run.progress.state.step)
        steps = -(-first // self.every) * self.every + self.every * np.arange(count, dtype=np.int32)
        if count and int(run.code) != RUNNING:
            steps[-1] = last
        self.steps.append(steps)
        self.rows.append(np.asarray(run.history)[:count].copy())

    def cut(self, step: int) -> None:
        """Forgets the rows from this step on: they are made again."""
        keep = [steps < step for steps in self.steps]
        self.steps = [steps[here] for steps, here in zip(self.steps, keep, strict=True)]
        self.rows = [rows[here] for rows, here in zip(self.rows, keep, strict=True)]

    def arrays(self) -> dict[str, Any]:
        """One array for each name, and the steps."""
        self.steps, self.rows = [np.concatenate(self.steps)], [np.concatenate(self.rows)]
        [steps], [rows] = self.steps, self.rows
        columns = {name: rows[:, i].copy() for i, name in enumerate(self.inside)}
        if "validation" in self.names:
            columns["validation"] = np.array([self.validation.get(step, np.nan) for step in steps.tolist()], self.dtype)
        return {"step": steps.copy()} | {name: columns[name] for name in self.names}


def raise_not_finite(value: float, norm: float) -> NoReturn:
    """The error for a loss or gradient that is not finite at the very start: no step can mend that."""
    what = f"the loss is {value}" if not np.isfinite(value) else f"the loss is {value:.6g} but its gradient norm is {norm}"
    raise ValueError(
        f"At the params given, {what}; wanted a finite loss and gradient to start from. Start elsewhere, check the data for NaN and the loss for log, sqrt or "
        "division at the edge of its domain: with jax.debug_nans(True), jax.grad of the loss alone finds the operation."
    )


def pick(condition, a, b):
    """a or b: by looking, where one can look, since every eager operation costs as much as hundreds of small steps."""
    return jnp.where(condition, a, b) if isinstance(condition, Tracer) or jnp.ndim(condition) else (a if bool(condition) else b)


def as_numpy(*numbers: Any) -> tuple[Any, ...]:
    """The numbers as NumPy's, unless they are traced: each operation on JAX's own would be a program to compile."""
    return numbers if any(isinstance(x, Tracer) for x in numbers) else tuple(jax.device_get(numbers))


def _reported(objective, rule, state, batch, converged, here) -> tuple[Any, Any, Any, Any]:
    """(params, value, gradient norm, aux) of the point that a rule reports instead of the one ``here``, where it takes gradients."""
    params, value, grad_norm, aux = here
    reported = rule.eval_params(state.rule_state, params)
    there = stepping.value_and_grad(objective, reported, state.model_state, batch, stepping.step_key(objective, state), None)
    norm = tree.norm(there.grads)
    # CONVERGED is said of the point where gradients are taken: if an average of the way there is not as good, that point is what was asked for.
    behind = converged & (norm > grad_norm)
    params, aux = tree.where(behind, (params, aux), (tree.cast_like(reported, params), there.aux))
    return params, pick(behind, value, there.value), pick(behind, grad_norm, norm), aux


def finish(run: Run, objective, rule, batch, resumable: Resumable, reasons: tuple[str, ...]) -> Result:
    """The result of a run that has ended, on the host or in a trace; ``resumable``: its history, and what was watched, with any progress."""
    state, seen = run.progress.state, run.progress.seen
    last, value, grad_norm = run.previous or (state.params, run.value, run.grad_norm)
    made, broke, count, spent, code = as_numpy(state.step, run.broke, run.count, state.evaluations, run.code)
    params, aux, steps, evaluations = last, run.aux, host.on_device(made - broke), host.on_device(spent + count)
    if rule.eval_params is not None:
        params, value, grad_norm, aux = _reported(objective, rule, state, batch, code == Status.CONVERGED, (params, value, grad_norm, aux))
        evaluations = evaluations + 1
    diagnosis = Diagnosis(
        initial_value=pick(made == 0, run.value, seen.initial_value),
        initial_grad_norm=pick(made == 0, run.grad_norm, seen.initial_grad_norm),
        learning_rate=stepping.learning_rate(rule, state.rule_state, state.rule_state),
        growth=run.growth,
        reason=run.reason,
        distance=run.evidence.distance,
        decrease=run.evidence.decrease,
        grad_above_rounding=run.evidence.signal,
        curvature_along=run.evidence.curvature,
    )
    return Result(
        params=params,
        value=value,
        grad_norm=grad_norm,
        code=run.code,
        steps=steps,
        evaluations=evaluations,
        history=resumable.history,
        state=resumable._replace(progress=run.progress._replace(state=without_key(state._replace(params=last, step=steps)))),
        aux=aux,
        rule=rule,
        model_state=state.model_state,
        diagnosis=diagnosis,
        kind="full batch",
        reasons=reasons,
    )


def compared(result: Result, services: Services, watched, objective, batch, state) -> Result:
    """The result of a run whose points were compared; ``state``: its last, with the key as it was given."""
    validation = None if services.validation is None else jnp.where(jnp.isfinite(watched.metric), watched.metric, jnp.nan)
    result = dataclasses.replace(result, best_step=watched.epoch, best_validation=validation, keep="best" if services.keep_best else "last")
    return _with_the_best(result, watched, objective, batch, state) if services.keep_best else result


def _with_the_best(result: Result, watched, objective, batch, state) -> Result:
    """The result with the params of the best epoch, and of them what is said of params: one more evaluation."""
    value, grad_norm, aux = best_point(objective, watched, state, batch)
    # That the run has converged is not true of another point.
    code, epoch, steps = as_numpy(result.code, watched.epoch, result.steps)
    elsewhere = (code == Status.CONVERGED) & (epoch != steps)
    diagnosis = result.diagnosis
    return dataclasses.replace(
        result,
        params=watched.best[0],
        model_state=watched.best[1],
        value=value,
        grad_norm=grad_norm,
        aux=aux,
        evaluations=result.evaluations + 1,
        code=host.on_device(pick(elsewhere, np.int32(Status.STOPPED), code)),
        diagnosis=diagnosis._replace(reason=host.on_device(pick(elsewhere, np.int32(len(result.reasons) - 1), diagnosis.reason))),
    )
