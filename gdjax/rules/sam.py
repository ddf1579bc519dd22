"""Sharpness-aware minimisation: the gradient where the loss is worst nearby."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts.distance import over
from gdjax.parts.masks import check_whole
from gdjax.parts.neighbour import shifted
from gdjax.rule import as_rule, check_plain, rule as as_factory
from gdjax.typing import Number, RuleState


class SAMState(NamedTuple):
    """What ``sam`` keeps between steps."""

    inner: RuleState  # of the rule within
    evaluations: jax.Array  # int32, shape (): of value and gradient in the neighbourhood


@as_factory
def sam(rule, radius: Number = 0.05):
    """Sharpness-aware minimisation: any rule, given the gradient at the point nearby where the loss is largest to first order.

        e = ρ g/‖g‖;  x ← rule(x, ∇f(x + e))

    The loss, gradient and functions that the rule within is offered are those of f(· + e), on the same batch; the params stay x.

    Args:
        rule: a rule or optax transformation.
        radius: ρ ≥ 0, a number, shape (); a length in the space of the params. 0.05 is the authors' for CIFAR and ImageNet.

    Returns:
        Rule: two evaluations a step, the second counted in ``evaluations``; ``update`` needs ``value_and_grad_fn`` and the params.

    Raises:
        ValueError: the radius is negative or NaN; a rule of ``saga``'s kind within; ``update`` without what it needs, or with params of which a mask
            hides some: mask the rule within.
        TypeError: what was given is no rule.

    Guarantee:
        g = 0 moves nothing by itself, where e = 0. With ρ = 0 it is the rule within.
        L-smooth, with ``gd`` within, h = 1/L:  f(x₊) ≤ f(x) − ‖g‖²/(2L) + L ρ²/2, convex or not, so min ‖g‖² ≤ 2L(f(x₀) − f⋆)/N + L²ρ². It need not go
        to zero: the minima it knows are to a ball of size ρ.

    When to use it: networks that generalise worse than they fit, with twice the time for a step.

    Example:
        >>> import gdjax
        >>> loss = lambda w: (w - 2.0) ** 2
        >>> result = gdjax.minimize(loss, 5.0, gdjax.sam(gdjax.gd(0.1), radius=0.1), max_steps=3)
        >>> print(f"{result.params:.3f}", result.evaluations)
        3.487 7

    Reference:
        Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-aware minimization for efficiently improving generalization", ICLR 2021, arXiv:2010.01412.
    """
    inner = as_rule(rule, "sam: rule")
    check_plain("sam", inner, "and these would not be of the neighbourhood that sam goes to", "gdjax.sam(gdjax.sgd(0.1))")
    check_number("sam", "radius", radius, low=0, open_high=True, required=True, wanted="a number ≥ 0: type radius=0.05")

    def init(params, **offered):
        return SAMState(inner.init(params, **offered), jnp.int32(0))

    def update(grads, state, params: Any = None, *, value_and_grad_fn: Any = None, **extra):
        check_offered("sam", value_and_grad_fn=value_and_grad_fn, params=params)
        check_whole("sam", params, "mask the rule within, as in sam(optax.masked(gdjax.sgd(0.1), mask))")
        norm = tree.norm(grads)
        there, offered = shifted(tree.scale(over(jnp.asarray(radius, norm.dtype), norm), grads), params, value_and_grad_fn, extra)
        updates, after = inner.update(there, state.inner, params, **offered)
        return updates, SAMState(after, state.evaluations + 1)

    def eval_params(state, params):
        return inner.eval_params(state.inner, params)

    return (init, update) if inner.eval_params is None else (init, update, eval_params)
