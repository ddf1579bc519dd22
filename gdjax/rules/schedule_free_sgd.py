"""Schedule-free stochastic gradient descent."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.parts.averaging import widened
from gdjax.parts.two_points import check_momentum, check_params_given, toward, updates_to, weigh
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Number, Params, Scheduled


class ScheduleFreeSGDState(NamedTuple):
    """What ``schedule_free_sgd`` keeps between steps; scalars are of the params' widest dtype, shape ()."""

    step: jax.Array  # k, number of steps taken, int32, shape ()
    learning_rate: jax.Array  # γ of the last step
    largest: jax.Array  # the largest γ so far
    total: jax.Array  # sum of the weights so far
    x: Params  # the average, like params but in float32 at least: what is reported
    z: Params  # the point that gradients move, likewise


@rule
def schedule_free_sgd(
    learning_rate: Scheduled = 1.0, momentum: Scheduled = 0.9, *, warmup_steps: Number = 0, weight_decay=None,
    step_power: Number = 0.0, rate_power: Number = 2.0,
):  # fmt: skip
    """Schedule-free SGD: interpolation and averaging in place of momentum and a schedule that must know when the run ends.

        z ← z − γ (g(y) + λ y)
        x ← x + c (z − x),  c = w/Σw,  w = kʳ max γᵖ,  k = 1, 2, ...
        y ← β x + (1 − β) z
        γ = h min{k/W, 1}

    The params of the loop are y, where gradients are taken; ``gdjax.eval_params`` gives x. Both x and z are kept, in float32 at least, so β may be 0
    (z averaged afterwards, Polyak–Ruppert) and 1 (gradients at the average, primal averaging).

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (); in units of params² per unit of loss. 1 to 50 times what SGD with momentum takes.
        momentum: β in [0, 1], a number or a schedule, shape (): 0.9, or up to 0.98 for long runs.
        warmup_steps: W ≥ 0, a number of steps, shape (); the first step is 1/W of a whole one.
        weight_decay: λ ≥ 0, a number, shape (): adds λ‖y‖²/2 to the loss. None: nothing.
        step_power: r ≥ 0, a number, shape (): more weight to later points. The authors' r, 0.
        rate_power: p ≥ 0, a number, shape (): less weight to the points of a warm-up. The authors' weight_lr_power, 2.

    Returns:
        Rule: ``update`` needs the params.

    Raises:
        ValueError: a number is out of its range or NaN; ``update`` without params.

    Guarantee:
        Convex, ‖g‖ ≤ G, R = ‖x₀ − x⋆‖, constant γ, r = 0, any β in [0, 1]:  f(x_N) − f⋆ ≤ R²/(2γN) + γG²(N + 1)/(2N), in expectation with stochastic
        gradients; with γ = R/(G√N) this is (GR/√N)(1 + 1/(2N)). A point without averaging needs a schedule that ends at N for as much.

    When to use it: mini-batches without a known number of steps. The learning rate needs tuning all the same; ``schedule_free_polyak`` needs none.

    Example:
        >>> import gdjax, jax
        >>> rule, y = gdjax.schedule_free_sgd(0.2), 5.0
        >>> state = rule.init(y)
        >>> for step in range(3):
        ...     updates, state = rule.update(jax.grad(lambda w: (w - 2.0) ** 2)(y), state, y)
        ...     y = y + updates
        ...     print(f"{y:.3f} {gdjax.eval_params(rule, state, y):.3f}")
        3.800 3.800
        3.404 3.440
        3.071 3.133

    Reference:
        Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky, "The road less scheduled", NeurIPS 2024, arXiv:2405.15682.
    """
    check_learning_rate("schedule_free_sgd", learning_rate)
    check_momentum("schedule_free_sgd", momentum)
    check_number("schedule_free_sgd", "warmup_steps", warmup_steps, low=0, open_high=True, required=True, wanted="a number of steps ≥ 0: type warmup_steps=100")
    check_number("schedule_free_sgd", "weight_decay", weight_decay, low=0, wanted="weight_decay ≥ 0: type weight_decay=1e-4, or leave it out")
    for name, power in dict(step_power=step_power, rate_power=rate_power).items():
        check_number("schedule_free_sgd", name, power, low=0, open_high=True, required=True, wanted=f"{name} ≥ 0: type {name}=2.0")

    def init(params):
        zero = jnp.zeros((), tree.dtype_of(params))
        return ScheduleFreeSGDState(jnp.zeros((), jnp.int32), zero, zero, zero, widened(params), widened(params))

    def update(grads, state, params=None, **extra):
        check_params_given("schedule_free_sgd", params)
        dtype, step = state.total.dtype, jnp.asarray(optax.safe_increment(state.step))
        k = step.astype(dtype)
        rate = (value_at(learning_rate, state.step) * jnp.minimum(k / jnp.maximum(warmup_steps, 1), 1)).astype(dtype)
        largest = jnp.maximum(state.largest, rate)
        share, total = weigh(state.total, k**step_power * largest**rate_power)
        z = tree.add_scaled(state.z, -rate, grads)
        if weight_decay is not None:
            z = tree.add_scaled(z, -rate * weight_decay, params)
        x = toward(state.x, share, z)
        return updates_to(toward(z, value_at(momentum, state.step), x), params), ScheduleFreeSGDState(step, rate, largest, total, x, z)

    def eval_params(state, params):
        return tree.cast_like(state.x, params)

    return init, update, eval_params
