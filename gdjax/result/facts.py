"""What the plain fields of a result say of its run: the numbers behind the advice. Nothing here is a sentence."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.result.status import Status

LONG_ENOUGH = 30  # steps before a run is asked why it did not get further
FAR_BELOW = 0.05  # of the largest stable learning rate
CLIMBED = 0.1  # by this share the loss of some batches must be above their loss at the start
UNITS = (
    1e10  # a gradient norm further than this from 1 is beyond the numbers that rules without a learning rate start from
)


class Facts:
    """A result, read. ``batches``: whether its gradients are those of mini-batches."""

    def __init__(self, result: Any):
        start = result.diagnosis
        self.result, self.diagnosis, self.rule, self.status = result, start, result.rule, result.status
        self.batches = result.kind == "mini-batches"
        self.steps, self.value, self.grad_norm = int(result.steps), float(result.value), float(result.grad_norm)
        self.initial_value, self.initial_grad_norm = float(start.initial_value), float(start.initial_grad_norm)
        self.used, self.clear_rate = float(start.learning_rate), float(start.clear_rate)
        self.dtype = np.dtype(jnp.result_type(result.value))
        self.eps = float(jnp.finfo(self.dtype).eps)
        self.values, self.norms = (self._column(name) for name in ("value", "grad_norm"))

    def _column(self, name: str) -> np.ndarray:
        column = np.asarray(self.result.history.get(name, ()), np.float64)
        return column[np.asarray(self.result.history.get("step", ())) >= 0] if column.size else column

    @property
    def spoilt(self) -> bool:
        """Whether the data or the schedule were not all numbers, which explains the rest."""
        seen = self.diagnosis
        return int(seen.bad_leaf) >= 0 or int(seen.bad_step) >= 0

    # ---- the rule's numbers

    @functools.cached_property
    def rate(self) -> Any:
        """The learning rate the user chose: a number, an array or a schedule; None where the rule has none, or its
        default was left alone.
        """
        return chosen_rate(self.rule)

    @property
    def rate_unknown(self) -> bool:
        """Whether the rule is a transformation made elsewhere, into which one cannot look."""
        return self.rate is None and any(
            hasattr(x, "update") and not hasattr(x, "arguments") for x in _arguments(self.rule).values()
        )

    @property
    def plain(self) -> bool:
        """Whether the steps are the learning rate times the gradient, with momentum or not, to go by the rule's
        arguments and by what it makes of two gradients.
        """
        known = {"learning_rate", "momentum", "nesterov", "weight_decay", "accumulator_dtype"}
        other = {name: value for name, value in _arguments(self.rule).items() if name not in known}
        unset = all(
            value is None or value is False for value in [*other.values(), _arguments(self.rule).get("weight_decay")]
        )
        return (
            self.rate is not None
            and set(other) <= {"dampening", "maximize", "ema"}
            and unset
            and _is_linear(jax.tree.structure(self.rule))
            and np.isfinite(self.used)
            and self.used > 0
        )

    @property
    def constant(self) -> bool:
        """Whether all steps were so, with the one learning rate."""
        return self.plain and not callable(self.rate)

    @property
    def momentum(self) -> float:
        """Of the rule, 0 where it has none."""
        given = _arguments(self.rule).get("momentum")
        return float(given) if given is not None and np.ndim(given) == 0 and not callable(given) else 0.0

    @property
    def nesterov(self) -> bool:
        """Whether its momentum is Nesterov's."""
        return bool(_arguments(self.rule).get("nesterov"))

    # ---- the curvature

    @property
    def grown_curvature(self) -> float:
        """The curvature L that the growth of the gradient speaks of; NaN if it does not.

        With learning rate h and momentum β, a direction of curvature λ grows by ρ per step where h λ = 1 + β + ρ + β/ρ, or with Nesterov momentum
        1 + ρ²/((1 + β) ρ + β); the largest λ dominates once the gradient has grown.
        """
        growth, momentum = float(self.diagnosis.growth), self.momentum
        if self.batches or not self.constant or not growth > 1:
            return np.nan
        nesterov = growth**2 / ((1 + momentum) * growth + momentum)
        return (1 + nesterov if self.nesterov else 1 + momentum + growth + momentum / growth) / self.used

    @property
    def curvature(self) -> float:
        """The largest curvature known, by what a look back found or by growth; NaN where neither is."""
        found = float(self.diagnosis.curvature)
        return found if found > 0 else self.grown_curvature

    @property
    def bound(self) -> tuple[float, str]:
        """(the largest stable learning rate of the rule at this curvature, its name); (NaN, "") where none is known."""
        if not (self.plain and self.curvature > 0):
            return np.nan, ""
        beta, most = self.momentum, 2 * (1 + self.momentum) / self.curvature
        if self.nesterov:
            return most / (1 + 2 * beta), "2 (1 + momentum)/((1 + 2 momentum) L)"
        return most, "2 (1 + momentum)/L" if beta else "2/L"

    @property
    def safe_rate(self) -> float:
        """A learning rate to try: one that was seen to lower the loss, or less: of batches since others may be
        steeper, and where no curvature bounds it.
        """
        lasting = float(self.diagnosis.lasting_rate)
        if self.diagnosis.curvature > 0:
            return lasting / 4 if self.batches else lasting
        return max(lasting / 100, 10 * self.used) if lasting > 100 * self.used else lasting

    @property
    def goes_on(self) -> bool:
        """Whether a step was found that lowers the loss by more than rounding."""
        return self.clear_rate * self.grad_norm**2 / 4 > self.rounding

    # ---- how far the run came

    @property
    def rounding(self) -> float:
        """What the loss may be off by."""
        return 32 * self.eps * abs(self.value)

    @property
    def rose(self) -> bool:
        """Whether the loss ended above its start, beyond rounding and the noise of the batches."""
        if not self.batches:
            return self.value - self.initial_value > max(self.rounding, 32 * self.eps * abs(self.initial_value))
        if self.diagnosis.climbed > CLIMBED:
            return True
        if len(self.values) < 2:
            return False
        start = max(self.values[0], self.initial_value)
        return self.value - start > max(3 * self.noise, 0.1 * abs(start))

    @property
    def noise(self) -> float:
        """By how much the mean loss goes up and down from epoch to epoch."""
        return (
            float(np.std(np.diff(self.values[len(self.values) // 2 :])))
            if self.batches and len(self.values) > 5
            else 0.0
        )

    @property
    def bottomless(self) -> bool:
        """Whether the loss fell out of all proportion while its gradient did not."""
        broke, start = self.status in (Status.DIVERGED, Status.NONFINITE), abs(self.initial_value)
        if self.value - float(self.diagnosis.far_value) > 1e3 * max(abs(self.value), start) > 0:
            return True
        fell, scale = (
            self.initial_value - self.value,
            start or self.initial_grad_norm if broke else max(start, self.initial_grad_norm),
        )
        return fell > (1e3 if broke else 1e6) * scale and self.grad_norm > 0.5 * self.initial_grad_norm

    @property
    def recent(self) -> tuple[float, float, float]:
        """(by how much the loss fell of late, which share of it that is, over which share of the run); NaN where too
        little is recorded.
        """
        values = self.values[np.isfinite(self.values)]
        if len(values) < 3:
            return np.nan, np.nan, np.nan
        back = max(1, len(values) // 10)
        fell = values[-1 - back] - values[-1]
        return fell, fell / max(abs(values[-1 - back]), np.finfo(float).tiny), back / len(values)

    @property
    def falling(self) -> bool:
        """Whether the loss was still falling when the run ended: for mini-batches by more than from epoch to epoch it
        goes up and down.
        """
        fell, share, _ = self.recent
        late = np.diff(self.values[len(self.values) // 2 :])
        return share > 0.01 and bool(fell > 2 * self.noise or (len(late) > 3 and np.all(late < 0)))

    @property
    def hardly_moved(self) -> bool:
        """Whether the loss stayed within a hundredth of its start; that of batches, which are noisy, at the end."""
        first = self.values[0] if len(self.values) else self.initial_value
        seen = np.append(() if self.batches else self.values, self.value)
        return bool(np.all(np.abs(seen - first) <= 0.01 * abs(first)))

    @property
    def bounce(self) -> float:
        """By how much the loss goes up and down from record to record of late, where that is all it does; else 0."""
        fell, _, over = self.recent
        if not over > 0:
            return 0.0
        late = np.abs(np.diff(self.values[-1 - max(1, len(self.values) // 10) :]))
        return float(np.mean(late)) if np.mean(late) > max(10 * abs(fell) / len(late), 1e-3 * abs(self.value)) else 0.0

    @property
    def overshoots(self) -> bool:
        """Whether the loss fell by far less than the h ‖g‖²/(1 − β) that each step promises, above rounding."""
        fell, _, over = self.recent
        if not (self.plain and len(self.norms) == len(self.values) and over > 0 and np.all(np.isfinite(self.norms))):
            return False
        steps = self.steps * over
        promised = (
            self.used / (1 - self.momentum) * np.min(self.norms[-1 - max(1, len(self.norms) // 10) :]) ** 2 * steps
        )
        return bool(promised > 10 * max(abs(fell), self.rounding / 32 * max(steps, 1)))

    @property
    def far_away(self) -> bool:
        """Whether a closer look at a point where the run stood still says that the minimum is far lower."""
        return max(100 * self.rounding, 1e-4 * abs(self.value)) < float(self.diagnosis.decrease) < np.inf

    @property
    def far_units(self) -> bool:
        """Whether the gradients are so large or small that a rule may find no step for them."""
        return (
            np.isfinite(self.initial_grad_norm)
            and self.initial_grad_norm > 0
            and not 1 / UNITS < self.initial_grad_norm < UNITS
        )

    @property
    def params_norm(self) -> float:
        """‖x‖₂ of the params returned."""
        return float(
            np.sqrt(sum(np.sum(np.square(np.asarray(x, np.float64))) for x in jax.tree.leaves(self.result.params)))
        )


@functools.lru_cache(maxsize=64)
def _is_linear(structure) -> bool:
    """Whether the first update of rules of this form is twice as long for twice the gradient, and against it."""
    rule = jax.tree.unflatten(structure, [0.5] * structure.num_leaves)
    params = jnp.zeros((), jnp.float32)
    try:
        once, twice = (float(rule.update(params + size, rule.init(params), params)[0]) for size in (3.0, 6.0))
    except Exception:  # a rule that needs more than a gradient
        return False
    return once < 0 and abs(twice - 2 * once) <= 1e-5 * abs(twice)


def chosen_rate(rule: Any) -> Any:
    """The ``learning_rate`` of a rule, or of the first within it, that is not the factory's own default; None where
    there is none.
    """
    arguments = _arguments(rule)
    given = arguments.get("learning_rate")
    if given is not None:
        default = inspect.signature(rule.factory.function).parameters["learning_rate"].default
        return (
            given
            if callable(given) or np.ndim(given) or default is inspect.Parameter.empty or float(given) != default
            else None
        )
    within = jax.tree.leaves(arguments, is_leaf=lambda x: hasattr(x, "arguments"))
    return next(
        (rate for inner in within if hasattr(inner, "arguments") and (rate := chosen_rate(inner)) is not None), None
    )


def _arguments(rule: Any) -> dict[str, Any]:
    return getattr(rule, "arguments", {})


def asks_about_the_start(result: Any) -> bool:
    """Whether the advice needs the curvature where the run began: it went too far from there, and its own gradients
    do not say why.
    """
    facts = Facts(result)
    if not facts.plain or facts.bottomless:
        return False
    return facts.status is Status.DIVERGED or (
        facts.status not in (Status.NONFINITE, Status.INTERRUPTED) and facts.rose
    )


def asks_about_the_end(result: Any) -> bool:
    """Whether the advice needs to know what is around the params returned: the run got nowhere, and may have had too
    small or too large a step.
    """
    facts = Facts(result)
    if facts.status is Status.NONFINITE:
        return not facts.bottomless
    if facts.rose or facts.bottomless or facts.steps == 0 or not facts.initial_grad_norm > 0:
        return False
    if facts.status in (Status.STALLED, Status.CONVERGED):
        return facts.grad_norm > (1e-4 if facts.status is Status.STALLED else 0.1) * facts.initial_grad_norm
    tuned = facts.rate is not None or facts.rate_unknown
    if facts.status is not Status.MAX_STEPS or not tuned or facts.steps < LONG_ENOUGH:
        return False
    return not facts.falling if facts.batches else facts.plain and facts.grad_norm > 0.25 * facts.initial_grad_norm


def asks_about_the_inputs(result: Any) -> bool:
    """Whether the advice needs to know if data and schedule are numbers: the run broke, or went where no descent
    leads.
    """
    facts = Facts(result)
    broke = facts.status in (Status.NONFINITE, Status.DIVERGED) or int(facts.diagnosis.validation_broke) >= 0
    return broke or facts.rose or not (facts.used >= 0 or np.isnan(facts.used))


def asks_about_the_scales(result: Any) -> bool:
    """Whether the advice needs to know how uneven the columns of the data are: the run went down as far as it could,
    slowly.
    """
    facts = Facts(result)
    return not facts.batches and facts.status in (Status.STALLED, Status.MAX_STEPS) and facts.steps > 0
