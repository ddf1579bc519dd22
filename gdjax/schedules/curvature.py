"""What schedules and rules made from the curvatures of a loss share: the checks of these numbers, and the step as an index."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.arguments import check_number, is_concrete, is_whole, short
from gdjax.typing import Number


def check_smoothness(factory: str, smoothness: Any) -> None:
    """The door for L: a number > 0."""
    wanted = f"the largest curvature L > 0 of the loss: type {factory}(smoothness=4.0, ...)"
    check_number(factory, "smoothness", smoothness, low=0, open_low=True, open_high=True, required=True, wanted=wanted)


def check_curvatures(factory: str, smoothness: Any, strong_convexity: Any, *, zero: bool = False) -> None:
    """The door for L and μ: 0 < μ ≤ L, or 0 ≤ μ where zero is allowed."""
    check_smoothness(factory, smoothness)
    wanted = f"the smallest curvature of the loss, 0 {'≤' if zero else '<'} μ ≤ L: type {factory}(smoothness=4.0, strong_convexity=0.1)"
    check_number(factory, "strong_convexity", strong_convexity, low=0, open_low=not zero, open_high=True, required=True, wanted=wanted)
    if is_concrete(smoothness) and is_concrete(strong_convexity) and np.any(np.asarray(strong_convexity) > np.asarray(smoothness)):
        raise ValueError(f"{factory}: strong_convexity is {strong_convexity} with smoothness {smoothness}; wanted {wanted}.")


def check_horizon(factory: str, steps: Any) -> None:
    """The door for a number of steps that decides on the size of a table: an int ≥ 1, known when it is traced."""
    wanted = "an int ≥ 1, the number of steps that will be taken: type steps=100"
    if not is_whole(steps):
        raise TypeError(f"{factory}: steps is {short(steps)}; wanted {wanted}.")
    if steps < 1:
        raise ValueError(f"{factory}: steps is {steps}; wanted {wanted}.")


def as_index(step: Number) -> jax.Array:
    """The step as an int32, shape (), whatever it came as."""
    return jnp.asarray(step).astype(jnp.int32)


def as_table(values: np.ndarray) -> jax.Array:
    """Numbers made in NumPy, in JAX's widest dtype."""
    return jnp.asarray(values, jnp.result_type(float))  # named: JAX 0.10 gives an array it has met under jit the dtype of then, whatever x64 says now
