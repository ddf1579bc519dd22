"""Line searches: one engine that brackets, interpolates and tells the truth, shared by all rules that search.

Along a descent direction d, φ(a) = f(x + a d), φ'(0) = gᵀd < 0. A step a is wanted that satisfies

    decrease:   φ(a) ≤ r + c₁ a φ'(0)             r = φ(0) (Armijo), or a nonmonotone reference: ``zhang_hager``, ``grippo``
            or  φ(a) ≤ φ(0) + ε|φ(0)| and φ'(a) ≤ (2δ − 1) φ'(0)      (Hager and Zhang's approximate form: where rounding hides a decrease, slopes show it)
    curvature:  none;  φ'(a) ≥ c₂ φ'(0) (weak Wolfe);  |φ'(a)| ≤ c₂ |φ'(0)| (strong Wolfe)

Every trial takes value and gradient together, so the accepted point's are handed on and the next step costs no evaluation of its own.

Differs from textbooks in: NaN and inf, of φ or of the params, are upper ends of the bracket like any other failure; ε is at least a few units of rounding of
the loss's dtype in every kind of search, and interpolation takes the slopes alone where values differ by less, so that float32 runs go down to their floor and
not until differences of φ first drown; a search that finds no acceptable step says so (``accepted`` is false and nothing moves), and it stops looking once a
trial moves no entry of the params any more. d is taken in units of its largest entry, a power of two: no loss is too steep or too flat for gᵀd.

Reference:
    Armijo, "Minimization of functions having Lipschitz continuous first partial derivatives", Pacific J. Math. 16, 1966.
    Wolfe, "Convergence conditions for ascent methods", SIAM Review 11, 1969.
    Moré, Thuente, "Line search algorithms with guaranteed sufficient decrease", ACM TOMS 20, 1994 (brackets and safeguarded interpolation).
    Hager, Zhang, "A new conjugate gradient method with guaranteed descent and an efficient line search", SIAM J. Optim. 16, 2005.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import tree
from gdjax.typing import Grads, Params, Scalar, Updates

SUFFICIENT = 1e-4  # c₁: Nocedal and Wright, "Numerical Optimization", section 3.1
DELTA = 0.1  # δ: Hager and Zhang 2005
ROUNDING = 10  # units of rounding of |φ(0)| within which values say nothing
EXPANSION = 100.0  # a step grows at most by this from one trial to the next: measured on CUTEst, 10 to 100 differ little, 4 costs 10 %
MAX_EVALUATIONS = 30


class Conditions(NamedTuple):
    """What makes a step acceptable, and how far to look."""

    sufficient: Any = SUFFICIENT  # c₁, in (0, 1)
    curvature: Any = None  # c₂, in (c₁, 1), or None: no curvature condition
    strong: bool = False  # |φ'(a)| ≤ c₂ |φ'(0)| rather than φ'(a) ≥ c₂ φ'(0)
    slack: Any = 0.0  # ε of the approximate form, relative to |φ(0)|; rounding at least
    expansion: Any = EXPANSION
    max_evaluations: int = MAX_EVALUATIONS


class Point(NamedTuple):
    """A point on the line, scalars of shape ()."""

    step: Any  # a
    value: Any  # φ(a)
    slope: Any  # φ'(a)


class Found(NamedTuple):
    """What a search found. If nothing was acceptable: step 0, the value and gradient it started with, and ``accepted`` false."""

    step: Scalar  # a
    updates: Updates  # a d, in the dtypes of the params: value and gradient are those at x + a d as it is stored
    value: Scalar  # φ(a)
    grad: Grads  # ∇f(x + a d)
    slope: Scalar  # φ'(a)
    accepted: jax.Array  # bool, shape ()
    evaluations: jax.Array  # int32, shape (): of value and gradient


class _Search(NamedTuple):
    low: Point  # decreased enough, and still falling steeply: the wanted step is longer. At first a = 0
    high: Point  # not decreased enough, or rising: the wanted step is shorter. Infinite before one is met
    trial: Any  # the next a
    found: Point  # the last trial
    grad: Any  # there
    status: Any  # int32
    evaluations: Any  # int32


SEARCHING, FALLING_BACK, ACCEPTED, NOTHING = 0, 1, 2, 3


def search(value_and_grad_fn, params: Params, direction: Updates, value, grad: Grads, initial, *, reference=None, conditions=Conditions()) -> Found:  # noqa: B008
    """Looks for an acceptable step along a direction, by trials of value and gradient.

    Args:
        value_and_grad_fn: ``params -> (value, grad)``; drivers offer it.
        params: x.
        direction: d, like params; nothing is tried unless gᵀd < 0.
        value: φ(0), shape ().
        grad: g at x, like params.
        initial: the first trial, shape (), > 0.
        reference: r, shape (), at least φ(0); default φ(0).
        conditions: see ``Conditions``.

    Returns:
        Found. ``accepted`` is false if gᵀd ≥ 0, or the initial step is not a number > 0, or the trials ran out, or became too short to move the params; then
        nothing has moved. If a longest acceptable step still falls too steeply when the trials run out, it is taken: it satisfies the decrease.
    """
    dtype, kind = tree.dtype_of(params), jnp.result_type(value)
    epsilon = float(jnp.finfo(kind if jnp.issubdtype(kind, jnp.floating) else dtype).eps)
    unit = tree.power_of_two(tree.largest(direction).astype(dtype))
    direction = tree.stored(tree.scale(1 / unit, direction))
    start = Point(jnp.zeros((), dtype), jnp.asarray(value, dtype), tree.vdot(grad, direction).astype(dtype))
    reference = start.value if reference is None else jnp.asarray(reference, dtype)
    slack = jnp.maximum(jnp.asarray(conditions.slack, dtype), ROUNDING * epsilon) * jnp.abs(start.value)

    def body(now):
        ahead = tree.stored(tree.add(params, tree.stored(tree.scale(now.trial, direction))))
        there, slopes = value_and_grad_fn(ahead)
        point = Point(now.trial, jnp.asarray(there, dtype), tree.vdot(slopes, direction).astype(dtype))
        way = tree.largest(tree.subtract(ahead, params))
        decreased, wanted = _judge(start, point, reference, slack, conditions)
        decreased, wanted = decreased & jnp.isfinite(way), wanted & (way > 0) & jnp.isfinite(way)
        low, high, trial, status = _next(now, point, decreased, wanted, way == 0, slack, conditions, jnp.finfo(dtype))
        return _Search(low, high, trial, point, tree.cast_like(slopes, grad), status.astype(jnp.int32), now.evaluations + 1)

    initial = jnp.asarray(initial, dtype) * unit
    possible = (start.slope < 0) & (initial > 0) & jnp.isfinite(initial) & jnp.isfinite(start.value)
    far = Point(*(jnp.full((), jnp.inf, dtype) for _ in range(3)))
    status = jnp.where(possible, SEARCHING, NOTHING).astype(jnp.int32)
    last = lax.while_loop(lambda now: now.status < ACCEPTED, body, _Search(start, far, initial, start, grad, status, jnp.int32(0)))
    accepted = last.status == ACCEPTED
    step, there, slope = tree.where(accepted, last.found, start)
    updates = tree.where(accepted, tree.stored(tree.scale(step, direction)), tree.zeros_like(direction))
    return Found(step / unit, updates, there, tree.where(accepted, last.grad, grad), slope * unit, accepted, last.evaluations)


def _judge(start: Point, point: Point, reference, slack, conditions: Conditions):
    """(whether the decrease is enough, whether the curvature condition holds too)."""
    sound = jnp.isfinite(point.value) & jnp.isfinite(point.slope)
    armijo = point.value - reference <= conditions.sufficient * point.step * start.slope  # as a difference, which rounding cannot make true
    approximate = (point.value <= start.value + slack) & (point.slope <= (2 * DELTA - 1) * start.slope)
    decreased = sound & (armijo | approximate)
    if conditions.curvature is None:
        return decreased, decreased
    flat = point.slope >= conditions.curvature * start.slope
    if conditions.strong:
        flat &= point.slope <= -conditions.curvature * start.slope
    return decreased, decreased & flat


def _next(now: _Search, point: Point, decreased, wanted, still, slack, conditions: Conditions, limits):
    """The bracket after a trial, the next trial, and whether to go on. A trial that moved nothing is too short, and all there are once there is a bracket."""
    falling = decreased & (wanted | (point.slope < 0))
    low = tree.where(falling & ~still, point, now.low)
    high = tree.where(falling | still, now.high, point)
    bracketed = jnp.isfinite(high.step)
    longer = _extrapolate(now.low, point, conditions.expansion)
    trial = jnp.where(bracketed, _interpolate(low, high, slack, now.evaluations), jnp.minimum(longer, limits.max / 4))
    collapsed = bracketed & (still | (high.step - low.step <= 4 * limits.eps * high.step))
    over = (now.evaluations + 1 >= conditions.max_evaluations) | collapsed | ~(trial > 0)
    fallback = jnp.where(low.step > 0, FALLING_BACK, NOTHING)
    status = jnp.where(wanted | (now.status == FALLING_BACK), ACCEPTED, jnp.where(over, fallback, SEARCHING))
    # The longest step that decreases enough is tried once more, since only one gradient is kept.
    status = jnp.where((status == FALLING_BACK) & (low.step == point.step), ACCEPTED, status)
    return low, high, jnp.where(status == FALLING_BACK, low.step, trial), status


def _extrapolate(low: Point, point: Point, expansion):
    """Where the slope would be 0, by the secant of slopes, at 2 to ``expansion`` times the step."""
    rise = point.slope - low.slope
    by = jnp.where(rise > 0, (point.step - low.step) * (-point.slope / jnp.where(rise > 0, rise, 1)), jnp.inf)
    return jnp.clip(point.step + by, 2 * point.step, expansion * point.step)


def _interpolate(low: Point, high: Point, slack, evaluations):
    """The minimiser of the cubic between the ends, or of the quadratic, kept off the ends.

    A first trial out of all proportion is made good at once: on a quartic the cubic would take off only two thirds at a time. A loss that has risen by r
    times what the slope promised has curvature L ≥ 2r/a, so 10a/r is still above any bound in 1/L. What does not come soon is halved, so that the bracket
    does collapse. Values that differ by no more than rounding say nothing: there the change of value is that of a parabola with these slopes.
    """
    width, begun = high.step - low.step, low.step > 0
    change = jnp.where(jnp.abs(high.value - low.value) <= slack, 0.5 * width * (low.slope + high.slope), high.value - low.value)
    cubic = _cubic(low, high, change)
    lift = 2 * (change - low.slope * width)
    quadratic = jnp.where(lift > 0, low.step - width * (low.slope * width / jnp.where(lift > 0, lift, 1)), low.step + 0.5 * width)
    best = jnp.where(jnp.isfinite(cubic), cubic, jnp.where(jnp.isfinite(quadratic), quadratic, low.step + 0.5 * width))
    best = jnp.clip(best, low.step + jnp.where(begun | (evaluations < 2), 0.1, 0.01) * width, low.step + jnp.where(begun, 0.9, 0.8) * width)
    best = jnp.where(begun & (evaluations >= 8), low.step + 0.5 * width, best)
    rise = change / jnp.abs(low.slope) / width
    best = jnp.where(~begun & (rise >= 1e3), jnp.clip(10 / rise, 1e-8, 0.01) * width, best)
    sound = jnp.isfinite(high.value) & jnp.isfinite(high.slope)
    blind = jnp.where(evaluations < 2, 0.1, jnp.where(evaluations < 4, 0.01, 1e-8))
    return jnp.where(sound, best, low.step + jnp.where(begun, 0.5, blind) * width)


def _cubic(low: Point, high: Point, change):
    """The minimiser of the cubic with these slopes and this change of value; NaN if there is none. In units of the largest slope, lest squares overflow."""
    width = high.step - low.step
    z = low.slope + high.slope - 3 * change / width
    unit = jnp.maximum(jnp.maximum(jnp.abs(z), jnp.abs(low.slope)), jnp.abs(high.slope))
    z, left, right = (x / jnp.where(unit > 0, unit, 1) for x in (z, low.slope, high.slope))
    square = z**2 - left * right
    root = jnp.sqrt(jnp.where(square > 0, square, 0))
    bottom = right - left + 2 * root
    minimiser = high.step - width * (right + root - z) / jnp.where(bottom == 0, 1, bottom)
    return jnp.where((square >= 0) & (bottom != 0), minimiser, jnp.nan)


def first_step(params: Params, grad: Grads) -> Scalar:
    """1/‖g‖_∞, the first trial along −g when nothing is known of the loss: it moves no entry by more than 1; 1 for a gradient of 0 or not finite.

    Measured on CUTEst: 1/‖g‖_∞ ≤ 1/‖g‖₂, a share of ‖x‖, and |f|/‖g‖² in the number of evaluations, for every rule tried.
    """
    largest = tree.largest(grad).astype(tree.dtype_of(params))
    usable = jnp.isfinite(largest) & (largest > 0)
    return jnp.where(usable, 1 / jnp.where(usable, largest, 1), 1)


class Average(NamedTuple):
    """Zhang and Hager's reference: a weighted mean C of the values so far."""

    mean: Any  # C, shape ()
    weight: Any  # Q, shape ()


def average_of(value) -> Average:
    """Of the first value alone; with NaN, of the first value that will come."""
    return Average(value, jnp.ones_like(value))


def zhang_hager(average: Average, value, memory) -> Average:
    """C ← (η Q C + f)/(η Q + 1),  Q ← η Q + 1: with η = 0 the last value (monotone), with η = 1 the mean of all.

    Guarantee: Lipschitz gradients, directions with gᵀd ≤ −c‖g‖², ‖d‖ ≤ C‖g‖, η < 1: ‖gₖ‖ → 0; strongly convex: R-linear.

    Reference:
        Zhang, Hager, "A nonmonotone line search technique and its application to unconstrained optimization", SIAM J. Optim. 14, 2004.
    """
    weight = jnp.where(jnp.isnan(average.mean), 0, memory * average.weight).astype(average.weight.dtype)
    mean = (weight * jnp.where(weight > 0, average.mean, 0) + value) / (weight + 1)
    return Average(jnp.maximum(mean, value), weight + 1)


def grippo(values, value, step):
    """The last values, shape (M,), with the newest in its place; their maximum is the reference of Grippo, Lampariello and Lucidi.

    Empty places hold −inf.

    Reference:
        Grippo, Lampariello, Lucidi, "A nonmonotone line search technique for Newton's method", SIAM J. Numer. Anal. 23, 1986.
    """
    return lax.dynamic_update_index_in_dim(values, jnp.asarray(value, values.dtype), lax.rem(step, jnp.int32(values.shape[0])), 0)
