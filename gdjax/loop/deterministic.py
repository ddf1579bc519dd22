"""The full-batch loop: evaluate, judge, move, all in one compiled program. Value and gradient norm belong to the params that are returned."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import tree
from gdjax.loop import step as stepping
from gdjax.loop.verdict import Seen, judge, look, unseen
from gdjax.result import RUNNING

HISTORY = ("value", "grad_norm", "update_norm", "learning_rate", "evaluations")


class Progress(NamedTuple):
    """What the next step needs: the resumable part of a run. A verdict leaves it as it was, so N steps and M more are N + M steps bit for bit."""

    state: stepping.State
    seen: Seen
    stop_state: Any


class Resumable(NamedTuple):
    """``result.state`` of a full-batch run: one pytree with all that is needed to go on."""

    progress: Progress
    history: dict[str, Any]  # what was recorded so far


class Run(NamedTuple):
    """A full-batch run in flight."""

    progress: Progress
    value: Any  # at the params last evaluated
    grad_norm: Any
    aux: Any
    code: Any  # int32: RUNNING or a Status
    reason: Any  # int32: which stopping rule, or -1
    evaluations: Any  # int32: all made so far, the last included
    history: Any  # (capacity, names): rows recorded in this segment
    rows: Any  # int32: how many
    previous: Any  # (params, value, grad_norm) last finite, where runs cannot be run again up to that point; else ()
    broke: Any  # int32: 1 if the last step led out of the finite and ``previous`` is one step back


def begin(objective, rule, params, batch, key, model_state, stop) -> Progress:
    """Before the first step."""
    state = stepping.start(rule, params, model_state, key)
    return Progress(state, unseen(tree.dtype_of(params)), stop.build().init())


def open_run(objective, progress: Progress, batch, names, capacity: int, keep_previous: bool) -> Run:
    """A run that continues from ``progress``, with an empty history of ``capacity`` rows."""
    state, dtype = progress.state, tree.dtype_of(progress.state.params)
    shape = jax.eval_shape(
        lambda s: stepping.value_and_grad(objective, s.params, s.model_state, batch, stepping.step_key(objective, s), None), state
    )
    aux = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape.aux)
    nan = jnp.asarray(jnp.nan, dtype)
    previous = (state.params, nan, nan) if keep_previous else ()
    history = jnp.full((capacity, len(names)), jnp.nan, dtype)
    return Run(progress, nan, nan, aux, jnp.int32(RUNNING), jnp.int32(-1), state.evaluations, history, jnp.int32(0), previous, jnp.int32(0))


def loop(objective, rule, run: Run, batch, stop, until, max_steps, record_every, names, trips: int | None = None) -> Run:
    """Runs until ``until`` updates or a verdict. ``trips``, where given, bounds the loop so that reverse-mode derivatives exist."""
    n = dict(objective=objective, rule=rule, batch=batch, stop=stop, max_steps=max_steps, record_every=record_every, names=names)
    goes_on = lambda run: (run.code == RUNNING) & (run.progress.state.step < until)  # noqa: E731
    return bounded_while(goes_on, lambda run: _body(run, **n), run, trips)


def bounded_while(condition, body, carry, trips: int | None):
    """``lax.while_loop``; or, of at most ``trips`` turns, a scan, which can be differentiated backwards."""
    if trips is None:
        return lax.while_loop(condition, body, carry)

    def turn(carry, _):
        return lax.cond(condition(carry), body, lambda c: c, carry), None

    return lax.scan(turn, carry, None, length=trips)[0]


def _body(run: Run, *, objective, rule, batch, stop, max_steps, record_every, names) -> Run:
    state, before, stop_state = run.progress
    evaluation, count = stepping.evaluate(objective, rule, state, batch, reuse=True)
    dtype = run.value.dtype
    value, grad_norm = evaluation.value.astype(dtype), tree.norm(evaluation.grads).astype(dtype)
    seen = look(before, state.step, value, grad_norm)
    norm = tree.norm(state.params).astype(dtype)
    code, reason, stop_state = judge(seen, before, state.step, max_steps, value, grad_norm, norm, stop, stop_state)
    goes_on = code == RUNNING
    finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)

    def move(evaluation):
        new, updates, more = stepping.advance(objective, rule, state, evaluation, batch)
        new = new._replace(evaluations=state.evaluations + count + more)
        moved = [jnp.any(x != y) for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(new.params), strict=True)]
        made = seen._replace(
            previous_value=value,
            previous_grad_norm=grad_norm,
            slope=tree.vdot(evaluation.grads, updates).astype(dtype),
            square=tree.vdot(updates, updates).astype(dtype),
            moved=jnp.any(jnp.stack(moved)),
            learning_rate=stepping.learning_rate(rule, state.rule_state, new.rule_state),
        )
        return Progress(new, made, stop_state)

    progress = lax.cond(goes_on, move, lambda _: run.progress, evaluation)
    record = (goes_on & (lax.rem(state.step, record_every) == 0)) | (~goes_on & finite)
    row = _row(names, value, grad_norm, before, state, dtype)
    return Run(
        progress=progress,
        aux=evaluation.aux,
        code=code,
        reason=reason,
        evaluations=jnp.where(goes_on, progress.state.evaluations, state.evaluations + count),
        history=run.history.at[run.rows].set(row, mode="drop") if names else run.history,
        rows=run.rows + record,
        **_shown(run, state, finite, value, grad_norm),
    )


def _shown(run, state, finite, value, grad_norm):
    if not run.previous:
        return dict(value=value, grad_norm=grad_norm, previous=(), broke=run.broke)
    # Under a trace the last finite point is carried, since a traced run cannot be run again up to it.
    previous = tree.where(finite, (state.params, value, grad_norm), run.previous)
    return dict(value=previous[1], grad_norm=previous[2], previous=previous, broke=jnp.where(finite, 0, jnp.minimum(state.step, 1)).astype(jnp.int32))


def _row(names, value, grad_norm, before, state, dtype):
    columns = dict(
        value=value, grad_norm=grad_norm, update_norm=jnp.sqrt(before.square), learning_rate=before.learning_rate, evaluations=state.evaluations
    )
    return jnp.stack([columns[name].astype(dtype) for name in names]) if names else jnp.zeros((0,), dtype)
