"""EF21: gradients compressed to their largest entries, with error feedback."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.contexts import promoting
from gdjax.rule import as_rule, check_plain, rule as as_factory
from gdjax.typing import Grads, RuleState


class EF21State(NamedTuple):
    """What ``ef21`` keeps between steps."""

    inner: RuleState  # of the rule within
    estimate: Grads  # w, like params: the gradient as far as it has been sent


@as_factory
def ef21(rule, kept: Any = 0.1):
    """EF21: any rule, given an estimate of the gradient that is mended in the few entries where it is worst.

        w ← w + C(g − w);  x ← rule(x, w)

    C keeps the k entries of largest size, of all leaves together, and drops the others: these are what a worker would send. w = 0 before the first step.

    Args:
        rule: a rule or optax transformation; ``gd`` in the paper.
        kept: an int ≥ 1, the number k of entries; or a share of all n, in (0, 1], a float, shape (): k is rounded, and 1 at least.

    Returns:
        Rule.

    Raises:
        ValueError: a rule of ``saga``'s kind within; kept is out of its range or NaN.
        TypeError: what was given is no rule.

    Guarantee:
        α = k/n, θ = 1 − √(1 − α), β = (1 − α)/θ, G = ‖w − g‖², w after the first step. With ``gd`` within, f L-smooth:
        h ≤ 1/(L (1 + √(β/θ))):  min over N steps of ‖∇f‖² is at most 2(f(x₀) − f⋆)/(hN) + G/(θN).
        ‖∇f‖² ≥ 2μ(f − f⋆), h ≤ min{1/(L (1 + √(2β/θ))), θ/(2μ)}:  f − f⋆ + (h/θ)‖w − ∇f‖² shrinks by 1 − hμ a step.

    When to use it: gradients are sent over a slow wire. One machine with room gains nothing by it.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> rule, x = gdjax.ef21(gdjax.gd(0.1), kept=1), jnp.array([4.0, 1.0])
        >>> state = rule.init(x)
        >>> for step in range(3):
        ...     updates, state = rule.update(x, state)
        ...     x = x + updates
        ...     print(" ".join(f"{entry:.3f}" for entry in x), " ".join(f"{entry:.3f}" for entry in state.estimate))
        3.600 1.000 4.000 0.000
        3.200 0.900 4.000 1.000
        2.880 0.800 3.200 1.000

    Reference:
        Richtárik, Sokolov, Fatkhullin, "EF21: a new, simpler, theoretically better, and practically faster error feedback", NeurIPS 2021, arXiv:2106.05203.
    """
    inner = as_rule(rule, "ef21: rule")
    check_plain("ef21", inner, "and these would not be compressed", "gdjax.ef21(gdjax.gd(0.1))")
    whole = isinstance(kept, int)
    wanted = "an int ≥ 1 or a share in (0, 1]: type kept=0.1"
    check_number("ef21", "kept", kept, low=0, high=jnp.inf if whole else 1, open_low=True, required=True, wanted=wanted)

    def init(params, **offered):
        return EF21State(inner.init(params, **offered), tree.zeros_like(params))

    def largest(tree_):
        flat, back = promoting(ravel_pytree)(tree_)  # leaves of several dtypes, compared in the widest
        if not flat.size:
            return tree_
        sizes = jnp.abs(jnp.where(jnp.isfinite(flat), flat, 0))  # what is not finite is not sent
        count = min(kept, flat.size) if whole else jnp.clip(jnp.round(kept * flat.size), 1, flat.size).astype(jnp.int32)
        least = jnp.sort(sizes)[flat.size - count]
        above, ties = sizes > least, sizes == least
        chosen = above | (ties & (jnp.cumsum(ties, dtype=jnp.int32) <= count - jnp.sum(above, dtype=jnp.int32)))  # of entries that tie the first
        return back(jnp.where(chosen & jnp.isfinite(flat), flat, 0))

    def update(grads, state, params=None, **extra):
        estimate = tree.add(state.estimate, largest(tree.subtract(grads, state.estimate)))
        updates, after = inner.update(estimate, state.inner, params, **extra)
        return updates, EF21State(after, estimate)

    def eval_params(state, params):
        return inner.eval_params(state.inner, params)

    return (init, update) if inner.eval_params is None else (init, update, eval_params)
