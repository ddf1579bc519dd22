"""Gradient descent for (L₀, L₁)-smooth losses."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.rule import rule
from gdjax.typing import Number


class L0L1State(NamedTuple):
    """What ``l0l1`` keeps between steps."""

    learning_rate: jax.Array  # a of the last step, shape (), of the params' widest dtype


@rule
def l0l1(l0, l1, *, scaling: Number = 0.5):
    """Gradient descent for losses whose curvature grows with their gradient, as it does in exponentials, polynomials and deep nets.

        x ← x − a g,  a = η/(L₀ + L₁‖g‖)

    Args:
        l0: L₀ ≥ 0, a number, shape (): curvature ≤ L₀ + L₁‖g‖ at every point; in units of the loss per params².
        l1: L₁ ≥ 0, a number, shape (), per unit of params. 0 is ``gd`` at η/L₀; L₀ = 0 is ``normalized`` at η/L₁.
        scaling: η in (0, 5/4], a number, shape (). 1/2 is the literature's; ln 2 = 0.69 has the best guarantee below.

    Returns:
        Rule.

    Raises:
        ValueError: a number is out of its range or NaN.

    Guarantee:
        ‖∇²f(x)‖ ≤ L₀ + L₁‖∇f(x)‖ everywhere, convex or not:  f(x₊) ≤ f(x) − c‖g‖²/(L₀ + L₁‖g‖), c = 2η + 1 − e^η: 0.351 at 1/2, 0.386 at ln 2.
        Hence over N steps the least ‖g‖²/(L₀ + L₁‖g‖) ≤ (f(x₀) − f⋆)/(cN), without the factor e^{L₁R} that a constant learning rate pays.

    When to use it: the loss is far steeper at the start than at the minimum, and two numbers can be given for it.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> rule, w = gdjax.l0l1(1.0, 1.0), 5.0
        >>> state = rule.init(w)
        >>> for step in range(3):
        ...     updates, state = rule.update(jax.grad(jnp.cosh)(w), state)
        ...     w = w + updates
        ...     print(f"{w:.3f}")
        4.507
        4.017
        3.535

    Reference:
        Zhang, He, Sra, Jadbabaie, "Why gradient clipping accelerates training", ICLR 2020, arXiv:1905.11881 (the class of losses).
        Gorbunov, Tupitsa, Choudhury, Aliev, Richtárik, Horváth, Takáč, "Methods for convex (L₀, L₁)-smooth optimization", ICLR 2025, arXiv:2409.14989.
        Vankov, Rodomanov, Nedich, Sankar, Stich, "Optimizing (L₀, L₁)-smooth functions by gradient methods", ICLR 2025, arXiv:2410.10800.
    """
    for name, number in dict(l0=l0, l1=l1).items():
        check_number("l0l1", name, number, low=0, high=jnp.inf, open_high=True, required=True, wanted=f"a number ≥ 0: type {name}=1.0")
    check_number("l0l1", "scaling", scaling, low=0, high=1.25, open_low=True, required=True, wanted="0 < scaling ≤ 5/4: type scaling=0.5")

    def init(params):
        return L0L1State(jnp.zeros((), tree.dtype_of(params)))

    def update(grads, state, params=None, **extra):
        bound = l0 + l1 * tree.norm(grads)
        a = jnp.where(bound > 0, scaling / jnp.where(bound > 0, bound, 1), 0).astype(state.learning_rate.dtype)
        return tree.scale(-a, grads), L0L1State(a)

    return init, update
