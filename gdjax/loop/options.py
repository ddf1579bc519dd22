"""The checks that both doors make, before anything is computed."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import data as sources, stop as stopping, tree
from gdjax.arguments import short
from gdjax.checks import check_choice, check_count, check_names
from gdjax.loop.deterministic import HISTORY
from gdjax.loop.setting import check_setting, with_key
from gdjax.result import Result

DIFFERENTIATE = ("implicit", "unroll")
KEEP = ("last", "best")


def check_options(history, record_every, max_steps, differentiate="implicit") -> None:
    """Errors for options of a full-batch run that name nothing."""
    check_history(history, HISTORY)
    check_count("record_every", record_every, 1)
    check_count("max_steps", max_steps, 0)
    check_choice("differentiate", differentiate, DIFFERENTIATE, "unroll")


def check_history(history, known) -> None:
    """An error for a name that is not recorded."""
    check_names("history", history, known, 'history=("value", "grad_norm")')


def check_length(stream, batch_size, count, epochs, steps) -> None:
    """Errors for batches and lengths of a fit that cannot be."""
    if batch_size is not None:
        check_count("batch_size", batch_size, 1)
    if stream and batch_size is not None:
        raise ValueError(f"batch_size is {batch_size} with a stream, which makes the batches itself; wanted batch_size=None.")
    if batch_size is not None and batch_size > count:
        raise ValueError(f"batch_size is {batch_size}, but data has {count} examples; wanted 1 <= batch_size <= {count}, or batch_size=None for all of them.")
    if (epochs is None) == (steps is None):
        given = "neither epochs nor steps was given" if epochs is None else f"both epochs={short(epochs)} and steps={short(steps)} were given"
        raise ValueError(f"{given}; wanted one of the two, the length of the run: type epochs=10 or steps=1000.")
    check_count("epochs" if steps is None else "steps", epochs if steps is None else steps, 0)


def check_services(keep, patience, shuffle, callbacks, checkpoint, stop, record_every) -> None:
    """Errors for options of a fit that name nothing."""
    check_choice("keep", keep, KEEP, "best")
    check_choice("shuffle", shuffle, sources.ORDERS, "epoch")
    for name, value in {"patience": patience, "record_every": record_every}.items():
        if value is not None:
            check_count(name, value, 1)
    if not isinstance(callbacks, (tuple, list)) or any(not callable(callback) for callback in callbacks):
        raise TypeError(f"callbacks is {short(callbacks)}; wanted a tuple of functions of a report: type callbacks=(callback,).")
    if checkpoint is not None and not callable(checkpoint):
        raise TypeError(f"checkpoint is {short(checkpoint)}; wanted a function of the state: type checkpoint=lambda state: save(state).")
    if stop is not None and not isinstance(stop, stopping.Stop):
        raise TypeError(f"stop is {short(stop)}; wanted a stopping rule: type stop=gdjax.stop.target(0.1).")
    if stop is not None:
        check_scalars("stop", stop)


def check_validation(validation, data) -> Any:
    """Validation data as arrays, or the batches of a stream; an error where the loss would read them otherwise than the data.

    ``data`` is None for streams, whose batches are not known yet.
    """
    if validation is None:
        return None
    if sources.is_stream(validation):
        validation = sources.read(validation, "validation")
        _check_alike(jax.tree.map(lambda x: x[0], validation.batches[0]), data)
        return validation
    validation = sources.as_examples(validation, "validation")
    _check_alike(validation, data)
    return validation


def _check_alike(validation, data) -> None:
    if data is None:
        return
    mine, theirs = (jax.tree_util.tree_leaves_with_path(x) for x in (validation, data))
    if [path for path, _ in mine] != [path for path, _ in theirs]:
        got, wanted = jax.tree.structure(validation), jax.tree.structure(data)
        raise ValueError(f"validation has the structure {got}; wanted that of data, {wanted}: type validation=(X_validation, y_validation), for example.")
    for (path, my_leaf), (_, their_leaf) in zip(mine, theirs, strict=True):
        if my_leaf.shape[1:] != their_leaf.shape[1:]:
            where = f"validation{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where} has rows of shape {my_leaf.shape[1:]}; wanted {their_leaf.shape[1:]}, as in data: check how the two were split.")


def check_stop_kind(stop) -> None:
    """An error for rules about the full gradient in a run that never sees it."""
    named = [] if stop is None else [m for m in stop.members() if m.build().needs_gradient]
    if named:
        raise ValueError(
            f"stop has {named[0]!r} with mini-batches, whose gradients do not vanish at a minimum; "
            "wanted a rule about the loss: type stop=gdjax.stop.plateau(10), patience=10, or batch_size=None."
        )


def warn_of_no_epoch(steps: int, per_epoch: int | None, patience, stop) -> None:
    """A warning where what is asked at the end of every epoch is never asked; ``per_epoch`` is None for a stream that has not ended."""
    asked = ["patience"] if patience else []
    asked += ["stop"] if stop is not None and any(member.build().seconds is None for member in stop.members()) else []
    if not asked or (per_epoch is not None and steps >= per_epoch):
        return
    epoch = "the stream had not ended then" if per_epoch is None else f"an epoch has {per_epoch}"
    mend = (
        "let it end after as many batches as there should be between two looks, as itertools.islice(batches, 1000) does"
        if per_epoch is None
        else f"type steps={10 * per_epoch} or epochs=10"
    )
    warnings.warn(
        f"No epoch ended in {steps} steps ({epoch}), so {' and '.join(asked)}, asked at the end of every epoch, had no say; {mend}, or leave them out.",
        stacklevel=4,
    )


def check_pure(stop, stream, callbacks, checkpoint, progress) -> None:
    """Errors for services of the host asked of ``fit`` inside a trace."""
    asked = {"data is a stream": stream, "callbacks were given": bool(callbacks), "checkpoint was given": checkpoint is not None}
    for what in (what for what, there in asked.items() if there):
        raise ValueError(f"{what} inside jit, vmap or grad, where fit is one pure program without a host; wanted no host services: call fit outside.")
    check_no_host(stop, progress, "fit")


def recorded(history, known, validation) -> tuple[str, ...]:
    """The names to be recorded: those asked for, and the validation loss where there is one."""
    check_history(history, known)
    return tuple(history) if validation is None or "validation" in history else (*history, "validation")


def check_not_past(resume, epochs, steps) -> None:
    """An error for a run shorter than what has been made of it."""
    if resume is None or tree.is_traced(resume.progress):
        return
    made = int(resume.progress.state.step)
    past = [("epochs", epochs, int(getattr(resume.progress, "epochs", 0))), ("steps", steps, made)]
    for name, asked, done in past:
        if asked is not None and asked < done:
            raise ValueError(
                f"resume is the state of a run of {done} {name}, but {name}={asked}, which is the length of the whole run, was asked for; "
                f"wanted at least as many: type {name}={2 * done}, for example."
            )


def check_resume(resume, kind, params, rule, stop, best=(), key=None, draws=False, offered=None, setting=None) -> Any:
    """The state of an earlier run of the same kind, for params, a rule and a stopping rule of the same form, with its key again; or None.

    ``draws``: something is drawn from the key. ``setting``: what must be as in that run.
    """
    if resume is not None and not isinstance(resume, kind):
        hint = "the result itself was given: type resume=result.state" if isinstance(resume, Result) else "type resume=result.state"
        raise TypeError(f"resume is a {type(resume).__module__}.{type(resume).__name__}; wanted the state of an earlier run of the same kind: {hint}.")
    if resume is None:
        return None
    before = resume.progress
    _check_same("params", before.state.params, params)
    _check_same("the state of the rule", before.state.rule_state, jax.eval_shape(lambda p: rule.init(p, **(offered or {})), params))
    _check_same("the state of the stopping rule", before.stop_state, () if stop is None else jax.eval_shape(stop.build().init))
    _check_same('what keep="best" keeps', _kept(resume), best)
    if setting is not None:
        check_setting(resume.setting, setting)
    return resume._replace(progress=before._replace(state=with_key(before.state, key, draws)))


def _kept(resume) -> Any:
    """The best params of an earlier run, where it kept them."""
    if hasattr(resume.progress, "best"):
        return resume.progress.best.params
    return resume.watched.best[0] if resume.watched and resume.watched.best else ()


def _check_same(what, before, now) -> None:
    had, wanted = (jax.tree.map(lambda x: f"{jnp.result_type(x)}{list(jnp.shape(x))}", t) for t in (before, now))
    if jax.tree.structure(had) != jax.tree.structure(wanted) or jax.tree.leaves(had) != jax.tree.leaves(wanted):
        raise ValueError(
            f"resume is the state of another run: in it {what} has the form {had}, here {wanted}; "
            "wanted the same params, rule, stop and keep as in the run that is resumed, or leave resume out."
        )


def stopping_rule(tol, stop, params) -> stopping.Stop:
    """The stopping rule that tol and stop stand for."""
    if stop is not None and not isinstance(stop, stopping.Stop):
        raise TypeError(f"stop is {short(stop)}; wanted a stopping rule: type stop=gdjax.stop.grad_norm(1e-6).")
    if stop is not None:
        check_scalars("stop", stop)
    if tol is None:
        return default_stop(params) if stop is None else stop
    try:
        by_norm = stopping.grad_norm(tol)
    except (TypeError, ValueError) as error:
        raise type(error)(f"tol is {short(tol)}; wanted a number >= 0: type tol=1e-6.") from None
    check_scalars("tol", by_norm)
    return by_norm if stop is None else by_norm | stop


def check_scalars(argument, stop) -> None:
    """An error for a stopping rule of several numbers where one run is made."""
    shapes = [jnp.shape(x) for x in stop.leaves if jnp.ndim(x)]
    if shapes:
        raise ValueError(f"{argument} has numbers of shape {shapes[0]}; wanted scalars, shape (): map over them with jax.vmap, or take one.")


def default_stop(params) -> stopping.Stop:
    """``stop.stationary``, with an accuracy by the narrowest dtype of the params."""
    eps = max(float(jnp.finfo(jnp.result_type(x)).eps) for x in jax.tree.leaves(params))
    return stopping.stationary(1e-8 if eps < 1e-12 else 1e-5 if eps < 1e-6 else 1e-2)


def check_no_host(stop, progress, door) -> None:
    """Errors for services of the host asked for inside a trace."""
    if progress:
        raise ValueError(f"progress=True inside jit, vmap or grad, where {door} is one pure program; wanted progress=None or False there.")
    if any(member.build().seconds is not None for member in (stop.members() if stop is not None else ())):
        raise ValueError(f"stop.time_limit inside jit, vmap or grad, where {door} is one pure program and has no clock; limit max_steps or steps instead.")
