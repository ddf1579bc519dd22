"""What rules without a learning rate share: how the curvature met on a step is measured, and where the first learning rate comes from.

All is in ratios of gradients, ρ = ‖g − g₋‖/‖g₋‖ and σ = ⟨g₋ − g, g₋⟩/‖g₋‖². After a step x − x₋ = −a g₋ these are a times the curvatures
‖g − g₋‖/‖x − x₋‖ and ⟨g − g₋, x − x₋⟩/‖x − x₋‖², so the units of the loss and of the params drop out, and the params of the step before need not be kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.typing import Grads, Params

TRIALS = 40  # evaluations a search may take; 1 to 5 are usual


def check_first_learning_rate(factory: str, number: Any) -> None:
    """The door for first learning rates: None or a number > 0."""
    wanted = f"a number > 0, or None to find one: type {factory}() or {factory}(1e-3)"
    check_number(factory, "first_learning_rate", number, low=0, high=jnp.inf, open_low=True, open_high=True, wanted=wanted)


class Bend(NamedTuple):
    """How the gradient turned on the last step."""

    rho: jax.Array  # ρ ≥ 0, shape ()
    sigma: jax.Array  # σ, at least 0 on a convex loss, shape ()
    moved: jax.Array  # bool: there was a step


def bend(grads: Grads, last_grads: Grads) -> Bend:
    """ρ and σ of the step from where ``last_grads`` were taken to where ``grads`` were; 0 where there was no step."""
    norm = tree.norm(last_grads)
    safe = jnp.where(norm > 0, norm, 1)
    change = tree.map(lambda old, new: (_wide(old) - _wide(new)) / safe.astype(_wide(old).dtype), last_grads, grads)
    along = tree.map(lambda old: _wide(old) / safe.astype(_wide(old).dtype), last_grads)
    moved = norm > 0
    return Bend(jnp.where(moved, tree.norm(change), 0), jnp.where(moved, tree.vdot(change, along), 0), moved)


def pace(first, factor, bend: Bend, state, first_ratio: float, probing: bool) -> tuple[jax.Array, jax.Array]:
    """(learning rate, its ratio θ to the one before) of a rule that multiplies its learning rate by ``factor`` at each step but the first.

    ``state`` has ``step``, ``learning_rate`` and ``ratio``. After a probing step one over the curvature it met is the first learning rate.
    """
    a, dtype = state.learning_rate, state.learning_rate.dtype
    if probing:
        met = (state.step == 1) & (bend.rho > 0)
        factor = jnp.where(met, 1 / jnp.where(met, bend.rho, 1), factor)
    begins = state.step <= (1 if probing else 0)
    factor = jnp.where(bend.moved, factor, 1).astype(dtype)
    ratio = jnp.where(begins, first_ratio, factor).astype(dtype)
    return jnp.where(state.step == 0, jnp.asarray(first, dtype), factor * a), ratio


def _wide(x):
    return jnp.asarray(x, tree.dtype_of(x))


def probe(params: Params, grads: Grads) -> jax.Array:
    """A learning rate for a step just long enough to measure the curvature on: √ε ‖x‖, or √ε at x = 0, in the coarsest dtype of the params."""
    epsilon = max((float(jnp.finfo(jnp.result_type(x)).eps) for x in tree.leaves(params)), default=0.0)
    norm, length = tree.norm(grads), tree.norm(params)
    return jnp.where(length > 0, length, 1) * epsilon**0.5 / jnp.where(norm > 0, norm, 1)


class Search(NamedTuple):
    """A search in flight."""

    learning_rate: jax.Array  # the next to try, or the one accepted
    below: jax.Array  # the largest that was too small, 0 before there is one
    above: jax.Array  # the smallest that was too large, inf before there is one
    accepted: jax.Array  # bool
    evaluations: jax.Array  # int32


def search(value_and_grad_fn, params: Params, grads: Grads, low: float, high: float, active=True) -> tuple[jax.Array, jax.Array]:
    """A learning rate a with low ≤ ρ ≤ high for the step x − a g: of the order of one over the curvature along it.

    Malitsky and Mishchenko (2023) halve and multiply by 10 until ρ ≤ 2. Since ρ is a times a curvature, a/ρ is the better guess: it ends within one
    more evaluation on a quadratic, from however far away. Where nothing is accepted (a linear loss) it returns the last trial. Not differentiated.

    Args:
        value_and_grad_fn: params -> (value, gradient).
        params: x.
        grads: g, the gradient there.
        low: the least ρ that will do.
        high: the largest, below 2: a step to the mirror image, where the gradient is only turned round, has ρ = 2.
        active: bool, shape (): without it nothing is evaluated.

    Returns:
        (learning rate, evaluations made: int32), shapes ().
    """
    params, grads = tree.stop_gradient((params, grads))
    norm, dtype = tree.norm(grads), tree.dtype_of(params)
    length = tree.norm(params)
    begin = (jnp.where(length > 0, length, 1) / jnp.where(norm > 0, norm, 1)).astype(dtype)
    middle = (low * high) ** 0.5

    def goes_on(search):
        return active & (norm > 0) & ~search.accepted & (search.evaluations < TRIALS)

    def attempt(search):
        a = search.learning_rate
        rho = bend(value_and_grad_fn(tree.add_scaled(params, -a, grads))[1], grads).rho
        finite = jnp.isfinite(rho)
        small, large = finite & (rho < low), ~finite | (rho > high)
        below, above = jnp.where(small, a, search.below), jnp.where(large, a, search.above)
        factor = jnp.where(finite, middle / jnp.where(rho > 0, rho, 1e-3), 1e-3)
        guess = a * jnp.clip(factor, 1e-3, 1e3).astype(dtype)
        between = jnp.sqrt(below) * jnp.sqrt(above)
        guess = jnp.where((guess > below) & (guess < above), guess, between)
        guess = jnp.clip(guess, 1e-20 * begin, 1e10 * begin)
        accepted = ~small & ~large
        return Search(jnp.where(accepted, a, guess), below, above, accepted, search.evaluations + 1)

    zero = jnp.zeros((), dtype)
    found = lax.while_loop(goes_on, attempt, Search(begin, zero, zero + jnp.inf, jnp.bool_(False), jnp.int32(0)))
    return lax.stop_gradient(found.learning_rate), found.evaluations
