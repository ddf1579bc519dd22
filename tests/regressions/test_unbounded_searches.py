"""A search accepts no point whose params or gradient are not finite; a loss without a bound ends with finite params and is not called CONVERGED."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linesearch import Conditions, search

RULES = {
    "default": gdjax.reduced_hessian(),
    "nonlinear_cg": gdjax.nonlinear_cg(),
    "barzilai_borwein": gdjax.barzilai_borwein(),
    "exact_line_search": gdjax.exact_line_search(),
}


@pytest.mark.parametrize("name", RULES)
def test_losses_without_a_bound(name):
    which = [lambda x: -jnp.exp(x), lambda x: x - jnp.exp(x), lambda x: -(x**3)]
    fall = lambda x, index: jax.lax.switch(index, which, x)  # noqa: E731
    for index in range(3):
        result = gdjax.minimize(fall, 1.0, RULES[name], args=(jnp.int32(index),), max_steps=50)
        assert result.status.name != "CONVERGED", index
        assert np.isfinite(result.params), index
        assert np.isfinite(result.value), index


@pytest.mark.parametrize("conditions", [Conditions(), Conditions(1e-4, 0.9)], ids=["armijo", "weak"])
def test_no_step_ends_where_params_are_infinite(conditions):
    """exp(−x) is 0 at infinity, without a slope: as a number it would do."""
    both = jax.value_and_grad(lambda x: jnp.exp(-x))
    for initial in (1.0, 1e38):
        found = search(both, jnp.float32(3e38), jnp.float32(3e38), jnp.float32(1.0), jnp.float32(-1e-38), initial, conditions=conditions)
        assert np.isfinite(jnp.float32(3e38) + found.updates)


def test_a_direction_that_is_not_finite_moves_nothing():
    both = jax.value_and_grad(lambda x: jnp.sum(x**2))
    for wrong in (jnp.nan, jnp.inf):
        x = jnp.ones(2)
        found = search(both, x, jnp.array([wrong, -1.0]), jnp.float32(2.0), 2 * x, 1.0)
        np.testing.assert_array_equal(found.updates, 0)
        assert not found.accepted
