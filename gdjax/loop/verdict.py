"""Verdicts on full-batch runs: what evaluations show, and whether the run goes on.

At every step only what must not be missed is looked at (finite? does a stopping rule hold?); the slow troubles, running away and standing still, are looked
for every few steps, since each scalar carried through a small compiled loop costs as much as the arithmetic of a small problem.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax import stop as stopping, tree
from gdjax.brief import brief_repr
from gdjax.loop.evidence import largest
from gdjax.result import RUNNING, Status

GREW, GRADIENT_GREW = 1e10, 1e5  # a loss this many times its start, with a gradient this many times its own, will not come back
EVERY = 31  # steps between inspections; odd, so that a run that jumps to and fro between two points is seen to move
EVERY_SEARCH = 3  # likewise for rules with evaluations of their own, whose steps cost more
GEOMETRIC = 1e3  # a gradient that grows faster per step than this does not grow as on a quadratic, and says nothing about a curvature
IDLE = 4  # inspections in a row without progress beyond rounding before a run is called stalled


class Seen(NamedTuple):
    """Scalars of shape () in the run's dtype, carried from step to step."""

    initial_value: Any
    initial_grad_norm: Any
    initial_size: Any  # max |x₀ᵢ|
    previous_value: Any  # f(x_{k−1})
    previous_grad_norm: Any
    growth: Any  # of ‖g‖ per step when it first exceeded its start; NaN before
    inspected_grad_norm: Any  # ‖g‖ at the last inspection
    best_value: Any  # of the points inspected
    best_grad_norm: Any
    mark: Any  # Σ x at the last inspection: has anything moved since?
    idle: Any  # int32: inspections in a row without progress
    pending: Any  # int32: the verdict of an inspection, said once the params are evaluated

    __repr__ = brief_repr


def unseen(params) -> Seen:
    """Before the first evaluation."""
    dtype = tree.dtype_of(params)
    nan, inf = jnp.asarray(jnp.nan, dtype), jnp.asarray(jnp.inf, dtype)
    return Seen(nan, nan, largest(params), inf, inf, nan, nan, inf, inf, nan, jnp.int32(0), jnp.int32(RUNNING))


def look(seen: Seen, step, value, grad_norm) -> Seen:
    """What is known of the start, after evaluating the point reached by ``step`` updates."""
    first = step == 0
    return seen._replace(initial_value=jnp.where(first, value, seen.initial_value), initial_grad_norm=jnp.where(first, grad_norm, seen.initial_grad_norm))


def judge(seen: Seen, step, max_steps, value, grad_norm, update_norm, params, stop, stop_state) -> tuple[Any, Any, Any]:
    """(code, which stopping rule or −1, its new state) for a point just evaluated, as far as a step must know; ``close`` has the last word."""
    params_norm = tree.norm(params) if stop.build().needs_update else jnp.full_like(value, jnp.nan)
    shown = stopping.Observation(value, seen.previous_value, grad_norm, seen.initial_grad_norm, update_norm, params_norm)
    code, reason, stop_state = stopping.codes(stop, shown, stop_state)
    code = jnp.where(code == RUNNING, without_rules(seen, step, max_steps), code)
    finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
    return jnp.where(finite, code, Status.NONFINITE).astype(jnp.int32), reason, stop_state


def without_rules(seen: Seen, step, max_steps) -> Any:
    """The verdict where no stopping rule holds, or none that stands: that of the last inspection, or that all steps are made."""
    return jnp.where((seen.pending == RUNNING) & (step >= max_steps), Status.MAX_STEPS, seen.pending)


def settled(code, moved, value, grad_norm, stop) -> Any:
    """The verdict that goes with what was done.

    XLA may compute a gradient twice, once for the verdict and once for the step that waits for it, and round it otherwise: near the floor of a dtype a rule
    then holds for one and not for the other, and a run that neither ends nor moves would never end. The step is made, or not, as a whole, so it decides.
    """
    far = jnp.finfo(value.dtype).max / 4
    held = Status.CONVERGED if stop.build().needs_gradient else Status.STOPPED
    held = jnp.where((jnp.abs(value) < far) & (grad_norm < far), held, Status.NONFINITE)
    return jnp.where(moved, RUNNING, jnp.where(code == RUNNING, held, code)).astype(jnp.int32)


def close(seen: Seen, code, reason, members: int, step, value, grad_norm) -> tuple[Seen, Any, Any]:
    """What the last evaluation of a run says in the light of the whole: (seen, code, which stopping rule or −1)."""
    worse = (code == Status.MAX_STEPS) & _ended_worse(seen, value, grad_norm)
    # An infinite loss after steps that all went down is the edge of a domain, not a step too long.
    fell = (step > 2) & (seen.previous_value < seen.initial_value) & (seen.previous_grad_norm <= seen.initial_grad_norm)
    overflowed = (code == Status.NONFINITE) & (step > 0) & ((jnp.isinf(value) & ~fell) | _was_growing(seen))
    code = jnp.where(worse | overflowed, Status.DIVERGED, code).astype(jnp.int32)
    by_rule = (code == Status.CONVERGED) | (code == Status.STOPPED)
    reason = jnp.where(by_rule, 0 if members == 1 else reason, -1).astype(jnp.int32)
    last = jnp.where(jnp.isfinite(grad_norm), grad_norm, seen.previous_grad_norm)
    pace = (last / seen.initial_grad_norm) ** (1 / jnp.maximum(step, 1).astype(last.dtype))
    believed = (last > seen.initial_grad_norm) & (pace < GEOMETRIC)
    growth = jnp.where(jnp.isnan(seen.growth) & believed, pace, seen.growth)
    return seen._replace(growth=growth), code, reason


def inspect(seen: Seen, params, learning_rate, every: int) -> Seen:
    """Looks for the slow troubles, from the last point evaluated: a run that is running away, or one that stands still."""
    value, grad_norm, dtype = seen.previous_value, seen.previous_grad_norm, seen.best_value.dtype
    level = 32 * jnp.finfo(dtype).eps * jnp.abs(value)
    mark = sum((jnp.sum(x.astype(dtype)) for x in tree.leaves(params)), jnp.zeros((), dtype))
    improved = (value < seen.best_value) | (grad_norm < 0.999 * seen.best_grad_norm)
    # A step of gradient descent promises a decrease of h ‖g‖²: below rounding it can show nothing.
    promised = jnp.where(jnp.isfinite(learning_rate), learning_rate.astype(dtype), 0) * grad_norm**2
    still = (promised <= level) | (mark == seen.mark)
    quiet = ~improved & still & (value - seen.best_value <= level)
    idle = jnp.where(quiet, seen.idle + 1, 0).astype(jnp.int32)
    rising = jnp.isnan(seen.growth) & (grad_norm > seen.initial_grad_norm)
    pace = (grad_norm / seen.inspected_grad_norm) ** (1 / every)
    bottomless = value < -jnp.finfo(dtype).max / 1e4  # nothing can be gained any more because there is no number below
    pending = jnp.where(idle >= IDLE, jnp.where(bottomless, Status.DIVERGED, Status.STALLED), RUNNING)
    pending = jnp.where(_ran_away(seen), Status.DIVERGED, pending)
    return seen._replace(
        growth=jnp.where(rising & jnp.isfinite(pace), pace, seen.growth),
        inspected_grad_norm=grad_norm,
        best_value=jnp.minimum(value, seen.best_value),
        best_grad_norm=jnp.minimum(grad_norm, seen.best_grad_norm),
        mark=mark,
        idle=idle,
        pending=pending.astype(jnp.int32),
    )


def _scale(initial):
    return jnp.maximum(jnp.abs(initial), jnp.finfo(initial.dtype).tiny)


def _ran_away(seen):
    grew = jnp.abs(seen.previous_value - seen.initial_value) / GREW > _scale(seen.initial_value)
    return grew & (seen.previous_grad_norm / GRADIENT_GREW > seen.initial_grad_norm)


def _was_growing(seen):
    risen = seen.previous_value - seen.initial_value > 10 * _scale(seen.initial_value)
    return risen | (seen.previous_grad_norm > 1e3 * seen.initial_grad_norm)


def _ended_worse(seen, value, grad_norm):
    # All steps made, and the run ends above its start, steeper than its start, and still rising.
    return (value > seen.initial_value) & (grad_norm > 2 * seen.initial_grad_norm) & (value > seen.previous_value)
