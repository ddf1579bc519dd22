"""Mini-batch runs as a whole: in compiled segments with the host between them, or as one pure program inside a trace."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import data as sources, tree
from gdjax.loop import deterministic, host, one_kernel, step as stepping, stochastic
from gdjax.loop.batches import Numbers, Plan, fetch
from gdjax.loop.full_batch import capacity_for, pick, raise_not_finite
from gdjax.loop.stochastic import Progress, Run
from gdjax.result import RUNNING, Diagnosis, Result, Status

# Up to here a copy of the state is kept per segment, to run it again; beyond, the run is begun again, or a stream checked step by step.
SNAPSHOT_BYTES = 32 << 20
BLOCK_ROWS = 1 << 22  # row numbers on the device at once
UNKNOWN = np.int32(np.iinfo(np.int32).max // 4)  # steps in an epoch of a stream that has not ended yet


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


class Resumable(NamedTuple):
    """``result.state`` of a mini-batch run: one pytree with all that is needed to go on, epochs and data order included."""

    progress: Progress
    history: dict[str, Any]


class Summary(NamedTuple):
    """What the host looks at after a segment, fetched at once."""

    code: Any
    reason: Any
    step: Any
    epochs: Any
    value: Any  # mean loss of the last epoch, or of the first as far as it has come
    sound: Any  # bool: all params are finite
    started: Any  # bool: the gradient of the first batch was finite, as far as it was looked at
    rows: Any  # of history written
    judged: Any  # what ``judged`` finds
    unfinished: Any  # bool: steps have been made since the last record
    tail: Any  # the record they would make


@functools.partial(jax.jit, static_argnames=("plan",))
def _begin(plan, rule, params, key, model_state, stop, data) -> Progress:
    return tree.copy(stochastic.begin(plan, rule, params, key, model_state, stop, data))


@jax.jit
def _copy(progress):
    return tree.copy(progress)


@functools.partial(one_kernel.Compiled, static_argnames=("plan", "capacity"), donate_argnames=("progress",))
def _segment(plan: Plan, rule, progress, data, rows, stop, numbers, validation, capacity) -> tuple[Run, Summary]:
    run = stochastic.open_run(plan, progress, data, rows, numbers, capacity)
    run = stochastic.loop(plan, rule, run, data, rows, stop, numbers, validation)
    done = run.progress
    unfinished = stochastic.unfinished(plan, done) & (run.code != Status.NONFINITE) & (run.code != Status.DIVERGED)
    sound, tail = tree.all_finite(done.state.params), stochastic.row_of(plan, done)
    value = jnp.where(jnp.isnan(done.value), _value(done), done.value)
    started = jnp.isfinite(done.initial_grad_norm) | (run.code == Status.NONFINITE) | (run.code == Status.DIVERGED)
    return run, Summary(run.code, run.reason, done.state.step, done.epochs, value, sound, started, run.rows, judged(done), unfinished, tail)


class Block(NamedTuple):
    """Batches for the steps from ``offset`` on: a part of the data's order, or of a stream."""

    data: Any
    rows: Any  # or None
    offset: int
    reach: int  # steps up to here can be made
    per_epoch: int


class Arrays:
    """In-memory data: blocks of epochs whose order is made on the host from the key alone."""

    def __init__(self, data, plan: Plan, options: Options, key):
        self.data, self.plan, self.options = data, plan, options
        self.words = np.zeros(0, np.uint32) if plan.source == "order" else sources.key_words(key)
        per_epoch = options.per_epoch * plan.batch_size
        wanted = options.epochs if options.epochs is not None else -(-options.steps // options.per_epoch)
        self.epochs = max(1, min(1 << (max(wanted, 1) - 1).bit_length(), BLOCK_ROWS // per_epoch))
        self.block = None

    def at(self, step: int, _, last: int) -> Block:
        """The block that holds a step."""
        per_epoch = self.options.per_epoch
        if self.plan.source == "order":
            return Block(self.data, None, 0, last, per_epoch)
        if self.block is None or not self.block.offset <= step < self.block.reach:
            first = step // per_epoch
            make = functools.partial(sources.host_rows, self.words, self.plan.count, self.plan.batch_size, self.options.order)
            needed = min(self.epochs, -(-(last - first * per_epoch) // per_epoch))
            rows = np.zeros((self.epochs * per_epoch, self.plan.batch_size), np.int32)
            for index in range(needed):
                rows[index * per_epoch : (index + 1) * per_epoch] = make(first + index)
            self.block = Block(self.data, jax.device_put(rows), first * per_epoch, (first + self.epochs) * per_epoch, per_epoch)
        return self.block


class Streams:
    """A stream of batches: blocks of batches of one shape, stacked, none beyond the end of an epoch."""

    def __init__(self, source, start: int, objective, state: stepping.State):
        self.stream = sources.Stream(source, stepping.trial(objective, state))
        self.stream.skip(start)

    def at(self, step: int, epoch_start, last: int, most: int = 64) -> Block:
        """The next block; called once per segment, which makes all its steps."""
        batches = self.stream.next_block(min(most, last - step), host.SEGMENT_SECONDS)
        reach = step + len(batches)
        per_epoch = reach - int(epoch_start) if self.stream.epoch_is_over else int(UNKNOWN)
        return Block(sources.stack(batches), None, step, reach, per_epoch)


def on_host(plan: Plan, options: Options, rule, params, data, key, model_state, stop, validation, resume) -> Result:
    """A run in compiled segments."""
    data = data if plan.source == "stream" else host.on_device(data)  # on the device once, not per segment
    begin = functools.partial(_begin, plan, rule, params, key, model_state, stop, data if rule.init_takes_more and plan.source != "stream" else None)
    progress = begin() if resume is None else _copy(resume.progress)
    validation = host.on_device(validation)
    work = 10 * tree.size(params) + 20 * plan.batch_size * sum(np.prod(x.shape[1:]) for x in ([] if plan.source == "stream" else jax.tree.leaves(data)))
    compact = one_kernel.possible(progress, () if plan.source == "stream" else data)
    plan = plan._replace(compact=compact, plain=compact and plan.source != "stream" and bool(work < one_kernel.PLAIN_BELOW))
    large = tree.bytes_of(progress) > SNAPSHOT_BYTES
    again = begin if resume is None else (lambda: _copy(resume.progress))
    guarded = plan._replace(guard=large and plan.source == "stream")
    driver = _Driver(guarded, options, rule, data, stop, validation, resume, progress, again, large)
    limits = [float(limit) for m in (stop.members() if stop else ()) if (limit := m.build().seconds) is not None]
    total = driver.last if driver.last < UNKNOWN else None
    with host.Watch(total, options.progress, min(limits, default=None), driver.step, driver.so_far) as watch:
        while driver.code == RUNNING:
            driver.segment(watch)
    return driver.result()


class _Driver:
    """The segments of one run."""

    def __init__(self, plan, options, rule, data, stop, validation, resume, progress, again, large):
        self.again, self.large = again, large  # ``again`` makes the first progress anew, where copies of it are too large to keep
        self.plan, self.options, self.rule, self.stop, self.validation = plan, options, rule, stop, validation
        self.step, self.epochs = (0, 0) if resume is None else (int(progress.state.step), int(progress.epochs))
        self.first = self.step
        self.last = options.steps if options.steps is not None else (options.epochs * options.per_epoch if options.per_epoch else int(UNKNOWN))
        streams = plan.source == "stream"
        self.source: Any = Streams(data, self.step, plan.objective, progress.state) if streams else Arrays(data, plan, options, progress.state.key)
        self.progress, self.aux, self.tail, self.code, self.reason, self.judged = progress, None, None, RUNNING, -1, None
        self.parts = [] if resume is None else [_earlier(resume, plan.names, self.step)]
        records = max(self.last - self.step, 1) // (options.record_every or options.per_epoch or 1) + 2
        self.capacity = capacity_for(records)
        if self.last <= self.step or (options.epochs is not None and self.epochs >= options.epochs):
            self.code = int(Status.MAX_STEPS)
            self.tail = np.asarray(stochastic.row_of(plan, progress)) if bool(stochastic.unfinished(plan, progress)) else None

    def segment(self, watch) -> None:
        """One compiled segment and what follows from it."""
        block = self.source.at(self.step, self.progress.epoch_start, self.last)
        reach = self._reach(block, watch)
        kept = None if self.plan.guard or self.run_again_from_the_start() else _copy(self.progress)
        run, seen = self._go(self.plan, self.progress, block, reach)
        if not seen.sound and not self.plan.guard:
            # A gradient was not finite while the loss still was: run again, checking gradients, up to the last finite params.
            run, seen = self._go(self.plan._replace(guard=True), kept, block, reach) if kept is not None else self._from_the_start(block, reach)
        self.parts.append((np.asarray(run.steps)[: seen.rows].copy(), np.asarray(run.history)[: seen.rows].copy()))
        self.progress, self.aux, self.tail = run.progress, run.aux, seen.tail if seen.unfinished else None
        self.code, self.reason, self.step, self.judged = int(seen.code), int(seen.reason), int(seen.step), seen.judged
        if self.step == 0 and self.code != RUNNING:
            raise_not_finite(*_at_start(self.plan, self.progress, block))
        if not seen.started:
            raise_not_finite(float(run.progress.initial_value), float(run.progress.initial_grad_norm))
        watch.saw(self.step, float(seen.value))
        ended, self.epochs = int(seen.epochs) > self.epochs, int(seen.epochs)
        self._between(watch, ended)

    def run_again_from_the_start(self) -> bool:
        """Whether a copy of the state is too large to keep, or not needed because this is the first segment."""
        return self.large or self.step == self.first

    def _reach(self, block: Block, watch) -> int:
        if self.plan.source == "stream":
            return block.reach
        reach = min(self.step + watch.length(), block.reach, self.last)
        every = self.options.record_every or block.per_epoch
        reach = min(reach, self.step + (self.capacity - 2) * every)
        if self.options.callbacks or self.options.checkpoint:
            reach = min(reach, (self.step // block.per_epoch + 1) * block.per_epoch)
        return reach

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

    def _from_the_start(self, block, reach) -> tuple[Run, Summary]:
        progress, guarded = self.again(), self.plan._replace(guard=True)
        if self.plan.source == "stream":  # this is its first block: larger states of streams are guarded all along
            return self._go(guarded, progress, block, reach)
        while True:
            block = self.source.at(int(progress.state.step), int(progress.epoch_start), self.last)
            run, seen = self._go(guarded, progress, block, min(reach, block.reach))
            progress = run.progress
            if seen.code != RUNNING or seen.step >= reach:
                return run, seen

    def _between(self, watch, ended: bool) -> None:
        """Callbacks and checkpoints at the end of an epoch, and what the host asks for."""
        told = False
        if ended and self.options.checkpoint is not None:
            self.options.checkpoint(_copy(Resumable(self.progress, self._history())))
        if ended and self.options.callbacks:
            p = self.progress
            now = tree.copy((stochastic.reported(self.rule, p.state), p.state.model_state))
            report = host.Report(self.step, self.epochs, float(p.value), float(p.validation), *now)
            told = any([host.says_stop(callback(report)) for callback in self.options.callbacks])
        asked = watch.asked() if self.code == RUNNING else RUNNING
        if told and self.code == RUNNING:
            asked, self.reason = int(Status.STOPPED), len(self._reasons()) - 2
        if asked == Status.STOPPED and self.reason < 0:
            self.reason = len(self._reasons()) - 1
        if self.code == RUNNING and asked == RUNNING and self.options.steps is None and self.epochs >= (self.options.epochs or UNKNOWN):
            asked = int(Status.MAX_STEPS)
        self.code = asked if self.code == RUNNING else self.code

    def _reasons(self):
        return (*(m.factory.__name__ for m in (self.stop.members() if self.stop else ())), "patience", "callback", "time_limit")

    def _history(self) -> dict[str, Any]:
        parts = [(np.zeros(0, np.int32), np.zeros((0, len(self.plan.names)), self.progress.value.dtype)), *self.parts]
        steps, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
        return {"step": steps} | {name: rows[:, i] for i, name in enumerate(self.plan.names)}

    def so_far(self) -> Result | None:
        """The result if the run ended here, for an exception to carry away; None where nothing has been done."""
        if self.step == self.first:
            return None
        self.code = int(Status.INTERRUPTED) if self.code == RUNNING else self.code
        return self.result()

    def result(self) -> Result:
        """The result of the run."""
        history = self._history()
        state = Resumable(self.progress, history)
        if self.tail is not None:
            # The unfinished end of the run is shown in the history, but is not part of the state: a resumed run finishes it.
            last = {"step": np.int32(self.step)} | {name: self.tail[i] for i, name in enumerate(self.plan.names)}
            history = {name: np.append(column, last[name]) for name, column in history.items()}
        code, reason = np.int32(self.code), np.int32(self.reason)
        verdict = jax.device_get(judged(self.progress)) if self.judged is None else self.judged
        return finish(self.plan, self.progress, verdict, code, reason, self.aux, self.rule, history, state, self._reasons())


def _at_start(plan, progress, block) -> tuple[float, float]:
    """Loss and gradient norm of the first batch."""
    numbers = Numbers(*[jnp.int32(1)] * 5, offset=jnp.int32(0))
    batch, weights = fetch(plan, block.data, block.rows, numbers, jnp.int32(0))
    state = progress.state
    inputs = (state.params, state.model_state, batch, stepping.step_key(plan.objective, state), weights)
    there = stepping.value_and_grad(plan.objective, *inputs)
    return float(there.value), float(tree.norm(there.grads))


def _earlier(resume, names, step):
    before = {name: np.asarray(column) for name, column in resume.history.items()}
    if set(before) != {"step", *names}:
        return np.zeros(0, np.int32), np.zeros((0, len(names)))
    keep = (before["step"] >= 0) & (before["step"] <= step)
    return before["step"][keep], np.stack([before[name][keep] for name in names], 1) if names else np.zeros((keep.sum(), 0))


def _value(progress: Progress):
    """The mean over the current epoch as far as it has come, else over the last finished one."""
    count = progress.epoch.count
    return jnp.where(count > 0, progress.epoch.total / jnp.where(count > 0, count, 1), progress.value)


def judged(progress: Progress) -> tuple[Any, Any]:
    """(mean loss, whether it ended far above its start)."""
    # Ended above its start, by a lot and for good: the loss was rising when the steps ran out. The first batch alone may have been fitted by chance.
    value, start = _value(progress), progress.initial_value
    above = value - start > 10 * jnp.maximum(jnp.abs(start), jnp.abs(progress.best.metric))
    fallen = jnp.abs(value) < jnp.abs(progress.first_value) / 2
    return value, above & (value >= progress.value) & ~fallen


def finish(plan: Plan, progress: Progress, verdict, code, reason, aux, rule, history, state, reasons) -> Result:
    """The result of a run that has ended, on the host or in a trace; ``verdict`` is what ``judged`` found."""
    (value, worse), params = verdict, stochastic.reported(rule, progress.state)
    code = host.on_device(pick((code == Status.MAX_STEPS) & worse, np.int32(Status.DIVERGED), code))
    value = host.on_device(value)
    model_state = progress.state.model_state
    if plan.keep_best:
        known, best = progress.best.epoch > 0, progress.best
        params, model_state = tree.where(known, (best.params, best.model_state), (params, model_state))
        value = jnp.where(known, best.value, value)
    grad_norm, evaluations = progress.grad_norm, progress.state.evaluations
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
        diagnosis=Diagnosis(progress.initial_value, progress.initial_grad_norm, progress.learning_rate, nan, reason),
        kind="mini-batches",
        reasons=reasons,
    )


@functools.partial(jax.jit, static_argnames=("plan", "options", "capacity"))
def _whole(plan: Plan, options: Options, rule, params, data, rows, key, model_state, stop, validation, progress, capacity):
    if progress is None:
        progress = stochastic.begin(plan, rule, params, key, model_state, stop, data)
    steps, per_epoch = options.steps, options.per_epoch
    numbers = Numbers(*(jnp.int32(n) for n in (steps, steps, per_epoch, options.record_every, options.patience, 0)))
    if rows is None and plan.source == "rows":
        epochs = jnp.arange(-(-steps // per_epoch))
        make = lambda epoch: sources.device_rows(progress.state.key, plan.count, plan.batch_size, options.order, epoch)  # noqa: E731
        rows = jax.lax.map(make, epochs).reshape(-1, plan.batch_size)
    run = stochastic.open_run(plan, progress, data, rows, numbers, capacity)
    run = stochastic.loop(plan, rule, run, data, rows, stop, numbers, validation)
    unfinished = stochastic.unfinished(plan, run.progress) & (run.code != Status.NONFINITE) & (run.code != Status.DIVERGED)
    return run, jax.lax.cond(unfinished, lambda r: stochastic._write(plan, r), lambda r: r, run)


def traced(plan: Plan, options: Options, rule, params, data, key, model_state, stop, validation, resume) -> Result:
    """A run as one pure program: differentiable, mappable, of fixed length."""
    steps, per_epoch, every = options.steps, options.per_epoch, options.record_every
    ends = {min(1, steps), *range(per_epoch, steps + 1, per_epoch), *(range(every, steps + 1, every) if every else ()), steps}
    plan = plan._replace(guard=True, spans=deterministic.spans(ends), fresh=resume is None)
    rows = None
    if plan.source == "rows" and not tree.is_traced(key):
        words, epochs = sources.key_words(key), -(-steps // per_epoch)
        made = [sources.host_rows(words, plan.count, plan.batch_size, options.order, epoch) for epoch in range(max(epochs, 1))]
        rows = jnp.asarray(np.concatenate(made))
    arrays = lambda t: jax.tree.map(jnp.asarray, t)  # noqa: E731
    progress = None if resume is None else resume.progress
    each = every or per_epoch
    capacity = max(-(-steps // each), 1)
    run, shown = _whole(plan, options, rule, params, arrays(data), rows, key, model_state, stop, arrays(validation), progress, capacity)
    reasons = (*(m.factory.__name__ for m in (stop.members() if stop else ())), "patience", "callback", "time_limit")
    return _result(plan, run, shown, arrays(rule), capacity, reasons)


@functools.partial(jax.jit, static_argnames=("plan", "capacity", "reasons"))
def _result(plan: Plan, run, shown, rule, capacity: int, reasons) -> Result:
    # One program: under an uncompiled vmap every operation here would be compiled by itself.
    filled = jnp.arange(capacity) < shown.rows
    history = {"step": jnp.where(filled, shown.steps, -1)}
    history |= {name: jnp.where(filled, shown.history[:, i], jnp.nan) for i, name in enumerate(plan.names)}
    state = Resumable(run.progress, history)
    return finish(plan, run.progress, judged(run.progress), run.code, run.reason, run.aux, rule, history, state, reasons)
