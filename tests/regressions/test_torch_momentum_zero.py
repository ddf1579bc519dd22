"""``sgd`` with momentum 0 is PyTorch's: dampening has no effect there, also where the momentum is a schedule or one of a sweep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def end(rule, steps=3):
    w = jnp.asarray(5.0)
    state = rule.init(w)
    for _ in range(steps):
        updates, state = rule.update(2 * (w - 2), state, w)
        w = w + updates
    return w


@pytest.mark.parametrize("momentum", [0.0, lambda step: 0.0 * step], ids=["number", "schedule"])
@pytest.mark.parametrize("dampening", [0.3, 1.0])
def test_dampening_without_momentum_has_no_effect(momentum, dampening):
    np.testing.assert_allclose(end(gdjax.sgd(0.1, momentum=momentum, dampening=dampening)), 2 + 3 * 0.8**3, rtol=1e-6)


def test_in_a_sweep_of_momenta():
    """PyTorch's numbers by hand: v = g first, then μ v + 0.7 g."""
    ends = jax.vmap(lambda mu: end(gdjax.sgd(0.1, momentum=mu, dampening=0.3), 2))(jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(ends, [2 + 3 * 0.64, 4.4 - 0.1 * (0.5 * 6 + 0.7 * 4.8)], rtol=1e-6)
