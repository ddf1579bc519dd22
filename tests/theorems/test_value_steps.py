"""Rules whose step comes from the value of the loss, each against its own theorem, path by path: single examples in random order, convex losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from problems import offered
from theorems.worst_cases import iterates, quadratic

import gdjax

pytestmark = pytest.mark.usefixtures("x64")

EXAMPLES, SIZE, STEPS = 30, 6, 400
FEATURES = np.random.default_rng(0).normal(size=(EXAMPLES, SIZE)) * np.geomspace(0.3, 2.0, SIZE)
SOLUTION = np.array([1.0, -2.0, 0.5, 3.0, -0.7, 1.2])
TARGETS = FEATURES @ SOLUTION
NOISE = np.random.default_rng(1).normal(size=EXAMPLES) / 2
ORDER = np.random.default_rng(2).integers(EXAMPLES, size=STEPS)
START = np.zeros(SIZE)
SMOOTHNESS = np.sum(FEATURES**2, axis=1)  # of each example's loss; that of the squared hinge is the same


def squares(x, i):
    return (jnp.asarray(FEATURES)[i] @ x - jnp.asarray(TARGETS)[i]) ** 2 / 2


def noisy(x, i):
    return (jnp.asarray(FEATURES)[i] @ x - jnp.asarray(TARGETS + NOISE)[i]) ** 2 / 2


def hinges(x, i):
    """Squared hinges that the solution satisfies, some of them just so."""
    return jnp.maximum(jnp.abs(jnp.asarray(TARGETS)[i]) - jnp.sign(jnp.asarray(TARGETS)[i]) * (jnp.asarray(FEATURES)[i] @ x), 0.0) ** 2 / 2


FITTING = {"squares": squares, "hinges": hinges}
fitting = pytest.mark.parametrize("loss", FITTING.values(), ids=FITTING)


def journey(rule, example_loss, order=ORDER, start=START):
    """(params, STEPS + 1 of them; the losses met; the states after the steps), each step on one example as ``fit`` would offer it."""

    def body(carry, i):
        x, state = carry
        grads, extra = offered(lambda x: example_loss(x, i), x)
        updates, new = rule.update(grads, state, x, indices=i[None], num_examples=EXAMPLES, **extra)
        return (x + updates, new), (x, extra["value"], new)

    def run(x, order):
        (last, _), (xs, values, states) = jax.lax.scan(body, (x, rule.init(x)), order)
        return jnp.concatenate([xs, last[None]]), values, states

    xs, values, states = jax.jit(run)(jnp.asarray(start), jnp.asarray(order))
    return np.asarray(xs), np.asarray(values), states


def squared_distances(xs):
    return np.sum((xs - SOLUTION) ** 2, axis=1)


@pytest.mark.parametrize("make", [lambda: gdjax.sps(growth=None), lambda: gdjax.mom_sps(momentum=0.0, scaling=0.5, max_learning_rate=None)])
def test_half_polyak_steps_on_single_squares_are_projections(make):
    """Kaczmarz 1937: x ← x − (⟨a, x⟩ − y) a/‖a‖²."""
    x, path = START, [START]
    for i in ORDER:
        x = x - (FEATURES[i] @ x - TARGETS[i]) * FEATURES[i] / SMOOTHNESS[i]
        path.append(x)
    np.testing.assert_allclose(journey(make(), squares)[0], path, rtol=1e-9, atol=1e-9)


@fitting
@pytest.mark.parametrize(("scaling", "growth", "first", "most"), [(0.5, None, 1.0, None), (0.5, 2.0, 1e-2, None), (1.0, None, 1.0, 0.3), (0.7, 2.0, 10.0, 0.5)])
def test_no_sps_step_leads_away_from_what_fits_all(loss, scaling, growth, first, most):
    xs, values, states = journey(gdjax.sps(scaling=scaling, growth=growth, first_learning_rate=first, max_learning_rate=most), loss)
    a, distances = np.asarray(states.learning_rate), squared_distances(xs)
    assert np.all(np.diff(distances) <= -(2 - 1 / scaling) * a * values + 1e-12)
    least = min(1 / (2 * scaling * SMOOTHNESS.max()), np.inf if growth is None else first, np.inf if most is None else most)
    assert np.all(a[values > 0] >= least * (1 - 1e-9))
    assert (2 - 1 / scaling) * least * values.sum() <= distances[0]
    assert distances[-1] < 1e-2 * distances[0] or loss is hinges


@pytest.mark.parametrize("scaling", [0.5, 1.0])
def test_sps_converges_linearly_where_all_losses_curve(scaling):
    spread = np.random.default_rng(3).normal(size=(EXAMPLES, SIZE, SIZE))
    hessians = np.einsum("nij,nkj->nik", spread, spread) / SIZE + 0.5 * np.eye(SIZE)
    curvatures = np.linalg.eigvalsh(hessians)
    xs, _, _ = journey(gdjax.sps(scaling=scaling, growth=None), lambda x, i: (x - SOLUTION) @ jnp.asarray(hessians)[i] @ (x - SOLUTION) / 2, ORDER[:100])
    factor = 1 - curvatures[:, 0] / (2 * scaling * curvatures[:, -1])
    distances = squared_distances(xs)
    assert np.all(distances[1:] <= factor[ORDER[:100]] * distances[:-1] + 1e-28)
    assert distances[-1] < 1e-10


@pytest.mark.parametrize(("scaling", "most"), [(1.0, 0.3), (0.6, 1.0)])
def test_sps_stays_near_where_nothing_fits_all(scaling, most):
    _, values, states = journey(gdjax.sps(scaling=scaling, growth=None, max_learning_rate=most), noisy)
    a, left = np.asarray(states.learning_rate), NOISE[ORDER] ** 2 / 2  # what the solution leaves of each loss
    radius = squared_distances(START[None])[0]
    assert np.sum(a * ((2 - 1 / scaling) * values - 2 * left)) <= radius
    alpha = min(1 / (2 * scaling * SMOOTHNESS.max()), most)
    assert (2 - 1 / scaling) * alpha * values.mean() <= radius / STEPS + 2 * most * left.mean()


def test_dec_sps_converges_where_nothing_fits_all():
    features, order = FEATURES / np.geomspace(0.3, 2.0, SIZE), np.random.default_rng(4).integers(EXAMPLES, size=20000)
    best, smooth = np.linalg.lstsq(features, TARGETS + NOISE)[0], np.sum(features**2, axis=1).max()
    loss = lambda x, i: (jnp.asarray(features)[i] @ x - jnp.asarray(TARGETS + NOISE)[i]) ** 2 / 2  # noqa: E731
    xs, values, states = journey(gdjax.dec_sps(), loss, order)
    a, left = np.asarray(states.learning_rate), (features @ best - TARGETS - NOISE)[order] ** 2 / 2
    c, farthest = np.sqrt(np.arange(1, len(order) + 1)), np.sum((xs - best) ** 2, axis=1).max()
    assert np.sum((2 - 1 / c) * (values - left)) <= farthest / a[-1] + np.sum(left / c)
    assert np.all(np.diff(a) < 0)
    assert np.all(a >= 1 / (2 * smooth) / c * (1 - 1e-9))

    def gap(xs):
        return np.mean(((xs[-1000:] - best) @ features.T) ** 2) / 2

    assert gap(xs) <= (farthest * max(2 * smooth, 0.1) + 2 * left.mean()) / np.sqrt(len(order))
    assert gap(xs) < gap(journey(gdjax.sps(scaling=1.0), loss, order)[0]) / 20  # which goes on fluctuating


@fitting
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("most", [0.05, 10.0])
def test_mom_sps_moves_its_average_by_plain_steps(loss, momentum, most):
    """What the proof rests on: z = x + λ(x − x₋) moves by −a g; and the sum over the path it leads to."""
    xs, values, states = journey(gdjax.mom_sps(momentum=momentum, max_learning_rate=most), loss)
    a, ratio = np.asarray(states.learning_rate) / (1 - momentum), momentum / (1 - momentum)
    gradients = np.asarray(jax.vmap(jax.grad(loss))(xs[:-1], ORDER))
    before = np.concatenate([xs[:1], xs[:-1]])
    z = xs + ratio * (xs - before)
    np.testing.assert_allclose(z[1:], z[:-1] - a[:, None] * gradients, rtol=1e-9, atol=1e-9)
    again = np.asarray(jax.vmap(loss)(before[:-1], ORDER))
    assert np.sum(a * ((1 + 2 * ratio) * values - 2 * ratio * again)) <= squared_distances(START[None])[0]


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_mom_sps_converges_on_full_batches(momentum):
    eigenvalues = np.array([1.0, 0.3, 0.05])
    minimum, start = np.array([2.0, -1.0, 0.5]), np.zeros(3)
    loss, most, alpha, ratio = quadratic(eigenvalues, minimum), 0.5, 0.5, momentum / (1 - momentum)
    xs = iterates(gdjax.mom_sps(momentum=momentum, max_learning_rate=most), loss, start, 300)[0]
    values = np.asarray(jax.vmap(loss)(xs))
    bound = np.sum(minimum**2) + 2 * ratio * most * values[0]
    for steps in (10, 100, 300):
        assert values[:steps].sum() <= bound / alpha
    assert values[-1] < 1e-3


SIGMAS = [1e-2, 1.0, 1e2, 1e6]


@pytest.mark.parametrize("loss", [squares, hinges, noisy], ids=["squares", "hinges", "noisy"])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_ngn_never_diverges(loss, sigma):
    xs, values, states = journey(gdjax.ngn(sigma), loss)
    a, left = np.asarray(states.learning_rate), NOISE[ORDER] ** 2 / 2 * (loss is noisy)
    distances, smooth = squared_distances(xs), SMOOTHNESS.max()
    assert np.all(np.diff(distances) <= 2 * a * left - 2 * a**2 * values / sigma + 1e-12 * (1 + distances[:-1]))
    assert np.all(a[values > 0] >= sigma / (1 + sigma * SMOOTHNESS[ORDER])[values > 0] * (1 - 1e-9))
    assert np.all(a <= sigma)
    assert values.mean() <= (1 + sigma * smooth) ** 2 * (distances[0] / (2 * sigma * STEPS) + left.mean())
    if loss is squares and sigma > 1:
        assert np.abs(journey(gdjax.sgd(sigma), loss)[0][30]).max() > 1e30  # what a fixed rate does


def test_ngn_is_gauss_newton_with_damping():
    """The minimum over y of (r + ⟨∇r, y − x⟩)² + ‖y − x‖²/(2σ), r = √f, found by a linear solve."""
    x, sigma = np.array([2.0, -1.0, 0.5]), 3.0
    loss = lambda x: jnp.sum(jnp.array([1.0, 0.3, 2.0]) * (x - 1.0) ** 2) + jnp.sin(x[0]) + 2.0  # noqa: E731
    root, slope = jnp.sqrt(loss(x)), jax.grad(lambda x: jnp.sqrt(loss(x)))(jnp.asarray(x))
    wanted = jnp.linalg.solve(2 * jnp.outer(slope, slope) + jnp.eye(3) / sigma, -2 * root * slope)
    np.testing.assert_allclose(iterates(gdjax.ngn(sigma), loss, x, 1)[0][1] - x, wanted, rtol=1e-12)


@fitting
@pytest.mark.parametrize(("most", "ball"), [(0.1, None), (10.0, None), (10.0, 4.5)])
def test_no_ali_g_step_leads_away_from_what_fits_all(loss, most, ball):
    xs, values, states = journey(gdjax.ali_g(most, max_norm=ball), loss)
    a, distances = np.asarray(states.learning_rate), squared_distances(xs)
    assert np.all(np.diff(distances) <= -a * values + 1e-12)
    assert min(1 / (2 * SMOOTHNESS.max()), most) * values.sum() <= distances[0]
    if ball is not None:
        assert np.all(np.linalg.norm(xs, axis=1) <= ball * (1 + 1e-12))


@pytest.mark.parametrize("momentum", [None, 0.6])
def test_ali_g_stays_in_its_ball(momentum):
    minimum = np.array([2.0, -1.0, 2.0])

    class Oracle:
        value = staticmethod(lambda x: np.sum(np.array([1.0, 0.3, 0.5]) * (x - minimum) ** 2) / 2)
        __call__ = staticmethod(lambda x: np.array([1.0, 0.3, 0.5]) * (x - minimum))

    rule, start = gdjax.ali_g(1.0, momentum=momentum, max_norm=2.0), np.array([0.5, 1.0, -1.0])
    ours = iterates(rule, quadratic([1.0, 0.3, 0.5], minimum), start, 30)[0]
    np.testing.assert_allclose(ours, reference.ali_g(Oracle(), start, 30, **rule.arguments), rtol=1e-12, atol=1e-12)
    assert np.isclose(np.linalg.norm(ours, axis=1), 2.0).sum() > 10


@fitting
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("rate", [0.05, 1e3])
def test_no_momo_step_leads_away_from_what_fits_all(loss, momentum, rate):
    xs, values, states = journey(gdjax.momo(rate, momentum=momentum), loss)
    tau, directions = np.asarray(states.learning_rate), np.asarray(states.direction)
    height = np.asarray(states.value) - np.asarray(states.product) + np.sum(directions * xs[:-1], axis=1)
    distances = squared_distances(xs)
    assert np.all(np.diff(distances) <= -tau * np.maximum(height, 0) + 1e-11)
    if momentum == 0:
        np.testing.assert_allclose(xs, journey(gdjax.sps(scaling=1.0, growth=None, max_learning_rate=rate), loss)[0], rtol=1e-9, atol=1e-9)
        assert min(1 / (2 * SMOOTHNESS.max()), rate) * values.sum() <= distances[0]


@pytest.mark.parametrize("decay", [None, 0.5])
@pytest.mark.parametrize("rate", [0.02, 1.0])
def test_momo_minimises_its_model(decay, rate):
    """No point near or far has a lower model than where the step leads."""
    xs, values, _ = journey(gdjax.momo(rate, momentum=0.7, weight_decay=decay, lower_bound=0.1), noisy, ORDER[:12])
    gradients = np.asarray(jax.vmap(jax.grad(noisy))(xs[:-1], ORDER[:12]))
    others = np.concatenate([np.random.default_rng(5).normal(size=(200, SIZE)) * size for size in (1e-4, 1e-2, 1.0)])
    for k in range(12):
        weights = 0.7 ** np.arange(k, -1, -1) * np.where(np.arange(k + 1) == 0, 1.0, 0.3)

        def model(y, k=k, weights=weights):
            tangents = values[: k + 1] + np.sum(gradients[: k + 1] * (y - xs[: k + 1]), axis=1)
            return max(weights @ tangents, 0.1) + np.sum((y - xs[k]) ** 2) / (2 * rate) + (decay or 0.0) * np.sum(y**2) / 2

        assert all(model(xs[k + 1]) <= model(xs[k + 1] + other) for other in others)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("height", [0.0, 5.0])
def test_momo_finds_a_minimum_that_is_not_known(height, momentum):
    minimum = np.array([2.0, -1.0, 0.5])
    loss = lambda x: quadratic([1.0, 0.5, 0.1], minimum)(x) + height  # noqa: E731
    rule = gdjax.momo(1.0, momentum=momentum, lower_bound=None)
    x = iterates(rule, loss, np.zeros(3), 3000)[0][-1]
    np.testing.assert_allclose(x, minimum, atol=1e-6)


@fitting
@pytest.mark.parametrize(("sufficient", "first"), [(0.5, 1.0), (0.6, 1e-2), (0.7, 100.0)])
def test_stochastic_line_search_converges_where_something_fits_all(loss, sufficient, first):
    xs, values, states = journey(gdjax.stochastic_line_search(sufficient, first_learning_rate=first), loss)
    a, distances = np.asarray(states.learning_rate), squared_distances(xs)
    after = np.asarray(jax.vmap(loss)(xs[1:], ORDER))
    gradients = np.asarray(jax.vmap(jax.grad(loss))(xs[:-1], ORDER))
    assert np.all(after <= values - sufficient * a * np.sum(gradients**2, axis=1))
    assert np.all(np.diff(distances) <= -(2 - 1 / sufficient) * a * values + 1e-12)
    least = np.minimum(first, 2 * 0.9 * (1 - sufficient) / SMOOTHNESS.max())
    assert np.all(a[values > 0] >= least * (1 - 1e-9))
    assert (2 - 1 / sufficient) * least * values.sum() <= distances[0]
    assert states.evaluations[-1] < 5 * STEPS


def test_stochastic_line_search_needs_no_number_on_least_squares():
    xs, _, _ = journey(gdjax.stochastic_line_search(), squares, np.tile(ORDER, 10))
    assert squared_distances(xs)[-1] < 1e-16


def test_steps_grow_by_the_share_of_the_data_they_saw():
    rows = jnp.arange(12.0)
    rule = gdjax.sps(growth=3.0, first_learning_rate=1e-6)
    seen = dict(history=("learning_rate",), record_every=1)
    result = gdjax.fit(lambda w, batch: jnp.mean((w - batch) ** 2) + 5.0, 0.0, rows, rule, batch_size=4, epochs=2, key=jax.random.key(0), **seen)
    np.testing.assert_allclose(result.history["learning_rate"], 1e-6 * 3.0 ** (np.arange(1, 7) / 3), rtol=1e-5)
