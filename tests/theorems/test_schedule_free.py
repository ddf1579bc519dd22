"""What schedule-free learning guarantees: the bounds at every step, for every momentum in [0, 1], and what it is at both ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

import gdjax

pytestmark = pytest.mark.usefixtures("x64")

CENTRE = np.array([1.0, -2.0, 0.5])


def bent(x):
    """G = 2: the kink of one coordinate."""
    return 2.0 * jnp.abs(x[0] - CENTRE[0])


def corner(x):
    """G = 1, one coordinate at a time."""
    return jnp.max(jnp.abs(x - CENTRE))


def slopes(x):
    """G = √14: steep, middling, flat."""
    return jnp.sum(jnp.array([3.0, 2.0, 1.0]) * jnp.abs(x - CENTRE))


def soft(x):
    """G = 1, curved near the minimum."""
    return jnp.sum(jnp.sqrt(1 + jnp.square(x - CENTRE)) - 1) / jnp.sqrt(3.0)


LOSSES = [(bent, 2.0), (corner, 1.0), (slopes, np.sqrt(14)), (soft, 1.0)]
START = np.zeros(3)


def distance_to(loss):
    return 1.0 if loss is bent else np.linalg.norm(CENTRE)


@functools.partial(jax.jit, static_argnames=("loss", "steps"))
def trace(rule, loss, steps):
    """After each step: the loss at x, the points x, y and z, the gradient at y."""
    start = jnp.array(START)

    def body(carry, _):
        y, state = carry
        value, grads = jax.value_and_grad(loss)(y)
        updates, state = rule.update(grads, state, y, value=value)
        y = y + updates
        x = gdjax.eval_params(rule, state, y)
        return (y, state), (loss(x), x, y, state.z, jax.grad(loss)(y))

    return jax.lax.scan(body, (start, rule.init(start)), length=steps)[1]


N = np.arange(1, 201)
MOMENTA = np.array([0.0, 0.3, 0.9, 1.0])


@pytest.mark.parametrize(("loss", "lipschitz"), LOSSES, ids=[loss.__name__ for loss, _ in LOSSES])
def test_the_bound_holds_for_every_momentum_and_learning_rate(loss, lipschitz):
    """Defazio et al. 2024, theorem 1, with the constants for an average that begins after the first step: R²/(2γN) + γG²(N + 1)/(2N)."""
    rates, R = np.geomspace(1e-3, 3.0, 12), distance_to(loss)
    momenta, gammas = (grid.ravel() for grid in np.meshgrid(MOMENTA, rates, indexing="ij"))
    gaps = jax.vmap(lambda gamma, beta: trace(gdjax.schedule_free_sgd(gamma, beta), loss, 200)[0])(gammas, momenta)
    bound = R**2 / (2 * gammas[:, None] * N) + gammas[:, None] * lipschitz**2 * (N + 1) / (2 * N)
    assert np.all(gaps <= bound * (1 + 1e-12))
    assert np.max(gaps / bound) > 0.4  # and says something
    best = R / (lipschitz * np.sqrt(200))
    last = [trace(gdjax.schedule_free_sgd(best, beta), loss, 200)[0][-1] for beta in MOMENTA]
    assert np.all(np.array(last) <= lipschitz * R / np.sqrt(200) * (1 + 1 / 400) * (1 + 1e-12))


@pytest.mark.parametrize("momentum", [0.0, 0.3, 1.0, gdjax.schedules.linear(0.9, 0.0, 50)], ids=["0", "0.3", "1", "falling"])
@pytest.mark.parametrize(
    "inner",
    [gdjax.sgd(0.1, 0.9), gdjax.rule(optax.adam)(0.1, b1=0.0), gdjax.rule(optax.scale)(-3.0)],
    ids=["momentum", "adam", "far too long"],
)
def test_the_average_is_as_good_as_the_mean_regret_of_any_rule(momentum, inner):
    """Defazio et al. 2024, theorem 2: f(x_N) − f(u) ≤ (1/N) Σ ⟨g(y_k), z_k − u⟩, for convex f, any z whatever and any β, varying too."""
    for loss in (slopes, soft):
        values, _, _, z, gradients = map(np.asarray, trace(gdjax.schedule_free(inner, momentum), loss, 100))
        for u in (CENTRE, START, np.array([2.0, 2.0, 2.0])):
            regret = np.cumsum(np.sum(gradients * (z - u), axis=1)) / np.arange(1, 101)
            scale = np.abs(values).max()
            assert np.all(values - loss(u) <= regret + 1e-12 * scale)


def test_without_momentum_it_is_averaging_afterwards():
    """β = 0: y is z, the path of gradient descent, and x its Polyak–Ruppert average."""
    _, x, y, z, _ = trace(gdjax.schedule_free_sgd(0.2, 0.0), soft, 50)
    averaged, point = gdjax.average(gdjax.gd(0.2), "uniform"), jnp.array(START)
    state = averaged.init(point)
    for k in range(50):
        updates, state = averaged.update(jax.grad(soft)(point), state, point)
        point = point + updates
        np.testing.assert_allclose(y[k], point, rtol=1e-12)
        np.testing.assert_allclose(x[k], gdjax.eval_params(averaged, state, point), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(y, z, rtol=1e-12)


def test_with_a_momentum_of_one_it_is_primal_averaging():
    """β = 1: gradients at the average (Nesterov, Shikhman 2015); no average of the points where gradients are taken would do as much."""
    _, ours, y, _, _ = trace(gdjax.schedule_free_sgd(0.2, 1.0), soft, 50)
    x = z = START
    for k in range(50):
        z = z - 0.2 * np.asarray(jax.grad(soft)(x))
        x = x + (z - x) / (k + 1)
        np.testing.assert_allclose(ours[k], x, rtol=1e-10)
    np.testing.assert_allclose(y, ours, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("loss", "lipschitz"), LOSSES, ids=[loss.__name__ for loss, _ in LOSSES])
@pytest.mark.parametrize("step_power", [0.0, 2.0])
def test_polyak_steps_need_no_learning_rate(loss, lipschitz, step_power):
    """f(x_N) − f⋆ ≤ G R √(Σw²)/Σw at every N, for every momentum, and z never moves away from the minimum."""
    w = N**step_power
    bound = lipschitz * distance_to(loss) * np.sqrt(np.cumsum(w**2)) / np.cumsum(w)
    for beta in MOMENTA:
        gaps, _, _, z, _ = trace(gdjax.schedule_free_polyak(momentum=beta, step_power=step_power), loss, 200)
        assert np.all(gaps <= bound * (1 + 1e-12))
        target = np.where([True, loss is not bent, loss is not bent], CENTRE, START)  # one of the minima
        distances = np.linalg.norm(np.vstack([START, z]) - target, axis=1)
        assert np.all(np.diff(distances) <= 1e-12)


@pytest.mark.parametrize("slack", [0.0, 0.3])
@pytest.mark.parametrize("longest", [0.05, 1.0])
def test_polyak_steps_with_a_longest_one_bear_a_bound_that_is_too_low(slack, longest):
    for loss, lipschitz in LOSSES:
        R = distance_to(loss)
        bound = 3 * slack + R**2 / (longest * N) + lipschitz * np.sqrt(R**2 / N + 2 * longest * slack)
        for beta in MOMENTA:
            gaps = trace(gdjax.schedule_free_polyak(-slack, beta, max_learning_rate=longest), loss, 200)[0]
            assert np.all(gaps <= bound * (1 + 1e-12))


def test_polyak_steps_are_the_shortest_that_the_theory_wants():
    """The step of the transcription, on a loss that is no quadratic, with a minimum that is not 0."""

    class Oracle:
        def __call__(self, x):
            return np.asarray(jax.grad(soft)(jnp.array(x)))

        def value(self, x):
            return float(soft(jnp.array(x))) + 7.0

    theirs = reference.schedule_free_polyak(Oracle(), START, 30, 7.0, 0.8, step_power=1.0, report=True)
    ours = trace(gdjax.schedule_free_polyak(7.0, 0.8, step_power=1.0), lambda x: soft(x) + 7.0, 30)[1]
    np.testing.assert_allclose(ours, theirs[1:], rtol=1e-9)


def test_random_batches_that_share_a_minimum():
    """Interpolation, in expectation: the mean over 256 runs of f(x_N), each with its own draws, is below G R/√N. Each run is below it with room, so no tail."""
    rows = jax.random.normal(jax.random.key(0), (20, 3))
    rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)  # G = 1 for each batch |a·(x − c)|
    rule, R = gdjax.schedule_free_polyak(), np.linalg.norm(CENTRE)

    @jax.jit
    @jax.vmap
    def run(key):
        def body(carry, index):
            y, state = carry
            value, grads = jax.value_and_grad(lambda y: jnp.abs(rows[index] @ (y - CENTRE)))(y)
            updates, state = rule.update(grads, state, y, value=value)
            return (y + updates, state), None

        y, state = jax.lax.scan(body, (jnp.array(START), rule.init(jnp.array(START))), jax.random.randint(key, (100,), 0, 20))[0]
        return jnp.mean(jnp.abs(rows @ (gdjax.eval_params(rule, state, y) - CENTRE)))

    gaps = np.asarray(run(jax.random.split(jax.random.key(1), 256)))
    assert gaps.mean() + 5 * gaps.std() / np.sqrt(256) <= R / np.sqrt(100)
