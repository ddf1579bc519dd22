"""The heavy ball with stochastic Polyak steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.value_steps import check_growth, check_lower_bound, check_max_learning_rate, growth_of_a_step, limited, polyak_ratio
from gdjax.rule import rule
from gdjax.typing import Number, Params


class MomSPSState(NamedTuple):
    """What ``mom_sps`` keeps between steps; scalars of the params' widest dtype, shape ()."""

    learning_rate: jax.Array  # (1 − μ) a of the last step; 0 at the start
    last: jax.Array | None  # the last a > 0, at the start the first one's bound; None without a growth
    velocity: Params  # v = x − x₋, like params


@rule
def mom_sps(
    lower_bound: Number = 0.0, *, momentum: Any = 0.9, scaling: Number = 1.0,
    max_learning_rate: Any = 10.0, growth=None, first_learning_rate: Any = 10.0, steps_per_epoch=None,
):  # fmt: skip
    """The heavy ball with stochastic Polyak steps, which are shortened as much as the momentum lengthens them.

        a = min{[f − l]₊/(c‖g‖²), a_max, γ^{b/n} a₋}
        v ← μ v − (1 − μ) a g,  x ← x + v

    with the value f and the gradient g of a batch of b out of n examples.

    Args:
        lower_bound: l, below the minimum of every batch's loss, a number, shape (), in units of the loss; a = 0 where the loss is not above it.
        momentum: μ in [0, 1), a number, shape (); 0.9 by the authors' code.
        scaling: c ≥ 1/2, a number, shape (); 1 by the authors' code.
        max_learning_rate: a_max > 0, a number, shape (), in units of params² per unit of loss; 10 by the authors' code. None: no bound.
        growth: γ ≥ 1, a number, shape (): how much longer a step may become in an epoch, 2 in the authors' code for deep networks. None: no such bound.
        first_learning_rate: a₋ of the first step, > 0, a number, shape (); 10 by the authors' code. Of no effect without a growth.
        steps_per_epoch: n/b > 0, a number, shape (). None: as ``fit`` offers it with shuffled data, else 1, as on full batches.

    Returns:
        Rule: ``update`` needs ``value``. With μ = 0 equal to ``sps``.

    Raises:
        ValueError: a number out of its range or NaN; ``update`` without the value.

    Guarantee:
        Convex losses of batches, L-smooth, one x⋆ with f = l for all, c = 1, no growth, R = ‖x₀ − x⋆‖, α = min{1/(2L), a_max}, λ = μ/(1 − μ): if
        μ < α/(2a_max − α), the mean of E f − f⋆ over N steps is at most (R² + 2λa_max(f(x₀) − f⋆))/((α − 2λ(a_max − α))N). So with a_max ≤ 1/(2L) any μ
        will do; beyond, a larger μ than that may not converge. z = x + λ(x − x₋) moves by −a g.

    When to use it: as ``sps``, where momentum helps.

    Example:
        >>> import gdjax, jax
        >>> rule, w, loss = gdjax.mom_sps(momentum=0.5), 5.0, lambda w: (w - 2.0) ** 2
        >>> state = rule.init(w)
        >>> for step in range(3):
        ...     value, grads = jax.value_and_grad(loss)(w)
        ...     updates, state = rule.update(grads, state, w, value=value)
        ...     w = w + updates
        ...     print(f"{w:.3f}")
        4.250
        3.312
        2.516

    Reference:
        Oikonomou, Loizou, "Stochastic Polyak step-sizes and momentum", ICLR 2025, arXiv:2406.04142.
    """
    check_lower_bound("mom_sps", lower_bound)
    check_number("mom_sps", "momentum", momentum, low=0, high=1, open_high=True, required=True, wanted="0 ≤ momentum < 1: type mom_sps(momentum=0.9)")
    check_number("mom_sps", "scaling", scaling, low=0.5, open_high=True, required=True, wanted="a number ≥ 1/2: type mom_sps(scaling=1.0)")
    check_max_learning_rate("mom_sps", max_learning_rate)
    check_growth("mom_sps", growth, first_learning_rate, steps_per_epoch)

    def init(params):
        zero = jnp.zeros((), tree.dtype_of(params))
        return MomSPSState(zero, None if growth is None else jnp.asarray(first_learning_rate, zero.dtype), tree.zeros_like(params))

    def update(grads, state, params=None, *, value=None, indices=None, num_examples=None, **extra):
        check_offered("mom_sps", value=value)
        a = polyak_ratio(value, lower_bound, grads, state.learning_rate.dtype) / scaling
        a = a if max_learning_rate is None else jnp.minimum(a, max_learning_rate)
        factor = None if growth is None else growth_of_a_step(growth, steps_per_epoch, indices, num_examples)
        a, last = limited(a.astype(state.learning_rate.dtype), state.last, factor)
        a = ((1 - momentum) * a).astype(a.dtype)
        updates = tree.add_scaled(tree.scale(-a, grads), momentum, state.velocity)
        velocity = tree.where(jnp.isfinite(tree.norm(updates)), updates, state.velocity)
        return updates, MomSPSState(a, last, velocity)

    return init, update
