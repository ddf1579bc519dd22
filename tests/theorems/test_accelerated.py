"""Accelerated methods: their bounds hold, and the tight ones are attained, to all digits where the worst loss has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorems.worst_cases import huber, iterates, quadratic

import gdjax

pytestmark = pytest.mark.usefixtures("x64")


def reported(rule, loss, x, steps):
    return iterates(rule, loss, x, steps)[0]


def worst_huber(rule, steps, kinks):
    """sup f(x_k) − f⋆ for each k over 1-smooth Huber functions, from distance 1."""
    paths = jax.vmap(lambda kink: huber(reported(rule, lambda x: huber(x, kink), 1.0, steps), kink))(kinks)
    return paths.max(axis=0)


def worst_quadratic(rule, steps, curvatures):
    """The same over curvature x²/2."""
    return jax.vmap(lambda c: c * reported(rule, lambda x: c * x**2 / 2, 1.0, steps) ** 2 / 2)(curvatures).max(axis=0)


def kinked(x, kink, low, high):
    """Curvature high up to the kink, low from there on."""
    return low * x**2 / 2 + (high - low) * huber(x, kink)


def thetas(steps, last):
    theta = [1.0]
    for k in range(steps):
        theta.append((1 + np.sqrt(1 + (last if k == steps - 1 else 4) * theta[-1] ** 2)) / 2)
    return np.array(theta)


KINKS = np.geomspace(1e-4, 1.5, 600)
CURVATURES = np.concatenate([np.geomspace(1e-5, 1, 300), np.linspace(1e-3, 1, 300)])


@pytest.mark.parametrize(("steps", "table"), [(1, 1 / 6), (4, 0.0476190), (10, 0.0128205)])
def test_simplified_nesterov_attains_its_worst_case_on_a_huber_function(steps, table):
    """Taylor, Hendrickx and Glineur 2017: 2 L R²/(N² + 5N + 6)."""
    bound = 2 / (steps**2 + 5 * steps + 6)
    rule = gdjax.nesterov(1.0, simplified=True)
    worst = worst_huber(rule, steps, jnp.linspace(0.01, 0.5, 4901))[-1]
    np.testing.assert_allclose(bound, table, atol=5e-8)
    np.testing.assert_allclose(worst, bound, atol=2e-7)
    assert worst <= bound * (1 + 1e-12)
    assert worst_quadratic(rule, steps, CURVATURES)[-1] <= bound


def test_nesterov_bound_holds_after_every_number_of_steps():
    """L R²/(2 θ_N²) ≤ 2 L R²/(N + 1)², θ₁ = 1."""
    steps, rule = 60, gdjax.nesterov(1.0)
    bounds = 1 / (2 * thetas(steps - 1, 4) ** 2)
    worst = np.maximum(worst_huber(rule, steps, KINKS), worst_quadratic(rule, steps, CURVATURES))[1:]
    assert np.all(worst <= bounds)
    assert np.all(bounds <= 2 / np.arange(2, steps + 2) ** 2 * (1 + 1e-12))
    assert worst[-1] >= 0.85 * bounds[-1], "the bound is approached as the steps grow"


def test_nesterov_needs_acceleration_to_keep_its_bound():
    """Gradient descent does not keep it: the test above can fail."""
    worst = worst_huber(gdjax.gd(1.0), 60, KINKS)
    assert worst[-1] > 4 / thetas(59, 4)[-1] ** 2 / 2


@pytest.mark.parametrize("condition", [1.5, 10.0, 400.0])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_nesterov_rate_with_strong_convexity(condition, share):
    """Nesterov 2004: (1 − √(μh))^N (f₀ − f⋆ + μR²/2), h ≤ 1/L, here for curvatures that change at a kink, and quadratics."""
    steps, high, start = 80, 3.0, 2.0
    low = high / condition
    rule = gdjax.nesterov(share / high, low)
    for losses in (KINKS, np.array([1e-9, 1e9])):

        def gap(kink):
            values = kinked(reported(rule, lambda x: kinked(x, kink, low, high), start, steps), kink, low, high)
            return values / (values[0] + low * start**2 / 2)

        worst = jax.vmap(gap)(losses).max(axis=0)
        assert np.all(worst <= (1 - np.sqrt(share / condition)) ** np.arange(steps + 1) * (1 + 1e-12))


@pytest.mark.parametrize(("steps", "table"), [(1, 0.125), (4, 0.0255839420), (10, 0.0062864787)])
@pytest.mark.parametrize(("smoothness", "distance"), [(1.0, 1.0), (3.0, 2.5)])
def test_ogm_attains_its_worst_case_on_a_huber_function_and_on_a_quadratic(steps, table, smoothness, distance):
    """Kim and Fessler 2016 and 2017: L R²/(2 θ_N²), with the kink at R/θ_N²."""
    theta, minimum = thetas(steps, 8)[-1], 0.7
    rule, bound = gdjax.ogm(1 / smoothness, steps), smoothness * distance**2 / (2 * theta**2)
    for loss in (lambda x: smoothness * huber(x - minimum, distance / theta**2), lambda x: smoothness * (x - minimum) ** 2 / 2):
        value = loss(reported(rule, loss, minimum + distance, steps)[-1])
        np.testing.assert_allclose(value, bound, rtol=1e-12)
    np.testing.assert_allclose(bound / (smoothness * distance**2), table, atol=5e-11)


def test_ogm_table_of_pepit():
    np.testing.assert_allclose(3 / (2 * thetas(4, 8)[-1] ** 2), 0.0767518, atol=5e-8)


@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_ogm_bounds_hold_before_at_and_after_the_horizon(steps):
    """L R²/(4 θ_{k−1}²) before, L R²/(2 θ_N²) ≤ L R²/(N + 1)² at N, and from there on f never rises."""
    rule, last = gdjax.ogm(1.0, steps), 1 / (2 * thetas(steps, 8)[-1] ** 2)
    worst = np.maximum(worst_huber(rule, steps + 20, KINKS), worst_quadratic(rule, steps + 20, CURVATURES))
    assert np.all(worst[1:steps] <= 1 / (4 * thetas(steps, 4)[: steps - 1] ** 2) * (1 + 1e-12))
    assert worst[steps] <= last * (1 + 1e-12)
    assert last <= 1 / (steps + 1) ** 2
    after = jax.vmap(lambda kink: huber(reported(rule, lambda x: huber(x, kink), 1.0, steps + 20), kink))(KINKS)[:, steps:]
    assert np.all(np.diff(after, axis=1) <= 1e-15)


def test_the_horizon_of_ogm_may_be_an_array():
    finals = jax.vmap(lambda steps: reported(gdjax.ogm(0.25, steps), quadratic(3.0, 1.3), 5.0, 12)[-1])(jnp.array([3, 12]))
    np.testing.assert_allclose(finals, [reported(gdjax.ogm(0.25, steps), quadratic(3.0, 1.3), 5.0, 12)[-1] for steps in (3, 12)], rtol=1e-12)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("steps", "table"), [(1, 0.5), (4, 0.1023357662), (10, 0.0251459147)])
@pytest.mark.parametrize(("smoothness", "distance"), [(1.0, 1.0), (3.0, 2.5)])
def test_ogm_g_attains_its_worst_case_on_a_huber_function(steps, table, smoothness, distance):
    """Kim and Fessler 2021: ‖g_N‖² = 2L(f₀ − f⋆)/θ₀², with the kink at 2R/(θ₀² + 1)."""
    theta, minimum = thetas(steps, 8)[-1], -0.4
    kink = 2 * distance / (theta**2 + 1)

    def loss(x):
        return smoothness * huber(x - minimum, kink)

    final = reported(gdjax.ogm_g(1 / smoothness, steps), loss, minimum + distance, steps)[-1]
    ratio = jax.grad(loss)(final) ** 2 / loss(minimum + distance)
    np.testing.assert_allclose(ratio, 2 * smoothness / theta**2, rtol=1e-11)
    np.testing.assert_allclose(ratio / smoothness, table, atol=5e-11)


@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_ogm_g_bound_holds_and_the_gradient_never_grows_after_the_horizon(steps):
    rule, bound = gdjax.ogm_g(1.0, steps), 2 / thetas(steps, 8)[-1] ** 2

    def gradients(loss):
        return jax.vmap(jax.grad(loss))(reported(rule, loss, 1.0, steps + 20)) ** 2 / loss(1.0)

    hubers = jax.vmap(lambda kink: gradients(lambda x: huber(x, kink)))(KINKS)
    quadratics = jax.vmap(lambda c: gradients(lambda x: c * x**2 / 2))(CURVATURES)
    worst = np.maximum(hubers.max(axis=0), quadratics.max(axis=0))
    assert worst[steps] <= bound * (1 + 1e-12)
    assert worst[steps] >= 0.95 * bound
    assert bound <= 4 / (steps + 1) ** 2
    assert np.all(np.diff(hubers[:, steps:], axis=1) <= 1e-15)
    assert np.all(np.diff(quadratics[:, steps:], axis=1) <= 1e-15)


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_ogm_and_then_ogm_g_make_the_gradient_small(steps):
    """‖g‖² ≤ 4 L² R²/(N + 1)⁴ after 2N steps."""

    def final(kink):
        def loss(x):
            return huber(x, kink)

        return jax.grad(loss)(reported(gdjax.ogm_g(1.0, steps), loss, reported(gdjax.ogm(1.0, steps), loss, 1.0, steps)[-1], steps)[-1]) ** 2

    assert jax.vmap(final)(KINKS).max() <= 4 / (steps + 1) ** 4


def item_weights(low, high, steps):
    """A_N of Taylor and Drori 2022."""
    q, a = low / high, [0.0]
    for _ in range(steps):
        a.append(((1 + q) * a[-1] + 2 * (1 + np.sqrt((1 + a[-1]) * (1 + q * a[-1])))) / (1 - q) ** 2)
    return np.array(a)


def test_item_attains_its_worst_case_on_quadratics_at_both_ends():
    """Taylor and Drori 2022: ‖z_N − x⋆‖² = R²/(1 + q A_N); 0.7566048599 for μ = 0.001, L = 1, N = 15."""
    low, high, steps = 0.001, 1.0, 15
    bounds = 1 / (1 + low * item_weights(low, high, steps))
    np.testing.assert_allclose(bounds[-1], 0.7566048599, atol=5e-11)
    for scale in (1.0, 7.0):
        for curvature in (low, high):
            z = reported(gdjax.item(scale * high, scale * low), quadratic(scale * curvature, 0.3), 2.3, steps)
            np.testing.assert_allclose((z[-1] - 0.3) ** 2 / 4, bounds[-1], rtol=1e-10)


@pytest.mark.parametrize("condition", [1.5, 10.0, 1000.0])
def test_item_bound_holds_after_every_number_of_steps(condition):
    low, high, steps = 1 / condition, 1.0, 60
    bounds = 1 / (1 + low * item_weights(low, high, steps))
    rule = gdjax.item(high, low)
    hubers = jax.vmap(lambda kink: reported(rule, lambda x: kinked(x, kink, low, high), 1.0, steps) ** 2)(KINKS)
    quadratics = jax.vmap(lambda c: reported(rule, lambda x: c * x**2 / 2, 1.0, steps) ** 2)(low + (high - low) * CURVATURES)
    assert np.all(np.maximum(hubers.max(axis=0), quadratics.max(axis=0)) <= bounds * (1 + 1e-9) + 1e-28)
    simple = 1 / (1 + low / (1 - np.sqrt(low)) ** (2 * np.arange(steps + 1)))
    assert np.all(bounds[1:] <= simple[1:] * (1 + 1e-12))


def test_item_without_strong_convexity_is_ogm_without_a_horizon():
    steps = 12

    def loss(x):
        return 3 * huber(x - 0.3, 0.05) + (x - 0.3) ** 4 / 10

    item, ogm = iterates(gdjax.item(5.0), loss, 1.1, steps), iterates(gdjax.ogm(1 / 5.0, steps + 1), loss, 1.1, steps)
    np.testing.assert_allclose(item, ogm, rtol=1e-11)
    rule = gdjax.item(1.0)
    worst = np.maximum(worst_huber(rule, 60, KINKS), worst_quadratic(rule, 60, CURVATURES))[1:]
    assert np.all(worst <= 1 / item_weights(0.0, 1.0, 60)[1:] * (1 + 1e-12))
    assert np.all(1 / item_weights(0.0, 1.0, 60)[1:] <= 1 / np.arange(2, 62) ** 2)


def test_item_neither_overflows_nor_stalls_in_long_runs():
    """A_N leaves float32 after a hundred steps at q = 0.1, float64 after a thousand; the weights settle at those of the triple momentum method."""
    with jax.enable_x64(False):
        x = jnp.float32(3.0)
        rule = gdjax.item(1.0, 0.1)
        state = rule.init(x)
        for _ in range(300):
            updates, state = rule.update(0.4 * (x - 1.7), state, x)
            x = x + updates
        assert abs(float(x) - 1.7) < 1e-6


def test_triple_momentum_attains_its_worst_case_on_a_quadratic():
    """Van Scoy, Freeman and Lynch 2018: ρ^{2N} κ L R²/2; 0.2389250554 for μ = 0.1, L = 1, N = 4."""
    low, high, steps = 0.1, 1.0, 4
    rho = 1 - np.sqrt(low / high)
    bound = rho ** (2 * steps) * high / low * high / 2
    np.testing.assert_allclose(bound, 0.2389250554, atol=5e-11)
    for curvature, attained in ((high, True), (low, False)):
        x = reported(gdjax.triple_momentum(high, low), quadratic(curvature, 0.3), 1.3, steps)[-1]
        value = curvature * (x - 0.3) ** 2 / 2
        assert value <= bound * (1 + 1e-12)
        assert (value >= bound * (1 - 1e-12)) == attained


@pytest.mark.parametrize("condition", [1.5, 10.0, 400.0])
def test_triple_momentum_bound_holds_after_every_number_of_steps(condition):
    low, high, steps = 2.0 / condition, 2.0, 60
    rule, rho = gdjax.triple_momentum(high, low), 1 - np.sqrt(1 / condition)
    bounds = rho ** (2 * np.arange(steps + 1)) * condition * high / 2

    def value(kink):
        return kinked(reported(rule, lambda x: kinked(x, kink, low, high), 1.0, steps), kink, low, high)

    hubers = jax.vmap(value)(KINKS)
    quadratics = jax.vmap(lambda c: c * reported(rule, lambda x: c * x**2 / 2, 1.0, steps) ** 2 / 2)(low + (high - low) * CURVATURES)
    assert np.all(np.maximum(hubers.max(axis=0), quadratics.max(axis=0)) <= bounds * (1 + 1e-9) + 1e-28)
