"""The step: evaluate a loss, ask a rule, move. Two pure functions on which every driver is built."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdjax import tree
from gdjax.arguments import short
from gdjax.brief import brief_repr
from gdjax.checks import check_arrays, check_model_state, check_params
from gdjax.contexts import undisturbed
from gdjax.data.keys import check_key
from gdjax.data.streams import Stacks
from gdjax.loop import lanes
from gdjax.objective import Evaluation, Objective, declared
from gdjax.parts.held import per_loss
from gdjax.rule import Rule, argument_of, hides_arguments, one_rule
from gdjax.typing import Batch, ChunkSize, Key, LossFn, ModelState, Params, RuleState, Transformation


class State(NamedTuple):
    """What the next step needs."""

    params: Params
    rule_state: RuleState  # of the rule
    model_state: ModelState  # or None
    key: Any  # a Key or None: the run's key, shape (); the key of a step is folded from it
    step: Any  # int32, shape (): updates made
    evaluations: Any  # int32, shape (): evaluations of value and gradient made

    __repr__ = brief_repr


class Info(NamedTuple):
    """What is worth looking at in a step; what is not used is not computed under jit."""

    value: Any  # the loss at the params before the step
    grad_norm: Any  # ‖∇f‖₂ there
    update_norm: Any  # ‖x_{k+1} − x_k‖₂
    learning_rate: Any  # used in this step, NaN where the rule has none
    evaluations: Any  # int32: made by this step, line searches included
    aux: Any  # what the loss returned beside its value

    __repr__ = brief_repr


class Descent(NamedTuple):
    """``init(params, *, model_state=None, key=None) -> state`` and ``step(state, batch) -> (state, info)``."""

    init: Any
    step: Any

    __repr__ = brief_repr


def descent(loss_fn: LossFn, rule: Transformation, *, has_aux: bool = False, stochastic: bool = False, chunk_size: ChunkSize = None) -> Descent:
    """Gradient descent as two pure functions, for loops of your own; ``minimize`` and ``fit`` are built on the same.

    Args:
        loss_fn: ``loss_fn(params, [model_state,] batch, [key]) -> loss | (loss, aux) | (loss, (model_state, aux))``, or a ``finite_sum``.
        rule: a rule or optax transformation.
        has_aux: the loss returns (loss, aux).
        stochastic: the loss takes a key, folded anew for each step.
        chunk_size: rows per block for finite sums; "auto" as in ``fit``.

    Returns:
        ``Descent(init, step)``; both may be jitted, mapped and differentiated.

    Raises:
        TypeError: the rule is no gradient transformation; the params are not real floating arrays; the loss is not a real scalar.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> init, step = gdjax.descent(lambda w, x: jnp.mean((w - x) ** 2), gdjax.sgd(0.1))
        >>> state, info = jax.jit(step)(init(5.0), jnp.array([1.0, 3.0]))
        >>> print(f"{info.value:.1f} {info.grad_norm:.1f} {state.params:.1f}")
        10.0 6.0 4.4
    """
    rule = one_rule(rule)
    objective = functools.partial(declared, loss_fn, has_aux, stochastic, chunk_size=chunk_size)
    objective(None)

    @undisturbed
    def init(params, *, model_state=None, key=None):
        key = check_key(key, "the loss is stochastic") if stochastic or key is not None else None
        return start(rule, check_params(params), check_model_state(model_state), key)

    def step(state, batch):
        if not isinstance(state, State):
            raise TypeError(f"step: state is {short(state)}; wanted what init, or the step before, returned: type state = init(params).")
        batch = check_arrays("batch", batch)
        loss = objective(state.model_state)
        seen, evaluations = evaluate(loss, rule, state, batch)
        new, updates, more = advance(loss, rule, state, seen, batch)
        new = new._replace(evaluations=state.evaluations + evaluations + more)
        rate = learning_rate(rule, state.rule_state, new.rule_state)
        return new, Info(seen.value, tree.norm(seen.grads), tree.norm(updates), rate, evaluations + more, seen.aux)

    return Descent(init, step)


def start(rule: Rule, params: Params, model_state: ModelState, key: Key | None, offered=None) -> State:
    """The state before the first step, from what ``init`` is offered. Buffers are new, so that donating them never touches the caller's arrays."""
    rule_state = jax.tree.map(_strong, rule.init(params, **(offered or {})))
    return State(params, rule_state, model_state, key, jnp.int32(0), _evaluations(rule_state, jnp.int32(0)))


def _strong(x):
    # Foreign rules keep weakly typed counters, which would change type after the first step of a compiled loop.
    return jax.lax.convert_element_type(x, x.dtype) if hasattr(x, "dtype") else jnp.asarray(x)


@functools.partial(per_loss, static_argnums=0, inline=True)
def value_and_grad(objective: Objective, params, model_state, batch, key, weights) -> Evaluation:
    """The one place where the loss is traced: jitted, so that all who call it in a program share one trace."""
    return objective.value_and_grad(params, batch, model_state=model_state, key=key, weights=weights)


@functools.partial(per_loss, static_argnums=0)
def value(objective: Objective, params, model_state, batch, key):
    """(loss, aux) on a batch, no gradient."""
    return objective.value(params, batch, model_state=model_state, key=key)


def trial(objective: Objective, state: State):
    """A function of a batch that traces the loss of it, without computing anything: it raises what the loss raises."""
    shapes = jax.eval_shape(lambda: state)  # the arrays themselves are given away to the first segment of a run
    return lambda batch: jax.eval_shape(lambda s, b: value(objective, s.params, s.model_state, b, step_key(objective, s)), shapes, batch)


def held_out(objective: Objective, params, model_state, data, key):
    """The loss of data in memory, or of the batches of a stream that were kept: their mean, each counted by its rows."""
    if not isinstance(data, Stacks):
        return value(objective, params, model_state, data, key)[0]
    of_batch = lambda batch: value(objective, params, model_state, batch, key)[0].astype(tree.dtype_of(params))  # noqa: E731
    rows = [np.shape(jax.tree.leaves(stack)[0])[:2] for stack in data.batches]
    sums = [each * jnp.sum(jax.lax.map(of_batch, stack)) for (_, each), stack in zip(rows, data.batches, strict=True)]
    return sum(sums[1:], sums[0]) / sum(batches * each for batches, each in rows)


def _value(objective, params, fixed):
    # What the loss closes over may be differentiated too: a rule for derivatives sees its arguments only, so they are made arguments.
    seen_at, closed_over = jax.closure_convert(lambda params, fixed: value_and_grad(objective, params, *fixed), params, fixed)
    return _value_of(seen_at, params, (fixed, *closed_over))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _value_of(seen_at, params, fixed):
    return seen_at(params, *fixed).value


@functools.partial(_value_of.defjvp, symbolic_zeros=True)
def _value_jvp(seen_at, primals, tangents):
    # Line searches differentiate value_fn. The gradient is in hand, so its derivative along a direction is an inner product, not another trace of the loss.
    (params, fixed), zero = primals, jax.custom_derivatives.SymbolicZero
    seen = seen_at(params, *fixed)
    moves = jax.tree.map(lambda t, g: jnp.zeros_like(g) if isinstance(t, zero) else t, tangents[0], seen.grads, is_leaf=lambda t: isinstance(t, zero))
    slope = tree.vdot(seen.grads, moves).astype(seen.value.dtype)
    leaves, structure = jax.tree.flatten(fixed)
    moving = {i: t for i, t in enumerate(jax.tree.leaves(tangents[1], is_leaf=lambda t: isinstance(t, zero))) if not isinstance(t, zero)}
    if not moving:
        return seen.value, slope

    def at(*some):  # the loss, of those data and numbers that are differentiated
        all_leaves = [dict(zip(moving, some, strict=True)).get(i, leaf) for i, leaf in enumerate(leaves)]
        return seen_at(params, *jax.tree.unflatten(structure, all_leaves)).value

    return seen.value, slope + jax.jvp(at, [leaves[i] for i in moving], list(moving.values()))[1]


def step_key(objective: Objective, state: State):
    """The key of this step, or None for losses that take none."""
    return jax.random.fold_in(state.key, state.step) if objective.stochastic else None


def _field(rule_state, name: str) -> Any:
    try:
        return optax.tree_utils.tree_get(rule_state, name, None)
    except KeyError:  # several of that name
        return None


def _evaluations(rule_state, default=None) -> Any:
    """The evaluations a rule and those within it have counted, or the default where none counts."""
    found = [count for _, count in optax.tree_utils.tree_get_all_with_path(rule_state, "evaluations") if count is not None]
    return jnp.asarray(sum(found[1:], found[0]), jnp.int32) if found else default


def _kept(rule_state):
    # Only the member of a chain that moves last knows where the params went.
    while type(rule_state) is tuple and rule_state:
        rule_state = rule_state[-1]
    return getattr(rule_state, "value", None), getattr(rule_state, "grad", None)


def evaluate(objective, rule, state: State, batch: Batch, weights=None, reuse: bool = False) -> tuple[Evaluation, Any]:
    """Value and gradient at the state's params, and how many evaluations that took.

    With ``reuse`` (the same batch as the step before), a rule that has already evaluated the point it moved to keeps ``value`` and ``grad`` in its state.
    """
    inputs = (state.params, state.model_state, batch, step_key(objective, state), weights)
    value, grad = _kept(state.rule_state) if reuse else (None, None)
    moving = objective.has_aux or objective.stateful or objective.stochastic
    if moving or value is None or grad is None or jax.tree.structure(grad) != jax.tree.structure(state.params):
        return value_and_grad(objective, *inputs), jnp.int32(1)
    shape = jax.eval_shape(functools.partial(value_and_grad, objective), *inputs)
    kept = Evaluation(jnp.asarray(value, shape.value.dtype), tree.cast_like(grad, state.params), state.model_state, None)
    known = jnp.isfinite(kept.value)
    seen = lanes.when(~known, lambda _, kept: value_and_grad(objective, *inputs), kept)
    return seen, jnp.where(known, 0, 1).astype(jnp.int32)


def advance(objective, rule, state: State, seen: Evaluation, batch: Batch, weights=None, **extra) -> tuple[State, Any, Any]:
    """One step of the rule from what was seen: the new state, the updates, and how many evaluations the rule made itself."""
    fixed, calls = (state.model_state, batch, step_key(objective, state), weights), [0]

    def value_fn(params):
        calls[0] += 1
        return _value(objective, params, fixed)

    def value_and_grad_fn(params):
        calls[0] += 1
        there = value_and_grad(objective, params, *fixed)
        return there.value, there.grads

    offered = dict(value=seen.value, grad=seen.grads, value_fn=_named(value_fn), value_and_grad_fn=value_and_grad_fn, **extra)
    updates, rule_state = rule.update(seen.grads, state.rule_state, state.params, **offered)
    more = _own_evaluations(state.rule_state, rule_state, calls[0])
    rule_state = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), rule_state, state.rule_state)
    _check_updates(rule, updates, state.params)
    params = tree.add(state.params, updates)
    return State(params, rule_state, seen.model_state, state.key, state.step + 1, state.evaluations), updates, more


def _check_updates(rule, updates, params) -> None:
    """An error, at trace time, for updates that are not like the params."""

    def shapes(t):
        return jax.tree.structure(t), [jnp.shape(x) for x in jax.tree.leaves(t)]

    if shapes(updates) != shapes(params):
        raise ValueError(
            f"{rule!r} made updates of shapes {shapes(updates)[1]} for params of shapes {shapes(params)[1]}; wanted updates like the params. If its "
            "numbers are arrays, as in a sweep, map over it: jax.vmap(lambda rule: gdjax.minimize(loss, params, rule))(rule)."
        )


def _named(value_fn):
    # optax's line searches refuse extra arguments that value_fn does not name; they change nothing here.
    def value(
        params, *, value_and_grad_fn=None, indices=None, num_examples=None, batch_size=None, full_value_and_grad_fn=None, example_grads_fn=None, examples=None
    ):
        return value_fn(params)

    return value


def evaluates_itself(objective, rule, state: State, batch: Batch) -> bool:
    """Whether the rule evaluates the loss in its own update (line searches, two-point rules): by tracing the update, which runs nothing."""
    seen = jax.eval_shape(functools.partial(value_and_grad, objective), state.params, state.model_state, batch, step_key(objective, state), None)
    calls = [0]

    def count(params, **_):
        calls[0] += 1
        return jnp.zeros(seen.value.shape, seen.value.dtype)

    def count_both(params):
        return count(params), tree.zeros_like(params)

    offered = dict(value=seen.value, grad=seen.grads)
    update = lambda o, s: rule.update(o["grad"], s.rule_state, s.params, value_fn=_named(count), value_and_grad_fn=count_both, **o)  # noqa: E731
    jax.eval_shape(update, offered, state)
    return calls[0] > 0


def _own_evaluations(before: RuleState, after: RuleState, calls: int):
    """Evaluations a rule made in its update: from its own counters, from optax's line searches, or by counting calls."""
    if _evaluations(after) is not None:
        return _evaluations(after) - _evaluations(before)
    if calls and _field(after, "num_linesearch_steps") is not None:
        return jnp.asarray(_field(after, "num_linesearch_steps"), jnp.int32)
    return jnp.int32(calls)


def _within(rule_state, kept) -> list[Any]:
    """The states of one kind in a rule's state."""
    return [state for state in jax.tree.leaves(rule_state, is_leaf=kept) if kept(state)]


def _rate(rule: Rule, rule_state) -> Any:
    """Where a learning rate is to be read: a number in the state, or an argument, which may be a schedule; or None."""
    injected = [state.hyperparams for state in _within(rule_state, lambda x: hasattr(x, "hyperparams"))]
    kept = next((numbers["learning_rate"] for numbers in injected if "learning_rate" in numbers), None)
    kept = _field(rule_state, "learning_rate") if kept is None else kept
    return kept if kept is not None and jnp.ndim(kept) == 0 else argument_of(rule, "learning_rate")


def _steps_of_schedules(rule_state) -> Any:
    """The count that schedules are asked at; or None."""
    counts = [state.count for state in _within(rule_state, lambda x: isinstance(x, optax.ScaleByScheduleState))]
    counts = counts if len(counts) == 1 else [_field(rule_state, "step"), _field(rule_state, "count")]
    return next((count for count in counts if count is not None), None)


def check_rate(history: Any, rule: Any, params: Params) -> None:
    """An error where a learning rate is to be recorded that cannot be read, since the rule was made without us."""
    if "learning_rate" not in history or not hides_arguments(rule) or rule.init_takes_more:
        return
    if _rate(rule, jax.eval_shape(rule.init, params)) is None:
        raise ValueError(
            f'history names "learning_rate", which cannot be read from {short(rule)}: optax keeps it to itself. Wanted a rule that shows it: '
            'type gdjax.rule(optax.adam)(1e-3), or optax.inject_hyperparams(optax.adam)(learning_rate=1e-3), or leave "learning_rate" out.'
        )


def learning_rate(rule: Rule, before: RuleState, after: RuleState, back: int = 0):
    """The learning rate of the step taken ``back`` steps before the state ``before``.

    From the new state if the rule keeps it there, ``optax.inject_hyperparams`` included, else from its arguments; NaN where it has none.
    """
    given = _rate(rule, after)
    if callable(given):
        count = _steps_of_schedules(before)
        given = jnp.nan if count is None else given(count - back)
    number: Any = jnp.nan if given is None else given
    number = np.nan if np.ndim(number) else number
    return np.float32(number) if isinstance(number, (float, int, np.generic)) else jnp.asarray(number, jnp.float32)
