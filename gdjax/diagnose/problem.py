"""What is to be diagnosed: a loss, where, on which data, in which batches; checked at the door, as in ``fit``."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import data as sources, tree
from gdjax.checks import check_model_state, check_params
from gdjax.loop import options as check, step as stepping
from gdjax.objective import FiniteSum, Objective, declared, leading


class Problem(NamedTuple):
    """Arrays of a diagnosis, beside the ``Objective``, which is static."""

    params: Any  # floats of 32 bits at least
    batch: Any  # all data; () where the loss takes none
    model_state: Any
    key: Any


def checked(door: str, loss_fn, params, data, batch_size, key, has_aux: bool, stochastic: bool, model_state) -> tuple[Objective, Problem, int | None]:
    """(objective, problem, examples); examples are None where the loss takes no data."""
    if data is None and isinstance(loss_fn, FiniteSum):
        raise ValueError(f"{door}: data is None and loss_fn is a finite_sum; wanted the examples it is a sum over: type gdjax.{door}(loss_fn, params, data).")
    objective = declared(loss_fn, has_aux, stochastic, model_state, None if data is None else "auto", 0 if data is None else None)
    params, model_state = check_params(params), check_model_state(model_state)
    if data is not None and sources.is_stream(data):
        raise TypeError(f"{door}: data is a stream of batches; wanted arrays, of some of the data: type next(iter(stream)).")
    data = None if data is None else sources.as_examples(data)
    count = None if data is None else leading(data)
    if batch_size is not None:
        if count is None:
            raise ValueError(f"{door}: batch_size is {batch_size} and data is None; wanted data to take batches of, or batch_size=None.")
        check.check_length(False, batch_size, count, None, 1)
    if key is not None or stochastic or batch_size is not None:
        key = sources.check_key(key, "the batches are drawn from it" if batch_size is not None else "the loss is stochastic")
    wide = jax.tree.map(lambda x: x.astype(tree.dtype_of(x)), params)
    return objective, Problem(wide, jax.tree.map(jnp.asarray, () if data is None else data), model_state, key), count


def gradient(objective: Objective, problem: Problem, batch, key):
    """params -> (value, gradient) on a batch."""
    return lambda params: stepping.value_and_grad(objective, params, problem.model_state, batch, key, None)[:2]


def rows_of_batches(key, count: int, batch_size: int, batches: int):
    """Rows, int32 of shape (batches, batch_size), in random order: each row once before any comes again, as far as whole batches go."""
    per_epoch = count // batch_size
    epochs = -(-batches // per_epoch)
    shuffled = jax.vmap(lambda k: jax.random.permutation(k, count)[: per_epoch * batch_size])(jax.random.split(key, epochs))
    return shuffled.reshape(-1, batch_size)[:batches].astype(jnp.int32)


def size_of(params: Any) -> int:
    """The number of parameters."""
    return tree.size(params)
