"""Least squares on tables as they come: the minimum, or a verdict that does not claim it and says what is wrong with the columns."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes

import gdjax

TABLE, TARGET = load_diabetes(return_X_y=True, scaled=False)
DATA = jnp.asarray(np.c_[np.ones(len(TABLE)), TABLE], jnp.float32), jnp.asarray(TARGET, jnp.float32)
BEST = np.linalg.lstsq(np.c_[np.ones(len(TABLE)), TABLE], TARGET, rcond=None)[1][0] / len(TARGET)  # float64
START = np.mean(TARGET**2)


def loss(w, X, y):
    return jnp.mean((X @ w - y) ** 2)


@pytest.mark.parametrize("memory", [None, 30])
def test_the_default_finds_the_minimum_of_a_raw_table(memory):
    result = gdjax.minimize(loss, jnp.zeros(11), gdjax.reduced_hessian(memory), args=DATA)
    assert result.converged
    assert (float(result.value) - BEST) / (START - BEST) <= 1e-6


@pytest.mark.parametrize("rule", [gdjax.nonlinear_cg(), gdjax.barzilai_borwein(), gdjax.gd(1e-5)])
def test_what_stops_short_of_it_says_what_is_wrong_with_the_columns(rule):
    result = gdjax.minimize(loss, jnp.zeros(11), rule, args=DATA)
    assert not result.converged
    assert (float(result.value) - BEST) / (START - BEST) > 1e-3
    assert "standardise" in result.message
    assert "args[0]" in result.message


def test_a_standardised_table_is_not_called_uneven():
    X = np.asarray(DATA[0])
    X = np.c_[X[:, :1], (X[:, 1:] - X[:, 1:].mean(0)) / X[:, 1:].std(0)]
    result = gdjax.minimize(loss, jnp.zeros(11), gdjax.gd(1e-3), args=(jnp.asarray(X), DATA[1]), max_steps=300)
    assert not result.converged
    assert "standardise" not in result.message


@pytest.mark.one_in(2)
@pytest.mark.parametrize("rule", [None, gdjax.nonlinear_cg(), gdjax.barzilai_borwein(), gdjax.armijo()])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_line_over_years(rule, seed):
    years = np.arange(1960, 2010).astype(np.float32)
    trend = (0.05 * (years - 1980) + 0.2 * np.random.default_rng(seed).normal(size=50)).astype(np.float32)
    design = np.c_[np.ones(50), years]
    best = np.linalg.lstsq(design, trend.astype(np.float64), rcond=None)[1][0] / 50
    result = gdjax.minimize(loss, jnp.zeros(2), rule, args=(jnp.asarray(design, jnp.float32), jnp.asarray(trend)))
    left = (float(result.value) - best) / (np.mean(trend.astype(np.float64) ** 2) - best)
    assert left <= 1e-3 or (not result.converged and "standardise" in result.message)
    assert rule is not None or (result.converged and left <= 1e-6)
