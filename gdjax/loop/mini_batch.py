"""Mini-batch runs as a whole: in compiled segments with the host between them, or as one pure program inside a trace."""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree
from gdjax.brief import brief_repr
from gdjax.loop import hindsight, host, one_kernel, step as stepping, stochastic
from gdjax.loop.batches import Numbers, Plan, fetch
from gdjax.loop.feeds import UNKNOWN, Arrays, Block, Streams
from gdjax.loop.full_batch import capacity_for, pick, raise_not_finite
from gdjax.loop.progress import Progress, Run, Tally, begin, open_run
from gdjax.loop.setting import Setting, without_key
from gdjax.parts.held import per_loss
from gdjax.result import RUNNING, Diagnosis, Result, Status

# Copies of the state are kept, to run again from should the run break: every second, or so seldom that they take one part in so many of the time; on the
# device up to this size, larger ones on the host. Those of streams, which cannot be read again, at every segment, on the device.
COPY_AFTER, COPY_SHARE, COPY_BYTES = 1.0, 50, 32 << 20


class Options(NamedTuple):
    """What a run was asked for, beside the plan."""

    steps: Any  # int, in all; None: until the epochs are over
    epochs: int | None
    per_epoch: Any  # int; None for streams
    order: Any
    record_every: int
    patience: int
    callbacks: tuple
    checkpoint: Any
    progress: bool | None
    setting: Setting


class Resumable(NamedTuple):
    """``result.state`` of a mini-batch run: one pytree with all that is needed to go on, epochs and data order included."""

    progress: Progress  # the key of its state as 32-bit words
    history: dict[str, Any]
    setting: Setting

    __repr__ = brief_repr


def saved(progress: Progress, history: dict[str, Any], setting: Setting) -> Resumable:
    """What a run can be resumed from: plain arrays."""
    return Resumable(progress._replace(state=without_key(progress.state)), history, setting)


def resumed(progress: Progress, records: bool) -> Progress:
    """The progress of an earlier run for one that records at other steps: what has been made of its epoch belongs to its next record."""
    kept = progress.record if isinstance(progress.record, Tally) else progress.epoch
    return progress._replace(record=tree.copy(kept) if records else ())


class Summary(NamedTuple):
    """What the host looks at after a segment, fetched at once."""

    code: Any
    reason: Any
    step: Any
    reached: Any  # (step, evaluations): how far it came, what broke it included
    epochs: Any
    value: Any  # mean loss of the last epoch, or of the first as far as it has come
    sound: Any  # bool: all params are finite
    started: Any  # bool: the gradient of the first batch was finite, as far as it was looked at
    rows: Any  # of history written
    judged: Any  # what ``judged`` finds
    unfinished: Any  # bool: steps have been made since the last record
    tail: Any  # the record they would make


@functools.partial(per_loss, static_argnames=("plan",))
def _begin(plan, rule, params, key, model_state, stop, data) -> Progress:
    return tree.copy(begin(plan, rule, params, key, model_state, stop, data))


_at_the_end = per_loss(stochastic.at_the_end, static_argnames="plan")


@jax.jit
def _copy(progress):
    return tree.copy(progress)


@functools.partial(one_kernel.Compiled, static_argnames=("plan", "capacity"), donate_argnames=("progress",))
def _segment(plan: Plan, rule, progress, data, rows, stop, numbers, validation, capacity) -> tuple[Run, Summary]:
    run = open_run(plan, progress, data, rows, numbers, capacity)
    run = stochastic.loop(plan, rule, run, data, rows, stop, numbers, validation)
    done = run.progress
    unfinished, sound, tail = stochastic.unfinished(plan, done), tree.all_finite(done.state.params), stochastic.row_of(plan, done)
    value = jnp.where(jnp.isnan(done.value), _value(done), done.value)
    started = jnp.isfinite(done.initial_grad_norm) | (run.code == Status.NONFINITE) | (run.code == Status.DIVERGED)
    return run, Summary(run.code, run.reason, done.state.step, run.reached, done.epochs, value, sound, started, run.rows, judged(done), unfinished, tail)


def on_host(plan: Plan, options: Options, rule, params, data, key, model_state, stop, validation, resume) -> Result:
    """A run in compiled segments."""
    data = data if plan.source == "stream" else host.on_device(data)  # on the device once, not per segment
    anew = functools.partial(_begin, plan, rule, params, key, model_state, stop, data if rule.init_takes_more and plan.source != "stream" else None)
    again = anew if resume is None else (lambda: _copy(resumed(resume.progress, plan.records)))
    progress = again()
    validation = host.on_device(validation)
    work = 10 * tree.size(params) + 20 * plan.batch_size * sum(np.prod(x.shape[1:]) for x in ([] if plan.source == "stream" else jax.tree.leaves(data)))
    compact = one_kernel.possible(progress, () if plan.source == "stream" else data)
    plan = plan._replace(compact=compact, plain=compact and plan.source != "stream" and bool(work < one_kernel.PLAIN_BELOW))
    driver = _Driver(plan, options, rule, data, stop, validation, resume, progress, again, ((params, model_state), work))
    limits = [float(limit) for m in (stop.members() if stop else ()) if (limit := m.build().seconds) is not None]
    total = driver.last if driver.last < UNKNOWN else None
    with host.Watch(total, options.progress, min(limits, default=None), driver.step, driver.so_far) as watch:
        while driver.code == RUNNING:
            driver.segment(watch)
    return driver.result()


class _Kept(NamedTuple):
    """Where the run can be made again from, should it break."""

    step: int
    make: Any  # () -> Progress
    block: Block | None  # of streams, which cannot be asked again
    parts: int  # of history there were


class _Driver:
    """The segments of one run."""

    def __init__(self, plan, options, rule, data, stop, validation, resume, progress, again, began):
        self.began: Any = began  # where the run began and what its steps touch
        self.block = None  # the data of the last segment
        self.again, self.kept = again, []  # ``again`` makes the first progress anew
        self.copy_due = time.monotonic() + COPY_AFTER
        self.plan, self.options, self.rule, self.stop, self.validation = plan, options, rule, stop, validation
        self.step, self.epochs = (0, 0) if resume is None else (int(progress.state.step), int(progress.epochs))
        self.first = self.step
        self.last = options.steps if options.steps is not None else (options.epochs * options.per_epoch if options.per_epoch else int(UNKNOWN))
        streams = plan.source == "stream"
        self.source: Any = Streams(data, self.step, plan.objective, progress.state) if streams else Arrays(data, plan, options, progress.state.key)
        self.progress, self.aux, self.tail, self.code, self.reason = progress, None, None, RUNNING, -1
        self.judged: Any = None
        self.evaluations, self.looked = progress.state.evaluations, None
        self.parts = [] if resume is None else [_earlier(resume, plan.names, self.step)]
        records = max(self.last - self.step, 1) // (options.record_every or options.per_epoch or 1) + 2
        self.capacity = capacity_for(records)
        if self.last <= self.step or (options.epochs is not None and self.epochs >= options.epochs):
            self.code = int(Status.MAX_STEPS)
            self.tail = np.asarray(stochastic.row_of(plan, progress)) if bool(stochastic.unfinished(plan, progress)) else None

    def segment(self, watch) -> None:
        """One compiled segment and what follows from it."""
        block = self.block = self.source.at(self.step, self.progress.epoch_start, self.last)
        reach = self._reach(block, watch)
        self._keep(block)
        run, seen = self._recorded(self.plan, self.progress, block, reach)
        if not seen.sound:
            # A gradient was not finite while the loss still was: run again, checking gradients, to see where.
            run, seen = self._again(self.plan._replace(guard=True), reach)
        self.code, self.reason, self.evaluations = int(seen.code), int(seen.reason), seen.reached[1]
        if self.code in (Status.NONFINITE, Status.DIVERGED):
            run, seen = self._before_it_broke(run, seen, block)
        self.progress, self.aux, self.tail = run.progress, run.aux, seen.tail if seen.unfinished else None
        self.step, self.judged = int(seen.step), seen.judged
        if not seen.started:
            raise_not_finite(float(run.progress.initial_value), float(run.progress.initial_grad_norm))
        watch.saw(self.step, float(seen.value))
        ended, self.epochs = int(seen.epochs) > self.epochs, int(seen.epochs)
        self._between(watch, ended)

    def _reach(self, block: Block, watch) -> int:
        reach = min(self.step + watch.length(), block.reach, self.step + self._room(block), self.last)
        if self.plan.source == "stream":  # whose blocks end with an epoch
            return reach
        if self.options.callbacks or self.options.checkpoint:
            reach = min(reach, (self.step // block.per_epoch + 1) * block.per_epoch)
        return reach

    def _room(self, block: Block) -> int:
        """Steps whose records the history of a segment is sure to hold."""
        return (self.capacity - 2) * (self.options.record_every or block.per_epoch)

    def _keep(self, block: Block) -> None:
        """Keeps the state before a segment. The last two are enough: what breaks at the first batch of one was broken by the last step of the other."""
        stream, began = self.plan.source == "stream", time.monotonic()
        if self.step == self.first:
            make = self.again
        elif not stream and began < self.copy_due:
            return
        elif stream or tree.bytes_of(self.progress) <= COPY_BYTES:
            make = functools.partial(_copy, _copy(self.progress))
        else:
            make = _host_copy(self.progress)
        self.copy_due = time.monotonic() + max(COPY_AFTER, COPY_SHARE * (time.monotonic() - began))
        kept = _Kept(self.step, make, block if stream else None, len(self.parts))
        self.kept = [*self.kept[-1:], kept]

    def _again(self, plan: Plan, reach: int) -> tuple[Run, Summary]:
        """The run once more, from what was kept last before a step up to it; what is recorded replaces what was recorded since."""
        kept = next(kept for kept in reversed(self.kept) if kept.step <= reach)
        del self.parts[kept.parts :]
        step, progress = kept.step, kept.make()
        while True:
            block = kept.block or self.source.at(step, progress.epoch_start, self.last)
            run, seen = self._recorded(plan, progress, block, min(reach, block.reach, step + self._room(block)))
            step, progress = int(seen.step), run.progress
            if seen.code != RUNNING or step >= reach:
                return run, seen

    def _before_it_broke(self, run: Run, seen: Summary, block: Block) -> tuple[Run, Summary]:
        """The run as it was before the step that led to a batch where the loss or its gradient was not finite or out of proportion."""
        broke, met = int(seen.reached[0]), run.progress
        if broke == 0:
            raise_not_finite(*_at_start(self.plan, met, block))
        known = dict(initial_value=met.initial_value, initial_grad_norm=met.initial_grad_norm, learning_rate=met.learning_rate)
        run, before = self._again(self.plan, max(broke - 1, self.first))
        return run._replace(progress=run.progress._replace(**known)), before._replace(started=seen.started)

    def _recorded(self, plan: Plan, progress, block: Block, reach: int) -> tuple[Run, Summary]:
        """A compiled segment, its records taken down."""
        run, seen = self._go(plan, progress, block, reach)
        self.parts.append((np.asarray(run.steps)[: seen.rows].copy(), np.asarray(run.history)[: seen.rows].copy()))
        return run, seen

    def _go(self, plan, progress, block: Block, reach) -> tuple[Run, Summary]:
        o = self.options
        numbers = Numbers(*(np.int32(n) for n in (reach, self.last, block.per_epoch, o.record_every, o.patience, block.offset)))
        try:
            inputs = (plan, self.rule, progress, block.data, block.rows, self.stop, numbers, self.validation, self.capacity)
            run, summary = _segment(*inputs, plain=plan.plain)
        except jax.errors.JaxRuntimeError as error:
            if not (plan.compact and one_kernel.refused(error)):
                raise
            self.plan = self.plan._replace(compact=False)
            return self._go(plan._replace(compact=False), progress, block, reach)
        return run, jax.device_get(summary)

    def _between(self, watch, ended: bool) -> None:
        """Callbacks and checkpoints at the end of an epoch, and what the host asks for."""
        told = False
        if ended and self.options.checkpoint is not None:
            self.options.checkpoint(_copy(self._resumable()))
        if ended and self.options.callbacks:
            told = self._call_back(self.progress, self.progress.value)
        asked = watch.asked() if self.code == RUNNING else RUNNING
        if told and self.code == RUNNING:
            asked, self.reason = int(Status.STOPPED), len(self._reasons()) - 2
        if asked == Status.STOPPED and self.reason < 0:
            self.reason = len(self._reasons()) - 1
        if self.code == RUNNING and asked == RUNNING and self.options.steps is None and self.epochs >= (self.options.epochs or UNKNOWN):
            asked = int(Status.MAX_STEPS)
        self.code = asked if self.code == RUNNING else self.code
        if self.code != RUNNING and not ended and self.step > self.first:
            self._end_amid_an_epoch()

    def _end_amid_an_epoch(self) -> None:
        """The end of the run is looked at as that of an epoch is, which may never come."""
        self.looked = self._looked_at()
        if self.options.checkpoint is not None:
            self.options.checkpoint(_copy(self._resumable()))
        if self.options.callbacks:
            self._call_back(self.looked, self.judged[0])

    def _call_back(self, p: Progress, value) -> bool:
        """Whether a callback asks to stop."""
        now = tree.copy((stochastic.reported(self.rule, p.state), p.state.model_state))
        report = host.Report(self.step, self.epochs, float(value), float(p.validation), *now)
        return any([host.says_stop(callback(report)) for callback in self.options.callbacks])

    def _reasons(self):
        return (*(m.factory.__name__ for m in (self.stop.members() if self.stop else ())), "patience", "callback", "time_limit")

    def _history(self) -> dict[str, Any]:
        parts = [(np.zeros(0, np.int32), np.zeros((0, len(self.plan.names)), self.progress.value.dtype)), *self.parts]
        steps, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
        return {"step": steps} | {name: rows[:, i] for i, name in enumerate(self.plan.names)}

    def _resumable(self) -> Resumable:
        return saved(self.progress, self._history(), self.options.setting)

    def _looked_at(self) -> Progress:
        """The progress to be shown if the run ends here: amid an epoch, with the last params validated."""
        if not (self.plan.validate and float(self.progress.epoch.count) > 0):
            return self.progress
        return _at_the_end(self.plan, self.rule, self.progress, self.validation)

    def so_far(self) -> Result | None:
        """The result if the run ended here, for an exception to carry away; None where nothing has been done."""
        if self.step == self.first:
            return None
        self.code = int(Status.INTERRUPTED) if self.code == RUNNING else self.code
        return self.result()

    def result(self) -> Result:
        """The result of the run."""
        history, state = self._history(), self._resumable()
        looked = self._looked_at() if self.looked is None else self.looked
        if self.tail is not None:
            # The unfinished end of the run is shown in the history, but is not part of the state: a resumed run finishes it.
            last = {"step": np.int32(self.step)} | {name: self.tail[i] for i, name in enumerate(self.plan.names)}
            last |= {"validation": np.asarray(looked.validation)} if "validation" in last else {}
            history = {name: np.append(column, last[name]) for name, column in history.items()}
        code, reason = np.int32(self.code), np.int32(self.reason)
        verdict = jax.device_get(judged(self.progress)) if self.judged is None or self.code in (Status.NONFINITE, Status.DIVERGED) else self.judged
        result = finish(self.plan, looked, verdict, self.evaluations, code, reason, self.aux, self.rule, history, state, self._reasons())
        return hindsight.on_batches(result, self.plan, self.began[0], self.began[1], self.block, self.validation, self.progress.state.key)


def _host_copy(progress):
    """What makes a progress anew from a copy of it in the host's memory, where it lay."""
    places = jax.tree.map(lambda x: x.sharding, progress)
    held = jax.tree.map(lambda x: tree.copy(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.array(x), progress)
    return lambda: _copy(jax.device_put(held, places))


def _at_start(plan, progress, block) -> tuple[float, float]:
    """Loss and gradient norm of the first batch."""
    numbers = Numbers(*[jnp.int32(1)] * 5, offset=jnp.int32(0))._replace(per_epoch=jnp.int32(block.per_epoch))
    batch, weights = fetch(plan, block.data, block.rows, numbers, jnp.int32(0))
    state = progress.state
    inputs = (state.params, state.model_state, batch, stepping.step_key(plan.objective, state), weights)
    there = stepping.value_and_grad(plan.objective, *inputs)
    return float(there.value), float(tree.norm(there.grads))


def _earlier(resume, names, step):
    """The rows of the run that is resumed; NaN for what was not recorded then."""
    before = {name: np.asarray(column) for name, column in resume.history.items()}
    keep = (before["step"] >= 0) & (before["step"] <= step)
    unknown = np.full(len(keep), np.nan, np.float32)
    return before["step"][keep], np.stack([before.get(name, unknown)[keep] for name in names], 1) if names else np.zeros((keep.sum(), 0))


def _value(progress: Progress):
    """The mean over the current epoch as far as it has come, else over the last finished one, else the loss of the first batch."""
    count, before = progress.epoch.count, jnp.where(jnp.isnan(progress.value), progress.initial_value, progress.value)
    return jnp.where(count > 0, progress.epoch.total / jnp.where(count > 0, count, 1), before)


def judged(progress: Progress) -> tuple[Any, Any, Any]:
    """(mean loss, gradient norm, whether it ended far above its start)."""
    # Ended above its start, by a lot and for good: the loss was rising when the steps ran out. The first batch alone may have been fitted by chance.
    value, start = _value(progress), progress.initial_value
    above = value - start > 10 * jnp.maximum(jnp.abs(start), jnp.abs(progress.best.metric))
    fallen = jnp.abs(value) < jnp.abs(progress.first_value) / 2
    grad_norm = jnp.where(jnp.isnan(progress.grad_norm), progress.initial_grad_norm, progress.grad_norm)
    return value, grad_norm, above & (value >= progress.value) & ~fallen


def finish(plan: Plan, progress: Progress, verdict, evaluations, code, reason, aux, rule, history, state, reasons) -> Result:
    """The result of a run that has ended, on the host or in a trace; ``verdict`` is what ``judged`` found."""
    (value, grad_norm, worse), params = verdict, stochastic.reported(rule, progress.state)
    code = host.on_device(pick((code == Status.MAX_STEPS) & worse, np.int32(Status.DIVERGED), code))
    value, grad_norm, evaluations = host.on_device((value, grad_norm, evaluations))
    model_state = progress.state.model_state
    best, best_step, best_validation = progress.best, None, None
    known = best.epoch > 0
    if plan.keep_best:
        here = (params, model_state, value, grad_norm)
        params, model_state, value, grad_norm = tree.where(known, (best.params, best.model_state, best.value, best.grad_norm), here)
    if plan.keep_best or plan.validate:
        best_step = jnp.where(known, best.step, progress.state.step)
    if plan.validate:
        best_validation = jnp.where(known, best.metric, jnp.nan)
    nan = host.on_device(np.float32(np.nan))
    return Result(
        params=params,
        value=value,
        grad_norm=grad_norm,
        code=code,
        steps=progress.state.step,
        evaluations=evaluations,
        history=history,
        state=state,
        aux=aux,
        rule=rule,
        model_state=model_state,
        diagnosis=Diagnosis(
            progress.initial_value, progress.initial_grad_norm, progress.learning_rate, nan, reason, stochastic.validation_broke(plan, progress)
        ),
        best_step=best_step,
        best_validation=best_validation,
        kind="mini-batches",
        keep="best" if plan.keep_best else "last",
        reasons=reasons,
    )
