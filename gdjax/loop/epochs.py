"""What a full-batch run does at the end of an epoch, which is a step: validation, the best so far, patience, callbacks, checkpoints.

All of it looks at points that the run has evaluated, the start included, and none of it is part of the program that makes the steps: so it changes nothing.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax import tree
from gdjax.brief import brief_repr
from gdjax.loop import deterministic, lanes, step as stepping
from gdjax.loop.stochastic import reported, validation_loss
from gdjax.parts.held import per_loss
from gdjax.result import RUNNING, Status

AFTER_STOPS = ("patience", "callback", "convergence, but not of the best epoch")  # reasons to stop, named after those of the stopping rules


class Services(NamedTuple):
    """What a run is asked to do beside making steps."""

    validation: Any = None  # data
    patience: int = 0
    keep_best: bool = False
    callbacks: tuple = ()
    checkpoint: Any = None

    @property
    def watches(self) -> bool:
        """Whether points must be compared."""
        return self.validation is not None or self.patience > 0 or self.keep_best

    @property
    def any(self) -> bool:
        """Whether anything is asked for."""
        return self.watches or bool(self.callbacks) or self.checkpoint is not None


NO_SERVICES = Services()


class Watched(NamedTuple):
    """What is known of the points a run has come through: arrays, part of the state that can be resumed."""

    metric: Any  # the least validation loss, or training loss where there is no validation; inf before the first point
    epoch: Any  # int32: its epoch
    best: Any  # (params, model_state) there, with keep="best"; else ()
    waited: Any  # int32: epochs since then
    validation: Any  # at the last point; () without

    __repr__ = brief_repr


def unwatched(services: Services, rule, state: stepping.State) -> Watched | tuple:
    """Before the first point; () where nothing is compared."""
    if not services.watches:
        return ()
    nan, inf = (jnp.asarray(x, tree.dtype_of(state.params)) for x in (jnp.nan, jnp.inf))
    best = (reported(rule, state), state.model_state) if services.keep_best else ()
    return Watched(inf, jnp.int32(0), tree.copy(best), jnp.int32(0), () if services.validation is None else nan)


def look(objective, rule, watched: Watched, state: stepping.State, value, validation) -> Watched:
    """After the point of ``state`` has been evaluated."""
    params = reported(rule, state)
    held_out: Any = () if validation is None else validation_loss(objective, state, params, validation).astype(watched.metric.dtype)
    metric = value if validation is None else held_out
    better = jnp.isfinite(metric) & (metric < watched.metric)
    here = Watched(metric, state.step, (params, state.model_state) if watched.best else (), jnp.int32(0), held_out)
    before = watched._replace(waited=watched.waited + 1, validation=held_out)
    return tree.where(better, here, before)


look_at = per_loss(look, static_argnames="objective")


@functools.partial(per_loss, static_argnames="objective")
def best_point(objective, watched: Watched, state: stepping.State, batch):
    """(value, gradient norm, aux) of the best params so far: one evaluation, with the key of their epoch."""
    params, model_state = watched.best
    there = stepping.value_and_grad(objective, params, model_state, batch, stepping.step_key(objective, state._replace(step=watched.epoch)), None)
    return there.value, tree.norm(there.grads), there.aux


def loop(make_steps, objective, rule, carry, told, services: Services, members: int, max_steps: int, trips: int | None):
    """Inside a trace: a run, point by point, each of which is looked at. Like ``carry``: (run, watched, validation losses by row of history).

    ``make_steps(rule, run, until, last)`` continues the run; points up to the step ``told`` have been looked at before; ``members`` are those of the stopping
    rule; ``trips`` bounds the steps so that derivatives exist, where it is not None.
    """

    def epoch(rule, carry, _):
        run, watched, held_out = carry
        state = run.progress.state
        here = make_steps(rule, run, state.step + 1, max_steps)
        due = (here.broke == 0) & jnp.isfinite(here.value) & (state.step > told)
        watched = lanes.when(due, lambda given, w: look(objective, given[0], w, *given[1:]), watched, (rule, state, here.value, services.validation))
        if services.patience:
            tired = due & (here.code == RUNNING) & (watched.waited >= services.patience)
            here = lanes.when(tired, functools.partial(_ended, make_steps, members), here, (rule, run))
        recorded = jnp.where(due & (here.rows > run.rows), here.rows - 1, len(held_out))
        return here, watched, held_out.at[recorded].set(jnp.nan if services.validation is None else watched.validation, mode="drop")

    turns = None if trips is None else deterministic.Turns(trips)
    return deterministic.bounded_while(lambda carry: carry[0].code == RUNNING, epoch, carry, turns, rule)


def _ended(make_steps, members: int, before, _) -> deterministic.Run:
    """The run as if this had been its last step: the point is judged and recorded, and not moved from."""
    rule, run = before
    step = run.progress.state.step
    return make_steps(rule, run, step + 1, step)._replace(code=jnp.int32(Status.STOPPED), reason=jnp.int32(members))
