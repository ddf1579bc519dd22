"""The parameter-free rules in use: low precision, derivatives of runs, masked params. Also of other rules that evaluate the loss in their updates."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import offered
from representatives import some

import gdjax

FACTORIES = (gdjax.parameter_free_adam, gdjax.parameter_free_sgd)
X = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 3.0], np.float32)


def loss(w, batch):
    return jnp.mean((batch[0] @ w.astype(jnp.result_type(w, jnp.float32)) - batch[1]) ** 2)


@pytest.mark.parametrize("start", [1.0, 10.0])
@pytest.mark.parametrize("rule", [(), (gdjax.parameter_free_sgd(300.0),), (gdjax.parameter_free_adam(),), (gdjax.parameter_free_sgd(),)], ids=str)
def test_bfloat16_trains(rule, start):
    """The next number to 10 is 0.06 away: 1 % of the distance to the minimum is below it, and a bound that counts on the way gone stays what it is."""
    w0 = jnp.full(3, start, jnp.bfloat16)
    data = (X, X @ (start + np.array([0.5, -0.5, 1.0], np.float32)))
    result = gdjax.fit(loss, w0, data, *rule, batch_size=8, steps=300, key=0)
    assert result.params.dtype == jnp.bfloat16
    assert loss(result.params, data) <= 0.02 * loss(w0, data)  # rounding to nearest at 10 leaves at most 3 · 0.03² of about 1.5


@pytest.mark.parametrize("factory", FACTORIES)
def test_far_from_zero_float32_moves_without_the_loss(factory):
    """Of gradients alone the first step is 10⁻⁶, of which 10⁴ knows nothing."""
    x = jnp.full(3, 1e4)

    def body(carry, _):
        x, state = carry
        updates, state = rule.update(2 * (x - 2.0), state, x)
        return (x + updates, state), None

    rule = factory(600.0)
    end = jax.lax.scan(body, (x, rule.init(x)), length=600)[0][0]
    assert jnp.max(jnp.abs(end - 2.0)) <= 100.0


@pytest.mark.parametrize(("factory", "longer"), [(gdjax.parameter_free_adam, 1.0), (gdjax.parameter_free_sgd, 2.0)])
def test_the_first_distance_is_what_it_was_unless_that_is_lost_in_rounding(factory, longer):
    for params, expected in (
        (jnp.zeros(4), 1e-6),
        (jnp.ones(4), 1e-6),
        (jnp.full(4, 1e4), 1e4 * 2.0**-23 * longer),
        (jnp.ones(4, jnp.bfloat16), 2.0**-7 * longer),
    ):
        assert factory(9.0).init(params).distance == jnp.float32(expected)
        assert factory(9.0, first_distance=1e-3).init(params).distance == jnp.float32(1e-3)
    assert factory(9.0).init({}).distance == jnp.float32(1e-6)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_average_is_reported_in_the_dtype_of_the_params(factory, dtype):
    """Kept in float32, or it would stand still."""
    w0 = jnp.zeros(3, dtype)
    result = gdjax.fit(loss, w0, (X, Y), factory(), batch_size=8, epochs=5, key=0, keep="best")
    state = result.state.progress.state.rule_state
    assert result.params.dtype == gdjax.eval_params(result.rule, state, w0).dtype == dtype
    assert state.average.dtype == jnp.float32
    assert loss(result.params, (X, Y)) < 0.5 * loss(w0, (X, Y))


def runs(rule, steps=6):
    """What a run ends with as a function of a number in the data, one that the loss closes over, and one in the start."""

    def run(loss, start, labels):
        return gdjax.fit(loss, start, (jnp.asarray(X, float), labels), *rule, batch_size=8, steps=steps, key=0)

    return {
        "data": lambda s: run(loss, jnp.zeros(3), jnp.asarray(Y, float) + s),
        "closed over": lambda s: run(lambda w, batch: loss(w, batch) + s * jnp.sum(w**2), jnp.zeros(3), jnp.asarray(Y, float)),
        "start": lambda s: run(loss, jnp.zeros(3) + s, jnp.asarray(Y, float)),
    }


def slopes(run, at):
    """dvalue/ds: backwards, forwards, and by central differences, of an error of 1e-6 or so."""
    value = jax.jit(lambda s: run(s).value)
    backwards, forwards = jax.grad(value)(at), jax.jvp(value, (at,), (1.0,))[1]
    return backwards, forwards, (value(at + 1e-6) - value(at - 1e-6)) / 2e-6


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("factory", "of"),
    some(
        list(itertools.product(FACTORIES, ["data", "closed over", "start"])),
        [(gdjax.parameter_free_adam, "data")].__contains__,
    ),
)
def test_runs_are_differentiable_past_the_first_bound(factory, of):
    """The first d is found by evaluations, and taken as given: the derivatives are those of the run with that number in its place."""
    at = 0.2
    rule = (factory(6.0),) if factory is gdjax.parameter_free_sgd else ()
    found = runs(rule, steps=1)[of](at).state.progress.state.rule_state.distance
    assert found > 1e-3
    backwards, forwards, _ = slopes(runs(rule)[of], at)
    given = slopes(runs((factory(6.0, first_distance=float(found)),))[of], at)
    np.testing.assert_allclose([backwards, forwards], given[0], rtol=1e-9)
    np.testing.assert_allclose(backwards, given[2], rtol=1e-5)
    assert abs(backwards) > 1e-4


@pytest.mark.one_in(3)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("of", ["data", "closed over", "start"])
def test_runs_with_a_line_search_are_differentiable(of):
    """With the number of trials as it is; steps are lengths from a list, so the loss of the trials has no part in the derivative."""
    backwards, forwards, differences = slopes(runs((gdjax.stochastic_line_search(),))[of], 0.2)
    np.testing.assert_allclose([backwards, forwards], differences, rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_the_loss_that_rules_are_offered_has_all_its_derivatives():
    """Of params, data and what the loss closes over, first and second: a rule whose steps are made of them, against the formula differentiated by hand."""
    along = jnp.array([1.0, 2.0])

    def update(grads, state, params=None, *, value_fn=None, **extra):
        slope = jax.jvp(value_fn, (params,), (along,))[1]
        return -0.1 * value_fn(params) * slope * jnp.ones(2), state

    rule = optax.GradientTransformationExtraArgs(lambda params: (), update)

    def end(s, w, label):
        _, step = gdjax.descent(lambda w, label: jnp.sum((w - label) ** 2 * jnp.array([1.0, 3.0])) * s, rule)
        return jnp.sum(step(gdjax.descent(loss, rule).init(w), label)[0].params)

    def by_hand(s, w, label):
        gap, c = w - label, jnp.array([1.0, 3.0])
        return jnp.sum(w) - 0.2 * s * jnp.sum(c * gap**2) * 2 * s * jnp.sum(c * gap * along)

    at = (0.7, jnp.array([0.3, -1.0]), jnp.array([2.0, 0.5]))
    np.testing.assert_allclose(end(*at), by_hand(*at), rtol=1e-12)
    for made, wanted in zip(jax.grad(end, (0, 1, 2))(*at), jax.grad(by_hand, (0, 1, 2))(*at), strict=True):
        np.testing.assert_allclose(made, wanted, rtol=1e-12)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("factory", FACTORIES)
def test_under_a_mask_the_first_distance_is_the_fallback(factory):
    """The loss is of all params, and a rule under a mask has some: it begins with 10⁻⁶, as without ``value_fn``."""
    params, labels = {"w": jnp.zeros(3), "b": jnp.array(0.5)}, {"w": "first", "b": "second"}
    whole = lambda p, batch: loss(p["w"], (batch[0], batch[1] - p["b"]))  # noqa: E731
    rule = optax.multi_transform({"first": factory(300.0), "second": gdjax.sgd(0.1)}, labels)
    result = gdjax.fit(whole, params, (X, Y), rule, batch_size=8, steps=300, key=0)
    assert whole(result.params, (X, Y)) <= 1e-3 * whole(params, (X, Y))
    masked, (grads, extra) = optax.masked(factory(300.0), {"w": True, "b": False}), offered(lambda p: whole(p, (X, Y)), params)
    state = masked.update(grads, masked.init(params), params, **extra)[1].inner_state
    assert state.evaluations == 0
    assert state.distance == jnp.float32(1e-6)


@pytest.mark.parametrize("rule", [gdjax.sam(gdjax.sgd(0.1)), gdjax.asam(gdjax.sgd(0.1)), gdjax.stochastic_line_search()], ids=str)
def test_rules_that_need_the_loss_of_all_params_say_so_under_a_mask(rule):
    params = {"w": jnp.zeros(3), "b": jnp.array(0.5)}
    grads, extra = offered(lambda p: loss(p["w"], (X, Y - p["b"])), params)
    for wrapped in (
        optax.masked(rule, {"w": True, "b": False}),
        optax.multi_transform({"first": rule, "second": gdjax.sgd(0.1)}, {"w": "first", "b": "second"}),
    ):
        with pytest.raises(ValueError, match=f"{str(rule).split('(')[0]}: update got params of which a mask hides .*wanted all params: "):
            wrapped.update(grads, wrapped.init(params), params, **extra)
    updates, _ = rule.update(grads, rule.init(params), params, **extra)
    assert jnp.any(updates["w"] != 0)
