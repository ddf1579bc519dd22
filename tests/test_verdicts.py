"""Runs whose true outcome is known, and what is said about them: the status, the numbers at the params returned, and the advice."""

import re
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import Status, gd, minimize, sgd, stop

CONVERGED, MAX_STEPS, STALLED, DIVERGED, NONFINITE, STOPPED = list(Status)[:6]
rng = np.random.default_rng(7)

# ---- losses


def line(x):
    return 5.0 * (x - 3.0) ** 2  # L = 10


def ellipse(x):
    return 0.5 * jnp.sum(jnp.asarray([1000.0, 1.0]) * (x - jnp.asarray([2.0, -1.0])) ** 2)  # L = 1000


BASIS, _ = np.linalg.qr(rng.normal(size=(20, 20)))
HESSIAN = np.asarray(BASIS @ np.diag(np.geomspace(1, 50, 20)) @ BASIS.T, np.float32)  # L = 50
SLOPE, START = np.asarray(rng.normal(size=(2, 20)), np.float32)


def rotated(x):
    return 0.5 * jnp.vdot(x, HESSIAN @ x) - jnp.vdot(SLOPE, x)


ROWS = np.asarray(rng.normal(size=(60, 6)) * np.geomspace(1, 30, 6), np.float32)
TARGETS = np.asarray(rng.normal(size=60), np.float32)
LARGEST = float(np.linalg.eigvalsh(ROWS.T @ ROWS / 60)[-1])


def least_squares(x):
    return 0.5 * jnp.mean((jnp.asarray(ROWS, x.dtype) @ x - jnp.asarray(TARGETS, x.dtype)) ** 2)


def logistic(x):
    return jnp.mean(jnp.logaddexp(0.0, -jnp.sign(TARGETS) * (ROWS @ x))) + 1e-3 * jnp.vdot(x, x)


POINTS = np.asarray(rng.normal(size=(50, 2)), np.float32)
SIDES = np.sign(POINTS @ np.float32([1.0, 0.3]))


def separable(x):
    return jnp.mean(jnp.logaddexp(0.0, -SIDES * (POINTS @ x)))


def saddle(x):
    return 0.5 * (x[0] - 1) ** 2 - 0.5 * (x[1] - 2) ** 2 + 0.25 * (x[1] - 2) ** 4


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def two_layers(x):
    return 0.5 * (x[0] * x[1]) ** 2  # flatter where it is narrower: a large step throws the run to a wider valley


def root(x):
    return jnp.sqrt(jnp.abs(x))


def low_precision(x):
    return jnp.sum((x - jnp.asarray([2.0, -1.0], x.dtype)) ** 2)


def heavy_ball_cycle(x):
    return jnp.where(x < 1, 12.5 * x**2, jnp.where(x < 2, 0.5 * x**2 + 24 * x - 12, 12.5 * x**2 - 24 * x + 36))  # curvatures in [1, 25]


def log_barrier(x):
    return x - jnp.log(x)  # its minimum at 1, NaN below 0


def flat(x):
    return 0 * jnp.sum(x) + 5.0


def small(x):
    return 1e-3 * (x - 10.0) ** 2


# ---- the table


@dataclass
class Case:
    name: str
    loss: Any
    start: Any
    rule: Any
    status: Status
    options: dict = field(default_factory=dict)
    says: str = ""  # a pattern in the message
    says_not: str = ""
    bound: float = 0.0  # the largest learning rate that converges, which the message must name
    times: float = 0.0  # how many times too small the learning rate is, likewise
    steps: int | None = None
    params: Any = None


def case(*args, bound=0.0, times=0.0, says="", says_not="", steps=None, params=None, **options):
    return Case(*args, options, says, says_not, bound, times, steps, params)


X2, X20, X6 = jnp.asarray([2.5, 3.0]), jnp.asarray(START), jnp.full(6, 0.7)
BEYOND = "learning rate was too large"
DOWN = "The loss fell without bound"
MINIMUM = "stationary point"
OVERSHOOT = "overshoot"
A16 = sgd(4 / 36, (4 / 6) ** 2)

CASES = [
    case("1-d, 5 % above 2/L", line, 1.0, gd(0.21), DIVERGED, says=BEYOND, bound=0.2),
    case("1-d, five times 2/L", line, 1.0, gd(1.0), DIVERGED, says=BEYOND, bound=0.2),
    case("2-d, 5 % above 2/L", ellipse, X2, gd(0.0021), DIVERGED, says=BEYOND, bound=0.002),
    case("2-d, five times 2/L", ellipse, X2, gd(0.01), DIVERGED, says=BEYOND, bound=0.002),
    case("20-d, 2 % above 2/L", rotated, X20, gd(0.041), DIVERGED, says=BEYOND, bound=0.04),
    case("20-d, twice 2/L", rotated, X20, gd(0.08), DIVERGED, says=BEYOND, bound=0.04),
    case("1-d, momentum, above 2(1 + b)/L", line, 1.0, sgd(0.4, 0.9), DIVERGED, says=BEYOND, bound=0.38),
    case("20-d, momentum, above 2(1 + b)/L", rotated, X20, sgd(0.08, 0.9), DIVERGED, says=BEYOND, bound=0.076),
    case("20-d, Nesterov, above 2(1 + b)/(1 + 2b)L", rotated, X20, sgd(0.034, 0.9, nesterov=True), DIVERGED, says=BEYOND, bound=0.0271),
    case("1-d, just below 2/L", line, 1.0, gd(0.198), CONVERGED, tol=1e-3, params=3.0),
    case("20-d, just below 2/L", rotated, X20, gd(0.0396), CONVERGED, tol=1e-3, says=MINIMUM),
    case("1-d, momentum, just below its bound", line, 1.0, sgd(0.37, 0.9), CONVERGED, tol=1e-3, params=3.0),
    case("1-d, exactly 2/L", lambda x: 4 * (x - 3.0) ** 2, 1.0, gd(0.25), MAX_STEPS, says=OVERSHOOT, says_not="larger"),
    case("just below 2/L, at the floor of rounding", line, 1.0, gd(0.198), MAX_STEPS, tol=0.0, says=OVERSHOOT, says_not="too small|larger"),
    case("10,000 times too small", line, 1.0, gd(1e-5), MAX_STEPS, max_steps=200, times=1e4),
    case("1,000 times too small, 2-d", ellipse, X2, gd(1e-6), MAX_STEPS, max_steps=300, times=1e3),
    case("1,000 times too small, momentum", line, 1.0, sgd(1e-4 * 0.5, 0.5), MAX_STEPS, max_steps=200, times=3e3),
    case("ill-conditioned, tuned: no call for a larger rate", ellipse, X2, gd(1e-3), MAX_STEPS, max_steps=300, says_not="times smaller"),
    case("steps below the spacing of floats", line, 1.0, gd(1e-12), STALLED, says="far larger learning rate", params=1.0),
    case("steps below the spacing of floats, 2-d", ellipse, X2, gd(1e-14), STALLED, says="far larger learning rate"),
    case("NaN when log crosses 0", lambda x: 10 * x - jnp.log(x), 2.0, gd(0.05), NONFINITE, says="edge of its domain"),
    case("NaN at the second step", jnp.log, 1.0, gd(0.3), NONFINITE, says="log", steps=2),
    case("NaN gradient, finite loss", root, 0.25, gd(0.25), NONFINITE, steps=0, params=0.25),
    case("overflow of x⁴", lambda x: x**4, 10.0, gd(1.0), DIVERGED, says=BEYOND),
    case("overflow of exp x²", lambda x: jnp.exp(x * x), 3.0, gd(1.0), DIVERGED, steps=0, params=3.0),
    case("logistic tail", separable, jnp.asarray([0.1, -0.2]), gd(0.5), MAX_STEPS, tol=1e-6, says_not="times smaller"),
    case("1/x tail", lambda x: 1 / x, 1.0, gd(0.1), MAX_STEPS, tol=1e-6, says="still falling", says_not="times smaller"),
    case("exp(-x) tail", lambda x: jnp.exp(-x), 0.0, gd(1.0), MAX_STEPS, tol=1e-6),
    case("on a saddle", saddle, jnp.asarray([1.0, 2.0]), gd(0.1), CONVERGED, says=MINIMUM + ".*saddle", steps=0),
    case("off a saddle", saddle, jnp.asarray([1.5, 2.001]), gd(0.1), CONVERGED, params=[1.0, 3.0]),
    case("-x²", lambda x: -(x**2), 1.5, gd(0.1), DIVERGED, says=DOWN, says_not="Lower the learning"),
    case("3 - (x - 1)²", lambda x: 3 - (x - 1) ** 2, 1.5, gd(0.1), DIVERGED, says=DOWN),
    case("-exp x", lambda x: -jnp.exp(x), 0.3, gd(0.1), DIVERGED, says=DOWN),
    case("linear", lambda x: 2 * x + 1, 0.3, gd(0.1), MAX_STEPS, says="falls without bound.*Check its sign"),
    case("float32 floor", least_squares, X6, gd(1 / LARGEST), STALLED, tol=0.0, max_steps=30000, says="float64", says_not="times smaller"),
    case("float32 floor, logistic", logistic, X6, gd(4 / LARGEST), STALLED, tol=0.0, max_steps=30000, says="float64"),
    case("float32 floor, default rule", least_squares, X6, None, STALLED, tol=0.0, says="float64"),
    case("bfloat16", low_precision, jnp.asarray([5.0, 3.0], jnp.bfloat16), gd(0.2), CONVERGED),
    case("bfloat16 floor", low_precision, jnp.asarray([5.0, 3.0], jnp.bfloat16), gd(0.2), STALLED, tol=0.0),
    case("float16", low_precision, jnp.asarray([5.0, 3.0], jnp.float16), gd(0.2), CONVERGED),
    case("at the minimum", line, 3.0, gd(0.1), CONVERGED, steps=0, params=3.0),
    case("no steps", line, 1.0, gd(0.1), MAX_STEPS, max_steps=0, steps=0, params=1.0),
    case("constant", flat, 3.0, gd(0.1), CONVERGED, steps=0),
    case("catapult", two_layers, jnp.asarray([1.8, 1e-4]), gd(1.0), CONVERGED, tol=1e-5),
    case("Rosenbrock, L-BFGS", rosenbrock, jnp.asarray([-1.2, 1.0]), optax.lbfgs(), CONVERGED, params=[1.0, 1.0]),
    case("Rosenbrock, by default", rosenbrock, jnp.asarray([-1.2, 1.0]), None, CONVERGED, params=[1.0, 1.0]),
    case("backtracking", line, 1.0, optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)), CONVERGED, params=3.0),
    case("zoom", rotated, X20, optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15)), CONVERGED, tol=1e-3),
    case("Polyak", line, 1.0, optax.polyak_sgd(max_learning_rate=1.0), CONVERGED, params=3.0),
    case("Adam still on its way", line, 1.0, gdjax.rule(optax.adam)(1e-3), MAX_STEPS, max_steps=100, says="falling", says_not="curvature"),
    case("small steps prove nothing", small, 0.0, sgd(1e-2), STOPPED, stop=stop.param_change(1e-3), says="param_change"),
    case("small changes prove nothing", small, 0.0, sgd(1e-2), STOPPED, stop=stop.value_change(1e-3, 1e-3), says="value_change"),
    case("a flat negative loss", lambda x: 0 * x - 1.0, 3.0, gd(0.1), STOPPED, stop=stop.plateau(8), says="plateau", steps=8),
    case("target", line, 1.0, gd(0.05), STOPPED, stop=stop.target(0.01) | stop.grad_norm(1e-6) | stop.plateau(5), says="target"),
    case("tolerance, joined", line, 1.0, gd(0.05), CONVERGED, stop=stop.target(-1.0) | stop.grad_norm(1e-3) | stop.plateau(5), says="grad_norm"),
    case("heavy ball's cycle", heavy_ball_cycle, 3.3, A16, MAX_STEPS, says=OVERSHOOT, params=[-1.80245, 2.11592, 0.64653]),
    case("heavy ball off its cycle", heavy_ball_cycle, 2.1, A16, CONVERGED, params=0.0),
]

SCALES = [
    case("huge scale", lambda x: 1e20 * (x - 1) ** 2, 3.0, gd(1e-21), CONVERGED, stop=stop.grad_norm(rtol=1e-5), params=1.0),
    case("huge scale, diverging", lambda x: 1e20 * (x - 1) ** 2, 3.0, gd(1.1e-20), DIVERGED),
    case("tiny scale", lambda x: 1e-20 * (x - 1) ** 2, 3.0, gd(1e19), CONVERGED, stop=stop.grad_norm(rtol=1e-5), params=1.0),
    case("tiny scale, diverging", lambda x: 1e-20 * (x - 1) ** 2, 3.0, gd(1.1e20), DIVERGED, tol=0.0),
]


def by_name(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda c: c.name)


def gradient_norm(loss, params):
    grads = jax.tree.leaves(jax.grad(loss)(params))
    return np.sqrt(sum(np.sum(np.asarray(g, np.float64) ** 2) for g in grads))


def assert_true_numbers(case, result):
    dtype = jnp.result_type(result.params)
    slack = dict(rtol=100 * float(jnp.finfo(dtype).eps), atol=1e-30)
    assert np.all(np.isfinite(np.asarray(result.params, np.float64)))
    assert jnp.result_type(result.params) == jnp.result_type(jnp.asarray(case.start))
    np.testing.assert_allclose(np.float64(result.value), np.float64(case.loss(result.params)), **slack)
    # A gradient that is a difference of large numbers is known to their rounding only.
    level = 32 * float(jnp.finfo(jnp.result_type(dtype, jnp.float32)).eps) * float(result.diagnosis.initial_grad_norm)
    rtol = 1e-2 if dtype.itemsize < 4 else 1e-4
    np.testing.assert_allclose(np.float64(result.grad_norm), gradient_norm(case.loss, result.params), rtol=rtol, atol=level)


def assert_history(result):
    """One row per step up to the params returned, and the last is theirs."""
    np.testing.assert_array_equal(result.history["step"], np.arange(int(result.steps) + 1))
    for name in ("value", "grad_norm"):
        assert np.all(np.isfinite(result.history[name]))
        np.testing.assert_allclose(result.history[name][-1], getattr(result, name), rtol=1e-6)


def numbers_after(pattern, text):
    found = re.search(pattern + r"\s*([0-9.e+-]*[0-9])", text)
    assert found, f"{pattern!r} names no number in {text!r}"
    return float(found[1])


def assert_advice(case, message):
    assert re.search(case.says, message), message
    assert not (case.says_not and re.search(case.says_not, message)), message
    if case.bound:
        named = numbers_after(r"learning rate below [^≈]*≈", message)
        assert case.bound / 2 < named < case.bound * 2, message
        assert numbers_after("Try", message) < case.bound, message
    if case.times:
        named = float(re.search(r"about ([0-9.e+-]+) times smaller", message)[1])
        assert case.times / 3 < named < case.times * 3, message


@by_name(CASES)
def test_verdict(case):
    result = minimize(case.loss, case.start, case.rule, **case.options)
    assert result.status is case.status, str(result)
    assert_true_numbers(case, result)
    assert_history(result)
    assert_advice(case, result.message)
    assert case.steps is None or int(result.steps) == case.steps
    if case.params is not None:
        away = np.abs(np.asarray(result.params, np.float64) - np.asarray(case.params))  # of one number: from any of those in the table, a cycle
        assert (np.min(away) if np.ndim(result.params) == 0 else np.max(away)) < 2e-3


@by_name(SCALES)
def test_verdict_far_from_one(case):
    result = minimize(case.loss, case.start, case.rule, **case.options)
    assert result.status is case.status, str(result)
    assert int(result.steps) > 0
    assert_true_numbers(case, result)
    if case.params is not None:
        np.testing.assert_allclose(result.params, case.params, atol=1e-3)


@pytest.mark.one_in(3)
@by_name([c for c in CASES + SCALES if c.options.get("max_steps", 0) < 5000])
def test_the_verdict_inside_jit(case):
    """The same status, steps and history, whatever compiles the run."""
    outside = minimize(case.loss, case.start, case.rule, **case.options)
    inside = jax.jit(lambda start: minimize(case.loss, start, case.rule, **case.options))(case.start)
    assert inside.status is case.status, str(inside)
    assert_true_numbers(case, inside)
    if case.status in (CONVERGED, STALLED):  # near the end, another order of the sums may add or spare a step or two
        share = 0.5 if case.name == "zoom" else 0.1  # optax's search decides by differences of values that are rounding here
        assert abs(int(inside.steps) - int(outside.steps)) <= share * int(outside.steps) + 2
    else:
        assert int(inside.steps) == int(outside.steps)
    rows = min(len(outside.history["value"]), 20)
    np.testing.assert_allclose(inside.history["value"][:rows], outside.history["value"][:rows], rtol=1e-3, atol=1e-6)


# ---- NaN


@pytest.mark.parametrize("loss", [jnp.log, lambda x: 0 * jnp.sqrt(x + 1) + x, lambda x: jnp.inf * x], ids=["loss", "gradient", "inf"])
def test_not_finite_at_the_start(loss):
    with pytest.raises(ValueError, match=r"At the params given, the loss is .*Start elsewhere"):
        minimize(loss, -1.0, gd(0.1))
    inside = jax.jit(lambda x: minimize(loss, x, gd(0.1)))(-1.0)
    assert inside.status is NONFINITE
    assert int(inside.steps) == 0
    assert float(inside.params) == -1.0


def test_a_nan_lane_leaves_the_others_alone():
    starts = jnp.asarray([0.9, 1.0, 0.5, -1.0, 2.5])  # x - log x: the second starts at the minimum, the fourth outside the domain
    run = lambda x: minimize(log_barrier, x, gd(0.1), max_steps=300)  # noqa: E731
    lanes = jax.vmap(run)(starts)
    assert lanes.status.tolist() == [CONVERGED, CONVERGED, CONVERGED, NONFINITE, CONVERGED]
    for lane in (0, 1, 2, 4):
        alone = run(starts[lane])
        assert int(lanes.steps[lane]) == int(alone.steps)
        np.testing.assert_allclose(lanes.params[lane], alone.params, rtol=1e-6)
        recorded = lanes.history["step"][lane] >= 0
        np.testing.assert_allclose(lanes.history["value"][lane][recorded], alone.history["value"], rtol=1e-6)
    assert np.all(np.isfinite(lanes.params))
    assert "4 CONVERGED" in lanes.message
    assert "1 NONFINITE" in lanes.message


def test_rules_mapped_over_equal_their_solo_runs():
    rates = jnp.asarray([1e-5, 0.05, 0.1, 0.1995, 0.3])
    run = lambda rule: minimize(line, 1.0, rule, max_steps=150)  # noqa: E731
    lanes = jax.vmap(run)(gd(rates))
    assert lanes.status.tolist() == [MAX_STEPS, CONVERGED, CONVERGED, MAX_STEPS, DIVERGED]
    for lane, rate in enumerate(rates):
        alone = run(gd(rate))
        assert alone.status == lanes.status[lane]
        assert int(lanes.steps[lane]) == int(alone.steps)
        np.testing.assert_allclose(lanes.params[lane], alone.params, rtol=1e-5)


def test_nan_never_converges():
    """Not by any rule: NaN compares false with every tolerance."""
    late = lambda x: jnp.where(x < 2.0, (x - 3.0) ** 2, jnp.nan)  # noqa: E731
    for rule in (stop.grad_norm(1e9), stop.value_change(1e9), stop.param_change(1e9), stop.target(-1e9), stop.plateau(100)):
        result = jax.jit(lambda x, rule=rule: minimize(late, x, gd(0.1), stop=rule, max_steps=20))(2.5)
        assert result.status is NONFINITE
    for rule in (stop.target(-1e9), stop.plateau(100), stop.grad_norm(0.0)):
        result = minimize(late, 0.0, gd(0.1), stop=rule, max_steps=40)
        assert result.status is NONFINITE
        assert float(result.params) < 2.0


# ---- precision


def test_float64_reaches_further():
    single = minimize(least_squares, X6, gd(1 / LARGEST), tol=0.0, max_steps=30000)
    with jax.enable_x64(True):
        double = minimize(least_squares, jnp.full(6, 0.7, jnp.float64), gd(1 / LARGEST), tol=0.0, max_steps=30000)
        reached = gradient_norm(least_squares, double.params)
    assert single.status is STALLED
    assert double.params.dtype == np.float64
    assert double.status in (STALLED, MAX_STEPS)
    assert reached < 1e-4 * float(single.grad_norm)
    np.testing.assert_allclose(np.float64(double.grad_norm), reached, rtol=1e-2, atol=1e-14)


# ---- the clock


def test_the_time_limit_is_named():
    result = minimize(line, 1.0, gd(1e-5), tol=0.0, max_steps=10**8, stop=stop.grad_norm(0.0) | stop.time_limit(0.0))
    assert result.status is STOPPED
    assert "time_limit" in result.message
    assert float(result.value) == float(line(result.params))


# ---- mini-batches

FEATURES = np.asarray(rng.normal(size=(200, 5)), np.float32)
TRUTH = np.arange(5, dtype=np.float32) - 1
NOISY = FEATURES @ TRUTH + 0.5 * np.asarray(rng.normal(size=200), np.float32)
DATA = (FEATURES, NOISY)
ZEROS = jnp.full(5, 0.3)


def squares(params, batch):
    return jnp.mean((batch[0] @ params - batch[1]) ** 2)


def fit(rule, data=DATA, loss=squares, params=ZEROS, **options):
    return gdjax.fit(loss, params, data, rule, **dict(batch_size=10, epochs=30, key=0) | options)


def spoilt(row):
    rows = FEATURES.copy()
    rows[row, 2] = np.nan
    return rows, NOISY


def all_finite(params):
    return bool(np.all(np.isfinite(params)))


def test_the_noise_floor_is_not_convergence():
    result = fit(gd(0.1))
    assert result.status is MAX_STEPS
    assert re.search("noise", result.message), result.message
    assert re.search("decay", result.message), result.message
    assert float(gdjax.evaluate(squares, result.params, DATA)) < 0.4


def test_a_mini_batch_rate_that_is_too_small():
    result = fit(gd(1e-6), epochs=4)
    assert result.status is MAX_STEPS
    assert "too small" in result.message
    assert "noise" not in result.message


@pytest.mark.parametrize("rate", [2.0, 1e6])
def test_mini_batches_diverge(rate):
    result = fit(gd(rate))
    assert result.status is DIVERGED
    assert all_finite(result.params)
    assert re.search("learning rate was too large: .* Try ", result.message), result.message


def test_mini_batches_without_a_minimum():
    result = fit(gd(0.1), loss=lambda params, batch: -jnp.mean((batch[0] @ params) ** 2))
    assert result.status is DIVERGED
    assert DOWN in result.message
    assert all_finite(result.params)


@pytest.mark.parametrize(("row", "shuffle"), [(37, "epoch"), (37, False), (199, False), (120, "replacement")])
def test_a_bad_example(row, shuffle):
    result = fit(gd(0.05), spoilt(row), shuffle=shuffle)
    assert result.status is NONFINITE
    assert all_finite(result.params)
    assert "NaN in the data" in result.message
    if shuffle is False:
        last = row // 10 - 1  # after these steps the loss of a batch was still finite
        assert int(result.steps) == last
        sound = fit(gd(0.05), shuffle=False, epochs=None, steps=last)
        np.testing.assert_array_equal(result.params, sound.params)


def test_a_bad_example_at_the_start_and_in_full_batches():
    for options in (dict(shuffle=False), dict(batch_size=None)):
        with pytest.raises(ValueError, match="the loss is nan"):
            fit(gd(0.05), spoilt(3), **options)


@pytest.mark.parametrize("batch_size", [1, 8, None])
def test_a_nan_gradient_of_a_finite_loss_in_fit(batch_size):
    """√|x| met exactly at 0, where its derivative is not a number."""
    zeros, loss = np.zeros(16, np.float32), lambda x, b: jnp.mean(root(x - b))
    result = fit(gd(0.25), zeros, loss, jnp.float32(0.25), batch_size=batch_size, epochs=3, shuffle=False)
    assert result.status is NONFINITE
    assert np.isfinite(result.params)


def test_the_best_survives_a_divergence():
    late = gd(lambda step: jnp.where(step < 60, 0.05, 3.0))
    result = fit(late, keep="best")
    assert result.status is DIVERGED
    assert float(gdjax.evaluate(squares, result.params, DATA)) < 0.4
    assert DOWN not in result.message
    last = fit(late)
    assert last.status is DIVERGED
    assert all_finite(last.params)


def test_patience_and_stopping_rules_are_named():
    for options, name in (
        (dict(patience=3), "patience"),
        (dict(stop=stop.target(0.5) | stop.plateau(20)), "target"),
        (dict(stop=stop.target(-1.0) | stop.plateau(3)), "plateau"),
        (dict(callbacks=(lambda report: report.epoch == 2,)), "callback"),
        (dict(validation=DATA, patience=2, keep="best"), "patience"),
    ):
        result = fit(gd(0.1), epochs=100, **options)
        assert result.status is STOPPED
        assert f"({name})" in result.message
        assert int(result.steps) < 2000


@pytest.mark.parametrize("batch_size", [0, -1, 201, 2.5, True])
def test_wrong_batch_sizes(batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}"):
        fit(gd(0.1), batch_size=batch_size)


def test_mini_batch_verdicts_inside_jit():
    for rate, data, status in ((0.1, DATA, MAX_STEPS), (2.0, DATA, DIVERGED), (0.05, spoilt(37), NONFINITE)):
        inside = jax.jit(lambda rate, data: fit(gd(rate), data, epochs=5))(rate, data)
        outside = fit(gd(rate), data, epochs=5)
        assert inside.status is outside.status is status
        assert all_finite(inside.params)
        assert int(inside.steps) == int(outside.steps)
        np.testing.assert_allclose(inside.params, outside.params, rtol=1e-3)
