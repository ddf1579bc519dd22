"""A mini-batch run that ends NONFINITE or DIVERGED is the run that stopped one step before the step that led there: params, state, history and value."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.loop import mini_batch
from gdjax.result import Status

ONES = np.ones(8, np.float32)
RANDOM = np.random.default_rng(0)
ROWS = (RANDOM.normal(size=(24, 2)).astype(np.float32), RANDOM.normal(size=24).astype(np.float32))


class Stream:
    """The rows in order, in batches of four."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter([jax.tree.map(lambda x: x[i : i + 4], self.rows) for i in range(0, len(jax.tree.leaves(self.rows)[0]), 4)])  # noqa: B023


def walled(w, b):
    return jnp.mean((w - b) ** 2) + 0 * jnp.log(1.5 - w)


WALLED = {
    "single rows": lambda w: gdjax.fit(walled, w, ONES, gdjax.sgd(0.9), batch_size=1, epochs=2, key=0),
    "the best": lambda w: gdjax.fit(walled, w, ONES, gdjax.sgd(0.9), batch_size=8, epochs=3, key=0, keep="best"),
    "averages": lambda w: gdjax.fit(walled, w, ONES, gdjax.average(gdjax.sgd(0.9)), batch_size=4, epochs=2, key=0),
}


@pytest.mark.parametrize("name", WALLED)
def test_the_start_is_returned_where_the_first_step_breaks_it(name):
    for result in (WALLED[name](0.0), jax.jit(WALLED[name])(0.0)):
        assert (result.status, int(result.steps), float(result.params), float(result.value), float(result.grad_norm)) == (Status.NONFINITE, 0, 0.0, 1.0, 2.0)
        assert int(result.evaluations) == 2


def test_a_stream_too():
    result = gdjax.fit(walled, 0.0, Stream(ONES), gdjax.sgd(0.9), batch_size=None, epochs=2)
    assert (result.status, int(result.steps), float(result.params)) == (Status.NONFINITE, 0, 0.0)


def test_out_of_proportion_is_no_better_than_infinite():
    result = gdjax.fit(lambda w, b: jnp.mean((w - b) ** 2), 0.0, ONES, gdjax.sgd(1e30), batch_size=4, epochs=2, key=0)
    assert (result.status, float(result.params)) == (Status.DIVERGED, 0.0)


def edge(w, b):
    """Descends along w₀ to an edge at w₀ = −1, beyond which it is NaN, or where its slope alone is."""
    return w[0] + 0.1 * jnp.mean((b[0] @ w - b[1]) ** 2) + 0 * jnp.log(1 + w[0])


@jax.custom_vjp
def trap(x):
    """x, with a slope that is NaN below −1."""
    return x


trap.defvjp(lambda x: (x, x), lambda x, g: (jnp.where(x < -1, jnp.nan, g),))


def sloped(w, b):
    return trap(w[0]) + 0.1 * jnp.mean((b[0] @ w - b[1]) ** 2)


def stateful(w, count, b):
    return edge(w, b), (count + 1, None)


def words(x):
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key) else x)


def assert_the_run_before(make):
    """The run ends, bit for bit, like one of as many steps as it says."""
    broken = make(steps=400)
    before = make(steps=int(broken.steps))
    assert (broken.status, before.status) == (Status.NONFINITE, Status.MAX_STEPS)
    assert 0 < int(broken.steps) < 400
    known = dict(initial_value=0, initial_grad_norm=0, learning_rate=0)  # which the longer run knows better
    parts = [(x.params, x.value, x.grad_norm, x.history, x.model_state, x.state.progress._replace(**known), x.state.history) for x in (broken, before)]
    for x, y in zip(*map(jax.tree.leaves, parts), strict=True):
        np.testing.assert_array_equal(words(x), words(y))


OPTIONS = {
    "epochs of a step, between the host": dict(batch_size=24, rule=gdjax.sgd(0.02, 0.5), callbacks=(lambda report: None,), keep="best"),
    "single rows": dict(batch_size=1, rule=gdjax.dog(1e-2)),
    "records": dict(batch_size=8, rule=gdjax.average(gdjax.sgd(0.02)), record_every=7),
    "model state": dict(batch_size=8, loss=stateful, rule=gdjax.sgd(0.02), has_aux=True, model_state=np.int32(0)),
    "stream": dict(batch_size=None, data=Stream(ROWS), rule=gdjax.sgd(0.02), key=None),
    "gradient": dict(batch_size=8, loss=sloped, rule=gdjax.sgd(0.02)),
    "gradient of a stream": dict(batch_size=None, loss=sloped, data=Stream(ROWS), rule=gdjax.sgd(0.02), key=None),
}


def run(loss=edge, data=ROWS, rule=None, **options):
    return gdjax.fit(loss, jnp.zeros(2), data, rule, **dict(key=0) | options)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_that_breaks_is_the_run_before(name):
    assert_the_run_before(functools.partial(run, **OPTIONS[name]))


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_long_runs_go_on_from_copies(size, monkeypatch):
    """Of large states the host keeps them."""
    monkeypatch.setattr(mini_batch, "COPY_AFTER", 0)
    monkeypatch.setattr(mini_batch, "COPY_SHARE", 0)
    monkeypatch.setattr(mini_batch, "COPY_BYTES", size)
    assert_the_run_before(functools.partial(run, **OPTIONS["records"]))


@pytest.mark.parametrize("name", ["epochs of a step, between the host", "records"])
def test_inside_jit_too(name):
    options = {name: x for name, x in OPTIONS[name].items() if name != "callbacks"}
    here, there = jax.jit(lambda: run(steps=60, **options))(), run(steps=60, **options)
    for result in (here, there):
        assert result.status is Status.NONFINITE
    filled = np.asarray(here.history["step"]) >= 0
    parts = [(x.params, x.value, x.grad_norm, x.steps, x.evaluations, x.state.progress.state.params) for x in (here, there)]
    parts[0] += ({name: column[filled] for name, column in here.history.items()},)
    parts[1] += (there.history,)
    for x, y in zip(*map(jax.tree.leaves, parts), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)


def test_each_lane_by_itself():
    rates = jnp.array([0.001, 0.02, 0.05, 0.7])
    lanes = jax.vmap(lambda rate: run(rule=gdjax.sgd(rate, 0.5), batch_size=8, steps=40))(rates)
    assert lanes.status.tolist() == [Status.MAX_STEPS] + [Status.NONFINITE] * 3
    for lane, rate in enumerate(rates):
        alone = run(rule=gdjax.sgd(rate, 0.5), batch_size=8, steps=40)
        assert int(alone.steps) == int(lanes.steps[lane])
        np.testing.assert_allclose(lanes.params[lane], alone.params, rtol=1e-5)
        assert np.isfinite(edge(lanes.params[lane], ROWS))
