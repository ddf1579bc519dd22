"""Results and their words: every status, single, batched and traced; and the way of a result through JAX, pickle and files."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.result import Result, Status

CENTRE = jnp.asarray([1.0, -2.0])


def bowl(w):
    return jnp.sum(jnp.asarray([1.0, 4.0]) * (w - CENTRE) ** 2)


def run(rate, **options):
    return gdjax.minimize(bowl, jnp.zeros(2), gdjax.gd(rate), **dict(max_steps=200) | options)


RUNS = {
    Status.CONVERGED: lambda: run(0.1),
    Status.MAX_STEPS: lambda: run(0.1, max_steps=3),
    Status.STALLED: lambda: gdjax.minimize(lambda w: bowl(w) + 1e4, jnp.zeros(2), gdjax.gd(1e-9), tol=0.0, max_steps=2000),
    Status.DIVERGED: lambda: run(1.0, max_steps=2000),
    Status.NONFINITE: lambda: gdjax.minimize(lambda w: jnp.sum(jnp.sqrt(w)), jnp.ones(2), gdjax.gd(0.7)),
    Status.STOPPED: lambda: run(0.1, stop=gdjax.stop.target(1.0)),
}


@pytest.mark.parametrize("status", RUNS, ids=lambda s: s.name)
def test_the_report_of_every_status(status):
    result = RUNS[status]()
    assert result.status is status
    assert result.converged is (status is Status.CONVERGED)
    text = str(result)
    assert text.startswith(f"{status.name} after {int(result.steps)} steps, {int(result.evaluations)} evaluations (full batch)")
    assert f"{float(result.value):.6g}" in text
    assert "gd(learning_rate=" in text
    assert result.message in text
    assert len(result.message) > len(status.sentence)
    assert len(text.splitlines()) == 5
    assert status.name in repr(result)
    assert np.all(np.isfinite(result.params)), "params must be finite whatever happened"
    assert np.isfinite(result.value)


def test_every_member_has_a_sentence_and_advice():
    assert [member.name for member in Status] == ["CONVERGED", "MAX_STEPS", "STALLED", "DIVERGED", "NONFINITE", "STOPPED", "INTERRUPTED"]
    for member in Status:
        assert member.sentence[0].isupper()
        assert member.sentence.endswith(".")
        assert member.advice.endswith(".")
        assert Status(int(member)) is member
        assert pickle.loads(pickle.dumps(member)) is member
    assert len({member.sentence for member in Status}) == len(Status)
    assert 0 not in list(Status)


def test_batched_results():
    results = jax.vmap(lambda rate: gdjax.minimize(bowl, jnp.zeros(2), gdjax.gd(rate), max_steps=150))(jnp.asarray([0.1, 1e-4, 0.2, 5.0]))
    assert results.status.tolist() == [Status.CONVERGED, Status.MAX_STEPS, Status.CONVERGED, Status.DIVERGED]
    assert results.converged.tolist() == [True, False, True, False]
    assert str(results) == "Result: 4 runs: 2 CONVERGED, 1 MAX_STEPS, 1 DIVERGED"
    assert "4 runs" in repr(results)
    third = jax.tree.map(lambda x: x[2], results)
    assert third.status is Status.CONVERGED
    assert "CONVERGED after" in str(third)


def test_traced_results():
    seen = []

    def inside(w):
        result = gdjax.minimize(bowl, w, gdjax.gd(0.1), max_steps=100)
        seen.extend([result.message, str(result), repr(result)])
        return result.converged, result.status, result

    converged, status, result = jax.jit(inside)(jnp.zeros(2))
    assert bool(converged)
    assert int(status) == Status.CONVERGED
    assert all("traced" in text for text in seen)
    assert result.status is Status.CONVERGED
    assert result.converged is True


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_round_trips():
    result = gdjax.minimize(bowl, {"w": jnp.zeros(2)}["w"], gdjax.sgd(0.02, momentum=0.5), max_steps=20)
    leaves, treedef = jax.tree.flatten(result)
    assert all(hasattr(leaf, "dtype") or isinstance(leaf, float) for leaf in leaves)
    again = jax.tree.unflatten(treedef, leaves)
    assert isinstance(again, Result)
    assert str(again) == str(result)
    result = jax.tree.map(jnp.asarray, result)
    assert_same(jax.jit(lambda r: r)(result), result)
    assert_same(jax.device_get(result), result)
    assert_same(pickle.loads(pickle.dumps(result)), result)
    assert str(pickle.loads(pickle.dumps(result))) == str(result)


def test_the_default_rule_is_named_and_pickles():
    result = gdjax.minimize(bowl, jnp.zeros(2))
    assert "reduced_hessian(" in str(result)
    assert pickle.loads(pickle.dumps(result)).rule == result.rule


def test_mini_batches_say_what_their_numbers_are():
    data = jnp.arange(8.0)
    result = gdjax.fit(lambda w, b: jnp.mean((w - b) ** 2), 1.0, data, gdjax.sgd(0.1), batch_size=2, epochs=3, key=0)
    assert "(mini-batches)" in str(result)
    assert "mean over the last epoch" in str(result)
    assert "of the last batch" in str(result)


def test_advice_with_numbers():
    assert "below 2/L ≈ 0.25" in RUNS[Status.DIVERGED]().message
    slow = run(1e-3, max_steps=100, history=("value",)).message
    assert "smaller" in slow
    assert "fell without bound" in gdjax.minimize(lambda w: -bowl(w), jnp.zeros(2), gdjax.gd(0.5), max_steps=2000).message
    assert "(stationary)" in RUNS[Status.CONVERGED]().message
    assert "(target)" in RUNS[Status.STOPPED]().message
