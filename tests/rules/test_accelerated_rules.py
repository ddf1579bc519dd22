"""Accelerated rules: what they ask for, what they keep, and what they do at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

NEEDS_PARAMS = [gdjax.nesterov(0.1), gdjax.ogm(0.1, 5), gdjax.ogm_g(0.1, 5), gdjax.item(4.0), gdjax.triple_momentum(4.0, 0.1)]
OTHERS = [gdjax.heavy_ball(0.1, 0.9), gdjax.chebyshev(4.0, 0.1)]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gdjax.nesterov(-0.1), ValueError, "nesterov: learning_rate is -0.1; wanted a finite number ≥ 0"),
        (lambda: gdjax.nesterov(0.1, -1.0), ValueError, "nesterov: strong_convexity is -1.0; wanted 0 ≤ strong_convexity ≤ 1/learning_rate: type"),
        (lambda: gdjax.nesterov(0.1, 11.0), ValueError, "nesterov: strong_convexity is 11.0 with learning_rate 0.1; wanted 0 ≤ strong_convexity"),
        (lambda: gdjax.nesterov(0.1, 1.0, simplified=True), ValueError, "nesterov: got simplified=True with a strong convexity"),
        (lambda: gdjax.heavy_ball(0.1), ValueError, r"heavy_ball: got learning_rate; wanted learning_rate and momentum, or .*: type heavy_ball\(0.1, 0.9\)"),
        (lambda: gdjax.heavy_ball(momentum=0.9), ValueError, "heavy_ball: got momentum; wanted learning_rate and momentum, or"),
        (lambda: gdjax.heavy_ball(smoothness=4.0), ValueError, "heavy_ball: got smoothness; wanted learning_rate and momentum, or smoothness and strong"),
        (lambda: gdjax.heavy_ball(0.1, strong_convexity=1.0), ValueError, "heavy_ball: got learning_rate and strong_convexity; wanted"),
        (lambda: gdjax.heavy_ball(0.1, 0.9, smoothness=4.0, strong_convexity=1.0), ValueError, "heavy_ball: got learning_rate and momentum and smoothness"),
        (lambda: gdjax.heavy_ball(), ValueError, "heavy_ball: got nothing; wanted"),
        (lambda: gdjax.heavy_ball(0.1, 1.0), ValueError, "heavy_ball: momentum is 1.0; wanted 0 ≤ momentum < 1: type momentum=0.9"),
        (lambda: gdjax.heavy_ball(smoothness=1.0, strong_convexity=2.0), ValueError, "heavy_ball: strong_convexity is 2.0 with smoothness 1.0; wanted"),
        (lambda: gdjax.ogm(0.1), TypeError, "ogm: missing a required argument: 'steps'"),
        (lambda: gdjax.ogm(0.1, 0), ValueError, r"ogm: steps is 0.0; wanted the number of steps ≥ 1 that will be taken: type ogm\(0.1, steps=100\)"),
        (lambda: gdjax.ogm_g(0.1, 0), ValueError, "ogm_g: steps is 0; wanted an int ≥ 1"),
        (lambda: gdjax.item(0.0), ValueError, "item: smoothness is 0.0; wanted the largest curvature L > 0 of the loss: type item"),
        (lambda: gdjax.item(1.0, 2.0), ValueError, "item: strong_convexity is 2.0 with smoothness 1.0; wanted the smallest curvature of the loss, 0 ≤ μ ≤ L"),
        (lambda: gdjax.triple_momentum(1.0, 0.0), ValueError, "triple_momentum: strong_convexity is 0.0; wanted the smallest curvature .* 0 < μ ≤ L"),
        (lambda: gdjax.chebyshev(1.0, None), TypeError, "chebyshev: strong_convexity is None; wanted the smallest curvature"),
        (lambda: gdjax.schedules.silver(-1.0), ValueError, "silver: smoothness is -1.0; wanted the largest curvature L > 0"),
        (lambda: gdjax.schedules.long_steps(1.0, 0), ValueError, "long_steps: steps is 0; wanted an int ≥ 1"),
    ],
)
def test_mistakes_are_caught_at_the_call(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("rule", NEEDS_PARAMS, ids=str)
def test_params_are_asked_for(rule):
    with pytest.raises(ValueError, match=r"update got params=None; wanted the params: type rule.update\(grads, state, params\)"):
        rule.update(1.0, rule.init(1.0))


@pytest.mark.parametrize("rule", NEEDS_PARAMS + OTHERS, ids=str)
def test_a_start_at_the_minimum_is_not_left(rule):
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.float32(3.0)}
    state = rule.init(params)
    for _ in range(12):
        updates, state = rule.update(jax.tree.map(jnp.zeros_like, params), state, params)
        assert all(jnp.all(update == 0) for update in jax.tree.leaves(updates))
        assert jax.tree.all(jax.tree.map(lambda x, y: jnp.all(x == y), gdjax.eval_params(rule, state, params), params))


@pytest.mark.parametrize("rule", NEEDS_PARAMS + OTHERS, ids=str)
def test_traced_numbers_are_not_checked(rule):
    jax.jit(lambda rule: jax.tree.map(lambda number: -number, rule).init(1.0))(rule)


def test_sweeps_over_curvatures_are_one_call():
    smoothness, strong_convexity = jnp.array([2.0, 4.0, 9.0]), jnp.array([0.1, 0.2, 0.5])
    for factory in (gdjax.item, gdjax.triple_momentum, gdjax.chebyshev, lambda high, low: gdjax.heavy_ball(smoothness=high, strong_convexity=low)):
        finals = jax.vmap(lambda rule: gdjax.minimize(lambda w: (w - 1.5) ** 2 / 2, 5.0, rule, max_steps=300).params)(factory(smoothness, strong_convexity))
        np.testing.assert_allclose(finals, 1.5, atol=2e-3)


@pytest.mark.parametrize("rule", NEEDS_PARAMS + OTHERS, ids=str)
def test_equal_curvatures_are_solved_in_a_step(rule):
    exact = {"item": (4.0, 4.0), "triple_momentum": (4.0, 4.0), "chebyshev": (4.0, 4.0)}.get(rule.factory.__name__)
    if exact is None:
        rule, steps = gdjax.heavy_ball(smoothness=4.0, strong_convexity=4.0), 1
    else:
        rule, steps = rule.factory(*exact), 1
    result = gdjax.minimize(lambda w: 2 * (w - 1.5) ** 2, 5.0, rule, max_steps=steps)
    np.testing.assert_allclose(result.params, 1.5, rtol=1e-6)


def test_minimize_reports_the_point_of_the_guarantee():
    """For Nesterov x, not y; OGM ends at y."""
    result = gdjax.minimize(lambda w: (w - 2.0) ** 2, 5.0, gdjax.nesterov(0.1), max_steps=3, tol=0.0)
    np.testing.assert_allclose(result.params, 3.4278, atol=1e-4)
    result = gdjax.minimize(lambda w: (w - 2.0) ** 2, 5.0, gdjax.ogm(0.1, 3), max_steps=3, tol=0.0)
    np.testing.assert_allclose(result.params, 2.5088, atol=1e-4)


PATTERNS = {
    "silver": (gdjax.schedules.silver(4.0), 1023),
    "anytime": (gdjax.schedules.anytime(4.0), 1028),
    "long_steps": (gdjax.schedules.long_steps(4.0, 500), 500),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("schedule", "steps"), PATTERNS.values(), ids=PATTERNS)
def test_long_steps_pass_through_minimize(schedule, steps):
    """They raise the loss on the way, which is no failure; at the ends of their patterns they are within their bounds, in float32."""
    centre = jnp.array([1.0, -2.0, 0.5])
    result = gdjax.minimize(lambda w: jnp.sum(jnp.array([0.05, 1.0, 4.0]) * (w - centre) ** 2) / 2, jnp.zeros(3), gdjax.gd(schedule), max_steps=steps, tol=0.0)
    assert result.status in (gdjax.Status.MAX_STEPS, gdjax.Status.STALLED), result.message
    total = 4 * sum(float(schedule(k)) for k in range(steps))
    assert result.value <= 4 * 5.25 / (2 * (1 + 2 * total))


def test_tables_follow_the_precision():
    """A schedule and a rule made of tables, met first under jit in float32, are exact in float64 afterwards."""
    makes = (lambda: gdjax.schedules.silver(1.0), lambda: gdjax.schedules.anytime(1.0), lambda: gdjax.schedules.long_steps(1.0, 9))
    for make in makes:
        jax.jit(lambda schedule: schedule(1))(make())
        with jax.enable_x64(True):
            assert jax.jit(lambda schedule: schedule(1))(make()).dtype == jnp.float64
            assert make()(1).dtype == jnp.float64
    jax.jit(lambda rule: rule.update(1.0, rule.init(1.0), 1.0))(gdjax.ogm_g(0.1, 3))
    with jax.enable_x64(True):
        rule = gdjax.ogm_g(0.1, 1)
        updates, _ = jax.jit(lambda rule, x: rule.update(x, rule.init(x), x))(rule, jnp.float64(1.0))
        np.testing.assert_allclose(updates, -0.15, rtol=1e-15)
