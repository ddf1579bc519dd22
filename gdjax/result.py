"""How a run went: ``Status`` (each member a sentence with advice) and ``Result`` (a pytree, so that runs can be jitted, mapped and saved)."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.typing import Params

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
        "Allow more steps, a larger learning rate or momentum.",
    )
    STALLED = (
        3,
        "No further progress is possible at this precision: steps change neither the loss nor its gradient beyond rounding.",
        "Usually this is as good as this dtype gets. For more, use float64 (jax.config.update('jax_enable_x64', True)), rescale the loss or the params, "
        "or check that the learning rate is not so small that params + update rounds to params.",
    )
    DIVERGED = (
        4,
        "The loss or its gradient grew out of all proportion to the start; the params are the last finite ones.",
        "Lower the learning rate; if the loss fell without bound, it has no minimum: check its sign.",
    )
    NONFINITE = (
        5,
        "The loss or its gradient became NaN or infinite; the params are the last ones at which they were finite.",
        "Look for log, sqrt or a division at the edge of its domain (under jax.debug_nans(True), jax.grad of the loss finds it) and for NaN in the data; "
        "a smaller learning rate may avoid the edge.",
    )
    STOPPED = (6, "A stopping rule, the patience, a time limit or a callback asked to stop.", "Loosen it to go on from result.state.")
    INTERRUPTED = (7, "Interrupted from the keyboard; this is the result so far.", "Pass resume=result.state to go on.")


class Diagnosis(NamedTuple):
    """Scalars met along the way, from which the advice is computed. NaN where not known."""

    initial_value: Any  # the loss at the start; for mini-batches of the first batch
    initial_grad_norm: Any  # likewise
    learning_rate: Any  # of the last step
    growth: Any  # of ‖g‖ per step when it first exceeded its start; NaN if it never did
    reason: Any  # int32: which of Result.reasons stopped the run, -1 for none


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False, eq=False)
class Result:
    """What a run returns: a pytree of plain arrays, so it passes through jit, vmap, grad and checkpoints.

    Attributes:
        params: like the params given; of the last step, or the best (``keep="best"``), or the last finite ones (DIVERGED, NONFINITE).
        value: the loss, shape (). Full batch: at ``params``. Mini-batches: the mean over the last epoch as seen in training (``gdjax.evaluate`` is exact).
        grad_norm: ‖∇f‖₂, shape (). Full batch: at ``params``. Mini-batches: that of the last batch.
        code: int32, the ``Status`` code; read ``status`` instead.
        steps: int32, updates made in the whole run.
        evaluations: int32, evaluations of value and gradient, those inside line searches included.
        history: name -> array, with the step of each record under ``"step"``. Inside jit or vmap of fixed length, NaN where nothing was recorded.
        state: one pytree with all that is needed to go on: pass it as ``resume=``.
        aux: what the loss returned beside its value, at the last evaluation; None without ``has_aux``.
        rule: the rule that was used, with its numbers; the default if none was given.
        diagnosis: scalars behind the advice.
        model_state: that of ``params``, where the loss carries one; else None.

    ``status`` is a ``Status`` and ``converged`` a bool for a single concrete result; under traces and for batched results they are arrays of codes and
    booleans. ``print(result)`` is a short report with advice.
    """

    params: Params
    value: Any
    grad_norm: Any
    code: Any
    steps: Any
    evaluations: Any
    history: dict[str, Any]
    state: Any
    aux: Any
    rule: Any
    diagnosis: Diagnosis
    model_state: Any = None
    kind: str = field(default="full batch", metadata={"static": True})  # or "mini-batches"
    reasons: tuple[str, ...] = field(default=(), metadata={"static": True})

    @property
    def _single(self) -> bool:
        return not isinstance(self.code, Tracer) and np.ndim(self.code) == 0

    @property
    def status(self) -> Any:
        """Why the run ended: a ``Status``, or an array of codes for batched or traced results."""
        return Status(int(self.code)) if self._single else self.code

    @property
    def converged(self) -> Any:
        """Whether the convergence criterion holds at ``params``: a bool, or an array of them."""
        return int(self.code) == Status.CONVERGED if self._single else jnp.equal(self.code, Status.CONVERGED)

    @property
    def message(self) -> str:
        """What happened, and what to do about it, in words."""
        if isinstance(self.code, Tracer):
            return "A traced result: its message can be read outside jit, vmap and grad."
        if not self._single:
            codes, counts = np.unique(np.asarray(self.code), return_counts=True)
            return f"{np.size(self.code)} runs: " + ", ".join(f"{count} {Status(int(code)).name}" for code, count in zip(codes, counts, strict=True))
        return " ".join([self._sentence(), self._advice()])

    def _sentence(self) -> str:
        reason = int(self.diagnosis.reason)
        if self.status in (Status.STOPPED, Status.CONVERGED) and 0 <= reason < len(self.reasons):
            return f"{self.status.sentence[:-1]} ({self.reasons[reason]})."
        return self.status.sentence

    def _advice(self) -> str:
        if self.status is Status.MAX_STEPS:
            return _step_size_advice(self) or _trend_advice(self)
        return _step_size_advice(self) or self.status.advice

    def __str__(self):
        if not self._single:
            return f"{type(self).__name__}: {self.message}"
        start = self.diagnosis
        of_value = "mean over the last epoch" if self.kind == "mini-batches" else "at these params"
        of_norm = "of the last batch" if self.kind == "mini-batches" else "at these params"
        return "\n".join(
            [
                f"{self.status.name} after {int(self.steps)} steps, {int(self.evaluations)} evaluations ({self.kind})",
                f"  value      {float(self.value):<12.6g} {of_value}; {float(start.initial_value):.6g} at the start",
                f"  grad norm  {float(self.grad_norm):<12.3g} {of_norm}; {float(start.initial_grad_norm):.3g} at the start",
                f"  rule       {self.rule!r}",
                f"  {self.message}",
            ]
        )

    def __repr__(self):
        if not self._single:
            return f"Result({self.message})"
        return f"Result({self.status.name}, value={float(self.value):.6g}, grad_norm={float(self.grad_norm):.3g}, steps={int(self.steps)})"


def _trend_advice(result: Result) -> str:
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


def _overshoots(result: Result, norms, fell, steps) -> bool:
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


def _curvature(result: Result) -> float:
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


def _pace(result: Result, rate: float) -> float:
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


def _step_size_advice(result: Result) -> str:
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
