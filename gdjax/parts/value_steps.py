"""What rules share whose step comes from the value of the loss: Polyak's ratio, and a limit on how fast a step grows from batch to batch."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number
from gdjax.typing import Grads, Scalar


def check_lower_bound(factory: str, lower_bound: Any, *, required: bool = True) -> None:
    """The door for lower bounds of the loss: a finite number."""
    wanted = f"a finite number, below every loss: type {factory}(lower_bound=0.0)"
    check_number(factory, "lower_bound", lower_bound, open_low=True, open_high=True, required=required, wanted=wanted)


def check_max_learning_rate(factory: str, number: Any, *, required: bool = False) -> None:
    """The door for upper bounds of the step: a number > 0, or None where there need not be one."""
    wanted = f"a number > 0{'' if required else ' or None'}: type {factory}(max_learning_rate=1.0)"
    check_number(factory, "max_learning_rate", number, low=0, open_low=True, required=required, wanted=wanted)


def check_growth(factory: str, growth: Any, first_learning_rate: Any, steps_per_epoch: Any, *, required: bool = False) -> None:
    """The door for what ``limited`` takes."""
    wanted = f"a number ≥ 1{'' if required else ' or None'}: type {factory}(growth=2.0)"
    check_number(factory, "growth", growth, low=1, open_high=True, required=required, wanted=wanted)
    wanted = f"a number > 0: type {factory}(first_learning_rate=1.0)"
    check_number(factory, "first_learning_rate", first_learning_rate, low=0, open_low=True, open_high=True, required=True, wanted=wanted)
    check_number(factory, "steps_per_epoch", steps_per_epoch, low=0, open_low=True, wanted=f"a number > 0 or None: type {factory}(steps_per_epoch=100)")


def polyak_ratio(value: Any, lower_bound: Any, grads: Grads, dtype: Any) -> Scalar:
    """[f − l]₊/‖g‖², shape (); 0 where the gradient is zero, or either is not finite, so that a state made from it is never poisoned."""
    gap, norm = jnp.asarray(value, dtype) - lower_bound, tree.norm(grads)
    sound = jnp.isfinite(gap) & jnp.isfinite(norm)
    return over_square(jnp.where(sound, gap, 0), jnp.where(sound, norm, 0)).astype(dtype)


def over_square(gap: Scalar, norm: Scalar) -> Scalar:
    """[gap]₊/norm², shape (), at most a quarter of the largest number; 0 where the norm is 0. For norms whose squares overflow or underflow too.

    Compilers make (a/b)/c into a/(b c). So the first quotient passes a choice, which they cannot divide across.
    """
    some = (gap > 0) & (norm > 0)
    safe = jnp.where(some, norm, 1)
    return jnp.minimum(jnp.where(some, gap / safe, 0) / safe, jnp.finfo(norm.dtype).max / 4)


def growth_of_a_step(growth: Any, steps_per_epoch: Any, indices: Any, num_examples: Any) -> Any:
    """γ^(b/n), with n/b steps in an epoch: as given, else by the rows of the batch that ``fit`` offers, else 1, as on full batches."""
    if steps_per_epoch is None:
        steps_per_epoch = 1 if indices is None or num_examples is None else num_examples / indices.shape[0]
    return growth ** (1 / steps_per_epoch)


def limited(a: Scalar, last: Any, factor: Any) -> tuple[Scalar, Any]:
    """(min{a, factor · last}, the last step that was none of 0, in its place); without a last step, (a, None).

    A batch that gives no step says nothing of the next: kept as the last step, its 0 would end the run.
    """
    if last is None:
        return a, None
    a = jnp.minimum(a, factor * last).astype(last.dtype)
    return a, jnp.where(a > 0, a, last)
