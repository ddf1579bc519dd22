"""Losses that close over arrays, made anew for every call: with the loss go the arrays and what was compiled for it, at every door."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

ROWS, START = np.ones((20, 3), np.float32), np.zeros(3, np.float32)


def mean_of(x):
    return lambda w, *batch: jnp.mean((x @ w - 1) ** 2) + 0 * sum(jnp.sum(b) for b in batch)


def sum_of(x):
    return gdjax.finite_sum(lambda w, row: jnp.mean((x @ w - row[0]) ** 2))


def known_example(w, row):
    return (row @ w - 1) ** 2


class Model:
    """A loss that is a method, and its array a field."""

    def __init__(self, x):
        self.x = x

    def loss(self, w):
        return jnp.mean((self.x @ w - 1) ** 2)


def of_lanes(loss):
    return jax.vmap(lambda rate: gdjax.minimize(loss, START, gdjax.gd(rate), max_steps=3).value)(jnp.array([0.01, 0.1]))


def described(loss):
    init, step = gdjax.descent(loss, gdjax.sgd(0.1))
    return step(init(START), ROWS)


def swept(loss):
    return gdjax.sweep(lambda rule: gdjax.minimize(loss, START, rule, max_steps=3), gdjax.grid(gdjax.gd, learning_rate=[0.01, 0.1]))


BATCHES = dict(batch_size=5, epochs=1, key=0)
DOORS = {
    "minimize": lambda x: gdjax.minimize(mean_of(x), START, gdjax.gd(0.1), max_steps=3),
    "minimize a method": lambda x: gdjax.minimize(Model(x).loss, START, gdjax.gd(0.1), max_steps=3),
    "fit": lambda x: gdjax.fit(mean_of(x), START, ROWS, gdjax.sgd(0.1), **BATCHES),
    "fit, full batch, validated": lambda x: gdjax.fit(mean_of(x), START, ROWS, gdjax.gd(0.1), batch_size=None, epochs=2, validation=ROWS, keep="best"),
    "a finite sum": lambda x: gdjax.fit(sum_of(x), START, ROWS, gdjax.sgd(0.1), **BATCHES),
    "a regularizer": lambda x: gdjax.fit(gdjax.finite_sum(known_example, lambda w: jnp.mean(x @ w) ** 2), START, ROWS, gdjax.sgd(0.1), **BATCHES),
    "evaluate": lambda x: gdjax.evaluate(mean_of(x), START, ROWS),
    "descent": lambda x: described(mean_of(x)),
    "smoothness": lambda x: gdjax.smoothness(mean_of(x), START),
    "vmap": lambda x: of_lanes(mean_of(x)),
    "jit": lambda x: jax.jit(lambda rate: gdjax.minimize(mean_of(x), START, gdjax.gd(rate), max_steps=3).value)(0.1),
    "sweep": lambda x: swept(mean_of(x)),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("door", DOORS)
def test_closures_are_given_back(door):
    x = jax.device_put(np.ones((50, 3), np.float32))
    gone = weakref.ref(x)
    DOORS[door](x)
    del x
    gc.collect()
    assert gone() is None


def test_a_loss_that_lives_compiles_once(caplog):
    model, x = Model(jnp.asarray(ROWS)), jnp.asarray(ROWS)
    alive = mean_of(x)
    again = [
        lambda: gdjax.minimize(model.loss, START, gdjax.gd(0.1), max_steps=3),  # another bound method each time
        lambda: gdjax.minimize(alive, START, gdjax.gd(0.1), max_steps=3),
        lambda: gdjax.fit(gdjax.finite_sum(known_example), START, ROWS, gdjax.sgd(0.1), **BATCHES),  # another finite sum each time
        lambda: of_lanes(alive),
    ]
    for run in again:
        run()
    gc.collect()
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        for run in again:
            run()
    assert [each.message for each in caplog.records if "Compiling" in each.message] == []


def test_derivatives_outlive_the_loss():
    @jax.jit
    def lowest(a):
        return gdjax.minimize(lambda w, a: jnp.sum((w - a) ** 2), jnp.zeros(3), gdjax.gd(0.3), args=(a,), max_steps=200).params.sum()

    # The loss went when ``lowest`` had been traced; JAX asks for its derivative afterwards.
    lowest(jnp.ones(3))
    gc.collect()
    np.testing.assert_allclose(jax.grad(lowest)(jnp.ones(3)), 1, rtol=1e-5)
