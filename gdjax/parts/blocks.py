"""How the rows of a large finite sum are taken: in parts side by side, on all cores, or in blocks one after another, in little memory."""

from __future__ import annotations

import functools
import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from gdjax import tree
from gdjax.parts import xla

WHOLE_BELOW = 4 << 20  # bytes of data: smaller ones sit in the cache anyway
CACHE = 2 << 20  # bytes, where the machine does not say
MOST_BLOCK = 8 << 20  # bytes of a block of rows with what the loss makes of them
VECTOR = 8  # numbers
GRADIENTS = 8  # the gradients of the parts may take this share of the bytes of the data
MEMORY = 4  # on an accelerator, a block with what the loss makes of it may take this share of the memory
BACKWARD = 3  # what the gradient keeps, in what the loss makes


class Blocks(NamedTuple):
    """Rows in ``parts`` of equal length side by side, and each of these in blocks of ``rows`` one after another (None: at once)."""

    parts: int = 1
    rows: int | None = None


def shards(batch: Any) -> int:
    """Over how many devices the rows of concrete arrays are spread; 1 where they differ, or are traced."""
    arrays = [x for x in jax.tree.leaves(batch) if isinstance(x, jax.Array) and not isinstance(x, Tracer) and x.ndim and x.is_fully_addressable]
    counts = {len(x) // (x.sharding.shard_shape(x.shape)[0] or 1) for x in arrays}
    return counts.pop() if len(counts) == 1 else 1


def choose(example_loss_fn, params: Any, batch: Any) -> Blocks:
    """The blocks for a value and gradient over all rows of a batch; arrays may be traced, and only their shapes are used.

    On a CPU of several cores, a loss that makes little of a row (a linear model) is taken in parts the size of a core's cache, each product then being run on
    all cores; on one core, in blocks that stay in its cache; a loss that makes much of a row (a network) in blocks one after another, whose products are
    large. On an accelerator the whole, or blocks as large as memory allows.
    """
    rows, size = jax.tree.leaves(batch)[0].shape[0], tree.bytes_of(batch)
    if size <= WHOLE_BELOW:
        return Blocks()
    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), params)
    row, made = size / rows, BACKWARD * bytes_made(example_loss_fn, shapes, example)
    if jax.default_backend() != "cpu":
        most = device_memory() / MEMORY
        return Blocks() if rows * made <= most else Blocks(1, max(1, int(most / made)))
    if made > row:
        return Blocks(1, max(8, _power_of_two(MOST_BLOCK / (row + made))))
    if not xla.ON:
        return Blocks()
    parts = _parts(rows, size, tree.bytes_of(params)) if cores() > 1 else None
    return Blocks(1, max(8, _power_of_two(cache_bytes() / 4 / row))) if parts is None else Blocks(parts)


def _power_of_two(number: float) -> int:
    return 1 << max(int(number).bit_length() - 1, 0)


def _parts(rows: int, size: int, gradient: int) -> int | None:
    """The number of parts: a divisor of the rows, so that nothing need be padded or copied; None where there is none to be had."""
    most, least = size // (GRADIENTS * gradient), math.ceil(size / cache_bytes())
    divisors = [parts for parts in range(max(min(least, most), 2), min(4 * least, most) + 1) if rows % parts == 0]
    # Products of as many rows as a vector register holds numbers, or a multiple, have no rest: 29 ms instead of 37 on 60,000 rows of 784, 10 outputs.
    return next((parts for parts in divisors if rows // parts % VECTOR == 0), divisors[0] if divisors else None)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def cache_bytes() -> int:
    """Of the second-level cache of a core."""
    try:
        return os.sysconf("SC_LEVEL2_CACHE_SIZE") or CACHE
    except (AttributeError, ValueError, OSError):
        return CACHE


def device_memory() -> float:
    """Bytes free on the first device, where it says; else inf."""
    facts = jax.local_devices()[0].memory_stats() or {}
    return facts["bytes_limit"] - facts.get("bytes_in_use", 0) if "bytes_limit" in facts else math.inf


def bytes_made(example_loss_fn, params: Any, example: Any) -> int:
    """The bytes a loss makes of one example on its way to the value; arguments may be shapes. Traced, not run."""
    closed = jax.make_jaxpr(example_loss_fn)(params, example)
    moving = [False] * len(jax.tree.leaves(params)) + [True] * len(jax.tree.leaves(example))
    return _made(closed.jaxpr, moving)[0]


def _made(jaxpr: Jaxpr, moving: list[bool]) -> tuple[int, list[bool]]:
    """(bytes that depend on the moving inputs, which outputs do)."""
    known, total = {v for v, moves in zip(jaxpr.invars, moving, strict=True) if moves}, 0
    for equation in jaxpr.eqns:
        inputs = [not isinstance(v, Literal) and v in known for v in equation.invars]
        if not any(inputs):
            continue
        inner = next((x for x in equation.params.values() if isinstance(x, ClosedJaxpr) and len(x.jaxpr.invars) == len(inputs)), None)
        if inner is None:
            size, outputs = sum(map(_bytes, equation.outvars)), [True] * len(equation.outvars)
        else:
            size, outputs = _made(inner.jaxpr, inputs)
        total += size * equation.params.get("length", 1)
        known.update(v for v, moves in zip(equation.outvars, outputs, strict=False) if moves)
    return total, [not isinstance(v, Literal) and v in known for v in jaxpr.outvars]


def _bytes(variable) -> int:
    aval = variable.aval
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", np.dtype(np.float32).itemsize)


def pairwise_sum(x):
    """Σ x over the leading axis, by halves.

    Reverse-mode derivatives transpose it, and that of ``jnp.sum`` is a broadcast: XLA for CPUs (jaxlib 0.10.2) gets the product x wᵀ of batched matrices wrong
    where w was broadcast to the batch and a reduction follows.
    """
    while len(x) > 1:
        half = len(x) // 2
        x = jnp.concatenate([x[:half] + x[half : 2 * half], x[2 * half :]]) if len(x) % 2 else x[:half] + x[half:]
    return x[0]
