"""The checks that both doors make, before anything is computed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import stop as stopping
from gdjax.loop.deterministic import HISTORY, Resumable

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
    """Errors for options that name nothing."""
    if isinstance(history, str) or any(name not in HISTORY for name in history):
        wrong = history if isinstance(history, str) else next(name for name in history if name not in HISTORY)
        raise ValueError(f'history names {wrong!r}; wanted a tuple of {", ".join(HISTORY)}: type history=("value", "grad_norm").')
    for name, value, low in (("record_every", record_every, 1), ("max_steps", max_steps, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
            raise ValueError(f"{name} is {value!r}; wanted an integer >= {low}: type {name}={max(low, 100)}.")
    if differentiate not in DIFFERENTIATE:
        raise ValueError(f'differentiate is {differentiate!r}; wanted one of {", ".join(DIFFERENTIATE)}: type differentiate="unroll".')


def check_resume(resume):
    """The state of an earlier full-batch run."""
    if not isinstance(resume, Resumable):
        raise TypeError(f"resume is {type(resume).__name__}; wanted the state of an earlier full-batch run: type resume=result.state.")
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
    if any(member.build().seconds is not None for member in stop.members()):
        raise ValueError(f"stop.time_limit inside jit, vmap or grad, where {door} is one pure program and has no clock; limit max_steps or steps instead.")
