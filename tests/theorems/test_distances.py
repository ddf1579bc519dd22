"""Rules that learn the distance to the minimum, each against its own theorem: DoG, L-DoG, DoWG, D-Adaptation, Prodigy, Mechanic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

pytestmark = pytest.mark.usefixtures("x64")

SLOPES = np.array([3.0, 1.0, 0.3, 0.1])
WAY = np.array([1.0, -0.5, 0.7, -0.2]) / np.linalg.norm([1.0, -0.5, 0.7, -0.2])
FEATURES = np.random.default_rng(0).normal(size=(40, 4)) * [3.0, 1.0, 0.3, 1.0]


def kinks(x, minimum, size=1.0):
    """Convex, with slopes of at most ‖SLOPES‖ times the size."""
    return size * jnp.sum(jnp.asarray(SLOPES) * jnp.abs(x - minimum))


def logistic_gap(x, minimum, size=1.0):
    """Convex, smooth, with its minimum 0 at the minimum."""
    return size * jnp.mean(jnp.logaddexp(0.0, jnp.asarray(FEATURES) @ (x - minimum)) + jnp.logaddexp(0.0, -jnp.asarray(FEATURES) @ (x - minimum)))


def bowl(x, minimum, size=1.0):
    return size * jnp.sum(jnp.asarray(SLOPES, x.dtype) * (x - minimum) ** 2) / 2


def single(x, minimum, size=1.0, *, step):
    """A least-squares fit that fits: one example a step, all of which have the minimum in common."""
    row = jnp.asarray(FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True))[(7 * step) % 40]
    return size * (row @ (x - minimum)) ** 2 / 2


CONVEX = {"kinks": kinks, "logistic": logistic_gap, "bowl": bowl, "single": single}
convex = pytest.mark.parametrize("loss", CONVEX.values(), ids=CONVEX)


@functools.partial(jax.jit, static_argnames=("loss", "steps"))
def trace(rule, loss, x, minimum, steps, size=1.0):
    """(x, final state), and (points, gradients, values, states) of all steps, stacked: the points before each step, the states after it."""

    def body(carry, step):
        x, state = carry
        at = functools.partial(loss, minimum=minimum, size=size, **({"step": step} if loss is single else {}))
        value, grads = jax.value_and_grad(at)(x)
        updates, new = rule.update(grads, state, x)
        return (x + updates, new), (x, grads, value, new)

    return jax.lax.scan(body, (x, rule.init(x)), jnp.arange(steps))


def regret_and_bound(name, points, grads, states, point):
    """Both sides of the lemma for every number of steps: Σ w ⟨g, x − u⟩ ≤ r̄ (2 d̄ + r̄) √(Σ ...), w = r̄ for DoG, r̄² for DoWG."""
    weights = states.distance ** (1 if name == "dog" else 2)
    regret = np.cumsum(weights * np.einsum("ij,ij->i", grads, points - point))
    farthest = np.maximum.accumulate(np.linalg.norm(points - point, axis=1))
    return regret, states.distance * (2 * farthest + states.distance) * states.gradients


@pytest.mark.parametrize("name", ["dog", "dowg"])
@pytest.mark.parametrize("seed", range(3))
def test_the_regret_of_dog_and_dowg_is_bounded_for_any_gradients_and_any_point(name, seed):
    """Ivgi, Hinder, Carmon 2023, Lemma 1; Khaled, Mishchenko, Jin 2023, Lemma 3. Random gradients with a drift, which need no loss."""
    random = np.random.default_rng(seed)
    slopes = jnp.asarray(random.normal(size=(300, 4)) + 0.3 * random.normal(size=4))
    rule = getattr(gdjax, name)(1e-3)

    def body(carry, g):
        x, state = carry
        updates, new = rule.update(g, state, x)
        return (x + updates, new), (x, new)

    x = jnp.zeros(4)
    _, (points, states) = jax.jit(lambda: jax.lax.scan(body, (x, rule.init(x)), slopes))()
    points, states = jax.tree.map(np.asarray, (points, states))
    ratios = []
    for point in (np.zeros(4), points[-1], points[100], *random.normal(size=(5, 4)) * 0.1, *random.normal(size=(5, 4)) * 10):
        regret, bound = regret_and_bound(name, points, np.asarray(slopes), states, point)
        assert np.all(regret <= bound * (1 + 1e-12))
        ratios.append(np.max(regret / bound))
    assert max(ratios) > 0.1  # of the order of what it bounds, so that a step too long by ten would show


@pytest.mark.parametrize("name", ["dog", "dowg"])
@pytest.mark.parametrize("loss", [kinks, logistic_gap, bowl], ids=["kinks", "logistic", "bowl"])
def test_the_weighted_mean_of_dog_and_dowg_is_as_good_as_its_theorem_says(name, loss):
    minimum = jnp.asarray(2.0 * WAY)
    _, (points, grads, _, states) = trace(getattr(gdjax, name)(1e-4), loss, jnp.zeros(4), minimum, 1500)
    regret, bound = regret_and_bound(name, *map(np.asarray, (points, grads)), jax.tree.map(np.asarray, states), np.asarray(minimum))
    weights = np.asarray(states.distance ** (1 if name == "dog" else 2))
    total = np.cumsum(weights)
    means = np.cumsum(weights[:, None] * points, axis=0) / total[:, None]
    gaps = jax.vmap(lambda x: loss(x, minimum) - loss(minimum, minimum))(jnp.asarray(means))
    assert np.all(gaps <= bound / total * (1 + 1e-12))
    assert np.all(regret <= bound * (1 + 1e-12))
    if name == "dowg" and loss is bowl:  # smooth: Σ r̄²‖g‖² ≤ 2L Σ r̄² (f − f⋆), in the same lemma
        assert np.all(gaps <= 2 * SLOPES[0] * (bound / states.gradients) ** 2 / total * (1 + 1e-12))


@pytest.mark.parametrize("name", ["dog", "l_dog", "dowg"])
def test_the_average_reaches_dg_over_root_n_whatever_the_distance(name):
    """From a first step of 1e-8 to minima 1e-6 to 1e6 away, on losses of other units each: f(x̄) − f⋆ ≤ D G/√N at N = 2000."""
    rule, steps = getattr(gdjax, name)(1e-8), 2000
    far, sizes = 10.0 ** np.arange(-6, 7), 10.0 ** -np.arange(-6, 7)[::-1] * 7.0

    def gap(distance, size):
        minimum = distance * jnp.asarray(WAY)
        (x, state), _ = trace(rule, kinks, jnp.zeros(4), minimum, steps, size)
        return kinks(gdjax.eval_params(rule, state, x), minimum, size)

    gaps = np.asarray(jax.vmap(gap)(jnp.asarray(far), jnp.asarray(sizes)))
    assert np.all(gaps <= far * sizes * np.linalg.norm(SLOPES) / np.sqrt(steps))


SCALE_FREE = {
    "dog": lambda unit: gdjax.dog(1e-3 * unit),
    "l_dog": lambda unit: gdjax.l_dog(1e-3 * unit),
    "dowg": lambda unit: gdjax.dowg(1e-3 * unit),
    "d_adaptation": lambda unit: gdjax.d_adaptation(first_distance=1e-3 * unit),
    "prodigy": lambda unit: gdjax.prodigy(first_distance=1e-3 * unit, eps=0.0),
}


@pytest.mark.parametrize("name", SCALE_FREE)
@pytest.mark.parametrize("size", [1e-20, 1e-6, 1e6, 1e20])
def test_the_units_of_the_loss_do_not_matter(name, size):
    rule, minimum = SCALE_FREE[name](1.0), jnp.asarray(WAY)
    _, (path, *_) = trace(rule, bowl, jnp.zeros(4), minimum, 60)
    _, (other, *_) = trace(rule, bowl, jnp.zeros(4), minimum, 60, size)
    assert np.abs(path).max() > 0.1
    np.testing.assert_allclose(other, path, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SCALE_FREE)
@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_the_units_of_the_params_are_those_of_the_first_distance(name, unit):
    _, (path, *_) = trace(SCALE_FREE[name](1.0), kinks, jnp.zeros(4), jnp.asarray(WAY), 60)
    _, (other, *_) = trace(SCALE_FREE[name](unit), kinks, jnp.zeros(4), unit * jnp.asarray(WAY), 60)
    np.testing.assert_allclose(other / unit, path, rtol=1e-9, atol=1e-12)


@convex
@pytest.mark.parametrize("coefficient", [1.0, 2.0])
def test_d_adaptation_never_takes_the_distance_for_more_than_it_is(loss, coefficient):
    """0 ≤ Σ a (f(x) − f⋆) ≤ −Σ a⟨g, s⟩ + ‖s‖ ‖x₀ − x⋆‖, as x = x₀ − s without momentum. Hence d ≤ c ‖x₀ − x⋆‖ at every step."""
    for far in (1e-3, 1.0, 1e3):
        minimum = far * jnp.asarray(WAY)
        rule = gdjax.d_adaptation(momentum=0.0, coefficient=coefficient, first_distance=1e-6)
        _, (_, _, _, states) = trace(rule, loss, jnp.zeros(4), minimum, 500)
        d = np.asarray(states.distance)
        assert np.all(np.diff(d) >= 0)
        assert d[-1] <= coefficient * far * (1 + 1e-9)
        assert d[-1] >= 0.3 * coefficient * far


@pytest.mark.parametrize("loss", [kinks, bowl, single], ids=["kinks", "bowl", "single"])
def test_the_weighted_mean_of_d_adaptation_is_as_good_as_its_theorem_says(loss):
    minimum = jnp.asarray(2.0 * WAY)
    _, (points, grads, values, states) = trace(gdjax.d_adaptation(momentum=0.0), loss, jnp.zeros(4), minimum, 400)
    a = np.asarray(states.learning_rate)
    bound = (4.0 + np.cumsum(a**2 * np.sum(np.asarray(grads) ** 2, axis=1))) / 2
    assert np.all(np.cumsum(a * np.asarray(values)) <= bound * (1 + 1e-12))
    np.testing.assert_allclose(np.asarray(points)[1:], -np.cumsum(a[:, None] * grads, axis=0)[:-1], rtol=1e-9, atol=1e-12)


KINDS = [{}, {"betas": (0.0, 0.9)}, {"bias_correction": True, "weight_decay": 1e-4}, {"coefficient": 2.0}, {"growth_rate": 1.5}]


@pytest.mark.one_in(3)
@convex
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_prodigy_never_takes_the_largest_change_for_more_than_it_is(loss, kind):
    """0 ≤ Σ w (f(x) − f⋆) ≤ −Σ w⟨g, x₀ − x⟩ + ‖s‖₁ ‖x₀ − x⋆‖_∞, whatever the steps. Hence d ≤ c ‖x₀ − x⋆‖_∞ at every step."""
    for far in (1e-3, 1.0, 1e3):
        minimum = far * jnp.asarray(WAY)
        _, (_, _, _, states) = trace(gdjax.prodigy(**kind), loss, jnp.zeros(4), minimum, 500)
        d, most = np.asarray(states.distance), kind.get("coefficient", 1.0) * float(jnp.max(jnp.abs(minimum)))
        assert np.all(np.diff(d) >= 0)
        assert d[-1] <= most * (1 + 1e-9)
        assert d[-1] >= 0.1 * most


def test_the_growth_rate_is_the_most_by_which_the_distance_grows():
    for rule in (gdjax.d_adaptation(momentum=0.0, growth_rate=1.1), gdjax.prodigy(growth_rate=1.1)):
        _, (_, _, _, states) = trace(rule, kinks, jnp.zeros(4), jnp.asarray(WAY), 300)
        growth = np.asarray(states.distance)[1:] / np.asarray(states.distance)[:-1]
        later = growth[np.argmax(growth > 1) + 1 :]  # Prodigy lets its first estimate through
        assert later.max() <= 1.1 * (1 + 1e-12)
        assert np.sum(later > 1.0999) > 50
        assert states.distance[-1] > 0.1


@pytest.mark.parametrize("power", range(-6, 7, 2))
def test_mechanic_forgives_a_learning_rate_wrong_by_a_million(power):
    """Gradient descent at 0.1 · 10^±6, in float32: the mean loss of the second half of 4000 steps is below 1% of the first."""
    with jax.enable_x64(False):
        rule, minimum = gdjax.mechanic(gdjax.sgd(0.1 * 10.0**power), weight_decay=0.0), jnp.asarray(3 * WAY, jnp.float32)
        _, (_, _, values, _) = trace(rule, bowl, jnp.full(4, 0.5, jnp.float32), minimum, 4000)
    assert np.mean(values[2000:]) < 0.01 * values[0]


def test_only_the_product_of_scale_and_learning_rate_matters_to_mechanic():
    minimum = jnp.asarray(WAY)
    ends = [
        trace(gdjax.mechanic(gdjax.sgd(2.0**k), first_scale=1e-4 * 2.0**-k, weight_decay=0.0), kinks, jnp.zeros(4), minimum, 100)[1][0] for k in (0, 30, -30)
    ]
    assert np.abs(ends[0]).max() > 0.1
    np.testing.assert_allclose(ends[1:], [ends[0]] * 2, rtol=1e-9, atol=1e-12)
