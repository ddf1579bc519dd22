"""Derivatives of where a run ends, with respect to all numbers it was started with: against central differences and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import schedules
from gdjax.arguments import Factory

pytestmark = pytest.mark.usefixtures("x64")

ROWS, SIZE = 20, 6  # three batches of 6 and one of 2 rows, filled up
RANDOM = np.random.default_rng(2)
X = RANDOM.normal(size=(ROWS, 3)) * [1.0, 2.0, 0.5] + 0.2
Y = np.where(X @ [1.0, -0.5, 2.0] + RANDOM.normal(size=ROWS) > 0.3, 1.0, -1.0)
START = np.array([0.5, -0.3, 0.2])

PARTS = {
    "anytime": schedules.anytime(9.0),
    "chebyshev": schedules.chebyshev(9.0, 0.4, 3),
    "constant": schedules.constant(0.11),
    "cosine": schedules.cosine(0.2, 3.7, 0.04),
    "exponential": schedules.exponential(0.2, 0.6, 1.7),
    "inverse_sqrt": schedules.inverse_sqrt(0.2, 1.3),
    "linear": schedules.linear(0.2, 0.05, 3.4),
    "long_steps": schedules.long_steps(9.0, 3),
    "minimax": schedules.minimax(1.2, 2.3, 5.5),
    "polynomial": schedules.polynomial(0.2, 0.03, 1.7, 3.6),
    "silver": schedules.silver(9.0),
    "warmup": schedules.warmup(schedules.cosine(0.2, 2.6, 0.02), 1.3, 0.07),
    "wsd": schedules.wsd(0.2, 3.3, 1.2, 1.4, 0.06),
}
EACH = 3  # steps; the boundaries are far from whole numbers, where a derivative has no two sides
ALL = gdjax.sgd(schedules.join(list(PARTS.values()), [EACH * i - 0.6 for i in range(1, len(PARTS))]), momentum=0.4, weight_decay=0.02)


def example_loss(w, example):
    x, y = example
    return jax.nn.softplus(-y * (x @ w)) + 0.05 * jnp.sum(w**2)


LOSS = gdjax.finite_sum(example_loss)
DOORS = {
    "batches": lambda rule, w, steps: gdjax.fit(LOSS, w, (X, Y), rule, batch_size=SIZE, steps=steps, key=3),
    "full batch": lambda rule, w, steps: gdjax.fit(LOSS, w, (X, Y), rule, batch_size=None, steps=steps),
    "minimize": lambda rule, w, steps: gdjax.minimize(LOSS, w, rule, args=((X, Y),), max_steps=steps, differentiate="unroll"),
}
doors = pytest.mark.parametrize("door", DOORS)


def final(door, rule, w, steps):
    return LOSS(DOORS[door](rule, w, steps).params, (X, Y))


def slopes_and_differences(function, numbers, width=1e-5):
    """Central differences: wrong by the third derivative times 2e-11, and by rounding, 1e-16 of the loss over the width, 1e-11. One program makes both."""
    shifts = width * np.concatenate([np.zeros((1, len(numbers))), np.eye(len(numbers)), -np.eye(len(numbers))])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(function)))(numbers + shifts)
    above, below = np.split(np.asarray(values[1:]), 2)
    return np.asarray(slopes[0]), (above - below) / (2 * width)


def test_the_schedules_are_all():
    made = {name for name, x in vars(schedules).items() if isinstance(x, Factory) and x.kind is schedules.Schedule}
    assert made == {*PARTS, "join"}


@pytest.mark.one_in(3)
@doors
def test_every_number_of_every_schedule(door):
    leaves, structure = jax.tree.flatten(ALL)

    def run(numbers):
        return final(door, jax.tree.unflatten(structure, list(numbers[3:])), numbers[:3], EACH * len(PARTS))

    numbers = np.concatenate([START, leaves])
    slopes, numeric = slopes_and_differences(run, numbers)
    # Where a constant or a table begins, a boundary that moves by less than a step changes nothing. All others count, and by far more than the tolerance.
    still = [numbers.tolist().index(EACH * i - 0.6) for i, name in enumerate(PARTS) if name in ("chebyshev", "constant", "long_steps", "silver")]
    assert sorted(np.flatnonzero(np.abs(numeric) < 1e-6)) == still
    np.testing.assert_allclose(slopes, numeric, rtol=1e-6, atol=1e-9)


def losses(door, numbers, w, steps=9):
    """After runs of several rates and momenta, all from one start: shapes (lanes, 2), (3,) -> (lanes,)."""
    return jax.vmap(lambda rate, momentum: final(door, gdjax.sgd(rate, momentum), w, steps))(*numbers.T)


@pytest.mark.one_in(3)
@doors
def test_lanes_beside_one_that_diverges(door):
    numbers = np.array([[0.1, 0.5], [1e9, 0.9], [0.03, 0.0], [0.4, 0.2]])

    def total(flat):
        """Of the lanes that learnt something; they share their start with the one that did not."""
        made = losses(door, flat[3:].reshape(4, 2), flat[:3])
        return jnp.sum(jnp.where(made < 0.69, made, 0))

    slopes, numeric = slopes_and_differences(total, np.concatenate([START, numbers.ravel()]))
    np.testing.assert_allclose(slopes, numeric, rtol=1e-6, atol=1e-9)
    assert (np.abs(slopes[3:].reshape(4, 2)) > 1e-3).tolist() == [[True] * 2, [False] * 2, [True] * 2, [True] * 2]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("door", ["batches", "minimize"])
def test_no_momentum_and_a_momentum_of_zero(door):
    zero = jax.jit(jax.grad(lambda rule: final(door, rule, START, 9)))(gdjax.sgd(0.1, 0.0))
    none = jax.jit(jax.grad(lambda rule: final(door, rule, START, 9)))(gdjax.sgd(0.1))
    np.testing.assert_allclose(zero.arguments["learning_rate"], none.arguments["learning_rate"], rtol=1e-12)
    assert zero.arguments["momentum"] < -1e-3  # downhill, although not a step depends on it yet


@doors
def test_one_step_in_closed_form(door):
    # Of f(x − h g(x)), f on all rows and g of the batch:  −∇f(x₁)·g by h, and ∇f(x₁) − h H ∇f(x₁) by x.
    rate, rows = 0.3, SIZE if door == "batches" else ROWS

    def run(rate, w):
        if door != "batches":
            return final(door, gdjax.gd(rate), w, 1)
        return LOSS(gdjax.fit(LOSS, w, (X, Y), gdjax.gd(rate), batch_size=SIZE, steps=1, shuffle=False).params, (X, Y))

    def derivatives(w, rows):
        chances = 1 / (1 + np.exp(Y[:rows] * (X[:rows] @ w)))
        return -(Y[:rows] * chances) @ X[:rows] / rows + 0.1 * w, (X[:rows].T * (chances * (1 - chances))) @ X[:rows] / rows + 0.1 * np.eye(3)

    g, hessian = derivatives(START, rows)
    there, _ = derivatives(START - rate * g, ROWS)
    by_rate, by_start = jax.jit(jax.grad(run, (0, 1)))(rate, START)
    np.testing.assert_allclose(by_rate, -there @ g, rtol=1e-12)  # sums of 20 rows: rounding is some 1e-15
    np.testing.assert_allclose(by_start, there - rate * hessian @ there, rtol=1e-12)
