"""The contexts of JAX in which gdjax does its own work, whatever those of the caller are."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax

Function = TypeVar("Function", bound=Callable[..., Any])


@contextlib.contextmanager
def own_work():
    """What JAX's checks are for is the user's code; gdjax's own would set them off.

    It marks with NaN and infinity what is not known yet and looks for those of the loss by itself (they end a run as NONFINITE), folds many keys out of one,
    and moves to the device, and back, a few numbers per segment.
    """
    with jax.debug_nans(False), jax.debug_infs(False), jax.debug_key_reuse(False), jax.transfer_guard("allow"):
        yield


def undisturbed(function: Function) -> Function:
    """The function as gdjax's own work: a door."""

    @functools.wraps(function)
    def within(*args, **kwargs):
        with own_work():
            return function(*args, **kwargs)

    return cast(Function, within)


def promoting(function: Function) -> Function:
    """The function under JAX's usual promotion of dtypes, where it mixes them on purpose and the strict one would refuse."""

    @functools.wraps(function)
    def promoted(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return cast(Function, promoted)
