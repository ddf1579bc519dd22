"""Nonlinear conjugate gradients: linear ones on quadratics, to the digit and to the end; sufficient descent everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import offered
from representatives import paired
from theorems.worst_cases import iterates, quadratic

import gdjax

pytestmark = pytest.mark.usefixtures("x64")
BETAS = ("hager_zhang", "polak_ribiere", "fletcher_reeves", "hestenes_stiefel", "dai_yuan")
every_beta = pytest.mark.parametrize("beta", BETAS)


def exact(beta):
    return gdjax.nonlinear_cg(beta, strong=True, curvature=1e-10, sufficient=1e-12)


def linear(hessian, minimum, x, steps):
    """Hestenes and Stiefel 1952, in NumPy."""
    residual = -hessian @ (x - minimum)
    direction, path = residual, [x]
    for _ in range(steps):
        a = residual @ residual / (direction @ hessian @ direction)
        x, after = x + a * direction, residual - a * hessian @ direction
        direction, residual = after + after @ after / (residual @ residual) * direction, after
        path.append(x)
    return np.stack(path)


def bowl(n, kappa, seed):
    """(loss, Hessian, minimum): a dense quadratic with curvatures from 1/κ to 1."""
    random = np.random.default_rng(seed)
    basis, curvatures, minimum = np.linalg.qr(random.normal(size=(n, n)))[0], np.geomspace(1 / kappa, 1, n), random.normal(size=n)
    hessian = (basis * curvatures) @ basis.T
    return lambda x: (x - jnp.asarray(minimum)) @ jnp.asarray(hessian) @ (x - jnp.asarray(minimum)) / 2, hessian, minimum


@every_beta
def test_an_exact_search_on_a_quadratic_gives_linear_conjugate_gradients(beta):
    loss, hessian, minimum = bowl(8, 30.0, 1)
    start = np.random.default_rng(2).normal(size=8) * 5
    ours, theirs = iterates(exact(beta), loss, start, 6)[0], linear(hessian, minimum, start, 6)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert np.abs(theirs[5] - theirs[6]).max() > 1e-3, "nothing left to compare"


@pytest.mark.parametrize(("beta", "n"), paired(BETAS, [1, 2, 5, 8]))
def test_ends_after_n_steps_on_a_quadratic(beta, n):
    loss, hessian, minimum = bowl(n, 10.0, n)
    start = minimum + np.linalg.eigh(hessian)[1] @ np.ones(n)
    values = jax.vmap(loss)(iterates(exact(beta), loss, start, n)[0])
    assert values[n] <= 1e-13 * values[0]
    assert values[n - 1] > 1e-6 * values[0], "it ends before its time: the start excites too few curvatures"


@every_beta
def test_as_many_steps_as_there_are_different_curvatures(beta):
    values = jax.vmap(quadratic([1.0, 1, 1, 0.2, 0.2, 0.05], np.zeros(6)))(
        iterates(exact(beta), quadratic([1.0, 1, 1, 0.2, 0.2, 0.05], np.zeros(6)), np.array([3.0, -2, 1, 5, 4, 9]), 3)[0]
    )
    assert values[3] <= 1e-13 * values[0] < values[2]


@pytest.mark.one_in(2)
@every_beta
def test_bounds_on_quadratics(beta):
    """f(x_N) − f⋆ ≤ L R²/(2θ_N²), by the optimality of conjugate gradients among all methods, ``ogm`` included; and Chebyshev's 4 ρ^{2N}."""
    steps, theta = 20, [1.0]
    for k in range(steps):
        theta.append((1 + np.sqrt((8 if k == steps - 1 else 4) * theta[-1] ** 2 + 1)) / 2)
    for seed, kappa in ((0, 1e2), (1, 1e4), (2, 1e6)):
        loss, _, minimum = bowl(60, kappa, seed)
        start = np.random.default_rng(seed).normal(size=60)
        values = jax.vmap(loss)(iterates(exact(beta), loss, start, steps)[0])
        assert values[steps] <= np.sum((start - minimum) ** 2) / (2 * theta[steps] ** 2)
        rate = (np.sqrt(kappa) - 1) / (np.sqrt(kappa) + 1)
        assert np.all(values <= 4 * rate ** (2 * np.arange(steps + 1)) * values[0] * (1 + 1e-9))


HARD = {
    "rosenbrock": lambda x: jnp.sum((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2),
    "quartic": lambda x: jnp.sum(jnp.arange(1, 5) * x**4) + jnp.sum(x) ** 2,
    "waves": lambda x: jnp.sum(x**2) / 20 + jnp.sum(jnp.sin(3 * x)) + jnp.prod(jnp.cos(x)),
    "logarithms": lambda x: jnp.sum(jnp.log(1 + 100 * (x - 1.0) ** 2)),
}


def directions(rule, loss, x, steps):
    """(gradient, direction, learning rate) of all steps."""

    def body(carry, _):
        x, state = carry
        grads, extra = offered(loss, x)
        updates, state = rule.update(grads, state, x, **extra)
        a = state.learning_rate
        return (x + updates, state), (grads, updates / jnp.where(a > 0, a, 1), a)

    x = jnp.asarray(x, jnp.float64)
    return jax.tree.map(np.asarray, jax.lax.scan(body, (x, rule.init(x)), length=steps)[1])


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("curvature", [0.9, 0.2])
def test_hager_zhang_descends_enough_however_poor_the_search(name, curvature):
    """Hager and Zhang 2005, theorem 1: ⟨g, d⟩ ≤ −(7/8)‖g‖²."""
    g, d, a = directions(gdjax.nonlinear_cg(curvature=curvature), HARD[name], np.array([-1.2, 1.0, 0.7, 2.0]), 60)
    moved = (a > 0) & (np.linalg.norm(g, axis=1) > 1e-6 * np.linalg.norm(g[0]))  # above rounding
    slopes, squares = np.sum(g * d, axis=1)[moved], np.sum(g * g, axis=1)[moved]
    assert np.all(slopes <= -7 / 8 * squares * (1 - 1e-6))
    assert np.sum(np.abs(slopes / squares + 1) > 1e-3) >= 3, "the directions are all but −g: nothing is tested"


@pytest.mark.parametrize("name", HARD)
def test_fletcher_reeves_descends_as_al_baali_proved(name):
    """−1/(1 − c₂) ≤ ⟨g, d⟩/‖g‖² ≤ −(1 − 2c₂)/(1 − c₂) under the strong Wolfe conditions, c₂ < 1/2."""
    c = 0.3
    g, d, a = directions(gdjax.nonlinear_cg("fletcher_reeves", curvature=c), HARD[name], np.array([-1.2, 1.0, 0.7, 2.0]), 40)
    above = np.linalg.norm(g, axis=1) > 1e-6 * np.linalg.norm(g[0])  # rounding
    ratios = (np.sum(g * d, axis=1) / np.maximum(np.sum(g * g, axis=1), 1e-300))[(a > 0) & above]
    assert ratios.max() <= -(1 - 2 * c) / (1 - c) + 1e-6
    assert ratios.min() >= -1 / (1 - c) - 1e-6


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("beta", "name"), paired(BETAS, HARD))
def test_gradients_go_to_zero(beta, name):
    result = gdjax.minimize(HARD[name], jnp.array([-1.2, 1.0, 0.7, 2.0]), gdjax.nonlinear_cg(beta), max_steps=1000, stop=gdjax.stop.grad_norm(1e-6))
    assert result.status is gdjax.Status.CONVERGED
    assert result.grad_norm <= 1e-6 * float(result.diagnosis.initial_grad_norm) * (1 + 1e-9) or result.grad_norm <= 1e-6


def test_betas_differ_where_the_loss_is_no_quadratic():
    """Each formula is its own: no two give the same path."""
    paths = [np.asarray(iterates(gdjax.nonlinear_cg(beta, strong=True), HARD["rosenbrock"], np.array([-1.2, 1.0]), 8)[0]) for beta in BETAS]
    for i, one in enumerate(paths):
        for other in paths[:i]:
            assert np.abs(one - other).max() > 1e-3


def test_a_refused_direction_is_followed_by_steepest_descent():
    """In a chain whose first member turns the gradient round nothing moves, and nothing is evaluated."""
    loss, x = HARD["rosenbrock"], jnp.array([-1.2, 1.0])
    grads, extra = offered(loss, x)
    rule = gdjax.nonlinear_cg()
    updates, state = rule.update(-grads, rule.init(x), x, **extra)
    np.testing.assert_array_equal(updates, 0.0)
    assert state.evaluations == 0
    assert state.value == extra["value"]
