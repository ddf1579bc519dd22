"""Where the searches of peers go wrong, gdjax goes right. What peers do today stands in the docstrings, not in the assertions: they may mend it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

RULES = {"armijo": gdjax.armijo(), "accelerated": gdjax.accelerated(), "nonlinear_cg": gdjax.nonlinear_cg()}
every = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def step(rule, loss, state, x, **more):
    value_and_grad = jax.value_and_grad(loss)
    value, grads = value_and_grad(x)
    return rule.update(grads, state, x, value=value, grad=grads, value_fn=loss, value_and_grad_fn=value_and_grad, **more)


@every
def test_a_search_that_met_only_nan_is_not_the_last(rule):
    """optax 0.2.8: ``scale_by_backtracking_linesearch`` stores the learning rate 0 after a search of NaN alone, and 0 · increase_factor = 0 for ever."""
    x = jnp.array([1.0, -2.0])
    bowl = lambda x: jnp.sum(x**2)  # noqa: E731
    blind = lambda y: jnp.where(jnp.all(y == x), bowl(y), jnp.nan)  # noqa: E731
    updates, state = step(rule, blind, rule.init(x), x)
    np.testing.assert_array_equal(updates, 0.0)
    for scale in (2.0, 1.0):  # another loss, as the next batch is
        updates, state = step(rule, lambda y, scale=scale: scale * bowl(y), state, x)
        x = x + updates
    assert bowl(x) < 1.0


@pytest.mark.one_in(2)
@every
@pytest.mark.parametrize("first", [1e6, 1e30])
def test_a_search_out_of_trials_does_not_climb(rule, first):
    """optax 0.2.8: with ``max_backtracking_steps=3`` a step from f = 1.4e7 to 1.5e19 was returned, and no word of it."""
    loss = lambda x: jnp.sum(x**4) * 1e3  # noqa: E731
    x = jnp.array([10.0, -3.0])
    if "first_learning_rate" in rule.arguments:
        rule = rule.factory(first_learning_rate=first)
    before, state = loss(x), rule.init(x)
    for _ in range(4):
        updates, state = step(rule, loss, state, x)
        x = x + updates
        assert loss(gdjax.eval_params(rule, state, x)) <= before


@every
def test_unknown_arguments_are_ignored(rule):
    """optax 0.2.8: its line searches raise TypeError for an extra argument that ``value_fn`` does not name."""
    x = jnp.array([1.0, -2.0])
    updates, _ = step(rule, lambda x: jnp.sum(x**2), rule.init(x), x, indices=jnp.arange(3), never_heard_of=1)
    assert np.all(np.isfinite(updates))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("first", [None, 1e-8, 1.0, 1e8])
@pytest.mark.parametrize("restart", ["gradient", "function", None])
def test_accelerated_descends_where_curvatures_are_huge(first, restart):
    """jaxopt 0.8.5: ``GradientDescent(acceleration=True)`` returns NaN for (1e8 x² + y²)/2 in 177 iterations."""
    loss = lambda x: (1e8 * x[0] ** 2 + x[1] ** 2) / 2  # noqa: E731
    result = gdjax.minimize(loss, jnp.array([1.0, 1.0]), gdjax.accelerated(first, restart=restart), max_steps=177)
    assert float(result.value) <= 0.5001
    assert np.all(np.isfinite(result.params))


@pytest.mark.usefixtures("x64")
def test_the_learning_rate_of_accelerated_ends_near_one_over_the_curvature():
    """jaxopt 0.8.5: it ends at 3.1/L for L = 100. On 50 x² each h ≤ 1/L stands and no other."""
    loss = lambda x: 50 * jnp.sum(x**2)  # noqa: E731
    for first in (1e-8, 1e8):
        rule, x = gdjax.accelerated(first), jnp.array([3.0, -1.0])
        state = rule.init(x)
        for _ in range(12):
            updates, state = step(rule, loss, state, x)
            x = x + updates
            if jnp.linalg.norm(state.x) < 1e-4:
                break
            assert 0.4 / 100 * (1 - 1e-6) <= state.learning_rate <= 1 / 100 * (1 + 1e-6)


@pytest.mark.usefixtures("x64")
def test_armijo_begins_where_the_last_search_ended():
    """optimistix 0.0.10: ``BacktrackingArmijo`` begins at ``step_init`` = 1 in every step, 20 halvings each for a curvature of 1e6."""
    loss = lambda x: 5e5 * jnp.sum(jnp.array([1.0, 0.1]) * x**2)  # noqa: E731
    rule, x = gdjax.armijo(first_learning_rate=1.0), jnp.array([1.0, 1.0])
    state, counts = rule.init(x), []
    for _ in range(10):
        before = state.evaluations
        updates, state = step(rule, loss, state, x)
        x, counts = x + updates, [*counts, int(state.evaluations - before)]
    assert counts[0] <= 10
    assert max(counts[1:]) <= 3
