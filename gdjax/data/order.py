"""The order of the examples: epochs, derived from the key alone."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.typing import Data

ORDERS = ("epoch", "replacement", False)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """⌈n / batch_size⌉: the last batch of an epoch is filled up with the epoch's first rows, and for finite sums those get weight 0."""
    return -(-count // batch_size)


def host_rows(words: np.ndarray, count: int, batch_size: int, order, epoch: int) -> np.ndarray:
    """The rows of one epoch, int32 of shape (steps, batch_size): a pure function of the key's words and the epoch's number.

    On the host because a device permutation of 200,000 rows costs 178 ms on a CPU against 4 ms here.
    """
    steps = steps_per_epoch(count, batch_size)
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([*words.tolist(), epoch])))
    if order == "replacement":
        return generator.integers(0, count, (steps, batch_size), dtype=np.int32)
    rows = np.empty(steps * batch_size, np.int32)
    rows[:count] = generator.permutation(count)
    rows[count:] = rows[: len(rows) - count]
    return rows.reshape(steps, batch_size)


def device_rows(key, count: int, batch_size: int, order, epoch) -> jax.Array:
    """``host_rows`` for a traced key: other rows, the same law."""
    steps = steps_per_epoch(count, batch_size)
    key = jax.random.fold_in(key, epoch)
    if order == "replacement":
        return jax.random.randint(key, (steps, batch_size), 0, count, dtype=jnp.int32)
    return jnp.resize(jax.random.permutation(key, count).astype(jnp.int32), (steps, batch_size))


def key_words(key) -> np.ndarray:
    """The 32-bit words of a concrete typed key."""
    with jax.ensure_compile_time_eval():
        return np.asarray(jax.random.key_data(key)).astype(np.uint32).ravel()


def take(data: Data, rows) -> Any:
    """The batch of these rows; they are in bounds by construction."""
    return jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), data)


def blocks(data: Data, size: int):
    """Slices of at most ``size`` rows, in order."""
    count = jax.tree.leaves(data)[0].shape[0]
    for first in itertools.takewhile(lambda i: i < count, itertools.count(0, size)):
        yield jax.tree.map(lambda x: x[first : first + size], data)  # noqa: B023
