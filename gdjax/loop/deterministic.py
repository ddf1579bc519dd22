"""The full-batch loop: evaluate, judge, move, all in one compiled program. Value and gradient norm belong to the params that are returned."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import stop as stopping, tree
from gdjax.brief import brief_repr
from gdjax.loop import evidence as evidences, lanes, one_kernel, step as stepping
from gdjax.loop.verdict import EVERY, EVERY_SEARCH, Seen, close, inspect, judge, look, settled, unseen, without_rules
from gdjax.parts import convolutions, turned
from gdjax.result import RUNNING, Status

HISTORY = ("value", "grad_norm", "update_norm", "learning_rate", "evaluations")
OWN_ENTRIES = 512  # a step of fewer XLA makes a kernel by itself, where it reads no data, at less cost per look at the run


class Progress(NamedTuple):
    """What the next step needs: the resumable part of a run. A verdict leaves it as it was, so N steps and M more are N + M steps bit for bit."""

    state: stepping.State
    seen: Seen
    stop_state: Any
    update_norm: Any  # ‖u‖ of the last update where something asks for it, else ()
    learning_rate: Any  # float32, of the last step, where history asks for it, else ()

    __repr__ = brief_repr


class Resumable(NamedTuple):
    """``result.state`` of a full-batch run: one pytree with all that is needed to go on."""

    progress: Progress
    history: dict[str, Any]  # what was recorded so far
    watched: Any = ()  # what is known of its epochs, where they are compared

    __repr__ = brief_repr


class Run(NamedTuple):
    """A full-batch run in flight."""

    progress: Progress
    value: Any  # at the params last evaluated
    grad_norm: Any
    aux: Any
    code: Any  # int32: RUNNING or a Status
    reason: Any  # int32: which stopping rule, or -1
    count: Any  # int32: evaluations the last point took; 0 where the rule had made it already
    growth: Any  # of ‖g‖ per step, where it grew: set when the run ends
    history: Any  # (capacity, names): rows recorded in this segment
    rows: Any  # int32: how many
    previous: Any  # (params, value, grad_norm) last finite, where runs cannot be run again up to that point; else ()
    last: Any  # (value, grad_norm) last evaluated, where ``previous`` is kept; else ()
    before: Any  # (value, grad_norm) evaluated before the last
    broke: Any  # int32: 1 if the last step led out of the finite and ``previous`` is one step back
    evidence: Any  # of the last closer look


def begin(objective, rule, params, batch, key, model_state, stop, names) -> Progress:
    """Before the first step."""
    state = stepping.start(rule, params, model_state, key)
    dtype = tree.dtype_of(params)
    moved = jnp.asarray(jnp.inf, dtype) if stop.build().needs_update or "update_norm" in names else ()
    return Progress(state, unseen(params), stop.build().init(), moved, jnp.float32(jnp.nan) if "learning_rate" in names else ())


def open_run(objective, progress: Progress, batch, names, capacity: int, keep_previous: bool) -> Run:
    """A run that continues from ``progress``, with an empty history of ``capacity`` rows."""
    state, dtype = progress.state, tree.dtype_of(progress.state.params)
    shape = jax.eval_shape(lambda s: stepping.value_and_grad(objective, s.params, s.model_state, batch, stepping.step_key(objective, s), None), state)
    aux = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape.aux)
    nan = jnp.asarray(jnp.nan, dtype)
    previous = (state.params, nan, nan) if keep_previous else ()
    history = jnp.full((capacity + EVERY, len(names)), jnp.nan, dtype)  # room for the last block
    before = (progress.seen.previous_value, progress.seen.previous_grad_norm)
    last = before if keep_previous else ()
    running, none, blank = jnp.int32(RUNNING), jnp.int32(0), evidences.unknown(dtype)
    return Run(progress, *before, aux, running, jnp.int32(-1), none, progress.seen.growth, history, none, previous, last, before, none, blank)


def loop(objective, rule, run: Run, batch, stop, until, max_steps, record_every, names, trips=None, fresh=False, compact=False, confirms=True) -> Run:
    """Runs until ``until`` updates or a verdict: a tight loop of steps, and around it one of inspections.

    ``trips``, where given, bounds the steps so that reverse-mode derivatives exist; ``fresh``: it also is their number, from the first.
    ``compact``: all arrays are on one CPU, and small steps may be one kernel. ``confirms``: a verdict that wants a closer look gets it here, not from the host.
    """
    until = jnp.maximum(until, run.progress.state.step + 1)  # one point at least: a run that is resumed may have made all steps asked for, and more
    every = EVERY_SEARCH if stepping.evaluates_itself(objective, rule, run.progress.state, batch) else EVERY
    closer = functools.partial(look_closer, objective, stop, batch) if confirms and stopping.unconfirmed(stop) else None
    body = functools.partial(_body, objective=objective, batch=batch, stop=stop, max_steps=max_steps, record_every=record_every, names=names, closer=closer)
    known = spans({1, *range(every, trips, every), trips}) if trips is not None and fresh else None

    def goes_on(run, limit=until):
        return (run.code == RUNNING) & (run.progress.state.step < limit)

    def span(rule, run, index):
        # The inner loop records into a block of its own: a long buffer carried through a small loop costs more than its arithmetic.
        history, rows, block = run.history, run.rows, jnp.full((every, len(names)), jnp.nan, run.history.dtype)
        step = run.progress.state.step
        # The first step stands alone, so that the start is known to the others without being carried along.
        ends = jnp.minimum(jnp.where(step == 0, 1, (lax.div(step, jnp.int32(every)) + 1) * every), until)
        inner = run._replace(history=block, rows=jnp.int32(0), evidence=run.evidence if closer else ())
        turns = None if trips is None else Turns(min(every, trips), known and known.live(index))
        inner = _steps(lambda run: goes_on(run, ends), body, inner, rule, turns, objective.rows_of(batch), compact)
        inner = _noted(inner, step)
        history = lax.dynamic_update_slice_in_dim(history, inner.history, rows, 0)
        run = inner._replace(history=history, rows=rows + inner.rows, evidence=inner.evidence or run.evidence)
        due = (run.code == RUNNING) & (lax.rem(run.progress.state.step, jnp.int32(every)) == 0)
        run = lax.cond(due, functools.partial(_inspect, rule, every), lambda run: run, run)
        return lax.cond(run.code == RUNNING, lambda run: run, functools.partial(_close, len(stop.members())), run)

    count = len(known.ends) if known else None if trips is None else -(-trips // every) + 1
    return bounded_while(goes_on, span, run, None if count is None else Turns(count), rule)


def _steps(goes_on, body, run: Run, rule, turns, batch_rows, compact) -> Run:
    step = lambda rule, run, _: body(run, rule=rule)  # noqa: E731
    condition, step, carry, back = turned.stored(goes_on, step, run, run.progress.state.params, batch_rows)
    return back(bounded_while(condition, step, carry, turns, rule, OWN_ENTRIES if compact else None))


def _noted(run: Run, first_step) -> Run:
    """What the scalars of the inner loop mean for the run: the start, and the point before the last one evaluated or moved from."""
    value, grad_norm = here = run.last or (run.value, run.grad_norm)
    previous = tree.where(run.code == RUNNING, here, run.before)
    seen = look(run.progress.seen, first_step, value, grad_norm)
    return run._replace(progress=run.progress._replace(seen=seen._replace(previous_value=previous[0], previous_grad_norm=previous[1])))


def _close(members, run: Run) -> Run:
    seen, code, reason = close(run.progress.seen, run.code, run.reason, members, run.progress.state.step, *(run.last or (run.value, run.grad_norm)))
    return run._replace(code=code, reason=reason, growth=seen.growth)


class Verdict(NamedTuple):
    """What a closer look may change."""

    code: Any
    reason: Any
    stop_state: Any
    evidence: Any


def look_closer(objective, stop, batch, state, seen: Seen, value, grad_norm, verdict: Verdict) -> Verdict:
    """The verdict on a point where a run may end, after a closer look where one is wanted."""
    named = jnp.asarray([index in stopping.unconfirmed(stop) for index in range(len(stop.members()))])
    wanted = (verdict.code == Status.STALLED) | ((verdict.code == Status.CONVERGED) & named[verdict.reason])
    initial = stopping.Start(seen.initial_value, seen.initial_size)

    def gradient(params):  # NaN where the loss is not finite: what a gradient says there, often 0, is no rounding of another
        seen = stepping.value_and_grad(objective, params, state.model_state, batch, stepping.step_key(objective, state), None)
        return jax.tree.map(lambda g: jnp.where(jnp.isfinite(seen.value), g, jnp.nan), seen.grads)

    def look_again(_, verdict):
        evidence = evidences.look_closer(gradient, state.params, initial.size)
        nan = jnp.full_like(value, jnp.nan)
        shown = stopping.Observation(value, nan, grad_norm, seen.initial_grad_norm, nan, evidence.params_norm)
        return Verdict(*stopping.confirm(stop, evidence, shown, initial, verdict.code, verdict.reason, verdict.stop_state), evidence)

    return lanes.when(lax.stop_gradient(wanted), look_again, verdict)


def _inspect(rule, every, run: Run) -> Run:
    state = run.progress.state
    rate = jnp.asarray(stepping.learning_rate(rule, state.rule_state, state.rule_state))
    seen = inspect(run.progress.seen, state.params, rate, every)
    return run._replace(progress=run.progress._replace(seen=seen))


class Turns(NamedTuple):
    """A loop as a scan, for derivatives: of ``count`` turns, of which those that are not ``live(turn)`` are skipped by all lanes of a ``vmap``."""

    count: int
    live: Any = None  # turn -> bool; None: all are


def bounded_while(condition, body, carry, turns: Turns | None, rule=None, compact: int | None = None):
    """``lax.while_loop`` of ``body(rule, carry, turn)``, as one kernel if small but computing ``compact`` entries; or a scan, for derivatives.

    A while loop gives None for the turn.
    """
    if turns is None:
        step = lambda carry: body(rule, carry, None)  # noqa: E731
        if compact is not None:
            return one_kernel.while_loop(condition, step, carry, compact)
        return convolutions.arranged(lambda carry: lax.while_loop(condition, step, carry))(carry)

    def turn(carry, index):
        active = condition(carry) if turns.live is None else condition(carry) & turns.live(index)
        return lanes.when(active, lambda rule, carry: body(rule, carry, index), carry, rule), None

    return convolutions.arranged(lambda carry: lax.scan(turn, carry, jnp.arange(turns.count, dtype=jnp.int32))[0])(carry)


class Spans(NamedTuple):
    """The stretches between the looks of a run whose length is known when it is compiled: static."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Steps in the longest of them, at least 1."""
        return max(1, *(end - start for start, end in zip(self.starts, self.ends, strict=True)))

    def at(self, index) -> tuple[jax.Array, jax.Array]:
        """(start, end) of one of them, int32: the same for all lanes of a ``vmap``, whose own counters are not."""
        return jnp.asarray(self.starts, jnp.int32)[index], jnp.asarray(self.ends, jnp.int32)[index]

    def live(self, index):
        """Whether a turn within one of them belongs to it."""
        start, end = self.at(index)
        return lambda turn: start + turn < end


def spans(ends) -> Spans:
    """Stretches that end so."""
    ends = tuple(sorted(ends))
    return Spans((0, *ends[:-1]), ends)


def _body(run: Run, *, objective, rule, batch, stop, max_steps, record_every, names, closer) -> Run:
    progress, evidence = run.progress, run.evidence
    state, dtype = progress.state, run.value.dtype
    evaluation, count = stepping.evaluate(objective, rule, state, batch, reuse=True)
    value = evaluation.value.astype(dtype)
    before = run.last or (run.value, run.grad_norm)
    grad_norm = tree.norm(evaluation.grads).astype(dtype)
    seen = progress.seen._replace(previous_value=before[0], previous_grad_norm=before[1])
    update_norm = jnp.full_like(value, jnp.nan) if isinstance(progress.update_norm, tuple) else progress.update_norm
    code, reason, stop_state = judge(seen, state.step, max_steps, value, grad_norm, update_norm, state.params, stop, progress.stop_state)
    if closer is not None:
        noted, said = look(seen, state.step, value, grad_norm), code
        code, reason, stop_state, evidence = closer(state, noted, value, grad_norm, Verdict(code, reason, stop_state, evidence))
        code = jnp.where((said == Status.CONVERGED) & (code == RUNNING), without_rules(seen, state.step, max_steps), code).astype(jnp.int32)
    finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)

    def move(evaluation):
        new, updates, more = stepping.advance(objective, rule, state, evaluation, batch)
        return Progress(
            state=new._replace(evaluations=state.evaluations + count + more),
            seen=progress.seen,
            stop_state=stop_state,
            update_norm=progress.update_norm if isinstance(progress.update_norm, tuple) else tree.norm(updates).astype(dtype),
            learning_rate=() if isinstance(progress.learning_rate, tuple) else jnp.asarray(stepping.learning_rate(rule, state.rule_state, new.rule_state)),
        )

    if run.previous:  # under a trace, where there may be lanes
        moved = lanes.when(code == RUNNING, lambda evaluation, _: move(evaluation), progress, evaluation)
    else:
        moved = lax.cond(code == RUNNING, move, lambda _: progress, evaluation)
    code = settled(code, moved.state.step > state.step, value, grad_norm, stop)
    goes_on = code == RUNNING
    record = (goes_on & (lax.rem(state.step, jnp.asarray(record_every, jnp.int32)) == 0)) | (~goes_on & finite)
    columns = dict(value=value, grad_norm=grad_norm, update_norm=update_norm, learning_rate=progress.learning_rate, evaluations=state.evaluations)
    row = _row(names, dtype, columns)
    return Run(
        progress=moved,
        aux=evaluation.aux,
        code=code,
        reason=reason if len(stop.members()) > 1 else run.reason,
        count=count,
        growth=run.growth,
        before=before,
        history=write_row(run.history, row, run.rows) if names else run.history,
        rows=run.rows + record.astype(jnp.int32),
        evidence=evidence,
        **_shown(run, state, finite, value, grad_norm),
    )


def _shown(run, state, finite, value, grad_norm):
    if not run.previous:
        return dict(value=value, grad_norm=grad_norm, previous=(), last=(), broke=run.broke)
    # Under a trace the last finite point is carried, since a traced run cannot be run again up to it.
    previous = tree.where(finite, (state.params, value, grad_norm), run.previous)
    broke = jnp.where(finite, 0, jnp.minimum(state.step, 1)).astype(jnp.int32)
    return dict(value=previous[1], grad_norm=previous[2], previous=previous, last=(value, grad_norm), broke=broke)


def write_row(table, row, index):
    """The table with its row ``index`` set, in place within a loop; a scatter, which ``.at[].set`` would be, costs ten times as much on a CPU."""
    return lax.dynamic_update_slice_in_dim(table, row[None], index, 0)


def _row(names, dtype, columns):
    return jnp.stack([columns[name].astype(dtype) for name in names]) if names else jnp.zeros((0,), dtype)
