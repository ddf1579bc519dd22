"""LARS: a learning rate for each layer, by the size of its weights."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.parts.leaves import by_leaf
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Number, Params


class LARSState(NamedTuple):
    """What ``lars`` keeps between steps."""

    step: jax.Array | None  # number of steps taken, int32, shape (); None for a constant learning rate
    velocity: Params  # v, like params: of updates, so that past ones keep their learning rate


@rule
def lars(learning_rate, momentum: Number = 0.9, *, weight_decay=None, trust: Number = 0.001, nesterov=False, layers=None):
    """LARS: steps of each leaf in proportion to its own norm, whatever that of its gradient.

        r = η ‖w‖/(‖g‖ + λ ‖w‖);  v ← μ v + h r (g + λ w);  w ← w − v,  or w − μ v − h r (g + λ w) with Nesterov momentum

    leaf by leaf, and r = 1 where w or g is zero, so that leaves which start at zero leave it.

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (). With a warm-up, several in size: h η is the length of a step as a share of ‖w‖.
        momentum: μ in [0, 1), a number, shape ().
        weight_decay: λ ≥ 0, a number, shape (). None for none.
        trust: η > 0, a number, shape ().
        nesterov: bool.
        layers: which leaves have r: bools like params, or a function from params to these; others have r = 1. None: all, as in the paper. Often
            ``lambda params: jax.tree.map(lambda x: x.ndim > 1, params)``, without biases and norms; these then go by h alone.

    Returns:
        Rule: ``update`` needs the params. ``optax.lars`` divides by ‖g + λ w‖ instead, which is less than the paper's sum wherever g and w are at an angle.

    Raises:
        ValueError: a number is out of its range or NaN; layers unlike the params; ``update`` without params.

    Guarantee:
        With μ = 0 and no decay a step changes each leaf by exactly h η ‖w‖; the path does not depend on the scale of the loss. It comes to rest only as
        h goes to zero.

    When to use it: networks trained in large batches, with ``layers``: a bias or scale that begins near zero hardly moves where its steps are a share of its
    norm.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> rule, w = gdjax.lars(1.0, 0.0, trust=0.1), {"first": jnp.array([3.0, 4.0]), "second": jnp.array([0.3, 0.4])}
        >>> updates, _ = rule.update({"first": jnp.array([0.0, 1e-3]), "second": jnp.array([7.0, 0.0])}, rule.init(w), w)
        >>> print(*(f"{jnp.linalg.norm(x):.2f}" for x in updates.values()))
        0.50 0.05

    Reference:
        You, Gitman, Ginsburg, "Large batch training of convolutional networks", arXiv:1708.03888, 2017, Algorithm 1.
    """
    check_learning_rate("lars", learning_rate)
    check_number("lars", "momentum", momentum, low=0, high=1, open_high=True, required=True, wanted="0 ≤ momentum < 1: type momentum=0.9")
    check_number("lars", "weight_decay", weight_decay, low=0, wanted="weight_decay ≥ 0 or None: type weight_decay=1e-4")
    check_number("lars", "trust", trust, low=0, open_low=True, required=True, wanted="a number > 0: type trust=0.001")

    def init(params):
        return LARSState(jnp.zeros((), jnp.int32) if callable(learning_rate) else None, tree.zeros_like(params))

    def scaled(g, w, has):
        decay = jnp.zeros((), tree.dtype_of(g)) if weight_decay is None else jnp.asarray(weight_decay, tree.dtype_of(g))
        whole = g if weight_decay is None else tree.add_scaled(g, decay, w)
        if not has:
            return whole
        size, slope = tree.norm(w), tree.norm(g)
        some = (size > 0) & (slope > 0)
        return tree.scale(jnp.where(some, trust * size / jnp.where(some, slope + decay * size, 1), 1), whole)

    def update(grads, state, params=None, **extra):
        if params is None:
            raise ValueError("lars: update got params=None; wanted the params: type rule.update(grads, state, params).")
        h = value_at(learning_rate, state.step)
        moves = tree.map(lambda g, w, has: tree.scale(h, scaled(g, w, has)), grads, params, by_leaf("lars", "layers", layers, params, lambda w: True))
        velocity = tree.add_scaled(moves, momentum, state.velocity)
        ahead = tree.add_scaled(moves, momentum, velocity) if nesterov else velocity
        return tree.scale(-1, ahead), LARSState(None if state.step is None else jnp.asarray(optax.safe_increment(state.step)), velocity)

    return init, update
