"""DoG: distance over gradients."""

from __future__ import annotations

from gdjax.arguments import check_offered
from gdjax.parts.distance import advance, begin, check_averaging, check_first_distance, hypotenuse, over, reported
from gdjax.rule import rule
from gdjax.typing import Number


@rule
def dog(first_distance=None, *, averaging: Number = 8.0):
    """Distance over gradients (DoG): SGD that takes its learning rate from how far it has come; nothing to tune.

        r̄ ← max{r̄, ‖x − x₀‖},  r̄ = r_ε at first
        x ← x − a g,  a = r̄/√(Σ ‖g‖²)        the sum over all gradients, this one included

    The params of the loop are x; ``gdjax.eval_params`` gives their average x̄ ← (1 − w) x̄ + w x,  w = (1 + γ)/(t + γ), t = 1, 2, ..., which its authors
    hold to be part of the method, as the learning rate does not decay.

    Args:
        first_distance: r_ε > 0, a number, shape (), in units of params: the length of the first step, far below the distance to the minimum, on which
            little depends: its logarithm. None: 1e-6 (1 + ‖x₀‖); its authors use 1e-4 (1 + ‖x₀‖) for nets with batch normalization.
        averaging: γ ≥ 0, a number, shape (): 8 as its authors do, 0 for the plain mean, inf for the last point, that is no averaging.

    Returns:
        Rule: ``update`` needs the params. Equal to ``optax.contrib.dog(("distance", r_ε), eps=0)`` with an average. The same path for any multiple
        of the loss. A step at which the gradient is not finite is left out.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without params.

    Guarantee:
        Convex, any gradients; x⋆ a minimum, d̄ = max ‖x_k − x⋆‖ over the steps, N steps, x̄ the mean of the x_k weighted by their r̄_k:
        f(x̄) − f⋆ ≤ r̄_N (2d̄ + r̄_N) √(Σ ‖g‖²)/Σ r̄_k, which is of the order of d̄ G ln(r̄_N/r_ε)/√N at the best N so far where ‖g‖ ≤ G.
        That d̄ stays of the order of ‖x₀ − x⋆‖ is observed, and proved for much shorter steps only.

    When to use it: mini-batches, above all fine-tuning, with no time to tune; ``l_dog`` where layers differ much in size.

    Example:
        >>> import gdjax, jax
        >>> rule, w = gdjax.dog(0.1), 5.0
        >>> state = rule.init(w)
        >>> for step in range(4):
        ...     updates, state = rule.update(jax.grad(lambda w: (w - 2.0) ** 2)(w), state, w)
        ...     w = w + updates
        ...     print(f"{w:.3f} {gdjax.eval_params(rule, state, w):.3f}")
        4.900 4.900
        4.830 4.837
        4.735 4.754
        4.609 4.645

    Reference:
        Ivgi, Hinder, Carmon, "DoG is SGD's best friend: a parameter-free dynamic step size schedule", ICML 2023, arXiv:2302.12022.
    """
    check_first_distance("dog", first_distance)
    check_averaging("dog", averaging)

    def init(params):
        return begin(first_distance, params)

    def learn(gradients, distance, norm):
        gradients = hypotenuse(gradients, norm)
        return gradients, over(distance, gradients)

    def update(grads, state, params=None, **extra):
        check_offered("dog", params=params)
        return advance(learn, averaging, grads, state, params)

    def eval_params(state, params):
        return reported(state, params, averaging)

    return init, update, eval_params
