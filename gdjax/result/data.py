"""``Result``: what a run returns, a pytree, so that runs can be jitted, mapped and saved; ``Diagnosis``: the scalars behind its advice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.brief import known_repr
from gdjax.result import advice
from gdjax.result.status import Status
from gdjax.typing import Params


class Diagnosis(NamedTuple):
    """Scalars met along the way, from which the advice is computed. NaN, or −1 for integers, where not known.

    What has a default is filled in by a look back at runs whose outcome calls for one, outside of jit, vmap and grad: at
    the start of those that ran away from it, else at the params returned; of mini-batches at a few.
    """

    initial_value: Any  # the loss at the start; for mini-batches of the first batch
    initial_grad_norm: Any  # likewise
    learning_rate: Any  # of the last step
    growth: Any  # of ‖g‖ per step when it first exceeded its start; NaN if it never did
    reason: Any  # int32: which of Result.reasons stopped the run, -1 for none
    validation_broke: Any = np.int32(-1)  # the epoch at whose end the validation loss was no number
    curvature: Any = np.float32(np.nan)  # the largest |λ| of the Hessian met there: a bound from below
    clear_rate: Any = np.float32(np.nan)  # ≤ 1/curvature: a step lowers the loss as promised; 0 if none does
    lasting_rate: Any = np.float32(np.nan)  # ≤ clear_rate: forty steps end no higher than they began
    edge_rate: Any = np.float32(np.nan)  # the smallest one tried at which the loss is not finite
    far_value: Any = np.float32(np.nan)  # the loss 1e8/curvature away along the gradient, if it falls all the way
    mean_value: Any = np.float32(np.nan)  # the mean loss there, over these batches
    climbed: Any = np.float32(np.nan)  # by which share the loss of these batches is higher at the end than at the start
    signal: Any = np.float32(np.nan)  # ‖ḡ‖² of the mean gradient of these batches over the variance of one
    bad_leaf: Any = np.int32(-1)  # which of Result.leaf_names holds NaN or infinities
    bad_row: Any = np.int32(-1)  # its first row that does
    bad_number: Any = np.float32(np.nan)  # the number there
    bad_step: Any = np.int32(-1)  # the first step for which the schedule gave no number ≥ 0
    bad_rate: Any = np.float32(np.nan)  # what it gave
    uneven_leaf: Any = np.int32(-1)  # which of Result.leaf_names has columns that differ most in size
    uneven: Any = np.float32(1)  # by which factor
    distance: Any = np.float32(np.nan)  # to the minimum, where a full-batch run ended with a closer look: the length of a step of Newton's
    decrease: Any = np.float32(np.nan)  # of the loss that this step promises
    grad_above_rounding: Any = np.float32(np.nan)  # ‖g‖ without what is rounding
    curvature_along: Any = np.float32(np.nan)  # along that

    __repr__ = known_repr


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False, eq=False)
class Result:
    """What a run returns: a pytree of plain arrays, so it passes through jit, vmap, grad and checkpoints.

    Attributes:
        params: like the params given; of the last step, or the best (``keep="best"``), or the last at which all was finite and in proportion (DIVERGED,
            NONFINITE).
        value: the loss, shape (). Full batch: at ``params``. Mini-batches: the mean over the last epoch as seen in training (``gdjax.evaluate`` is exact);
            with ``keep="best"`` over the best epoch.
        grad_norm: ‖∇f‖₂, shape (). Full batch: at ``params``. Mini-batches: that of the last batch; with ``keep="best"`` of that of the best epoch.
        code: int32, the ``Status`` code; read ``status`` instead.
        steps: int32, updates made in the whole run.
        evaluations: int32, evaluations of value and gradient, those inside line searches included.
        history: name -> array, with the step of each record under ``"step"``. Inside jit or vmap of fixed length, NaN where nothing was recorded.
        state: one pytree with all that is needed to go on: pass it as ``resume=``.
        aux: what the loss returned beside its value, at the last evaluation; None without ``has_aux``.
        rule: the rule that was used, with its numbers; the default if none was given.
        diagnosis: scalars behind the advice.
        leaf_names: what the arrays of data and validation are called, for the advice.
        model_state: that of ``params``, where the loss carries one; else None.
        best_step: int32, the step at the end of the best epoch, by the validation loss or else the mean training loss (full batches: the best point). None
            where nothing is compared, which takes ``validation``, ``patience`` or ``keep="best"``.
        best_validation: the validation loss there; NaN if none was finite, None without ``validation``.

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
    best_step: Any = None
    best_validation: Any = None
    kind: str = field(default="full batch", metadata={"static": True})  # or "mini-batches"
    reasons: tuple[str, ...] = field(default=(), metadata={"static": True})
    keep: str = field(default="last", metadata={"static": True})  # or "best"
    leaf_names: tuple[str, ...] = field(default=(), metadata={"static": True})

    @property
    def _single(self) -> bool:
        return not isinstance(self.code, Tracer) and np.ndim(self.code) == 0

    @property
    def status(self) -> Status:
        """Why the run ended: a ``Status``, or an array of codes for batched or traced results, which the type leaves out."""
        return Status(int(self.code)) if self._single else self.code

    @property
    def converged(self) -> bool:
        """Whether the convergence criterion holds at ``params``: a bool, or an array of them."""
        return int(self.code) == Status.CONVERGED if self._single else cast(bool, jnp.equal(self.code, Status.CONVERGED))

    @property
    def message(self) -> str:
        """What happened, and what to do about it, in words."""
        if isinstance(self.code, Tracer):
            return "A traced result: its message can be read outside jit, vmap and grad."
        if not self._single:
            codes, counts = np.unique(np.asarray(self.code), return_counts=True)
            return f"{np.size(self.code)} runs: " + ", ".join(f"{count} {Status(int(code)).name}" for code, count in zip(codes, counts, strict=True))
        return advice.message(self)

    def __str__(self):
        if not self._single:
            return f"{type(self).__name__}: {self.message}"
        start = self.diagnosis
        of_value, of_norm = self._whose()
        return "\n".join(
            [
                f"{self.status.name} after {int(self.steps)} steps, {int(self.evaluations)} evaluations ({self.kind})",
                f"  value      {float(self.value):<12.6g} {of_value}; {float(start.initial_value):.6g} at the start",
                f"  grad norm  {float(self.grad_norm):<12.3g} {of_norm}; {float(start.initial_grad_norm):.3g} at the start",
                *self._best(),
                f"  rule       {self.rule!r}",
                f"  {self.message}",
            ]
        )

    def _whose(self) -> tuple[str, str]:
        """What value and gradient norm belong to."""
        if self.kind != "mini-batches":
            return "at these params", "at these params"
        if self.keep == "best" and int(self.best_step) < int(self.steps):
            return f"mean over the best epoch, which ended at step {int(self.best_step)}", "of its last batch"
        return "mean over the last epoch", "of the last batch"

    def _best(self) -> list[str]:
        returned = "; these params" if self.keep == "best" else ""
        if self.best_validation is not None:
            return [f"  validation {float(self.best_validation):<12.6g} the best, at step {int(self.best_step)}{returned}"]
        return [f"  best       at step {int(self.best_step)}{returned}"] if self.keep == "best" else []

    def __repr__(self):
        if not self._single:
            return f"Result({self.message})"
        return f"Result({self.status.name}, value={float(self.value):.6g}, grad_norm={float(self.grad_norm):.3g}, steps={int(self.steps)})"
