"""The norm of a gradient is right whatever its size, and however far it is from that of the step before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import tree


def exponentials(x):
    return jnp.sum(jnp.exp(x) - x)


def test_a_gradient_that_falls_by_many_orders_of_magnitude_in_a_step():
    result = gdjax.minimize(exponentials, jnp.full(3, 60.0), gdjax.gd(5e-25), tol=1e-5)
    right = np.linalg.norm(np.exp(np.asarray(result.params, np.float64)) - 1)
    np.testing.assert_allclose(float(result.grad_norm), right, rtol=1e-3)
    assert result.converged == (right <= 1e-5)


def test_a_gradient_whose_square_overflows():
    result = gdjax.minimize(lambda x: 1e20 * jnp.sum((1e10 * x - 1) ** 2), jnp.zeros(3), max_steps=0)
    np.testing.assert_allclose(float(result.grad_norm), 2e30 * 3**0.5, rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-34, 1e-30, 1e-20, 1.0, 1e20, 1e30, 5e37])
@pytest.mark.parametrize("count", [3, 10_000])
def test_norms_of_every_size_equal_those_of_float64(scale, count):
    numbers = (np.random.default_rng(0).normal(size=count) * scale / count**0.5).astype(np.float32)
    right = np.linalg.norm(numbers.astype(np.float64))
    np.testing.assert_allclose(float(jax.jit(tree.norm)(numbers)), right, rtol=1e-5)


def test_the_unit_of_a_norm_rounds_nothing():
    numbers = np.float32([3e-30, 1.5, 7e20, 0.0, 3.4e38, 1e-40])
    units = np.asarray(jax.vmap(tree.power_of_two)(numbers))
    np.testing.assert_array_equal(units, np.clip(2.0 ** np.floor(np.log2(np.maximum(numbers, 1e-40).astype(np.float64))), 2.0**-126, 2.0**126))
