"""Sharpness-aware rules: what they hand on, what they count, and what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import grad, loss, offered, start

import gdjax

WRAPPERS = {"sam": gdjax.sam, "asam": gdjax.asam}
every = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def one_step(rule, params, loss=loss):
    grads, extra = offered(loss, params)
    return rule.update(grads, rule.init(params), params, **extra)


@every
def test_hands_on_the_loss_of_the_neighbourhood(wrap):
    """All that the rule within is offered belongs to one function: f(· + e), at the params."""
    seen = {}

    @gdjax.rule
    def spy():
        def update(grads, state, params=None, **extra):
            seen.update(extra, grads=grads, params=params)
            return grads, state

        return lambda params: (), update

    params = start()
    one_step(wrap(spy(), radius=0.3), params)
    value, grads = seen["value_and_grad_fn"](params)
    np.testing.assert_allclose(seen["value"], value, rtol=1e-6)
    np.testing.assert_allclose(seen["value_fn"](params), value, rtol=1e-6)
    assert value > loss(params) + 0.01
    for given in (seen["grads"], seen["grad"], jax.grad(seen["value_fn"])(params)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), given, grads)
    jax.tree.map(np.testing.assert_array_equal, seen["params"], params)


def test_offsets_have_the_length_they_should():
    params, grads = start(), grad(start())
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])  # noqa: E731
    points = []

    def record(x):
        points.append(x)
        return loss(x), grad(x)

    for rule in (gdjax.sam(gdjax.gd(0.1), 0.3), gdjax.asam(gdjax.gd(0.1), 0.3, 0.05)):
        rule.update(grads, rule.init(params), params, value_and_grad_fn=record)
    offsets = [flat(point) - flat(params) for point in points]
    np.testing.assert_allclose(np.linalg.norm(offsets[0]), 0.3, rtol=1e-5)
    np.testing.assert_allclose(offsets[0] / 0.3, flat(grads) / np.linalg.norm(flat(grads)), rtol=1e-4)
    sizes = np.abs(flat(params)) + 0.05
    np.testing.assert_allclose(np.linalg.norm(offsets[1] / sizes), 0.3, rtol=1e-5)
    np.testing.assert_allclose(flat(grads) @ offsets[1], 0.3 * np.linalg.norm(sizes * flat(grads)), rtol=1e-4)


def test_asam_without_a_floor_does_not_see_a_rescaling_of_the_params():
    """F(a x) from x/a has the points of f from x, over a: e is in units of the params."""
    x, a = jnp.array([0.5, -1.0, 2.0]), jnp.array([4.0, 0.25, 2.0])
    f = lambda x: jnp.sum(jnp.array([1.0, 2.0, 3.0]) * (x - 1.0) ** 2)  # noqa: E731
    points = {}
    for name, function, params in (("f", f, x), ("scaled", lambda y: f(a * y), x / a)):
        rule = gdjax.asam(gdjax.gd(0.1), 0.2, floor=0.0)
        record = lambda y, name=name, function=function: (points.update({name: y}), jax.value_and_grad(function)(y))[1]  # noqa: E731
        rule.update(jax.grad(function)(params), rule.init(params), params, value_and_grad_fn=record)
    np.testing.assert_allclose(a * points["scaled"], points["f"], rtol=1e-6)


@every
def test_a_radius_of_zero_is_the_rule_within(wrap):
    rule, inner = wrap(gdjax.sgd(0.05, 0.9), radius=0.0), gdjax.sgd(0.05, 0.9)
    ours = gdjax.minimize(loss, start(), rule, max_steps=20)
    theirs = gdjax.minimize(loss, start(), inner, max_steps=20)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours.params, theirs.params)


@every
def test_two_evaluations_a_step_are_counted(wrap):
    result = gdjax.minimize(loss, start(), wrap(gdjax.sgd(0.01)), max_steps=7)
    assert result.evaluations in (2 * 7, 2 * 7 + 1)  # the last point's value may be asked for
    data = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    result = gdjax.fit(lambda w, x: jnp.mean((x - w[None]) ** 2), jnp.zeros(3), data, wrap(gdjax.sgd(0.01)), batch_size=8, epochs=2, key=jax.random.key(0))
    assert result.evaluations == 2 * 8
    assert result.state is not None


@every
@pytest.mark.parametrize("inner", [gdjax.nesterov(0.05), gdjax.armijo(), optax.adam(0.05)], ids=["nesterov", "armijo", "adam"])
def test_takes_rules_of_every_kind(wrap, inner):
    rule = wrap(inner, radius=1e-3)
    result = gdjax.minimize(loss, start(), rule, max_steps=150)
    assert result.value < loss(start()) - 4
    if rule.eval_params is not None:
        state = rule.init(start())
        jax.tree.map(np.testing.assert_array_equal, gdjax.eval_params(rule, state, start()), start())


def test_sam_falls_by_its_guarantee():
    """f(x₊) ≤ f(x) − ‖g‖²/(2L) + Lρ²/2 at h = 1/L, on a function that is not convex."""
    wavy = lambda x: jnp.sum(x**2 / 2 + 1.5 * jnp.cos(x))  # noqa: E731  # curvatures in [−0.5, 2.5]
    for radius in (0.01, 0.3, 2.0):
        rule, x = gdjax.sam(gdjax.gd(1 / 2.5), radius), jnp.array([3.0, -2.0, 0.1])
        for _ in range(5):
            before, norm = wavy(x), jnp.linalg.norm(jax.grad(wavy)(x))
            x = x + one_step(rule, x, wavy)[0]
            assert wavy(x) <= before - norm**2 / 5 + 2.5 * radius**2 / 2 + 1e-5


def test_sam_does_not_stay_in_a_narrow_minimum():
    """A well of width 0.1 at 2 in a wide one: gradient descent stays in it, and a neighbourhood that is wider does not."""
    wells = lambda x: x**2 / 20 - 1.2 * jnp.exp(-(((x - 2.0) / 0.1) ** 2))  # noqa: E731
    stays = gdjax.minimize(wells, 2.05, gdjax.gd(0.003), max_steps=2000)
    leaves = gdjax.minimize(wells, 2.05, gdjax.sam(gdjax.gd(0.003), 0.5), max_steps=2000)
    assert abs(stays.params - 2.0) < 0.01
    assert abs(leaves.params - 2.0) > 0.3


@every
def test_zero_gradients_break_nothing(wrap):
    """Where optax 0.2.8 has NaN; in derivatives with respect to the numbers and the params too."""
    flat = lambda x: 0.0 * jnp.sum(x)  # noqa: E731
    for rule in (wrap(gdjax.sgd(0.1)), wrap(gdjax.sgd(0.1), radius=0.0)):
        updates, state = one_step(rule, jnp.array([1.0, 0.0]), flat)
        np.testing.assert_array_equal(updates, [0.0, 0.0])
        assert state.evaluations == 1
        slopes = jax.grad(lambda rule: jnp.sum(one_step(rule, jnp.array([1.0, 0.0]), flat)[0]))(rule)
        assert all(np.isfinite(slope) for slope in slopes.leaves)


@every
@pytest.mark.parametrize("inner", [gdjax.saga(), gdjax.svrg(0.1), gdjax.average(gdjax.page()), gdjax.chain(gdjax.sag(), optax.identity())], ids=repr)
def test_rules_that_correct_gradients_are_refused(wrap, inner):
    """Their corrections would be taken at other points than the gradient: ``saga`` looks at the examples at the params themselves."""
    name = wrap.__name__
    with pytest.raises(ValueError, match=rf"^{name}: .*corrects the gradient of a batch.*not be of the neighbourhood.*type gdjax\.{name}\(gdjax\.sgd"):
        wrap(inner)


@every
def test_what_fit_offers_at_the_start_is_handed_on(wrap):
    @gdjax.rule
    def counts():
        return lambda params, *, num_examples=None: jnp.asarray(-1 if num_examples is None else num_examples), lambda grads, state, params=None: (grads, state)

    result = gdjax.fit(lambda w, x: jnp.mean((x - w) ** 2), 0.0, jnp.ones(12), wrap(counts()), batch_size=4, steps=1, key=0)
    assert result.state.progress.state.rule_state.inner == 12


def test_float16_has_room_for_small_gradients():
    """radius/‖g‖ = 2.5e5 is no float16, e is."""
    points, w = [], jnp.float16(1.0)
    rule = gdjax.asam(gdjax.sgd(0.1))
    rule.update(jnp.float16(-2e-6), rule.init(w), w, value_and_grad_fn=lambda x: (points.append(x), (x, x))[1])
    np.testing.assert_allclose(np.float32(points[0]), 1 - 0.5 * 1.01, rtol=0.05)


@every
def test_says_what_is_missing(wrap):
    rule = wrap(gdjax.sgd(0.1))
    with pytest.raises(ValueError, match="value_and_grad_fn"):
        rule.update(jnp.ones(2), rule.init(jnp.ones(2)), jnp.ones(2))
    with pytest.raises(ValueError, match="radius"):
        wrap(gdjax.sgd(0.1), radius=-1.0)
    with pytest.raises(TypeError, match="rule"):
        wrap(0.1)


@every
def test_a_line_search_within_sees_what_it_may_ask_for(wrap):
    """optax looks at the names of ``value_fn``'s arguments."""
    rows = np.linspace(-1, 1, 16, dtype=np.float32)
    result = gdjax.fit(lambda w, x: jnp.mean((x * (w - 2)) ** 2), 5.0, rows, wrap(optax.lbfgs(), radius=1e-3), batch_size=8, epochs=8, key=0)
    assert abs(float(result.params) - 2) < 0.1
