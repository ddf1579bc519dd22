"""What a schedule is, and the plain ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree
from gdjax.arguments import Call, Factory, Given, check_number, is_concrete, make_factory, short
from gdjax.typing import Number, Scalar


@jax.tree_util.register_pytree_node_class
class Schedule(Call):
    """A function of the step that is also a pytree: the numbers it was made with are its leaves.

    Made by calling a factory of this package, or one of your own under ``gdjax.schedules.schedule``.

    Example:
        >>> import gdjax, jax
        >>> rule = gdjax.sgd(gdjax.schedules.cosine(0.1, 100))
        >>> rule, jax.tree.leaves(rule)
        (sgd(learning_rate=cosine(init_value=0.1, steps=100)), [0.1])
    """

    def build(self):
        """The function for these arguments."""
        made = super().build()
        if not callable(made):
            raise TypeError(f"{self.factory.__name__} returned {short(made)}; wanted a function of the step: type return lambda step: ...")
        return made

    def __call__(self, step: Number) -> Scalar:
        """The value at a step (int or int32, shape ()), float32 at least."""
        with jax.numpy_dtype_promotion("standard"):  # a step is an integer and a schedule real: to mix them is meant
            value = self.build()(step)
            return jnp.asarray(value, tree.dtype_of(value))


def schedule(factory: Callable[Given, Any]) -> Factory[Given, Schedule]:
    """Turns a factory of functions of the step into one of schedules: functions whose numbers are leaves.

    Args:
        factory: ``factory(*args, **kwargs)`` that returns ``value(step)``. It is run once at the user's call, so the checks it makes are made there.

    Returns:
        The factory, with the same signature and docstring, returning a ``Schedule``. As a lift it takes those of optax:
        ``sine = gdjax.schedules.schedule(optax.schedules.sgdr_schedule)``.

    Raises:
        TypeError: what was given is not a factory.

    Example:
        >>> import gdjax
        >>> @gdjax.schedules.schedule
        ... def harmonic(init_value):
        ...     return lambda step: init_value / (1 + step)
        >>> harmonic(0.5), f"{harmonic(0.5)(4):.3f}"
        (harmonic(init_value=0.5), '0.100')
    """
    if isinstance(factory, Factory) and factory.kind is Schedule:
        return factory
    if isinstance(factory, (Call, Factory)) or not callable(factory):
        raise TypeError(f"schedule: got {short(factory)}; wanted what returns a function of the step: type schedule(optax.cosine_decay_schedule).")
    return make_factory(factory, Schedule)


def value_at(value: Any, step: Number) -> Any:
    """A number as it is; a schedule at this step."""
    return value(step) if callable(value) else value


def check_learning_rate(factory: str, learning_rate: Any) -> None:
    """The door for learning rates: a number ≥ 0 or a schedule."""
    if not callable(learning_rate):
        wanted = f"a finite number ≥ 0 or a schedule: type {factory}(0.1) or {factory}(gdjax.schedules.cosine(0.1, 100))"
        check_number(factory, "learning_rate", learning_rate, low=0, open_high=True, required=True, wanted=wanted)


def _check_values(factory: str, **values) -> None:
    for name, value in values.items():
        check_number(factory, name, value, required=True, wanted=f"a number, for example {name}=0.1")


def _check_steps(factory: str, *, at_least_one: bool = True, **counts) -> None:
    wanted = "a number of steps > 0" if at_least_one else "a number of steps ≥ 0"
    for name, count in counts.items():
        check_number(factory, name, count, low=0, open_low=at_least_one, required=True, wanted=f"{wanted}, for example {name}=100")


def _real(count: Number) -> Any:
    return float(count) if isinstance(count, int) else count  # a Python int may be too large for int32


def _progress(step: Number, steps: Number) -> Scalar:
    """The share of the steps that is done, in [0, 1]; of no steps, all from step 0 on."""
    step, steps = jnp.asarray(_real(step)), jnp.asarray(_real(steps))
    some = steps > 0
    return jnp.where(some, jnp.clip(step / jnp.where(some, steps, 1), 0, 1), step >= 0)


def _between(init_value: Any, end_value: Any, progress: Any) -> Any:
    return init_value * (1 - progress) + end_value * progress  # exact at both ends


@schedule
def constant(value):
    """The same value, shape (), at every step.

    Example:
        >>> import gdjax
        >>> print(f"{gdjax.schedules.constant(0.1)(1000):.3f}")
        0.100
    """
    _check_values("constant", value=value)
    return lambda step: value


@schedule
def linear(init_value, end_value, steps):
    """A straight line: value(t) = v₀ + (v₁ − v₀) t/T for t ≤ T, then v₁.

    Down to 0 it is the best schedule for the last iterate of T subgradient steps on a convex function with ‖g‖ ≤ G, from distance D: with
    v₀ = D T/(G (T + 1)^{3/2}) they end at f(x_T) − f⋆ ≤ G D/√(T + 1), which no method of this kind improves.

    Args:
        init_value: v₀, the value at step 0; shape ().
        end_value: v₁, the value from step T on; shape ().
        steps: T > 0, in steps.

    Returns:
        Schedule: step -> scalar; ``optax.linear_schedule``.

    Raises:
        ValueError: a value is NaN or steps is not positive.

    Example:
        >>> import gdjax
        >>> line = gdjax.schedules.linear(0.2, 0.0, 100)
        >>> print(*(f"{line(step):.3f}" for step in (0, 25, 100, 1000)))
        0.200 0.150 0.000 0.000

    Reference:
        Zamani, Glineur, "Exact convergence rate of the last iterate in subgradient methods", arXiv:2307.11134, 2023.
    """
    _check_values("linear", init_value=init_value, end_value=end_value)
    _check_steps("linear", steps=steps)
    return lambda step: _between(init_value, end_value, _progress(step, steps))


@schedule
def cosine(init_value, steps, end_value: Number = 0.0):
    """Half a cosine: value(t) = v₁ + (v₀ − v₁) (1 + cos(π t/T))/2 for t ≤ T, then v₁.

    Args:
        init_value: v₀, the value at step 0; shape ().
        steps: T > 0, in steps.
        end_value: v₁, the value from step T on; shape ().

    Returns:
        Schedule: step -> scalar; ``optax.cosine_decay_schedule(v₀, T, alpha=v₁/v₀)``.

    Raises:
        ValueError: a value is NaN or steps is not positive.

    Example:
        >>> import gdjax
        >>> wave = gdjax.schedules.cosine(0.2, 100)
        >>> print(*(f"{wave(step):.3f}" for step in (0, 25, 50, 100, 1000)))
        0.200 0.171 0.100 0.000 0.000

    Reference:
        Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, arXiv:1608.03983.
    """
    _check_values("cosine", init_value=init_value, end_value=end_value)
    _check_steps("cosine", steps=steps)
    return lambda step: _between(init_value, end_value, (1 - jnp.cos(jnp.pi * _progress(step, steps))) / 2)


@schedule
def exponential(init_value, decay_rate, steps, staircase=False):
    """A constant factor every so many steps: value(t) = v₀ r^(t/T), or v₀ r^⌊t/T⌋ in stairs.

    Args:
        init_value: v₀, the value at step 0; shape ().
        decay_rate: r > 0, the factor per T steps; shape ().
        steps: T > 0, in steps.
        staircase: bool; drop at multiples of T only ("ten times less every 30 epochs").

    Returns:
        Schedule: step -> scalar, without an end; ``optax.exponential_decay(v₀, T, r)``.

    Raises:
        ValueError: a value is NaN, or decay_rate or steps is not positive.

    Example:
        >>> import gdjax
        >>> decay = gdjax.schedules.exponential(0.2, 0.5, 10)
        >>> print(*(f"{decay(step):.3f}" for step in (0, 5, 10, 30)))
        0.200 0.141 0.100 0.025
    """
    _check_values("exponential", init_value=init_value)
    check_number("exponential", "decay_rate", decay_rate, low=0, open_low=True, required=True, wanted="a factor > 0, for example decay_rate=0.5")
    _check_steps("exponential", steps=steps)

    def value(step):
        periods = jnp.maximum(jnp.asarray(_real(step)) / _real(steps), 0)
        return init_value * jnp.power(decay_rate, jnp.floor(periods) if staircase else periods)

    return value


@schedule
def inverse_sqrt(init_value, steps: Number = 1):
    """Decay as one over the square root: value(t) = v₀ / √(1 + t/T).

    With T = 1 it is the step for runs of unknown length: N subgradient steps on a convex function with E‖g‖² ≤ G², from distance D, have a mean,
    weighted by the step sizes h, with E f − f⋆ ≤ (D² + G² Σ h²)/(2 Σ h) ≤ (D²/v₀ + v₀ G² (1 + log N))/(4 (√(N + 1) − 1)).

    Args:
        init_value: v₀, the value at step 0; shape ().
        steps: T > 0, in steps: how long the value stays within a factor √2 of v₀.

    Returns:
        Schedule: step -> scalar, without an end.

    Raises:
        ValueError: init_value is NaN or steps is not positive.

    Example:
        >>> import gdjax
        >>> decay = gdjax.schedules.inverse_sqrt(0.2, 100)
        >>> print(*(f"{decay(step):.3f}" for step in (0, 100, 300, 9900)))
        0.200 0.141 0.100 0.020

    Reference:
        Nemirovski, Juditsky, Lan, Shapiro, "Robust stochastic approximation approach to stochastic programming", SIAM J. Optim. 19, 2009.
    """
    _check_values("inverse_sqrt", init_value=init_value)
    _check_steps("inverse_sqrt", steps=steps)
    return lambda step: init_value * jax.lax.rsqrt(1 + jnp.maximum(jnp.asarray(_real(step)) / _real(steps), 0))


@schedule
def polynomial(init_value, end_value, power, steps):
    """A power of the steps that remain: value(t) = v₁ + (v₀ − v₁) (1 − t/T)^p for t ≤ T, then v₁.

    Args:
        init_value: v₀, the value at step 0; shape ().
        end_value: v₁, the value from step T on; shape ().
        power: p > 0; shape (). 1 is ``linear``.
        steps: T > 0, in steps.

    Returns:
        Schedule: step -> scalar; ``optax.polynomial_schedule(v₀, v₁, p, T)``.

    Raises:
        ValueError: a value is NaN, or power or steps is not positive.

    Example:
        >>> import gdjax
        >>> decay = gdjax.schedules.polynomial(0.2, 0.0, 2, 100)
        >>> print(*(f"{decay(step):.3f}" for step in (0, 50, 100, 1000)))
        0.200 0.050 0.000 0.000
    """
    _check_values("polynomial", init_value=init_value, end_value=end_value)
    check_number("polynomial", "power", power, low=0, open_low=True, required=True, wanted="a number > 0, for example power=2")
    _check_steps("polynomial", steps=steps)

    def value(step):
        remaining = 1 - _progress(step, steps)
        some = remaining > 0  # at 0 a power below 1 has an infinite derivative
        return _between(init_value, end_value, 1 - jnp.where(some, jnp.where(some, remaining, 1) ** power, 0))

    return value


@schedule
def warmup(schedule, steps, init_value: Number = 0.0):
    """A straight line up to where another schedule starts, then that schedule: value(t) = v + (s(0) − v) t/W for t < W, then s(t − W).

    Args:
        schedule: s, a schedule or a number, shape ().
        steps: W ≥ 0, in steps: the length of the rise, before the first step of s.
        init_value: v, the value at step 0, shape (). The default, 0.0, spends the first step standing still, as is the custom; s(0)/(W + 1) does not.

    Returns:
        Schedule: step -> scalar; over ``cosine(v₀, T − W)`` it is ``optax.warmup_cosine_decay_schedule(v, v₀, W, T)``.

    Raises:
        ValueError: init_value or the number is NaN, or steps is negative.

    Example:
        >>> import gdjax
        >>> rise = gdjax.schedules.warmup(gdjax.schedules.cosine(0.2, 100), 10)
        >>> print(*(f"{rise(step):.3f}" for step in (0, 5, 10, 60, 110)))
        0.000 0.100 0.200 0.100 0.000

    Reference:
        Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", arXiv:1706.02677, 2017.
    """
    _check_values("warmup", init_value=init_value, **({} if callable(schedule) else {"schedule": schedule}))
    _check_steps("warmup", at_least_one=False, steps=steps)

    def value(step):
        rise = _between(init_value, value_at(schedule, 0), _progress(step, steps))
        return jnp.where(step < _real(steps), rise, value_at(schedule, jnp.maximum(step - steps, 0)))

    return value


@schedule
def wsd(peak_value, steps, warmup_steps, decay_steps, end_value: Number = 0.0):
    """Warm-up, stable, decay: a line from 0 up to the peak, the peak, and a line down that ends at step T.

    value(t) = v t/W for t < W;  v for W ≤ t ≤ T − D;  v + (v₁ − v) (t − T + D)/D up to T;  then v₁.

    Args:
        peak_value: v, shape ().
        steps: T > 0, in steps: the whole, W and D included.
        warmup_steps: W ≥ 0, in steps.
        decay_steps: D ≥ 0, in steps; a fifth of T is usual.
        end_value: v₁, the value from step T on; shape ().

    Returns:
        Schedule: step -> scalar.

    Raises:
        ValueError: a value is NaN, a number of steps is out of range, or W + D > T.

    Example:
        >>> import gdjax
        >>> plateau = gdjax.schedules.wsd(0.2, 100, 10, 20)
        >>> print(*(f"{plateau(step):.3f}" for step in (0, 5, 10, 80, 90, 100)))
        0.000 0.100 0.200 0.200 0.100 0.000

    Reference:
        Hägele et al., "Scaling laws and compute-optimal training beyond fixed training durations", NeurIPS 2024, arXiv:2405.18392.
    """
    _check_values("wsd", peak_value=peak_value, end_value=end_value)
    _check_steps("wsd", steps=steps)
    _check_steps("wsd", at_least_one=False, warmup_steps=warmup_steps, decay_steps=decay_steps)
    if all(map(is_concrete, (steps, warmup_steps, decay_steps))) and np.any(np.asarray(warmup_steps) + decay_steps > np.asarray(steps)):
        raise ValueError(f"wsd: warmup_steps + decay_steps is {warmup_steps} + {decay_steps}; wanted at most steps = {steps}: type a larger steps.")

    def value(step):
        rise = _between(0.0, peak_value, _progress(step, warmup_steps))
        fall = _between(peak_value, end_value, _progress(step - (steps - decay_steps), decay_steps))
        return jnp.where(step < _real(warmup_steps), rise, fall)

    return value


@schedule
def join(schedules, boundaries):
    """One schedule after the other, each counting from its own start: value(t) = sᵢ(t − bᵢ) for bᵢ ≤ t < bᵢ₊₁, with b₀ = 0.

    With numbers in place of schedules it is piecewise constant.

    Args:
        schedules: sequence of k schedules or numbers, shape () each.
        boundaries: sequence of k − 1 increasing steps ≥ 0: where the second, third, ... begins.

    Returns:
        Schedule: step -> scalar; ``optax.join_schedules``.

    Raises:
        ValueError: no schedules, a number of boundaries other than k − 1, or boundaries that decrease.

    Example:
        >>> import gdjax
        >>> stairs = gdjax.schedules.join([0.1, 0.01, gdjax.schedules.linear(0.01, 0.0, 10)], [30, 60])
        >>> print(*(f"{stairs(step):.3f}" for step in (0, 29, 30, 60, 65, 70)))
        0.100 0.100 0.010 0.010 0.005 0.000
    """
    for name, given in (("schedules", schedules), ("boundaries", boundaries)):
        if not isinstance(given, (list, tuple)) and np.ndim(given) != 1:
            raise TypeError(f"join: {name} is {short(given)}; wanted a list: type join([0.1, 0.01], [30]).")
    if not len(schedules) or len(boundaries) != len(schedules) - 1:
        raise ValueError(f"join: got {len(schedules)} schedules and {len(boundaries)} boundaries; wanted one fewer: type join([0.1, 0.01], [30]).")
    _check_values("join", **{f"schedules[{i}]": part for i, part in enumerate(schedules) if not callable(part)})
    _check_steps("join", at_least_one=False, **{f"boundaries[{i}]": boundary for i, boundary in enumerate(boundaries)})
    if all(map(is_concrete, boundaries)) and any(np.any(np.asarray(b) < np.asarray(a)) for a, b in pairwise(boundaries)):
        raise ValueError(f"join: boundaries is {list(boundaries)}; wanted increasing steps, counted from the start: type boundaries=[30, 60].")

    def value(step):
        current = value_at(schedules[0], step)
        for part, boundary in zip(schedules[1:], boundaries, strict=True):
            current = jnp.where(step < boundary, current, value_at(part, jnp.maximum(step - boundary, 0)))
        return current

    return value
