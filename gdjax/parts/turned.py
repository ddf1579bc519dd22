"""Matrices turned on their side. On a CPU, XLA multiplies into a tall matrix of few columns at about half the speed of its transpose: gradients are taken with
respect to the transposes, and loops carry those. Only where the numbers lie changes.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gdjax.parts import xla
from gdjax.parts.examples import Table

MOST_COLUMNS = 32  # measured on batches of 2 to 1,024 rows: 1.1 to 1.8 times faster up to here, from 48 to 64 columns on mixed, beyond slower
TALL = 2  # rows to a column, at least

Flags = tuple[bool, ...]  # per leaf: whether it is turned


def which(params: Any, rows: int | None) -> Flags:
    """The leaves of params to turn for batches of so many rows (None: not known). None of them where the device is no CPU."""
    if not xla.on_cpu():
        return (False,) * len(jax.tree.leaves(params))
    return tuple(_pays(jnp.shape(x), rows) for x in jax.tree.leaves(params))


def _pays(shape: tuple[int, ...], rows: int | None) -> bool:
    # A single row makes no product of matrices, and what XLA makes of it is at times three times faster turned, at times as much slower.
    return rows != 1 and len(shape) == 2 and 2 <= shape[1] <= MOST_COLUMNS and shape[0] >= TALL * shape[1]


def alike(tree: Any, params: Any, flags: Flags) -> Flags:
    """The leaves of a tree, such as a loop's state, that have the shape of a turned leaf of the params. Tables of examples stay as they are."""
    shapes = {jnp.shape(x) for x, turned in zip(jax.tree.leaves(params), flags, strict=True) if turned}
    whole = jax.tree.map(lambda x: not isinstance(x, Table) and jnp.shape(x) in shapes, tree, is_leaf=lambda x: isinstance(x, Table))
    return tuple(jax.tree.leaves(jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), whole, tree)))


def turn(flags: Flags, tree: Any) -> Any:
    """The tree with the flagged leaves transposed: its own inverse."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [x.T if turned else x for x, turned in zip(leaves, flags, strict=True)])


def hold(flags: Flags, tree: Any) -> Any:
    """The tree as it is, its flagged leaves computed as they lie: else XLA would turn the product that makes them back."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [lax.optimization_barrier(x) if turned else x for x, turned in zip(leaves, flags, strict=True)])


def stored(condition, body, carry: Any, params: Any, rows: int | None):
    """A loop's condition, body(rule, carry, turn) and carry, and what gives a carry back, the matrices like the turned ones of the params carried turned."""
    flags = alike(carry, params, which(params, rows))
    back = functools.partial(turn, flags)
    return (lambda c: condition(back(c))), (lambda rule, c, index: turn(flags, body(rule, back(c), index))), turn(flags, carry), back


def apply(function, new: Any, old: Any, params: Any, rows: int | None) -> Any:
    """A function of each number by itself, of two states, taken of them turned. XLA may not see that it is the same, and would walk matrices crosswise."""
    flags = alike(old, params, which(params, rows))
    return turn(flags, function(turn(flags, new), turn(flags, old)))
