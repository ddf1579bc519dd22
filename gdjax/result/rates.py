"""Sentences about the learning rate: too large, too small, and what to try, with numbers where they were seen to work."""

from __future__ import annotations

import numpy as np

from gdjax.result.facts import FAR_BELOW, Facts

FIND_A_RATE = "gdjax.suggest finds one."


def smaller(facts: Facts) -> str:
    """What to do about steps that are too large, with the number where a curvature is known."""
    (most, name), used, curvature = facts.bound, facts.used, facts.curvature
    at_the_end = " at the end" if callable(facts.rate) else ""
    grew = not facts.diagnosis.curvature > 0
    aim = most / 2 if grew else facts.safe_rate
    if used >= 0.9 * most and aim > 0:
        met = "the gradients grew as at a curvature of" if grew else "where the run began the loss has a curvature of"
        return (
            f"The learning rate was too large: {met} L ≈ {curvature:.3g}, which needs a learning rate "
            f"below {name} ≈ {most:.3g}; this run used "
            f"{used:.3g}{at_the_end}. Try {aim:.3g}."
        )
    if facts.plain and 0 < facts.safe_rate < used:
        return (
            f"Lower the learning rate: this run used {used:.3g}{at_the_end}, and where it began steps of far less "
            f"lower the loss. Try {facts.safe_rate:.3g}."
        )
    if facts.rate is not None:
        return f"Lower the learning rate: {FIND_A_RATE}"
    if facts.rate_unknown:
        return f"If its rule has a learning rate, lower it: {FIND_A_RATE}"
    return "Its rule has no learning rate to lower: start elsewhere, rescale the params, or try another rule."


def too_large_here(facts: Facts) -> str:
    """What to do where the steps overshoot at the params returned."""
    most, name = facts.bound
    if not (facts.plain and facts.goes_on and facts.safe_rate > 0):
        return ""
    if np.isnan(most) and facts.clear_rate < 0.5 * facts.used:
        return (
            f"The steps overshoot: from here one of {facts.clear_rate:.3g} times the gradient lowers the loss; "
            f"this run used {facts.used:.3g}. Try {facts.safe_rate:.3g}."
        )
    if not facts.used > 0.9 * most:
        return ""
    return (
        f"The steps overshoot: the loss has a curvature of L ≈ {facts.curvature:.3g} here, which needs a "
        f"learning rate below {name} ≈ {most:.3g}; this run used "
        f"{facts.used:.3g}. Try {facts.safe_rate:.3g}."
    )


def too_small(facts: Facts) -> str:
    """What to do where steps many times as long are seen to be safe."""
    most, _ = facts.bound
    if not facts.constant:
        return ""
    if np.isnan(most) and facts.clear_rate > 100 * facts.used:
        ratio = facts.clear_rate / facts.used
        return (
            f"The learning rate {facts.used:.3g} is too small: from here a step {ratio:.0e} times as long "
            "still lowers the loss as its slope promises. Try a far larger learning rate, such as "
            f"{facts.safe_rate:.3g}."
        )
    if not (facts.used < FAR_BELOW * most and facts.safe_rate > facts.used):
        return ""
    head = (
        f"The learning rate {facts.used:.3g} is too small, about {most / 2 / facts.used:.2g} times smaller "
        "than it could be"
    )
    return (
        f"{head}: the loss has a curvature of L ≈ {facts.curvature:.3g} here. Try a far larger learning rate, "
        f"up to {facts.safe_rate:.3g}."
    )


def goes_on(facts: Facts) -> str:
    """Where a step of another length along the gradient is seen to lower the loss, the end was not that of precision."""
    if not facts.goes_on:
        return ""
    seen = (
        f"Yet the loss still falls along its gradient: a step of {facts.clear_rate:.3g} times it lowers the "
        "loss by what it promises."
    )
    if facts.plain and facts.safe_rate > 0:
        return f"{seen} Try the learning rate {facts.safe_rate:.3g}."
    return f"{seen} Go on from here with another rule."
