"""What a mini-batch run carries from step to step and from epoch to epoch, and how it begins."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.brief import brief_repr
from gdjax.loop import step as stepping
from gdjax.loop.batches import Plan, fetch, offered_at_start
from gdjax.parts.examples import without_tables
from gdjax.result import RUNNING


class Tally(NamedTuple):
    """Sums over the steps since the last boundary, scalars of shape ()."""

    total: Any  # Σ value
    count: Any  # in batches, of which one counts as the share of its rows that count; for streams in rows

    __repr__ = brief_repr


class Best(NamedTuple):
    """The best end of an epoch so far."""

    metric: Any  # validation loss, or the epoch's mean training loss
    epoch: Any  # int32: at the end of which; 0 before the first
    step: Any  # int32: likewise
    params: Any  # with keep="best", else ()
    model_state: Any  # likewise
    value: Any  # that epoch's mean training loss
    grad_norm: Any  # that of its last batch

    __repr__ = brief_repr


class Progress(NamedTuple):
    """What the next step needs."""

    state: stepping.State
    epoch: Tally
    record: Any  # Tally, or () where records are the ends of epochs
    epochs: Any  # int32: finished
    epoch_start: Any  # int32: the step at which the current epoch began
    value: Any  # mean over the last finished epoch; NaN before
    first_value: Any  # mean over the first epoch; NaN before its end
    previous_value: Any  # what the stopping rules were shown at the epoch before; inf before
    grad_norm: Any  # of the last batch before the last boundary
    initial_value: Any  # of the first batch
    initial_grad_norm: Any  # at the first boundary
    learning_rate: Any  # float32, of the last step
    validation: Any  # at the end of the last epoch; NaN without
    best: Best
    waited: Any  # int32: epochs since the best
    stop_state: Any

    __repr__ = brief_repr


class Run(NamedTuple):
    """A mini-batch run in flight."""

    progress: Progress
    code: Any  # int32: RUNNING or a Status
    reason: Any  # int32
    aux: Any
    history: Any  # (capacity, names)
    steps: Any  # (capacity,): the step of each row
    rows: Any  # int32
    reached: Any  # (step, evaluations), int32: how far it came, what broke it included
    before: Any  # with guard, (progress, rows) of a step before, without tables; else ()


def begin(plan: Plan, rule, params, key, model_state, stop, data) -> Progress:
    """Before the first step; ``data`` may be None for rules whose ``init`` takes nothing of them."""
    nan, inf = jnp.asarray(jnp.nan, tree.dtype_of(params)), jnp.asarray(jnp.inf, tree.dtype_of(params))
    tally, zero = Tally(jnp.zeros_like(nan), jnp.zeros_like(nan)), jnp.int32(0)
    kept = tree.copy((params, model_state)) if plan.keep_best else ((), ())
    best = Best(metric=inf, epoch=zero, step=zero, params=kept[0], model_state=kept[1], value=nan, grad_norm=nan)
    state = stepping.start(rule, params, model_state, key, offered_at_start(plan, rule, data, key))
    return Progress(
        state=state,
        epoch=tally,
        record=tally if plan.records else (),
        epochs=zero,
        epoch_start=zero,
        value=nan,
        first_value=nan,
        previous_value=inf,
        grad_norm=nan,
        initial_value=nan,
        initial_grad_norm=nan,
        learning_rate=jnp.float32(jnp.nan),
        validation=nan,
        best=best,
        waited=zero,
        stop_state=stop.build().init() if stop else (),
    )


def open_run(plan: Plan, progress: Progress, data, rows, numbers, capacity: int) -> Run:
    """A run that continues from ``progress``, with an empty history of ``capacity`` rows."""
    batch, weights = jax.eval_shape(lambda: fetch(plan, data, rows, numbers, progress.state.step))
    state = progress.state
    inputs = (state.params, state.model_state, batch, jax.eval_shape(lambda s: stepping.step_key(plan.objective, s), state), weights)
    shape = jax.eval_shape(lambda *inputs: stepping.value_and_grad(plan.objective, *inputs), *inputs)
    history = jnp.full((capacity, len(plan.names)), jnp.nan, progress.value.dtype)
    return Run(
        progress=progress,
        code=jnp.int32(RUNNING),
        reason=jnp.int32(-1),
        aux=tree.zeros_like(shape.aux),
        history=history,
        steps=jnp.full(capacity, -1, jnp.int32),
        rows=jnp.int32(0),
        reached=(state.step, state.evaluations),
        before=(without_tables(progress), jnp.int32(0)) if plan.guard else (),
    )
