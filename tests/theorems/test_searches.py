"""Armijo's search and accelerated descent with backtracking: what is proved of their steps, and their bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import offered
from theorems.worst_cases import huber, iterates, quadratic

import gdjax

pytestmark = pytest.mark.usefixtures("x64")


def states(rule, loss, x, steps):
    """All states after the steps, stacked, and the points where gradients were taken."""

    def body(carry, _):
        x, state = carry
        grads, extra = offered(loss, x)
        updates, state = rule.update(grads, state, x, **extra)
        return (x + updates, state), (state, x)

    x = jnp.asarray(x, jnp.float64)
    return jax.lax.scan(body, (x, rule.init(x)), length=steps)[1]


def wavy(convex, lengths, phases, share):
    """A function of one number with curvature in [−1, 1], or [0, 1]: sines of several lengths."""
    share = share * (0.5 if convex else 1.0)
    return lambda x: jnp.sum(share * lengths**2 * jnp.sin(x / lengths + phases)) + (x**2 / 4 if convex else 0.0)


@pytest.mark.parametrize("convex", [False, True])
@pytest.mark.parametrize("sufficient", [1e-4, 0.5, 0.9])
def test_no_armijo_step_is_shorter_than_its_bound(sufficient, convex):
    """L = 1: a ≥ min{a₀, 3/5, 1 − c}, 3/4 for 3/5 where convex, from the cubic's least possible minimiser and the safeguards."""
    random, bound = np.random.default_rng(0), min(0.75 if convex else 0.6, 1 - sufficient)
    lengths, phases, share = 10 ** random.uniform(-1, 1, (60, 6)), random.uniform(0, 6, (60, 6)), random.dirichlet(np.ones(6), 60)
    first, start = 10.0 ** random.uniform(-2, 8, 60), random.uniform(-20, 20, 60)

    def run(first, start, *shape):
        return states(gdjax.armijo(sufficient, first_learning_rate=first), wavy(convex, *shape), start, 12)[0]

    state = jax.jit(jax.vmap(run))(*map(jnp.asarray, (first, start, lengths, phases, share)))
    ratios = np.asarray(state.learning_rate) / np.minimum(first, bound)[:, None]
    # Where the gradient was below 1e-4 differences of values are rounding; at the start it is not.
    ratios = ratios[np.abs(np.concatenate([np.ones((60, 1)), np.asarray(state.grad)[:, :-1]], axis=1)) > 1e-4]
    assert 1 - 1e-6 <= ratios.min() < 2.5, "too short a step, or a bound that says nothing"


def test_each_search_is_as_short_as_the_bound_says():
    for first in (1e3, 1e6):
        rule = gdjax.armijo(first_learning_rate=first)
        state, _ = states(rule, lambda x: x**2 / 2, 1.0, 1)
        assert state.evaluations[0] < 2 + np.log(first) / np.log(5 / 4)


CONVEX = {
    "huber": (lambda x: huber(x, 0.02), 1.0, 1.0, 0.0),  # (loss, start, L, minimum)
    "quadratic": (lambda x: jnp.sum(jnp.geomspace(1e-5, 1, 30) * x**2) / 2, np.ones(30), 1.0, 0.0),
    "chain": (lambda x: ((x[0] - 1) ** 2 + jnp.sum((x[1:] - x[:-1]) ** 2) + x[-1] ** 2) / 8, np.zeros(80), 1.0, 1 / (8 * 81)),  # Nesterov's worst
    "logarithms of cosines": (lambda x: jnp.sum(jnp.logaddexp(5 * x, -5 * x) / 25 - np.log(2) / 25), np.array([3.0, -0.2, 9.0]), 1.0, 0.0),
}
MINIMA = {"chain": 1 - np.arange(1, 81) / 81}


def radius(name):
    start = np.asarray(CONVEX[name][1], np.float64)
    return np.sum((start - MINIMA.get(name, np.zeros_like(start))) ** 2)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CONVEX)
@pytest.mark.parametrize("sufficient", [0.2, 0.5, 0.8])
def test_armijo_is_as_fast_on_convex_losses_as_its_bound(name, sufficient):
    loss, start, _, lowest = CONVEX[name]
    rule, steps = gdjax.armijo(sufficient), 150
    state, points = states(rule, loss, start, steps)
    a, values = np.asarray(state.learning_rate), np.asarray(state.value) - lowest
    above = loss(jnp.asarray(start)) - lowest
    bounds = (radius(name) + max(1 / sufficient - 2, 0) * np.maximum.accumulate(a) * above) / (2 * np.cumsum(a))
    assert np.all(values <= bounds + 1e-14)
    assert np.all(np.diff(np.concatenate([[above], values])) <= 1e-14), "the loss rises"
    squares = np.asarray(jax.vmap(lambda x: jnp.sum(jax.grad(loss)(x) ** 2))(points[:19]))
    assert squares.min() <= above / (sufficient * a[1:20].sum())


def test_nonmonotone_references_let_the_loss_rise_and_go_down_all_the_same():
    loss = lambda x: jnp.sum((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2)  # noqa: E731
    for reference, rises in (("last", False), ("mean", True), ("maximum", True)):
        values = np.asarray(states(gdjax.armijo(reference=reference), loss, np.array([-1.2, 1.0]), 200)[0].value)
        assert (np.diff(values).max() > 0) == rises
        assert values[-1] < 0.5


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CONVEX)
@pytest.mark.parametrize("first", [None, 1e-8, 1e8])
def test_accelerated_keeps_its_bound(name, first):
    """f(x_N) − f⋆ ≤ 2R²/(m(N + 1)²), m = min{h₁, 0.8/L} the least h, and 0.4/L at the very least."""
    loss, start, smoothness, lowest = CONVEX[name]
    rule, steps = gdjax.accelerated(first, restart=None), 200
    state, _ = states(rule, loss, start, steps)
    values, h, n = np.asarray(jax.vmap(loss)(state.x)) - lowest, np.asarray(state.learning_rate), np.arange(1, steps + 1)
    live = values > 1e-12
    assert h[live].min(initial=np.inf) >= 0.4 / smoothness * (1 - 1e-9)
    with np.errstate(divide="ignore"):  # once nothing below can be found, the step is 0
        assert np.all(values <= 2 * radius(name) / (np.minimum.accumulate(h) * (n + 1) ** 2) + 1e-13)
    assert np.all(values <= 2 * radius(name) / (0.4 / smoothness * (n + 1) ** 2) + 1e-13)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("restart", ["gradient", "function"])
@pytest.mark.parametrize("kappa", [1e2, 1e4])
def test_restarts_give_a_linear_rate_without_knowledge_of_the_curvatures(restart, kappa):
    """As nesterov with L and μ known, (1 − 1/√κ)^N, in at most three times its steps; without restarts the same number of steps is not enough."""
    loss, start = quadratic(np.geomspace(1 / kappa, 1, 40), np.zeros(40)), np.ones(40)
    steps = int(3 * np.sqrt(kappa) * np.log(1e8))
    steps = min(steps, 6000)
    factor = np.exp(-steps / (3 * np.sqrt(kappa)))
    final = {rule: float(loss(states(gdjax.accelerated(restart=rule), loss, start, steps)[0].x[-1])) for rule in (restart, None)}
    assert final[restart] <= 10 * factor * (float(loss(jnp.ones(40))) + 20 / kappa)
    if kappa <= 1e4:
        assert final[restart] < 1e-2 * final[None]


def test_restarting_by_the_function_never_raises_the_loss_at_x():
    loss, start = quadratic(np.geomspace(1e-4, 1, 40), np.zeros(40)), np.ones(40)
    state, _ = states(gdjax.accelerated(restart="function"), loss, start, 600)
    values = np.asarray(jax.vmap(loss)(state.x))
    assert np.all(np.diff(values) <= 1e-14 * values[0])
    np.testing.assert_allclose(state.lowest, values, rtol=1e-9, atol=1e-15)


def test_the_learning_rate_follows_a_curvature_that_falls():
    """Curvature 1 at first, 1e-4 later: h grows by a tenth a step, and ends above 1e3."""
    loss = lambda x: jnp.sum(huber(x[:1], 1e-3)) + jnp.sum(1e-4 * x[1:] ** 2 / 2)  # noqa: E731
    state, _ = states(gdjax.accelerated(), loss, np.array([1e-4, 1e3]), 200)
    assert state.learning_rate.max() > 1e3


def test_a_wall_of_nan_is_not_run_into():
    """y beyond the wall is drawn back to x: no value or gradient handed on is NaN."""
    loss = lambda x: x - 1e-3 * jnp.log(1.0 - x) + 4 * (x - 0.999) ** 2 - x  # noqa: E731
    for rule in (gdjax.accelerated(), gdjax.accelerated(restart="function"), gdjax.accelerated(restart=None), gdjax.armijo(), gdjax.nonlinear_cg()):
        points = iterates(rule, loss, -3.0, 100)[1]
        assert np.all(np.isfinite(jax.vmap(loss)(points)))
        assert abs(jax.grad(loss)(points[-1])) < 1e-3 * abs(jax.grad(loss)(points[0]))
