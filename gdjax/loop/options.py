"""The checks that both doors make, before anything is computed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import data as sources, stop as stopping
from gdjax.loop.deterministic import HISTORY
from gdjax.result import Result

DIFFERENTIATE = ("implicit", "unroll")


def check_callable(fun, name):
    """The loss, if it can be called and hashed."""
    if not callable(fun):
        raise TypeError(f"{name} is {fun!r}; wanted a function of params that returns a scalar loss: type lambda w: jnp.sum(w**2), for example.")
    try:
        hash(fun)
    except TypeError:
        raise TypeError(f"{name} ({type(fun).__name__}) is not hashable, so its compilation cannot be kept; wrap it: lambda *a: {name}(*a).") from None
    return fun


def check_options(history, record_every, max_steps, differentiate="implicit") -> None:
    """Errors for options of a full-batch run that name nothing."""
    check_history(history, HISTORY)
    check_count("record_every", record_every, 1)
    check_count("max_steps", max_steps, 0)
    if differentiate not in DIFFERENTIATE:
        raise ValueError(f'differentiate is {differentiate!r}; wanted one of {", ".join(DIFFERENTIATE)}: type differentiate="unroll".')


def check_history(history, known) -> None:
    """An error for a name that is not recorded."""
    if isinstance(history, str) or any(name not in known for name in history):
        wrong = history if isinstance(history, str) else next(name for name in history if name not in known)
        raise ValueError(f'history names {wrong!r}; wanted a tuple of {", ".join(known)}: type history=("value", "grad_norm").')


def check_count(name, value, low) -> None:
    """An error for anything but an integer from ``low`` on."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ValueError(f"{name} is {value!r}; wanted an integer >= {low}: type {name}={max(low, 100)}.")


def check_length(stream, batch_size, count, epochs, steps) -> None:
    """Errors for batches and lengths of a fit that cannot be."""
    if batch_size is not None:
        check_count("batch_size", batch_size, 1)
    if stream and batch_size is not None:
        raise ValueError(f"batch_size is {batch_size} with a stream, which makes the batches itself; wanted batch_size=None.")
    if batch_size is not None and batch_size > count:
        raise ValueError(f"batch_size is {batch_size}, but data has {count} examples; wanted 1 <= batch_size <= {count}, or batch_size=None for all of them.")
    if (epochs is None) == (steps is None):
        given = "neither epochs nor steps was given" if epochs is None else f"both epochs={epochs} and steps={steps} were given"
        raise ValueError(f"{given}; wanted one of the two, the length of the run: type epochs=10 or steps=1000.")
    check_count("epochs" if steps is None else "steps", epochs if steps is None else steps, 0)


def check_services(keep, patience, shuffle, callbacks, checkpoint, stop, validation) -> None:
    """Errors for options of a fit that name nothing."""
    if keep not in ("last", "best"):
        raise ValueError(f'keep is {keep!r}; wanted "last" or "best": type keep="best".')
    if shuffle is True or shuffle not in sources.ORDERS:
        raise ValueError(f'shuffle is {shuffle!r}; wanted "epoch", "replacement" or False: type shuffle="epoch".')
    if patience is not None:
        check_count("patience", patience, 1)
    if callable(callbacks) or any(not callable(callback) for callback in callbacks):
        raise TypeError(f"callbacks is {callbacks!r}; wanted a tuple of functions of a report: type callbacks=(callback,).")
    if checkpoint is not None and not callable(checkpoint):
        raise TypeError(f"checkpoint is {checkpoint!r}; wanted a function of the state: type checkpoint=lambda state: save(state).")
    if stop is not None and not isinstance(stop, stopping.Stop):
        raise TypeError(f"stop is {stop!r}; wanted a stopping rule: type stop=gdjax.stop.target(0.1).")
    if validation is not None:
        sources.check_data(validation, "validation")


def check_stop_kind(stop, whole: bool) -> None:
    """An error for rules about the full gradient in a run that never sees it."""
    named = [] if stop is None or whole else [m for m in stop.members() if m.build().needs_gradient]
    if named:
        raise ValueError(
            f"stop has {named[0]!r} with mini-batches, whose gradients do not vanish at a minimum; "
            "wanted a rule about the loss: type stop=gdjax.stop.plateau(10), patience=10, or batch_size=None."
        )


def check_pure(stop, stream, callbacks, checkpoint, progress) -> None:
    """Errors for services of the host asked of ``fit`` inside a trace."""
    asked = {"data is a stream": stream, "callbacks were given": bool(callbacks), "checkpoint was given": checkpoint is not None}
    for what in (what for what, there in asked.items() if there):
        raise ValueError(f"{what} inside jit, vmap or grad, where fit is one pure program without a host; wanted no host services: call fit outside.")
    check_no_host(stop, progress, "fit")


def check_resume(resume, kind) -> Any:
    """The state of an earlier run of the same kind, or None."""
    if resume is not None and not isinstance(resume, kind):
        hint = "the result itself was given: type resume=result.state" if isinstance(resume, Result) else "type resume=result.state"
        raise TypeError(f"resume is a {type(resume).__module__}.{type(resume).__name__}; wanted the state of an earlier run of the same kind: {hint}.")
    return resume


def stopping_rule(tol, stop, params) -> stopping.Stop:
    """The stopping rule that tol and stop stand for."""
    if stop is not None and not isinstance(stop, stopping.Stop):
        raise TypeError(f"stop is {stop!r}; wanted a stopping rule: type stop=gdjax.stop.grad_norm(1e-6).")
    if tol is None:
        return default_stop(params) if stop is None else stop
    if callable(tol) or isinstance(tol, (str, bool)):
        raise TypeError(f"tol is {tol!r}; wanted a number >= 0: type tol=1e-6.")
    try:
        by_norm = stopping.grad_norm(tol)
    except ValueError:
        raise ValueError(f"tol is {tol}; wanted a number >= 0: type tol=1e-6.") from None
    return by_norm if stop is None else by_norm | stop


def default_stop(params) -> stopping.Stop:
    """‖∇f‖₂ ≤ max(tol, eps ‖∇f(x₀)‖₂), with tol by the narrowest dtype of the params."""
    eps = max(float(jnp.finfo(jnp.result_type(x)).eps) for x in jax.tree.leaves(params))
    return stopping.grad_norm(1e-8 if eps < 1e-12 else 1e-5 if eps < 1e-6 else 1e-2, eps)


def check_no_host(stop, progress, door) -> None:
    """Errors for services of the host asked for inside a trace."""
    if progress:
        raise ValueError(f"progress=True inside jit, vmap or grad, where {door} is one pure program; wanted progress=None or False there.")
    if any(member.build().seconds is not None for member in (stop.members() if stop is not None else ())):
        raise ValueError(f"stop.time_limit inside jit, vmap or grad, where {door} is one pure program and has no clock; limit max_steps or steps instead.")
