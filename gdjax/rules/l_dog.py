"""L-DoG: distance over gradients, array by array."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_offered
from gdjax.parts.averaging import polynomial_average, widened
from gdjax.parts.distance import check_averaging, check_first_distance, hypotenuse, initial_distance, over, reported
from gdjax.rule import rule
from gdjax.typing import Number, Params


class LDoGState(NamedTuple):
    """What ``l_dog`` keeps between steps."""

    step: jax.Array  # number of steps taken, int32, shape ()
    start: Params  # x₀, like params
    distances: Any  # r̄ of each array, a tree of scalars, shape (), float32 at least
    gradients: Any  # √(Σ ‖g‖²) of each array, likewise
    average: Params  # of all points after the start but the last, like params, float32 at least


@rule
def l_dog(first_distance=None, *, averaging: Number = 8.0):
    """Layerwise distance over gradients (L-DoG): ``dog`` with a learning rate for each array of the params.

        r̄ₗ ← max{r̄ₗ, ‖xₗ − x₀ₗ‖},  r̄ₗ = r_ε at first
        xₗ ← xₗ − aₗ gₗ,  aₗ = r̄ₗ/√(Σ ‖gₗ‖²)        for each array l by itself

    The params of the loop are x; ``gdjax.eval_params`` gives their average x̄ ← (1 − w) x̄ + w x,  w = (1 + γ)/(t + γ), t = 1, 2, ...

    Args:
        first_distance: r_ε > 0, a number, shape (), in units of params, for all arrays: the length of the first step. None: 1e-6 (1 + ‖x₀ₗ‖).
        averaging: γ ≥ 0, a number, shape (): 8 as its authors do, 0 for the plain mean, inf for the last point, that is no averaging.

    Returns:
        Rule: ``update`` needs the params; for params of a single array it is ``dog``. The same path for any multiple of the loss. A step at which the
        gradient is not finite is left out.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without params.

    Guarantee:
        For each array by itself, any gradients and any point u, d̄ = max ‖x_k − u‖ over the steps:
        Σ r̄_k ⟨g_k, x_k − u⟩ ≤ r̄_N (2d̄ + r̄_N) √(Σ ‖g‖²). The weights r̄_k differ between arrays, so nothing is proved about the loss.

    When to use it: fine-tuning of nets, for which its authors find it better than ``dog`` and near a tuned Adam.

    Example:
        >>> import gdjax, jax
        >>> rule, w = gdjax.l_dog(0.1), {"far": 50.0, "near": 2.1}
        >>> state = rule.init(w)
        >>> for step in range(60):
        ...     updates, state = rule.update(jax.grad(lambda w: (w["far"] - 2.0) ** 2 + (w["near"] - 2.0) ** 2)(w), state, w)
        ...     w = jax.tree.map(lambda x, change: x + change, w, updates)
        >>> print(f"{w['far']:.1f} {w['near']:.1f}")
        2.0 2.0

    Reference:
        Ivgi, Hinder, Carmon, "DoG is SGD's best friend: a parameter-free dynamic step size schedule", ICML 2023, arXiv:2302.12022.
    """
    check_first_distance("l_dog", first_distance)
    check_averaging("l_dog", averaging)

    def init(params):
        distances = tree.map(lambda x: initial_distance(x, first_distance), params)
        return LDoGState(jnp.int32(0), tree.copy(params), distances, tree.map(jnp.zeros_like, distances), widened(params))

    def update(grads, state, params=None, **extra):
        check_offered("l_dog", params=params)
        sound = tree.all_finite(grads)
        ways = tree.map(tree.norm, tree.subtract(params, state.start))
        distances = tree.map(jnp.maximum, state.distances, ways)
        gradients = tree.map(lambda total, g: hypotenuse(total, tree.norm(g)), state.gradients, grads)
        updates = tree.map(lambda r, total, g: tree.scale(-over(r, total), g), distances, gradients, grads)
        step, average = jnp.asarray(optax.safe_increment(state.step)), polynomial_average(state.average, params, state.step, averaging)
        new = LDoGState(step, state.start, distances, gradients, average)
        return tree.where(sound, updates, tree.zeros_like(grads)), tree.where(sound, new, state)

    def eval_params(state, params):
        return reported(state, params, averaging)

    return init, update, eval_params
