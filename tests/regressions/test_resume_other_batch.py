"""A run resumed under other conditions is right, or refused in our words; its state is plain arrays."""

import functools
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 3)).astype(np.float32)
DATA, RULE = (X, X[:, 0].copy()), gdjax.sgd(0.01)


class Stream:
    """The rows in order, in batches of four."""

    def __iter__(self):
        return iter([(X[i : i + 4], DATA[1][i : i + 4]) for i in range(0, 40, 4)])


def loss(w, b):
    return jnp.mean((b[0] @ w - b[1]) ** 2)


def noisy(w, b, key):
    return loss(w + 0.01 * jax.random.normal(key, w.shape), b)


def fit(loss=loss, data=DATA, rule=RULE, **options):
    return gdjax.fit(loss, jnp.zeros(3), data, rule, **dict(batch_size=4, epochs=4, key=0) | options)


@pytest.fixture(scope="module")
def first():
    return fit()


REFUSED = {
    "larger batches": (dict(batch_size=8), "batches of 4, .* here they are 40 examples in batches of 8"),
    "smaller batches": (dict(batch_size=2), "examples in batches of 2"),
    "fewer rows": (dict(data=(X[:20], DATA[1][:20])), "here they are 20 examples"),
    "another order": (dict(shuffle="replacement"), "shuffle='replacement'"),
    "a stream": (dict(data=Stream(), batch_size=None), "here they are batches of a stream"),
    "fewer epochs": (dict(epochs=2), "4 epochs, but epochs=2"),
    "fewer steps": (dict(epochs=None, steps=30), "40 steps, but steps=30"),
    "another key": (dict(key=1), "with another key"),
    "another loss": (dict(loss=lambda w, b: jnp.mean(jnp.abs(b[0] @ w - b[1]))), "of another loss_fn"),
    "another rule": (dict(rule=gdjax.sgd(0.01, 0.9)), "state of the rule"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, first):
    options, words = REFUSED[name]
    with pytest.raises(ValueError, match=f"(?s)resume is the state of .*{words}"):
        fit(**dict(epochs=8) | options, resume=first.state)


def test_a_key_where_there_was_none():
    before = fit(shuffle=False, key=None)
    same = fit(shuffle=False, key=None, epochs=6)
    for key in (None, 5):  # nothing is drawn from it
        np.testing.assert_array_equal(fit(shuffle=False, key=key, epochs=6, resume=before.state).params, same.params)
    with pytest.raises(ValueError, match=r"another loss_fn|without a key"):
        fit(noisy, shuffle=False, stochastic=True, epochs=6, resume=before.state)


def test_other_records_lose_no_rows(first):
    """Rows that were recorded stay, NaN where something was not; the mean since the last record goes on."""
    made = fit(epochs=5, history=("value", "evaluations"), resume=first.state)
    assert made.history["step"].tolist() == [10, 20, 30, 40, 50]
    np.testing.assert_array_equal(made.history["value"][:4], first.history["value"])
    assert np.isnan(made.history["evaluations"][:4]).all()
    assert made.history["evaluations"][4] == 50
    assert fit(epochs=5, history=(), resume=first.state).history["step"].tolist() == [10, 20, 30, 40, 50]
    again = fit(epochs=6, resume=fit(epochs=5, history=(), resume=first.state).state)
    assert again.history["step"].tolist() == [10, 20, 30, 40, 50, 60]


def test_records_at_other_steps():
    whole, part = fit(epochs=None, steps=20, record_every=1), fit(epochs=None, steps=5)
    finer = fit(epochs=None, steps=20, record_every=7, resume=part.state)
    assert finer.history["step"].tolist() == [7, 14, 20]
    np.testing.assert_allclose(finer.history["value"][0], whole.history["value"][:7].mean(), rtol=1e-6)
    coarser = fit(epochs=None, steps=20, resume=fit(epochs=None, steps=5, record_every=5).state)
    assert coarser.history["step"].tolist() == [5, 10, 20]
    np.testing.assert_allclose(coarser.history["value"][1], whole.history["value"][:10].mean(), rtol=1e-6)
    np.testing.assert_array_equal(finer.params, coarser.params)


RUNS = {
    "shuffled": functools.partial(fit, rule=gdjax.average(gdjax.sgd(0.01))),
    "noise": functools.partial(fit, noisy, stochastic=True, keep="best", validation=DATA, key=jax.random.key(3, impl="rbg")),
    "full batch": functools.partial(fit, noisy, stochastic=True, batch_size=None, rule=gdjax.gd(0.01)),
}


def through_savez(state):
    file = io.BytesIO()
    np.savez(file, *jax.tree.leaves(state))
    file.seek(0)
    return jax.tree.unflatten(jax.tree.structure(state), list(np.load(file).values()))


def through_json(state):
    leaves, structure = jax.tree.flatten(state)
    read = json.loads(json.dumps([(str(np.asarray(x).dtype), np.asarray(x).tolist()) for x in leaves]))
    return jax.tree.unflatten(structure, [np.asarray(values, dtype) for dtype, values in read])


@pytest.mark.parametrize("passing", [through_savez, through_json])
@pytest.mark.parametrize("name", RUNS)
def test_the_state_is_plain_arrays(name, passing):
    run = RUNS[name]
    parts, whole = run(epochs=6, resume=passing(run(epochs=3).state)), run(epochs=6)
    np.testing.assert_array_equal(parts.params, whole.params)
    for x in jax.tree.leaves(whole.state):
        assert isinstance(x, (np.ndarray, np.generic, jax.Array))
        assert not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def test_inside_jit_a_state_goes_on():
    part = jax.jit(lambda: fit(epochs=2))()
    here = jax.jit(lambda state: fit(resume=state))(part.state)
    np.testing.assert_allclose(here.params, fit().params, rtol=1e-5)
