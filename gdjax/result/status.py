"""``Status``: why a run ended, each member a sentence with advice."""

from __future__ import annotations

import enum

RUNNING = 0  # the code of a run that goes on; never that of a result


class Status(enum.IntEnum):
    """Why a run ended. The value is the code kept in results; ``sentence`` says what it means, ``advice`` what to do next."""

    sentence: str
    advice: str

    def __new__(cls, code: int, sentence: str, advice: str):
        member = int.__new__(cls, code)
        member._value_ = code
        member.sentence, member.advice = sentence, advice
        return member

    def __str__(self):
        return self.name

    def __format__(self, spec):
        return format(self.name, spec)

    CONVERGED = (
        1,
        "The convergence criterion holds at the returned params.",
        "They are a stationary point to this accuracy: a minimum, or (rarely) a saddle or a plateau. Start elsewhere to see whether there is a lower one.",
    )
    MAX_STEPS = (
        2,
        "All steps asked for were made and no stopping rule held.",
        "Allow more steps, or try another rule.",
    )
    STALLED = (
        3,
        "The steps no longer change the loss or its gradient beyond rounding.",
        "Where the gradient has fallen far, this is about as good as the dtype gets; else look at the learning rate and the scales of the loss and the params.",
    )
    DIVERGED = (
        4,
        "The loss or its gradient grew out of all proportion to the start; the params are the last finite ones.",
        "Lower the learning rate, if the rule has one; if the loss fell without bound, it has no minimum: check its sign.",
    )
    NONFINITE = (
        5,
        "The loss or its gradient became NaN or infinite; the params are the last ones at which they were finite.",
        "Look for log, sqrt or a division at the edge of its domain (under jax.debug_nans(True), jax.grad of the loss finds it) and for NaN in the data; "
        "smaller steps may avoid the edge.",
    )
    STOPPED = (6, "A stopping rule, the patience, a time limit or a callback asked to stop.", "Loosen it to go on from result.state.")
    INTERRUPTED = (7, "Interrupted, from the keyboard, by SIGTERM or by an exception; this is the result so far.", "Pass resume=result.state to go on.")
