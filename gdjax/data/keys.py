"""Keys: from a seed, a legacy key or a typed key. There is no hidden seed."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.arguments import is_whole, short
from gdjax.typing import Key


def check_key(key: Any, reason: str) -> Key:
    """A typed key from an int seed, a legacy key or a typed key; otherwise an error. There is no hidden seed."""
    if key is None:
        raise ValueError(f"key is None, but {reason}; wanted a seed or a key: type key=0 or key=jax.random.key(0).")
    if is_whole(key):
        return _seeded(int(key))
    array: Any = key
    if isinstance(key, (jax.Array, np.ndarray)):
        if jnp.issubdtype(array.dtype, jnp.integer) and array.shape == ():
            return jax.random.key(array)
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) and array.shape == ():
            return array
        if array.dtype == jnp.uint32 and array.shape == jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape:
            with jax.ensure_compile_time_eval() if not isinstance(array, Tracer) else contextlib.nullcontext():
                return jax.random.wrap_key_data(array)
    raise TypeError(f"key is {short(key)}; wanted one seed or key: type key=0 or key=jax.random.key(0).")


def _seeded(seed: int) -> Key:
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"key is {seed}; wanted a seed of 64 bits at most: type key=0.")
    with jax.ensure_compile_time_eval():  # inside jit a seed is as concrete as outside, and so is the order of the data
        return jax.random.key(seed)
