"""The lanes of a ``vmap``: a condition that differs between them makes JAX compute both branches of a ``cond`` for all, with a copy per lane of every array
that a branch uses, the data included. Here a branch is computed where any lane takes it, of arrays that stay shared, and each lane chooses its result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.custom_batching import custom_vmap

from gdjax import tree
from gdjax.loop.host import Watch
from gdjax.parts.examples import choose
from gdjax.parts.held import remembered
from gdjax.result import RUNNING, Status


@custom_vmap
def any_lane(active):
    """Whether any lane is active, the same for all of them; without lanes, whether this run is."""
    return active


@any_lane.def_vmap
def _(size, batched, active):
    return any_lane(jnp.any(active, 0) if batched[0] else active), False


def when(active, function, carry: Any, held: Any = ()) -> Any:
    """``function(held, carry)`` where active, else the carry. Derivatives of lanes that are not active pass through neither ``held`` nor the function."""

    def taken(carry):
        return choose(active, function(*_differentiable_where(active, (held, carry))), carry)

    return lax.cond(any_lane(lax.stop_gradient(active)), taken, lambda carry: carry, carry)


def _differentiable_where(active, trees: Any) -> Any:
    # Beside a number that is not chosen, a derivative of NaN times 0 is NaN: what is not chosen is computed of constants.
    return jax.tree.map(lambda x: jnp.where(active, x, lax.stop_gradient(x)) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else x, trees)


def eager(*trees: Any) -> bool:
    """Whether these are values mapped over by a ``vmap`` that is not compiled or differentiated as a whole, so that the host may look at them."""
    tracers = [x for x in jax.tree.leaves(trees) if isinstance(x, Tracer)]
    return bool(tracers) and all(type(x).__name__ == "BatchTracer" and not isinstance(getattr(x, "val", x), Tracer) for x in tracers)


def compacted(begin, go, last: int, every: int, *inputs: Any, held: Any = None) -> Any:
    """``go(begin(*inputs), last + 1, last, *inputs)``, where the lanes of a ``vmap`` that have finished stop costing.

    Args:
        begin: of the inputs of a lane, a run with a ``code``.
        go: ``go(run, until, last, *inputs)`` continues the run of a lane until so many steps, or a verdict, after the last step at the latest.
        last: step of a run.
        every: steps between looks at the lanes, at most. Where half of them have finished, the others are packed together: at most log₂ of their number more
            programs.
        inputs: pytrees of which some leaves are mapped.
        held: the loss, held weakly, with which the programs go; None compiles them for this call alone.
    """
    leaves, structure = jax.tree.flatten(inputs)

    @custom_vmap
    def whole(*leaves):
        inputs = jax.tree.unflatten(structure, leaves)
        return go(begin(*inputs), last + 1, last, *inputs)

    @whole.def_vmap
    def _(size, mapped, *leaves):
        made_for = (begin, go, structure, size, tuple(mapped))
        programs = remembered(held, made_for, lambda: _programs(*made_for))
        if any(isinstance(x, Tracer) for x in leaves):  # a vmap around the vmap
            run = programs.at_once(last, leaves)
        else:
            run = _by_the_host(programs, last, every, size, leaves)
        return run, jax.tree.map(lambda _: True, run)

    return whole(*leaves)


class _Programs(NamedTuple):
    at_once: Any  # (last, leaves) -> run of all lanes, as far as that step
    start: Any  # leaves -> run of all lanes
    advance: Any  # (run, until, last, leaves) -> run
    pick: Any  # (run, leaves, chosen) -> (run, leaves)
    put: Any  # (whole, part, places) -> whole


def _programs(begin, go, structure, size: int, mapped: tuple[bool, ...]) -> _Programs:
    axes = tuple(0 if flag else None for flag in mapped)
    start = jax.vmap(lambda leaves: begin(*jax.tree.unflatten(structure, leaves)), (axes,), axis_size=size)
    advance = jax.vmap(lambda run, until, last, leaves: go(run, until, last, *jax.tree.unflatten(structure, leaves)), (0, None, None, axes))

    def pick(run, leaves, chosen):
        return jax.tree.map(lambda x: x[chosen], run), tuple(x[chosen] if flag else None for x, flag in zip(leaves, mapped, strict=True))

    def put(whole, part, places):
        return jax.tree.map(lambda x, y: x.at[places].set(y, mode="drop"), whole, part)

    at_once = jax.jit(lambda last, leaves: advance(start(leaves), last + 1, last, leaves))
    return _Programs(at_once, jax.jit(start), jax.jit(advance, donate_argnums=0), jax.jit(pick), jax.jit(put, donate_argnums=0))


def _by_the_host(programs: _Programs, last: int, every: int, size: int, leaves):
    run, places, step, whole = programs.start(leaves), jnp.arange(size, dtype=jnp.int32), 0, None
    with Watch(last, False, None, 0, lambda: None) as watch:
        while True:
            if (asked := watch.asked()) != RUNNING:
                run, step = _ended(programs, run, step, leaves, asked), last + 1
            else:
                step = min(step + min(every, watch.length()), last + 1)
                run = programs.advance(run, step, last, leaves)
            active = np.flatnonzero(np.asarray(run.code) == RUNNING)
            watch.saw(step, np.nan)
            if len(active) == 0 or step > last:
                return run if whole is None else programs.put(whole, run, places)
            if 2 * len(active) <= len(places):
                whole = tree.copy(run) if whole is None else programs.put(whole, run, places)
                # Lanes that fill up to a power of two are copies of others, and what becomes of them is dropped.
                filled = np.resize(active, 1 << (len(active) - 1).bit_length())
                kept = np.where(np.arange(len(filled)) < len(active), np.asarray(places)[filled], size)
                (run, picked), places = programs.pick(run, leaves, filled), jnp.asarray(kept)
                leaves = tuple(old if new is None else new for old, new in zip(leaves, picked, strict=True))  # what is not mapped is not copied


def _ended(programs: _Programs, run, step: int, leaves, code: int):
    """The lanes, of which those that were running end here: one more evaluation, so that value and gradient norm belong to the params that are returned."""
    running = np.asarray(run.code) == RUNNING
    run = programs.advance(run, step + 1, step, leaves)
    return run._replace(code=jnp.where(running & (np.asarray(run.code) == Status.MAX_STEPS), jnp.int32(code), run.code))
