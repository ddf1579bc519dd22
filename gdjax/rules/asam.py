"""Adaptive sharpness-aware minimisation: a neighbourhood in units of the params."""

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


class ASAMState(NamedTuple):
    """What ``asam`` keeps between steps."""

    inner: RuleState  # of the rule within
    evaluations: jax.Array  # int32, shape (): of value and gradient in the neighbourhood


@as_factory
def asam(rule, radius: Number = 0.5, floor: Number = 0.01):
    """Adaptive sharpness-aware minimisation: as ``sam``, with each entry's distance in units of its own size.

        t = |x| + η;  e = ρ t² g/‖t g‖, entry by entry;  x ← rule(x, ∇f(x + e))

    e is the ascent to first order in ‖e/t‖ ≤ ρ. With η = 0 rescaling the params, as between layers of a ReLU network, rescales e.

    Args:
        rule: a rule or optax transformation.
        radius: ρ ≥ 0, a number, shape (); in units of t. Some ten times that of ``sam``; the authors' is 0.5 for CIFAR-10, 1 for ImageNet.
        floor: η ≥ 0, a number, shape (): lets entries at zero move.

    Returns:
        Rule: two evaluations a step, the second counted in ``evaluations``; ``update`` needs ``value_and_grad_fn`` and the params.

    Raises:
        ValueError: a number is negative or NaN; a rule of ``saga``'s kind within; ``update`` without what it needs, or with params of which a mask
            hides some: mask the rule within.
        TypeError: what was given is no rule.

    Guarantee:
        g = 0 moves nothing by itself, where e = 0. With ρ = 0 it is the rule within.
        ‖e/t‖ = ρ, and f(x + e) − f(x) = ρ ‖t g‖ + O(ρ²), the most there.

    When to use it: as ``sam``, where layers differ much in scale.

    Example:
        >>> import gdjax
        >>> loss = lambda w: (w - 2.0) ** 2
        >>> result = gdjax.minimize(loss, 5.0, gdjax.asam(gdjax.gd(0.1), radius=0.02), max_steps=3)
        >>> print(f"{result.params:.3f}", result.evaluations)
        3.494 7

    Reference:
        Kwon, Kim, Park, Choi, "ASAM: adaptive sharpness-aware minimization for scale-invariant learning of deep neural networks", ICML 2021,
        arXiv:2102.11600 (whose code has t = 1 for leaves not named weight).
    """
    inner = as_rule(rule, "asam: rule")
    check_plain("asam", inner, "and these would not be of the neighbourhood that asam goes to", "gdjax.asam(gdjax.sgd(0.1))")
    check_number("asam", "radius", radius, low=0, open_high=True, required=True, wanted="a number ≥ 0: type radius=0.5")
    check_number("asam", "floor", floor, low=0, open_high=True, required=True, wanted="a number ≥ 0: type floor=0.01")

    def init(params, **offered):
        return ASAMState(inner.init(params, **offered), jnp.int32(0))

    def update(grads, state, params: Any = None, *, value_and_grad_fn: Any = None, **extra):
        check_offered("asam", value_and_grad_fn=value_and_grad_fn, params=params)
        check_whole("asam", params, "mask the rule within, as in asam(optax.masked(gdjax.sgd(0.1), mask))")
        sizes = tree.map(lambda x: jnp.abs(x) + jnp.asarray(floor).astype(jnp.result_type(x)), params)
        scaled = tree.map(jnp.multiply, sizes, grads)
        norm = tree.norm(scaled)
        unit = tree.scale(over(jnp.asarray(radius, norm.dtype), norm), scaled)
        there, offered = shifted(tree.map(jnp.multiply, sizes, unit), params, value_and_grad_fn, extra)
        updates, after = inner.update(there, state.inner, params, **offered)
        return updates, ASAMState(after, state.evaluations + 1)

    def eval_params(state, params):
        return inner.eval_params(state.inner, params)

    return (init, update) if inner.eval_params is None else (init, update, eval_params)
