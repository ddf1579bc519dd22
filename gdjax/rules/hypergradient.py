"""Hypergradient descent: a learning rate that learns."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.rule import rule
from gdjax.typing import Grads, Number


class HypergradientState(NamedTuple):
    """What ``hypergradient`` keeps between steps."""

    learning_rate: jax.Array  # a of the last step, shape (), of the params' widest dtype
    last_grads: Grads  # g₋, like params; 0 at the start


@rule
def hypergradient(learning_rate, hyper_learning_rate: Number = 1e-3, *, relative=False):
    """Gradient descent whose learning rate takes gradient steps of its own.

        a ← a + b ⟨g, g₋⟩                        −⟨g, g₋⟩ is the derivative of f(x₋ − a g₋) with respect to a
        a ← a (1 + b ⟨g, g₋⟩/(‖g‖ ‖g₋‖))         with relative=True: b has no units, and a stays positive
        x ← x − a g

    Args:
        learning_rate: a at first, a number ≥ 0, shape (); in units of params² per unit of loss.
        hyper_learning_rate: b ≥ 0, a number, shape (), in units of params⁴ per unit of loss³, so to be set anew for each loss; with relative=True
            below 1. The default 1e-3 is of the order Baydin et al. use.
        relative: bool.

    Returns:
        Rule: b = 0 is ``gd``.

    Raises:
        ValueError: a negative number or NaN; relative and b ≥ 1.

    Guarantee:
        None. The learning rate rises while successive gradients point the same way and falls where they turn back: on λx²/2 it rises while aλ < 1
        and falls while aλ > 1. With several curvatures it may pass 2/L for a while, until what it blows up dominates the gradient.

    When to use it: mini-batches, from a learning rate known to be too small; on full batches ``osgm`` has the better theory, ``barzilai_borwein`` the speed.

    Example:
        >>> import gdjax, jax
        >>> rule, w = gdjax.hypergradient(0.1, 1e-2), 5.0
        >>> state = rule.init(w)
        >>> for step in range(3):
        ...     updates, state = rule.update(jax.grad(lambda w: (w - 2.0) ** 2)(w), state)
        ...     w = w + updates
        ...     print(f"{w:.3f} {state.learning_rate:.3f}")
        4.400 0.100
        2.538 0.388
        2.065 0.440

    Reference:
        Baydin, Cornish, Martínez Rubio, Schmidt, Wood, "Online learning rate adaptation with hypergradient descent", ICLR 2018, arXiv:1703.04782.
        Rubio, "Convergence analysis of an adaptive method of gradient descent", MSc thesis, University of Oxford, 2017 (relative).
    """
    check_number("hypergradient", "learning_rate", learning_rate, low=0, required=True, wanted="a number ≥ 0: type hypergradient(0.1)")
    top, wanted = (1, "0 ≤ hyper_learning_rate < 1") if relative else (jnp.inf, "a number ≥ 0")
    wanted = f"{wanted}: type hypergradient(0.1, hyper_learning_rate=1e-3)"
    check_number("hypergradient", "hyper_learning_rate", hyper_learning_rate, low=0, high=top, open_high=True, required=True, wanted=wanted)

    def init(params):
        return HypergradientState(jnp.asarray(learning_rate, tree.dtype_of(params)), tree.zeros_like(params))

    def update(grads, state, params=None, **extra):
        a, product = state.learning_rate, tree.vdot(grads, state.last_grads)
        if relative:
            norms = tree.norm(grads) * tree.norm(state.last_grads)
            a = a * (1 + hyper_learning_rate * jnp.where(norms > 0, product / jnp.where(norms > 0, norms, 1), 0))
        else:
            a = a + hyper_learning_rate * product
        return tree.scale(-a, grads), HypergradientState(a.astype(state.learning_rate.dtype), grads)

    return init, update
