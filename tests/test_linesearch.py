"""The line search against the conditions it claims, judged in float64 NumPy, on lines made to break it."""

import functools

import hypothesis
import hypothesis.strategies as some
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from representatives import paired

from gdjax.linesearch import Conditions, average_of, first_step, grippo, search, zhang_hager

KINDS = {
    "armijo": Conditions(),
    "half": Conditions(0.5),
    "weak": Conditions(1e-4, 0.9),
    "weak 0.1": Conditions(1e-4, 0.1),
    "strong": Conditions(1e-4, 0.9, True),
    "strong 0.1": Conditions(1e-4, 0.1, True),
    "hager_zhang": Conditions(0.1, 0.9, False, 1e-6),
}
LINES = {  # (loss of x, x); the direction is −g
    "quadratic": (lambda x: x**2, 5.0),
    "steep": (lambda x: 1e12 * x**2, 1.0),
    "shallow": (lambda x: 1e-12 * x**2, 1.0),
    "barrier": (lambda x: -jnp.log(x) + x, 0.01),  # NaN beyond 0, going right
    "wall of NaN": (lambda x: -x + jnp.where(x < 0.3, x**2, jnp.nan), 0.0),
    "wall of inf": (lambda x: (x - 0.2) ** 2 + jnp.where(x < 0.3, 0.0, jnp.inf), 0.0),
    "wiggles": (lambda x: x**2 / 50 + jnp.sin(5 * x), 3.0),
    "kink": (lambda x: jnp.abs(x - 0.3), 7.0),
    "cosh": (lambda x: jnp.cosh(x), 300.0),
    "quartic": (lambda x: (x - 2) ** 4, -10.0),
    "flat valley": (lambda x: jnp.log1p(x**2), 50.0),
    "saturating": (lambda x: jax.nn.softplus(-x), -40.0),
}
STEPS = [1e-12, 1e-3, 1.0, 1e12]
f64 = pytest.mark.usefixtures("x64")
every_kind = pytest.mark.parametrize("kind", KINDS)


def begin(loss, x):
    value, grad = jax.value_and_grad(loss)(x)
    return value, grad, jax.tree.map(jnp.negative, grad)


def found_on(loss, x, initial, conditions, direction=None, reference=None):
    x = jnp.asarray(x)
    value, grad, downhill = begin(loss, x)
    d = downhill if direction is None else direction
    return search(jax.value_and_grad(loss), x, d, value, grad, initial, reference=reference, conditions=conditions)


def assert_same(one, other, start, rtol):
    """Equal to rounding: that of the value and gradient where the search began, from which they fell."""
    value, grad, _ = start
    units = {"value": abs(value), "grad": abs(grad), "slope": grad**2}
    assert (one.accepted, one.evaluations) == (other.accepted, other.evaluations)
    for name in ("step", *units):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, atol=1e-12 * units.get(name, 0), err_msg=name)


def line(loss, x):
    """φ and φ' along −g in float64."""
    x = jnp.float64(x)
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    g = float(value_and_grad(x)[1])
    return lambda a: (float(value_and_grad(x - a * g)[0]), -float(value_and_grad(x - a * g)[1]) * g)


def holds(conditions, phi, a):
    """(decrease, curvature) at a, from the definitions; rounding of 20 units allowed."""
    (f, s), (fa, sa), c = phi(0.0), phi(a), conditions
    rounding = 20 * 2.0**-52 * abs(f)
    armijo = fa <= f + c.sufficient * a * s + rounding
    approximate = fa <= f + max(c.slack, 10 * 2.0**-52) * abs(f) + rounding and sa <= -0.8 * s
    steepest = c.curvature and c.curvature * abs(s) * (1 + 1e-9)
    curved = c.curvature is None or (abs(sa) <= steepest if c.strong else sa >= -steepest)
    return armijo or approximate, curved


@f64
@pytest.mark.parametrize(("kind", "name"), paired(KINDS, LINES))
def test_what_is_accepted_satisfies_what_is_claimed(kind, name):
    (loss, x), conditions = LINES[name], KINDS[kind]
    phi, run = line(loss, x), jax.jit(lambda initial: found_on(loss, x, initial, conditions))
    scale = abs(phi(0.0)[1]) ** 0.5
    for share in STEPS:
        found = run(share / max(1.0, scale))
        assert bool(found.accepted), share
        decreased, curved = holds(conditions, phi, float(found.step))
        assert decreased, (share, found.step)
        ends_early = name == "flat valley" and share == 1e12  # the trials run out: the decrease alone holds
        if name not in ("kink", "wall of NaN", "wall of inf", "saturating") and not ends_early:  # there a point that satisfies both may not exist
            assert curved, (share, found.step)
        for ours, theirs, unit in zip((found.value, found.slope), phi(float(found.step)), phi(0.0), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * max(abs(unit), 1e-20))
        assert 1 <= found.evaluations <= conditions.max_evaluations + 1


@f64
@pytest.mark.parametrize("name", ["quadratic", "barrier", "quartic", "flat valley", "wiggles"])
def test_strong_wolfe_points_are_those_of_scipy(name):
    """SciPy, given the same constants and no step but ours to judge, and its own points by our definition."""
    optimize = pytest.importorskip("scipy.optimize")
    (loss, x), conditions = LINES[name], Conditions(1e-4, 0.4, True)
    phi = line(loss, x)
    a = float(found_on(loss, x, 1.0, conditions).step)
    value, grad = (lambda x: float(loss(x[0]))), (lambda x: np.array([float(jax.grad(loss)(x[0]))]))
    theirs = optimize.line_search(value, grad, np.array([x]), -grad(np.array([x])), c1=1e-4, c2=0.4, maxiter=50)[0]
    assert all(holds(conditions, phi, a))
    if theirs is not None:
        assert all(holds(conditions, phi, theirs))
        assert phi(a)[0] <= phi(0.0)[0]


NOTHING = {
    "ascent": (lambda x: x**2, 5.0, 1.0, 1.0, 0),  # (loss, x, d, first trial, evaluations; None: some)
    "flat direction": (lambda x: x**2, 5.0, 0.0, 1.0, 0),
    "NaN here": (lambda x: x * jnp.nan, 5.0, -1.0, 1.0, 0),
    "NaN trial": (lambda x: x**2, 5.0, -1.0, jnp.nan, 0),
    "zero trial": (lambda x: x**2, 5.0, -1.0, 0.0, 0),
    "infinite trial": (lambda x: x**2, 5.0, -1.0, jnp.inf, 0),
    "NaN everywhere else": (lambda x: jnp.where(x == 5.0, -x, jnp.nan), 5.0, 1.0, 1.0, None),
    "higher everywhere else": (lambda x: jnp.where(x == 5.0, -x, 10.0 - x), 5.0, 1.0, 1.0, None),
}


@pytest.mark.one_in(3)
@f64
@pytest.mark.parametrize("name", NOTHING)
@every_kind
def test_where_nothing_is_acceptable_nothing_moves(name, kind):
    loss, x, d, initial, evaluations = NOTHING[name]
    value, grad, _ = begin(loss, jnp.float64(x))
    grad = jnp.where(jnp.isnan(grad), 1.0, grad) if name == "NaN here" else grad
    if "else" in name:
        grad = jnp.float64(-1.0)
    found = search(jax.value_and_grad(loss), jnp.float64(x), jnp.float64(d), value, grad, initial, conditions=KINDS[kind])
    assert not found.accepted
    assert found.step == 0
    np.testing.assert_array_equal(found.value, value)
    np.testing.assert_array_equal(found.grad, grad)
    if evaluations is None:
        assert 1 <= found.evaluations <= KINDS[kind].max_evaluations
    else:
        assert found.evaluations == evaluations


@f64
@every_kind
def test_a_line_without_a_floor_gives_a_long_step_and_ends(kind):
    found = found_on(lambda x: -x, 0.0, 1.0, KINDS[kind])
    assert bool(found.accepted)
    assert found.evaluations <= KINDS[kind].max_evaluations + 1
    assert found.step >= (1.0 if KINDS[kind].curvature is None else 1e20)


@f64
@every_kind
def test_a_constant_is_left_alone(kind):
    found = found_on(lambda x: 0.0 * x + 3.0, 2.0, 1.0, KINDS[kind])
    assert (bool(found.accepted), int(found.evaluations), float(found.step)) == (False, 0, 0.0)


@f64
@pytest.mark.parametrize("kind", ["armijo", "hager_zhang", "weak"])
def test_under_the_floor_of_rounding_slopes_are_believed(kind):
    """f + 1e16: a decrease of 25 is a dozen units of rounding, of 0.01 none; the slope still tells."""
    for x in (5.0, 0.1):
        found = found_on(lambda x: x**2 + 1e16, x, 0.3, KINDS[kind])
        assert bool(found.accepted)
        assert abs(x - float(found.step) * 2 * x) < abs(x)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@every_kind
def test_low_precision_goes_down_to_its_floor(dtype, kind):
    loss = lambda x: jnp.sum((x - 1.0) ** 2 * jnp.array([1.0, 10.0], x.dtype)) + jnp.asarray(1.0, x.dtype)  # noqa: E731
    x = jnp.array([3.0, -2.0], dtype)

    @jax.jit
    def descend(x):
        value, grad, d = begin(loss, x)
        return search(jax.value_and_grad(loss), x, d, value, grad, first_step(x, grad), conditions=KINDS[kind]), d

    for _ in range(60):
        found, d = descend(x)
        assert found.grad.dtype == x.dtype
        assert found.step.dtype == found.value.dtype == jnp.float32
        x = x + found.step.astype(x.dtype) * d
    np.testing.assert_allclose(np.asarray(x, np.float32), 1.0, atol=1e-3 if dtype == "float32" else 0.1)


@pytest.mark.one_in(2)
@f64
@pytest.mark.parametrize(("kind", "name"), paired(["armijo", "strong 0.1"], LINES))
def test_evaluations_are_counted_as_they_are_made(kind, name):
    loss, x = LINES[name]
    calls = []

    def counted(x):
        calls.append(float(x))
        return np.float64(loss(x)), np.float64(jax.grad(loss)(x))

    shapes = (jax.ShapeDtypeStruct((), jnp.float64),) * 2
    value, grad, d = begin(loss, jnp.float64(x))
    found = search(lambda x: jax.pure_callback(counted, shapes, x), jnp.float64(x), d, value, grad, 1.0, conditions=KINDS[kind])
    jax.block_until_ready(found)
    assert len(calls) == found.evaluations
    assert found.accepted
    np.testing.assert_allclose(calls[-1], x + float(found.step) * float(d), rtol=1e-12, atol=1e-15 * abs(x))


@f64
def test_lanes_fail_alone():
    loss = lambda x: jnp.where(x > 100, jnp.nan, x**2)  # noqa: E731
    run = lambda x, initial, sign: search(jax.value_and_grad(loss), x, -sign * 2 * x, loss(x), 2 * x, initial, conditions=KINDS["strong 0.1"])  # noqa: E731
    lanes = jnp.array([5.0, 5.0, 1e-3, -7.0, 5.0]), jnp.array([1.0, 1.0, 1e9, jnp.nan, 1e-9]), jnp.array([1.0, -1.0, 1.0, 1.0, 1.0])
    mapped = jax.vmap(run)(*lanes)
    assert mapped.accepted.tolist() == [True, False, True, False, True]
    for i in range(5):
        alone = run(*(x[i] for x in lanes))
        assert_same(jax.tree.map(lambda x, i=i: x[i], mapped), alone, begin(loss, lanes[0][i]), rtol=1e-12)


@pytest.mark.one_in(2)
@f64
@pytest.mark.parametrize("name", LINES)
def test_jit_changes_nothing(name):
    loss, x = LINES[name]
    run = lambda initial: found_on(loss, x, initial, KINDS["weak 0.1"])  # noqa: E731
    assert_same(jax.jit(run)(0.7), run(0.7), begin(loss, jnp.asarray(x)), rtol=1e-9)


def test_an_empty_tree_has_nothing_to_search():
    found = search(lambda x: (jnp.float32(0), x), {}, {}, jnp.float32(0), {}, 1.0)
    assert (bool(found.accepted), int(found.evaluations), found.grad) == (False, 0, {})


@f64
def test_a_reference_above_the_value_lets_the_loss_rise_so_far_and_no_further():
    loss = lambda x: x**2  # noqa: E731
    for reference, reach in ((25.0, 5.0), (36.0, 6.0), (400.0, 20.0)):
        found = found_on(loss, 5.0, 1.05, Conditions(), reference=reference)
        assert found.value <= reference
        assert (found.step == 1.05) == (abs(5.0 - 1.05 * 10) <= reach)


@f64
@pytest.mark.parametrize("memory", [0.0, 0.5, 0.85, 1.0])
def test_the_mean_is_that_of_zhang_and_hager(memory):
    """C_{k+1} = (η Q_k C_k + f_{k+1})/Q_{k+1}, Q_{k+1} = η Q_k + 1, (2.1) of their paper: a convex combination of all values, newest first by weight."""
    values = np.random.default_rng(0).normal(size=12).cumsum()[::-1]
    values = np.sort(values)[::-1]  # falling, so that C is above f and not cut
    average = average_of(jnp.float64(jnp.nan))
    for count, value in enumerate(values, 1):
        average = zhang_hager(average, jnp.float64(value), memory)
        weights = memory ** np.arange(count)[::-1]
        np.testing.assert_allclose(average.mean, weights @ values[:count] / weights.sum(), rtol=1e-12)
        np.testing.assert_allclose(average.weight, weights.sum(), rtol=1e-12)
    assert zhang_hager(average, jnp.float64(1e3), memory).mean == 1e3, "never below the last value"


@f64
def test_the_maximum_is_that_of_the_last_values():
    values, ring = np.random.default_rng(1).normal(size=40), jnp.full(10, -jnp.inf)
    for step, value in enumerate(values):
        ring = grippo(ring, value, jnp.int32(step))
        assert float(ring.max()) == values[max(0, step - 9) : step + 1].max()


def test_the_first_step_moves_no_entry_by_more_than_one():
    grad = {"a": jnp.array([3.0, -40.0]), "b": jnp.float32(7.0)}
    np.testing.assert_allclose(first_step(grad, grad), 1 / 40, rtol=1e-6)
    for odd in (jnp.zeros(3), jnp.array([jnp.nan, 1.0]), jnp.array([jnp.inf])):
        assert first_step(odd, odd) == 1


@functools.cache
def on_polynomials(kind):
    """The search along −g from a point, for a polynomial of degree 4; compiled once."""
    return jax.jit(lambda coefficients, x, initial: found_on(lambda x: jnp.polyval(coefficients, x), x, initial, KINDS[kind]))


def searched(coefficients, x, initial, kind):
    """(found, φ and φ' by NumPy)."""
    slopes = np.polyder(coefficients)
    g = np.polyval(slopes, x)
    hypothesis.assume(abs(g) > 1e-3)
    with jax.enable_x64(True):
        found = on_polynomials(kind)(jnp.array(coefficients), x, initial)
    return found, lambda a: (np.polyval(coefficients, x - a * g), -np.polyval(slopes, x - a * g) * g)


kinds, numbers = some.sampled_from(sorted(KINDS)), some.lists(some.floats(-3, 3), min_size=3, max_size=3)


@hypothesis.given(numbers, kinds, some.integers(-6, 6), some.floats(0.1, 2.0))
def test_random_quartics(coefficients, kind, exponent, quartic):
    """Bounded below, several minima: whatever is accepted is what is claimed, and something is."""
    found, phi = searched(np.array([quartic, *coefficients, 0.0]), 1.5, 10.0**exponent, kind)
    assert bool(found.accepted)
    assert all(holds(KINDS[kind], phi, float(found.step)))


@hypothesis.given(numbers, kinds, some.integers(-3, 3))
def test_random_cubics(coefficients, kind, exponent):
    """Not bounded below: the decrease holds at least, and no search is endless."""
    found, phi = searched(np.array([0.0, *coefficients, 0.0]), 0.5, 10.0**exponent, kind)
    assert bool(found.accepted)
    assert holds(KINDS[kind], phi, float(found.step))[0]
    assert found.evaluations <= KINDS[kind].max_evaluations + 1
