"""Matrices stored on their side: which ones, that nothing but their place changes, and that loops do carry them so."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.loop import batches, progress, stochastic
from gdjax.objective import Objective
from gdjax.parts import turned, xla
from gdjax.parts.examples import Table

if not xla.ON:
    pytest.skip("no matrices are turned: GDJAX_XLA=0", allow_module_level=True)

RANDOM = np.random.default_rng(2)
ROWS, FEATURES, CLASSES = 50, 24, 5
X = RANDOM.normal(size=(ROWS, FEATURES)).astype(np.float32) + 0.3
LABELS = RANDOM.integers(0, CLASSES, ROWS)
START = RANDOM.normal(size=(FEATURES, CLASSES)).astype(np.float32) / 4


def softmax(w, batch):
    scores = batch[0] @ w
    return jnp.mean(jax.nn.logsumexp(scores, -1) - jnp.take_along_axis(scores, batch[1][:, None], 1)[:, 0])


def numpy_gradient(w, x, labels):
    scores = x @ w
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    shares[np.arange(len(labels)), labels] -= 1
    return x.T @ shares / len(labels)


@pytest.mark.parametrize(
    ("shape", "rows", "pays"),
    [
        ((784, 10), 32, True),
        ((784, 10), None, True),
        ((784, 33), 32, False),
        ((784, 10), 1, False),
        ((10, 784), 32, False),
        ((784, 128), 32, False),
        ((784, 1), 1, False),
        ((784,), 1, False),
        ((4, 3), 32, False),
        ((3, 3, 2), 1, False),
    ],
)
def test_which_are_turned(shape, rows, pays):
    assert turned.which({"w": jnp.zeros(shape)}, rows) == (pays,)


def test_none_are_turned_on_accelerators(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert turned.which(jnp.zeros((784, 10)), 32) == (False,)


def test_turning_twice_is_nothing_and_tables_stay():
    params = {"a": jnp.ones((8, 2)), "b": jnp.ones((2, 8)), "c": jnp.ones(3)}
    flags = turned.which(params, 32)
    assert flags == (True, False, False)
    there = turned.turn(flags, params)
    assert [x.shape for x in jax.tree.leaves(there)] == [(2, 8), (2, 8), (3,)]
    assert jax.tree.map(jnp.shape, turned.turn(flags, there)) == jax.tree.map(jnp.shape, params)
    state = (params, Table(jnp.zeros((8, 2))), jax.random.key(0), jnp.zeros((8, 2), jnp.int32))
    assert turned.alike(state, params, flags) == (True, False, False, False, False, True)


@pytest.mark.parametrize("batch_size", [1, 8, 25, None])
def test_gradients_are_those_of_numpy(batch_size):
    rows = batch_size or ROWS
    made = jax.jit(Objective(softmax).value_and_grad)(START, (X[:rows], LABELS[:rows]))
    np.testing.assert_allclose(made.grads, numpy_gradient(START.astype(np.float64), X[:rows], LABELS[:rows]), rtol=2e-4, atol=1e-6)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("batch_size", [1, 10, 25, None])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_runs_are_those_of_numpy(batch_size, momentum):
    rows, steps = batch_size or ROWS, 30
    options = dict(batch_size=batch_size, steps=steps, shuffle=False, key=None)
    result = gdjax.fit(softmax, START, (X, LABELS), gdjax.sgd(0.1, momentum=momentum), **options)
    w, velocity = START.astype(np.float64), 0
    for step in range(steps):
        taken = (step * rows + np.arange(rows)) % ROWS
        velocity = (momentum or 0) * velocity + numpy_gradient(w, X[taken], LABELS[taken])
        w = w - 0.1 * velocity
    np.testing.assert_allclose(result.params, w, rtol=2e-4, atol=2e-6)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("rule", [gdjax.muon(0.02), gdjax.rule(optax.adam)(1e-2), gdjax.average(gdjax.sgd(0.1)), None], ids=["muon", "adam", "average", "none"])
def test_rules_see_the_matrices_as_they_are(rule, monkeypatch):
    def run():
        return gdjax.fit(softmax, START, (X, LABELS), rule, batch_size=10, steps=20, key=3)

    there = run()
    jax.clear_caches()
    monkeypatch.setattr(turned, "which", lambda params, rows: (False,) * len(jax.tree.leaves(params)))
    here = run()
    jax.clear_caches()
    np.testing.assert_allclose(there.params, here.params, rtol=2e-3, atol=2e-5)
    assert jax.tree.map(jnp.shape, there.state.progress.state.rule_state) == jax.tree.map(jnp.shape, here.state.progress.state.rule_state)


def test_two_matrices_of_mirrored_shapes():
    def loss(params, x):
        return jnp.mean((jnp.tanh(x @ params["in"]) @ params["out"] - x) ** 2)

    params = {"in": START, "out": START.T + 0.1}
    grads = jax.jit(Objective(loss).value_and_grad)(params, X).grads
    expected = jax.jit(jax.grad(loss))(params, X)
    for name, grad in expected.items():
        np.testing.assert_allclose(grads[name], grad, rtol=1e-4, atol=1e-6)
    result = gdjax.fit(loss, params, X, gdjax.sgd(0.1), batch_size=5, steps=10, key=0)
    assert {name: x.shape for name, x in result.params.items()} == {name: x.shape for name, x in params.items()}


@pytest.mark.parametrize("batch_size", [2, 10])
def test_the_loop_carries_them_turned(batch_size):
    plan = gdjax._fit._plan(Objective(softmax), ("value",), batch_size, ROWS, False, "last", None, False)
    numbers = batches.Numbers(*[jnp.int32(9)] * 5, offset=jnp.int32(0))
    rule, data = gdjax.sgd(0.1), (jnp.asarray(X), jnp.asarray(LABELS))

    def run(params):
        start = progress.begin(plan, rule, params, None, None, None, data)
        return stochastic.loop(plan, rule, progress.open_run(plan, start, data, None, numbers, 8), data, None, None, numbers)

    carried = [str(v.aval) for e in whiles(jax.make_jaxpr(run)(START).jaxpr) for v in e.invars]
    assert f"float32[{CLASSES},{FEATURES}]" in carried


def whiles(jaxpr):
    """The loops within a loop."""
    for outer in (e for e in jaxpr.eqns if e.primitive.name == "while"):
        yield from (e for e in outer.params["body_jaxpr"].jaxpr.eqns if e.primitive.name == "while")


def test_lanes_and_hypergradients():
    def last(rate):
        return gdjax.fit(softmax, START, (X, LABELS), gdjax.sgd(rate), batch_size=10, steps=10, shuffle=False).value

    rates = jnp.array([0.03, 0.1, 0.3])
    np.testing.assert_allclose(jax.jit(jax.vmap(last))(rates), [last(rate) for rate in rates], rtol=1e-5)
    slope = jax.jit(jax.grad(last))(0.1)
    np.testing.assert_allclose(slope, (float(last(0.12)) - float(last(0.08))) / 0.04, rtol=0.03)


def test_a_resumed_run_is_the_run():
    options = dict(batch_size=10, key=1)
    whole = gdjax.fit(softmax, START, (X, LABELS), gdjax.sgd(0.1, momentum=0.9), steps=23, **options)
    first = gdjax.fit(softmax, START, (X, LABELS), gdjax.sgd(0.1, momentum=0.9), steps=9, **options)
    second = gdjax.fit(softmax, START, (X, LABELS), gdjax.sgd(0.1, momentum=0.9), steps=23, resume=first.state, **options)
    np.testing.assert_array_equal(whole.params, second.params)
