"""Full-batch runs inside jit, vmap and grad: one pure program, with implicit or unrolled derivatives."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax import tree
from gdjax.loop import deterministic, lanes, step as stepping
from gdjax.loop.full_batch import finish
from gdjax.loop.host import captures_tracer
from gdjax.loop.verdict import EVERY
from gdjax.objective import Objective
from gdjax.result import Result, Status

ZERO = jax.custom_derivatives.SymbolicZero
EVERY_LOOK = 8 * EVERY  # steps between looks at which lanes of an uncompiled vmap have finished


class Static(NamedTuple):
    """What a traced run is compiled for."""

    objective: Objective
    names: tuple[str, ...]
    capacity: int
    max_steps: int
    record_every: int
    unroll: bool


class Inputs(NamedTuple):
    """What a traced run takes, beside the batch."""

    rule: Any
    params: Any
    stop: Any
    progress: Any  # to resume, or None
    key: Any
    model_state: Any


def run(*, objective, rule, params, batch, stop, max_steps, names, record_every, resume, differentiate, key=None, model_state=None) -> Result:
    """A run as one pure program. ``differentiate``: "implicit" or "unroll"."""
    if captures_tracer(objective.loss_fn):
        objective, batch = _hoisted(objective, params, batch)
    capacity = max_steps // record_every + 1 + (max_steps % record_every > 0)
    static = Static(objective, names, capacity, max_steps, record_every, differentiate == "unroll")
    inputs = Inputs(rule, params, stop, None if resume is None else resume.progress, key, model_state)
    inputs, batch = jax.tree.map(jnp.asarray, (inputs, batch))
    if resume is None and lanes.eager(inputs, batch) and not captures_tracer(objective.loss_fn):
        solution, rest = _solution(lanes.compacted(*_compactable(static), static.max_steps + 1, EVERY_LOOK, inputs, batch))
    else:
        solution, rest = (_whole if static.unroll else _implicit)(static, inputs, batch)
    first = 0 if resume is None else resume.progress.state.step
    return _finished(static, _put(rest, solution), inputs.rule, batch, first, tuple(m.factory.__name__ for m in stop.members()))


@functools.partial(jax.jit, static_argnums=(0, 5))
def _finished(static: Static, made, rule, batch, first, reasons: tuple[str, ...]) -> Result:
    # One program: under an uncompiled vmap every operation here would be compiled by itself.
    return finish(made, static.objective, rule, batch, _columns(made, static, first), reasons)


def _hoisted(objective, params, batch):
    """The loss with the tracers in its closure as further arguments, since derivatives with respect to them are asked for through the batch."""
    if not objective.splat:
        raise ValueError("the loss holds traced values in its closure; pass them through data or params instead, so that they can be differentiated.")
    converted, captured = jax.closure_convert(objective.loss_fn, params, *batch)
    return Objective(converted, objective.has_aux, splat=True), (*batch, *captured)


@functools.partial(jax.jit, static_argnums=0)
def _whole(static: Static, inputs: Inputs, batch):
    """(params, value), everything else. In this order because derivatives are defined for the first two."""
    trips = static.max_steps + 1 if static.unroll else None
    return _solution(_go(static, _opened(static, inputs, batch), static.max_steps + 1, inputs, batch, trips))


def _opened(static: Static, inputs: Inputs, batch) -> deterministic.Run:
    progress = inputs.progress
    if progress is None:
        progress = deterministic.begin(static.objective, inputs.rule, inputs.params, batch, inputs.key, inputs.model_state, inputs.stop, static.names)
    return deterministic.open_run(static.objective, progress, batch, static.names, static.capacity, keep_previous=True)


def _go(static: Static, run, until, inputs: Inputs, batch, trips=None) -> deterministic.Run:
    numbers, fresh = (until, static.max_steps, static.record_every), inputs.progress is None
    return deterministic.loop(static.objective, inputs.rule, run, batch, inputs.stop, *numbers, static.names, trips, fresh)


@functools.lru_cache(maxsize=256)
def _compactable(static: Static):
    """How a run begins and goes on, as the same two functions every time, so that they compile once."""
    return functools.partial(_opened, static), functools.partial(_go, static)


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


_implicit = jax.custom_jvp(_whole, nondiff_argnums=(0,))


@functools.partial(_implicit.defjvp, symbolic_zeros=True)
def _implicit_jvp(static: Static, primals, tangents):
    """By the implicit function theorem at ∇f(x*, a) = 0: H dx* = −∂ₐ∇f da, and df* = ∂ₐf da."""
    (inputs, batch), (inputs_dot, batch_dot) = primals, tangents
    if any(not isinstance(t, ZERO) for t in jax.tree.leaves(inputs_dot, is_leaf=lambda t: isinstance(t, ZERO))):
        raise ValueError(
            "a derivative with respect to the rule, the start or the stopping rule was asked of minimize(differentiate='implicit'), which has none: a minimum "
            "does not depend on how it was found. To differentiate through the steps, pass differentiate='unroll'."
        )
    (params, value), made = _implicit(static, inputs, batch)
    model_state = inputs.model_state

    def at(params, batch):
        there = stepping.value_and_grad(static.objective, params, model_state, batch, None, None)
        return there.grads, there.value.astype(value.dtype)

    dots = jax.tree.map(_instantiate, batch_dot, is_leaf=lambda t: isinstance(t, ZERO))
    _, (pull, value_dot) = jax.jvp(lambda b: at(params, b), (batch,), (dots,))
    hessian = lambda v: jax.jvp(lambda p: at(p, batch)[0], (params,), (v,))[1]  # noqa: E731
    solve = lambda matvec, b: jax.scipy.sparse.linalg.cg(matvec, b, tol=float(jnp.finfo(value.dtype).eps))[0]  # noqa: E731
    # Where the run did not converge there is no such theorem: NaN, before and after the solve, whose transpose would turn it into its start, 0.
    trust = jnp.where(made.code == Status.CONVERGED, 1, jnp.nan)
    params_dot = lax.custom_linear_solve(hessian, tree.scale(-trust, pull), solve, symmetric=True)
    solution_dot = (tree.scale(trust, params_dot), trust.astype(value.dtype) * value_dot)
    return ((params, value), made), (solution_dot, jax.tree.map(_no_tangent, made))


def _instantiate(tangent):
    if not isinstance(tangent, ZERO):
        return tangent
    t: Any = tangent
    floating = jnp.issubdtype(t.dtype, jnp.inexact)
    return jnp.zeros(t.shape, t.dtype) if floating else np.zeros(t.shape, jax.dtypes.float0)


def _no_tangent(x):
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.inexact) else np.zeros(jnp.shape(x), jax.dtypes.float0)
