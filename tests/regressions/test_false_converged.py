"""CONVERGED is said of points that are stationary in any units, and of no others; what is left is counted from below, by closed forms and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.loop.evidence import look_closer

rng = np.random.default_rng(0)
X = np.c_[np.ones(200), rng.normal(size=(200, 2))].astype(np.float32)
COUNTS = rng.poisson(np.exp(X @ np.array([0.3, 0.5, -0.4]))).astype(np.float32)
YEARS = np.arange(1960, 2010).astype(np.float32)
TREND = (0.05 * (YEARS - 1980) + rng.normal(size=50)).astype(np.float32)
STRETCH = np.geomspace(1e-3, 1e3, 7).astype(np.float32)


def exponential(x):
    return jnp.exp(x) - x


def quartic(x):
    return (x - 3.0) ** 4 + 0.1 * (x - 3.0) ** 2 + 5.0


def poisson(w):
    return jnp.mean(jnp.exp(X @ w) - COUNTS * (X @ w))


def stretched(x):
    return 0.5 * jnp.sum(STRETCH * (x - 1.0) ** 2)


def two_scales(x):
    return 0.5 * (x[0] - 1.0) ** 2 + 0.5e6 * (x[1] - 100.0) ** 2


def trend(w):
    return jnp.mean((w[0] + w[1] * YEARS - TREND) ** 2)


def least_trend():
    design = np.c_[np.ones(50), YEARS.astype(np.float64)]
    return np.mean((design @ np.linalg.lstsq(design, TREND.astype(np.float64), rcond=None)[0] - TREND) ** 2)


def least_poisson():
    w, design = np.zeros(3), X.astype(np.float64)
    for _ in range(30):  # Newton's method in float64
        rate = np.exp(design @ w)
        w -= np.linalg.solve(design.T @ (design * rate[:, None]), design.T @ (rate - COUNTS))
    return np.mean(np.exp(design @ w) - COUNTS * (design @ w))


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("loss", "start", "best", "first"),
    [
        (exponential, jnp.float32(20.0), lambda: 1.0, 25.0),
        (exponential, jnp.float32(60.0), lambda: 1.0, 25.0),
        (quartic, jnp.float32(1e4), lambda: 5.0, 1e4),
        (poisson, jnp.array([15.0, 0.0, 0.0]), least_poisson, 1.0),
        (poisson, jnp.array([20.0, 0.0, 0.0]), least_poisson, 1.0),
        (stretched, jnp.zeros(7), lambda: 0.0, 1.0),
        (two_scales, jnp.array([0.0, 0.0]), lambda: 0.0, 1.0),
        (trend, jnp.zeros(2), least_trend, None),
    ],
)
def test_steep_starts_and_bad_scales_forgive_nothing(loss, start, best, first):
    result = gdjax.minimize(loss, start)
    first = float(loss(start)) if first is None else first
    left = (float(result.value) - best()) / (first - best())
    assert left <= 1e-3 or not result.converged
    assert result.converged, "the default gets there"


@pytest.mark.one_in(2)
@pytest.mark.parametrize("unit", [1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e20])
def test_units_of_the_loss_change_neither_steps_nor_verdict(unit):
    unit = float(2.0 ** round(np.log2(unit)))  # exact, so that the runs are the same
    runs = [gdjax.minimize(lambda x, c=c: c * jnp.sum((x - 3.0) ** 2), jnp.zeros(4), gdjax.gd(0.1 / c)) for c in (1.0, unit)]
    assert runs[0].converged
    assert (runs[1].status, int(runs[1].steps)) == (runs[0].status, int(runs[0].steps))
    np.testing.assert_array_equal(runs[1].params, runs[0].params)
    assert gdjax.minimize(lambda x: unit * jnp.sum((x - 3.0) ** 2), jnp.zeros(4)).converged


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**40])
def test_units_of_the_params_change_neither_steps_nor_verdict(unit):
    runs = [gdjax.minimize(lambda x, c=c: jnp.sum((x / c - 3.0) ** 2), jnp.zeros(4), gdjax.gd(0.1 * c**2)) for c in (1.0, unit)]
    assert runs[0].converged
    assert (runs[1].status, int(runs[1].steps)) == (runs[0].status, int(runs[0].steps))
    np.testing.assert_array_equal(runs[1].params / unit, runs[0].params)


def test_bfloat16():
    result = gdjax.minimize(lambda x: jnp.sum((x - jnp.bfloat16(7.0)) ** 2), jnp.full((1,), 1000.0, jnp.bfloat16))
    assert result.converged
    assert float(result.value) <= 0.02


def test_a_start_at_the_minimum_to_rounding_is_recognised():
    result = gdjax.minimize(stretched, jnp.asarray(np.nextafter(np.ones(7, np.float32), 2, dtype=np.float32)))
    assert result.converged
    assert int(result.steps) <= 12


@pytest.mark.parametrize("inside", [False, True])
def test_the_verdict_is_the_same_everywhere(inside):
    data = jnp.asarray(X), jnp.asarray(COUNTS)

    def loss(w, X, counts):
        return jnp.mean(jnp.exp(X @ w) - counts * (X @ w))

    def run(start):
        return [gdjax.minimize(loss, start, args=data), gdjax.minimize(lambda w: loss(w, *data), start)]

    results = (jax.jit(run) if inside else run)(jnp.zeros(3))
    assert [int(result.code) for result in results] == [gdjax.Status.CONVERGED] * 2
    np.testing.assert_allclose([float(result.value) for result in results], least_poisson(), rtol=1e-6)


def test_lanes_look_closer_by_themselves():
    starts = jnp.asarray([[0.0], [20.0], [3.0]])
    result = jax.jit(jax.vmap(lambda x: gdjax.minimize(lambda x: jnp.sum(exponential(x)), x)))(starts)
    assert result.code.tolist() == [gdjax.Status.CONVERGED] * 3
    np.testing.assert_allclose(result.params[:, 0], 0.0, atol=1e-3)


@pytest.mark.parametrize("differentiate", ["implicit", "unroll"])
def test_a_look_that_sends_the_run_on_leaves_no_trace(differentiate):
    def run(rule):
        return gdjax.minimize(two_scales, jnp.array([0.0, 99.0]), rule, max_steps=200, record_every=1, differentiate=differentiate)

    eager, traced = run(gdjax.sgd(1e-6, 0.5)), jax.jit(run)(gdjax.sgd(1e-6, 0.5))
    count = int((traced.history["step"] >= 0).sum())
    assert int(eager.steps) == int(traced.steps)
    np.testing.assert_array_equal(eager.history["step"], np.arange(int(eager.steps) + 1))
    np.testing.assert_array_equal(traced.history["step"][:count], eager.history["step"])
    np.testing.assert_allclose(traced.history["value"][:count], eager.history["value"], rtol=1e-3)
    assert int(eager.evaluations) == int(eager.steps) + 1


# ---- the look itself, against linear algebra in float64


def test_the_newton_step_is_that_of_float64(x64):
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    hessian = basis @ np.diag([1.0, 3.0, 10.0, 30.0, 100.0, 300.0]) @ basis.T
    at, best = rng.normal(size=6), rng.normal(size=6)
    evidence = look_closer(lambda x: hessian @ (x - best), jnp.asarray(at), jnp.float64(1.0))
    grad = hessian @ (at - best)
    np.testing.assert_allclose(evidence.signal, np.linalg.norm(grad), rtol=1e-9)
    np.testing.assert_allclose(evidence.curvature, grad @ hessian @ grad / (grad @ grad), rtol=1e-6)
    np.testing.assert_allclose(evidence.distance, np.linalg.norm(at - best), rtol=0.05)
    np.testing.assert_allclose(evidence.decrease, (at - best) @ hessian @ (at - best) / 2, rtol=0.01)


def test_rounding_is_told_from_a_gradient():
    gradient = jax.grad(two_scales)
    evidence = look_closer(gradient, jnp.float32([0.0, 100.00001]), jnp.float32(0.0))
    assert abs(gradient(jnp.float32([0.0, 100.00001]))[1]) > 7  # rounding of x alone makes it so
    np.testing.assert_allclose([evidence.signal, evidence.curvature, evidence.distance, evidence.decrease], [1.0, 1.0, 1.0, 0.5], rtol=1e-2)
    assert float(look_closer(gradient, jnp.float32([1.0, 100.00001]), jnp.float32(0.0)).signal) == 0


@pytest.mark.parametrize(("loss", "at"), [(lambda x: -jnp.exp(-jnp.sum(x**2)), 5.0), (lambda x: jnp.sum(x), 1.0), (lambda x: -jnp.sum(x**2), 1e-3)])
def test_where_there_is_no_minimum_it_is_not_near(loss, at):
    assert float(look_closer(jax.grad(loss), jnp.full(3, at), jnp.float32(1.0)).distance) == np.inf
