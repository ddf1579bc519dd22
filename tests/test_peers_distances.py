"""Where peers' learning-rate-free rules go wrong, gdjax goes right. What peers do today stands in the docstrings, not in the assertions: they may mend it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax


@jax.jit
def far_fit(rule):
    """The loss before and after 300 steps of a fit in float32 whose params are far from 0."""
    start = jnp.array([1000.0, -1000.0])

    def loss(x):
        return jnp.sum(jnp.array([1.0, 0.3]) * (x - start - jnp.array([3.0, -2.0])) ** 2)

    def body(carry, _):
        x, state = carry
        updates, state = rule.update(jax.grad(loss)(x), state, x)
        return (x + updates, state), None

    (x, _), _ = jax.lax.scan(body, (start, rule.init(start)), length=300)
    return loss(start), loss(x)


def test_l_dog_keeps_the_shape_of_scalars_and_goes_downhill():
    """optax 0.2.8: ``scale_by_distance_over_gradients`` turns leaves of shape () into (1,) and its updates point uphill unless global_scale is −1."""
    params = {"weights": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array(4.0)}
    rule = gdjax.l_dog(0.01)
    state = rule.init(params)
    grads = jax.grad(lambda p: jnp.sum(p["weights"] ** 2) + p["bias"] ** 2)(params)
    updates, state = rule.update(grads, state, params)
    assert updates["bias"].shape == state.distances["bias"].shape == state.average["bias"].shape == ()
    assert updates["bias"] < 0
    np.testing.assert_allclose(updates["bias"], -0.01, rtol=1e-6)
    np.testing.assert_allclose(updates["weights"], -0.01 * params["weights"] / jnp.linalg.norm(params["weights"]), rtol=1e-6)


@pytest.mark.parametrize("name", ["dog", "l_dog", "dowg"])
def test_the_average_comes_with_the_rule(name):
    """optax 0.2.8: no averaging, which the authors of DoG hold to be crucial. Noise keeps the last point moving, as the learning rate does not decay."""
    rule, x = getattr(gdjax, name)(0.01), jnp.array([1.0, -1.0])

    def body(carry, noise):
        x, state = carry
        updates, state = rule.update(x + noise, state, x)
        x = x + updates
        return (x, state), (x, gdjax.eval_params(rule, state, x))

    noise = jax.random.normal(jax.random.key(0), (3000, 2))
    _, (last, average) = jax.lax.scan(body, (x, rule.init(x)), noise)
    assert jnp.std(average[-1000:]) < 0.5 * jnp.std(last[-1000:])


@pytest.mark.parametrize("name", ["dog", "l_dog", "dowg"])
def test_small_gradients_are_no_smaller_steps(name):
    """optax 0.2.8: ``eps`` of 1e-8 (dog) and 1e-4 (dowg) under the root; where gradients are of the order of 1e-8, steps are 1e4 times too short."""
    rule, x = getattr(gdjax, name)(0.1), jnp.array([3.0, -4.0])
    updates, _ = rule.update(1e-8 * x, rule.init(x), x)
    np.testing.assert_allclose(updates, [-0.06, 0.08], rtol=1e-6)


def test_prodigy_takes_the_first_step_of_its_authors():
    """optax 0.2.8: ``prodigy`` always corrects the bias, so its first step is √(1 − β₂)/(1 − β₁) = 0.316 times that of the authors' default."""
    x, grads = jnp.array([1.0, -2.0, 3.0]), jnp.array([0.3, -50.0, 2.0])
    rule, corrected = gdjax.prodigy(first_distance=1e-3), gdjax.prodigy(first_distance=1e-3, bias_correction=True)
    updates, _ = rule.update(grads, rule.init(x), x)
    np.testing.assert_allclose(updates, -1e-3 * np.sqrt(10) * np.sign(grads), rtol=1e-5)  # 0.1/√0.001 = √10
    updates, _ = corrected.update(grads, corrected.init(x), x)
    np.testing.assert_allclose(updates, -1e-3 * np.sign(grads), rtol=1e-5)


@pytest.mark.parametrize("learning_rate", [1e-6, 1e-3, 1.0])
def test_mechanic_moves_params_that_are_large_beside_their_steps(learning_rate):
    """optax 0.2.8: ``mechanize`` recovers Δ from the params as (x₀ − x)/s, which is 0 while s Δ is below their rounding: they never move."""
    before, after = far_fit(gdjax.mechanic(gdjax.sgd(learning_rate), weight_decay=0.0))
    assert after < 0.05 * before


def test_mechanic_keeps_the_sum_of_updates_to_the_last_digit():
    """The same in numbers: after 20 steps at a scale of 1e-6, Δ is −20 h g to float32; recovered from the params it would be 0."""
    rule, x, grads = gdjax.mechanic(gdjax.sgd(1e-3), first_scale=1e-9), jnp.full(3, 1000.0), jnp.array([1.0, -2.0, 3.0])
    state = rule.init(x)
    for _ in range(20):
        updates, state = rule.update(grads, state, x)
        x = x + updates
    np.testing.assert_array_equal(x, 1000.0)
    np.testing.assert_allclose(state.offset, -0.02 * grads, rtol=1e-5)
    assert np.sum(state.scales) > 1e-8  # and the scale has grown by what the offset earned


def test_mechanic_takes_any_optax_transformation():
    before, after = far_fit(gdjax.mechanic(optax.adam(1e-3), weight_decay=0.0))
    assert after < 0.05 * before
