"""Losses and gradients that are not finite in a mini-batch run: what is refused at the door, what a rule leaves out, what ends a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.result import Status

X = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)
Y = X @ np.float32([1.0, -2.0, 3.0])
RULES = [None, gdjax.dog(), gdjax.sgd(0.01)]


def loss(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def fit(loss, data, rule, **options):
    return gdjax.fit(loss, jnp.zeros(3), data, rule, batch_size=8, key=0, **options)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_gradient_that_is_not_finite_at_the_start_is_refused(rule):
    """Even by rules that would leave the step out, and then stand still for ever."""
    broken = lambda w, b: loss(w, b) + jnp.sqrt(jnp.sum(w**2))  # noqa: E731
    with pytest.raises(ValueError, match=r"the loss is \d+\.\d+ but its gradient norm is nan"):
        fit(broken, (X, Y), rule, epochs=3)


@pytest.mark.parametrize(("value", "words"), [(np.nan, "the loss is nan"), (np.inf, "the loss is inf")])
def test_the_loss_at_the_start_is_named_as_it_was(value, words):
    with pytest.raises(ValueError, match=words):
        fit(lambda w, b: loss(w, b) + value, (X, Y), gdjax.sgd(0.1), epochs=3)


@jax.custom_vjp
def trap(x, broken):
    """x, with a gradient that is NaN where ``broken``."""
    return x


trap.defvjp(lambda x, broken: (x, broken), lambda broken, g: (jnp.where(broken > 0, jnp.nan, g), None))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_one_broken_gradient_ends_the_run_only_if_the_rule_takes_it(rule):
    """On the host and in a trace alike; the sixth batch of an epoch is broken."""
    data = (X, Y, (np.arange(48) == 43).astype(np.float32))
    trapped = lambda w, b: loss(trap(w, jnp.max(b[2])), b)  # noqa: E731
    run = lambda: fit(trapped, data, rule, steps=24, shuffle=False)  # noqa: E731
    here, traced = run(), jax.jit(run)()
    leaves_out = rule != gdjax.sgd(0.01)
    assert here.status is traced.status is (Status.MAX_STEPS if leaves_out else Status.NONFINITE)
    assert int(here.steps) == int(traced.steps) == (24 if leaves_out else 4)
    np.testing.assert_allclose(here.params, traced.params, rtol=1e-5)
    assert np.isfinite(here.params).all()


def test_a_first_batch_fitted_by_chance_makes_no_run_diverge():
    """Eight rows whose targets are 0 come first: every later mean is far above that loss, and far below the others' at the start."""
    target = np.where(np.arange(48) < 8, 0, Y)
    made = fit(loss, (X, target), gdjax.sgd(0.05), epochs=5, shuffle=False)
    assert float(made.history["value"][0]) > 10 * float(made.diagnosis.initial_value)
    assert float(made.value) > 10 * float(made.diagnosis.initial_value)
    assert made.status is Status.MAX_STEPS


def test_a_run_that_ends_far_above_its_start_diverged():
    made = fit(loss, (X, Y), gdjax.sgd(1.3), steps=14)
    assert np.isfinite(made.value)
    assert made.status is Status.DIVERGED
