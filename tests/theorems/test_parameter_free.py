"""The parameter-free rules: their bound of the distance is one, and no units or bad batches upset them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from problems import offered

import gdjax

RULES = [gdjax.parameter_free_adam, gdjax.parameter_free_sgd]
MATRIX = np.array([[2.0, 0.3, -0.5], [0.1, 1.5, 0.2], [-1.0, 0.4, 0.7], [0.6, -0.9, 1.1]])
LOSSES = {
    "quadratic": lambda x: jnp.sum((MATRIX @ x) ** 2) / 2,
    "absolute": lambda x: jnp.sum(jnp.abs(MATRIX @ x)),
    "huber": lambda x: jnp.sum(jnp.sqrt(1 + (MATRIX @ x) ** 2) - 1),
    "largest": lambda x: jnp.max(jnp.abs(MATRIX @ x)),
}


def states(rule, loss, x, steps):
    """(points, states) after each step, stacked."""

    def body(carry, _):
        x, state = carry
        grads, extra = offered(loss, x)
        updates, state = rule.update(grads, state, x, **extra)
        return (x + updates, state), (x + updates, state)

    return jax.lax.scan(body, (x, rule.init(x)), length=steps)[1]


@pytest.mark.one_in(3)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("factory", RULES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("betas", [(0.9, 0.99, 0.99), (0.0, 0.9, 0.5), (0.5, 0.999, 0.0)])
def test_the_distance_is_bounded_from_below_on_convex_losses(factory, loss, betas):
    norm = np.max if factory is gdjax.parameter_free_adam else np.linalg.norm
    for scale in (1e-3, 1.0, 1e4):
        start = scale * np.array([1.0, -2.0, 0.5])  # the minimum is at 0
        found = np.asarray(jax.jit(lambda rule, x: states(rule, LOSSES[loss], x, 200)[1].distance)(factory(200.0, betas=betas), start))
        assert np.all(np.diff(found) >= 0)
        assert found[-1] <= norm(np.abs(start)) * (1 + 1e-9)
        assert found[-1] >= 0.02 * norm(np.abs(start))  # and no idle one: the first guess is below 1 % of it


@pytest.mark.one_in(2)
@pytest.mark.parametrize("factory", RULES)
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_gets_there_whatever_the_units_of_the_params(factory, scale):
    start = jnp.array([1.0, -2.0, 0.5]) * scale
    loss = lambda x: LOSSES["quadratic"](x / scale) * 1e3  # noqa: E731
    values = jax.jit(lambda rule, x: jax.vmap(loss)(states(rule, loss, x, 400)[0]))(factory(400.0), start)
    assert values[-1] <= 1e-4 * loss(start)


@pytest.mark.parametrize("factory", RULES)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_units_of_the_loss_do_not_matter(factory, scale):
    start = jnp.array([1.0, -2.0, 0.5])
    run = jax.jit(lambda rule, scale: states(rule, lambda x: scale * LOSSES["quadratic"](x), start, 50)[0])
    np.testing.assert_allclose(run(factory(50.0), jnp.float32(scale)), run(factory(50.0), jnp.float32(1.0)), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("factory", RULES)
def test_the_first_bound_holds_and_is_counted(factory):
    start = jnp.array([3.0, 0.0, 0.0])
    loss = lambda x: jnp.abs(x[0])  # noqa: E731
    grads, extra = offered(loss, start)
    _, state = factory(100.0).update(grads, factory(100.0).init(start), start, **extra)
    # It falls at c = 10⁻⁶, ..., 1, and rises at 10: seven lengths at which f − f(x − c u) = c and one more. The best is 1, ‖g‖ = 1.
    assert state.evaluations == 8
    np.testing.assert_allclose(state.distance, 0.01, rtol=1e-5)
    silent = factory(100.0).update(grads, factory(100.0).init(start), start)[1]
    assert silent.evaluations == 0
    np.testing.assert_allclose(silent.distance, 1e-6, rtol=1e-6)


@pytest.mark.parametrize("factory", RULES)
def test_fit_counts_what_the_first_bound_costs(factory):
    data = (jnp.linspace(-1.0, 1.0, 40), jnp.linspace(2.0, 4.0, 40))
    loss = lambda w, batch: jnp.mean((w[0] + w[1] * batch[0] - batch[1]) ** 2)  # noqa: E731
    result = gdjax.fit(loss, jnp.zeros(2), data, factory(60.0), batch_size=8, steps=60, key=0)
    more = int(result.evaluations) - 60
    assert 2 <= more <= 14
    np.testing.assert_allclose(result.params, [3.0, 1.0], atol=0.05)


@pytest.mark.parametrize("factory", RULES)
def test_a_broken_batch_is_left_out(factory):
    rule, x = factory(10.0), jnp.ones(3)
    grads, extra = offered(LOSSES["quadratic"], x)
    _, state = rule.update(grads, rule.init(x), x, **extra)
    for bad in (jnp.nan, jnp.inf):
        updates, after = rule.update(grads.at[1].set(bad), state, x, **extra)
        np.testing.assert_array_equal(updates, 0)
        jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.parametrize("factory", RULES)
def test_without_an_end_the_average_is_reported_and_settles(factory):
    key = jax.random.key(0)
    noise = jax.random.normal(key, (2000, 3))
    loss = lambda x, batch: jnp.mean(jnp.sum((x[None] - 1.0 - batch) ** 2, -1))  # noqa: E731
    result = gdjax.fit(loss, jnp.zeros(3), noise, factory(), batch_size=10, epochs=10, key=0)
    # An average of the last ninth or so of 2000 steps: its error is that of about 200 batches of 10, of variance 1/10 each, and the data's own mean is known.
    np.testing.assert_allclose(result.params, 1.0 + noise.mean(0), atol=6 * np.sqrt(0.1 / 200))
    np.testing.assert_array_equal(result.params, gdjax.eval_params(result.rule, result.state.progress.state.rule_state, result.params))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("factory", RULES)
def test_weight_decay_is_decoupled(factory):
    rule, x = factory(30.0, weight_decay=0.3, first_distance=0.1), jnp.array([1.0, -2.0, 0.5])

    def oracle(x):
        return MATRIX.T @ MATRIX @ x

    path = getattr(reference, factory.__name__)(oracle, x, 30, **rule.arguments)
    np.testing.assert_allclose(states(rule, LOSSES["quadratic"], x, 30)[0], path[1:], rtol=1e-10)
    plain = states(factory(30.0, first_distance=0.1), LOSSES["quadratic"], x, 30)[0]
    assert np.abs(plain - path[1:]).max() > 1e-3


def test_a_zero_gradient_gives_a_zero_step():
    for factory in RULES:
        rule, x = factory(10.0), jnp.ones(3)
        updates, state = rule.update(jnp.zeros(3), rule.init(x), x, value=jnp.float32(1.0), value_fn=lambda x: jnp.float32(1.0))
        np.testing.assert_array_equal(updates, 0)
        assert jnp.isfinite(state.distance)
        assert state.evaluations == 14


@pytest.mark.parametrize("factory", RULES)
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (dict(steps=0.0), "steps"),
        (dict(steps=float("nan")), "steps"),
        (dict(learning_rate=-1.0), "learning_rate"),
        (dict(betas=(0.9, 0.99)), "three numbers"),
        (dict(betas=(0.9, 1.0, 0.9)), r"betas\[1\]"),
        (dict(first_distance=0.0), "first_distance"),
        (dict(weight_decay=-0.1), "weight_decay"),
    ],
)
def test_bad_arguments_are_named(factory, arguments, text):
    with pytest.raises(ValueError, match=f"{factory.__name__}: .*{text}"):
        factory(**arguments)
