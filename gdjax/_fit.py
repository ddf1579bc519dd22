"""``fit``: descent on data, full batch or mini-batches, compiled whole; and ``evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import data as sources, tree
from gdjax.checks import check_count, check_model_state, check_params
from gdjax.contexts import undisturbed
from gdjax.loop import batches, deterministic, full_batch, host, mini_batch, options as check, step as stepping, stochastic, traced, traced_batches
from gdjax.loop.epochs import Services
from gdjax.loop.setting import setting_of
from gdjax.objective import declared, leading
from gdjax.result import Result
from gdjax.rule import one_rule
from gdjax.stop import Stop
from gdjax.typing import Callback, ChunkSize, Data, Keep, LossFn, ModelState, Params, Recorded, RecordedOfBatches, Seed, Shuffle, Transformation

default_rule: Any = None  # a function of the number of steps (or None) that returns it, bound by gdjax/__init__.py: drivers know no rule by name
default_full_batch_rule: Any = None


@undisturbed
def fit(
    loss_fn: LossFn, params: Params, data: Data, rule: Transformation | None = None, *,
    batch_size: int | None, epochs: int | None = None, steps: int | None = None, key: Seed | None = None,
    shuffle: Shuffle = "epoch", chunk_size: ChunkSize = "auto", stop: Stop | None = None,
    history: Sequence[Recorded | RecordedOfBatches] = ("value", "grad_norm"), record_every: int | None = None,
    validation: Data | None = None, patience: int | None = None, keep: Keep = "last",
    has_aux: bool = False, stochastic: bool = False, model_state: ModelState = None,
    callbacks: Sequence[Callback] = (), progress: bool | None = None, checkpoint: Callable[[Any], Any] | None = None, resume: Any = None,
) -> Result:  # fmt: skip
    """Fits params to data by gradient descent (``batch_size=None``: the entire data set) or stochastic gradient descent (an int; 1: single examples).

    A step takes a batch B, the gradient g of the mean loss over B, and moves: x ← x + u, where the rule makes u of g. The whole run is compiled; with the
    host's services (progress, callbacks, checkpoints, streams) it is cut into segments of many steps.

    Args:
        loss_fn: ``loss_fn(params, [model_state,] batch, [key]) -> loss | (loss, aux) | (loss, (model_state, aux))``: a mean over the batch; or a
            ``gdjax.finite_sum``, with which chunks and ragged last batches are exact.
        params: a pytree of real floating arrays; not modified or donated.
        data: a pytree of arrays with a common leading axis n, or a re-iterable stream of batches (then ``batch_size=None``: the stream makes the batches).
            Arrays are JAX's, NumPy's, PyTorch's tensors, pandas tables of numbers, and what else makes NumPy arrays. Streams are PyTorch's DataLoaders, objects
            with ``__iter__``, and lists of batches: a list whose first entry is a tuple, list or dict of arrays, ``[(X1, y1), (X2, y2), …]``, is one, while
            ``(X, y)`` and ``[X, y]`` are pytrees of arrays. Batches are alike but for the number of rows (and what shapes the loss can take), and are copied
            when read. Arrays are not copied, since they may be large, unless callbacks or checkpoints could change them during the run.
        rule: a rule or any optax transformation. None takes a rule that needs no learning rate: for full batches the default of ``minimize``; for mini-batches
            ``gdjax.parameter_free_adam(steps)``, whose step sizes fall to zero over the run (over no given length, for streams without ``steps``, where the
            average of the last points is returned). ``result.rule`` says which; a run resumed to another length keeps its decay with ``rule=result.rule``.
        batch_size: examples per step, 1 ≤ batch_size ≤ n; None for all of them.
        epochs: how long, in passes over the data; a total of the run, resumed parts included. An epoch is ⌈n / batch_size⌉ steps: its last batch is filled up
            with the first rows of its order, which have weight 0 in a finite sum.
        steps: how long, in updates, instead of ``epochs``.
        key: a seed or key for the order of the data and for ``stochastic`` losses; needed where one of them is.
        shuffle: "epoch" (a fresh permutation every epoch, by folding the epoch into the key), "replacement", or False (as they come).
        chunk_size: rows per block of a full-batch gradient. "auto" leaves opaque losses whole and takes finite sums of more than 4 MB apart by what the loss
            makes of a row: linear models in parts of about a core's cache, on all cores at once; networks in blocks one after another, in little memory; rows
            spread over devices where they are; on an accelerator, blocks as large as its memory allows. An int blocks either (for an opaque mean you vouch
            that it is one); None never.
        stop: a stopping rule, asked at the end of every epoch (a warning says where none ends). For full batches it is asked at every step and defaults to
            ``stop.stationary``, as in ``minimize``.
        history: of "value", "grad_norm", "learning_rate", "evaluations", "validation" (full batches: see ``minimize``). With ``validation`` data their loss
            is recorded whether it is named or not.
        record_every: steps between records; the value recorded is the mean since the last one. None: once an epoch.
        validation: data whose loss is taken at the end of every epoch (full batches: at every point evaluated, the start included); it decides ``patience`` and
            ``keep="best"``. A stream is read once, at the start, and kept: the loss is the mean over its batches, each counted by its rows. A run that ends
            amid an epoch is looked at there too, by callbacks and checkpoints as well, so that shorter runs and streams without an end are not passed over.
        patience: STOPPED after so many epochs without a better validation loss (without validation: mean training loss; full batches: the loss).
        keep: "last", or "best": the params at the end of the best epoch.
        has_aux: the loss returns aux beside its value.
        stochastic: the loss takes a key, folded anew at every step.
        model_state: a pytree carried from step to step through the loss, such as batch statistics.
        callbacks: functions of a report (``step, epoch, value, validation, params, model_state``), called at the end of every epoch, which for full batches
            is a step; one that returns True stops the run. ``value`` is the mean training loss of the epoch; for full batches the loss at ``params``. Neither
            callbacks nor the other services change what a run computes.
        progress: True or False, or None for a bar on a terminal once the run has taken two seconds. Needs the extra ``progress``.
        checkpoint: a function called with the resumable state at the end of every epoch.
        resume: ``result.state`` of an earlier run; with the same arguments, N steps and M more are N + M steps bit for bit. It holds the params, and its rows
            of history are kept. Other batches, data of another length, another key, rule or (by its code) loss are refused, as is a length that is behind it.
            It is a pytree of plain arrays: ``np.savez``, pickle and checkpoint libraries take its leaves.

    Returns:
        A ``Result``. Mini-batches: ``value`` is the mean over the last epoch as seen in training, ``grad_norm`` that of the last batch; ``gdjax.evaluate``
        gives the exact loss.

    The first Ctrl-C or SIGTERM ends a run INTERRUPTED, with the result so far, within a quarter of a second or a step; the second is obeyed at once; handlers
    of your own are left alone. An exception that ends a run, in a callback for example, has the result so far as its attribute ``result``.

    Raises:
        TypeError, ValueError: bad arguments, named with what is wanted, before anything is computed.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> X = jnp.linspace(-1.0, 1.0, 100)
        >>> loss = lambda w, batch: jnp.mean((w[0] + w[1] * batch[0] - batch[1]) ** 2)
        >>> result = gdjax.fit(loss, jnp.zeros(2), (X, 1 + 2 * X), gdjax.sgd(0.1), batch_size=10, epochs=50, key=0)
        >>> print(result.status.name, int(result.steps), jnp.round(result.params, 2))
        MAX_STEPS 500 [1. 2.]
    """
    stream = sources.is_stream(data)
    objective = declared(loss_fn, has_aux, stochastic, model_state, chunk_size)
    params = check_params(params)
    data = data if stream else sources.as_examples(data)
    count = None if stream else leading(data)
    check.check_length(stream, batch_size, count, epochs, steps)
    batch_size, epochs, steps = (None if n is None else int(n) for n in (batch_size, epochs, steps))  # NumPy integers too
    check.check_services(keep, patience, shuffle, callbacks, checkpoint, stop, record_every)
    validation = check.check_validation(validation, None if stream else data)
    model_state = check_model_state(model_state)
    if callbacks or checkpoint is not None:  # the user's code runs between segments, and may change what it owns
        data, validation = (data if stream else sources.copied(data)), sources.copied(validation)
    whole = batch_size is None and not stream
    key = _key(key, stochastic, bool(shuffle) and not whole and not stream)
    inside = host.under_trace(loss_fn, params, rule, None if stream else data, key, model_state, stop, validation, resume)
    if inside:
        check.check_pure(stop, stream, callbacks, checkpoint, progress)
    common = dict(objective=objective, params=params, key=key, model_state=model_state, resume=resume)
    if whole:
        services = Services(validation, patience or 0, keep == "best", tuple(callbacks), checkpoint)
        return _full_batch(inside, rule, data, epochs if steps is None else steps, stop, history, record_every, progress, services, **common)
    plan = _plan(objective, history, batch_size, count, bool(shuffle), keep, validation, bool(record_every))
    plan = plan._replace(independent=shuffle == "replacement" and plan.source == "rows")
    per_epoch = None if count is None else sources.steps_per_epoch(count, plan.batch_size)
    total = _steps(steps, epochs, per_epoch)
    setting = setting_of(loss_fn, batch_size, count, shuffle)
    asked = mini_batch.Options(total, epochs, per_epoch, shuffle, record_every or 0, patience or 0, tuple(callbacks), checkpoint, progress, setting)
    check.check_stop_kind(stop)
    rule = default_rule(total) if rule is None else one_rule(rule)
    stepping.check_rate(plan.names, rule, params)
    return _mini_batches(inside, plan, asked, rule, params, data, key, model_state, stop, validation, resume)


def _steps(steps, epochs, per_epoch) -> int | None:
    """The number of steps, where it is known before the run."""
    total = steps if steps is not None or epochs is None or per_epoch is None else epochs * per_epoch
    return None if total is None else check_count("steps" if steps is not None else "epochs × steps per epoch", total, 0)


def _mini_batches(inside, plan, asked, rule, params, data, key, model_state, stop, validation, resume) -> Result:
    """A run of batches, in memory or from a stream."""
    offered = {} if resume is None else batches.offered_at_start(plan, rule, data, key)
    draws = plan.objective.stochastic or plan.source == "rows"
    resume = check.check_resume(resume, mini_batch.Resumable, params, rule, stop, params if plan.keep_best else (), key, draws, offered, asked.setting)
    check.check_not_past(resume, asked.epochs, asked.steps)
    if inside:
        return traced_batches.run(plan, asked, rule, params, data, key, model_state, stop, validation, resume)
    if asked.per_epoch is not None:
        check.warn_of_no_epoch(asked.steps, asked.per_epoch, asked.patience, stop)
    result = mini_batch.on_host(plan, asked, rule, params, data, key, model_state, stop, validation, resume)
    if asked.per_epoch is None and int(result.state.progress.epochs) == 0:
        check.warn_of_no_epoch(int(result.steps), None, asked.patience, stop)
    return result


def _plan(objective, history, batch_size, count, shuffled, keep, validation, records) -> batches.Plan:
    """What the program of a mini-batch run is compiled for; ``count`` is None for streams."""
    return batches.Plan(
        objective=objective,
        names=check.recorded(history, stochastic.HISTORY, validation),
        batch_size=batch_size or count or stochastic.FUSED_BELOW,
        count=count or 0,
        source="stream" if count is None else "rows" if shuffled else "order",
        keep_best=keep == "best",
        validate=validation is not None,
        records=records,
        guard=False,
    )


def _key(key, stochastic: bool, shuffled: bool):
    if key is None and not stochastic and not shuffled:
        return None
    return sources.check_key(key, "the loss is stochastic" if stochastic else "the order of the data is drawn from it")


def _full_batch(inside, rule, data, steps, stop, history, record_every, progress, services, *, objective, params, key, model_state, resume) -> Result:
    """The whole data set at every step: the same loop as ``minimize``."""
    names = check.recorded(history, (*deterministic.HISTORY, "validation"), services.validation)
    check_count("max_steps", steps, 0)
    rule = default_full_batch_rule() if rule is None else one_rule(rule)
    stepping.check_rate(names, rule, params)
    stop = check.stopping_rule(None, stop, params)
    resume = check.check_resume(resume, full_batch.Resumable, params, rule, stop, params if services.keep_best else (), key, objective.stochastic)
    run: dict[str, Any] = dict(
        objective=objective,
        rule=rule,
        params=params,
        batch=data,
        key=key,
        model_state=model_state,
        stop=stop,
        max_steps=int(steps),
        names=names,
        record_every=int(record_every or 1),
        resume=resume,
        services=services,
    )
    return traced.run(**run, differentiate="unroll") if inside else full_batch.on_host(**run, progress=progress)


@undisturbed
def evaluate(
    loss_fn: LossFn,
    params: Params,
    data: Data,
    *,
    has_aux: bool = False,
    model_state: ModelState = None,
    key: Seed | None = None,
    chunk_size: ChunkSize = "auto",
) -> Any:
    """The exact mean loss over all data, in blocks for a ``finite_sum`` (or an int ``chunk_size``).

    Args:
        loss_fn: as in ``fit``.
        params: where.
        data: a pytree of arrays with a common leading axis; or a stream of batches, of which one pass is made and each batch counted by its rows.
        has_aux: the loss returns aux beside its value (not for streams).
        model_state: as in ``fit``.
        key: for losses that take one; given, it is passed.
        chunk_size: rows per block, as in ``fit``.

    Returns:
        The loss, shape (); with ``has_aux``, (loss, aux).

    Raises:
        TypeError, ValueError: as in ``fit``.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> loss = gdjax.finite_sum(lambda w, x: (w - x) ** 2)
        >>> print(gdjax.evaluate(loss, 1.0, jnp.array([0.0, 1.0, 2.0, 5.0])))
        4.5
    """
    key = None if key is None else sources.check_key(key, "the loss takes one")
    objective = declared(loss_fn, has_aux, key is not None, model_state, chunk_size)
    params, model_state = check_params(params), check_model_state(model_state)
    if sources.is_stream(data):
        if objective.has_aux:
            raise ValueError("evaluate: has_aux=True with a stream, whose batches have an aux each; wanted has_aux=False, or arrays: type data=(X, y).")
        return _of_stream(objective, params, model_state, data, key)
    data = sources.as_examples(data)
    data = jax.tree.map(jnp.asarray, data)
    seen = stepping.value(objective.laid_out(data), params, model_state, data, key)
    return seen if has_aux else seen[0]


def _of_stream(objective, params, model_state, data, key):
    """The mean over one pass, each batch counted by its rows."""
    stream, total, count = sources.Stream(data), 0.0, 0
    while stream.epoch < 0 or not stream.epoch_is_over:
        batch = stream.take()
        rows = leading(batch)
        value = stepping.value(objective, params, model_state, batch, key)[0]
        total += rows * value.astype(tree.dtype_of(value))
        count += rows
    return total / count
