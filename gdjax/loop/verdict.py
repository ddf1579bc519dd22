"""Verdicts on full-batch runs: what a step shows, and whether the run goes on. Scalars only, so that judging costs nothing beside a gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax import stop as stopping
from gdjax.result import RUNNING, Status

GREW, GRADIENT_GREW = 1e10, 1e5  # a loss this many times its start, with a gradient this many times its own, will not come back
IDLE = 100  # steps in a row within rounding of the best before a run is called stalled
UNMOVED = 5  # a step that leaves the params bit for bit as they were counts for so many


class Seen(NamedTuple):
    """Scalars of shape () in the run's dtype, carried from step to step."""

    initial_value: Any
    initial_grad_norm: Any
    previous_value: Any  # f(x_{k−1})
    previous_grad_norm: Any
    best_value: Any
    best_grad_norm: Any
    slope: Any  # ⟨∇f(x_{k−1}), u⟩ of the last update u
    square: Any  # ‖u‖² of the last update
    moved: Any  # bool: the last update changed the params
    idle: Any  # int32: how long nothing has improved beyond rounding
    curvature: Any  # the largest uᵀHu / ‖u‖² met, 0 if none
    learning_rate: Any  # float32, of the last step


def unseen(dtype) -> Seen:
    """Before the first evaluation."""
    nan, inf, zero = jnp.asarray(jnp.nan, dtype), jnp.asarray(jnp.inf, dtype), jnp.zeros((), dtype)
    return Seen(nan, nan, inf, inf, inf, inf, zero, inf, jnp.asarray(True), jnp.int32(0), zero, jnp.float32(jnp.nan))


def look(seen: Seen, step, value, grad_norm) -> Seen:
    """What is known after evaluating the point reached by ``step`` updates."""
    first, tiny, eps = step == 0, jnp.finfo(value.dtype).tiny, jnp.finfo(value.dtype).eps
    initial_value, initial_grad_norm = jnp.where(first, value, seen.initial_value), jnp.where(first, grad_norm, seen.initial_grad_norm)
    improved = (value < seen.best_value) | (grad_norm < 0.999 * seen.best_grad_norm)
    within_rounding = jnp.abs(seen.slope) <= 32 * eps * jnp.maximum(jnp.abs(value), tiny)
    quiet = ~first & ~improved & (within_rounding | ~seen.moved)
    idle = jnp.where(quiet, seen.idle + jnp.where(seen.moved, 1, UNMOVED), 0).astype(jnp.int32)
    # f(x+u) − f(x) − ⟨g, u⟩ = ½ uᵀHu: exact for quadratics, believed only above rounding and before the loss has grown far beyond its start.
    bend = value - seen.previous_value - seen.slope
    clear = jnp.abs(bend) > 1e3 * eps * jnp.maximum(jnp.abs(value), jnp.abs(seen.previous_value))
    near = (value - initial_value <= 100 * jnp.maximum(jnp.abs(initial_value), tiny)) | (seen.curvature == 0)
    curvature = jnp.where(~first & clear & near & jnp.isfinite(bend), jnp.maximum(2 * bend / seen.square, seen.curvature), seen.curvature)
    return seen._replace(
        initial_value=initial_value,
        initial_grad_norm=initial_grad_norm,
        best_value=jnp.minimum(value, seen.best_value),
        best_grad_norm=jnp.minimum(grad_norm, seen.best_grad_norm),
        idle=idle,
        curvature=curvature,
    )


def judge(seen: Seen, before: Seen, step, max_steps, value, grad_norm, params_norm, stop, stop_state) -> tuple[Any, Any, Any]:
    """(code, which stopping rule or -1, its new state) for a point just evaluated. ``seen`` is ``look(before, ...)``."""
    first = step == 0
    shown = stopping.Observation(
        value=value,
        previous_value=before.previous_value,
        grad_norm=grad_norm,
        initial_grad_norm=seen.initial_grad_norm,
        update_norm=jnp.sqrt(before.square),
        params_norm=params_norm,
    )
    code, reason, stop_state = stopping.codes(stop, shown, stop_state)
    code = jnp.where((code == RUNNING) & (seen.idle >= IDLE), Status.STALLED, code)
    ended = jnp.where(_ended_worse(seen, before, value, grad_norm), Status.DIVERGED, Status.MAX_STEPS)
    code = jnp.where((code == RUNNING) & (step >= max_steps), ended, code)
    code = jnp.where(~first & _ran_away(seen, value, grad_norm), Status.DIVERGED, code)
    finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
    broken = jnp.where(~first & (jnp.isinf(value) | _was_growing(seen, before)), Status.DIVERGED, Status.NONFINITE)
    return jnp.where(finite, code, broken).astype(jnp.int32), jnp.where(finite, reason, -1), stop_state


def _scale(initial):
    return jnp.maximum(jnp.abs(initial), jnp.finfo(initial.dtype).tiny)


def _ran_away(seen, value, grad_norm):
    grew = jnp.abs(value - seen.initial_value) / GREW > _scale(seen.initial_value)
    return grew & (grad_norm / GRADIENT_GREW > seen.initial_grad_norm)


def _was_growing(seen, before):
    risen = before.previous_value - seen.initial_value > 10 * _scale(seen.initial_value)
    return risen | (before.previous_grad_norm > 1e3 * seen.initial_grad_norm)


def _ended_worse(seen, before, value, grad_norm):
    # All steps made, and the run ends above its start, steeper than its start, and still rising.
    return (value > seen.initial_value) & (grad_norm > 2 * seen.initial_grad_norm) & (value > before.previous_value)
