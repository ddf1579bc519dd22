"""Schedule-free SGD with the Polyak step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.averaging import widened
from gdjax.parts.two_points import check_momentum, check_params_given, toward, updates_to, weigh
from gdjax.parts.value_steps import over_square
from gdjax.rule import rule
from gdjax.schedules import value_at
from gdjax.typing import Number, Params, Scheduled


class ScheduleFreePolyakState(NamedTuple):
    """What ``schedule_free_polyak`` keeps between steps; scalars are of the params' widest dtype, shape ()."""

    step: jax.Array  # k, number of steps taken, int32, shape ()
    learning_rate: jax.Array  # γ of the last step
    total: jax.Array  # sum of the weights so far
    x: Params  # the average, like params but in float32 at least: what is reported
    z: Params  # the point that gradients move, likewise


@rule
def schedule_free_polyak(lower_bound: Number = 0.0, momentum: Scheduled = 0.9, *, max_learning_rate=None, step_power: Number = 0.0):
    """Schedule-free SGD with the Polyak step: neither a learning rate nor a schedule.

        γ = min{[f(y) + ⟨g(y), z − y⟩ − f⋆]₊/‖g(y)‖², γ_max}
        z ← z − γ g(y)
        x ← x + c (z − x),  c = w/Σw,  w = kʳ,  k = 1, 2, ...
        y ← β x + (1 − β) z

    The step is the longest that the linear model at y allows from z: there the model is down at f⋆. The params of the loop are y, where gradients are
    taken; ``gdjax.eval_params`` gives x. Steps from a value or gradient that is not finite are left out.

    Args:
        lower_bound: f⋆ or a bound below it, a number, shape (), in units of the loss: 0 for most losses. γ = 0 where the model is not above it.
        momentum: β in [0, 1], a number or a schedule, shape ().
        max_learning_rate: γ_max > 0, a number, shape (), in units of params² per unit of loss. None: no bound. Wanted where f⋆ of a batch is not
            ``lower_bound``, since steps are then too long.
        step_power: r ≥ 0, a number, shape (): more weight to later points; on smooth losses 2 to 4 forgets the start sooner than 0, the default.

    Returns:
        Rule: ``update`` needs the params and ``value``.

    Raises:
        ValueError: a number is out of its range or NaN; ``update`` without what it needs.

    Guarantee:
        Convex, ‖g‖ ≤ G, R = ‖x₀ − x⋆‖, any β in [0, 1], lower_bound f⋆:  f(x_N) − f⋆ ≤ G R √(Σw²)/Σw at every N, R G/√N for r = 0; ‖z − x⋆‖ never grows.
        With γ_max, r = 0:  f(x_N) − f⋆ ≤ G R/√N + R²/(γ_max N). With lower_bound f⋆ − s besides:  3s + R²/(γ_max N) + G √(R²/N + 2γ_max s).
        In expectation for stochastic gradients of losses that all have the minimum f⋆ at x⋆ (interpolation).

    When to use it: models that can fit their data, as an overparametrised network, and convex losses of known minimum. Else ``schedule_free_sgd``.

    Example:
        >>> import gdjax, jax
        >>> rule, y, loss = gdjax.schedule_free_polyak(), 5.0, lambda w: (w - 2.0) ** 2
        >>> state = rule.init(y)
        >>> for step in range(3):
        ...     value, grads = jax.value_and_grad(loss)(y)
        ...     updates, state = rule.update(grads, state, y, value=value)
        ...     y = y + updates
        ...     print(f"{y:.3f} {gdjax.eval_params(rule, state, y):.3f}")
        3.500 3.500
        3.088 3.125
        2.893 2.931

    Reference:
        Oikonomou, Buchholz, Pun, Gower, Loizou, "Taking the road less scheduled with adaptive Polyak steps", arXiv:2511.07767, 2025.
    """
    wanted = "a lower bound of the loss: type schedule_free_polyak(0.0)"
    check_number("schedule_free_polyak", "lower_bound", lower_bound, open_low=True, open_high=True, required=True, wanted=wanted)
    check_momentum("schedule_free_polyak", momentum)
    wanted = "a number > 0 or None: type max_learning_rate=1.0"
    check_number("schedule_free_polyak", "max_learning_rate", max_learning_rate, low=0, open_low=True, wanted=wanted)
    check_number("schedule_free_polyak", "step_power", step_power, low=0, open_high=True, required=True, wanted="step_power ≥ 0: type step_power=2.0")

    def init(params):
        zero = jnp.zeros((), tree.dtype_of(params))
        return ScheduleFreePolyakState(jnp.zeros((), jnp.int32), zero, zero, widened(params), widened(params))

    def learning_rate(value, grads, state, params, norm):
        ahead = tree.map(lambda z, y: z - jnp.asarray(y).astype(z.dtype), state.z, params)
        rate = over_square(value + tree.vdot(grads, ahead) - lower_bound, norm)
        return (rate if max_learning_rate is None else jnp.minimum(rate, max_learning_rate)).astype(norm.dtype)

    def update(grads, state, params=None, *, value=None, **extra):
        check_params_given("schedule_free_polyak", params)
        check_offered("schedule_free_polyak", value=value)
        norm, value = tree.norm(grads), jnp.asarray(value, state.total.dtype)
        rate, step = learning_rate(value, grads, state, params, norm), jnp.asarray(optax.safe_increment(state.step))
        share, total = weigh(state.total, step.astype(norm.dtype) ** step_power)
        z = tree.add_scaled(state.z, -rate, grads)
        x = toward(state.x, share, z)
        after, updates = ScheduleFreePolyakState(step, rate, total, x, z), updates_to(toward(z, value_at(momentum, state.step), x), params)
        sound = jnp.isfinite(value) & jnp.isfinite(norm)
        return tree.where(sound, updates, tree.zeros_like(updates)), tree.where(sound, after, state)

    def eval_params(state, params):
        return tree.cast_like(state.x, params)

    return init, update, eval_params
