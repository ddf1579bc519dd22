"""The losses so far, as line searches need them that let the loss rise now and then."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp

from gdjax.linesearch import Average, average_of, grippo, zhang_hager

Reference: TypeAlias = Literal["last", "mean", "maximum"]
REFERENCES = get_args(Reference)  # the loss at x; Zhang and Hager's mean; the largest of the last few
COUNT = 10  # of these; M of Grippo, Lampariello and Lucidi


class PastValues(NamedTuple):
    """What they are remembered by."""

    mean: Average  # C of Zhang and Hager and its weight, shapes ()
    values: jax.Array  # the last losses, in a ring, shape (10,); the least number where there is none yet


def no_past(dtype: Any) -> PastValues:
    """Before the first value."""
    return PastValues(average_of(jnp.full((), jnp.nan, dtype)), jnp.full(COUNT, jnp.finfo(dtype).min, dtype))


def remember(past: PastValues, value: Any, step: Any, memory: Any) -> PastValues:
    """With the value of step ``step``; ``memory`` is Zhang and Hager's η."""
    return PastValues(zhang_hager(past.mean, value, memory), grippo(past.values, value, step))


def height(past: PastValues, value: Any, reference: str) -> Any:
    """What the next value must be below, shape (); ``value`` is the last one."""
    return {"last": value, "mean": past.mean.mean, "maximum": jnp.max(past.values)}[reference]
