"""Faults that readers of the code found: each with what came before, and what is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import Status

C = jnp.array([1.0, 1e-7])


def narrow(w):
    return 0.5 * jnp.sum(C * (w - 1) ** 2)


@pytest.mark.parametrize("most", [16, 17, 18])
def test_the_end_of_the_steps_is_not_hidden_by_a_criterion_that_does_not_stand(most):
    start = jnp.array([3.0, 100.0])
    run = lambda x: gdjax.minimize(narrow, x, gdjax.gd(0.5), max_steps=most)  # noqa: E731
    here, there, lanes = run(start), jax.jit(run)(start), jax.vmap(run)(start[None])
    assert here.status == there.status == Status.MAX_STEPS
    assert int(here.steps) == int(there.steps) == int(lanes.steps[0]) == most  # it made one more, and its code was that of a run that goes on
    assert int(lanes.code[0]) == Status.MAX_STEPS


def test_a_resumed_run_whose_first_batch_is_broken_is_the_run_before():
    X = np.ones(10, np.float32)
    X[3] = np.nan
    run = lambda steps, resume=None: gdjax.fit(  # noqa: E731
        lambda w, x: jnp.mean((w - x) ** 2), 0.0, X, gdjax.sgd(0.1), batch_size=1, shuffle=False, steps=steps, resume=resume
    )
    before = run(3)
    after = run(8, before.state)  # StopIteration
    assert (after.status, int(after.steps), float(after.params)) == (Status.NONFINITE, 3, float(before.params))


def test_a_gradient_that_overflows_nearby_is_no_curvature():
    wide = lambda w: 5e5 * (w[0].astype(jnp.float32) - 10) ** 2 + 0.05 * (w[1].astype(jnp.float32) - 1000) ** 2  # noqa: E731
    result = gdjax.minimize(wide, jnp.array([10.03, 10.0], jnp.float16), gdjax.gd(1e-9), max_steps=50)
    assert result.status != Status.CONVERGED


def test_a_steep_direction_does_not_hide_a_flat_one():
    for steep in (1e7, 1e10):
        result = gdjax.minimize(lambda x, c: c * (x[0] - 1) ** 2 + (x[1] - 1) ** 2, jnp.zeros(2), gdjax.gd(0.4 / steep), args=(steep,), max_steps=300)
        assert result.status != Status.CONVERGED, result  # at [1, 0], where the minimum is at [1, 1]


def test_means_over_streams_of_16_bits_are_summed_in_32():
    batches = [(np.ones((32, 1), np.float32),)] * 300
    loss = lambda w, x: (w * jnp.mean(x[0].astype(jnp.bfloat16))).astype(jnp.bfloat16)  # noqa: E731
    assert gdjax.evaluate(loss, jnp.ones((), jnp.bfloat16), batches) == 1  # 0.26
    big = [(np.full((1024, 1), 100, np.float16),)] * 3
    assert gdjax.evaluate(lambda w, x: w * jnp.mean(x[0], dtype=jnp.float32).astype(jnp.float16), jnp.ones((), jnp.float16), big) == 100  # inf


@pytest.mark.parametrize("shape", [(0, 3), (0,)])
def test_arguments_without_entries(shape):
    result = gdjax.minimize(lambda w, X: jnp.sum(w**2) + jnp.sum(X), jnp.ones(2), gdjax.gd(3.0), args=(jnp.zeros(shape),))
    assert result.status == Status.DIVERGED


@pytest.mark.parametrize("rule", [gdjax.schedule_free_sgd(0.1), gdjax.nesterov(0.1)], ids=repr)
def test_aux_is_that_of_the_params_returned(rule):
    loss = lambda w: ((w - 1) ** 2, w)  # noqa: E731
    result = gdjax.minimize(loss, 5.0, rule, has_aux=True, max_steps=20)
    assert float(result.aux) == float(result.params)
    assert float(result.value) == float(loss(result.params)[0])
    assert float(jax.jit(lambda w: gdjax.minimize(loss, w, rule, has_aux=True, max_steps=20))(5.0).aux) == pytest.approx(float(result.params), rel=1e-6)


def test_the_length_of_a_step_is_right_at_any_scale():
    options = dict(max_steps=40, stop=gdjax.stop.param_change(rtol=1e-6), history=("update_norm",))
    loss = lambda w, s: jnp.sum((w / s - 1) ** 2)  # noqa: E731
    runs = [gdjax.minimize(loss, jnp.zeros(3), gdjax.gd(1e-3 * s * s), args=(s,), **options) for s in (1.0, 2.0**-56)]
    assert runs[0].status == runs[1].status == Status.MAX_STEPS  # STOPPED after 5 steps of length 0
    np.testing.assert_allclose(runs[1].history["update_norm"][1:] * 2.0**56, runs[0].history["update_norm"][1:], rtol=1e-6)


def test_the_best_of_a_run_whose_key_is_of_another_kind():
    loss = lambda w, x, key: jnp.mean((w - x) ** 2) + 0 * jax.random.normal(key)  # noqa: E731
    data, key = np.ones(6, np.float32), jax.random.key(0, impl="rbg")
    result = gdjax.fit(loss, 0.0, data, gdjax.gd(0.1), batch_size=None, epochs=5, stochastic=True, keep="best", key=key)
    assert int(result.best_step) == 5


@pytest.mark.parametrize("callbacks", [(), (lambda report: None,)])
def test_a_resumed_run_that_has_made_more_steps_than_are_asked_for_is_judged_where_it_stands(callbacks):
    data = np.arange(6, dtype=np.float32)
    run = lambda epochs, **more: gdjax.fit(lambda w, x: jnp.mean((w - x) ** 2), 9.0, data, gdjax.gd(0.01), batch_size=None, epochs=epochs, **more)  # noqa: E731
    before = run(20)
    after = run(5, resume=before.state, callbacks=callbacks)
    assert (after.status, int(after.steps), float(after.params)) == (Status.MAX_STEPS, 20, float(before.params))
    quadratic = lambda w: (w - 1.0) ** 2  # noqa: E731
    state = gdjax.minimize(quadratic, 5.0, gdjax.gd(0.01), max_steps=20).state
    again = lambda state: gdjax.minimize(quadratic, 5.0, gdjax.gd(0.01), max_steps=5, resume=state)  # noqa: E731
    assert [(int(r.code), int(r.steps)) for r in (again(state), jax.jit(again)(state))] == [(Status.MAX_STEPS, 20)] * 2  # it never ended


def test_an_infinite_edge_of_a_domain_is_no_step_too_long():
    result = gdjax.minimize(lambda x: jnp.where(x < 0.5, jnp.inf, x**2), jnp.float32(2.0), gdjax.gd(0.1))
    assert result.status == Status.NONFINITE
    assert "Lower the learning rate" not in result.message
    assert gdjax.minimize(lambda x: jnp.exp(x**2), jnp.float32(3.0), gdjax.gd(0.1)).status == Status.DIVERGED


def test_joined_rules_may_be_joined_again():
    joined = gdjax.stop.either(gdjax.stop.grad_norm(1e-9) | gdjax.stop.target(1.0), gdjax.stop.plateau(500))
    result = gdjax.minimize(lambda w: jnp.sum(w**2), jnp.full(2, 5.0), gdjax.gd(0.1), stop=joined)  # zip() argument 2 is shorter than argument 1
    assert result.status == Status.STOPPED
    assert result.value <= 1


def test_plateau_keeps_strict_promotion():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        rule, stop = gdjax.gd(jnp.float32(0.1)), gdjax.stop.plateau(3, atol=1e-3)
        result = gdjax.minimize(lambda w: jnp.sum(w**2), jnp.ones(2, jnp.float32), rule, max_steps=50, stop=stop)
    assert result.status in (Status.STOPPED, Status.CONVERGED)
