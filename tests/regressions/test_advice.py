"""Advice on runs whose trouble is known must not say the opposite: rates far too small told to decay, minima to decay, infinities to lower the rate."""

import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

rng = np.random.default_rng(0)
ROWS = rng.normal(size=(1000, 3)).astype(np.float32)
TRUTH = np.float32([1.0, -2.0, 0.5])
TARGETS = ROWS @ TRUTH
DECAY = "decay the learning rate|larger batches"


def mean_square(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def flat(w, batch):
    return jnp.mean(batch[0]) * 0 + 3.0 + 0 * w.sum()


square = gdjax.finite_sum(lambda w, row: (row[0] @ w - row[1]) ** 2)


def fit(rule, loss=mean_square, rows=ROWS, start=None, **options):
    options = dict(batch_size=32, epochs=5, key=0) | options
    return gdjax.fit(loss, jnp.zeros(3) if start is None else start, (rows, TARGETS), rule, **options)


@pytest.mark.parametrize("rate", [1e-8, 1e-6, 1e-4])
def test_rates_far_too_small(rate):
    text = fit(gdjax.sgd(rate), epochs=20).message
    assert not re.search(DECAY, text), text
    assert "Try a far larger learning rate" in text


def test_where_nothing_is_to_decay():
    for result in (
        fit(gdjax.sgd(0.05), square, start=jnp.asarray(TRUTH)),
        fit(gdjax.saga(), square, batch_size=1, epochs=3),
        fit(gdjax.sgd(0.1), flat),
    ):
        assert not re.search(DECAY, result.message), result.message


def test_converged_above_its_start():
    result = gdjax.minimize(lambda w: -jnp.exp(-(w**2)), 1.0, gdjax.gd(100.0))
    assert "above the start" in result.message
    assert "a minimum, or (rarely)" not in result.message


@pytest.mark.parametrize(("number", "said"), [(np.inf, "an infinite number"), (np.nan, "NaN")])
def test_what_is_not_a_number_in_the_data(number, said):
    rows = ROWS.copy()
    rows[500, 1] = number
    result = fit(gdjax.sgd(0.01), rows=rows)
    assert f"There is {said} in the data: data[0] in row 500" in result.message
    assert "learning rate" not in result.message


def test_the_look_back_does_not_fail_a_run():
    """A loss without a second derivative ends like any other; its advice does without the number."""
    @jax.custom_vjp
    def once(w):
        return jnp.sum(w**2)

    once.defvjp(lambda w: (once(w), w), lambda w, g: (2 * w * g,))
    result = gdjax.minimize(once, jnp.ones(2), gdjax.gd(1e6), max_steps=50)
    assert result.status is gdjax.Status.DIVERGED
    assert "Lower the learning rate: gdjax.suggest" in result.message or "Try" in result.message


def test_a_message_outlives_its_run():
    for result in (fit(gdjax.sgd(1e-6)), fit(gdjax.sgd(1e3))):
        assert pickle.loads(pickle.dumps(result)).message == result.message
        assert re.search(r"Try .*\d", result.message)
