"""DoWG: distance over weighted gradients."""

from __future__ import annotations

from gdjax.arguments import check_offered
from gdjax.parts.distance import advance, begin, check_averaging, check_first_distance, hypotenuse, over, reported
from gdjax.rule import rule
from gdjax.typing import Number


@rule
def dowg(first_distance=None, *, averaging: Number = 8.0):
    """Distance over weighted gradients (DoWG): ``dog`` with gradients weighted by how far it had come, so that early ones are forgotten.

        r̄ ← max{r̄, ‖x − x₀‖},  r̄ = r_ε at first
        x ← x − a g,  a = r̄²/√(Σ r̄² ‖g‖²)        the sum over all gradients, each with the r̄ of its time

    The params of the loop are x; ``gdjax.eval_params`` gives their average x̄ ← (1 − w) x̄ + w x,  w = (1 + γ)/(t + γ), t = 1, 2, ...

    Args:
        first_distance: r_ε > 0, a number, shape (), in units of params: the length of the first step, far below the distance to the minimum, on which
            little depends: its logarithm. None: 1e-6 (1 + ‖x₀‖); the code of its authors has 0.01.
        averaging: γ ≥ 0, a number, shape (): 8 as for ``dog``, 0 for the plain mean, inf for the last point, that is no averaging.

    Returns:
        Rule: ``update`` needs the params. Equal to ``optax.contrib.dowg(init_estim_sq_dist=r_ε², eps=0)`` with an average. The same path for any multiple
        of the loss. A step at which the gradient is not finite is left out.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without params.

    Guarantee:
        Convex, any gradients; x⋆ a minimum, d̄ = max ‖x_k − x⋆‖ over the steps, N steps, x̄ the mean of the x_k weighted by their r̄_k²:
        f(x̄) − f⋆ ≤ r̄_N (2d̄ + r̄_N) √(Σ r̄_k² ‖g‖²)/Σ r̄_k², which is of the order of d̄ G ln(r̄_N/r_ε)/√N at the best N so far where ‖g‖ ≤ G.
        L-smooth besides, full batches:  f(x̄) − f⋆ ≤ 2L r̄_N² (2d̄ + r̄_N)²/Σ r̄_k², of the order of L d̄² ln(r̄_N/r_ε)/N.

    When to use it: as ``dog``, with bolder steps: full batches and losses that start steep.

    Example:
        >>> import gdjax, jax
        >>> rule, w = gdjax.dowg(0.1), 5.0
        >>> state = rule.init(w)
        >>> for step in range(4):
        ...     updates, state = rule.update(jax.grad(lambda w: (w - 2.0) ** 2)(w), state, w)
        ...     w = w + updates
        ...     print(f"{w:.3f} {gdjax.eval_params(rule, state, w):.3f}")
        4.900 4.900
        4.830 4.837
        4.703 4.727
        4.469 4.534

    Reference:
        Khaled, Mishchenko, Jin, "DoWG unleashed: an efficient universal parameter-free gradient descent method", NeurIPS 2023, arXiv:2305.16284.
    """
    check_first_distance("dowg", first_distance)
    check_averaging("dowg", averaging)

    def init(params):
        return begin(first_distance, params)

    def learn(gradients, distance, norm):
        gradients = hypotenuse(gradients, distance * norm)
        return gradients, distance * over(distance, gradients)

    def update(grads, state, params=None, **extra):
        check_offered("dowg", params=params)
        return advance(learn, averaging, grads, state, params)

    def eval_params(state, params):
        return reported(state, params, averaging)

    return init, update, eval_params
