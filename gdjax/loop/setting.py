"""What a resumed run must share with the run it goes on from: the order of its batches, by which its steps and epochs count, its key, and its loss."""

from __future__ import annotations

import functools
import inspect
import sys
import zlib
from types import CodeType
from typing import Any, NamedTuple

import jax
import numpy as np

from gdjax import data as sources, tree
from gdjax.loop import step as stepping
from gdjax.objective import FiniteSum


class Setting(NamedTuple):
    """Part of the state: NumPy integers, or arrays of them where runs are mapped over."""

    batch_size: Any  # 0: all examples, or batches as a stream makes them
    examples: Any  # 0 for streams
    order: Any  # which of ``data.ORDERS``; 0 where the batches are in no order of ours
    loss: Any  # uint32: a checksum of its code
    python: Any  # the version it is the code of


def setting_of(loss_fn: Any, batch_size: int | None, examples: int | None, shuffle: Any) -> Setting:
    """That of a run."""
    order = 0 if batch_size is None else sources.ORDERS.index(shuffle)
    size, rows, code = np.int32(batch_size or 0), np.int32(examples or 0), np.uint32(_checksum(loss_fn))
    return Setting(size, rows, np.int32(order), code, np.int32(100 * sys.version_info[0] + sys.version_info[1]))


def check_setting(before: Setting, now: Setting) -> None:
    """An error where a state belongs to other batches, or to another loss as far as can be told: by its code, not by what it has captured."""
    if tree.is_traced(before):
        return
    had, have = (Setting(*(int(np.ravel(x)[0]) for x in setting)) for setting in (before, now))
    if had[:3] != have[:3]:
        raise ValueError(
            f"resume is the state of a run on {_batches(had)}; here they are {_batches(have)}. A state counts its steps and epochs by its batches; "
            "wanted the same data and batches, or a new run from its params: type params=result.params and leave resume out."
        )
    if had.python == have.python and had.loss != have.loss:
        raise ValueError(
            "resume is the state of a run of another loss_fn; its code is not that of this one. Wanted the same loss, since verdicts compare with the start of "
            "the run, or a new run from its params: type params=result.params and leave resume out."
        )


def _batches(setting: Setting) -> str:
    if not setting.examples:
        return "batches of a stream"
    size = f"batches of {setting.batch_size}" if setting.batch_size else "all at once"
    return f"{setting.examples} examples in {size}, shuffle={sources.ORDERS[setting.order]!r}"


def with_key(state: stepping.State, key: Any, needed: bool) -> stepping.State:
    """A saved state with the key of its run again; ``key`` is that of this run, ``needed`` where its order or its loss draws from it."""
    words = state.key
    if key is None or (words is None and not needed):
        return state._replace(key=None)
    if words is None:
        raise ValueError("resume is the state of a run without a key, and this one draws from its key; wanted the same shuffle and stochastic in both.")
    given = jax.random.key_data(key)
    if np.shape(words) != np.shape(given) or (not tree.is_traced(words, key) and not np.array_equal(words, given)):
        if needed:
            raise ValueError(
                "resume is the state of a run with another key; wanted the same, so that the order of the data and all that is drawn go on where they were: "
                "type the key of that run."
            )
        return state._replace(key=None)
    return state._replace(key=jax.random.wrap_key_data(words, impl=jax.random.key_impl(key)))


def without_key(state: stepping.State) -> stepping.State:
    """The state as plain arrays, which any library can save: its key as 32-bit words."""
    return state if state.key is None else state._replace(key=jax.random.key_data(state.key))


def _checksum(function: Any) -> int:
    """Of the code of a loss: of a function, or of those within a partial, a method, a decorated function, a callable object or a finite sum."""
    if isinstance(function, FiniteSum):
        return (_checksum(function.example_loss_fn) + _checksum(function.regularizer)) & 0xFFFFFFFF
    for name in ("func", "__wrapped__", "__func__"):
        if callable(inner := getattr(function, name, None)):
            return _checksum(inner)
    code = getattr(function, "__code__", None) or getattr(inspect.getattr_static(type(function), "__call__", None), "__code__", None)
    return 0 if code is None else zlib.crc32(repr(_contents(code)).encode())


@functools.lru_cache(maxsize=1024)
def _contents(code: CodeType) -> tuple:
    return code.co_code, code.co_names, tuple(map(_constant, code.co_consts))


def _constant(x: Any) -> Any:
    # The order in which a set is shown changes from process to process.
    return _contents(x) if isinstance(x, CodeType) else sorted(map(repr, x)) if isinstance(x, frozenset) else repr(x)
