"""Params of which a mask hides some leaves, as ``optax.masked`` and ``optax.multi_transform`` hand them to the rule within."""

from __future__ import annotations

import jax
import optax

from gdjax.typing import Params


def is_masked(params: Params) -> bool:
    """Whether some leaves are hidden: the loss, which is a function of all, cannot be evaluated at these params."""

    def hidden(leaf):
        return isinstance(leaf, optax.MaskedNode)

    return any(hidden(leaf) for leaf in jax.tree.leaves(params, is_leaf=hidden))


def check_whole(factory: str, params: Params, remedy: str) -> None:
    """Raise for a rule that evaluates the loss, if the params are not whole."""
    if is_masked(params):
        what = "params of which a mask hides some leaves (optax.masked, optax.multi_transform)"
        raise ValueError(f"{factory}: update got {what}, where the loss cannot be evaluated; wanted all params: {remedy}.")
