"""Defects that came up in use, each as the user met it."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.result import Status

X = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
Y = X @ np.float32([1, -2, 0.5])
START = jnp.zeros(3)


def loss(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


class Stream:
    def __init__(self, batches, seconds=0.0):
        self.batches, self.seconds = batches, seconds

    def __iter__(self):
        for batch in self.batches:
            time.sleep(self.seconds)
            yield batch


@gdjax.rule
def bare(learning_rate):
    return (lambda params: ()), (lambda grads, state, params=None: (jax.tree.map(lambda g: -learning_rate * g, grads), state))


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "rule",
    [
        optax.scale(-0.1),
        gdjax.rule(optax.scale)(-0.1),
        bare(0.1),
        gdjax.chain(optax.clip(10.0), gdjax.gd(0.1)),
        optax.contrib.sam(optax.sgd(0.1), optax.sgd(1e-3)),
    ],
    ids=["optax.scale", "lifted", "bare", "chain", "sam"],
)
def test_updates_get_only_the_extra_arguments_they_name(rule):
    assert gdjax.minimize(lambda w: jnp.sum((w - 2.0) ** 2), START, rule, max_steps=40).value < 1.0
    assert gdjax.fit(loss, START, (X, Y), rule, batch_size=10, epochs=2, key=0).value < gdjax.evaluate(loss, START, (X, Y))


@pytest.mark.parametrize("stream", [True, False])
def test_a_broken_gradient_in_the_first_block_of_a_stream_is_found_where_it_is(stream):
    batches = [np.full(2, i + 1.0, np.float32) for i in range(100)]
    batches[3] = np.zeros(2, np.float32)
    kinked = lambda w, b: jnp.sqrt(jnp.sum((w * b) ** 2)) * 1e-3  # noqa: E731
    how = dict(data=Stream(batches), batch_size=None) if stream else dict(data=np.concatenate(batches), batch_size=2, shuffle=False)
    result = gdjax.fit(kinked, jnp.float32(5.0), rule=gdjax.sgd(1e-3), epochs=1, **how)
    assert (result.status, int(result.steps)) == (Status.NONFINITE, 2)  # the step before the one that led to the broken batch
    assert result.params == pytest.approx(5 - 1e-6 * np.sqrt(2) * (1 + 2), abs=1e-6)


def test_a_ragged_stream_of_a_finite_sum_has_the_exact_mean():
    declared = gdjax.finite_sum(lambda w, example: (example[0] @ w - example[1]) ** 2)
    stream = Stream([(X[i : i + 32], Y[i : i + 32]) for i in range(0, 100, 32)])
    result = gdjax.fit(declared, START, stream, gdjax.sgd(0.0), batch_size=None, epochs=1)
    np.testing.assert_allclose(result.value, gdjax.evaluate(declared, START, (X, Y)), rtol=1e-5)


def test_seeds_may_be_arrays():
    run = lambda key: gdjax.fit(loss, START, (X, Y), gdjax.sgd(0.1), batch_size=32, epochs=2, key=key).value  # noqa: E731
    assert run(jnp.int32(3)) == run(3)
    assert len(set(jax.vmap(run)(jnp.arange(3)).tolist())) == 3


def test_the_best_params_come_with_their_model_state():
    counting = lambda w, seen, batch: (loss(w, batch), seen + 1)  # noqa: E731
    rule = optax.sgd(optax.piecewise_constant_schedule(0.1, {20: 20.0}))
    result = gdjax.fit(counting, START, (X, Y), rule, batch_size=20, epochs=10, key=3, model_state=jnp.int32(0), keep="best")
    best = int(result.history["step"][np.nanargmin(result.history["value"])])
    assert best < 50
    assert int(result.model_state) == best


def test_a_slow_stream_keeps_its_time_limit():
    stream = Stream([(X, Y)] * 60, seconds=0.05)
    started = time.monotonic()
    result = gdjax.fit(loss, START, stream, gdjax.sgd(1e-6), batch_size=None, epochs=1, stop=gdjax.stop.time_limit(0.5))
    assert result.status is Status.STOPPED
    assert int(result.steps) < 60
    assert time.monotonic() - started < 60


def test_batches_with_keys_are_stacked():
    keyed = lambda w, batch: jnp.mean((w - jax.random.normal(batch["key"][0], (3,))) ** 2)  # noqa: E731
    stream = Stream([{"key": jax.random.split(jax.random.key(i), 2)} for i in range(4)])
    assert int(gdjax.fit(keyed, START, stream, gdjax.sgd(0.1), batch_size=None, epochs=1).steps) == 4
