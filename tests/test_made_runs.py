"""Runs made so that their outcome is known: the verdicts that are right, what must be said, what must not, and that a learning rate to try works."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import Status, gd, minimize, sgd
from gdjax.rule import Rule

CONVERGED, MAX_STEPS, STALLED, DIVERGED, NONFINITE, STOPPED = list(Status)[:6]
adam = gdjax.rule(optax.adam)

TOO_SMALL, TOO_LARGE, OVERSHOOTS = "too small", "learning rate was too large", "overshoot"
FALLING, SIGN, ABOVE = "still falling", "without bound.*Check its sign", "above its start|above the start"
SMALLER = "too large|overshoot|Lower the learning rate|decay the learning rate"  # said of steps that are too long
LARGER = "too small|larger learning rate"  # and of those that are too short
NOISE = "at the noise of the batches: decay the learning rate"
TRY = re.compile(r"(?:Try|Try the learning rate|up to|such as) (\d[0-9.e+-]*\d|\d)\.?(?: |$)")


@dataclass
class Made:
    """A run and what is known of it."""

    name: str
    run: Callable[[Any], Any]  # rule -> result
    rule: Any
    right: tuple  # the verdicts that are
    says: str = ""
    never: str = ""
    tries: bool = False  # the message names a learning rate to try


def full(name, loss, start, rule, right, says="", never="", tries=False, **options):
    right = right if isinstance(right, tuple) else (right,)
    return Made(name, lambda rule: minimize(loss, start, rule, **options), rule, right, says, never, tries)


def complaints(made: Made):
    """What is wrong with a run's verdict or words, if anything is."""
    result = made.run(made.rule)
    text = result.message
    if result.status not in made.right:
        yield f"{result.status.name}, not {made.right}"
    if not re.search(made.says, text):
        yield f"says not {made.says!r}"
    if made.never and re.search(made.never, text):
        yield f"says {made.never!r}"
    if not all(np.all(np.isfinite(np.asarray(x, np.float32))) for x in jax.tree.leaves(result.params)):
        yield "params are not finite"
    if text != jax.device_get(result).message:
        yield "another message at another time"
    yield from laws(made, result, text)


def laws(made: Made, result, text):
    """What holds of all advice."""
    named = TRY.search(text)
    if made.tries != (named is not None):
        yield f"names {'a' if named else 'no'} learning rate to try"
    if isinstance(made.rule, Rule) and "learning_rate" not in made.rule.arguments and re.search("(?<!no )learning rate", text):
        yield "speaks of the learning rate of a rule that has none"
    if "float64" in text and jnp.result_type(result.value) == np.float64:
        yield "recommends float64 in float64"
    if named:
        rate = float(named[1])
        again = made.run(made.rule.factory(**made.rule.arguments | {"learning_rate": rate}))
        lower = float(again.value) < max(float(result.value), float(result.diagnosis.initial_value))
        better = lower or float(again.grad_norm) < 0.1 * float(result.diagnosis.initial_grad_norm)  # which a constant hides
        if again.status in (DIVERGED, NONFINITE) or not better:
            yield f"the learning rate {rate} to try leads to {again!r}"


def said(made: Made):
    return [f"{made.name}: {what}\n    {made.run(made.rule)}" for what in complaints(made)]


# ---- losses


def quadratic(x, curvatures, unit, constant):
    return unit * 0.5 * jnp.sum(curvatures * x * x) + constant


CURVED = jnp.asarray([1.0, 100.0])  # L = 100
ONES = jnp.ones(2)


def square(name, rule, right, says="", never="", tries=False, unit=1.0, constant=0.0, start=ONES, **options):
    options = dict(args=(CURVED.astype(start.dtype), unit, constant), max_steps=300) | options
    return full(f"quadratic {name}", quadratic, start, rule, right, says, never, tries, **options)


def huber(x):
    return jnp.where(jnp.abs(x) < 1, 0.5 * x * x, jnp.abs(x) - 0.5)


def absolute(x):
    return jnp.abs(x - 0.3)


def linear(x):
    return 1e-3 * jnp.sum(x)


def saddle(x):
    return x[0] ** 2 - x[1] ** 2


def rastrigin(x):
    return 10 + x**2 - 10 * jnp.cos(2 * jnp.pi * x)


def well(x):
    return -jnp.exp(-(x**2))


def edge(x):
    return jnp.where(x > 1.0, (x - 1.0) ** 1.5 + x, jnp.nan)


def barrier(x):
    return 10 * x - jnp.log(x)


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def fourth(x):
    return x**4


rng = np.random.default_rng(0)
ROWS = rng.normal(size=(400, 3)).astype(np.float32)
EXACT = ROWS @ np.float32([1.0, -2.0, 0.5])
NOISY = (EXACT + 0.5 * rng.normal(size=400)).astype(np.float32)
SIDES = np.sign(EXACT)
ZEROS = jnp.zeros(3)


def hinge(w, rows, sides):
    return jnp.mean(jnp.maximum(0.0, 1 - sides * (rows @ w)))


def flipped_likelihood(t, rows):
    return -(0.5 * jnp.sum((rows - t[0]) ** 2) * jnp.exp(-2 * t[1]) + rows.size * t[1])


def with_data(w, numbers):
    return jnp.mean(jnp.where(w > 1.5, numbers, 0.0) + (w - 2) ** 2)


# ---- full batches

GOES_ON = (MAX_STEPS, STALLED)
L = 100.0

QUADRATICS = [
    *(square(f"{share:.0e}/L", gd(share / L), GOES_ON, TOO_SMALL, SMALLER, tries=True) for share in 10.0 ** np.arange(-9, -2)),
    *(square(f"{share}/L", gd(share / L), MAX_STEPS, FALLING, SMALLER) for share in (0.01, 0.1, 1.0, 1.9)),
    *(square(f"{share:g}/L", gd(share / L), DIVERGED, TOO_LARGE, LARGER, tries=True) for share in (2.05, 3.0, 10.0, 1e2, 1e3, 1e5, 1e7, 1e9)),
    *(square(f"momentum, {share:g}/L", sgd(share / L, 0.9), GOES_ON, TOO_SMALL, SMALLER, tries=True) for share in (1e-8, 1e-5)),
    *(square(f"momentum, {share:g}/L", sgd(share / L, 0.9), (MAX_STEPS, CONVERGED), "", SMALLER + "|too small") for share in (0.1, 1.0, 3.5)),
    *(square(f"momentum, {share:g}/L", sgd(share / L, 0.9), DIVERGED, TOO_LARGE, LARGER, tries=True) for share in (3.9, 10.0, 1e6)),
    *(square(f"Nesterov, {share:g}/L", sgd(share / L, 0.9, nesterov=True), GOES_ON, TOO_SMALL, SMALLER, tries=True) for share in (1e-6,)),
    *(square(f"Nesterov, {share:g}/L", sgd(share / L, 0.9, nesterov=True), DIVERGED, TOO_LARGE, LARGER, tries=True) for share in (1.5, 1e4)),
    square("in its flat direction", gd(1e-5), MAX_STEPS, TOO_SMALL, tries=True, start=jnp.asarray([1.0, 0.0])),
    square("normalised, too long", gdjax.normalized(10.0), (MAX_STEPS, DIVERGED), "Lower the learning rate", LARGER),
    square("at its minimum", gd(0.01), CONVERGED, "", SMALLER + "|" + LARGER, start=jnp.zeros(2)),
    square("no steps", gd(0.01), MAX_STEPS, "No step", LARGER, max_steps=0),
    square("few steps", gd(1e-3), MAX_STEPS, FALLING, SMALLER, max_steps=5),
    square("by default", None, CONVERGED, "stationary", "learning rate"),
    square("Barzilai-Borwein", gdjax.barzilai_borwein(), CONVERGED, "stationary"),
    square("sign descent, too short", adam(1e-7), MAX_STEPS, "may be too small", SMALLER),
    square(
        "a schedule of NaN", gd(lambda step: jnp.where(step < 20, 0.01, jnp.nan)), NONFINITE, "schedule .* nan at step 20", "log|learning rate was",
    ),
    square("a schedule below 0", gd(lambda step: 0.011 - 0.002 * step), DIVERGED, "schedule .* gave -0.001 at step 6", "Lower"),
    square("an infinite schedule", gd(lambda step: jnp.where(step < 20, 0.01, jnp.inf)), (NONFINITE, DIVERGED), "schedule .* inf at step 20", "log"),
]

UNITS = [
    *(square(f"× {c:g}, 1e-5/L", gd(1e-5 / L / c), GOES_ON, TOO_SMALL, SMALLER, tries=True, unit=c, tol=0.0) for c in (1e-20, 1e20)),
    *(square(f"× {c:g}, 1/L", gd(1 / L / c), MAX_STEPS, FALLING, SMALLER, unit=c, tol=0.0) for c in (1e-20, 1e20)),
    *(square(f"× {c:g}, 10/L", gd(10 / L / c), DIVERGED, TOO_LARGE, LARGER, tries=True, unit=c, tol=0.0) for c in (1e-20, 1e20)),
    *(square(f"+ 1e10, {share:g}/L", gd(share / L), GOES_ON, TOO_SMALL, SMALLER, tries=True, constant=1e10) for share in (1e-9, 1e-3)),
    square("+ 1e10, 1/L", gd(1 / L), (*GOES_ON, CONVERGED), "", SMALLER + "|" + LARGER, constant=1e10),
    *(square(f"+ 1e10, {share:g}/L", gd(share / L), DIVERGED, TOO_LARGE, LARGER, tries=True, constant=1e10) for share in (3.0, 10.0, 1e5)),
    square(
        "+ 1e10, growing for a few steps", gd(3 / L), (MAX_STEPS, DIVERGED), "above its start|too large", LARGER, tries=True, constant=1e10, max_steps=12,
    ),
]

LOW = jnp.ones(2, jnp.bfloat16)
BFLOAT16 = [
    square("in bfloat16, 1e-6/L", gd(1e-6 / L), GOES_ON, TOO_SMALL, SMALLER, tries=True, start=LOW),
    square("in bfloat16, 10/L", gd(10 / L), DIVERGED, TOO_LARGE, LARGER, tries=True, start=LOW),
    square("in bfloat16, 1/L", gd(1 / L), (MAX_STEPS, CONVERGED, STALLED), "", SMALLER, start=LOW),
]


def in_float64():
    start = jnp.ones(2, jnp.float64)
    return [
        square("in float64, 1e-6/L", gd(1e-6 / L), GOES_ON, TOO_SMALL, SMALLER, tries=True, start=start),
        square("in float64, 10/L", gd(10 / L), DIVERGED, TOO_LARGE, LARGER, tries=True, start=start),
        square("in float64, to the floor", gd(1.0 / L), (STALLED, CONVERGED, MAX_STEPS), "", SMALLER, start=start, tol=0.0, max_steps=20000, constant=1.0),
    ]


KINKS = [
    *(full(f"Huber from 100, gd({rate:g})", huber, 100.0, gd(rate), GOES_ON, TOO_SMALL, SMALLER, tries=True) for rate in (1e-8, 1e-5, 1e-2)),
    full("Huber from 100, gd(1)", huber, 100.0, gd(1.0), CONVERGED, "", LARGER),
    full("Huber about its minimum", huber, 100.0, gd(3.0), (MAX_STEPS, STALLED), OVERSHOOTS, LARGER),
    full("|x| at its minimum", absolute, 0.3, gd(0.1), (MAX_STEPS, STALLED, CONVERGED), "minimum", LARGER + "|" + SMALLER),
    *(full(f"|x|, gd({rate:g})", absolute, 2.0, gd(rate), GOES_ON, TOO_SMALL, SMALLER, tries=True, tol=0.0) for rate in (1e-9, 1e-4)),
    full("|x|, gd(0.1)", absolute, 2.0, gd(0.1), GOES_ON, OVERSHOOTS, LARGER, tol=0.0),
    full("|x|, gd(10)", absolute, 2.0, gd(10.0), GOES_ON, OVERSHOOTS, LARGER, tries=True, tol=0.0),
    full("|x| by default", absolute, 2.0, None, (STALLED, CONVERGED), "minimum|stationary", "learning rate"),
    full("hinge, far too short", hinge, ZEROS, gd(1e-8), GOES_ON, TOO_SMALL, SMALLER, tries=True, args=(ROWS[:50], SIDES[:50])),
    full("hinge", hinge, ZEROS, gd(0.1), MAX_STEPS, FALLING, SMALLER, args=(ROWS[:50], SIDES[:50])),
]

BOTTOMLESS = [
    full("linear", linear, jnp.ones(3), gd(0.1), MAX_STEPS, SIGN, LARGER + "|Allow|allow"),
    full("linear, short steps", linear, jnp.ones(3), gd(1e-6), GOES_ON, SIGN, LARGER),
    full("linear, by default", linear, jnp.ones(3), None, (MAX_STEPS, STALLED, DIVERGED), SIGN, "allow more"),
    full("linear, by a search", linear, jnp.ones(3), gdjax.armijo(), (MAX_STEPS, STALLED, DIVERGED), SIGN, "allow more"),
    *(
        full(f"x² − y², {rule!r}", saddle, jnp.asarray([1.0, 0.1]), rule, (DIVERGED, NONFINITE), SIGN, "log|Lower")
        for rule in (gd(0.1), None, gdjax.armijo(), gdjax.barzilai_borwein(), gdjax.nonlinear_cg())
    ),
    full("a likelihood of the wrong sign", flipped_likelihood, jnp.zeros(2), gd(1e-3), (DIVERGED, NONFINITE), SIGN, "log", args=(ROWS[:50, 0],)),
    full(
        "a likelihood of the wrong sign, by default", flipped_likelihood, jnp.zeros(2), None, (DIVERGED, NONFINITE), SIGN, "for log", args=(ROWS[:50, 0],),
    ),
]

HILLS = [
    full(
        "Rastrigin, momentum", rastrigin, 3.5, sgd(0.1, 0.9), (MAX_STEPS, DIVERGED), "too large|above its start", FALLING + "|" + LARGER, tries=True,
    ),
    full("Rastrigin, its step", rastrigin, 3.5, gd(1e-3), (CONVERGED, STALLED), "", "above|" + LARGER),
    full("a plateau above the start, gd(100)", well, 1.0, gd(100.0), CONVERGED, ABOVE + ".*too large", "a minimum, or", tries=True),
    full("a plateau above the start, gd(1e8)", well, 1.0, gd(1e8), CONVERGED, ABOVE + ".*too large", "a minimum, or", tries=True),
    full("a well", well, 1.0, gd(0.1), CONVERGED, "stationary", "above"),
    full("a well, short steps", well, 1.0, gd(1e-8), GOES_ON, TOO_SMALL, SMALLER, tries=True),
    *(full(f"Rosenbrock, gd({rate:g})", rosenbrock, jnp.asarray([-1.2, 1.0]), gd(rate), GOES_ON, TOO_SMALL, SMALLER, tries=True) for rate in (1e-9, 1e-6)),
    full("Rosenbrock, along its valley", rosenbrock, jnp.asarray([-1.2, 1.0]), gd(1e-4), MAX_STEPS, "valley", LARGER + "|" + SMALLER),
    full("Rosenbrock, gd(1e-3)", rosenbrock, jnp.asarray([-1.2, 1.0]), gd(1e-3), MAX_STEPS, FALLING, SMALLER),
    *(full(f"Rosenbrock, gd({rate:g})", rosenbrock, jnp.asarray([-1.2, 1.0]), gd(rate), DIVERGED, TOO_LARGE, LARGER, tries=True) for rate in (0.01, 1.0)),
    full("Rosenbrock, Adam, too short", rosenbrock, jnp.asarray([-1.2, 1.0]), adam(1e-7), MAX_STEPS, "may be too small", SMALLER),
    full(
        "Rosenbrock, Adam, too long", rosenbrock, jnp.asarray([-1.2, 1.0]), adam(1e7), (DIVERGED, NONFINITE), "Lower the learning rate: gdjax.suggest", LARGER,
    ),
    full("Rosenbrock, by default", rosenbrock, jnp.asarray([-1.2, 1.0]), None, CONVERGED, "stationary"),
    *(full(f"x⁴, gd({rate:g})", fourth, 10.0, gd(rate), DIVERGED, TOO_LARGE, LARGER, tries=True) for rate in (1.0, 1e4)),
    full("x⁴, its step", fourth, 10.0, gd(4e-3), (MAX_STEPS, CONVERGED), "", SMALLER),
]

YEARS = np.arange(1950.0, 2020.0, dtype=np.float32)
CALENDAR = np.stack([np.ones(70, np.float32), YEARS], 1), np.float32(0.03 * (YEARS - 1985) + 5 + 0.2 * rng.normal(size=70))


def least_squares(w, rows, targets):
    return jnp.mean((rows @ w - targets) ** 2)


SCALED = [
    full(
        "columns of two sizes", least_squares, jnp.zeros(2), gd(1e-7), GOES_ON,
        r"args\[0\] differ in size by a factor of 2e\+03.*: standardise", "as good as", args=CALENDAR,
    ),
]

DOMAINS = [
    full("an edge, by default", edge, 3.0, None, (STALLED, CONVERGED, NONFINITE), "edge", "as good as|learning rate"),
    full("an edge, by a search", edge, 3.0, gdjax.armijo(), (STALLED, CONVERGED, NONFINITE), "edge", "as good as|learning rate"),
    full("an edge, by steps", edge, 3.0, gd(0.01), NONFINITE, "edge of its domain", LARGER),
    full("a barrier, short steps", barrier, 2.0, gd(1e-8), GOES_ON, TOO_SMALL, SMALLER, tries=True),
    full("a barrier", barrier, 2.0, gd(1e-3), CONVERGED, "stationary"),
    *(full(f"a barrier, gd({rate:g})", barrier, 2.0, gd(rate), NONFINITE, "edge of its domain.*smaller", LARGER) for rate in (0.05, 10.0)),
    full(
        "infinite data", with_data, 0.0, gd(0.1), (NONFINITE, DIVERGED),
        r"infinite number in the data: args\[0\] in row 1", "log", args=(np.float32([1, np.inf, 2]),),
    ),
    full("NaN in the data", with_data, 0.0, gd(0.1), NONFINITE, r"NaN in the data: args\[0\] in row 2", "log", args=(np.float32([1, 1, np.nan]),)),
]

# ---- mini-batches


def mean_square(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def logistic(w, batch):
    return jnp.mean(jnp.logaddexp(0.0, -jnp.sign(batch[1]) * (batch[0] @ w)))


sum_of_squares = gdjax.finite_sum(lambda w, row: (row[0] @ w - row[1]) ** 2)


def some(name, rule, right, says="", never="", tries=False, loss=mean_square, start=ZEROS, rows=ROWS, targets=NOISY, **options):
    options = dict(batch_size=32, epochs=10, key=0) | options
    right = right if isinstance(right, tuple) else (right,)
    return Made(name, lambda rule: gdjax.fit(loss, start, (rows, targets), rule, **options), rule, right, says, never, tries)


SHORT = "decay|larger batches|too large|overshoot"
BATCHES = [
    *(some(f"batches, gd({rate:g})", sgd(rate), MAX_STEPS, TOO_SMALL, SHORT, tries=True) for rate in (1e-9, 1e-7, 1e-5)),
    some("batches, on their way", sgd(1e-3), MAX_STEPS, FALLING, SHORT + "|too small"),
    *(some(f"batches, at their noise, gd({rate:g})", sgd(rate), MAX_STEPS, NOISE, LARGER) for rate in (0.05, 0.3)),
    *(some(f"batches, gd({rate:g})", sgd(rate), DIVERGED, TOO_LARGE, LARGER, tries=True) for rate in (3.0, 1e3, 1e9)),
    *(some(f"batches, momentum, gd({rate:g})", sgd(rate, 0.9), MAX_STEPS, TOO_SMALL, SHORT, tries=True) for rate in (1e-9, 1e-5)),
    some("batches, momentum, at their noise", sgd(0.05, 0.9), MAX_STEPS, NOISE, LARGER),
    some("batches, momentum, too long", sgd(1e3, 0.9), DIVERGED, TOO_LARGE, LARGER, tries=True),
    *(some(f"batches, Adam, {rate:g}", adam(rate), MAX_STEPS, "hardly moved.*too small", SHORT) for rate in (1e-9, 1e-5)),
    some("batches, Adam, on its way", adam(1e-2), MAX_STEPS, FALLING, SHORT),
    some("batches, Adam, too long", adam(1e3), (MAX_STEPS, DIVERGED), "Lower the learning rate", LARGER),
    some("batches at their minimum", sgd(0.05), MAX_STEPS, NOISE, LARGER, start=jnp.asarray([1.0, -2.0, 0.5])),
    some("batches, a schedule that has ended", sgd(gdjax.schedules.cosine(0.1, 130)), MAX_STEPS, "minimum", "decay|too small|too large"),
    some("batches, by default", None, MAX_STEPS, "", "learning rate"),
    some("batches, decayed, too short", sgd(1e-8, 0.9, weight_decay=1e-4), MAX_STEPS, TOO_SMALL, SHORT),
    some("batches, optax's own, too short", optax.sgd(1e-8), MAX_STEPS, TOO_SMALL, SHORT),
    some("few batches", sgd(1e-7), MAX_STEPS, "Allow more", SHORT, steps=20, epochs=None),
    some("two epochs, too short", sgd(1e-8), MAX_STEPS, TOO_SMALL, SHORT, tries=True, epochs=3),
    some("drawn with replacement, too short", sgd(1e-7), MAX_STEPS, TOO_SMALL, SHORT, tries=True, shuffle="replacement"),
    some("drawn with replacement, at the noise", sgd(0.05), MAX_STEPS, NOISE, LARGER, shuffle="replacement"),
]
INTERPOLATING = [
    some("every row met", sgd(0.3), MAX_STEPS, "minimum", SMALLER + "|" + LARGER, targets=EXACT),
    some("every row met from the start", sgd(0.05), MAX_STEPS, "minimum", SMALLER + "|" + LARGER, targets=EXACT, start=jnp.asarray([1.0, -2.0, 0.5])),
    *(some(f"every row, gd({rate:g})", sgd(rate), MAX_STEPS, TOO_SMALL, SHORT, tries=True, targets=EXACT) for rate in (1e-8, 1e-6)),
    some("every row, on its way", sgd(1e-3), MAX_STEPS, FALLING, SHORT, targets=EXACT),
    some("every row, too long", sgd(30.0), DIVERGED, TOO_LARGE, LARGER, tries=True, targets=EXACT),
]
SINGLES = [
    *(some(f"single rows, gd({rate:g})", sgd(rate), MAX_STEPS, TOO_SMALL, SHORT, tries=True, batch_size=1) for rate in (1e-9, 1e-7)),
    some("single rows, on their way", sgd(1e-5), MAX_STEPS, FALLING, SHORT, batch_size=1),
    *(some(f"single rows, at their noise, gd({rate:g})", sgd(rate), MAX_STEPS, NOISE, LARGER, batch_size=1) for rate in (1e-3, 0.05)),
    *(some(f"single rows, gd({rate:g})", sgd(rate), DIVERGED, TOO_LARGE, LARGER, tries=True, batch_size=1) for rate in (0.7, 1e3)),
    some("SAGA", gdjax.saga(), MAX_STEPS, "", "decay|larger batches", loss=sum_of_squares, batch_size=1),
    some("SAGA, every row met", gdjax.saga(), MAX_STEPS, "", "decay|larger batches", loss=sum_of_squares, batch_size=1, targets=EXACT),
]


def spoilt(array, row, number):
    array = array.copy()
    array[row] = number
    return array


def flat(w, batch):
    return jnp.mean(batch[0]) * 0 + 3.0 + 0 * w.sum()


def minus(w, batch):
    return -mean_square(w, batch)


STREAM = [(ROWS[i : i + 8], spoilt(NOISY, 100, np.nan)[i : i + 8]) for i in range(0, 400, 8)]
NUMBERS = [
    some("NaN in a row", sgd(0.05), NONFINITE, r"NaN in the data: data\[0\] in row 37", "log|learning rate", rows=spoilt(ROWS, 37, np.nan)),
    some(
        "an infinity in a row", sgd(0.05), (NONFINITE, DIVERGED),
        r"infinite number in the data: data\[1\] in row 50", "log|learning rate", targets=spoilt(NOISY, 50, np.inf),
    ),
    some(
        "NaN in validation", sgd(0.05), STOPPED, r"validation loss.*validation\[0\] in row 3", "log", patience=2, validation=(spoilt(ROWS, 3, np.nan), NOISY),
    ),
    some("a schedule of NaN", sgd(lambda step: jnp.where(step < 20, 0.1, jnp.nan)), NONFINITE, "schedule .* nan at step 20", "log"),
    some("a schedule below 0", sgd(lambda step: 0.1 - 0.01 * step), DIVERGED, "schedule .* at step 11", "Lower"),
    some("a loss that does not move", sgd(0.1), MAX_STEPS, "does not depend on the params", SHORT, loss=flat),
    some("a loss of the wrong sign", sgd(0.1), DIVERGED, SIGN, "Lower", loss=minus),
    some("logistic, too short", sgd(1e-7), MAX_STEPS, TOO_SMALL, SHORT, tries=True, loss=logistic),
    some("logistic, on its way", sgd(0.1), MAX_STEPS, FALLING, SHORT, loss=logistic),
    some("logistic, too long", sgd(1e4), (MAX_STEPS, DIVERGED), TOO_LARGE, LARGER, tries=True, loss=logistic),
    Made(
        "NaN in a stream", lambda rule: gdjax.fit(mean_square, ZEROS, STREAM, rule, batch_size=None, epochs=2),
        sgd(0.05), (NONFINITE,), "NaN in the data: a batch", "log",
    ),
    some("all rows, too short", gd(1e-6), MAX_STEPS, TOO_SMALL, SHORT, tries=True, batch_size=None, epochs=100),
    some("all rows, too long", gd(1e3), DIVERGED, TOO_LARGE, LARGER, tries=True, batch_size=None, epochs=100),
]

ROOMS = dict(
    quadratics=QUADRATICS, units=UNITS, bfloat16=BFLOAT16, kinks=KINKS, scaled=SCALED, bottomless=BOTTOMLESS, hills=HILLS, domains=DOMAINS,
    batches=BATCHES, interpolating=INTERPOLATING, singles=SINGLES, numbers=NUMBERS,
)  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)  # a room shares compiled programs
def test_made_runs(room):
    assert not (wrong := [each for made in ROOMS[room] for each in said(made)]), "\n".join(wrong)


def test_made_runs_in_float64(x64):
    assert not (wrong := [each for made in in_float64() for each in said(made)]), "\n".join(wrong)


def test_there_are_enough():
    assert sum(map(len, ROOMS.values())) >= 150
