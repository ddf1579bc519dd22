"""Grids and samples of rules: which lanes they hold, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import sampling, schedules
from gdjax.sampling import columns


def test_a_grid_is_the_product_with_the_last_argument_fastest():
    rules = gdjax.grid(gdjax.sgd, learning_rate=np.geomspace(0.01, 1, 3), momentum=[0.5, 0.9])
    assert isinstance(rules, gdjax.Rule)
    np.testing.assert_allclose(rules.arguments["learning_rate"], [0.01, 0.01, 0.1, 0.1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(rules.arguments["momentum"], [0.5, 0.9] * 3)


def test_lanes_of_a_grid_are_the_rules_by_themselves():
    rules = gdjax.grid(gdjax.sgd, learning_rate=[0.01, 0.1], momentum=0.9, nesterov=True)
    for lane, rate in enumerate([0.01, 0.1]):
        assert jax.tree.map(lambda x: x[lane], rules) == gdjax.sgd(np.float32(rate), momentum=np.float32(0.9), nesterov=True)  # noqa: B023


def test_values_that_change_the_structure_make_several_rules():
    rules = gdjax.grid(gdjax.sgd, learning_rate=[0.01, 0.1], momentum=[None, 0.9], nesterov=[False])
    assert [each.arguments["momentum"] is None for each in rules] == [True, False]
    assert [len(jax.tree.leaves(each)[0]) for each in rules] == [2, 2]
    assert len(gdjax.grid(gdjax.sgd, learning_rate=[0.1], momentum=0.9, nesterov=[False, True])) == 2


def test_grids_of_schedules_optax_factories_and_functions_of_ones_own():
    rules = gdjax.grid(gdjax.sgd, learning_rate=[schedules.cosine(0.1, 100.0), schedules.cosine(0.2, 100.0)])
    np.testing.assert_allclose(jax.vmap(lambda rule: rule.arguments["learning_rate"](0))(rules), [0.1, 0.2], rtol=1e-6)
    adam = gdjax.grid(optax.adam, learning_rate=[0.1, 0.2], b1=[0.8, 0.9])
    assert len(adam.arguments["b1"]) == 4
    own = gdjax.grid(lambda rate, power: gdjax.sgd(schedules.polynomial(rate, 0.0, power, 10.0)), rate=[0.1, 0.2], power=[1.0])
    assert len(jax.tree.leaves(own)[0]) == 2
    assert gdjax.grid(lambda rate: gdjax.sgd(rate), rate=[0.1]).init(jnp.zeros(2)) == gdjax.sgd(0.1).init(jnp.zeros(2))


def test_samples_are_stratified_and_follow_their_seed():
    draw = lambda key: gdjax.sample(gdjax.sgd, 50, key, learning_rate=sampling.log_uniform(1e-4, 1.0), momentum=sampling.uniform(0.0, 0.9))  # noqa: E731
    rules, again, other = draw(0), draw(jax.random.key(0)), draw(1)
    assert rules == again
    assert rules != other
    rate, momentum = (np.sort(np.asarray(rules.arguments[name], np.float64)) for name in ("learning_rate", "momentum"))
    # One in each of 50 parts of equal probability: the law of a Latin hypercube.
    np.testing.assert_array_equal(np.floor(np.log10(rate / 1e-4) / 4 * 50 + 1e-5), np.arange(50))
    np.testing.assert_array_equal(np.floor(momentum / 0.9 * 50 + 1e-5), np.arange(50))
    assert abs(np.corrcoef(np.log(rules.arguments["learning_rate"]), rules.arguments["momentum"])[0, 1]) < 0.5


def test_one_minus_log_uniform_is_log_uniform_below_one():
    far = 1 - np.array([sampling.one_minus_log_uniform(0.9, 0.999).quantile(u) for u in np.linspace(0, 1, 5)])
    np.testing.assert_allclose(far, np.geomspace(0.1, 0.001, 5))


def test_choices_may_be_anything():
    rules = gdjax.sample(gdjax.sgd, 10, 0, learning_rate=0.1, momentum=sampling.choice([None, 0.9]))
    assert sorted(len(jax.tree.leaves(each)[0]) for each in rules) == [5, 5]


def test_columns_are_named_by_their_path():
    rules = gdjax.chain(gdjax.rule(optax.clip_by_global_norm)(jnp.ones(3)), gdjax.sgd(schedules.cosine(jnp.ones(3), 10.0)))
    found = columns(rules)
    assert np.shape(found["clip_by_global_norm.max_norm"]) == (3,)
    assert np.shape(found["sgd.learning_rate.init_value"]) == (3,)
    assert columns({"rule": gdjax.sgd(jnp.ones(2)), "l2": jnp.ones(2)}).keys() >= {"rule.learning_rate", "l2"}
    assert list(columns(jnp.ones(2))) == ["value"]
    two = columns(gdjax.chain(gdjax.sgd(jnp.ones(2)), gdjax.sgd(jnp.ones(2))))
    assert {"sgd.learning_rate.0", "sgd.learning_rate.1"} <= set(two)


def test_whole_numbers_beside_others_are_numbers():
    rules = gdjax.grid(gdjax.sgd, learning_rate=[1, 2, 0.1])
    np.testing.assert_allclose(rules.arguments["learning_rate"], [1, 2, 0.1])


BAD = [
    (lambda: gdjax.grid(gdjax.sgd), ValueError, "no arguments"),
    (lambda: gdjax.grid(gdjax.sgd, learning_rate=[]), ValueError, "no values"),
    (lambda: gdjax.grid(gdjax.sgd, lr=[0.1]), TypeError, "unknown arguments lr"),
    (lambda: gdjax.grid(gdjax.sgd(0.1), learning_rate=[0.1]), TypeError, "factory"),
    (lambda: gdjax.grid(gdjax.sgd, learning_rate=[0.1, -1.0]), ValueError, "learning_rate"),
    (lambda: gdjax.grid(gdjax.sgd, learning_rate=np.ones(2000), momentum=np.ones(2000) * 0.5), ValueError, "combinations"),
    (lambda: gdjax.sample(gdjax.sgd, 0, 0, learning_rate=0.1), ValueError, "count"),
    (lambda: gdjax.sample(gdjax.sgd, 3.0, 0, learning_rate=0.1), ValueError, "count"),
    (lambda: gdjax.sample(gdjax.sgd, 3, None, learning_rate=0.1), ValueError, "key"),
    (lambda: gdjax.sample(gdjax.sgd, 3, 0, learning_rate=[0.1]), TypeError, "choice"),
    (lambda: sampling.log_uniform(0.0, 1.0), ValueError, "low < high"),
    (lambda: sampling.log_uniform(1.0, float("nan")), ValueError, "low < high"),
    (lambda: sampling.uniform(1.0, 1.0), ValueError, "low < high"),
    (lambda: sampling.uniform("a", 1.0), ValueError, "low < high"),
    (lambda: sampling.one_minus_log_uniform(0.5, 1.0), ValueError, "below 1"),
    (lambda: sampling.choice([]), ValueError, "options"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
