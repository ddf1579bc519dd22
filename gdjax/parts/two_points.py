"""Arithmetic for rules that keep a second point: the way between two points, and its shares."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number


def moved(params: tree.Tree, updates: tree.Tree) -> tree.Tree:
    """params + updates, rounded as the loop's params will be."""
    return tree.stored(tree.add(params, updates))


def landed(params: tree.Tree, target: tree.Tree) -> tuple[tree.Tree, tree.Tree]:
    """(the updates toward a target, the point where the loop ends with them): in bfloat16 p + (x − p) may be far from x."""
    updates = tree.stored(tree.subtract(target, params))
    return updates, moved(params, updates)


def toward(a: tree.Tree, share: Any, b: tree.Tree) -> tree.Tree:
    """a + s (b − a), in the dtypes of a: exactly a where b is a, and exactly b where s is 1, which a + (b − a) is not."""

    def leaf(x, y):
        y, s = jnp.asarray(y).astype(x.dtype), jnp.asarray(share).astype(x.dtype)
        return jnp.where(s == 1, y, x + s * (y - x))

    return jax.tree.map(leaf, a, b)


def updates_to(target: tree.Tree, params: tree.Tree) -> tree.Tree:
    """The updates that lead from the params to a target in wider dtypes: the difference is taken there, then cast."""
    return jax.tree.map(lambda x, p: (x - jnp.asarray(p).astype(x.dtype)).astype(jnp.result_type(p)), target, params)


def weigh(total: jax.Array, weight: Any) -> tuple[jax.Array, jax.Array]:
    """(share of a new weight in the total, new total); a share of 0 as long as all weights are 0."""
    total = (total + weight).astype(total.dtype)
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0), total


def check_two_points(factory: str, inner: Any, given: Any) -> None:
    """Raise for an inner rule whose params the wrapper moves elsewhere, if that rule keeps a second point of its own: the two would drift apart."""
    if inner.eval_params is not None:
        raise ValueError(
            f"{factory}: the rule {given!r} keeps two points of its own; wanted one that reports the point where it takes gradients, which {factory} moves: "
            f"type {factory}(gdjax.sgd(0.1))."
        )


def check_momentum(factory: str, momentum: Any) -> None:
    """The door for the momentum of schedule-free rules: a number in [0, 1] or a schedule."""
    if not callable(momentum):
        check_number(factory, "momentum", momentum, low=0, high=1, required=True, wanted="0 ≤ momentum ≤ 1 or a schedule: type momentum=0.9")


def check_params_given(factory: str, params: Any) -> None:
    """Raise for an update without params."""
    if params is None:
        raise ValueError(f"{factory}: update got params=None; wanted the params: type rule.update(grads, state, params).")
