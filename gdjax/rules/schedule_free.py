"""Schedule-free learning around another rule."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.parts.averaging import widened
from gdjax.parts.two_points import check_momentum, check_params_given, check_two_points, toward, updates_to, weigh
from gdjax.rule import as_rule, rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Number, Params, RuleState, Scheduled


class ScheduleFreeState(NamedTuple):
    """What ``schedule_free`` keeps between steps; scalars are of the params' widest dtype, shape ()."""

    points: jax.Array  # k, the number of points averaged, int32, shape ()
    largest: jax.Array  # the largest learning rate so far
    total: jax.Array  # sum of the weights so far
    x: Params  # the average, like params but in float32 at least: what is reported
    z: Params  # the point that the rule moves, likewise
    inner: RuleState  # of the rule


@rule
def schedule_free(rule, momentum: Scheduled = 0.9, *, learning_rate=None, step_power: Number = 0.0, rate_power: Number = 2.0):
    """Schedule-free learning around any rule that takes a step from a gradient: SGD, Adam, ...

        z ← z + u,  u the updates of the rule for g(y)
        x ← x + c (z − x),  c = w/Σw,  w = kʳ max γᵖ,  k = 1, 2, ...
        y ← β x + (1 − β) z

    The params of the loop are y, where gradients are taken; ``gdjax.eval_params`` gives x. Both x and z are kept, in float32 at least. The rule is told y
    as its params, to which its gradient and value belong, so a decoupled weight decay acts at y.

    Args:
        rule: the rule or optax transformation, without momentum of its own (Adam with b1 = 0) and without a decaying schedule.
        momentum: β in [0, 1], a number or a schedule, shape ().
        learning_rate: γ ≥ 0 of the rule, a schedule or a number, shape (), if it varies: its warm-up. Weighs the points and no more. None: γ = 1.
        step_power: r ≥ 0, a number, shape (): more weight to later points.
        rate_power: p ≥ 0, a number, shape (): less weight to the points of a warm-up.

    Returns:
        Rule: ``update`` needs the params.

    Raises:
        ValueError: a number is out of its range or NaN; a rule that keeps two points itself; ``update`` without params.

    Guarantee:
        Convex loss, r = 0, γ constant, any β in [0, 1], any rule:  f(x_N) − f(u) ≤ (1/N) Σ_{k=1}^N ⟨g(y_k), z_k − u⟩ for all u: the average point is as good
        as the mean regret of the rule. For SGD this is the bound of ``schedule_free_sgd``.

    When to use it: a rule whose schedule would have to know when the run ends. For SGD, ``schedule_free_sgd`` has warm-up and weights in one.

    Example:
        >>> import gdjax, jax
        >>> rule, y = gdjax.schedule_free(gdjax.sgd(0.2)), 5.0
        >>> state = rule.init(y)
        >>> for step in range(3):
        ...     updates, state = rule.update(jax.grad(lambda w: (w - 2.0) ** 2)(y), state, y)
        ...     y = y + updates
        ...     print(f"{y:.3f} {gdjax.eval_params(rule, state, y):.3f}")
        3.800 3.800
        3.404 3.440
        3.071 3.133

    Reference:
        Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky, "The road less scheduled", NeurIPS 2024, arXiv:2405.15682 (theorem 2).
    """
    check_momentum("schedule_free", momentum)
    if learning_rate is not None:
        check_learning_rate("schedule_free", learning_rate)
    for name, power in dict(step_power=step_power, rate_power=rate_power).items():
        check_number("schedule_free", name, power, low=0, open_high=True, required=True, wanted=f"{name} ≥ 0: type {name}=2.0")
    inner = as_rule(rule, "schedule_free: rule")
    check_two_points("schedule_free", inner, rule)

    def init(params, **offered):
        zero = jnp.zeros((), tree.dtype_of(params))
        return ScheduleFreeState(jnp.zeros((), jnp.int32), zero, zero, widened(params), widened(params), inner.init(params, **offered))

    def update(grads, state, params=None, **extra):
        check_params_given("schedule_free", params)
        moves, after = inner.update(grads, state.inner, params, **extra)
        rate = 1.0 if learning_rate is None else value_at(learning_rate, state.points)
        largest = jnp.maximum(state.largest, rate).astype(state.largest.dtype)
        points = jnp.asarray(optax.safe_increment(state.points))
        share, total = weigh(state.total, points.astype(largest.dtype) ** step_power * largest**rate_power)
        z = tree.add(state.z, moves)
        x = toward(state.x, share, z)
        return updates_to(toward(z, value_at(momentum, state.points), x), params), ScheduleFreeState(points, largest, total, x, z, after)

    def eval_params(state, params):
        return tree.cast_like(state.x, params)

    return init, update, eval_params
