"""What is said of a run and what to do about it: sentences computed from the plain fields of a result, each right or left unsaid."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from gdjax.result.status import Status


def message(result: Any) -> str:
    """What happened, and what to do about it, in words."""
    return f"{_sentence(result)} {_advice(result)}"


def _sentence(result) -> str:
    reason = int(result.diagnosis.reason)
    if result.status in (Status.STOPPED, Status.CONVERGED) and 0 <= reason < len(result.reasons):
        return f"{result.status.sentence[:-1]} ({result.reasons[reason]})."
    return result.status.sentence


def _advice(result) -> str:
    if result.status is Status.MAX_STEPS:
        return _step_size_advice(result) or _trend_advice(result)
    return _step_size_advice(result) or result.status.advice


def _trend_advice(result) -> str:
    """What to do when the steps ran out: go on if the loss still falls, else change something."""
    values, norms = (np.asarray(result.history.get(name, ()), np.float64) for name in ("value", "grad_norm"))
    values = values[np.isfinite(values)]
    if len(values) < 3:
        return Status.MAX_STEPS.advice
    back = max(1, len(values) // 10)
    fell = values[-1 - back] - values[-1]
    share = fell / max(abs(values[-1 - back]), np.finfo(float).tiny)
    over = f"the last {100 * back / len(values):.0f} % of the run"
    # From epoch to epoch the loss of mini-batches goes up and down: a fall counts only above that.
    noise = 2 * np.std(np.diff(values[len(values) // 2 :])) if result.kind == "mini-batches" and len(values) > 5 else 0
    if share > 0.01 and fell > noise:
        return f"The loss was still falling, by {100 * share:.2g} % over {over}: allow more steps, a larger learning rate or momentum."
    if result.kind == "mini-batches":
        if (values[0] - values[-1]) < 0.05 * abs(values[0]) and _falls_steadily(values):
            return "The loss fell steadily, but hardly at all: the learning rate is too small. Try ten times as much."
        return f"The loss has stopped falling over {over}, at the noise of the batches or at a minimum: decay the learning rate, or take larger batches."
    if _overshoots(result, norms[-1 - back :], fell, int(result.steps) * back / len(values)):
        return (
            f"The steps overshoot: over {over} the loss fell by {fell:.3g}, far less than steps of this length promise. "
            "Lower the learning rate: try half of it, or less momentum."
        )
    if len(norms) == len(values) and norms[-1] < 0.95 * norms[-1 - back]:
        return f"The gradient norm was still falling, by {100 * (1 - norms[-1] / norms[-1 - back]):.2g} % over {over}: allow more steps."
    return f"The loss hardly fell over {over}, and its gradient has not vanished: a plateau or a narrow valley. Try momentum or another rule."


def _falls_steadily(values) -> bool:
    return len(values) > 2 and bool(np.mean(np.diff(values) < 0) > 0.9)


def _overshoots(result, norms, fell, steps) -> bool:
    """Whether the loss fell by far less than the h ‖g‖² / (1 − β) that each step promises, above rounding."""
    if not (_is_plain(result.rule) and len(norms) and np.all(np.isfinite(norms))):
        return False
    promised = float(result.diagnosis.learning_rate) / (1 - _momentum(result.rule)) * np.min(norms) ** 2 * steps
    rounding = float(jnp.finfo(jnp.result_type(result.value)).eps) * abs(float(result.value)) * max(steps, 1)
    return bool(promised > 10 * max(abs(fell), rounding))


def _is_plain(rule) -> bool:
    """Whether the steps are the learning rate times the gradient, with momentum or not, to go by the rule's arguments."""
    known = {"learning_rate", "momentum", "nesterov", "weight_decay", "accumulator_dtype"}
    arguments = getattr(rule, "arguments", {})
    other = {name: value for name, value in arguments.items() if name not in known}
    return "learning_rate" in arguments and set(other) <= {"dampening", "maximize", "ema"} and all(value is None or value is False for value in other.values())


def _curvature(result) -> float:
    """The curvature L that the gradient norms speak of, NaN if they do not.

    With learning rate h and momentum β, a direction of curvature λ grows by ρ per step where h λ = 1 + β + ρ + β/ρ, or with Nesterov momentum
    1 + ρ²/((1 + β) ρ + β) (the largest λ dominates once the gradient has grown), and falls as exp(−h λ k / (1 − β)) where h λ is small.
    """
    diagnosis, momentum = result.diagnosis, _momentum(result.rule)
    rate, growth = float(diagnosis.learning_rate), float(diagnosis.growth)
    if result.kind != "full batch" or not (np.isfinite(rate) and rate > 0 and _is_plain(result.rule)):
        return np.nan
    if growth > 1:
        nesterov = growth**2 / ((1 + momentum) * growth + momentum)
        return (1 + nesterov if _nesterov(result.rule) else 1 + momentum + growth + momentum / growth) / rate
    return _pace(result, rate / (1 - momentum))


def _pace(result, rate: float) -> float:
    """The curvature by how fast the gradient fell: believed only while it has not fallen far (later the steep directions are done, and only flat ones are
    left to see) and while the loss fell by what such steps promise (else they overshoot).
    """
    first, last = float(result.diagnosis.initial_grad_norm), float(result.grad_norm)
    steps, fell = max(int(result.steps), 1), float(result.diagnosis.initial_value) - float(result.value)
    if not 0 < last < first < 4 * last or not 0.8 * last**2 < fell / (rate * steps) < 1.25 * first**2:
        return np.nan
    return float(np.log(first / last) / (rate * steps))


def _momentum(rule) -> float:
    given = getattr(rule, "arguments", {}).get("momentum")
    return float(given) if given is not None and np.ndim(given) == 0 and not callable(given) else 0.0


def _nesterov(rule) -> bool:
    return bool(getattr(rule, "arguments", {}).get("nesterov"))


def _step_size_advice(result) -> str:
    """The advice that needs numbers: how the learning rate compares with the curvature met."""
    status, used, start = result.status, float(result.diagnosis.learning_rate), float(result.diagnosis.initial_value)
    if status is Status.DIVERGED and start - float(result.value) > 1e3 * abs(start):
        return "The loss fell without bound: it has no minimum here. Check its sign."
    if status is Status.STALLED and float(result.grad_norm) > 0.9 * float(result.diagnosis.initial_grad_norm):
        return f"The gradient hardly fell: the steps are lost in rounding. Try a far larger learning rate than {used:.3g}, or take a constant off the loss."
    curvature, momentum = _curvature(result), _momentum(result.rule)
    if not curvature > 0:
        return ""
    most, name = 2 * (1 + momentum) / curvature, "2/L" if momentum == 0 else "2 (1 + momentum)/L"
    if _nesterov(result.rule):
        most, name = most / (1 + 2 * momentum), "2 (1 + momentum)/((1 + 2 momentum) L)"
    if status is Status.DIVERGED and used >= 0.9 * most:
        return (
            f"The learning rate was too large: the gradients grew as at a curvature of L ≈ {curvature:.3g}, which needs a learning rate below {name} ≈ "
            f"{most:.3g}; this run used {used:.3g}. Try {most / 2:.3g}."
        )
    if status is Status.MAX_STEPS and used < 0.05 * most:
        return (
            f"The learning rate {used:.3g} is about {most / 2 / used:.2g} times smaller than it could be: the gradients fell as at a curvature of "
            f"L ≈ {curvature:.3g}. Try up to {most / 2:.3g}."
        )
    return ""
