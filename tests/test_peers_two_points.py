"""Where peers go wrong with averages and second points, gdjax goes right. What peers do today stands in the docstrings: they may mend it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import grad, start

import gdjax


def slide(rule, params, steps, slope=1.0):
    """The params and all states, stacked, of a run whose gradient is the same everywhere."""

    def body(carry, _):
        params, state = carry
        updates, state = rule.update(jnp.full_like(params, slope), state, params)
        return (optax.apply_updates(params, updates), state), state

    (params, _), states = jax.lax.scan(body, (params, rule.init(params)), length=steps)
    return params, states


def moves(points):
    return np.diff(np.append(0, points))


def test_warm_up_and_weights_are_in_step():
    """optax 0.2.8 (PR #1744): the base rule warms up from step 0, the weights from step 1. The authors: both (k + 1)/W."""
    _, states = slide(gdjax.schedule_free_sgd(1.0, warmup_steps=4), jnp.float32(0.0), 6)
    expected = np.array([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(states.learning_rate, expected, rtol=1e-6)
    np.testing.assert_allclose(moves(states.z), -expected, rtol=1e-6)
    np.testing.assert_allclose(moves(states.total), expected**2, rtol=1e-6)


def test_a_schedule_of_the_wrapper_is_that_of_its_rule():
    """optax 0.2.8: with ``warmup_constant_schedule`` and base steps 0, 0.25, 0.5 the weights are those of 0.25, 0.5, 0.75."""
    schedule = gdjax.schedules.warmup(1.0, 4)
    _, states = slide(gdjax.schedule_free(gdjax.gd(schedule), learning_rate=schedule), jnp.float32(0.0), 6)
    expected = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.0])
    np.testing.assert_allclose(moves(states.z), -expected, rtol=1e-6)
    np.testing.assert_allclose(moves(states.total), expected**2, rtol=1e-6)
    assert np.all(np.isfinite(states.x))  # the first weight is 0, of a total of 0


@pytest.mark.parametrize("make", [gdjax.schedule_free_sgd, lambda momentum: gdjax.schedule_free(gdjax.gd(1.0), momentum)], ids=["sgd", "wrapper"])
def test_a_momentum_of_zero_is_a_number_like_any(make):
    """optax 0.2.8: b1 must be positive, as x is found by division by it; at 0 all is NaN."""
    _, states = slide(make(momentum=0.0), jnp.float32(0.0), 4)
    np.testing.assert_allclose(states.x, [-1.0, -1.5, -2.0, -2.5], rtol=1e-6)
    derivative = jax.grad(lambda b: slide(make(momentum=b), jnp.float32(0.0), 4)[0])(0.0)
    np.testing.assert_allclose(derivative, -2.5 + 4.0, rtol=1e-6)  # of y = z + β (x − z)


@pytest.mark.parametrize("momentum", [0.1, 0.9])
def test_bfloat16_params_have_a_float32_average(momentum):
    """optax 0.2.8: x is (y − (1 − b) z)/b of rounded y and z, weights are summed in bfloat16, where 256 + 1 is 256: x ends at 0.31 and -1.10, not -2.01."""
    steps, slope = 600, float(jnp.bfloat16(0.01))
    params, states = slide(gdjax.schedule_free_sgd(1.0, momentum), jnp.bfloat16(1.0), steps, slope)
    assert params.dtype == jnp.bfloat16
    z = 1 - slope * np.arange(1, steps + 1)
    np.testing.assert_allclose(states.x[-1], z.mean(), rtol=1e-4)
    np.testing.assert_allclose(np.float32(params), momentum * z.mean() + (1 - momentum) * z[-1], rtol=2**-7)  # the last digit of bfloat16
    assert states.total[-1] == steps


def test_bfloat16_averages_move_to_the_end():
    """PyTorch 2.13: ``AveragedModel`` keeps the dtype of the model; in bfloat16 an average stands still once the share of a new point is below 1/256."""
    params, states = slide(gdjax.average(gdjax.gd(1.0), "uniform"), jnp.bfloat16(1.0), 1000, 2**-8)
    points = np.ones(1001)
    for k in range(1000):
        points[k + 1] = np.float32(jnp.bfloat16(points[k] - 2**-8))
    assert params == points[-1]
    np.testing.assert_allclose(states.mean[-1], points[1:].mean(), rtol=1e-5)


@pytest.mark.parametrize("inner", [optax.adam(0.1), optax.sgd(0.1, 0.9), gdjax.polyak()], ids=["adam", "sgd", "polyak"])
def test_averages_go_around_any_rule_and_change_nothing(inner):
    """optax 0.2.8 has no averages but ``ema`` of updates and ``incremental_update``, outside the rule. Here the path is the inner one's, bit for bit."""
    rule, inner = gdjax.average(inner), optax.with_extra_args_support(inner)
    (params, state), (alone, alone_state) = ((start(), r.init(start())) for r in (rule, inner))
    for _ in range(10):
        updates, state = rule.update(grad(params), state, params, value=jnp.float32(1.0))
        params = optax.apply_updates(params, updates)
        updates, alone_state = inner.update(grad(alone), alone_state, alone, value=jnp.float32(1.0))
        alone = optax.apply_updates(alone, updates)
        for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(("inner", "period", "step_size"), [(optax.sgd(0.05, 0.9), 3, 0.5), (optax.adam(0.1), 4, 0.7), (optax.sgd(0.1), 1, 0.2)])
def test_lookahead_has_the_path_of_optax_with_params_of_their_own_type(inner, period, step_size, reset):
    """optax 0.2.8: the path is right, but params become ``LookaheadParams``, which no loss takes."""
    ours, theirs = gdjax.lookahead(inner, period, step_size, reset_state=reset), optax.lookahead(inner, period, step_size, reset_state=reset)
    params, pair = start(), optax.LookaheadParams.init_synced(start())
    state, their_state = ours.init(params), theirs.init(pair)
    for _ in range(13):
        updates, state = ours.update(grad(params), state, params)
        params = optax.apply_updates(params, updates)
        updates, their_state = theirs.update(grad(pair.fast), their_state, pair)
        pair = optax.apply_updates(pair, updates)
        for mine, other in zip(jax.tree.leaves((params, gdjax.eval_params(ours, state, params))), jax.tree.leaves((pair.fast, pair.slow)), strict=True):
            np.testing.assert_allclose(mine, other, rtol=2e-6, atol=1e-6)


def test_resetting_a_state_forgets_what_was_infinite():
    """optax 0.2.8: ``lookahead(reset_state=True)`` multiplies the old state by 0, so inf becomes NaN and stays."""

    def keeps_infinity():
        return lambda params: jnp.zeros(()), lambda grads, state, params=None, **extra: (grads, state + jnp.inf)

    rule, params = gdjax.lookahead(gdjax.rule(keeps_infinity)(), 2, reset_state=True), jnp.float32(1.0)
    state = rule.init(params)
    for expected in (np.inf, 0.0, np.inf, 0.0):
        _, state = rule.update(jnp.float32(0.0), state, params)
        assert state.inner == expected
