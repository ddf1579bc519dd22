"""Callbacks, checkpoints, validation and patience change no number, verdict, record or state of a full-batch run, and its states go from one to the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.result import Status

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5])).astype(np.float32)
HELD_OUT = (X[:20] + np.float32(0.1), Y[:20])
RULES = {"converges": gdjax.gd(0.3), "diverges": gdjax.gd(3.0), "creeps": gdjax.gd(0.001), "averages": gdjax.schedule_free(gdjax.sgd(0.1)), "default": None}


def loss(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def fit(rule, epochs=60, **options):
    return gdjax.fit(loss, jnp.zeros(3), (X, Y), rule, batch_size=None, epochs=epochs, **options)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.mark.parametrize("name", RULES)
def test_full_batches(name):
    rule, reports, states = RULES[name], [], []
    plain = fit(rule)
    served = fit(rule, callbacks=(reports.append,), checkpoint=states.append, stop=None)
    assert_same(served, plain)
    assert served.message == plain.message
    assert [report.step for report in reports] == [report.epoch for report in reports] == list(range(1, int(plain.steps) + 1))
    np.testing.assert_array_equal(np.float32([report.value for report in reports]), plain.history["value"][1:])
    watched = fit(rule, validation=HELD_OUT, patience=1000)
    assert watched.message == plain.message
    assert_same([getattr(watched, field) for field in ("params", "value", "grad_norm", "evaluations", "aux")], [*_numbers(plain)])
    assert set(watched.history) == {*plain.history, "validation"}
    assert_same({name: watched.history[name] for name in plain.history}, plain.history)
    for options in ({}, {"callbacks": (lambda report: None,)}):
        assert_same(fit(rule, resume=states[len(states) // 2], **options), plain)
        assert_same(fit(rule, resume=fit(rule, epochs=3, **options).state), plain)


def _numbers(result):
    return result.params, result.value, result.grad_norm, result.evaluations, result.aux


def test_a_callback_may_stop_and_the_run_goes_on_as_if_nothing_had_happened():
    part = fit(RULES["creeps"], callbacks=(lambda report: report.epoch == 7,))
    assert (part.status, int(part.steps)) == (Status.STOPPED, 7)
    assert "(callback)" in part.message
    assert_same(_numbers(part), _numbers(fit(RULES["creeps"], epochs=7)))
    assert_same(fit(RULES["creeps"], resume=part.state), fit(RULES["creeps"]))


@pytest.mark.parametrize("history", [(), ("grad_norm",), ("value", "update_norm", "learning_rate"), ("validation", "value")])
def test_a_resumed_run_may_record_other_things(history):
    whole = fit(RULES["creeps"], history=("value", "grad_norm", "update_norm", "learning_rate"))
    half = fit(RULES["creeps"], epochs=20)
    made = fit(RULES["creeps"], resume=half.state, history=history, record_every=10, callbacks=(lambda report: None,))
    assert_same(_numbers(made), _numbers(whole))
    assert made.history["step"].tolist() == [*range(20), 20, 30, 40, 50, 60]
    for name in history:
        wanted = whole.history.get(name, np.full(61, np.nan))[made.history["step"]]
        known = (made.history["step"] > 20) | (name in half.history)
        np.testing.assert_array_equal(made.history[name], np.where(known, wanted, made.history[name]))
        assert np.isnan(made.history[name][made.history["step"] < 20]).all() == (name not in half.history)


def by_hand(patience):
    """(validation losses at every point, params there) of gradient descent that overfits and has patience."""
    w, losses, path = jnp.zeros(3), [], []
    step = jax.jit(lambda w: w - 0.1 * jax.grad(loss)(w, (X, Y)))
    for _ in range(60):
        losses.append(float(loss(w, (HELD_OUT[0], HELD_OUT[1] * 0.6))))
        path.append(w)
        if len(losses) - 1 - int(np.argmin(losses)) >= patience:
            break
        w = step(w)
    return losses, path


@pytest.mark.parametrize("inside", [False, True], ids=["on the host", "inside jit"])
def test_patience_and_the_best(inside):
    losses, path = by_hand(4)
    held_out = (HELD_OUT[0], HELD_OUT[1] * np.float32(0.6))
    run = lambda rule: fit(rule, validation=held_out, patience=4, keep="best")  # noqa: E731
    made = (jax.jit(run) if inside else run)(gdjax.gd(0.1))
    assert (int(made.code), int(made.steps)) == (Status.STOPPED, len(losses) - 1)
    np.testing.assert_allclose(made.history["validation"][: len(losses)], losses, rtol=1e-4)
    best = int(np.argmin(losses))
    np.testing.assert_allclose(made.params, path[best], rtol=1e-5)
    np.testing.assert_allclose(made.value, loss(path[best], (X, Y)), rtol=1e-5)
    assert "(patience)" in made.message


def test_the_best_of_a_run_that_converged_elsewhere_is_not_said_to_have_converged():
    made = fit(RULES["converges"], validation=(HELD_OUT[0], HELD_OUT[1] * np.float32(0.6)), keep="best")
    assert made.status is Status.STOPPED
    assert "convergence, but not of the best epoch" in made.message
    assert float(made.grad_norm) > 0.01


def test_derivatives_pass_through_a_run_that_is_watched():
    def by_hand(rate, w=jnp.zeros(3)):  # noqa: B008
        for _ in range(3):
            w = w - rate * jax.grad(loss)(w, (X, Y))
        return w.sum()

    run = lambda rate: fit(gdjax.gd(rate), epochs=3, validation=HELD_OUT, keep="best").params.sum()  # noqa: E731
    np.testing.assert_allclose(jax.grad(run)(0.1), jax.grad(by_hand)(0.1), rtol=1e-4)
