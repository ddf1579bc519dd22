"""Gradient descent with Armijo's search."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number, check_offered, is_word, short
from gdjax.linesearch import SUFFICIENT, Conditions, first_step, search
from gdjax.parts.first_step import check_first_learning_rate
from gdjax.parts.past_values import REFERENCES, PastValues, Reference, height, no_past, remember
from gdjax.rule import rule
from gdjax.typing import Grads, Number


class ArmijoState(NamedTuple):
    """What ``armijo`` keeps between steps: one vector like params, and scalars of the params' widest dtype."""

    value: jax.Array  # f at the params moved to, shape (); NaN at the start
    grad: Grads  # ∇f there, like params
    evaluations: jax.Array  # int32, shape (): of value and gradient, in all searches
    learning_rate: jax.Array  # the accepted step, shape (); 0 at the start and where a search found nothing
    step: jax.Array  # int32, shape (): updates made since a fresh start
    past: PastValues  # the losses so far: two scalars and a ring of ten
    stuck: jax.Array  # bool, shape (): a fresh start found nothing here


@rule
def armijo(sufficient: Number = SUFFICIENT, expansion: Number = 2.0, *, first_learning_rate=None, reference: Reference = "last", memory: Number = 0.85):
    """Gradient descent with Armijo's search: the step is shortened until the loss falls enough, and the next search begins with a longer one.

        x ← x − a g,  f(x₊) ≤ r − c a ‖g‖²
        first trial: e a₋;  at first 1/‖g‖_∞

    A trial that fails is followed by the minimiser of the cubic through both values and slopes, within 0.1 and 0.8 of it, or by a tenth where the loss is
    not finite. Differences of the loss below its rounding count as a decrease where the slope has fallen.

    Args:
        sufficient: c in (0, 1), a number, shape (); 1e-4 by Nocedal and Wright, 1/2 for the bounds without a further term.
        expansion: e ≥ 1, a number, shape (): how much longer each first trial is than the step before; 2: Nesterov 2013.
        first_learning_rate: the first trial of all, > 0, a number, shape (), in units of params² per unit of loss. None: 1/‖g‖_∞.
        reference: str, r: "last" the loss at x, so f never rises; "mean", Zhang and Hager's weighted mean of all losses so far; "maximum" of the last ten.
        memory: η in [0, 1], a number, shape (): how slowly the mean forgets; 0.85 by Zhang and Hager.

    Returns:
        Rule: ``update`` needs the params, ``value`` and ``value_and_grad_fn``; about 2 evaluations a step.

    Raises:
        ValueError: a number out of its range; an unknown reference; ``update`` without what it needs.

    Guarantee:
        L-smooth: every a ≥ m = min{a₀, 3/(5L), (1 − c)/L}, convex min{a₀, 3/(4L), (1 − c)/L}; fewer than 2 + log(e a₋L)/log(5/4) trials a step (c ≤ 1/2).
        "last": min over k < N of ‖g_k‖² ≤ (f(x₀) − f⋆)/(c m N). Convex, A = a₀ + ... + a_{N−1} ≥ m N, b their largest, R = ‖x₀ − x⋆‖:
        f(x_N) − f⋆ ≤ (R² + max{1/c − 2, 0} b (f(x₀) − f⋆))/(2A). Curvature at least μ > 0: f(x₊) − f⋆ ≤ (1 − 2cμa)(f(x) − f⋆).

    When to use it: as the plain method with a proof and no number to choose; ``barzilai_borwein`` costs as much and is far faster.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> loss = lambda w: jnp.sum(jnp.array([1.0, 4.0]) * (w - 2.0) ** 2)
        >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.armijo(), max_steps=60)
        >>> print(*(f"{w:.2f}" for w in result.params))
        2.00 2.00

    Reference:
        Armijo, "Minimization of functions having Lipschitz continuous first partial derivatives", Pacific J. Math. 16, 1966.
        Nocedal, Wright, "Numerical optimization", 2006, section 3.1. Nesterov, Math. Program. 140, 2013 (longer first trials).
    """
    check_first_learning_rate("armijo", first_learning_rate)
    for name, number, low, high, wanted in (
        ("sufficient", sufficient, 0, 1, "0 < sufficient < 1: type sufficient=1e-4"),
        ("expansion", expansion, 1, jnp.inf, "expansion ≥ 1: type expansion=2.0"),
        ("memory", memory, 0, 1, "0 ≤ memory ≤ 1: type memory=0.85"),
    ):
        strict = name == "sufficient"
        check_number("armijo", name, number, low=low, high=high, open_low=strict, open_high=name != "memory", required=True, wanted=wanted)
    if not is_word(reference, REFERENCES):
        raise ValueError(f'armijo: reference is {short(reference)}; wanted one of {REFERENCES}: type armijo(reference="last").')

    def init(params):
        zero, nothing = jnp.zeros((), tree.dtype_of(params)), jnp.int32(0)
        return ArmijoState(zero + jnp.nan, tree.zeros_like(params), nothing, zero, nothing, no_past(zero.dtype), jnp.bool_(False))

    def update(grads, state, params=None, *, value: Any = None, grad=None, value_and_grad_fn: Any = None, **extra):
        check_offered("armijo", value_and_grad_fn=value_and_grad_fn, value=value, params=params)
        f, fresh = jnp.asarray(value, state.value.dtype), state.learning_rate == 0
        first = first_step(params, grads) if first_learning_rate is None else jnp.asarray(first_learning_rate, f.dtype)
        initial = jnp.where(fresh, jnp.where(state.stuck & (f == state.value), 0, first), expansion * state.learning_rate)
        past = remember(state.past, f, state.step, memory)
        d, true = tree.scale(-1, grads), grads if grad is None else grad
        found = search(value_and_grad_fn, params, d, value, true, initial, reference=height(past, f, reference), conditions=Conditions(sufficient))
        count = jnp.where(found.accepted, state.step + 1, 0).astype(jnp.int32)
        past = tree.where(found.accepted, past, no_past(f.dtype))
        accepted = found.value, tree.cast_like(found.grad, state.grad), state.evaluations + found.evaluations, found.step
        return found.updates, ArmijoState(*accepted, count, past, fresh & ~found.accepted)

    return init, update
