"""What is said of a run and what to do about it: sentences computed from the plain fields of a result, each right or
left unsaid.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gdjax.result import rates
from gdjax.result.facts import Facts
from gdjax.result.status import Status

SIGN = "Check its sign."
UNEVEN = 100  # times as large, in which case curvatures differ by a factor of 10,000


def message(result: Any) -> str:
    """What happened, and what to do about it, in words."""
    facts = Facts(result)
    return f"{_sentence(result)} {_cause(facts) or ADVICE[result.status](facts)}"


def _sentence(result) -> str:
    reason = int(result.diagnosis.reason)
    if result.status in (Status.STOPPED, Status.CONVERGED) and 0 <= reason < len(result.reasons):
        return f"{result.status.sentence[:-1]} ({result.reasons[reason]})."
    return result.status.sentence


# ---- what is wrong with what was given


def _cause(facts: Facts) -> str:
    """What in the data, the schedule or the validation is not a number, if anything is."""
    return " ".join(filter(None, [_of_validation(facts), _of_data(facts), _of_schedule(facts)]))


def _of_data(facts: Facts) -> str:
    seen = facts.diagnosis
    leaf, row = int(seen.bad_leaf), int(seen.bad_row)
    if not 0 <= leaf < len(facts.result.leaf_names):
        return ""
    where = f" in row {row}" if row >= 0 else ""
    kind = "NaN" if np.isnan(float(seen.bad_number)) else "an infinite number"
    return f"There is {kind} in the data: {facts.result.leaf_names[leaf]}{where}, the first such. Drop or mend them."


def _of_schedule(facts: Facts) -> str:
    step, rate = int(facts.diagnosis.bad_step), float(facts.diagnosis.bad_rate)
    if step < 0:
        return ""
    return (
        f"The schedule of the learning rate gave {rate:.6g} at step {step}; wanted finite numbers ≥ 0: mend "
        "the schedule."
    )


def _of_validation(facts: Facts) -> str:
    epoch = int(facts.diagnosis.validation_broke)
    if epoch < 0:
        return ""
    return (
        f"The validation loss is not a number at the end of epoch {epoch}, so no epoch is judged by it: check "
        "the validation data, and the loss on them."
    )


# ---- a run that went too far


def _without_bound(facts: Facts) -> str:
    far = float(facts.diagnosis.far_value)
    if not facts.bottomless:
        return ""
    if far < facts.value:
        return (
            f"The loss falls without bound along its gradient, from {facts.value:.3g} here to {far:.3g}: it "
            f"has no minimum there. {SIGN}"
        )
    return (
        f"The loss fell without bound, from {facts.initial_value:.3g} to {facts.value:.3g}: it has no minimum "
        f"here. {SIGN}"
    )


def _above_its_start(facts: Facts) -> str:
    if not facts.rose:
        return ""
    numbers = f", at {facts.value:.6g} from {facts.initial_value:.6g}" if facts.value > facts.initial_value else ""
    return f"The loss ended above its start{numbers}. {rates.smaller(facts)}"


def _diverged(facts: Facts) -> str:
    return _without_bound(facts) or rates.smaller(facts)


def _not_finite(facts: Facts) -> str:
    if facts.bottomless:
        return _without_bound(facts)
    if facts.rose and facts.grad_norm > 10 * facts.initial_grad_norm:
        return _above_its_start(facts)
    smaller = "; a smaller learning rate may avoid the edge" if facts.rate is not None else ""
    return (
        "Look for log, sqrt or a division at the edge of its domain (under jax.debug_nans(True), jax.grad "
        "of the loss finds it) and for NaN in the data"
        f"{smaller}."
    )


# ---- a run that ended by itself


def _converged(facts: Facts) -> str:
    if facts.rose:
        return (
            "They are a stationary point to this accuracy, but above the start: the loss is "
            f"{facts.value:.6g} there and was {facts.initial_value:.6g}. So it is "
            f"no minimum to look for, rather a plateau or a higher valley. {rates.smaller(facts)}"
        )
    if facts.clear_rate == 0 and facts.diagnosis.edge_rate > 0:
        return f"Its gradient has not vanished, its norm is {facts.grad_norm:.3g}: {_edge()}"
    return Status.CONVERGED.advice


def _stopped(facts: Facts) -> str:
    return _above_its_start(facts) or facts.status.advice


def _stalled(facts: Facts) -> str:
    return (
        _above_its_start(facts)
        or _without_bound(facts)
        or rates.too_large_here(facts)
        or rates.too_small(facts)
        or _badly_scaled(facts)
        or rates.goes_on(facts)
        or _at_the_floor(facts)
    )


def _badly_scaled(facts: Facts) -> str:
    """What makes a valley narrow, where the data show it and the minimum is not known to be near."""
    leaf, factor = int(facts.diagnosis.uneven_leaf), float(facts.diagnosis.uneven)
    if leaf < 0 or factor < UNEVEN or float(facts.diagnosis.distance) == 0:
        return ""
    return (
        f"The columns of {facts.result.leaf_names[leaf]} differ in size by a factor of {factor:.2g}, which makes the "
        "valley narrow: standardise them (subtract their mean, divide by their standard deviation)."
    )


def _at_the_floor(facts: Facts) -> str:
    """Nothing further was seen to lower the loss."""
    if facts.grad_norm > 2 * facts.initial_grad_norm:
        larger = (
            f"The gradient norm grew from {facts.initial_grad_norm:.3g} to {facts.grad_norm:.3g}, while the "
            f"loss, {facts.value:.6g}, cannot show it"
        )
        return f"{larger}: take a constant off the loss. {rates.smaller(facts)}"
    if facts.clear_rate == 0 and facts.diagnosis.edge_rate > 0:
        return (
            f"The loss is not finite at a step of {float(facts.diagnosis.edge_rate):.3g} times its gradient "
            f"from here: {_edge()}"
        )
    if facts.far_away:
        further = "Bring the params to one scale, or try gdjax.reduced_hessian()."
        lower, away = float(facts.diagnosis.decrease), float(facts.diagnosis.distance)
        seen = f"By the curvatures met nearby the minimum is still some {lower:.2g} lower, a step of {away:.2g} away"
        return f"{seen}, but the directions are scaled so differently that rounding hides it. {further}"
    if float(facts.diagnosis.decrease) == np.inf:
        where = f"Here the loss is flat or bends down, with a gradient of norm {facts.grad_norm:.3g}"
        return f"{where}: a plateau, a saddle or a kink. Start elsewhere, or try another rule."
    if facts.clear_rate == 0:
        return _nothing_lower(facts)
    if facts.grad_norm > 0.9 * facts.initial_grad_norm:
        further = (
            ", or look for a learning rate with gdjax.suggest" if facts.rate is not None else ", or try another rule"
        )
        return (
            "The gradient hardly fell: what the steps do is lost in rounding. Take a constant off the loss, "
            f"rescale the params{further}."
        )
    wider = "" if facts.dtype.itemsize >= 8 else "use float64 (jax.config.update('jax_enable_x64', True)), "
    lower, away = float(facts.diagnosis.decrease), float(facts.diagnosis.distance)
    left = ""
    if 0 < away < np.inf:
        left = f": by its curvatures the loss has a minimum about {away:.2g} away, {lower:.2g} lower"
    return (
        f"Usually this is as good as {facts.dtype.name} gets{left}. For more, {wider}rescale the loss or the params, "
        "or take a constant off the loss."
    )


def _nothing_lower(facts: Facts) -> str:
    wider = "" if facts.dtype.itemsize >= 8 else ", or float64 shows more"
    return f"No step along its gradient lowers the loss from here: this is a minimum, perhaps with a kink{wider}."


def _edge() -> str:
    return (
        "an edge of its domain (log, sqrt, a division) is beside these params. Keep away from it by a change "
        "of variables or a barrier."
    )


# ---- a run that was not finished


def _ran_out(facts: Facts) -> str:
    if facts.steps == 0:
        return "No step was asked for."
    return (
        _above_its_start(facts)
        or _without_bound(facts)
        or _units(facts)
        or (_batches(facts) if facts.batches else _full_batch(facts))
    )


def _units(facts: Facts) -> str:
    if (
        facts.rate is not None
        or not facts.far_units
        or facts.falling
        or facts.grad_norm < 0.1 * facts.initial_grad_norm
    ):
        return ""
    return (
        f"The gradients are of size {facts.initial_grad_norm:.0e}, too far from 1 for this rule to find its "
        "step: rescale the loss to other units."
    )


def _full_batch(facts: Facts) -> str:
    fell, share, over = facts.recent
    if facts.clear_rate >= 0 and (
        known := rates.too_small(facts) or (_nothing_lower(facts) if facts.clear_rate == 0 else "")
    ):
        return known
    if np.isnan(share):
        return Status.MAX_STEPS.advice
    of_late = f"the last {100 * over:.0f} % of the run"
    if facts.falling:
        larger = ", or see whether a larger learning rate is stable: gdjax.suggest." if facts.rate is not None else "."
        return f"The loss was still falling, by {100 * share:.3g} % over {of_late}: allow more steps{larger}"
    if facts.overshoots:
        return rates.too_large_here(facts) or (
            f"The steps overshoot: over {of_late} the loss fell by {fell:.3g}, far less than steps of this "
            "length promise. "
            "Lower the learning rate: try half of it, or less momentum."
        )
    if facts.rate is not None and facts.bounce:
        return (
            f"The loss goes up and down by {facts.bounce:.2g} from step to step. Lower the learning rate: "
            f"{rates.FIND_A_RATE}"
        )
    crawled = facts.hardly_moved and facts.grad_norm > 0.25 * facts.initial_grad_norm
    if crawled and facts.rate is not None and np.isnan(facts.clear_rate):
        return (
            "The loss hardly moved in the whole run: the learning rate may be too small, or this is a "
            "plateau. gdjax.suggest finds a learning rate."
        )
    if uneven := _badly_scaled(facts):
        return uneven
    back = max(1, len(facts.values) // 10)
    if len(facts.norms) == len(facts.values) and facts.norms[-1] < 0.95 * facts.norms[-1 - back]:
        return (
            "The gradient norm was still falling, by "
            f"{100 * (1 - facts.norms[-1] / facts.norms[-1 - back]):.3g} % over {of_late}: allow more steps."
        )
    return (
        f"The loss hardly fell over {of_late}, and its gradient has not vanished: a plateau or a narrow "
        "valley. Try momentum or another rule."
    )


def _batches(facts: Facts) -> str:
    _, share, over = facts.recent
    if facts.initial_grad_norm == 0 and facts.grad_norm == 0:
        return (
            "The gradients of the batches were 0 from the start, which is a minimum of every batch, or the "
            "loss does not depend on the params there."
        )
    if facts.falling:
        return (
            f"The loss was still falling, by {100 * share:.3g} % over the last {100 * over:.0f} % of the run: "
            "allow more epochs."
        )
    if facts.curvature * facts.params_norm * 64 * facts.eps >= facts.grad_norm:
        return "The gradients of the batches have vanished to rounding: a minimum of every batch."
    return _never_started(facts) or _stopped_falling(facts)


def _never_started(facts: Facts) -> str:
    """Of a run whose steps, all together, were too short for its curvature: no noise hides that."""
    if facts.constant and facts.used / (1 - facts.momentum) * facts.steps * facts.curvature < 0.5:
        return rates.too_small(facts)
    if facts.plain or not facts.hardly_moved or (facts.rate is None and not facts.rate_unknown):
        return ""
    if facts.diagnosis.signal > 4:
        return (
            "The loss hardly moved, though the gradients of the batches agree: the learning rate is too "
            "small, or this is a plateau. See gdjax.suggest."
        )
    return (
        "The loss hardly moved in the whole run: the learning rate is too small, or the start was at the noise of "
        "the batches. See gdjax.suggest."
    )


def _stopped_falling(facts: Facts) -> str:
    over = facts.recent[2]
    if np.isnan(over) and np.isnan(facts.clear_rate):
        return Status.MAX_STEPS.advice
    of_late = "" if np.isnan(over) else f" over the last {100 * over:.0f} % of the run"
    head, signal = f"The loss has stopped falling{of_late}", float(facts.diagnosis.signal)
    if signal > 3 * (1 / 8 + (facts.used * facts.curvature if facts.plain else 1)):
        return (
            rates.too_large_here(facts)
            or rates.too_small(facts)
            or f"{head}, though the gradients of the batches agree: a plateau or a narrow valley. Try another rule."
        )
    quieter = "decay the learning rate, or take larger batches"
    if signal >= 0 and not callable(facts.rate):
        return f"{head}, at the noise of the batches: {quieter}."
    if facts.rate is not None and not callable(facts.rate):
        return (
            f"{head}, at the noise of the batches or at a minimum. If it is noise, {quieter}; if it never "
            "fell, see gdjax.suggest for the learning rate."
        )
    return f"{head}, at the noise of the batches or at a minimum. gdjax.evaluate gives the loss over all data."


ADVICE = {
    Status.CONVERGED: _converged,
    Status.MAX_STEPS: _ran_out,
    Status.STALLED: _stalled,
    Status.DIVERGED: _diverged,
    Status.NONFINITE: _not_finite,
    Status.STOPPED: _stopped,
    Status.INTERRUPTED: _stopped,
}
