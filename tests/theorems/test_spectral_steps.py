"""Barzilai-Borwein steps: two-dimensional termination, linear rates, nonmonotone references, and what happens where curvature or numbers give out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from problems import offered
from representatives import paired
from theorems.worst_cases import quadratic

import gdjax
from gdjax.parts.spectral import STEPS, Pairs, shortest, spectral_step

REFERENCES = ("mean", "maximum", "last")
steps = pytest.mark.parametrize("step", STEPS)
references = pytest.mark.parametrize("kind", REFERENCES)


def run(rule, loss, x, count):
    """(points before each step, their values, states after it, stacked)."""

    def body(carry, _):
        x, state = carry
        grads, extra = offered(loss, x)
        updates, new = rule.update(grads, state, x, **extra)
        return (x + updates, new), (x, extra["value"], new)

    return jax.jit(lambda x: jax.lax.scan(body, (x, rule.init(x)), length=count)[1])(jnp.asarray(x))


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


@pytest.mark.usefixtures("x64")
def test_two_pairs_give_the_larger_of_two_curvatures_whatever_the_steps_were():
    """T12: 1/a₂ = T − P a₁, so Huang, Dai, Liu, Zhang's step is 1/λ_max of any quadratic in two dimensions, to 12 digits."""
    for seed in range(300):
        random = np.random.default_rng(seed)
        high = 10 ** random.uniform(-3, 3)
        curvatures = high * np.array([10 ** random.uniform(-3, -0.1), 1.0])
        weights = random.uniform(0.02, 0.98, size=2)  # of the smaller curvature in ‖g‖²
        if abs(weights[0] - weights[1]) < 0.01:
            continue
        squares = np.stack([weights, 1 - weights], axis=1)
        long = 1 / (squares @ curvatures)
        short = squares @ curvatures / (squares @ curvatures**2)
        np.testing.assert_allclose(1 / short, curvatures.sum() - curvatures.prod() * long, rtol=1e-12)
        pairs = Pairs(jnp.asarray(long[0]), jnp.asarray(short[:1]), jnp.asarray(0.2))
        np.testing.assert_allclose(shortest(pairs, long[1], short[1]) * high, 1.0, rtol=1e-12 / (1 - curvatures[0] / high) ** 2)


@pytest.mark.parametrize(
    ("step", "ratio", "expected"),
    [("bb1", 0.9, 1.0), ("bb2", 0.9, 0.8), ("alternate", 0.9, 1.0), ("abbmin", 0.9, 0.1), ("abbmin", 0.7, 1.0), ("bbq", 0.9, 0.5), ("bbq", 0.7, 1.0)],
)
def test_which_of_its_steps_is_taken(step, ratio, expected):
    """a₁ = 1, a₂ = 0.8; before them 2 and 0.5, and 0.1 longer ago; the root is 0.868."""
    pairs = Pairs(jnp.float32(2.0), jnp.float32([0.5, 0.1, 0, 0, 0, 0, 0, 0, 0]), jnp.float32(ratio))
    a, convex, new = spectral_step(step, pairs, jnp.float32(1), jnp.sqrt(jnp.float32(1.25)), jnp.float32(1), jnp.int32(3))
    np.testing.assert_allclose(a, expected, rtol=1e-6)
    assert convex
    np.testing.assert_allclose(shortest(pairs, 1.0, 0.8), 2 / (0.5 + np.sqrt(3.25)), rtol=1e-6)
    np.testing.assert_allclose(new.shorts[:3], [0.8, 0.5, 0.1], rtol=1e-6)
    np.testing.assert_allclose(new.ratio, ratio / 1.02 if ratio > 0.8 else ratio * 1.02, rtol=1e-6)
    a, convex, same = spectral_step(step, pairs, jnp.float32(3), jnp.float32(1), jnp.float32(-0.5), jnp.int32(3))
    assert a == 30
    assert not convex
    np.testing.assert_array_equal(same.shorts, pairs.shorts)


@pytest.mark.one_in(3)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_bbq_ends_on_two_curvatures(scale):
    """The third step is 1/λ_max, so that one curvature is left, and the fifth, the first whose pair has met it alone, is one over that."""
    loss, start = quadratic(scale * np.array([0.01, 1.0]), [3.0, -1.0]), [303.0, 0.0]
    _, values, states = run(gdjax.barzilai_borwein(first_learning_rate=0.01 / scale), loss, start, 7)
    np.testing.assert_allclose(states.learning_rate[jnp.array([2, 4])] * scale, [1.0, 100.0], rtol=1e-10)
    assert values[5] <= 1e-20 * values[0]
    others = [run(gdjax.barzilai_borwein(step, first_learning_rate=0.01 / scale), loss, start, 7)[1] for step in ("bb1", "bb2")]
    assert all(other[5] >= 1e-6 * values[0] for other in others)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("step", ["bb1", "bb2"])
def test_superlinear_in_two_dimensions(step):
    """Barzilai and Borwein 1988: the digits of ‖g‖ grow geometrically, by √2 a step; with a third curvature by a number a step."""
    digits = {}
    for curvatures in (np.array([0.1, 1.0]), np.array([0.1, 0.3, 1.0])):
        rule = gdjax.barzilai_borwein(step, first_learning_rate=1.2, reference="maximum")
        points, _, _ = run(rule, quadratic(curvatures, 0 * curvatures), 1.0 + np.arange(len(curvatures)), 10)
        digits[len(curvatures)] = -np.log10(np.linalg.norm(np.asarray(points) * curvatures, axis=1))
    assert digits[2][6] >= 2**1.5 * digits[2][3] > 2**1.5
    assert digits[2][9] >= 2**1.5 * digits[2][6]
    assert digits[3][9] <= 4


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("step", "kind"), paired(STEPS, REFERENCES))
def test_linear_on_quadratics_of_any_condition_number(step, kind):
    """Dai and Liao 2002 (R-linear), Zhang and Hager 2004: κ = 1000; gradient descent at its best needs κ ln(1e8)/2 = 9200 steps to 1e-8 of ‖g‖.

    Descent at every step spoils the long steps: "bb1" with "last" alone takes longer.
    """
    curvatures = np.geomspace(1e-3, 1, 30)
    loss = quadratic(curvatures, np.linspace(-1, 2, 30))
    points, values, states = run(gdjax.barzilai_borwein(step, reference=kind), loss, np.linspace(3, 4, 30) / curvatures**0.5, 1500)
    norms = np.linalg.norm((np.asarray(points) - np.linspace(-1, 2, 30)) * curvatures, axis=1)
    reached = int(np.argmax(norms <= 1e-8 * norms[0]))
    if (step, kind) == ("bb1", "last"):
        assert values.min() <= 1e-4 * values[0]
    else:
        assert 0 < states.evaluations[reached] <= (2000 if step == "bb1" else 1000)
        assert values.min() <= 1e-16 * values[0]


@pytest.mark.usefixtures("x64")
@references
def test_every_step_keeps_to_its_reference(kind):
    """f(x₊) ≤ r − c a ‖g‖², with r once more from its definition; "last" never rises, the others do."""
    points, values, states = run(gdjax.barzilai_borwein("bb1", reference=kind, memory=0.9, sufficient=1e-3), rosenbrock, [-1.2, 1.0], 60)
    values, a = np.asarray(values), np.asarray(states.learning_rate)
    norms = np.linalg.norm(jax.vmap(jax.grad(rosenbrock))(points), axis=1)
    rises = 0
    for k in range(59):
        highest = {"mean": reference.mean_of(values[: k + 1], 0.9), "maximum": values[max(k - 9, 0) : k + 1].max(), "last": values[k]}[kind]
        assert values[k + 1] <= highest - 1e-3 * a[k] * norms[k] ** 2 + 1e-14
        rises += values[k + 1] > values[k]
    assert (rises == 0) == (kind == "last")
    np.testing.assert_allclose(np.asarray(states.value)[:-1], values[1:], rtol=1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("step", "kind"), paired(STEPS, REFERENCES))
def test_equals_its_transcription_with_every_option(step, kind):
    curvatures = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 0.1]]) + 0.4 * np.eye(3)

    class Oracle:
        def __call__(self, x):
            return curvatures @ x + np.sinh(x - 1)

        def value(self, x):
            return x @ curvatures @ x / 2 + np.cosh(x - 1).sum()

    loss = lambda x: x @ jnp.asarray(curvatures) @ x / 2 + jnp.sum(jnp.cosh(x - 1))  # noqa: E731
    start = np.array([4.0, -3.0, 2.0])
    rule = gdjax.barzilai_borwein(step, reference=kind, first_learning_rate=0.5)
    points, _, states = run(rule, loss, start, 16)
    np.testing.assert_allclose(points, reference.barzilai_borwein(Oracle(), start, 15, **rule.arguments), rtol=1e-10, atol=1e-12)
    assert states.evaluations[-1] > 16, "nothing was shortened"


@steps
def test_leaves_a_maximum(step):
    """Where ⟨s, y⟩ ≤ 0 steps lengthen: from 1e-4 beside a maximum to a minimum at distance 1, in float32."""
    loss = lambda x: jnp.sum((x**2 - 1) ** 2) / 4  # noqa: E731
    result = gdjax.minimize(loss, jnp.array([1e-4, -2e-4, 3e-3]), gdjax.barzilai_borwein(step), stop=gdjax.stop.target(1e-10), max_steps=30)
    assert result.value <= 1e-10
    assert result.evaluations <= 40


@pytest.mark.usefixtures("x64")
def test_after_a_step_along_which_the_slope_steepens_the_next_goes_on_until_it_does_not():
    """From beside a maximum of a cosine with a step far too short: wherever ⟨s, y⟩ ≤ 0, the step that follows has ⟨g₊, g⟩ ≤ 0.9 ‖g‖²."""
    loss = lambda x: jnp.sum(jnp.cos(x))  # noqa: E731
    points, values, _ = run(gdjax.barzilai_borwein(first_learning_rate=1e-3), loss, [1e-6, -2e-6], 30)
    grads = -np.sin(np.asarray(points))
    concave = np.sum((points[1:] - points[:-1]) * (grads[1:] - grads[:-1]), axis=1) <= 0
    assert concave[0]
    for k in np.flatnonzero(concave[:-1]) + 1:
        assert grads[k + 1] @ grads[k] <= 0.9 * grads[k] @ grads[k]
    assert values[-1] <= -2 + 1e-6


@pytest.mark.usefixtures("x64")
def test_units_do_not_matter():
    """Loss times 2⁴⁰ and params times 2⁻²⁰, the first learning rate with them: the same path."""
    plain = run(gdjax.barzilai_borwein(first_learning_rate=1e-3), rosenbrock, [-1.2, 1.0], 80)[0]
    loss = lambda x: rosenbrock(x * 2.0**20) * 2.0**40  # noqa: E731
    scaled = run(gdjax.barzilai_borwein(first_learning_rate=1e-3 * 2.0**-80), loss, np.array([-1.2, 1.0]) * 2.0**-20, 80)[0]
    np.testing.assert_allclose(scaled * 2.0**20, plain, rtol=1e-6)  # the path is unstable: the last digit comes to 1e-10 here


def test_a_search_that_finds_nothing_is_not_repeated_for_ever():
    start = jnp.array([1.0, 2.0])
    loss = lambda x: jnp.where(jnp.all(x == start), jnp.sum(x), jnp.nan)  # noqa: E731
    result = gdjax.minimize(loss, start, gdjax.barzilai_borwein(), max_steps=1000)
    np.testing.assert_array_equal(result.params, start)
    assert result.status == gdjax.Status.STALLED
    assert result.evaluations <= 40


def test_float32_goes_down_to_its_floor():
    """Rosenbrock's values there are far below rounding of those that led there."""
    result = gdjax.minimize(rosenbrock, jnp.array([-1.2, 1.0]), gdjax.barzilai_borwein(), tol=1e-4, max_steps=500)
    assert result.converged
    assert result.value <= 1e-7


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: gdjax.barzilai_borwein("bb3"), "step is 'bb3'; wanted one of"),
        (lambda: gdjax.barzilai_borwein(reference="least"), "reference is 'least'; wanted one of"),
        (lambda: gdjax.barzilai_borwein(memory=1.5), "memory is 1.5; wanted 0 ≤ memory ≤ 1"),
        (lambda: gdjax.barzilai_borwein(sufficient=0.0), "sufficient is 0.0; wanted 0 < sufficient < 1"),
        (lambda: gdjax.barzilai_borwein(first_learning_rate=-1.0), "first_learning_rate is -1.0; wanted a number > 0"),
    ],
)
def test_says_what_it_wants(make, wanted):
    with pytest.raises(ValueError, match=wanted):
        make()


def test_a_lane_that_fails_fails_alone():
    def loss(x, wall):
        return jnp.where(x[0] > wall, jnp.nan, jnp.sum((x - 3) ** 2 * jnp.array([1.0, 10.0])) + x[0])

    minimize = lambda wall: gdjax.minimize(lambda x: loss(x, wall), jnp.array([1.0, 5.0]), gdjax.barzilai_borwein(), max_steps=40)  # noqa: E731
    walls = jnp.array([jnp.inf, 1.0, 2.5])
    both = jax.vmap(minimize)(walls)
    for lane, wall in enumerate(walls):
        np.testing.assert_allclose(both.params[lane], minimize(wall).params, rtol=1e-5)
    np.testing.assert_allclose(both.params[0], [2.5, 3.0], rtol=1e-4)
    assert both.params[1][0] <= 1.0


def test_in_a_chain_the_clipped_gradient_is_followed():
    rule = gdjax.chain(gdjax.rule(optax.clip_by_global_norm)(1.0), gdjax.barzilai_borwein())
    result = gdjax.minimize(rosenbrock, jnp.array([-1.2, 1.0]), rule, max_steps=400)
    assert result.value <= 1e-6
