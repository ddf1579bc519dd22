"""Full-batch runs as a whole: in compiled segments with the host between them, or as one pure program inside a trace."""

from __future__ import annotations

import functools
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax import tree
from gdjax.loop import deterministic, host, one_kernel, step as stepping
from gdjax.loop.deterministic import Progress, Resumable, Run
from gdjax.result import RUNNING, Diagnosis, Result, Status

MOST_RECORDS = 1 << 18


@functools.partial(jax.jit, static_argnames=("objective", "names"))
def _begin(objective, rule, params, batch, key, model_state, stop, names) -> Progress:
    return deterministic.begin(objective, rule, params, batch, key, model_state, stop, names)


@functools.partial(one_kernel.Compiled, static_argnames=("objective", "names", "capacity", "compact"))
def _segment(objective, rule, progress, batch, stop, until, max_steps, record_every, names, capacity, compact) -> Run:
    run = deterministic.open_run(objective, progress, batch, names, capacity, keep_previous=False)
    return deterministic.loop(objective, rule, run, batch, stop, until, max_steps, record_every, names, compact=compact)


def capacity_for(records: int) -> int:
    """Rows of the history buffer: few sizes, so that another number of steps does not compile anew."""
    return next(size for size in (1024, 1 << 14, MOST_RECORDS) if records <= size or size == MOST_RECORDS)


def on_host(*, objective, rule, params, batch, stop, max_steps, names, record_every, resume, progress, key=None, model_state=None) -> Result:
    """A run in compiled segments, the host between them."""
    batch = host.on_device(batch)  # on the device once, not per segment
    objective = objective.laid_out(batch)
    inputs = _begin(objective, rule, params, batch, key, model_state, stop, names) if resume is None else resume.progress
    history = _History(names, record_every, resume)
    older, step = None, int(inputs.state.step)
    capacity = capacity_for((max_steps - step) // record_every + 2)
    limits = [float(limit) for m in stop.members() if (limit := m.build().seconds) is not None]
    work = 10 * tree.size(params) + sum(getattr(x, "size", 1) for x in jax.tree.leaves(batch))
    compact = one_kernel.possible(inputs, batch)
    plain = compact and 10 * work < one_kernel.PLAIN_BELOW

    def segment(inputs, until, last):
        nonlocal compact
        try:
            return _segment(objective, rule, inputs, batch, stop, until, last, record_every, names, capacity, compact, plain=plain)
        except jax.errors.JaxRuntimeError as error:
            if not (compact and one_kernel.refused(error)):
                raise
            compact = False
            return segment(inputs, until, last)

    with host.Watch(max_steps, work, progress, min(limits, default=None), step) as watch:
        while True:
            first, reach = step, step + min(watch.length(), (capacity - 2) * record_every)
            run = segment(inputs, reach if reach < max_steps else max_steps + 1, max_steps)
            code, step, value, norm = (x.item() for x in jax.device_get((run.code, run.progress.state.step, run.value, run.grad_norm)))
            watch.saw(step, value)
            if code != RUNNING and not (np.isfinite(value) and np.isfinite(norm)):
                run, first = _before_it_broke(run, segment, (inputs, first), older, history)
            history.add(run, first)
            asked = RUNNING if code != RUNNING else watch.asked()
            if code == RUNNING and asked != RUNNING:
                # The host stops here: one more evaluation, so that value and gradient norm belong to the params that are returned.
                last = segment(run.progress, step + 1, step)
                limited = next((i for i, m in enumerate(stop.members()) if m.build().seconds is not None), -1)
                if np.isfinite(float(last.value)) and np.isfinite(float(last.grad_norm)):
                    run, first = last._replace(code=jnp.int32(asked), reason=jnp.int32(limited if asked == Status.STOPPED else -1)), step
                else:
                    run, first = _before_it_broke(last, segment, (run.progress, step), (inputs, first), history)
                history.add(run, first)
            if code != RUNNING or asked != RUNNING:
                return finish(run, objective, rule, batch, history.arrays(), tuple(m.factory.__name__ for m in stop.members()))
            older, inputs = (inputs, first), run.progress


def _before_it_broke(run: Run, segment, here, older, history):
    """Runs again up to the last point at which loss and gradient were finite. Nothing is kept for this while all goes well: the run is deterministic."""
    step, (inputs, first) = int(run.progress.state.step), here
    if step == first:  # it broke at the first evaluation of this segment: the last step of the segment before led there
        if older is None:
            raise_not_finite(float(run.value), float(run.grad_norm))
        inputs, first = older
        history.drop_last()
    sound = segment(inputs, step, step - 1)
    # The evaluations of the second pass are not counted: they are ours, not the algorithm's, and a traced run has none.
    made = run.progress.state.evaluations + run.count - sound.progress.state.evaluations
    return sound._replace(code=run.code, reason=run.reason, growth=run.growth, count=made), first


class _History:
    """Rows drained from the segments of a run, after those of the run it resumes."""

    def __init__(self, names, every, resume):
        self.names, self.every, self.parts = names, every, []
        if resume is not None and set(resume.history) == {"step", *names}:
            # A resumed run judges, and records, its first point again.
            before = {name: np.asarray(column) for name, column in resume.history.items()}
            keep = (before["step"] >= 0) & (before["step"] < int(resume.progress.state.step))
            self.parts.append((before["step"][keep], np.stack([before[name][keep] for name in names] or [np.zeros((keep.sum(), 0))], 1)))

    def add(self, run: Run, first: int) -> None:
        count, last = int(run.rows), int(run.progress.state.step)
        steps = -(-first // self.every) * self.every + self.every * np.arange(count)
        if count and int(run.code) != RUNNING:
            steps[-1] = last
        self.parts.append((steps.astype(np.int32), np.asarray(run.history)[:count].copy()))

    def drop_last(self) -> None:
        self.parts.pop()

    def arrays(self) -> dict[str, Any]:
        steps, rows = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        return {"step": steps} | {name: rows[:, i] for i, name in enumerate(self.names)}


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


def finish(run: Run, objective, rule, batch, history: dict[str, Any], reasons: tuple[str, ...]) -> Result:
    """The result of a run that has ended, on the host or in a trace."""
    state, seen = run.progress.state, run.progress.seen
    last, value, grad_norm = run.previous or (state.params, run.value, run.grad_norm)
    made, broke, count, spent, code = as_numpy(state.step, run.broke, run.count, state.evaluations, run.code)
    params, steps, evaluations = last, host.on_device(made - broke), host.on_device(spent + count)
    if rule.eval_params is not None:
        # The rule reports another point than the one where it takes gradients: value and gradient norm must be those of the point reported.
        reported = rule.eval_params(state.rule_state, params)
        there = stepping.value_and_grad(objective, reported, state.model_state, batch, stepping.step_key(objective, state), None)
        norm, evaluations = tree.norm(there.grads), evaluations + 1
        # CONVERGED is said of the point where gradients are taken: if an average of the way there is not as good, that point is what was asked for.
        behind = (code == Status.CONVERGED) & (norm > grad_norm)
        params = tree.where(behind, params, tree.cast_like(reported, params))
        value, grad_norm = pick(behind, value, there.value), pick(behind, grad_norm, norm)
    diagnosis = Diagnosis(
        initial_value=pick(made == 0, run.value, seen.initial_value),
        initial_grad_norm=pick(made == 0, run.grad_norm, seen.initial_grad_norm),
        learning_rate=stepping.learning_rate(rule, state.rule_state, state.rule_state),
        growth=run.growth,
        reason=run.reason,
    )
    return Result(
        params=params,
        value=value,
        grad_norm=grad_norm,
        code=run.code,
        steps=steps,
        evaluations=evaluations,
        history=history,
        state=Resumable(run.progress._replace(state=state._replace(params=last, step=steps)), history),
        aux=run.aux,
        rule=rule,
        model_state=state.model_state,
        diagnosis=diagnosis,
        kind="full batch",
        reasons=reasons,
    )
