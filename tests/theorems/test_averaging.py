"""What averages guarantee: variance 1/T, the bound for Lipschitz losses, and that averaging is a decay of the learning rate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

pytestmark = pytest.mark.usefixtures("x64")


@functools.partial(jax.jit, static_argnames="curvature")
def noisy(rule, noise, curvature=None):
    """(last point, reported point) from 0, on λx²/2 with noise added to the gradients; without a curvature the noise is all there is."""

    def body(carry, disturbance):
        x, state = carry
        updates, state = rule.update((curvature or 0.0) * x + disturbance, state, x)
        return (x + updates, state), None

    x, state = jax.lax.scan(body, (jnp.zeros(()), rule.init(jnp.zeros(()))), noise)[0]
    return x, gdjax.eval_params(rule, state, x)


def variances(rule, steps, curvature):
    """Of the last and the reported point per unit of the noise's variance, exactly: both are linear in the noise."""
    return [np.sum(np.square(row)) for row in jax.jacobian(lambda noise: noisy(rule, noise, curvature))(jnp.zeros(steps))]


@pytest.mark.parametrize(("h", "curvature"), [(0.1, 0.5), (0.5, 2.0), (0.9, 2.0), (1.0, 0.01)])
def test_the_variance_of_the_mean_falls_like_one_over_the_steps(h, curvature):
    """Polyak, Juditsky 1992: σ²/(λ²N) in the limit, for any learning rate; that of the last point stays."""
    steps, a = 300, 1 - h * curvature
    last, mean = variances(gdjax.average(gdjax.gd(h), "uniform"), steps, curvature)
    np.testing.assert_allclose(mean, np.sum((1 - a ** np.arange(1, steps + 1)) ** 2) / (curvature * steps) ** 2, rtol=1e-10)
    np.testing.assert_allclose(last, h / (curvature * (2 - h * curvature)) * (1 - a ** (2 * steps)), rtol=1e-10)
    if a >= 0:
        assert mean <= (1 + 1e-12) / (curvature**2 * steps)


def test_the_variance_of_runs_is_what_theory_says():
    """The same from 4096 runs with drawn noise: an estimate of a variance from n normal numbers deviates by √(2/n), here 2.2%; five times that is let pass."""
    runs, steps, h, curvature = 4096, 100, 0.5, 1.0
    noise = jax.random.normal(jax.random.key(0), (runs, steps))
    last, mean = jax.vmap(lambda noise: noisy(gdjax.average(gdjax.sgd(h), "uniform"), noise, curvature))(noise)
    expected = np.sum((1 - (1 - h * curvature) ** np.arange(1, steps + 1)) ** 2) / (curvature * steps) ** 2
    np.testing.assert_allclose([np.mean(last**2), np.mean(mean**2)], [h / (2 - h), expected], rtol=5 * np.sqrt(2 / runs))


@pytest.mark.parametrize("start", [0, 30])
def test_an_average_is_a_decay_of_the_learning_rate(start):
    """For gradients that do not depend on the point, the mean of the last N − s of N points is the end of a run whose learning rate falls linearly from s on.

    From 0 that is the linear schedule; else the warm-up-stable-decay one.
    """
    steps, h = 50, 0.3
    gradients = jax.random.normal(jax.random.key(1), (steps,))
    decay = gdjax.schedules.linear(h, 0.0, steps) if start == 0 else gdjax.schedules.wsd(h, steps, 0, steps - start)
    averaged = noisy(gdjax.average(gdjax.gd(h), "uniform", start=start), gradients)[1]
    np.testing.assert_allclose(averaged, noisy(gdjax.gd(decay), gradients)[0], rtol=1e-12)


def bent(x):
    return 2.0 * jnp.abs(x[0] - 1.0)


def corner(x):
    return jnp.max(jnp.abs(x - jnp.array([1.0, -2.0, 0.5])))


@pytest.mark.parametrize(("loss", "start", "lipschitz", "distance"), [(bent, [4.0], 2.0, 3.0), (corner, [0.0, 0.0, 0.0], 1.0, np.sqrt(5.25))])
def test_the_mean_of_the_points_attains_the_bound_for_lipschitz_losses(loss, start, lipschitz, distance):
    steps = 200

    @jax.jit
    @jax.vmap
    def gaps(h):
        rule, x = gdjax.average(gdjax.gd(h), "uniform"), jnp.array(start)

        def body(carry, _):
            x, state = carry
            updates, state = rule.update(jax.grad(loss)(x), state, x)
            x = x + updates
            return (x, state), loss(gdjax.eval_params(rule, state, x))

        return jax.lax.scan(body, (x, rule.init(x)), length=steps)[1]

    rates, n = np.geomspace(1e-3, 3.0, 25), np.arange(1, steps + 1)
    bound = distance**2 / (2 * rates[:, None] * n) + rates[:, None] * lipschitz**2 * (n + 1) / (2 * n)
    ratio = gaps(rates) / bound
    assert np.all(ratio <= 1 + 1e-12)
    assert ratio.max() > 0.5  # the bound says something about these losses


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999999])
def test_the_first_exponential_average_is_the_first_point(decay):
    """Bias correction: no share is left to where the run began, and constant points have themselves for an average."""
    rule = gdjax.average(gdjax.gd(1.0), "ema", decay=decay)
    state, x = rule.init(jnp.float64(1e6)), jnp.float64(1e6)
    updates, state = rule.update(jnp.float64(1e6 - 0.1), state, x)
    x = x + updates
    assert gdjax.eval_params(rule, state, x) == x
    for _ in range(5):
        _, state = rule.update(jnp.zeros(()), state, x)
        assert gdjax.eval_params(rule, state, x) == x


@pytest.mark.parametrize(("curvature", "h", "period", "step_size"), [(2.0, 0.3, 5, 0.5), (2.0, 0.9, 4, 0.3), (1.0, 0.5, 1, 0.5), (3.0, 0.7, 3, 0.4)])
def test_lookahead_contracts_and_averages_as_it_says(curvature, h, period, step_size):
    rounds, q = 40, (1 - h * curvature) ** period
    factor = 1 - step_size + step_size * q
    rule = gdjax.lookahead(gdjax.gd(h), period, step_size)
    assert abs(factor) < 1  # the last of the cases is beyond 2/λ, where gradient descent alone diverges

    x, state = jnp.float64(1.0), rule.init(jnp.float64(1.0))
    for _ in range(2 * period):
        updates, state = rule.update(curvature * x, state, x)
        x = x + updates
    np.testing.assert_allclose(gdjax.eval_params(rule, state, x), factor**2, rtol=1e-12)
    if h * curvature < 2:
        alone = h / (curvature * (2 - h * curvature))
        expected = step_size**2 * (1 - q**2) / (1 - factor**2) * alone
        np.testing.assert_allclose(variances(rule, rounds * period, curvature)[1], expected * (1 - factor ** (2 * rounds)), rtol=1e-10)
        assert expected < alone


@pytest.mark.parametrize("period", [1, 4])
def test_local_steps_tend_to_the_point_they_are_said_to(period):
    """Two workers with curvatures 1 and 3: local SGD with one step a round finds the minimum of the mean loss, with more another point."""
    curvatures, minima, h = jnp.array([1.0, 3.0]), jnp.array([2.0, -1.0]), 0.1
    rule = gdjax.outer_loop(gdjax.gd(h), gdjax.gd(1.0), period, axis_name="workers")

    @jax.jit
    @functools.partial(jax.vmap, axis_name="workers")
    def worker(curvature, minimum):
        def body(carry, _):
            x, state = carry
            updates, state = rule.update(curvature * (x - minimum), state, x)
            return (x + updates, state), None

        return jax.lax.scan(body, (jnp.zeros(()), rule.init(jnp.zeros(()))), length=100 * period)[0][0]

    weights = 1 - (1 - h * curvatures) ** period
    np.testing.assert_allclose(worker(curvatures, minima), np.full(2, np.average(minima, weights=weights)), rtol=1e-7)
    assert period > 1 or np.isclose(np.average(minima, weights=weights), np.average(minima, weights=curvatures))
