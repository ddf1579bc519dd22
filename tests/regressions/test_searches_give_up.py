"""Searches go on as long as slopes can decide: to 1e-5 in float32 where the loss has long drowned in rounding, and on tables whose columns differ in scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linesearch import Conditions, search

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(300, 6))
LABELS = (INPUTS @ RNG.normal(size=(6, 3)) + RNG.gumbel(size=(300, 3))).argmax(1)


def softmax_regression(w, inputs, labels):
    return -jnp.sum(jax.nn.log_softmax(inputs @ w)[jnp.arange(300), labels]) + 0.5 * jnp.sum(w**2)


def gradient_in_float64(w):
    scores = INPUTS @ np.asarray(w, np.float64)
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return INPUTS.T @ (shares / shares.sum(1, keepdims=True) - np.eye(3)[LABELS]) + w


@pytest.mark.parametrize("rule", [None, gdjax.nonlinear_cg()], ids=["default", "nonlinear_cg"])
def test_a_softmax_regression_to_1e_5(rule):
    """The loss is 180, its rounding 2e-5; with ‖g‖ = 1e-2 no step promises more than a tenth of that."""
    data = jnp.asarray(INPUTS, jnp.float32), jnp.asarray(LABELS)
    result = gdjax.minimize(softmax_regression, jnp.zeros((6, 3)), rule, args=data, tol=1e-5)
    assert result.grad_norm < 5e-5
    assert np.linalg.norm(gradient_in_float64(result.params)) < 2e-4  # float32 inputs: 6e-8 · 300


def test_a_table_with_raw_columns():
    """Columns from 0.01 to 100, and an intercept: twelve params, more than the default has vectors."""
    scales = np.logspace(-2, 2, 11)
    inputs = np.c_[(RNG.normal(size=(200, 11)) + 1) * scales, np.ones(200)]
    outputs = inputs @ (RNG.normal(size=12) / np.r_[scales, 1.0]) + RNG.normal(size=200)
    weights = np.linalg.lstsq(inputs, outputs)[0]
    mean_square = lambda w: np.mean((inputs @ np.asarray(w, np.float64) - outputs) ** 2)  # noqa: E731
    data = jnp.asarray(inputs, jnp.float32), jnp.asarray(outputs, jnp.float32)
    result = gdjax.minimize(lambda w, x, y: jnp.mean((x @ w - y) ** 2), jnp.zeros(12), args=data)
    assert mean_square(result.params) < 1.001 * mean_square(weights)


def test_a_stochastic_search_below_the_rounding_of_its_loss():
    """At a height of 10⁴ the spacing of float32 is 1e-3, the loss of a distance of 0.03; slopes tell 1e-3 and less."""
    loss = lambda w, batch: jnp.mean((w - batch) ** 2) + 1e4  # noqa: E731
    rule = gdjax.stochastic_line_search()
    result = gdjax.fit(loss, jnp.zeros(()), jnp.full(8, 2.0), rule, batch_size=4, epochs=30, key=0)
    np.testing.assert_allclose(result.params, 2.0, atol=1e-3)


@pytest.mark.parametrize("conditions", [Conditions(), Conditions(1e-4, 0.9), Conditions(1e-4, 0.1, True)], ids=["armijo", "weak", "strong"])
def test_a_trial_that_moves_nothing_is_not_a_step(conditions):
    """Beside x = 1 the slope points up on both sides: no step is acceptable, and shorter trials end at x itself."""
    both = lambda x: (jnp.float32(1.0), jnp.where(x == 1, -1.0, 1.0))  # noqa: E731
    found = search(both, jnp.float32(1.0), jnp.float32(1.0), jnp.float32(1.0), jnp.float32(-1.0), 1.0, conditions=conditions)
    assert (bool(found.accepted), float(found.updates)) == (False, 0.0)
    assert found.evaluations < 30


def test_a_first_trial_too_short_to_move_is_lengthened():
    loss = lambda x: (x - 3e6) ** 2  # noqa: E731
    x = jnp.float32(1e6)
    value, grad = jax.value_and_grad(loss)(x)
    found = search(jax.value_and_grad(loss), x, -grad, value, grad, 1e-10, conditions=Conditions(1e-4, 0.9))
    assert bool(found.accepted)
    assert abs(x + found.updates - 3e6) < 1e6
