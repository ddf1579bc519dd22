"""The mini-batch loop: steps in a tight inner loop, and at the end of an epoch or record everything that need not happen at every step."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import stop as stopping, tree
from gdjax.loop import lanes, one_kernel, step as stepping
from gdjax.loop.batches import Numbers, Plan, fetch, offered
from gdjax.loop.deterministic import Turns, bounded_while, write_row
from gdjax.loop.progress import Best, Progress, Run, Tally
from gdjax.objective import leading
from gdjax.parts import turned
from gdjax.parts.examples import choose, has_table, with_tables, without_tables
from gdjax.parts.held import per_loss
from gdjax.result import RUNNING, Status

HISTORY = ("value", "grad_norm", "learning_rate", "evaluations", "validation")
GREW = 1e10  # a batch loss this many times the scale of the first will not come back
FUSED_BELOW = 8  # rows: for smaller batches the gradient is fused into the update, and taking its norm in the loop would cost up to half a step


def loop(plan: Plan, rule, run: Run, data, rows, stop, numbers: Numbers, validation=None) -> Run:
    """Runs until ``numbers.until`` or a verdict: boundary after boundary, steps in between."""

    def goes_on(run):
        return (run.code == RUNNING) & (run.progress.state.step < numbers.until)

    def span(rule, run, index):
        known = plan.spans.at(index) if plan.spans and plan.fresh else None
        run = _steps(plan, rule, run, data, rows, numbers, known[1] if known else _next_boundary(run.progress, numbers), known)
        return _at_boundary(plan, rule, run, stop, numbers, validation)

    return bounded_while(goes_on, span, run, plan.spans and Turns(len(plan.spans.ends)), rule)


def _next_boundary(progress: Progress, numbers: Numbers):
    step = progress.state.step
    ends = progress.epoch_start + (lax.div(step - progress.epoch_start, numbers.per_epoch) + 1) * numbers.per_epoch
    every = jnp.maximum(numbers.record_every, 1)
    records = jnp.where(numbers.record_every > 0, (lax.div(step, every) + 1) * every, ends)
    # The first step stands alone, so that what is known about the start does not depend on where the run is cut.
    return jnp.minimum(jnp.minimum(ends, records), jnp.where(step == 0, 1, numbers.until))


class Inner(NamedTuple):
    """What the tight loop carries: as little as can be, since every scalar costs as much as the arithmetic of a small problem."""

    state: stepping.State
    epoch: Tally  # its count moves only where batches weigh differently
    record: Any  # Tally, or () where records are epochs
    value: Any  # of the last batch
    sound: Any  # bool: the last batch's loss (and with guard its gradient) was finite and in proportion
    grad_norm: Any  # of the last batch of the span
    aux: Any
    before: Any  # with guard, (state, epoch, record, grad_norm) of a step before, without tables; else ()


def _steps(plan: Plan, rule, run: Run, data, rows, numbers, boundary, span=None) -> Run:
    """The steps up to the next boundary, or up to the one before it; ``span``: (start, end) of them where they are known beforehand."""
    progress = run.progress
    in_loop, first = plan.guard or (plan.batch_size >= FUSED_BELOW and not has_table(progress.state.rule_state)), progress.state.step == 0
    most = jnp.where(first, jnp.finfo(progress.value.dtype).max, GREW * jnp.maximum(jnp.abs(progress.initial_value), 1))
    one = functools.partial(_one_step, plan, data, rows, numbers, most)

    def below(limit):
        return lambda inner: inner.sound & (inner.state.step < limit)

    def step(rule, inner, turn):
        place = inner.state.step if span is None else span[0] + turn
        return one(rule, inner, _norm_wanted(plan, inner.state, boundary) if in_loop else None, place, below(limit)(inner) if plan.spans else True)

    grad_norm, limit = progress.grad_norm, boundary
    if not in_loop:
        # The last step is a turn of the same loop by itself, so that no number depends on where the boundaries are, and its gradient norm is taken beside.
        alone = progress.state.step == boundary - 1
        grad_norm = lax.cond(alone, lambda: _norm_of_batch(plan, data, rows, numbers, rule, progress), lambda: progress.grad_norm)
        limit = jnp.where(alone, boundary, boundary - 1)
    before = without_tables((progress.state, progress.epoch, progress.record, grad_norm)) if plan.guard else ()
    inner = Inner(progress.state, progress.epoch, progress.record, progress.value, run.code == RUNNING, grad_norm, run.aux, before)
    turns = plan.spans and Turns(plan.spans.longest, None if span is None else lambda turn: span[0] + turn < span[1])
    condition, body, carry, back = turned.stored(below(limit), step, inner, progress.state.params, plan.batch_size)
    inner = back(bounded_while(condition, body, carry, turns, rule, 0 if plan.compact else None))
    return _after_steps(plan, rule, run, inner, most, _rows(plan, data))


def _norm_wanted(plan: Plan, state, boundary):
    # In one kernel a branch makes two copies of what follows it, whose numbers may differ by a rounding: there the norm of every batch is taken.
    one_kernel_at_most = plan.compact and tree.size(state.params) <= one_kernel.MOST_ENTRIES
    return True if one_kernel_at_most else state.step == boundary - 1


def _rows(plan: Plan, data) -> int:
    """What a batch counts: its rows in a stream, whose batches may be of any length; else 1."""
    return jnp.shape(jax.tree.leaves(data)[0])[1] if plan.source == "stream" else 1


def _norm_of_batch(plan: Plan, data, rows, numbers, rule, progress: Progress):
    batch, weights = fetch(plan, data, rows, numbers, progress.state.step)
    seen, _ = stepping.evaluate(plan.objective, rule, progress.state, batch, weights)
    lie = functools.partial(turned.turn, turned.which(progress.state.params, plan.batch_size))
    return tree.norm(lie(seen.grads)).astype(progress.value.dtype)


def _after_steps(plan: Plan, rule, run: Run, inner: Inner, most, rows: int) -> Run:
    progress = run.progress
    broken = jnp.where(jnp.abs(inner.value) > most, Status.DIVERGED, Status.NONFINITE)
    # At the very first batch nothing has grown yet: an infinite loss there is a bad start.
    broken = jnp.where(progress.state.step == 0, Status.NONFINITE, broken)
    done = progress._replace(
        state=inner.state,
        epoch=_counted(plan, progress, inner.state, inner.epoch, rows),
        record=inner.record,
        initial_value=jnp.where(progress.state.step == 0, inner.value, progress.initial_value),
        grad_norm=inner.grad_norm,
        learning_rate=jnp.asarray(stepping.learning_rate(rule, inner.state.rule_state, inner.state.rule_state, back=1)),
    )
    code = jnp.where(inner.sound, run.code, broken).astype(jnp.int32)
    run = run._replace(aux=inner.aux, code=code, reached=(inner.state.step, inner.state.evaluations))
    return _stepped_back(plan, run, done, inner) if plan.guard else run._replace(progress=done)


def _counted(plan: Plan, progress: Progress, state, epoch: Tally, rows: int = 1) -> Tally:
    """The epoch's sum with what has been counted since the span began; in the loop this is done only where batches weigh differently."""
    made = rows * (state.step - progress.state.step).astype(progress.value.dtype)
    return epoch if plan.weighs else epoch._replace(count=progress.epoch.count + made)


def _stepped_back(plan: Plan, run: Run, done: Progress, inner: Inner) -> Run:
    """A run that broke is what it was before the step that led there: the last params at which all was well, and all that belongs to them."""
    state, epoch, record, grad_norm = inner.before
    earlier = without_tables(run.progress)._replace(state=state, epoch=_counted(plan, run.progress, state, epoch), record=record, grad_norm=grad_norm)
    before = tree.where(inner.state.step > run.progress.state.step, (earlier, run.rows), run.before)
    known = before[0]._replace(initial_value=done.initial_value, initial_grad_norm=done.initial_grad_norm, learning_rate=done.learning_rate)
    progress = choose(inner.sound, done, with_tables(known, done))
    return run._replace(progress=progress, rows=jnp.where(inner.sound, run.rows, before[1]), before=before)


def _one_step(plan: Plan, data, rows, numbers, most, rule, inner: Inner, norm_here, place, active) -> Inner:
    state = inner.state
    batch, weights = fetch(plan, data, rows, numbers, place)
    seen, _ = stepping.evaluate(plan.objective, rule, state, batch, weights)
    value = seen.value.astype(inner.value.dtype)
    sound, grad_norm = (jnp.abs(value) <= most) & active, inner.grad_norm
    lie = functools.partial(turned.turn, turned.which(state.params, plan.batch_size))
    if plan.guard:
        norm = tree.norm(lie(seen.grads)).astype(value.dtype)
        sound = sound & (jnp.isfinite(norm) | (state.step > 0))
        grad_norm = jnp.where(sound, norm, inner.grad_norm)
    elif norm_here is True:
        grad_norm = jnp.where(sound, tree.norm(lie(seen.grads)).astype(value.dtype), inner.grad_norm)
    elif norm_here is not None:
        grad_norm = lax.cond(norm_here & sound, lambda g: tree.norm(g).astype(value.dtype), lambda g: inner.grad_norm, seen.grads)
    new, _, more = stepping.advance(
        plan.objective, rule, state, seen, batch, weights, **offered(plan, data, rows, numbers, state, place, batch, weights, sound)
    )
    if plan.guard:  # the rule may leave out a gradient that is not finite; if it does not, its params tell
        sound = sound & tree.all_finite(lie(new.params))
        grad_norm = jnp.where(sound, grad_norm, inner.grad_norm)
    new, old = new._replace(evaluations=state.evaluations + 1 + more), state._replace(evaluations=state.evaluations + 1)
    new = turned.apply(functools.partial(choose, sound), new, old, state.params, plan.batch_size)
    before = inner.before
    if plan.guard:
        here = without_tables((state, inner.epoch, inner.record, inner.grad_norm))
        before = turned.apply(functools.partial(tree.where, sound), here, before, state.params, plan.batch_size)
    return Inner(new, *_tallied(plan, inner, _share(plan, batch, weights, value.dtype), value, sound), value, sound, grad_norm, seen.aux, before)


def _share(plan: Plan, batch, weights, dtype) -> Any:
    """What a batch counts, as in ``Tally``; None for 1."""
    if plan.source == "stream":
        return jnp.asarray(leading(batch), dtype)
    return jnp.mean(weights.astype(dtype)) if plan.weighs else None


def _tallied(plan: Plan, inner: Inner, share, value, sound) -> tuple[Tally, Any]:
    """The sums with a batch in them."""
    kept, counts = jnp.where(sound, value, 0), sound.astype(value.dtype)
    weight = counts if share is None else share * counts
    count = inner.epoch.count + weight if plan.weighs else inner.epoch.count
    epoch = Tally(inner.epoch.total + (kept if share is None else share * kept), count)
    record = inner.record
    if plan.records:
        record = Tally(record.total + weight * kept, record.count + weight)
    return epoch, record


def _mean(tally: Tally):
    return jnp.where(tally.count > 0, tally.total / jnp.where(tally.count > 0, tally.count, 1), jnp.nan)


def _at_boundary(plan: Plan, rule, run: Run, stop, numbers: Numbers, validation) -> Run:
    progress = run.progress
    step = progress.state.step
    ends = (run.code == RUNNING) & (step - progress.epoch_start >= numbers.per_epoch)
    first_norm = jnp.isnan(progress.initial_grad_norm) & (step <= 1)
    run = run._replace(progress=progress._replace(initial_grad_norm=jnp.where(first_norm, progress.grad_norm, progress.initial_grad_norm)))
    if plan.spans:
        run = lanes.when(ends, lambda _, run: end_epoch(plan, rule, run, stop, numbers, validation), run)
    else:
        run = lax.cond(ends, lambda run: end_epoch(plan, rule, run, stop, numbers, validation), lambda run: run, run)
    every = jnp.maximum(numbers.record_every, 1)
    records = jnp.where(numbers.record_every > 0, lax.rem(step, every) == 0, ends) & (run.code != Status.NONFINITE) & (run.code != Status.DIVERGED)
    run = lax.cond(records, lambda run: _write(plan, run), lambda run: run, run)
    code = jnp.where((run.code == RUNNING) & (step >= numbers.last), Status.MAX_STEPS, run.code)
    return run._replace(code=code.astype(jnp.int32))


def reported(rule, state):
    """The params the rule reports, which may not be those at which it takes gradients."""
    return state.params if rule.eval_params is None else rule.eval_params(state.rule_state, state.params)


def end_epoch(plan: Plan, rule, run: Run, stop, numbers: Numbers, validation) -> Run:
    """What happens at the end of an epoch: validation, the best, patience and the stopping rules."""
    progress = run.progress
    value = _mean(progress.epoch)
    progress = _watched(plan, rule, progress, value, validation)
    metric = progress.validation if plan.validate else value
    code, reason, stop_state = jnp.int32(RUNNING), jnp.int32(-1), progress.stop_state
    if stop is not None:
        nan = jnp.full_like(value, jnp.nan)
        shown = stopping.Observation(metric, progress.previous_value, nan, nan, nan, nan)
        code, reason, stop_state = stopping.codes(stop, shown, stop_state)
    tired = (numbers.patience > 0) & (progress.waited >= numbers.patience) & (code == RUNNING)
    progress = progress._replace(
        epoch=Tally(jnp.zeros_like(value), jnp.zeros_like(value)),
        epochs=progress.epochs + 1,
        epoch_start=progress.state.step,
        value=value,
        first_value=jnp.where(progress.epochs == 0, value, progress.first_value),
        previous_value=metric,
        stop_state=stop_state,
    )
    members = 0 if stop is None else len(stop.members())
    code, reason = jnp.where(tired, Status.STOPPED, code).astype(jnp.int32), jnp.where(tired, members, reason).astype(jnp.int32)
    return run._replace(progress=progress, code=code, reason=reason)


def _watched(plan: Plan, rule, progress: Progress, value, validation) -> Progress:
    """With the validation loss of the params as they are, and the best as it is then."""
    params, model_state = reported(rule, progress.state), progress.state.model_state
    held_out = validation_loss(plan.objective, progress.state, params, validation).astype(value.dtype) if plan.validate else progress.validation
    metric = held_out if plan.validate else value
    better = jnp.isfinite(metric) & (metric < progress.best.metric)
    kept = (params, model_state) if plan.keep_best else ((), ())
    here = Best(metric, progress.epochs + 1, progress.state.step, *kept, value=value, grad_norm=progress.grad_norm)
    waited = jnp.where(better, 0, progress.waited + 1).astype(jnp.int32)
    return progress._replace(validation=held_out, best=tree.where(better, here, progress.best), waited=waited)


def at_the_end(plan: Plan, rule, progress: Progress, validation) -> Progress:
    """What is shown of a run that ends amid an epoch: its last params are validated too. A resumed run goes on from what was before."""
    if not plan.validate:
        return progress
    return lanes.when(progress.epoch.count > 0, lambda given, p: _watched(plan, given[0], p, _mean(p.epoch), given[1]), progress, (rule, validation))


def validation_loss(objective, state, params, validation) -> Any:
    """The loss of params on validation data, with a key that no step has."""
    key = jax.random.fold_in(state.key, 0xFFFFFFFF) if objective.stochastic else None
    return stepping.held_out(objective, params, state.model_state, validation, key)


@functools.partial(per_loss, static_argnums=0)
def validation_broke(plan: Plan, progress: Progress):
    """int32: the epoch at whose end the validation loss was not a number, if it was not at the last; else −1."""
    broke = (progress.epochs > 0) & ~jnp.isfinite(progress.validation)
    return jnp.where(broke, progress.epochs, -1).astype(jnp.int32) if plan.validate else jnp.int32(-1)


def _since_record(plan: Plan, progress: Progress):
    if plan.records:
        return _mean(progress.record)
    return jnp.where(progress.epoch.count > 0, _mean(progress.epoch), progress.value)


def unfinished(plan: Plan, progress: Progress):
    """Whether steps have been made since the last record."""
    return (progress.record.count if plan.records else progress.epoch.count) > 0


def row_of(plan: Plan, progress: Progress):
    """A row of history: the mean loss since the last record, and what else was asked for."""
    columns = dict(
        value=_since_record(plan, progress),
        grad_norm=progress.grad_norm,
        learning_rate=progress.learning_rate,
        evaluations=progress.state.evaluations,
        validation=progress.validation,
    )
    dtype = progress.value.dtype
    return jnp.stack([columns[name].astype(dtype) for name in plan.names]) if plan.names else jnp.zeros((0,), dtype)


def _write(plan: Plan, run: Run) -> Run:
    progress = run.progress
    return run._replace(
        progress=progress._replace(record=tree.zeros_like(progress.record)),
        history=write_row(run.history, row_of(plan, progress), run.rows),
        steps=write_row(run.steps, progress.state.step, run.rows),
        rows=run.rows + 1,
    )
