"""Derivatives of a minimum: given wherever the point is near it, whatever the verdict; right, or NaN, for all else that a run returns, never silently 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

HESSIAN = np.diag([1.0, 4.0, 9.0]).astype(np.float32)


def quadratic(x, a):
    return 0.5 * x @ HESSIAN @ x - a @ x  # its minimum: HESSIAN⁻¹ a


def minimum(a, **options):
    return gdjax.minimize(quadratic, jnp.zeros(3), gdjax.gd(0.1), args=(a,), **options)


A = jnp.array([1.0, 2.0, 3.0])
RIGHT = np.linalg.inv(HESSIAN)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("options", "status"), [(dict(tol=0.0, max_steps=100), "MAX_STEPS"), (dict(tol=0.0, max_steps=3000), "STALLED"), ({}, "CONVERGED")])
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_near_a_minimum_the_verdict_is_of_no_account(options, status, mode):
    assert minimum(A, **options).status.name == status
    np.testing.assert_allclose(mode(lambda a: minimum(a, **options).params)(A), RIGHT, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_far_from_a_minimum_it_is_nan(mode):
    assert np.all(np.isnan(mode(lambda a: minimum(a, max_steps=5).params)(A)))
    assert np.all(np.isnan(mode(lambda a: minimum(a, max_steps=5).value)(A)))


def test_at_a_saddle_it_is_nan():
    def saddle(x, a):
        return x[0] ** 2 - x[1] ** 2 + a * x[0]

    run = lambda a: gdjax.minimize(saddle, jnp.array([1.0, 1e-3]), gdjax.gd(0.1), args=(a,), tol=0.0, max_steps=2).params  # noqa: E731
    assert np.all(np.isnan(jax.jacfwd(run)(jnp.float32(1.0))))


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_aux_has_the_derivative_of_the_aux_of_the_minimum(mode):
    def loss(x, a):
        return quadratic(x, a), jnp.sum(a * x)

    run = lambda a: gdjax.minimize(loss, jnp.zeros(3), gdjax.gd(0.1), args=(a,), has_aux=True).aux  # noqa: E731
    np.testing.assert_allclose(mode(run)(A), 2 * RIGHT @ A, rtol=1e-3)  # of aᵀH⁻¹a


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("part", [lambda r: r.grad_norm, lambda r: r.history["value"][1]])
def test_what_the_theorem_says_nothing_about_is_nan(mode, part):
    assert np.all(np.isnan(mode(lambda a: part(minimum(a)))(A)))


def test_what_is_unknown_does_not_spoil_what_is_known():
    _, dots = jax.jvp(minimum, (A,), (jnp.ones(3),))
    np.testing.assert_allclose(dots.params, RIGHT @ np.ones(3), rtol=1e-3)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda a: minimum(a).value))(A), -RIGHT @ A, rtol=1e-3)
    np.testing.assert_allclose(jax.vmap(jax.grad(lambda a: minimum(a).value))(A[None])[0], -RIGHT @ A, rtol=1e-3)
