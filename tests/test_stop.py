"""Stopping rules, one by one and joined, on sequences whose right answer is plain, and in runs."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import stop
from gdjax.result import RUNNING, Status
from gdjax.stop import Observation

NAN, INF = float("nan"), float("inf")


def observations(values=(), grad_norms=None, update_norms=None, params_norm=1.0):
    """What a rule is shown, step by step."""
    count = max(len(values), len(grad_norms or ()), len(update_norms or ()))
    values = [*values, *[1.0] * (count - len(values))]
    grad_norms, update_norms = grad_norms or [1.0] * count, update_norms or [INF] + [1.0] * (count - 1)
    before = [INF, *values]
    return [Observation(*map(jnp.float32, (v, p, g, grad_norms[0], u, params_norm))) for v, p, g, u in zip(values, before, grad_norms, update_norms)]  # noqa: B905


@functools.partial(jax.jit, static_argnames="length")
def _codes(rule, shown, length):
    def one(state, seen):
        code, reason, state = stop.codes(rule, seen, state)
        return state, (code, reason)

    return jax.lax.scan(one, rule.build().init(), shown, length=length)[1]


def verdicts(rule, seen):
    """(code, reason) at each step: the compiled ones, checked against those without jit."""
    state, plain = rule.build().init(), []
    for one in seen:
        code, reason, state = stop.codes(rule, one, state)
        plain.append((int(code), int(reason)))
    codes, reasons = _codes(rule, jax.tree.map(lambda *x: jnp.stack(x), *seen), len(seen))
    assert plain == list(zip(codes.tolist(), reasons.tolist(), strict=True))
    return plain


def first(rule, seen):
    """(step, status, reason) of the first verdict, or None."""
    return next(((k, Status(code), reason) for k, (code, reason) in enumerate(verdicts(rule, seen)) if code != RUNNING), None)


def test_grad_norm():
    norms = [8.0, 4.0, 2.0, 1.0]
    assert first(stop.grad_norm(2.0), observations(grad_norms=norms)) == (2, Status.CONVERGED, 0)
    assert first(stop.grad_norm(rtol=0.125), observations(grad_norms=norms)) == (3, Status.CONVERGED, 0)
    assert first(stop.grad_norm(1.0, 0.5), observations(grad_norms=norms)) == (1, Status.CONVERGED, 0)
    assert first(stop.grad_norm(0.5), observations(grad_norms=norms)) is None
    assert first(stop.grad_norm(1e9), observations(grad_norms=[NAN] * 4)) is None
    assert first(stop.grad_norm(0.0), observations(grad_norms=[1.0, 0.0])) == (1, Status.CONVERGED, 0)


def test_target():
    assert first(stop.target(0.5), observations([1.0, NAN, 0.5, 0.1])) == (2, Status.STOPPED, 0)
    assert first(stop.target(-3), observations([1.0, -2.0])) is None


def test_value_change_wants_changes_in_a_row_and_a_fallen_gradient():
    values = [4.0, 3.0, 2.9999, 2.0, 2.0, 2.0, 2.0]
    assert first(stop.value_change(1e-3, patience=3), observations(values)) == (6, Status.STOPPED, 0)
    fallen = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.01]
    assert first(stop.value_change(1e-3, patience=3), observations(values, fallen)) == (6, Status.CONVERGED, 0)
    assert first(stop.value_change(rtol=1e-3, patience=1), observations(values)) == (2, Status.STOPPED, 0)
    assert first(stop.value_change(1e-3, patience=1), observations([INF, INF, NAN, NAN])) is None


def test_value_change_for_mini_batches_never_says_converged():
    assert first(stop.value_change(1.0, patience=1), observations([1.0, 1.0], [NAN, NAN])) == (1, Status.STOPPED, 0)


def test_param_change():
    updates = [INF, 1.0, 0.1, 0.1, 0.1]
    assert first(stop.param_change(0.1, patience=2), observations(update_norms=updates)) == (3, Status.STOPPED, 0)
    assert first(stop.param_change(rtol=0.01, patience=1), observations(update_norms=updates, params_norm=20.0)) == (2, Status.STOPPED, 0)
    assert first(stop.param_change(0.1, patience=1), observations(update_norms=updates, grad_norms=[100.0, 1, 1, 1, 1])) == (2, Status.CONVERGED, 0)
    assert first(stop.param_change(1.0, patience=1), observations(update_norms=[NAN, NAN])) is None


def plateau_by_hand(values, patience, atol=0.0, rtol=0.0):
    best, waited = np.inf, 0
    for step, value in enumerate(values):
        margin = max(atol, rtol * abs(best)) if np.isfinite(best) else 0.0
        if value < best - margin:
            best, waited = value, 0
        else:
            waited += 1
        if waited >= patience:
            return step
    return None


@pytest.mark.parametrize("numbers", [dict(patience=2), dict(patience=3, atol=0.5), dict(patience=2, rtol=0.25)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_plateau_equals_a_loop_by_hand(numbers, seed):
    values = (3 - np.cumsum(np.random.default_rng(seed).normal(0.2, 0.5, 20))).astype(np.float32)
    found = first(stop.plateau(**numbers), observations(list(values)))
    assert (found and found[0]) == plateau_by_hand(values, **numbers)


def test_plateau_is_at_home_below_zero_and_does_not_take_nan_for_progress():
    assert first(stop.plateau(2), observations([-1.0] * 5)) == (2, Status.STOPPED, 0)
    assert first(stop.plateau(2, rtol=0.1), observations([-1.0, -1.05, -1.09, -1.2])) == (2, Status.STOPPED, 0)
    assert first(stop.plateau(2), observations([1.0, NAN, NAN, 0.5])) == (2, Status.STOPPED, 0)


@pytest.mark.usefixtures("x64")
def test_plateau_in_float64():
    # 0.1 rounded to float32 lies above 0.1: a best kept in float32 would be beaten by every 0.1 again.
    flat = lambda w: 0.1 + 1e-30 * w  # noqa: E731
    result = gdjax.minimize(flat, 1.0, gdjax.gd(0.1), stop=stop.plateau(3), max_steps=50)
    assert (result.status, int(result.steps)) == (Status.STOPPED, 3)


def test_joined_rules_stop_as_soon_as_one_does_and_say_which():
    seen = observations([5.0, 4.0, 3.0, 2.0], [8.0, 4.0, 2.0, 1.0])
    rule = stop.grad_norm(1.0) | stop.target(3.5) | stop.plateau(9)
    assert first(rule, seen) == (2, Status.STOPPED, 1)
    assert first(stop.target(3.5) | stop.grad_norm(4.0), seen) == (1, Status.CONVERGED, 1)
    both = observations([5.0, 1.0], [8.0, 1.0])
    assert first(stop.target(1.0) | stop.grad_norm(1.0), both) == (1, Status.STOPPED, 0)
    assert first(stop.grad_norm(1.0) | stop.target(1.0), both) == (1, Status.CONVERGED, 0)


def test_joining_keeps_the_states_apart():
    rule = stop.plateau(2) | (stop.plateau(4) | stop.value_change(0.1, patience=3))
    assert [m.factory.__name__ for m in rule.members()] == ["plateau", "plateau", "value_change"]
    assert first(rule, observations([1.0, 3.0, 0.5, 2.0, 0.25, 1.0, 2.0])) == (6, Status.STOPPED, 0)


def test_rules_are_pytrees_of_numbers():
    rule = stop.grad_norm(1e-3, 1e-6) | stop.target(2.0)
    assert [float(x) for x in jax.tree.leaves(rule)] == [1e-3, 1e-6, 2.0]
    assert rule == stop.grad_norm(1e-3, 1e-6) | stop.target(2.0)
    assert rule != stop.grad_norm(1e-3, 1e-6) | stop.target(3.0)
    assert pickle.loads(pickle.dumps(rule)) == rule


def test_vmap_over_targets():
    values = jnp.asarray([4.0, 3.0, 2.0, 1.0])

    def steps(target):
        rule = stop.target(target)
        one = lambda _, v: (None, stop.codes(rule, Observation(v, *[jnp.float32(1)] * 5), ())[0])  # noqa: E731
        return jnp.argmax(jax.lax.scan(one, None, values)[1] != RUNNING)

    assert jax.vmap(steps)(jnp.asarray([3.5, 1.0, 2.0])).tolist() == [1, 3, 2]


def test_rules_of_the_user():
    @stop.stop
    def after(steps):
        init = lambda: jnp.float32(0)  # noqa: E731
        return stop.Functions(init, lambda seen, k: (jnp.where(k >= steps, Status.STOPPED, RUNNING).astype(jnp.int32), k + 1))

    result = gdjax.minimize(slow, jnp.zeros(2), gdjax.gd(1e-3), stop=after(4.0) | stop.target(-1.0))
    assert (result.status, int(result.steps)) == (Status.STOPPED, 4)
    assert "(after)" in result.message


def slow(w):
    return jnp.sum((w - jnp.asarray([1.0, 2.0])) ** 2)


@pytest.mark.parametrize(
    ("rule", "status"),
    [
        (stop.grad_norm(rtol=0.1), Status.CONVERGED),
        (stop.target(0.05), Status.STOPPED),
        (stop.plateau(3), Status.STOPPED),
        (stop.value_change(1e-5, patience=2) | stop.target(-1.0), Status.CONVERGED),
        (stop.param_change(1e-3, patience=2), Status.CONVERGED),
    ],
    ids=repr,
)
def test_runs_obey_at_the_first_chance_inside_jit_and_out(rule, status):
    run = lambda w: gdjax.minimize(slow, w, gdjax.gd(0.1), stop=rule, max_steps=200, history=("value", "grad_norm", "update_norm"))  # noqa: E731
    result, traced = run(jnp.zeros(2)), jax.jit(run)(jnp.zeros(2))
    assert result.status is status
    assert (int(traced.code), int(traced.steps)) == (status, int(result.steps))
    np.testing.assert_allclose(traced.params, result.params, rtol=1e-6)
    values, norms, updates = (result.history[name].tolist() for name in ("value", "grad_norm", "update_norm"))
    shown = observations(values, norms, updates)
    shown = [one._replace(params_norm=jnp.float32(0)) for one in shown]
    assert first(rule, shown)[:2] == (int(result.steps), status)


def test_tol_and_stop_join():
    by_tol = gdjax.minimize(slow, jnp.zeros(2), gdjax.gd(0.1), tol=1e-2)
    joined = gdjax.minimize(slow, jnp.zeros(2), gdjax.gd(0.1), tol=1e-2, stop=stop.target(-1.0))
    only_stop = gdjax.minimize(slow, jnp.zeros(2), gdjax.gd(0.1), stop=stop.target(1.0))
    assert by_tol.status is joined.status is Status.CONVERGED
    assert int(by_tol.steps) == int(joined.steps)
    assert only_stop.status is Status.STOPPED
    assert "(target)" in only_stop.message
