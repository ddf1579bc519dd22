"""A closer look at a point that may be stationary: how much of the gradient there is rounding, and how far the rest says that the minimum is.

All is measured, by a few gradients at points nearby, in numbers that do not depend on the units of the loss or of the params. It is done where a run may end,
not at its steps.

    σᵢ = max |∇f(x̃)ᵢ − ∇f(x)ᵢ|        of two x̃ that differ from x by a unit in the last place of every entry, up or down
    s  = the gradient's entries with |gᵢ| > 2σᵢ, else 0: the rest is what rounding makes of any point so near
    H w ≈ s                            a few conjugate gradients, with Hp = (∇f(x) − ∇f(x − l p))/l and pᵀHp less what rounding may have added
    ‖w‖, sᵀw/2                         the length of this step of Newton's, and the decrease it promises: both grow with every conjugate gradient

Reference:
    Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., SIAM 2002, section 26.4 (rounding errors by perturbed evaluations).
    Dennis, Schnabel, "Numerical Methods for Unconstrained Optimization and Nonlinear Equations", SIAM 1996, section 7.2 (criteria that know no units).
    Hestenes, Stiefel, "Methods of conjugate gradients for solving linear systems", J. Res. Natl. Bur. Stand. 49, 1952.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax import tree
from gdjax.typing import Grads, Params

NUDGES, CONJUGATES = 2, 20  # gradients taken a unit in the last place away; along conjugate directions, at most
DISCERNIBLE = 2  # times its rounding, above which an entry of a gradient says something
SOLVED = 1e-7  # of ‖s‖, below which the rest of H w − s is left: a steep direction must not hide a flat one
NEARBY, UNITS = 2.0**-10, 8  # l‖p‖/‖x‖, and units in the last place it holds at least: above rounding, and near enough for a curvature
FROM_THE_START = 1e-2  # ‖x‖ counts as this share of |x₀| at least: about a minimum at 0 rounding is no longer relative to x


class Evidence(NamedTuple):
    """What a closer look has shown, scalars of shape () in the run's dtype; NaN before one was taken."""

    signal: Any  # ‖s‖; 0 where all of the gradient is rounding
    curvature: Any  # along s, NaN without a signal; not above 0 where the loss is flat or bends downwards
    distance: Any  # ‖w‖; 0 where there is no signal, inf where the curvature is not above 0
    decrease: Any  # sᵀw/2, likewise
    params_norm: Any  # ‖x‖


class _Look(NamedTuple):
    """A look in the making. Gradients are in a unit of their own, so that no square leaves the range; all in the run's dtype."""

    turn: Any  # int32: gradients taken
    unit: Any  # a power of two
    grads: Grads
    noise: Any  # σ, like grads
    residual: Any  # s − H w
    direction: Any  # p
    solution: Any  # w
    square: Any  # ‖residual‖²
    first: Any  # ‖s‖²
    curvature: Any  # along s
    decrease: Any  # sᵀw/2
    goes_on: Any  # bool


def unknown(dtype) -> Evidence:
    """Before a look."""
    return Evidence(*(jnp.full((), jnp.nan, dtype) for _ in Evidence._fields))


def largest(params: Params) -> Any:
    """max |xᵢ|, shape ()."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0).astype(tree.dtype_of(params)) for x in tree.leaves(params)]))


def look_closer(gradient, params: Params, initial_size) -> Evidence:
    """At most 23 gradients near a point, and what they say.

    Args:
        gradient: params -> the gradient, like params.
        params: x.
        initial_size: |x₀|, in the run's dtype.
    """
    params, dtype = tree.stop_gradient(params), tree.dtype_of(params)
    norm = jnp.sqrt(_dot(params, params)).astype(dtype)
    size = jnp.maximum(norm, FROM_THE_START * initial_size)
    coarsest = max(float(jnp.finfo(jnp.result_type(x)).eps) for x in tree.leaves(params))
    length = max(NEARBY, UNITS * coarsest) * jnp.where(size > 0, size, 1).astype(dtype)

    def turn(look: _Look) -> _Look:
        reach = jnp.where(look.turn > NUDGES, length * lax.rsqrt(_dot(look.direction, look.direction)), 0).astype(dtype)
        there = tree.stop_gradient(gradient(tree.add_scaled(_nudged(params, look.turn), -reach, look.direction)))
        there = jax.tree.map(lambda g: g.astype(dtype) / look.unit, there)
        kind = (look.turn > 0).astype(jnp.int32) + (look.turn > NUDGES).astype(jnp.int32)
        return lax.switch(kind, [_begin, _listen, _solve], look, there, reach)._replace(turn=look.turn + 1)

    zeros, zero = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), dtype), params), jnp.zeros((), dtype)
    start = _Look(jnp.int32(0), zero + 1, zeros, zeros, zeros, zeros, zeros, zero, zero, zero, zero, jnp.bool_(True))
    last = lax.while_loop(lambda look: look.goes_on & (look.turn <= NUDGES + CONJUGATES), turn, start)
    signal, convex = jnp.sqrt(last.first) * last.unit, last.curvature > 0
    distance = jnp.where(last.first > 0, jnp.where(convex, jnp.sqrt(_dot(last.solution, last.solution)), jnp.inf), 0)
    decrease = jnp.where(last.first > 0, jnp.where(convex, last.decrease * last.unit, jnp.inf), 0)
    return Evidence(*(x.astype(dtype) for x in (signal, last.curvature * last.unit, distance, decrease, norm)))


def _begin(look: _Look, there: Grads, _) -> _Look:
    unit = tree.power_of_two(largest(there))
    return look._replace(unit=unit, grads=jax.tree.map(lambda g: g / unit, there))


def _listen(look: _Look, there: Grads, _) -> _Look:
    """The noise of a gradient, and what stands out of it."""
    change = jax.tree.map(lambda a, b: jnp.abs(a - b), there, look.grads)
    noise = jax.tree.map(lambda n, c: jnp.where(jnp.isfinite(c), jnp.maximum(n, c), n), look.noise, change)
    heard = _above(look.grads, noise)
    square = _dot(heard, heard)
    there_is = (look.turn < NUDGES) | (square > 0)
    return look._replace(noise=noise, residual=heard, direction=heard, square=square, first=square, goes_on=there_is)


def _solve(look: _Look, there: Grads, reach) -> _Look:
    """A conjugate gradient, with a curvature less what rounding may have added. Where that is not above 0 it is the last: the first says that no minimum is
    near, and a later one is as long as rounding lets it be at least.
    """
    bent, first = tree.subtract(look.grads, there), look.turn == NUDGES + 1
    seen, doubt = _finite(_dot(bent, look.direction) / reach), _dot(look.noise, jax.tree.map(jnp.abs, look.direction)) / reach
    convex = seen > doubt
    curvature = jnp.where(convex, seen - doubt, jnp.where(first, jnp.inf, jnp.maximum(seen, 0) + doubt))  # pᵀHp
    rate = look.square / curvature
    left = tree.add_scaled(look.residual, -rate / reach, bent)
    residual = _above(left, tree.scale(rate / reach, look.noise))
    square = _dot(residual, residual)
    return look._replace(
        residual=residual,
        direction=tree.add_scaled(residual, square / look.square, look.direction),
        solution=tree.add_scaled(look.solution, rate, look.direction),
        square=square,
        curvature=jnp.where(first, (seen - doubt) / look.first, look.curvature),
        decrease=look.decrease + rate * look.square / 2,
        goes_on=convex & (square > SOLVED**2 * look.first),
    )


def _finite(x):
    return jnp.where(jnp.isfinite(x), x, jnp.nan)  # a gradient that overflows on the way says nothing of a curvature


def _above(numbers, noise):
    """The entries that rise above their rounding, 0 for the others."""
    return jax.tree.map(lambda x, n: jnp.where(jnp.abs(x) > DISCERNIBLE * n, x, 0), numbers, noise)


def _dot(a, b):
    return tree.vdot(a, b).astype(tree.dtype_of(a))


def _nudged(params: Params, turn):
    """x with every entry a unit in its last place up or down, by a pattern of the turn's own; x itself at turns that are not nudges."""
    active = (turn > 0) & (turn <= NUDGES)

    def nudge(x):
        x = jnp.asarray(x)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        place = lax.iota(jnp.uint32, max(x.size, 1))[: x.size].reshape(x.shape)
        mixed = (place + turn.astype(jnp.uint32) * np.uint32(0x632BE5AB)) * np.uint32(0x9E3779B1)  # Fibonacci hashing: as good as a coin here
        side = jnp.where((mixed >> np.uint32(31)) == 1, 0.75, -0.75) * float(jnp.finfo(x.dtype).eps)  # 0.75 eps |x| rounds to one unit
        return jnp.where(active, (x.astype(wide) * (1 + side.astype(wide))).astype(x.dtype), x)

    return jax.tree.map(nudge, params)
