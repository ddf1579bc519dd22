"""Ctrl-C and SIGTERM as requests, and exceptions that carry the result so far.

The contract, for every door that runs: in the main thread, where the handler is Python's own (``KeyboardInterrupt`` for SIGINT, the end of the process for
SIGTERM), the first signal is noted and acted on where nothing is lost, between two compiled segments: the run ends INTERRUPTED, with the result so far. The
second is obeyed at once. A signal that comes when there is nothing left to interrupt is passed on when the run is over. A handler of your own, or SIG_IGN, is
left alone: it is called as everywhere else, and what it raises is an exception like any other. Afterwards all handlers are what they were.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any

OWN_OF_PYTHON = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


def attach(error: BaseException, so_far: Any) -> None:
    """Gives an exception what the run had come to as its attribute ``result``, with a note that says so, where ``so_far()`` makes something of it."""
    with contextlib.suppress(Exception):  # the error itself must come through, whatever becomes of this
        result = so_far()
        if result is not None:
            error.result = result  # pyright: ignore[reportAttributeAccessIssue]
            error.add_note(f"gdjax: nothing is lost: the attribute result of this {type(error).__name__} is what there was when it was raised: {result!r}")


class Signals:
    """A context manager that notes the first SIGINT or SIGTERM; within another one, the other does.

    Args:
        so_far: what an exception that leaves it takes along, as in ``attach``.
    """

    def __init__(self, so_far: Any = lambda: None):
        self.so_far, self.before, self.noted, self.acted, self.outer = so_far, {}, None, False, None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number, usual in OWN_OF_PYTHON.items():
                handler = signal.getsignal(number)
                if handler is usual or handler == usual:
                    self.before[number] = handler
                    signal.signal(number, self.note)
                elif isinstance(around := getattr(handler, "__self__", None), Signals):
                    self.outer = around
        return self

    def __exit__(self, kind, error, trace):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if error is not None:
            attach(error, self.so_far)
        elif self.noted is not None and not self.acted:
            try:
                signal.raise_signal(self.noted)
            except BaseException as late:
                attach(late, self.so_far)
                raise

    def note(self, number: int, _) -> None:
        """The handler: the first signal waits until it is asked for, so that no buffer is lost; the second is obeyed at once."""
        if self.noted is None:
            self.noted = number
            return
        self.acted = True
        signal.signal(number, self.before[number])
        signal.raise_signal(number)

    def obey(self, what: str) -> None:
        """Raises what Ctrl-C raises where a signal has come, for doors whose results have no place for it."""
        if self.interrupted():
            raise KeyboardInterrupt(f"{what}: interrupted; what there is so far is the attribute result of this exception.")

    def interrupted(self) -> bool:
        """Whether a signal has come; who asks must act on it."""
        here = self.outer or self
        here.acted = here.acted or here.noted is not None
        return here.noted is not None
