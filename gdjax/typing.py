"""The names that signatures use. No logic lives here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, SupportsIndex, TypeAlias

import jax
import optax
from jax.typing import ArrayLike

Params: TypeAlias = Any  # a pytree of real floating arrays: where the loss is evaluated
Grads: TypeAlias = Any  # like Params
Updates: TypeAlias = Any  # like Params; added to the params
Batch: TypeAlias = Any  # a pytree of arrays with a common leading axis: the examples
Data: TypeAlias = Any  # a Batch of all examples, or a re-iterable stream of batches
RuleState: TypeAlias = Any  # a pytree of arrays: what the rule needs for its next step
ModelState: TypeAlias = Any  # a pytree of arrays: running statistics and the like
Aux: TypeAlias = Any  # a pytree of arrays: whatever the loss returns beside its value
Scalar: TypeAlias = jax.Array  # shape ()
Key: TypeAlias = jax.Array  # a typed PRNG key, shape ()
Seed: TypeAlias = Key | SupportsIndex  # a key, or a whole number to make one of
Number: TypeAlias = ArrayLike  # a Python float or an array: a leaf
Schedule: TypeAlias = Callable[[Any], Any]  # step (int32, shape ()) -> scalar
Scheduled: TypeAlias = Number | Schedule
Transformation: TypeAlias = optax.GradientTransformation  # a gdjax.Rule, which is one, or any other of optax
Callback: TypeAlias = Callable[[Any], Any]  # of a report; True stops the run
ChunkSize: TypeAlias = int | Literal["auto"] | None
Shuffle: TypeAlias = Literal["epoch", "replacement", False]
Keep: TypeAlias = Literal["last", "best"]
Differentiate: TypeAlias = Literal["implicit", "unroll"]
Recorded: TypeAlias = Literal["value", "grad_norm", "update_norm", "learning_rate", "evaluations"]  # by minimize, and by fit with full batches
RecordedOfBatches: TypeAlias = Literal["value", "grad_norm", "learning_rate", "evaluations", "validation"]  # by fit with mini-batches


class LossFn(Protocol):
    """``loss_fn(params, [model_state,] batch, [key]) -> loss | (loss, aux) | (loss, (model_state, aux))``.

    The loss is a real scalar: for a batch of examples their mean. ``model_state`` is passed where one was given to the driver, ``key`` where the
    loss was declared ``stochastic``.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class InitFn(Protocol):
    """``init(params) -> state``: the state of a rule before its first step.

    A rule may name more, which ``fit`` offers by keyword for data in memory: ``num_examples``, ``batch_size``, ``examples`` (of a ``finite_sum``, else None)
    and ``key``.
    """

    def __call__(self, params: Params, **offered: Any) -> RuleState: ...


class UpdateFn(Protocol):
    """``update(grads, state, params, **extra) -> (updates, state)``: one step of a rule, without side effects.

    Drivers offer, by keyword: ``value`` and ``grad`` (at ``params``), ``value_fn`` and ``value_and_grad_fn`` (params -> value [, gradient] on the same
    batch); ``fit`` also ``indices``, ``num_examples``, ``batch_size`` and ``full_value_and_grad_fn``, and for a ``finite_sum`` ``examples`` and
    ``example_grads_fn`` (params -> gradients of the batch's examples, stacked). A rule names what it takes and ignores the rest in ``**extra``.
    """

    def __call__(self, grads: Grads, state: RuleState, params: Params | None = None, **extra: Any) -> tuple[Updates, RuleState]: ...


class EvalParamsFn(Protocol):
    """``eval_params(state, params) -> params``: the point a rule reports, where that is not the point at which it takes gradients."""

    def __call__(self, state: RuleState, params: Params) -> Params: ...
