"""What a schedule guarantees for the last iterate of (stochastic) subgradient descent, and the schedule for which that is least."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gdjax.arguments import check_number
from gdjax.schedules.basic import check_learning_rate, linear, schedule as as_schedule, value_at
from gdjax.schedules.curvature import check_horizon
from gdjax.typing import Scalar

GRID = 65  # of s: five rounds, each between the neighbours of the best of the one before, end within 1e-6 of it
ROUNDS = 5


def _check(factory: str, distance: Any, lipschitz: Any) -> None:
    for name, value in {"distance": distance, "lipschitz": lipschitz}.items():
        check_number(factory, name, value, low=0, open_low=True, open_high=True, required=True, wanted=f"a number > 0: type {name}=1.0")


@as_schedule
def minimax(distance, lipschitz, steps):
    """The best steps for the last iterate of N subgradient steps: value(t) = D (N − t)/(G (N + 1)^{3/2}) for t ≤ N, then 0.

    Args:
        distance: D > 0, a bound on ‖x₀ − x⋆‖; shape ().
        lipschitz: G > 0, a bound on ‖g‖, or on √E‖g‖² where gradients are of batches; shape ().
        steps: N > 0, the number of steps that will be taken.

    Returns:
        Schedule: step -> scalar, ``linear(D N/(G (N + 1)^{3/2}), 0, N)``; for ``gdjax.gd``, and for ``gdjax.sgd`` without momentum.

    Raises:
        ValueError: a number is not positive.

    Guarantee:
        Convex, ‖g‖ ≤ G:  f(x_N) − f⋆ ≤ G D/√(N + 1), which max(x₁, ..., x_{N+1}) attains, and there no method whose steps are combinations of the
        subgradients does better. In expectation also for stochastic subgradients. No steps that do not know N have this rate at every N.

    When to use it: nonsmooth convex losses and a known number of steps; of a network, the shape alone: ``linear`` with a first value found by trial.

    Example:
        >>> import gdjax
        >>> steps = gdjax.schedules.minimax(1.0, 1.0, 3)
        >>> print(*(f"{steps(step):.3f}" for step in range(5)), f"{gdjax.schedules.bound(steps, 3):.3f}")
        0.375 0.250 0.125 0.000 0.000 0.500

    Reference:
        Zamani, Glineur, "Exact convergence rate of the last iterate in subgradient methods", arXiv:2307.11134, 2023.
    """
    _check("minimax", distance, lipschitz)
    check_number("minimax", "steps", steps, low=0, open_low=True, required=True, wanted="a number of steps > 0, for example steps=100")
    return linear.function(distance / lipschitz * steps / (steps + 1.0) ** 1.5, 0.0, steps)


def bound(schedule: Any, steps: int, distance: Any = 1.0, lipschitz: Any = 1.0) -> Scalar:
    """What f(x_N) − f⋆ is at most after N subgradient steps h₀, ..., h_{N−1} of a schedule, on any convex f.

        f(x_N) − f⋆ ≤ D²/(2σ) + G² (σ/2 − Σ h),  σ = S₀²,  S_k = S_{k+1} + h_k/S_{k+1},  S_N = s

    for every s > 0; the best is taken. With D = ‖x₀ − x⋆‖ and ‖g‖ ≤ G; in expectation also where E‖g‖² ≤ G² for gradients of batches. It compares schedules
    before a run: their shapes by the least over their scale, which is near the best scale in practice for networks as well (Schaipp et al.).

    The proof is Zamani and Glineur's, for any steps: along points z_k, of which v_k z_k = v_{k−1} z_{k−1} + (v_k − v_{k−1}) x_k and z_{−1} = x⋆, the sum of
    v_k² (‖x_{k+1} − z_k‖² − ‖x_k − z_k‖²) telescopes, and with v_k = 1/S_{k+1} nothing of f(x_k) stays but f(x_N). The bound is GD/√(N + 1) for ``minimax``.

    Args:
        schedule: h ≥ 0, a schedule or a number, shape ().
        steps: N, an int ≥ 1.
        distance: D > 0, a number, shape ().
        lipschitz: G > 0, a number, shape ().

    Returns:
        The bound, shape (), in units of f. It may be jitted, mapped and differentiated with respect to the numbers, those of the schedule included.

    Raises:
        ValueError: a number is out of its range.
        TypeError: steps is not an int.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> from gdjax import schedules
        >>> rates = jnp.geomspace(0.01, 1.0, 200)
        >>> for make in (schedules.constant, lambda h: schedules.cosine(h, 100), lambda h: schedules.linear(h, 0.0, 100)):
        ...     print(f"{jax.vmap(lambda h: schedules.bound(make(h), 100))(rates).min():.3f}")
        0.141
        0.103
        0.100

    Reference:
        Zamani, Glineur, "Exact convergence rate of the last iterate in subgradient methods", arXiv:2307.11134, 2023.
        Defazio, Cutkosky, Mehta, Mishchenko, "Optimal linear decay learning rate schedules and further refinements", arXiv:2310.07831, 2023 (the like, weaker).
        Schaipp, Hägele, Taylor, Simsekli, Bach, "The surprising agreement between convex optimization theory and learning-rate scheduling for large
        model training", arXiv:2501.18965, 2025.
    """
    check_learning_rate("bound", schedule)
    check_horizon("bound", steps)
    _check("bound", distance, lipschitz)
    h = jax.vmap(lambda t: jnp.asarray(value_at(schedule, t), jnp.result_type(float)))(jnp.arange(steps))
    radius = jnp.asarray(distance / lipschitz, h.dtype)

    def at(s):
        first, terms = lax.scan(lambda later, step: (later + step / later, (step / later) ** 2), s, h, reverse=True)
        return (distance**2 / first**2 + lipschitz**2 * (s**2 + jnp.sum(terms))) / 2  # the same without cancellation

    def zoom(ends, _):
        low, high = ends
        grid = low + (high - low) * jnp.linspace(0, 1, GRID, dtype=h.dtype)
        best = jnp.nanargmin(jax.vmap(lambda s: at(jnp.exp(s)))(grid))
        return (grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, GRID - 1)]), grid[best]

    most = jnp.max(h)
    low = jnp.sqrt(jnp.where(most > 0, most, radius)) * 1e-5
    _, found = lax.scan(zoom, lax.stop_gradient((jnp.log(low), jnp.log(10 * jnp.sqrt(radius + most)))), length=ROUNDS)
    return at(jnp.exp(lax.stop_gradient(found[-1])))
