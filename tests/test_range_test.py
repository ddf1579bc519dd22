"""The learning-rate range test against a transcription into NumPy, against thresholds that are known, and its flags."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

RANDOM = np.random.default_rng(12)
X = jnp.asarray(RANDOM.normal(size=(200, 5)), jnp.float32)
Y = X @ jnp.arange(1.0, 6.0) + 0.1 * jnp.asarray(RANDOM.normal(size=200), jnp.float32)


def loss(w, batch):
    x, y = batch
    return jnp.mean((x @ w - y) ** 2)


def bowl(w):
    return 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * w**2)


def test_equals_a_loop_in_numpy():
    found = gdjax.range_test(bowl, jnp.array([1.0, -2.0]), make_rule=lambda rate: gdjax.sgd(rate, momentum=0.5), low=1e-4, high=1.0, steps=40)
    w, velocity, values = np.array([1.0, -2.0]), np.zeros(2), []
    for rate in np.geomspace(1e-4, 1.0, 40):
        values.append(0.5 * np.sum([1, 10] * w**2))
        velocity = 0.5 * velocity + [1, 10] * w
        w = w - rate * velocity
    values, seen = np.array(values), np.isfinite(found.values)
    assert seen.sum() > 25
    np.testing.assert_allclose(np.asarray(found.values)[seen], values[seen], rtol=2e-4)
    np.testing.assert_allclose(found.learning_rates, np.geomspace(1e-4, 1.0, 40), rtol=1e-5)
    # It ends where all that was gained is lost, and as much again.
    assert (np.asarray(found.values)[seen][:-1] <= values.min() + 2 * (values[0] - values.min())).all()


@pytest.mark.parametrize("curvature", [1e-4, 1.0, 1e4])
def test_what_it_finds_scales_as_learning_rates_do(curvature):
    found = gdjax.range_test(lambda w: curvature * bowl(w), jnp.ones(2), make_rule=gdjax.gd, low=1e-3 / curvature, high=1e3 / curvature, steps=121)
    assert bool(found.moved)
    assert bool(found.diverged)
    # 2/L is 0.2 for a curvature of 10: beyond it the steep direction grows, and soon outweighs what the flat one gains.
    assert 0.1 < float(found.lowest_at) * curvature < 0.8
    assert float(found.lowest_at) < float(found.diverged_at) < 30 * float(found.lowest_at)
    assert float(found.suggestion) < float(found.lowest_at)
    assert "falls fastest" in str(found)


def test_params_stay_as_they_are_and_the_test_is_pure():
    start = jnp.ones(5)
    before = np.array(start)
    one, two = (gdjax.range_test(loss, start, (X, Y), batch_size=20, key=0) for _ in range(2))
    np.testing.assert_array_equal(start, before)
    np.testing.assert_array_equal(one.values, two.values)


def test_seeds_by_vmap_are_those_one_by_one():
    test = lambda key: gdjax.range_test(loss, jnp.ones(5), (X, Y), batch_size=20, key=key, steps=60)  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 3)
    together, alone = jax.vmap(test)(keys), [test(key) for key in keys]
    for lane, each in enumerate(alone):
        np.testing.assert_allclose(together.values[lane], each.values, rtol=1e-3)
        np.testing.assert_allclose(together.suggestion[lane], each.suggestion, rtol=1e-3)
    assert not np.array_equal(together.values[0], together.values[1])
    assert "3 tests" in str(together)


def test_one_compilation_for_all_ranges(caplog):
    go = lambda low, high: gdjax.range_test(bowl, jnp.ones(2), make_rule=gdjax.gd, low=low, high=high, steps=33)  # noqa: E731
    go(1e-4, 1.0)
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        go(1e-5, 10.0)
    assert [each.message for each in caplog.records if "Compiling" in each.message] == []


def test_it_says_when_nothing_diverged():
    found = gdjax.range_test(bowl, jnp.ones(2), make_rule=gdjax.gd, low=1e-3, high=0.1)
    assert bool(found.moved)
    assert not bool(found.diverged)
    assert np.isnan(found.diverged_at)
    assert "nothing diverged" in str(found)


def test_it_says_when_nothing_moved():
    found = gdjax.range_test(bowl, jnp.ones(2), make_rule=gdjax.gd, low=1e-9, high=1e-7)
    assert not bool(found.moved)
    assert np.isnan(found.suggestion)
    assert "hardly moved" in str(found)
    minimum = gdjax.range_test(bowl, jnp.zeros(2), make_rule=gdjax.gd)
    assert not bool(minimum.moved)
    peak = gdjax.range_test(lambda w: jnp.sum(jnp.abs(w)), jnp.zeros(2) + 1e-9, make_rule=gdjax.normalized, low=1e-3, high=10.0)
    assert not bool(peak.moved)
    assert bool(peak.diverged)
    assert "before that fell by less than a thousandth" in str(peak)


def test_negative_losses_and_losses_that_break():
    negative = gdjax.range_test(lambda w: bowl(w) - 50.0, jnp.ones(2) * 5, make_rule=gdjax.gd, low=1e-4, high=10.0)
    assert bool(negative.moved)
    assert bool(negative.diverged)
    domain = gdjax.range_test(lambda w: jnp.sum(w - jnp.log(w)), jnp.ones(2) * 3, make_rule=gdjax.gd, low=1e-3, high=1e3)
    assert bool(domain.diverged)
    assert np.isfinite(domain.suggestion)
    assert np.isfinite(domain.diverged_at)


@pytest.mark.parametrize("make", [gdjax.rule(optax.adam), gdjax.gd, lambda rate: gdjax.chain(gdjax.rule(optax.clip)(1.0), gdjax.sgd(rate)), optax.sgd])
def test_any_rule_of_a_learning_rate(make):
    found = gdjax.range_test(loss, jnp.zeros(5), (X, Y), make, batch_size=20, key=0)
    assert bool(found.moved)
    assert 1e-5 < float(found.suggestion) < 10


def test_finite_sums_aux_noise_and_16_bits():
    declared = gdjax.finite_sum(lambda w, e: (e[0] @ w - e[1]) ** 2)
    plain, of_sum = (gdjax.range_test(f, jnp.zeros(5), (X, Y), batch_size=20, key=0) for f in (loss, declared))
    np.testing.assert_allclose(plain.suggestion, of_sum.suggestion, rtol=1e-3)
    aux = gdjax.range_test(lambda w, b: (loss(w, b), w), jnp.zeros(5), (X, Y), batch_size=20, key=0, has_aux=True)
    np.testing.assert_allclose(plain.suggestion, aux.suggestion, rtol=1e-3)
    noisy = gdjax.range_test(lambda w, b, key: loss(w + 0.01 * jax.random.normal(key, w.shape), b), jnp.zeros(5), (X, Y), batch_size=20, key=0, stochastic=True)
    assert bool(noisy.moved)
    small = gdjax.range_test(bowl, jnp.ones(2, jnp.bfloat16), make_rule=gdjax.gd)
    assert small.values.dtype == jnp.float32
    assert bool(small.moved)


def test_constant_losses_offsets_and_wide_ranges():
    still = gdjax.range_test(lambda w: 0 * jnp.sum(w), jnp.ones(2))
    assert not bool(still.moved)
    assert not bool(still.diverged)
    offset = gdjax.range_test(lambda w: bowl(w) + 1000.0, jnp.ones(2), make_rule=gdjax.gd)
    assert bool(offset.moved)
    wide = gdjax.range_test(bowl, jnp.ones(2), make_rule=gdjax.gd, low=1e-30, high=1e30)
    np.testing.assert_allclose(np.asarray(wide.learning_rates)[[0, 50, -1]], [1e-30, 10 ** (-30 + 60 * 50 / 99), 1e30], rtol=1e-4)
    assert "moved in none" in str(jax.vmap(lambda w: gdjax.range_test(bowl, w, make_rule=gdjax.gd))(jnp.full((2, 2), jnp.nan)))


BAD = [
    (lambda: gdjax.range_test(bowl, jnp.ones(2), low=1e-50), ValueError, "low"),
    (lambda: gdjax.range_test(bowl, jnp.ones(2), low=jnp.array([1e-3, 1e-2])), ValueError, "vmap"),
    (lambda: gdjax.range_test(gdjax.finite_sum(lambda w, e: (e[0] @ w - e[1]) ** 2), jnp.zeros(5), (X, Y), gdjax.saga), ValueError, "only fit offers"),
    (lambda: gdjax.range_test(bowl, jnp.ones(2), low=0.0), ValueError, "low"),
    (lambda: gdjax.range_test(bowl, jnp.ones(2), low=float("nan")), ValueError, "low"),
    (lambda: gdjax.range_test(bowl, jnp.ones(2), low=1.0, high=0.1), ValueError, "low < high"),
    (lambda: gdjax.range_test(bowl, jnp.ones(2), high=float("inf")), ValueError, "high"),
    (lambda: gdjax.range_test(bowl, jnp.ones(2), steps=2), ValueError, "steps"),
    (lambda: gdjax.range_test(bowl, jnp.ones(2), make_rule=gdjax.sgd(0.1)), TypeError, "make_rule"),
    (lambda: gdjax.range_test(bowl, jnp.ones(2), make_rule=lambda rate: rate), TypeError, "make_rule"),
    (lambda: gdjax.range_test(loss, jnp.ones(5), (X, Y), batch_size=20), ValueError, "key"),
    (lambda: gdjax.range_test(loss, jnp.ones(5), (X, Y[:3]), batch_size=20, key=0), ValueError, "length"),
    (lambda: gdjax.range_test(lambda w: jnp.sum(jnp.log(w)), -jnp.ones(2)), ValueError, "finite"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
