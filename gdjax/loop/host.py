"""What the host does between compiled segments: progress, time limits, what callbacks see, how long a segment should be. Nothing here is part of a program."""

from __future__ import annotations

import inspect
import itertools
import sys
import time
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.arguments import short
from gdjax.brief import brief_repr
from gdjax.loop.signals import Signals
from gdjax.result import RUNNING, Status

SEGMENT_SECONDS = 0.25  # long enough that dispatch vanishes, short enough for Ctrl-C, progress and time limits
GROWTH = 1000  # times as many steps as the segment before, at most: the first step need not tell what later ones cost
SHOW_AFTER = 2.0  # seconds until a progress bar shows by itself


def under_trace(function: Any, *trees: Any) -> bool:
    """Whether this call happens inside jit, vmap or grad: by its arguments, by what the loss has captured, or by the trace around it."""
    return any(isinstance(x, Tracer) for each in trees for x in _leaves(each)) or captures_tracer(function) or isinstance(jnp.zeros(()), Tracer)


def on_device(trees: Any) -> Any:
    """The trees with NumPy's arrays and numbers on the device. ``jnp.asarray`` would compile a program for every new shape."""
    return jax.tree.map(lambda x: jax.device_put(x) if isinstance(x, (np.ndarray, np.generic)) else jnp.asarray(x), trees)


def _leaves(given: Any) -> list[Any]:
    try:
        return jax.tree.leaves(given, is_leaf=lambda x: isinstance(x, Iterator))  # JAX warns when it meets one in a tree
    except (TypeError, ValueError):  # what cannot be taken apart is refused elsewhere, by name
        return []


def captures_tracer(function: Any, depth: int = 5) -> bool:
    """Whether a function holds a tracer in its closure, defaults, partial arguments or bound object."""
    if depth == 0 or isinstance(function, CodeType):
        return False
    held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _filled(cell)]
    held += list(getattr(function, "__defaults__", None) or ()) + list((getattr(function, "__kwdefaults__", None) or {}).values())
    held += [getattr(function, name) for name in ("__self__", "__wrapped__", "func", "example_loss_fn", "regularizer") if hasattr(function, name)]
    held += list(getattr(function, "args", ()) or ()) if hasattr(function, "func") else []
    held += list((getattr(function, "keywords", None) or {}).values()) if hasattr(function, "func") else []
    for leaf in itertools.chain.from_iterable(map(_leaves, held)):
        if isinstance(leaf, Tracer):
            return True
        if callable(leaf) and not inspect.isclass(leaf) and captures_tracer(leaf, depth - 1):
            return True
    return False


def _filled(cell) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


class Report(NamedTuple):
    """What a callback sees at the end of an epoch."""

    step: int
    epoch: int  # full batch: the same as the step
    value: float  # mini-batches: mean training loss of the epoch; full batch: the loss at the params
    validation: float  # NaN without validation data
    params: Any
    model_state: Any  # or None

    __repr__ = brief_repr


def says_stop(answer) -> bool:
    """Whether a callback's answer asks to stop: True does, None and numbers do not."""
    return isinstance(answer, (bool, np.bool_, np.ndarray, jax.Array)) and np.shape(answer) == () and np.asarray(answer).dtype == np.bool_ and bool(answer)


class Watch:
    """Times segments, shows progress, keeps limits and turns signals into requests; a context manager around the segments of a run.

    The first segment is one step, whatever a step takes; the others are sized by the time measured, so that the host has a say every quarter of a second or
    every step, whichever is longer. An exception that ends the run carries away what it had come to, which ``so_far()`` makes, as its attribute ``result``.
    """

    def __init__(self, total: int | None, progress: bool | None, seconds: float | None, start: int, so_far: Any):
        self.total, self.progress, self.seconds = total, progress, seconds
        self.started = self.last = time.monotonic()
        self.rate, self.made, self.step, self.begun_at = None, 0, start, start
        self.signals, self.bar = Signals(so_far), None
        check_progress(progress)

    def __enter__(self):
        self.signals.__enter__()
        return self

    def __exit__(self, kind, error, trace):
        if self.bar is not None:
            self.bar.close()
        self.signals.__exit__(kind, error, trace)

    def length(self) -> int:
        """How many steps the next segment should make."""
        if self.rate is None:
            return 1
        left = SEGMENT_SECONDS if self.seconds is None else min(SEGMENT_SECONDS, self.seconds - (time.monotonic() - self.started))
        return max(1, int(min(self.rate * left, GROWTH * self.made)))

    def saw(self, step: int, value: float) -> None:
        """Takes note of a finished segment."""
        now = time.monotonic()
        if step > self.step:  # the first segment includes compilation: a rate too low, which the second mends
            self.made = step - self.step
            self.rate = self.made / max(now - self.last, 1e-6)
        self.step, self.last = step, now
        self._show(value)

    def asked(self) -> int:
        """RUNNING, or the status the host asks for: INTERRUPTED, or STOPPED when the time is up."""
        if self.signals.interrupted():
            return int(Status.INTERRUPTED)
        if self.seconds is not None and time.monotonic() - self.started >= self.seconds:
            return int(Status.STOPPED)
        return RUNNING

    def _show(self, value: float) -> None:
        waited = time.monotonic() - self.started
        if self.bar is None and (self.progress or (self.progress is None and waited > SHOW_AFTER and sys.stderr.isatty())):
            self.bar = _bar(self.total, self.begun_at, required=bool(self.progress))
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{value:.4g}", refresh=False)
            self.bar.update(self.step - self.bar.n)


def check_progress(progress: Any) -> None:
    """An error for anything but True, False and None, and for True where tqdm is missing."""
    if not any(progress is known for known in (True, False, None)):
        raise TypeError(f"progress is {short(progress)}; wanted True, False, or None (a bar on a terminal once a run passes two seconds).")
    if progress:
        _tqdm(required=True)


def _tqdm(required: bool):
    try:
        from tqdm import tqdm
    except ImportError:
        if required:
            raise ImportError('progress=True needs tqdm, which is not installed: pip install "gdjax[progress]", or pass progress=False.') from None
        return None
    return tqdm


def _bar(total, start, required):
    tqdm = _tqdm(required)
    return None if tqdm is None else tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, leave=True)
