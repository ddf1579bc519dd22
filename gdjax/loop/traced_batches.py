"""Mini-batch runs inside jit, vmap and grad: one pure program of fixed length."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import data as sources, tree
from gdjax.loop import deterministic, stochastic
from gdjax.loop.batches import Numbers, Plan
from gdjax.loop.mini_batch import Options, finish, judged, resumed, saved
from gdjax.loop.progress import begin, open_run
from gdjax.loop.setting import Setting
from gdjax.parts.held import per_loss
from gdjax.result import Result


@functools.partial(per_loss, static_argnames=("plan", "options", "capacity"))
def _whole(plan: Plan, options: Options, rule, params, data, rows, key, model_state, stop, validation, progress, capacity):
    if progress is None:
        progress = begin(plan, rule, params, key, model_state, stop, data)
    steps, per_epoch = options.steps, options.per_epoch
    numbers = Numbers(*(jnp.int32(n) for n in (steps, steps, per_epoch, options.record_every, options.patience, 0)))
    if rows is None and plan.source == "rows":
        epochs = jnp.arange(-(-steps // per_epoch), dtype=jnp.int32)
        make = lambda epoch: sources.device_rows(progress.state.key, plan.count, plan.batch_size, options.order, epoch)  # noqa: E731
        rows = jax.lax.map(make, epochs).reshape(-1, plan.batch_size)
    run = open_run(plan, progress, data, rows, numbers, capacity)
    run = stochastic.loop(plan, rule, run, data, rows, stop, numbers, validation)
    looked = run._replace(progress=stochastic.at_the_end(plan, rule, run.progress, validation))
    return run, jax.lax.cond(stochastic.unfinished(plan, run.progress), lambda r: stochastic._write(plan, r), lambda r: r, looked)


def run(plan: Plan, options: Options, rule, params, data, key, model_state, stop, validation, resume) -> Result:
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
    progress = None if resume is None else resumed(resume.progress, plan.records)
    each = every or per_epoch
    capacity = max(-(-steps // each), 1)
    made, shown = _whole(plan, options, rule, params, arrays(data), rows, key, model_state, stop, arrays(validation), progress, capacity)
    reasons = (*(m.factory.__name__ for m in (stop.members() if stop else ())), "patience", "callback", "time_limit")
    return _result(plan, made, shown, arrays(rule), options.setting, capacity, reasons)


@functools.partial(per_loss, static_argnames=("plan", "capacity", "reasons"))
def _result(plan: Plan, run, shown, rule, setting: Setting, capacity: int, reasons) -> Result:
    # One program: under an uncompiled vmap every operation here would be compiled by itself.
    filled = jnp.arange(capacity, dtype=jnp.int32) < shown.rows
    history = {"step": jnp.where(filled, shown.steps, -1)}
    history |= {name: jnp.where(filled, shown.history[:, i], jnp.nan) for i, name in enumerate(plan.names)}
    state = saved(run.progress, history, setting)
    looked = run.progress._replace(best=shown.progress.best)
    return finish(plan, looked, judged(run.progress), run.reached[1], run.code, run.reason, run.aux, rule, history, state, reasons)
