"""Rules that find their learning rates, each against its own theorem: Polyak, AdGD, AdaPGM, AC-FGM, the exact line search, (L₀, L₁)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from problems import offered
from representatives import paired
from theorems.worst_cases import descend, huber, iterates, quadratic

import gdjax

pytestmark = pytest.mark.usefixtures("x64")

FEATURES = np.random.default_rng(0).normal(size=(60, 8))
LABELS = np.sign(FEATURES @ np.arange(-3.0, 5.0) / 4 + np.random.default_rng(1).normal(size=60))


def logistic(x):
    return jnp.mean(jnp.logaddexp(0.0, -LABELS * (FEATURES @ x)))


def cubic(x):
    """A convex quadratic with a cubic regularizer: its gradient is not Lipschitz."""
    return x @ (jnp.asarray(FEATURES.T @ FEATURES / 60) @ x) / 2 - jnp.sum(x) + jnp.sum(x**2) ** 1.5


def newton(loss, x, steps=60):
    """The minimum, by Newton's method."""
    for _ in range(steps):
        x = x - jnp.linalg.solve(jax.hessian(loss)(x), jax.grad(loss)(x))
    return x


CONVEX = {
    "logistic": (logistic, np.full(8, 2.0)),
    "cubic": (cubic, np.full(8, 5.0)),
    "huber": (lambda x: jnp.sum(huber(x, 0.1)), np.array([3.0, -0.4, 0.02])),
}


def solved(name):
    """(loss, start, minimum)."""
    loss, start = CONVEX[name]
    return loss, jnp.asarray(start), jnp.zeros(3) if name == "huber" else newton(loss, jnp.full(8, 0.1))


def trace(rule, loss, x, steps):
    """(params, values, states) before each of the steps, and the states after them, stacked."""

    def body(carry, _):
        x, state = carry
        grads, extra = offered(loss, x)
        updates, new = rule.update(grads, state, x, **extra)
        return (x + updates, new), (x, extra["value"], new)

    return jax.jit(lambda x: jax.lax.scan(body, (x, rule.init(x)), length=steps)[1])(jnp.asarray(x))


@pytest.mark.parametrize(("low", "high"), [(0.5, 5.0), (0.01, 3.0)])
def test_polyak_with_twice_the_step_attains_its_bound_at_every_step(low, high):
    """Barré, Taylor, d'Aspremont 2020: a‖g‖² = 2(f − f⋆) contracts ‖x − x⋆‖² by (aL − 1)(1 − aμ)/(a(L + μ) − 1); equality for two curvatures."""
    minimum = np.array([1.0, -2.0])
    points, _, states = trace(gdjax.polyak(scaling=2.0), quadratic([low, high], minimum), np.array([4.0, -0.7]), 12)
    a, squares = states.learning_rate[:-1], jnp.sum((points - jnp.asarray(minimum)[None]) ** 2, axis=1)
    np.testing.assert_allclose(squares[1:] / squares[:-1], (a * high - 1) * (1 - a * low) / (a * (low + high) - 1), rtol=1e-8)


def test_polyak_contracts_every_quadratic_as_fast_as_gradient_descent_at_its_best():
    for seed in range(5):
        random = np.random.default_rng(seed)
        curvatures, minimum = np.append(10 ** random.uniform(-2, 0, 6), [0.01, 1.0]), random.normal(size=8)
        points, _, _ = trace(gdjax.polyak(scaling=2.0), quadratic(curvatures, minimum), random.normal(size=8) * 3, 60)
        distance = jnp.linalg.norm(points - jnp.asarray(minimum)[None], axis=1)
        assert (distance[1:] / distance[:-1]).max() <= 0.99 / 1.01 * (1 + 1e-10)


@pytest.mark.parametrize("scaling", [0.5, 1.0, 1.7])
def test_polyak_comes_nearer_by_what_its_scaling_promises(scaling):
    """Fejér: ‖x − x⋆‖² falls by at least c(2 − c)(f − f⋆)²/‖g‖²; equality for c = 1 ‖x‖, and a = c(f − f⋆)/‖g‖² to the last digit."""
    loss = lambda x: jnp.sum(jnp.abs(x - 1.0) * jnp.array([1.0, 2.0]))  # noqa: E731
    points, values, states = trace(gdjax.polyak(scaling=scaling), loss, np.array([5.0, -0.3]), 40)
    square = jnp.sum((points - 1.0) ** 2, axis=1)
    fall = scaling * (2 - scaling) * values[:-1] ** 2 / 5
    assert jnp.all(square[1:] <= square[:-1] - fall + 1e-12)
    np.testing.assert_allclose(states.learning_rate[0], scaling * values[0] / 5, rtol=1e-15)
    assert values.min() <= jnp.sqrt(5) * jnp.linalg.norm(points[0] - 1) / jnp.sqrt(scaling * (2 - scaling) * 40)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["absolute", "maximum", *CONVEX])
def test_polyak_finds_a_minimum_it_is_not_told(name):
    """Goffin and Kiwiel 1999: the best value tends to the minimum, smooth or not, from a first level far too near."""
    if name in CONVEX:
        loss, start, minimum = solved(name)
    else:
        centre = jnp.array([1.0, -2.0, 30.0])
        loss = (lambda x: jnp.sum(jnp.abs(x - centre)) - 7.0) if name == "absolute" else (lambda x: jnp.max(jnp.abs(x - centre)) + 2.0)
        start, minimum = jnp.array([0.1, 0.2, -0.1]), centre
    _, values, _ = trace(gdjax.polyak(None), loss, start, 4000)
    assert values.min() - loss(minimum) <= 1e-3 * (values[0] - loss(minimum))
    assert values[:400].min() - loss(minimum) <= 3e-2 * (values[0] - loss(minimum))


ADAPTIVE = {  # (rule, q, what multiplies ‖x_k − x_{k−1}‖², θ₀, least a L)
    "adgd2": (lambda: gdjax.adgd(), 1.5, 1.0, 1 / 3, 3**-0.5),
    "adgd1": (lambda: gdjax.adgd(variant="adgd1"), 1.0, 1.0, 1 / 3, 2**-0.5),
    "adgd": (lambda: gdjax.adgd(variant="adgd"), 1.0, 1.0, 1e20, 0.5),
    "adapgm": (lambda: gdjax.adapgm(), 5 / 3, 1.0, 1.0, 0.3**0.5),
    "adapgm-2023": (lambda: gdjax.adapgm(q=1.0, r=0.5), 1.0, 1.0, 1.0, 0.5**0.5),
    "adapgm-1.2-0.9": (lambda: gdjax.adapgm(q=1.2, r=0.9), 1.2, 1 / 3, 1.0, (0.25 / 1.2) ** 0.5),
}
adaptive = pytest.mark.parametrize("method", ADAPTIVE)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("method", "name"), paired(ADAPTIVE, CONVEX))
def test_what_the_proof_of_adaptive_rates_says_never_grows(method, name):
    """E_k = ‖x_k − x⋆‖² + w‖x_k − x_{k−1}‖² + 2a_{k−1}(1 + qθ_{k−1})(f_{k−1} − f⋆), and with it the sum-type bound on the best value."""
    make, q, weight, first_ratio, _ = ADAPTIVE[method]
    loss, start, minimum = solved(name)
    points, values, states = trace(make(), loss, start, 300)
    gaps, a, ratio = values - loss(minimum), states.learning_rate, states.ratio
    square = jnp.sum((points - jnp.asarray(minimum)[None]) ** 2, axis=1)
    energy = square[1:] + weight * jnp.sum(jnp.diff(points, axis=0) ** 2, axis=1) + 2 * (a * (1 + q * ratio) * gaps)[:-1]
    begin = 1 if method == "adgd" else 0  # there θ₀ is as good as infinite
    rounding = 1e-13 * (1 + jnp.abs(values[0]) * a[1:-1] * (1 + q * ratio[1:-1]))
    assert jnp.all((energy[1:] <= energy[:-1] * (1 + 1e-12) + rounding)[begin:])
    second = energy[begin] if begin else square[0] + (1 + weight) * jnp.sum((points[1] - points[0]) ** 2) + 2 * q * first_ratio * a[0] * gaps[0]
    assert jax.lax.cummin(gaps)[-1] <= second / (2 * jnp.sum(a[1 + begin :])) + 1e-14


@pytest.mark.one_in(2)
@adaptive
def test_adaptive_rates_are_no_shorter_than_their_multiple_of_one_over_the_smoothness(method):
    make, _, _, _, least = ADAPTIVE[method]
    losses = [lambda x, k=k: jnp.sum(jnp.array([1.0, 0.3]) * huber(x, k)) for k in (0.01, 0.1, 0.5, 2.0)]
    losses += [quadratic(10 ** np.random.default_rng(seed).uniform(-3, 0, 2), np.zeros(2)) for seed in range(4)]
    for loss in losses:
        rates = trace(make(), loss, np.array([3.0, -1.0]), 300)[2].learning_rate
        assert rates.min() >= least * (1 - 1e-12)


@adaptive
def test_adaptive_rates_converge_linearly_on_quadratics(method):
    make = ADAPTIVE[method][0]
    _, values, _ = trace(make(), quadratic([1.0, 5.0, 50.0], [1.0, -3.0, 0.5]), np.zeros(3), 600)
    assert values[300] <= 1e-6 * values[0], "50 times the condition number would be 1/150"
    assert values[599] <= 1e-5 * values[300]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("make", [gdjax.adgd, gdjax.adapgm, gdjax.ac_fgm, gdjax.exact_line_search, gdjax.polyak], ids=lambda make: make.__name__)
@pytest.mark.parametrize("units", [2.0**-53, 2.0**53])
def test_units_do_not_matter_over_16_orders(make, units):
    """A loss in other units, and params in other units, take the same path."""
    loss = quadratic([1.0, 7.0, 30.0], [1.0, -3.0, 0.5])
    start = jnp.array([-2.0, 0.4, 1.3])
    path = iterates(make(), loss, start, 20)[0]
    np.testing.assert_allclose(iterates(make(), lambda x: units * loss(x), start, 20)[0], path, rtol=1e-9)
    np.testing.assert_allclose(iterates(make(), lambda x: loss(x / units), start * units, 20)[0] / units, path, rtol=1e-9)


def tridiagonal(n):
    """Nesterov's worst function for n steps of any first-order method, 1-smooth, and its minimum."""
    matrix = (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) / 4
    minimum = np.linalg.solve(matrix, np.eye(n)[0] / 4)
    return lambda x: x @ (jnp.asarray(matrix) @ x) / 2 - x[0] / 4, minimum


@pytest.mark.one_in(3)
@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_ac_fgm_keeps_its_bound_and_its_constant(alpha):
    """f(x_k) − f⋆ ≤ R²/(2β(1 + τ_k)η_{k+1}), known as it runs; and 12 L R²/(k(k + 1)) at α = 0.1, 60 at α = 1, measured."""
    beta, steps = 1 - np.sqrt(6) / 3, 200
    problems = [(lambda x, k=k: jnp.sum(huber(x, k)), np.zeros(1), np.ones(1), 1.0) for k in np.geomspace(1e-3, 2, 12)]
    problems += [(*tridiagonal(80), np.zeros(80), 1.0)]
    for seed in range(3):
        random = np.random.default_rng(seed)
        curvatures, minimum = np.append(10 ** random.uniform(-5, 0, 39), 1.0), random.normal(size=40) * 10 ** random.uniform(-1, 1, 40)
        problems.append((quadratic(curvatures, minimum), minimum, np.zeros(40), 1.0))
    problems.append((logistic, np.asarray(newton(logistic, jnp.zeros(8))), np.full(8, 2.0), np.linalg.eigvalsh(FEATURES.T @ FEATURES)[-1] / 240))
    worst = 0.0
    for loss, minimum, start, smoothness in problems:
        _, values, states = trace(gdjax.ac_fgm(alpha=alpha), loss, start, steps)
        gaps, square, k = values - loss(jnp.asarray(minimum)), np.sum((start - minimum) ** 2), jnp.arange(1, steps)
        bound = square / (2 * beta * (1 + states.tau[:-1]) * states.learning_rate[1:])
        assert jnp.all(gaps[1:] <= bound + 1e-14)
        worst = max(worst, (gaps[1:] * k * (k + 1)).max() / (smoothness * square))
    assert 4 < worst <= (60 if alpha == 1 else 12), worst


class Oracle:
    """The logistic loss for the transcriptions."""

    def __call__(self, x):
        return np.asarray(jax.grad(logistic)(x))

    def value(self, x):
        return float(logistic(x))


@pytest.mark.parametrize("rule", [gdjax.ac_fgm(alpha=0.0), gdjax.ac_fgm(), gdjax.ac_fgm(alpha=0.7), gdjax.adgd(variant="adgd")], ids=repr)
def test_variants_that_rounding_sets_apart_equal_their_transcriptions(rule):
    """In float32 their steps magnify rounding beyond what the contract allows."""
    points = trace(rule, logistic, np.full(8, 2.0), 16)[0]
    transcription = getattr(reference, rule.factory.__name__)
    np.testing.assert_allclose(points, transcription(Oracle(), np.full(8, 2.0), 15, **rule.arguments), rtol=1e-9)


def test_ac_fgm_is_accelerated_where_gradient_descent_is_not():
    loss, minimum = tridiagonal(100)
    gaps = [trace(rule, loss, np.zeros(100), 400)[1] - loss(minimum) for rule in (gdjax.ac_fgm(), gdjax.gd(1.0), gdjax.adgd())]
    assert gaps[0][-1] < 0.3 * min(gaps[1][-1], gaps[2][-1])


def test_exact_line_search_attains_its_rate_from_the_worst_start():
    """de Klerk, Glineur, Taylor 2017: ((κ − 1)/(κ + 1))² at each step from (1/μ, 1/L): 0.66942148760330 for κ = 10."""
    for low, high in ((1.0, 10.0), (0.02, 3.0)):
        minimum = np.array([0.3, -2.0])
        _, values, _ = trace(gdjax.exact_line_search(), quadratic([low, high], minimum), minimum + np.array([1 / low, 1 / high]), 6)
        np.testing.assert_allclose(values[1:] / values[:-1], ((high - low) / (high + low)) ** 2, rtol=1e-10)
    assert ((10 - 1) / (10 + 1)) ** 2 == pytest.approx(0.66942148760330, abs=1e-13)


def test_exact_line_search_keeps_its_rate_on_quadratics_at_three_evaluations_a_step():
    for seed in range(5):
        random = np.random.default_rng(seed)
        curvatures, minimum = np.append(10 ** random.uniform(-2, 0, 6), [0.01, 1.0]), random.normal(size=8)
        _, values, states = trace(gdjax.exact_line_search(), quadratic(curvatures, minimum), random.normal(size=8) * 3, 25)
        assert (values[1:] / values[:-1]).max() <= (0.99 / 1.01) ** 2 * (1 + 1e-10)
        np.testing.assert_array_equal(states.evaluations, 3 * np.arange(1, 26))
    result = gdjax.minimize(quadratic(curvatures, minimum), jnp.zeros(8), gdjax.exact_line_search(), max_steps=10, tol=0.0)
    assert result.evaluations == 1 + 3 * 10, "the driver evaluates the start alone"


@pytest.mark.parametrize("loss", [cubic, lambda x: jnp.sum(jnp.cosh(x)), lambda x: jnp.sum(jnp.sin(x) + x**2 / 20), lambda x: -jnp.sum(jnp.log(36 - x**2))])
def test_exact_line_search_ends_where_the_slope_is_zero(loss):
    """Beyond quadratics too, where a long step meets NaN, and where the loss is not convex."""
    rule, x = gdjax.exact_line_search(), jnp.array([5.0, -3.0, 2.0, 1.0, -1.0, 0.5, 4.0, -2.0])
    state, step = rule.init(x), jax.jit(lambda x, state: rule.update(offered(loss, x)[0], state, x, **offered(loss, x)[1]))
    for _ in range(4):
        value, grads = jax.value_and_grad(loss)(x)
        updates, state = step(x, state)
        x = x + updates
        assert state.value <= value + 1e-14 * abs(value)
        np.testing.assert_allclose(state.value, loss(x), rtol=1e-12)
        assert abs(jnp.vdot(state.grad, grads)) <= 2e-8 * jnp.vdot(grads, grads)
    assert state.evaluations <= 4 * 16


@pytest.mark.parametrize("scaling", [0.25, 0.5, np.log(2), 1.2])
@pytest.mark.parametrize(("loss", "l0", "l1"), [(lambda x: jnp.sum(jnp.cosh(x)), 1.0, 1.0), (lambda x: jnp.sum(x**4), 16.0, 1.0)], ids=["cosh", "quartic"])
def test_l0l1_falls_by_what_its_theorem_says(loss, l0, l1, scaling):
    """cosh″ ≤ 1 + |cosh′|, and 12x² ≤ 16 + |4x³|: the loss falls by at least c‖g‖²/(L₀ + L₁‖g‖), c = 2η + 1 − e^η."""
    points, values, _ = trace(gdjax.l0l1(l0, l1, scaling=scaling), loss, np.array([10.0]), 60)
    norms = jnp.abs(jax.vmap(jax.grad(loss))(points))[:, 0]
    fall = (2 * scaling + 1 - np.exp(scaling)) * norms**2 / (l0 + l1 * norms)
    assert jnp.all(values[1:] <= values[:-1] - fall[:-1] + 1e-14 * values[0])


def test_l0l1_arrives_where_no_constant_learning_rate_does():
    """On cosh from 10: 1/L of the minimum diverges, 1/L of the start is too short by e^10, and (1, 1) serves both."""
    gradient = jnp.sinh
    assert abs(descend(gdjax.l0l1(1.0, 1.0), gradient, 10.0, 60)) < 1e-6
    assert not abs(descend(gdjax.gd(1.0), gradient, 10.0, 60)) < 1e3
    assert abs(descend(gdjax.gd(1 / np.cosh(10.0)), gradient, 10.0, 60)) > 5.0
