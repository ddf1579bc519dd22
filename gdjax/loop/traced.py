"""Full-batch runs inside jit, vmap and grad: one pure program, with implicit or unrolled derivatives."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax import tree
from gdjax.loop import deterministic, epochs, lanes, step as stepping
from gdjax.loop.epochs import NO_SERVICES, Services
from gdjax.loop.full_batch import compared, finish, reasons, resumed
from gdjax.loop.host import captures_tracer
from gdjax.loop.verdict import EVERY
from gdjax.objective import Objective
from gdjax.parts.held import per_loss, remembered
from gdjax.result import Result, Status

ZERO = jax.custom_derivatives.SymbolicZero
NEAR, SOLVED = 1e-3, 1e-1  # of ‖x‖ and ‖∇f‖: how near a minimum a derivative by the implicit function theorem is given where the run has not converged
EVERY_LOOK = 8 * EVERY  # steps between looks at which lanes of an uncompiled vmap have finished


class Static(NamedTuple):
    """What a traced run is compiled for."""

    objective: Objective
    names: tuple[str, ...]
    capacity: int
    max_steps: int
    record_every: int
    unroll: bool
    patience: int
    keep_best: bool


class Inputs(NamedTuple):
    """What a traced run takes, beside the batch."""

    rule: Any
    params: Any
    stop: Any
    progress: Any  # to resume, or None
    key: Any
    model_state: Any
    validation: Any  # data, or None
    watched: Any  # to resume, or ()


def run(
    *, objective, rule, params, batch, stop, max_steps, names, record_every, resume, differentiate, key=None, model_state=None, services: Services = NO_SERVICES
) -> Result:
    """A run as one pure program. ``differentiate``: "implicit" or "unroll"."""
    loss_fn = objective.functions
    if captures_tracer(objective.loss_fn):
        loss_fn, batch = _hoisted(objective, params, batch)
        objective = Objective(loss_fn, objective.has_aux, splat=True).weakly()
    capacity = max_steps // record_every + 1 + (max_steps % record_every > 0)
    inside = tuple(name for name in names if name != "validation")
    static = Static(objective, inside, capacity, max_steps, record_every, differentiate == "unroll", services.patience, services.keep_best)
    before = (None, ()) if resume is None else (resumed(resume.progress, stop, inside), resume.watched)
    inputs = Inputs(rule, params, stop, before[0], key, model_state, services.validation, before[1])
    inputs, batch = jax.tree.map(jnp.asarray, (inputs, batch))
    first, ends = 0 if resume is None else resume.progress.state.step, reasons(stop)
    if services.watches:
        return _watched(static, inputs, batch, first, ends, names)
    if resume is None and lanes.eager(inputs, batch) and not captures_tracer(objective.loss_fn):
        solution, rest = _solution(lanes.compacted(*_compactable(static), static.max_steps, EVERY_LOOK, inputs, batch, held=objective.held))
    else:
        solution, rest = _whole(static, inputs, batch) if static.unroll else _implicit(Kept(static, loss_fn), inputs, batch)
    return _finished(static, _put(rest, solution), inputs.rule, batch, first, ends, names)


@functools.partial(per_loss, static_argnums=(0, 5, 6))
def _finished(static: Static, made, rule, batch, first, ends: tuple[str, ...], names: tuple[str, ...]) -> Result:
    # One program: under an uncompiled vmap every operation here would be compiled by itself.
    columns = _columns(made, static, first)
    columns |= {name: jnp.full(static.capacity, jnp.nan, made.value.dtype) for name in names if name not in columns}
    return finish(made, static.objective, rule, batch, deterministic.Resumable(made.progress, columns), ends)


@functools.partial(per_loss, static_argnums=(0, 4, 5))
def _watched(static: Static, inputs: Inputs, batch, first, ends: tuple[str, ...], names: tuple[str, ...]) -> Result:
    """A run whose epochs are compared."""
    services = Services(inputs.validation, static.patience, static.keep_best)
    run, trips = _opened(static, inputs, batch), static.max_steps + 1 if static.unroll else None
    watched = epochs.unwatched(services, inputs.rule, run.progress.state)
    known = jax.tree.structure(watched) == jax.tree.structure(inputs.watched)

    def make_steps(rule, run, until, last):
        numbers = (batch, inputs.stop, until, last, static.record_every, static.names)
        return deterministic.loop(static.objective, rule, run, *numbers, trips=None if trips is None else 1, fresh=True)

    held_out = jnp.full(static.capacity, jnp.nan, run.value.dtype)
    carry = (run, inputs.watched if known else watched, held_out)
    told, members = (first if known else -1), len(inputs.stop.members())
    made, watched, held_out = epochs.loop(make_steps, static.objective, inputs.rule, carry, told, services, members, static.max_steps, trips)
    columns = _columns(made, static, first) | {"validation": held_out}
    resumable = deterministic.Resumable(made.progress, {name: columns[name] for name in ("step", *names)}, watched)
    result = finish(made, static.objective, inputs.rule, batch, resumable, ends)
    return compared(result, services, watched, static.objective, batch, made.progress.state)


def _hoisted(objective, params, batch):
    """The loss with the tracers in its closure as further arguments, since derivatives with respect to them are asked for through the batch."""
    if not objective.splat:
        raise ValueError("the loss holds traced values in its closure; pass them through data or params instead, so that they can be differentiated.")
    converted, captured = jax.closure_convert(objective.loss_fn, params, *batch)
    return converted, (*batch, *captured)


@functools.partial(per_loss, static_argnums=0)
def _whole(static: Static, inputs: Inputs, batch):
    """(params, value), everything else. In this order because derivatives are defined for the first two."""
    trips = static.max_steps + 1 if static.unroll else None
    return _solution(_go(static, _opened(static, inputs, batch), static.max_steps + 1, static.max_steps, inputs, batch, trips))


def _opened(static: Static, inputs: Inputs, batch) -> deterministic.Run:
    progress = inputs.progress
    if progress is None:
        progress = deterministic.begin(static.objective, inputs.rule, inputs.params, batch, inputs.key, inputs.model_state, inputs.stop, static.names)
    return deterministic.open_run(static.objective, progress, batch, static.names, static.capacity, keep_previous=True)


def _go(static: Static, run, until, last, inputs: Inputs, batch, trips=None) -> deterministic.Run:
    numbers, fresh = (until, last, static.record_every), inputs.progress is None
    return deterministic.loop(static.objective, inputs.rule, run, batch, inputs.stop, *numbers, static.names, trips, fresh)


def _compactable(static: Static):
    """How a run begins and goes on, as the same two functions every time, so that they compile once."""
    return remembered(static.objective.held, (_compactable, static), lambda: (functools.partial(_opened, static), functools.partial(_go, static)))


def _solution(made):
    return (made.previous[0], made.previous[1]), made


def _put(made, solution):
    return made._replace(previous=(*solution, made.previous[2]), value=solution[1])


def _columns(made, static: Static, first):
    """History by name, of fixed length: NaN, and step −1, where nothing was recorded."""
    rows = jnp.arange(static.capacity, dtype=jnp.int32)
    start = -(-jnp.asarray(first, jnp.int32) // static.record_every)
    steps = jnp.where(rows == made.rows - 1, made.progress.state.step - made.broke * static.record_every, (start + rows) * static.record_every)
    steps = jnp.where(rows < made.rows, steps, -1).astype(jnp.int32)
    table = jnp.where((rows < made.rows)[:, None], made.history[: static.capacity], jnp.nan)
    return {"step": steps} | {name: table[:, i] for i, name in enumerate(static.names)}


class Kept(NamedTuple):
    """A static argument and the loss it holds weakly: JAX may ask for the derivative when the call is long over."""

    static: Static
    loss_fn: Any


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _implicit(kept: Kept, inputs: Inputs, batch):
    return _whole(kept.static, inputs, batch)


@functools.partial(_implicit.defjvp, symbolic_zeros=True)
def _implicit_jvp(kept: Kept, primals, tangents):
    """By the implicit function theorem at ∇f(x*, a) = 0: H dx* = −∂ₐ∇f da, and df* = ∂ₐf da."""
    (inputs, batch), (inputs_dot, batch_dot) = primals, tangents
    if any(not isinstance(t, ZERO) for t in jax.tree.leaves(inputs_dot, is_leaf=lambda t: isinstance(t, ZERO))):
        raise ValueError(
            "a derivative with respect to the rule, the start or the stopping rule was asked of minimize(differentiate='implicit'), which has none: a minimum "
            "does not depend on how it was found. To differentiate through the steps, pass differentiate='unroll'."
        )
    (params, value), made = _implicit(kept, inputs, batch)
    objective = kept.static.objective

    def at(params, batch):
        there = stepping.value_and_grad(objective, params, inputs.model_state, batch, None, None)
        return there.grads, there.value.astype(value.dtype), there.aux

    def hessian(v):
        return jax.jvp(lambda p: at(p, batch)[0], (params,), (v,))[1]

    def solve(matvec, b):
        return jax.scipy.sparse.linalg.cg(matvec, b, tol=float(jnp.finfo(value.dtype).eps))[0]

    dots = jax.tree.map(_instantiate, batch_dot, is_leaf=lambda t: isinstance(t, ZERO))
    (grads, *_), (pull, value_dot, _) = jax.jvp(lambda b: at(params, b), (batch,), (dots,))
    # Away from a minimum there is no such theorem: NaN, before and after the solve, whose transpose would turn it into its start, 0.
    good = lax.cond(made.code == Status.CONVERGED, lambda: jnp.bool_(True), lambda: _near_a_minimum(params, grads, hessian, solve))
    trust = jnp.where(good, 1, jnp.nan)
    params_dot = tree.scale(trust, lax.custom_linear_solve(hessian, tree.scale(-trust, pull), solve, symmetric=True))
    aux_dot = jax.jvp(lambda p, b: at(p, b)[2], (params, batch), (params_dot, dots))[1]
    return ((params, value), made), ((params_dot, trust.astype(value.dtype) * value_dot), _no_tangents(made, dots)._replace(aux=aux_dot))


def _near_a_minimum(params, grads, hessian, solve):
    """Whether the Newton step n from here, H n = ∇f, is found, goes down, and moves the params by a thousandth at most."""
    newton = solve(hessian, grads)
    left, norm, size = tree.norm(tree.subtract(hessian(newton), grads)), tree.norm(grads), tree.norm(params)
    return (left <= SOLVED * norm) & (tree.vdot(newton, grads) >= 0) & (tree.norm(newton) <= NEAR * size)


def _instantiate(tangent):
    if not isinstance(tangent, ZERO):
        return tangent
    t: Any = tangent
    floating = jnp.issubdtype(t.dtype, jnp.inexact)
    return jnp.zeros(t.shape, t.dtype) if floating else np.zeros(t.shape, jax.dtypes.float0)


def _no_tangents(made, dots):
    """NaN for what came of the way to the minimum, such as its history: nothing is said by the theorem, and 0 would be wrong."""
    moved = [jnp.sum(t).astype(jnp.float32) for t in jax.tree.leaves(dots) if jnp.issubdtype(jnp.result_type(t), jnp.inexact)]
    unknown = jnp.nan * sum(moved, jnp.float32(0))

    def tangent(x):
        floating = jnp.issubdtype(x.dtype, jnp.inexact)
        return jnp.broadcast_to(unknown.astype(x.dtype), jnp.shape(x)) if floating else np.zeros(jnp.shape(x), jax.dtypes.float0)

    return jax.tree.map(tangent, made)
