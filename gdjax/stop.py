"""Stopping rules: pure functions of what a step showed, pytrees like rules, joined with ``|``.

    gdjax.stop.grad_norm(1e-6) | gdjax.stop.target(0.01) | gdjax.stop.time_limit(60)

CONVERGED is said only where the gradient supports it. Every test is written so that NaN does not pass it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.arguments import Call, Factory, Given, check_number, short
from gdjax.brief import brief_repr
from gdjax.result import RUNNING, Status
from gdjax.typing import Number

FELL = 1e-2  # a change criterion counts as convergence only once the gradient norm has fallen to this share of its first value


class Observation(NamedTuple):
    """What stopping rules see, scalars of shape (): at a step of full-batch runs, at the end of an epoch of mini-batch runs."""

    value: Any  # the loss; for mini-batches the mean over the epoch, or the validation loss where there is one
    previous_value: Any  # at the step or epoch before; inf at the first
    grad_norm: Any  # ‖∇f‖₂; NaN for mini-batches
    initial_grad_norm: Any  # ‖∇f‖₂ at the start; NaN at the start itself, and for mini-batches
    update_norm: Any  # ‖x_k − x_{k−1}‖₂; inf at the first, NaN where no rule needs it
    params_norm: Any  # ‖x_k‖₂

    __repr__ = brief_repr


class Functions(NamedTuple):
    """What a stopping rule's factory returns."""

    init: Any  # init() -> state, a pytree of arrays
    check: Any  # check(observation, state) -> (code, state): RUNNING or a Status
    needs_gradient: bool = False  # cannot be asked of mini-batches
    seconds: Any = None  # a limit the host watches
    needs_update: bool = False  # looks at update_norm, which is computed only where asked for
    confirm: Any = None  # confirm(evidence, observation, initial, state) -> (bool, state): has the last word on a CONVERGED of check


@jax.tree_util.register_pytree_node_class
class Stop(Call):
    """A stopping rule; ``a | b`` stops as soon as either does. Its numbers are leaves: another tolerance does not recompile."""

    def members(self) -> list[Stop]:
        """The rules joined here, in order."""
        return [m for part in self.args_and_kwargs()[0] for m in part.members()] if self.factory.function is _either else [self]

    def __repr__(self):
        return " | ".join(map(repr, self.members())) if self.factory.function is _either else super().__repr__()

    def __or__(self, other: Stop) -> Stop:
        if not isinstance(other, Stop):
            raise TypeError(f"stop: cannot join {self!r} with {short(other)}; wanted a stopping rule such as gdjax.stop.grad_norm(1e-6).")
        return either(*self.members(), *other.members())


def stop(factory: Callable[Given, Any]) -> Factory[Given, Stop]:
    """Turns a factory of ``Functions(init, check)`` into one of stopping rules; public, for users' own."""
    if not callable(factory) or isinstance(factory, Call):
        raise TypeError(f"stop: got {short(factory)}; wanted a function of numbers that returns Functions(init, check): type @gdjax.stop.stop above it.")
    return Factory(factory, Stop)


class Start(NamedTuple):
    """What is kept of where a run began, scalars of shape ()."""

    value: Any  # f(x₀)
    size: Any  # max |x₀ᵢ|


def _positive(factory, name, value, example):
    check_number(factory, name, value, low=0, required=True, wanted=f"a number >= 0: type gdjax.stop.{example}")


def _positive_count(factory, name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"stop.{factory}: {name} is {short(value)}; wanted an integer >= 1: type gdjax.stop.{factory}({name}=5).")


def _either(*rules):
    functions = [member.build() for rule in rules for member in rule.members()]

    def init():
        return tuple(f.init() for f in functions)

    def check(seen, state):
        checked = [f.check(seen, s) for f, s in zip(functions, state, strict=True)]
        code = jnp.int32(RUNNING)
        for mine, _ in reversed(checked):  # the first rule named has the last word
            code = jnp.where(mine != RUNNING, mine, code)
        return code, tuple(s for _, s in checked)

    limits = [f.seconds for f in functions if f.seconds is not None]
    return Functions(init, check, any(f.needs_gradient for f in functions), min(limits) if limits else None, any(f.needs_update for f in functions))


either = stop(_either)


def codes(rule: Stop, seen: Observation, state: Any) -> tuple[Any, Any, Any]:
    """The verdict of a joined rule: (code, which member said so or -1, state)."""
    members = rule.members()
    single = len(members) == 1 and rule.factory.function is not _either
    checked = [m.build().check(seen, s) for m, s in zip(members, (state,) if single else state, strict=True)]
    code, reason = jnp.int32(RUNNING), jnp.int32(-1)
    for index, (mine, _) in reversed(list(enumerate(checked))):
        code, reason = jnp.where(mine != RUNNING, mine, code), jnp.where(mine != RUNNING, index, reason)
    states = tuple(s for _, s in checked)
    return code, reason, states[0] if single else states


def unconfirmed(rule: Stop) -> list[int]:
    """Which members of a joined rule want a closer look before they say CONVERGED."""
    return [index for index, member in enumerate(rule.members()) if member.build().confirm is not None]


def confirm(rule: Stop, evidence, seen: Observation, initial, code, reason, state: Any) -> tuple[Any, Any, Any]:
    """The verdict after a closer look: (code, which member said so or -1, state). A CONVERGED that does not stand is RUNNING, a STALLED that does CONVERGED."""
    members = rule.members()
    single = len(members) == 1 and rule.factory.function is not _either
    states = [state] if single else list(state)
    for index in unconfirmed(rule):
        stands, later = members[index].build().confirm(evidence, seen, initial, states[index])
        asked = (code == Status.CONVERGED) & ((reason == index) | single)
        states[index] = jax.tree.map(lambda new, old, sent_on=asked & ~stands: jnp.where(sent_on, new, old), later, states[index])
        code = jnp.where(asked & ~stands, RUNNING, jnp.where((code == Status.STALLED) & stands, Status.CONVERGED, code)).astype(jnp.int32)
        reason = jnp.where((code == Status.CONVERGED) & stands, index, reason).astype(jnp.int32)
    return code, reason, states[0] if single else tuple(states)


def _stateless():
    return ()


@stop
def grad_norm(atol: Number = 0.0, rtol: Number = 0.0):
    """CONVERGED when ‖∇f(x)‖₂ ≤ max(atol, rtol ‖∇f(x₀)‖₂), at the params that are returned.

    Args:
        atol: absolute tolerance, in units of the gradient. ``minimize(tol=x)`` is short for ``grad_norm(atol=x)``.
        rtol: tolerance relative to the gradient norm at the start.

    Raises:
        ValueError: a negative or NaN tolerance; in ``fit`` with mini-batches, whose gradients do not vanish at a minimum.
    """
    _positive("stop.grad_norm", "atol", atol, "grad_norm(atol=1e-6)")
    _positive("stop.grad_norm", "rtol", rtol, "grad_norm(rtol=1e-6)")

    def check(seen, state):
        done = (seen.grad_norm <= atol) | (seen.grad_norm <= rtol * seen.initial_grad_norm)
        return jnp.where(done, Status.CONVERGED, RUNNING).astype(jnp.int32), state

    return Functions(_stateless, check, needs_gradient=True)


@stop
def stationary(rtol=1e-5):
    """CONVERGED when the minimum is near, by a closer look at the point: the default of ``minimize`` and of ``fit`` with full batches.

    Where ‖∇f(x)‖₂ has fallen to rtol ‖∇f(x₀)‖₂, or the run stands still, a few gradients are taken nearby. They tell which entries of the gradient are
    more than rounding, s, and by conjugate gradients the step w of Newton's that would remove them. The run has converged if nothing is left of the gradient
    but rounding, or if both

        ‖w‖ ≤ max(rtol ‖x‖, min(rtol, 1e-5) max|x₀|)                   that step is short
        sᵀw/2 ≤ max(1e-6, 10 rtol²) max(|f(x)|, f(x₀) − f(x))          and promises little

    Else it goes on, and the next look is taken where the gradient is as small as this one says that it should be. None of this changes where the loss or the
    params are put in other units, and no step costs more for it. Evaluations for closer looks are not counted.

    Args:
        rtol: relative accuracy of the params. The default of ``minimize`` is 1e-8 in float64, 1e-5 in float32, 1e-2 in bfloat16 and float16.

    Raises:
        ValueError: a negative or NaN tolerance; in ``fit`` with mini-batches, whose gradients do not vanish at a minimum.

    Guarantee: on a quadratic, ‖w‖ and sᵀw/2 are the distance to the minimum and the height above it once the conjugate gradients, eight at most, have found
    them, and less before; where the gradient is below rounding nothing can be seen.
    """
    _positive("stop.stationary", "rtol", rtol, "stationary(rtol=1e-5)")

    def init():
        return jnp.asarray(jnp.inf, jnp.result_type(float))  # ‖∇f‖₂ at which to look, if below rtol ‖∇f(x₀)‖₂

    def check(seen, level):
        near = (seen.grad_norm <= 0) | (seen.grad_norm <= jnp.minimum(level.astype(seen.grad_norm.dtype), rtol * seen.initial_grad_norm))
        return jnp.where(near, Status.CONVERGED, RUNNING).astype(jnp.int32), level

    def confirm(evidence, seen, initial, level):
        far = jnp.maximum(rtol * evidence.params_norm, jnp.minimum(rtol, 1e-5) * initial.size)
        much = jnp.maximum(1e-6, 10 * jnp.square(rtol)) * jnp.maximum(jnp.abs(seen.value), initial.value - seen.value)
        nothing = (seen.grad_norm <= 0) | (evidence.signal <= 0)
        stands = nothing | ((evidence.distance <= far) & (evidence.decrease <= much))
        share = jnp.minimum(far / evidence.distance, jnp.sqrt(much / evidence.decrease))
        share = jnp.clip(jnp.where(jnp.isfinite(share), share, 1), 0.01, 0.5)
        return stands, (share * seen.grad_norm).astype(level.dtype)

    return Functions(init, check, needs_gradient=True, confirm=confirm)


def _change(size_of, patience):
    """CONVERGED after ``patience`` small changes in a row if the gradient has fallen too, else STOPPED: small steps alone prove nothing."""

    def init():
        return jnp.int32(0)

    def check(seen, quiet):
        quiet = jnp.where(size_of(seen), quiet + 1, 0).astype(jnp.int32)
        fell = seen.grad_norm <= FELL * seen.initial_grad_norm
        return jnp.where(quiet >= patience, jnp.where(fell, Status.CONVERGED, Status.STOPPED), RUNNING).astype(jnp.int32), quiet

    return init, check


@stop
def value_change(atol: Number = 0.0, rtol: Number = 0.0, patience: int = 5):
    """Stops when |f(x_k) − f(x_{k−1})| ≤ max(atol, rtol |f(x_k)|) for ``patience`` steps (epochs, for mini-batches) in a row.

    The verdict is CONVERGED if the gradient norm has fallen to a hundredth of its first value as well, else STOPPED: with a learning rate that is too small
    the value hardly changes anywhere.
    """
    _positive("stop.value_change", "atol", atol, "value_change(atol=1e-9)")
    _positive("stop.value_change", "rtol", rtol, "value_change(rtol=1e-9)")
    _positive_count("value_change", "patience", patience)
    small = lambda seen: jnp.abs(seen.value - seen.previous_value) <= jnp.maximum(atol, rtol * jnp.abs(seen.value))  # noqa: E731
    return Functions(*_change(small, patience))


@stop
def param_change(atol: Number = 0.0, rtol: Number = 0.0, patience: int = 5):
    """Stops when ‖x_k − x_{k−1}‖₂ ≤ max(atol, rtol ‖x_k‖₂) for ``patience`` steps in a row; the verdict as in ``value_change``."""
    _positive("stop.param_change", "atol", atol, "param_change(atol=1e-9)")
    _positive("stop.param_change", "rtol", rtol, "param_change(rtol=1e-9)")
    _positive_count("param_change", "patience", patience)
    small = lambda seen: seen.update_norm <= jnp.maximum(atol, rtol * seen.params_norm)  # noqa: E731
    return Functions(*_change(small, patience), needs_gradient=True, needs_update=True)


@stop
def target(value):
    """STOPPED when the loss is at or below ``value``."""
    check_number("stop.target", "value", value, required=True, wanted="a number: type gdjax.stop.target(0.1)")

    def check(seen, state):
        return jnp.where(seen.value <= value, Status.STOPPED, RUNNING).astype(jnp.int32), state

    return Functions(_stateless, check)


@stop
def plateau(patience: int, atol: Number = 0.0, rtol: Number = 0.0):
    """STOPPED when the best loss so far has not improved by more than max(atol, rtol |best|) for ``patience`` steps (epochs, for mini-batches)."""
    _positive_count("plateau", "patience", patience)
    _positive("stop.plateau", "atol", atol, "plateau(10, atol=1e-4)")
    _positive("stop.plateau", "rtol", rtol, "plateau(10, rtol=1e-4)")

    def init():
        # In float64 where that is on: the best of a float64 run, rounded up to float32, would be beaten at every step.
        return jnp.asarray(jnp.inf, jnp.result_type(float)), jnp.int32(0)

    def check(seen, state):
        best, waited = state
        margin = jnp.where(jnp.isfinite(best), jnp.maximum(atol, rtol * jnp.abs(best)), 0)
        value = seen.value.astype(best.dtype)
        better = value < best - margin
        waited = jnp.where(better, 0, waited + 1).astype(jnp.int32)
        best = jnp.where(better, value, best)
        return jnp.where(waited >= patience, Status.STOPPED, RUNNING).astype(jnp.int32), (best, waited)

    return Functions(init, check)


@stop
def time_limit(seconds):
    """STOPPED when the run has taken ``seconds`` of wall-clock time, compilation included. The host watches it: not inside jit, vmap or grad."""
    check_number("stop.time_limit", "seconds", seconds, low=0, required=True, wanted="a number of seconds >= 0: type gdjax.stop.time_limit(60)")
    return Functions(_stateless, lambda seen, state: (jnp.int32(RUNNING), state), seconds=seconds)
