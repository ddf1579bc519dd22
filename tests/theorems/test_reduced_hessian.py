"""The default of ``minimize``: what theory says of it, and what it must survive."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from representatives import some
from theorems.worst_cases import iterates

import gdjax
from gdjax.parts import subspace
from gdjax.result import Status

EIGENVALUES = np.array([0.3, 1.0, 2.0, 5.0, 7.0, 11.0, 20.0, 31.0])
MINIMUM = np.array([1.0, -2.0, 0.5, 3.0, -0.7, 1.3, 2.2, -1.1])
BASIS = np.linalg.qr(np.vander(np.linspace(-1.0, 1.3, 8)))[0]


def bowl(x):
    turned = jnp.asarray(BASIS, x.dtype) @ (x - jnp.asarray(MINIMUM, x.dtype))
    return jnp.sum(jnp.asarray(EIGENVALUES, x.dtype) * turned**2) / 2


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def with_exact_steps(memory, x, steps):
    """The model by itself, each step to the exact minimum along its direction; points and directions."""
    hessian, points, directions = jax.hessian(bowl)(x), [x], []
    g = jax.grad(bowl)(x)
    model, here = subspace.restart(subspace.blank(x, memory), g)
    for k in range(steps):
        weights = -(model.inverse @ here)
        d = subspace.combine(model.basis, weights)
        step = -(g @ d) / (d @ hessian @ d)
        latest = weights / jnp.sqrt(weights @ weights)
        model = model._replace(history=model.history.at[:, model.rank - 1].set(latest))
        x = x + step * d
        g = jax.grad(bowl)(x)
        model, here = subspace.learn(model, step, weights, here, g, k == 0)
        points.append(x)
        directions.append(d)
    return jnp.stack(points), jnp.stack(directions), model


@pytest.mark.one_in(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("memory", some([2, 3, 5, 8, 12], [2, 5, 12].__contains__))
def test_exact_steps_on_a_quadratic_are_conjugate_and_end_after_n(memory):
    """Fenelon 1981, Gill and Leonard 2003: the directions are those of conjugate gradients, whatever the memory from two vectors on."""
    points, directions, _ = with_exact_steps(memory, jnp.zeros(8), 8)
    products = directions @ jax.hessian(bowl)(points[0]) @ directions.T
    lengths = jnp.sqrt(jnp.diag(products))
    np.testing.assert_allclose(products / jnp.outer(lengths, lengths), np.eye(8), atol=1e-6)
    assert bowl(points[-1]) < 1e-18 * bowl(points[0])
    assert bowl(points[-2]) > 1e-8 * bowl(points[0])


@pytest.mark.usefixtures("x64")
def test_after_n_exact_steps_the_model_is_the_inverse_hessian():
    """BFGS with exact steps on a quadratic: H y = s for all n pairs, so H is the inverse; the scaling τ stays 1 in that case but for the first steps."""
    _, directions, model = with_exact_steps(8, jnp.zeros(8), 8)
    hessian = np.asarray(jax.hessian(bowl)(jnp.zeros(8)))
    basis = np.asarray(model.basis)
    np.testing.assert_allclose(basis.T @ (model.inverse / model.unit) @ basis @ hessian @ directions[-1], directions[-1], rtol=1e-6)


@pytest.mark.parametrize("memory", [1, 3, 9])
def test_keeps_one_vector_per_unit_of_memory_and_the_gradient(memory):
    def entries(size):
        return sum(leaf.size for leaf in jax.tree.leaves(gdjax.reduced_hessian(memory).init(jnp.ones(size))))

    assert entries(1000) - entries(100) == (memory + 1) * 900


@pytest.mark.parametrize("enabled", [False, True], ids=["float32", "float64"])
def test_the_basis_stays_orthonormal(enabled):
    with jax.enable_x64(enabled):
        x = jnp.tile(jnp.asarray([-1.2, 1.0]), 30)
        state = gdjax.minimize(rosenbrock, x, gdjax.reduced_hessian(6), tol=0.0, max_steps=200).state.progress.state.rule_state
        basis = state.model.basis
        np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=50 * jnp.finfo(basis.dtype).eps)
        assert np.all(np.linalg.eigvalsh(state.model.inverse) > 0)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("exponent", [-66, -20, 20, 60])
def test_the_units_of_the_loss_do_not_matter(exponent):
    """In float32 too, where the squares of gradients of 1e20 overflow and those of 1e-20 vanish."""
    scale, start = 2.0**exponent, jnp.asarray([-1.2, 1.0, 0.3])

    def path(scale):
        result = gdjax.minimize(lambda x: scale * rosenbrock(x), start, max_steps=12, tol=0.0)
        return np.asarray(result.history["value"], np.float64) / scale

    np.testing.assert_allclose(path(scale), path(1.0), rtol=2e-3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("exponent", [-60, 60])
def test_the_units_of_the_params_do_not_matter_after_the_first_step(exponent):
    scale = 2.0**exponent
    result = gdjax.minimize(lambda x: rosenbrock(x / scale), scale * jnp.asarray([-1.2, 1.0]), max_steps=200, tol=0.0, stop=gdjax.stop.target(1e-12))
    assert result.status == Status.STOPPED


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("memory", [1, 2, 9])
def test_the_loss_never_rises(memory):
    values = jax.vmap(rosenbrock)(iterates(gdjax.reduced_hessian(memory), rosenbrock, jnp.tile(jnp.asarray([-1.2, 1.0]), 6), 150)[0])
    assert np.all(np.diff(values) <= 1e-14 * np.abs(values[:-1]))
    assert values[-1] < 1e-2 * values[0]


@pytest.mark.usefixtures("x64")
def test_superlinear_near_the_minimum_with_more_vectors_than_params():
    """Dennis and Moré 1974: BFGS; the ratio of successive errors goes to 0."""
    points, _ = iterates(gdjax.reduced_hessian(9), rosenbrock, jnp.asarray([-1.2, 1.0, 0.4]), 60)
    errors = np.linalg.norm(np.asarray(points) - 1.0, axis=1)
    last = int(np.argmax(errors < 1e-12))
    assert last > 5
    assert np.min(errors[last - 3 : last + 1] / errors[last - 4 : last]) < 0.02


def test_where_rounding_ends_the_descent_it_says_stalled():
    result = gdjax.minimize(lambda x: rosenbrock(x) + 7.0, jnp.tile(jnp.asarray([-1.2, 1.0]), 5), tol=0.0)
    assert result.status == Status.STALLED
    assert abs(float(result.value) - 7.0) < 1e-5
    assert int(result.evaluations) < 700


def test_every_evaluation_is_counted():
    calls = []

    def loss(x):
        jax.debug.callback(lambda: calls.append(1))
        return rosenbrock(x)

    result = gdjax.minimize(loss, jnp.asarray([-1.2, 1.0]), max_steps=9)
    jax.effects_barrier()
    assert int(result.evaluations) == len(calls)


def test_walks_along_the_edge_of_a_domain():
    result = gdjax.minimize(lambda w: jnp.sum(w - 3 * jnp.log(w)), jnp.asarray([1e-3, 50.0, 2.0]))
    np.testing.assert_allclose(result.params, 3.0, rtol=1e-3)


def test_moves_along_the_updates_of_a_chain_if_they_lead_down():
    start = jnp.asarray([-1.2, 1.0])
    clipped = gdjax.minimize(rosenbrock, start, gdjax.chain(optax.clip_by_global_norm(1.0), gdjax.reduced_hessian()), max_steps=300)
    assert clipped.value < 1e-6
    uphill = gdjax.minimize(rosenbrock, start, gdjax.chain(optax.scale(-1.0), gdjax.reduced_hessian()), max_steps=30)
    np.testing.assert_array_equal(uphill.params, start)
    assert uphill.status == Status.STALLED


def test_memory_must_be_a_number_of_vectors():
    for wrong in (0, -1, 2.5, True, "nine"):
        with pytest.raises(ValueError, match=r"reduced_hessian: memory is .*; wanted an int ≥ 1 or None: type"):
            gdjax.reduced_hessian(wrong)
