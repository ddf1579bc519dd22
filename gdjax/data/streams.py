"""Streams of batches: walked epoch by epoch, each batch checked, made arrays and copied as it is read, whatever goes wrong told with its number."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.arguments import short
from gdjax.data.arrays import as_examples
from gdjax.typing import Data

BLOCK_BYTES = 64 << 20  # of a stream held at once, or one batch if it is larger
END = object()  # what is read after the last batch of an epoch; None would be a batch like any other


def is_stream(data: Data) -> bool:
    """True for a re-iterable stream of batches: something to iterate over that is not a pytree of arrays, or a list of batches.

    A list whose first entry is itself a container of arrays, [(X1, y1), (X2, y2), ...], is a list of batches; [X, y] and (X, y) are pytrees of arrays.
    """
    if isinstance(data, Iterator):  # JAX warns when it meets one in a tree
        return True
    if isinstance(data, list):
        return bool(data) and _holds_arrays(data[0])
    return jax.tree_util.all_leaves([data]) and not isinstance(data, (str, bytes)) and not hasattr(data, "shape") and hasattr(data, "__iter__")


def _holds_arrays(entry: Any) -> bool:
    parts = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, (tuple, list)) else ()
    return any(hasattr(part, "shape") or _holds_arrays(part) for part in parts)


class Broken(NamedTuple):
    """In the place of a batch that could not be had: the error, raised when the batch is wanted and not before, so that no step read so far is lost."""

    error: Exception


class Form(NamedTuple):
    """What all batches of a stream have in common."""

    structure: Any
    leaves: tuple  # (dimensions, dtype) of each

    @classmethod
    def of(cls, batch: Any) -> Form:
        """The form of a batch of arrays."""
        leaves, structure = jax.tree.flatten(batch)
        return cls(structure, tuple((np.ndim(x), _dtype(x)) for x in leaves))


def _dtype(x: Any) -> Any:
    return x.dtype if isinstance(x, jax.Array) else jax.dtypes.canonicalize_dtype(x.dtype)


class Stream:
    """Walks a re-iterable stream of batches epoch by epoch, looking one batch ahead to know where an epoch ends.

    What it is given back is a copy: batches are read ahead and stacked afterwards, when a stream that fills the same arrays again has long done so.
    ``try_batch`` is called with the first batch of every new shape of rows, and raises where the loss cannot take it.
    """

    def __init__(self, source, try_batch: Callable[[Any], None] | None = None, argument: str = "data"):
        self.source, self.try_batch, self.argument = source, try_batch, argument
        self.epoch, self.number, self.batches, self.ahead = -1, 0, iter(()), END
        self.form, self.rows_seen = None, set()
        self.read: collections.deque = collections.deque()  # batches that were read but found no place in a block

    def start_epoch(self) -> None:
        """Begins the next pass over the source."""
        if isinstance(self.source, Iterator) and self.epoch >= 0:
            raise ValueError(
                f"{self.argument} is an iterator that can be walked through only once, and a second epoch was asked for; "
                "wanted something that starts again at each iter(), such as a list of batches, a class with __iter__ or a DataLoader."
            )
        self.epoch, self.number = self.epoch + 1, 0
        try:
            self.batches = iter(self.source)
        except Exception as error:
            raise self._raised("__iter__", error) from error
        self.ahead = self._next()
        if self.ahead is END:
            raise ValueError(f"{self.argument} gave no batch in epoch {self.epoch}; wanted a stream of batches that starts again at each iter().")

    def _raised(self, what: str, error: Exception) -> ValueError:
        return ValueError(
            f"{self.argument} raised {type(error).__name__} in {what}: {error}; wanted a stream that can be read to its end: "
            "try it by itself, for batch in data: pass."
        )

    def _next(self) -> Any:
        """The next batch, as arrays that nobody else holds; END; or what went wrong."""
        try:
            return self.read.popleft() if self.read else self._read()
        except (TypeError, ValueError) as error:
            return Broken(error)

    def _read(self) -> Any:
        name = f"batch {self.number} of epoch {self.epoch}"
        try:
            batch = next(self.batches, END)
        except Exception as error:
            raise self._raised(name, error) from error
        if batch is END:
            return END
        self.number += 1
        return self._checked(batch, f"{self.argument}, {name}: batch")

    def _checked(self, batch: Any, where: str) -> Any:
        if isinstance(batch, Iterator):
            raise TypeError(f"{where} is {short(batch)}; wanted arrays with a common leading axis: yield (X, y), for example.")
        batch = as_examples(batch, where)
        form, rows = Form.of(batch), tuple(x.shape[1:] for x in jax.tree.leaves(batch))
        if self.form is None:
            self.form = form
        elif form != self.form:
            raise ValueError(f"{where} {_change(self.form, form)}; wanted every batch like the first: check how the stream makes them.")
        if rows not in self.rows_seen:
            self._try(batch, rows, where)
        return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else np.array(x), batch)

    def _try(self, batch: Any, rows: tuple, where: str) -> None:
        if self.rows_seen and self.try_batch is not None:
            before = ", ".join(map(str, next(iter(self.rows_seen))))
            try:
                self.try_batch(batch)
            except Exception as error:
                what = f"{where} has rows of shape {', '.join(map(str, rows))}, batches before {before}, and loss_fn raised {type(error).__name__}: {error}"
                raise ValueError(f"{what}; wanted batches that it can take: check how the stream makes them.") from error
        self.rows_seen.add(rows)

    def take(self) -> Any:
        """The batch ahead, which begins an epoch where the last is over."""
        if self.ahead is END:
            self.start_epoch()
        batch = self.ahead
        if isinstance(batch, Broken):
            raise batch.error
        self.ahead = self._next()
        return batch

    def skip(self, count: int) -> None:
        """Drops batches, to resume where a run ended."""
        for _ in range(count):
            self.take()

    @property
    def epoch_is_over(self) -> bool:
        """Whether the next batch starts a new epoch."""
        return self.ahead is END

    def next_block(self, most: int, seconds: float = float("inf")) -> list[Any]:
        """Up to ``most`` batches of the same shapes, none beyond the end of the epoch, read in about ``seconds``.

        A block cut short by the time or by its size holds a power of two, since every other length is another program.
        """
        first, started = self.take(), time.monotonic()
        block, shapes = [first], _shapes(first)
        most = min(most, 1 << max((BLOCK_BYTES // max(tree_bytes(first), 1)).bit_length() - 1, 0))
        while len(block) < most and self._is_ahead(shapes):
            if time.monotonic() - started > seconds:
                size = 1 << (len(block).bit_length() - 1)
                self.read.extendleft(reversed([*block[size + 1 :], self.ahead] if size < len(block) else []))
                block, self.ahead = block[:size], block[size] if size < len(block) else self.ahead
                break
            block.append(self.take())
        return block

    def _is_ahead(self, shapes) -> bool:
        return self.ahead is not END and not isinstance(self.ahead, Broken) and _shapes(self.ahead) == shapes


def _change(before: Form, now: Form) -> str:
    if before.structure != now.structure:
        return f"has the structure {now.structure}, the first {before.structure}"
    (had, wanted), *_ = [pair for pair in zip(now.leaves, before.leaves, strict=True) if pair[0] != pair[1]]
    return f"holds an array of {had[0]} dimensions and dtype {had[1]}, the first of {wanted[0]} and {wanted[1]}"


def _shapes(batch):
    return jax.tree.structure(batch), [np.shape(x) for x in jax.tree.leaves(batch)]


def tree_bytes(batch) -> int:
    """The bytes of a batch on the host."""
    return sum(x.nbytes for x in jax.tree.leaves(batch))


def stack(block: list[Any]) -> Any:
    """Batches of the same shapes as one pytree with a leading axis of batches, on the host."""
    return jax.tree.map(_stacked, *block)


def _stacked(*leaves):
    if hasattr(leaves[0], "dtype") and jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        return jnp.stack(leaves)
    return np.stack([np.asarray(x) for x in leaves])


class Stacks(NamedTuple):
    """A stream that was read once and kept: its batches stacked, those of each shape together."""

    batches: tuple  # of pytrees of arrays, (batches, rows, ...)


def read(source: Any, argument: str) -> Stacks:
    """One epoch of a stream, to be looked at again and again."""
    stream, kept = Stream(source, argument=argument), {}
    while stream.epoch < 0 or not stream.epoch_is_over:
        batch = stream.take()
        kept.setdefault(str(_shapes(batch)), []).append(batch)
    return Stacks(tuple(map(stack, kept.values())))
