"""What the host does between compiled segments: progress, time limits, Ctrl-C, and how long a segment should be. Nothing here runs inside a program."""

from __future__ import annotations

import inspect
import signal
import sys
import threading
import time
from types import CodeType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.result import RUNNING, Status

SEGMENT_SECONDS = 0.25  # long enough that dispatch vanishes, short enough for Ctrl-C, progress and time limits
FIRST_STEPS = 1000  # of the first segment, when a step is small
FIRST_WORK = 1e9  # entries of params and batch the first segment may touch
SHOW_AFTER = 2.0  # seconds until a progress bar shows by itself


def under_trace(function: Any, *trees: Any) -> bool:
    """Whether this call happens inside jit, vmap or grad: by its arguments, by what the loss has captured, or by the trace around it."""
    leaves = jax.tree.leaves(trees)
    return any(isinstance(x, Tracer) for x in leaves) or captures_tracer(function) or isinstance(jnp.zeros(()), Tracer)


def on_device(trees: Any) -> Any:
    """The trees with NumPy's arrays and numbers on the device. ``jnp.asarray`` would compile a program for every new shape."""
    return jax.tree.map(lambda x: jax.device_put(x) if isinstance(x, (np.ndarray, np.generic)) else jnp.asarray(x), trees)


def captures_tracer(function: Any, depth: int = 4) -> bool:
    """Whether a function holds a tracer in its closure, defaults, partial arguments or bound object."""
    if depth == 0 or isinstance(function, CodeType):
        return False
    held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _filled(cell)]
    held += list(getattr(function, "__defaults__", None) or ()) + list((getattr(function, "__kwdefaults__", None) or {}).values())
    held += [getattr(function, name) for name in ("__self__", "__wrapped__", "func", "example_loss_fn", "regularizer") if hasattr(function, name)]
    held += list(getattr(function, "args", ()) or ()) if hasattr(function, "func") else []
    held += list((getattr(function, "keywords", None) or {}).values()) if hasattr(function, "func") else []
    for leaf in jax.tree.leaves(held):
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


class Watch:
    """Times segments, shows progress, keeps limits and turns the first Ctrl-C into a request; a context manager around the segments of a run."""

    def __init__(self, total: int | None, work: float, progress: bool | None, seconds: float | None = None, start: int = 0):
        self.total, self.progress, self.seconds = total, progress, seconds
        self.started = self.last = time.monotonic()
        self.first = int(min(FIRST_STEPS, max(1, FIRST_WORK // max(work, 1))))
        self.rate, self.step, self.begun_at = None, start, start
        self.interrupted, self.bar, self.handler = False, None, None
        check_progress(progress)

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.handler = signal.getsignal(signal.SIGINT)
            if self.handler is not None:
                signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_):
        if self.handler is not None:
            signal.signal(signal.SIGINT, self.handler)
        if self.bar is not None:
            self.bar.close()

    def _interrupt(self, *_):
        # The first request waits for the segment to end, so that no buffer is lost; the second is obeyed at once.
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def length(self) -> int:
        """How many steps the next segment should make."""
        if self.rate is None:
            return self.first
        left = SEGMENT_SECONDS if self.seconds is None else min(SEGMENT_SECONDS, self.seconds - (time.monotonic() - self.started))
        return max(1, int(self.rate * left))

    def saw(self, step: int, value: float) -> None:
        """Takes note of a finished segment."""
        now = time.monotonic()
        if step > self.step:  # the first segment includes compilation: a rate too low, which the second mends
            self.rate = (step - self.step) / max(now - self.last, 1e-6)
        self.step, self.last = step, now
        self._show(value)

    def asked(self) -> int:
        """RUNNING, or the status the host asks for: INTERRUPTED, or STOPPED when the time is up."""
        if self.interrupted:
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
        raise TypeError(f"progress is {progress!r}; wanted True, False, or None (a bar on a terminal once a run passes two seconds).")
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
