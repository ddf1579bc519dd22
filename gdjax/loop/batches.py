"""What a mini-batch run is compiled for, and what its steps are given: the batch, its weights, and what rules may ask beside."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import data as sources
from gdjax.loop import step as stepping
from gdjax.loop.deterministic import Spans


class Plan(NamedTuple):
    """What a mini-batch program is compiled for: static."""

    objective: Any
    names: tuple[str, ...]
    batch_size: int
    count: int  # examples
    source: str  # "rows", "order", "stream": where a batch comes from
    keep_best: bool
    validate: bool
    records: bool  # records are not the ends of epochs
    guard: bool  # check params at every step, for runs that cannot be run again up to the last finite point
    independent: bool = False  # rows are drawn with replacement
    spans: Spans | None = None  # between boundaries, where derivatives must exist
    fresh: bool = True  # the run begins with the first of the spans
    compact: bool = False  # all arrays are on one CPU, and small steps may be one kernel
    plain: bool = False  # a small program, compiled plainly

    @property
    def weighs(self) -> bool:
        """Whether the last batch of an epoch in memory counts less than the others, by its rows."""
        return self.source != "stream" and self.objective.is_sum and self.count % self.batch_size != 0


class Numbers(NamedTuple):
    """What may change without compiling anew: int32 scalars."""

    until: Any  # make steps until there are so many
    last: Any  # the run's last step
    per_epoch: Any  # steps in an epoch
    record_every: Any  # 0 for once an epoch
    patience: Any  # epochs; 0 for no limit
    offset: Any  # the step to which row 0 of the given rows or batches belongs


def offered_at_start(plan: Plan, rule, data, key) -> dict[str, Any]:
    """What fit offers to a rule's ``init`` beside the params: nothing to rules that name nothing, or where the examples are not known beforehand."""
    if plan.source == "stream" or not rule.init_takes_more:
        return {}
    data = jax.tree.map(jnp.asarray, data)
    return dict(num_examples=plan.count, batch_size=plan.batch_size, examples=plan.objective.examples(data, independent=plan.independent), key=key)


def fetch(plan: Plan, data, rows, numbers: Numbers, step):
    """The batch of a step and its weights (None where every row counts)."""
    if plan.source == "stream":
        return jax.tree.map(lambda x: x[step - numbers.offset], data), None
    if plan.source == "rows":
        batch = sources.take(data, rows[step - numbers.offset])
    else:
        batch = _in_order(plan, data, lax.rem(step, numbers.per_epoch) * plan.batch_size)
    if not plan.weighs:
        return batch, None
    # A finite sum has an exact last batch: the rows that fill it up to the common shape weigh nothing.
    last = lax.rem(step, numbers.per_epoch) == numbers.per_epoch - 1
    here = jnp.where(last, plan.count % plan.batch_size, plan.batch_size)
    return batch, (jnp.arange(plan.batch_size, dtype=jnp.int32) < here).astype(jnp.float32)


def _in_order(plan, data, first):
    if plan.count % plan.batch_size == 0:
        return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, first, plan.batch_size), data)
    return sources.take(data, lax.rem(first + jnp.arange(plan.batch_size, dtype=jnp.int32), jnp.int32(plan.count)))


def offered(plan: Plan, data, rows, numbers, state, place, batch, weights, sound):
    """What fit offers to rules beside the batch: where it comes from, its examples, and the whole sum."""
    if plan.source == "stream":
        return {}
    if plan.source == "rows":
        taken = rows[place - numbers.offset]
    else:
        first = lax.rem(place, numbers.per_epoch) * plan.batch_size
        taken = lax.rem(first + jnp.arange(plan.batch_size, dtype=jnp.int32), jnp.int32(plan.count))
    counts = jnp.broadcast_to(sound, (plan.batch_size,)).astype(jnp.float32)
    examples = plan.objective.examples(batch, counts if weights is None else counts * weights, plan.independent)

    def full_value_and_grad_fn(params):
        there = stepping.value_and_grad(plan.objective, params, state.model_state, data, stepping.step_key(plan.objective, state), None)
        return there.value, there.grads

    return dict(
        indices=taken,
        num_examples=plan.count,
        batch_size=plan.batch_size,
        full_value_and_grad_fn=full_value_and_grad_fn,
        examples=examples,
        example_grads_fn=None if examples is None else lambda params: examples.mask(examples.grads(params)),
    )
