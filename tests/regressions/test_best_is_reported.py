"""keep="best": value, gradient norm and the words beside them are those of the returned params; validation given is validation recorded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(48, 3)).astype(np.float32)
Y = (X @ np.float32([1.0, -2.0, 0.5]) + RANDOM.normal(size=48)).astype(np.float32)
DATA, HELD_OUT, RULE = (X[:32], Y[:32]), (X[32:], Y[32:]), gdjax.sgd(0.5)


def loss(w, b):
    return jnp.mean((b[0] @ w - b[1]) ** 2)


def fit(loss=loss, rule=RULE, **options):
    return gdjax.fit(loss, jnp.zeros(3), DATA, rule, **dict(batch_size=8, key=0, epochs=6) | options)


@pytest.mark.parametrize("inside", [False, True])
def test_all_that_is_said_is_said_of_the_best(inside):
    run = lambda: fit(keep="best", validation=HELD_OUT)  # noqa: E731
    made = jax.jit(run)() if inside else run()
    losses = np.asarray(made.history["validation"])
    best = int(np.argmin(losses))
    assert best < 5
    assert int(made.best_step) == 4 * (best + 1)
    alone = fit(epochs=best + 1)
    here = (made.params, made.value, made.grad_norm, made.best_validation)
    for x, y in zip(here, (alone.params, alone.value, alone.grad_norm, loss(alone.params, HELD_OUT)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)
    assert float(made.best_validation) == losses.min()
    report = str(made)
    assert f"mean over the best epoch, which ended at step {4 * (best + 1)}; " in report
    assert "of its last batch" in report
    assert f"the best, at step {4 * (best + 1)}; these params" in report
    assert "last epoch" not in report.split("\n  rule")[0]


def test_without_validation_by_the_training_loss():
    made = fit(keep="best")
    best = int(np.argmin(made.history["value"]))
    assert (int(made.best_step), float(made.value)) == (4 * (best + 1), float(made.history["value"][best]))
    assert made.best_validation is None
    assert f"best       at step {int(made.best_step)}; these params" in str(made)


def test_the_last_params_are_said_to_be_those_of_the_last_epoch():
    made = fit(validation=HELD_OUT)
    assert int(made.best_step) == 4 * (1 + int(np.argmin(made.history["validation"])))
    assert "mean over the last epoch" in str(made)
    assert "these params" not in str(made)
    assert fit().best_step is None


def test_full_batches_too():
    made = fit(batch_size=None, rule=gdjax.gd(0.1), stop=gdjax.stop.target(-1.0), validation=HELD_OUT, keep="best", epochs=20)
    losses = made.history["validation"]
    assert int(made.best_step) == int(np.argmin(losses))
    np.testing.assert_allclose([made.best_validation, loss(made.params, HELD_OUT)], losses.min(), rtol=1e-5)
    assert "at these params" in str(made)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_validation_loss_that_is_no_number_does_not_win(bad):
    """It is bad wherever the first param is above 1/4, which takes an epoch or two."""
    broken = lambda w, b: loss(w, b) + jnp.where((jnp.size(b[1]) == 16) & (w[0] > 0.25), bad, 0.0)  # noqa: E731
    made = fit(broken, rule=gdjax.sgd(0.01), validation=HELD_OUT, keep="best")
    losses = np.asarray(made.history["validation"])
    assert not np.isfinite(losses[-1])
    assert float(made.best_validation) == losses[np.isfinite(losses)].min() == np.float32(loss(made.params, HELD_OUT))


def test_the_end_of_a_run_is_looked_at_like_that_of_an_epoch():
    """Which a run shorter than an epoch never reaches; a resumed run is none the wiser."""
    seen, states = [], []
    services = dict(validation=HELD_OUT, keep="best", rule=gdjax.sgd(0.02), epochs=None)
    made = fit(steps=3, callbacks=(seen.append,), checkpoint=states.append, **services)
    inside = jax.jit(lambda: fit(steps=3, **services))()
    plain = fit(steps=3, epochs=None, rule=gdjax.sgd(0.02))
    for each in (made, inside):
        np.testing.assert_allclose(each.params, plain.params, rtol=1e-6)
        np.testing.assert_allclose([each.best_validation, each.history["validation"][-1]], loss(plain.params, HELD_OUT), rtol=1e-5)
        assert int(each.best_step) == 3
    assert [(report.step, report.epoch) for report in seen] == [(3, 0)]
    np.testing.assert_allclose(seen[0].validation, made.best_validation)
    assert len(states) == 1
    parts, whole = (fit(steps=9, resume=state, **services) for state in (states[0], None))
    for x, y in zip(*(jax.tree.leaves(dataclasses.replace(each, aux=None)) for each in (parts, whole)), strict=True):
        np.testing.assert_array_equal(x, y)
