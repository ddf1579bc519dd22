"""Rules whose step comes from the value of the loss: what they refuse, what they are offered, and what they keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.parts.value_steps import growth_of_a_step, polyak_ratio

WRONG = [
    (gdjax.sps, {"lower_bound": np.inf}, ValueError, "lower_bound is inf"),
    (gdjax.sps, {"lower_bound": None}, TypeError, "lower_bound is None"),
    (gdjax.sps, {"scaling": 0.0}, ValueError, "scaling is 0.0"),
    (gdjax.sps, {"scaling": 0.3}, ValueError, "scaling is 0.3"),
    (gdjax.mom_sps, {"scaling": 0.49}, ValueError, "scaling is 0.49"),
    (gdjax.dec_sps, {"scaling": 0.4}, ValueError, "scaling is 0.4"),
    (gdjax.sps, {"growth": 0.5}, ValueError, "growth is 0.5"),
    (gdjax.sps, {"first_learning_rate": 0.0}, ValueError, "first_learning_rate is 0.0"),
    (gdjax.sps, {"steps_per_epoch": 0}, ValueError, "steps_per_epoch is 0.0"),
    (gdjax.sps, {"max_learning_rate": -1.0}, ValueError, "max_learning_rate is -1.0"),
    (gdjax.dec_sps, {"max_learning_rate": None}, TypeError, "max_learning_rate is None"),
    (gdjax.dec_sps, {"scaling": np.nan}, ValueError, "scaling is nan"),
    (gdjax.mom_sps, {"momentum": 1.0}, ValueError, "momentum is 1.0"),
    (gdjax.mom_sps, {"growth": "2"}, TypeError, "growth is '2'"),
    (gdjax.ngn, {"learning_rate": -1.0}, ValueError, "learning_rate is -1.0"),
    (gdjax.ngn, {"lower_bound": np.nan}, ValueError, "lower_bound is nan"),
    (gdjax.ali_g, {"max_learning_rate": 0.0}, ValueError, "max_learning_rate is 0.0"),
    (gdjax.ali_g, {"max_learning_rate": 0.1, "max_norm": 0.0}, ValueError, "max_norm is 0.0"),
    (gdjax.ali_g, {"max_learning_rate": 0.1, "momentum": -0.1}, ValueError, "momentum is -0.1"),
    (gdjax.momo, {"momentum": None}, TypeError, "momentum is None"),
    (gdjax.momo, {"weight_decay": -0.1}, ValueError, "weight_decay is -0.1"),
    (gdjax.stochastic_line_search, {"sufficient": 1.0}, ValueError, "sufficient is 1.0"),
    (gdjax.stochastic_line_search, {"shrink": 0.0}, ValueError, "shrink is 0.0"),
    (gdjax.stochastic_line_search, {"growth": None}, TypeError, "growth is None"),
]


@pytest.mark.parametrize(("factory", "arguments", "error", "came"), WRONG, ids=lambda value: getattr(value, "__name__", str(value)))
def test_mistakes_are_caught_at_the_call(factory, arguments, error, came):
    with pytest.raises(error, match=f"^{factory.__name__}: {came}; wanted .*: type {factory.__name__}\\("):
        factory(**arguments)


def test_a_step_grows_by_the_share_of_the_data():
    rows = jnp.zeros(25, jnp.int32)
    assert growth_of_a_step(16.0, None, rows, 100) == 2.0
    assert growth_of_a_step(16.0, 2.0, rows, 100) == 4.0  # what is given goes before what is offered
    assert growth_of_a_step(16.0, None, None, 100) == 16.0  # all examples, as far as is known


@pytest.mark.parametrize(("value", "grads", "wanted"), [(3.0, [1.0, 2.0], 0.4), (1.0, [1.0, 2.0], 0.0), (0.0, [1.0, 2.0], 0.0), (3.0, [0.0, 0.0], 0.0)])
def test_polyak_ratio(value, grads, wanted):
    ratio = functools.partial(polyak_ratio, lower_bound=1.0, dtype=jnp.float32)
    np.testing.assert_allclose(ratio(jnp.float32(value), grads=jnp.array(grads)), wanted, rtol=1e-6)
    slope = jax.grad(lambda f, g: ratio(f, grads=g), (0, 1))(jnp.float32(value), jnp.array(grads))
    assert all(np.all(np.isfinite(leaf)) for leaf in slope)


@pytest.mark.parametrize(("value", "grads"), [(np.nan, [1.0, 2.0]), (np.inf, [1.0, 2.0]), (3.0, [np.nan, 2.0]), (3.0, [np.inf, 2.0])])
def test_the_polyak_ratio_of_what_is_not_finite_is_zero(value, grads):
    assert polyak_ratio(jnp.float32(value), 0.0, jnp.array(grads), jnp.float32) == 0.0


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_polyak_ratios_neither_overflow_nor_underflow_on_the_way(size):
    """‖g‖² does, in float32."""
    ratio = polyak_ratio(jnp.float32(size), 0.0, jnp.array([3.0, 4.0]) * size, jnp.float32)
    np.testing.assert_allclose(ratio, 0.04 / size, rtol=1e-5)


OF_ANY_UNIT = {  # rules whose numbers are given for a loss in this unit
    "sps": lambda unit: gdjax.sps(growth=None),
    "dec_sps": lambda unit: gdjax.dec_sps(max_learning_rate=10.0 / unit),
    "mom_sps": lambda unit: gdjax.mom_sps(max_learning_rate=10.0 / unit),
    "ngn": lambda unit: gdjax.ngn(10.0 / unit),
    "ali_g": lambda unit: gdjax.ali_g(10.0 / unit, momentum=0.5),
    "momo": lambda unit: gdjax.momo(10.0 / unit),
    "momo, estimated": lambda unit: gdjax.momo(10.0 / unit, lower_bound=None),
    "schedule_free_polyak": lambda unit: gdjax.schedule_free_polyak(),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("make", OF_ANY_UNIT.values(), ids=OF_ANY_UNIT)
@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_compiled_steps_do_not_know_the_unit_of_the_loss(make, unit):
    """Compilers make (a/b)/c into a/(b c), and ‖g‖² is not a float32 here."""

    def end(unit):
        loss = lambda x: unit * jnp.sum(jnp.array([1.0, 3.0]) * (x - jnp.array([1.0, -2.0])) ** 2)  # noqa: E731
        return gdjax.minimize(loss, jnp.zeros(2), make(unit), max_steps=12, tol=0.0).params

    np.testing.assert_allclose(end(unit), end(1.0), rtol=2e-4)


@pytest.mark.parametrize("size", [1e-20, 1e-15, 1e15, 1e24])
def test_compiled_polyak_ratios_are_those_of_each_operation_alone(size):
    ratio = functools.partial(polyak_ratio, lower_bound=0.0, dtype=jnp.float32)
    alone = lambda size: ratio(size, grads=size * jnp.array([3.0, 4.0]))  # noqa: E731
    for call in (alone, jax.jit(alone), lambda size: jax.jit(jax.vmap(alone))(jnp.stack([size, size]))):
        np.testing.assert_allclose(call(jnp.float32(size)), 0.04 / size, rtol=1e-5)


@pytest.mark.parametrize("rule", [gdjax.sps(growth=None), gdjax.ngn(1e6), gdjax.ali_g(1e8), gdjax.momo(1e8)], ids=repr)
def test_steps_in_float16_are_finite_where_learning_rates_are_not_float16s(rule):
    """f = 1e-6 (w − 2)² at w = 1: the Polyak step of 1/(4·1e-6) is no float16, its update is at most 1."""
    w, grads = jnp.float16(1.0), jnp.float16(-2e-6)
    updates, _ = rule.update(grads, rule.init(w), w, value=jnp.float16(1e-6))
    assert updates.dtype == jnp.float16
    assert 0.25 <= updates <= 1.05
