"""Data: checks, the order of the examples (epochs, derived from the key alone), and streams of batches."""

from __future__ import annotations

import collections
import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.arguments import is_array
from gdjax.typing import Data, Key

BLOCK_BYTES = 64 << 20  # of a stream held at once, or one batch if it is larger
ORDERS = ("epoch", "replacement", False)


def is_stream(data: Data) -> bool:
    """True for a re-iterable stream of batches: something to iterate over that is not a pytree of arrays."""
    if isinstance(data, Iterator):  # JAX warns when it meets one in a tree
        return True
    return jax.tree.structure(data) == jax.tree.structure(0) and not isinstance(data, (str, bytes)) and not hasattr(data, "shape") and hasattr(data, "__iter__")


def check_data(data: Data, argument: str = "data") -> int:
    """The number of examples, if data is a pytree of arrays with a common leading axis; otherwise an error that names the leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(data)
    if not leaves:
        raise ValueError(f"{argument} is {data!r}, a pytree without arrays; wanted arrays with a common leading axis: pass (X, y), for example.")
    for path, leaf in leaves:
        if not hasattr(leaf, "shape") or len(leaf.shape) == 0:
            where = f"{argument}{jax.tree_util.keystr(path)}"
            raise TypeError(f"{where} is {_short(leaf)}; wanted an array whose leading axis counts the examples: pass np.asarray(rows), shape (n, ...).")
        if not is_array(leaf):
            where = f"{argument}{jax.tree_util.keystr(path)}"
            raise TypeError(f"{where} has dtype {leaf.dtype}; wanted numbers: convert it, rows.astype(np.float32), or encode labels as integers.")
    lengths = {f"{argument}{jax.tree_util.keystr(path)}": leaf.shape[0] for path, leaf in leaves}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"the arrays in {argument} differ in length: {listed}; wanted the same number of examples in each: check how they were split.")
    count = next(iter(lengths.values()))
    if count == 0:
        raise ValueError(f"{argument} has 0 examples; wanted at least one: check the filter or path that made it.")
    return count


def _short(leaf) -> str:
    text = repr(leaf)
    return text if len(text) < 60 else f"a {type(leaf).__name__}"


def check_key(key: Any, reason: str) -> Key:
    """A typed key from an int seed, a legacy key or a typed key; otherwise an error. There is no hidden seed."""
    if key is None:
        raise ValueError(f"key is None, but {reason}; wanted a seed or a key: type key=0 or key=jax.random.key(0).")
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return _seeded(int(key))
    array: Any = key
    if hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jnp.integer) and array.shape == ():
        return jax.random.key(array)
    if hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jax.dtypes.prng_key) and array.shape == ():
        return array
    if hasattr(array, "dtype") and array.dtype == jnp.uint32 and array.shape == jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape:
        with jax.ensure_compile_time_eval() if not isinstance(array, Tracer) else contextlib.nullcontext():
            return jax.random.wrap_key_data(array)
    raise TypeError(f"key is {_short(key)}; wanted one seed or key: type key=0 or key=jax.random.key(0).")


def _seeded(seed: int) -> Key:
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"key is {seed}; wanted a seed of 64 bits at most: type key=0.")
    with jax.ensure_compile_time_eval():  # inside jit a seed is as concrete as outside, and so is the order of the data
        return jax.random.key(seed)


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


class Stream:
    """Walks a re-iterable stream of batches epoch by epoch, looking one batch ahead to know where an epoch ends."""

    def __init__(self, source):
        self.source, self.epoch, self.batches, self.ahead = source, -1, iter(()), None
        self.read: collections.deque = collections.deque()  # batches that were read but found no place in a block

    def _next(self) -> Any:
        return self.read.popleft() if self.read else next(self.batches, None)

    def start_epoch(self) -> None:
        """Begins the next pass over the source."""
        batches = iter(self.source)
        if batches is self.source and self.epoch >= 0:
            raise ValueError(
                "data is an iterator that can be walked through only once, and a second epoch was asked for; "
                "wanted something that starts again at each iter(), such as a list of batches in a class with __iter__ or a DataLoader."
            )
        self.epoch, self.batches = self.epoch + 1, batches
        self.ahead = next(self.batches, None)
        if self.ahead is None:
            raise ValueError(f"data gave no batch in epoch {self.epoch}; wanted a stream of batches that starts again at each iter().")

    def skip(self, count: int) -> None:
        """Drops batches, to resume where a run ended."""
        for _ in range(count):
            if self.ahead is None:
                self.start_epoch()
            self.ahead = self._next()

    @property
    def epoch_is_over(self) -> bool:
        """Whether the next batch starts a new epoch."""
        return self.ahead is None

    def next_block(self, most: int, seconds: float = float("inf")) -> list[Any]:
        """Up to ``most`` batches of the same shapes, none beyond the end of the epoch, read in about ``seconds``.

        A block cut short by the time or by its size holds a power of two, since every other length is another program.
        """
        if self.ahead is None:
            self.start_epoch()
        block, shapes, started = [self.ahead], _shapes(self.ahead), time.monotonic()
        most = min(most, 1 << max((BLOCK_BYTES // max(tree_bytes(self.ahead), 1)).bit_length() - 1, 0))
        self.ahead = self._next()
        while len(block) < most and self.ahead is not None and _shapes(self.ahead) == shapes:
            if time.monotonic() - started > seconds:
                size = 1 << (len(block).bit_length() - 1)
                self.read.extend([*block[size + 1 :], self.ahead] if size < len(block) else [])
                block, self.ahead = block[:size], block[size] if size < len(block) else self.ahead
                break
            block.append(self.ahead)
            self.ahead = self._next()
        return block


def _shapes(batch):
    return jax.tree.structure(batch), [np.shape(x) for x in jax.tree.leaves(batch)]


def tree_bytes(batch) -> int:
    """The bytes of a batch on the host."""
    return sum(np.asarray(x).nbytes if not hasattr(x, "nbytes") else x.nbytes for x in jax.tree.leaves(batch))


def stack(block: list[Any]) -> Any:
    """Batches of the same shapes as one pytree with a leading axis of batches, on the host."""
    return jax.tree.map(_stacked, *block)


def _stacked(*leaves):
    if hasattr(leaves[0], "dtype") and jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        return jnp.stack(leaves)
    return np.stack([np.asarray(x) for x in leaves])


def blocks(data: Data, size: int):
    """Slices of at most ``size`` rows, in order."""
    count = jax.tree.leaves(data)[0].shape[0]
    for first in itertools.takewhile(lambda i: i < count, itertools.count(0, size)):
        yield jax.tree.map(lambda x: x[first : first + size], data)  # noqa: B023
