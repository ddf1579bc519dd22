"""Suggested learning rates: against rates that theory knows, against sweeps of one's own, and what is said and refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.diagnose import suggestion, trials

RANDOM = np.random.default_rng(13)
X = jnp.asarray(RANDOM.normal(size=(256, 4)), jnp.float32)
Y = X @ jnp.arange(1.0, 5.0) + 0.3 * jnp.asarray(RANDOM.normal(size=256), jnp.float32)


def loss(w, batch):
    x, y = batch
    return jnp.mean((x @ w - y) ** 2)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gradient_descent_on_a_quadratic(scale):
    """With all directions as long, the best constant learning rate of k steps tends to 2/(L + μ): min over h of max(|1 − hμ|, |1 − hL|)."""
    curvatures = scale * jnp.array([1.0, 4.0, 9.0])
    found = gdjax.suggest(lambda w: 0.5 * jnp.sum(curvatures * w**2), jnp.ones(3), steps=25)
    assert 0.5 < found.learning_rate / (2 / (10 * scale)) < 1.1
    assert found.learning_rate < float(found.smoothness.stable_below())
    assert found.low <= found.learning_rate <= found.high
    assert found.value < 1e-3 * found.initial_value
    assert "2/L at the start" in str(found)
    assert "fail" in str(found)  # the larger ones


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "make", [None, lambda h: gdjax.sgd(h), lambda h, steps: gdjax.rule(optax.adam)(gdjax.schedules.cosine(h, steps))], ids=["default", "sgd", "adam"]
)
def test_within_a_factor_2_of_a_sweep(make):
    found = gdjax.suggest(loss, jnp.zeros(4), (X, Y), make, batch_size=16, steps=64, key=0)
    rule_of = {None: lambda h: gdjax.sgd(gdjax.schedules.cosine(h, 64.0), momentum=0.9)}.get(make, make)
    rates = found.learning_rate * 2.0 ** (np.arange(-8, 9) / 2)

    def run(rule, key):
        return loss(gdjax.fit(loss, jnp.zeros(4), (X, Y), rule, batch_size=16, steps=64, key=key).params, (X, Y))

    rules = [rule_of(float(h)) if make is None or make.__code__.co_argcount == 1 else rule_of(float(h), 64.0) for h in rates]
    swept = gdjax.sweep(run, gdjax.sampling.stacked(rules), keys=[100, 101, 102, 103])
    best = float(rates[int(swept.order()[0])])
    here = float(swept.means[8])
    assert 0.49 < found.learning_rate / best < 2.05 or here < swept.means.min() + 0.01 * found.initial_value
    assert np.isfinite(swept.scores[8]).all()
    assert found.rule == rules[8]
    assert found.confidence in ("sure", "fairly sure", "not sure")
    assert found.sure is (found.confidence == "sure")
    assert (np.diff(found.learning_rates) >= 0).all()
    assert found.evaluations >= suggestion.THOROUGH.runs * 64


def test_it_is_deterministic_and_leaves_params_alone():
    start = jnp.zeros(4)
    one, two = (gdjax.suggest(loss, start, (X, Y), batch_size=16, steps=20, key=3) for _ in range(2))
    assert one.learning_rate == two.learning_rate
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(start, 0)


def test_params_drawn_anew_for_every_trial():
    found = gdjax.suggest(loss, lambda key: jax.random.normal(key, (4,)), (X, Y), batch_size=16, steps=30, key=3)
    assert 1e-3 < found.learning_rate < 0.5


def test_where_larger_rates_fail_it_stays_below():
    """A cliff: past x = 1.2 the loss is infinite, so that rates which overshoot there fail."""

    def cliff(x):
        return jnp.where(x < 1.2, (x - 1.0) ** 2, jnp.inf)

    found = gdjax.suggest(cliff, jnp.float32(0.0), steps=5, make_rule=lambda h: gdjax.gd(h))
    assert np.isfinite(float(gdjax.minimize(cliff, 0.0, gdjax.gd(found.learning_rate), max_steps=5).value))
    assert found.learning_rate < 0.61


def test_full_batches_runs_that_converge_sooner_are_better():
    found = gdjax.suggest(loss, jnp.zeros(4), (X, Y), gdjax.gd, steps=400)
    values = np.linalg.eigvalsh(2 * np.asarray(X, float).T @ np.asarray(X, float) / 256)
    assert 0.5 < found.learning_rate / (2 / (values[0] + values[-1])) < 1.2


def test_validation_decides():
    """On data that point the other way, the smallest learning rate is the best."""
    towards = gdjax.suggest(loss, jnp.zeros(4), (X, Y), batch_size=16, steps=20, key=0)
    away = gdjax.suggest(loss, jnp.zeros(4), (X, Y), batch_size=16, steps=20, key=0, validation=(X, -Y))
    assert away.learning_rate < towards.learning_rate / 50


def test_a_smaller_budget_makes_shorter_trials():
    found = gdjax.suggest(loss, jnp.zeros(4), (X, Y), batch_size=16, steps=330, key=0, budget=suggestion.LEAN.runs / 10)
    assert found.steps == 33
    assert found.evaluations < 330 * 10
    assert 0.001 < found.learning_rate < 1
    whole = gdjax.suggest(loss, jnp.zeros(4), (X, Y), batch_size=16, steps=60, key=0, budget=10)
    assert whole.steps == 60
    assert len(whole.learning_rates) >= suggestion.LEAN.runs
    short = gdjax.suggest(loss, jnp.zeros(4), (X, Y), batch_size=16, steps=60, key=0, budget=0.2)  # the schedule ends long before a range test does
    assert short.steps == 2
    assert short.value < short.initial_value


def test_at_a_minimum_it_is_not_sure():
    found = gdjax.suggest(lambda w: jnp.sum(w**2), jnp.zeros(2), steps=10)
    assert (found.sure, found.confidence) == (False, "not sure")
    assert "is that a minimum" in str(found)


def test_aux_and_flat_starts():
    aux = lambda w, batch: (loss(w, batch), {"mean": jnp.mean(w)})  # noqa: E731
    plain, with_aux = (gdjax.suggest(f, jnp.zeros(4), (X, Y), batch_size=16, steps=20, key=0, has_aux=f is aux) for f in (loss, aux))
    assert with_aux.learning_rate == pytest.approx(plain.learning_rate, rel=1e-4)
    saddle = gdjax.suggest(lambda w: jnp.sum((w**2 - 1) ** 2), jnp.full(2, 1e-4), steps=100)  # curvature −4 at the start: no 2/L there
    assert saddle.value < 1e-3
    assert "bounds no learning rate" in str(saddle)


def test_the_losses_are_those_of_the_runs():
    """Of two wells the lower one is found by other learning rates than the one next to the start: what converged somewhere else has another loss."""

    def wells(x):
        return (x**2 - 1) ** 2 + 0.3 * x

    found = gdjax.suggest(wells, 1.6, steps=200)
    for rate, value in zip(found.learning_rates[::3], found.values[::3], strict=True):
        alone = gdjax.minimize(wells, 1.6, gdjax.gd(np.float32(rate)), max_steps=200)
        if np.isfinite(value):
            assert float(alone.value) == pytest.approx(value, abs=1e-4)
        else:
            assert alone.status in (gdjax.Status.DIVERGED, gdjax.Status.NONFINITE)
    assert float(gdjax.minimize(wells, 1.6, gdjax.gd(found.learning_rate), max_steps=200).value) == pytest.approx(found.values.min(), abs=1e-3)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("key", range(4))
def test_trials_are_judged_by_their_own_starts(key):
    """Starts whose losses differ by powers of ten: the learning rates do not depend on them."""
    valley = lambda w: jnp.sum(jnp.array([1.0, 30.0]) * w**2)  # noqa: E731
    found = gdjax.suggest(valley, lambda k: jax.random.normal(k, (2,)) * jnp.exp(3 * jax.random.normal(k, ())), steps=3, key=key)
    assert 0.003 < found.learning_rate < 0.034


@pytest.mark.full
def test_modules_that_can_be_called_are_params():
    net = eqx.nn.MLP(4, 1, 4, 1, key=jax.random.key(0))
    params, static = eqx.partition(net, eqx.is_inexact_array)
    squares = lambda p, b: jnp.mean((jax.vmap(eqx.combine(p, static))(b[0])[:, 0] - b[1]) ** 2)  # noqa: E731
    assert gdjax.suggest(squares, params, (X, Y), batch_size=16, steps=20, key=0, budget=7).value < 20


@pytest.mark.one_in(2)
@pytest.mark.parametrize("make", [optax.adamw, lambda h, steps: optax.sgd(optax.cosine_decay_schedule(h, steps))])
def test_optax_factories_as_they_are(make):
    found = gdjax.suggest(loss, jnp.zeros(4), (X, Y), make, batch_size=16, steps=20, key=0, budget=7)
    assert 1e-3 < found.learning_rate < 20


def test_the_edge_of_what_was_tried_is_not_sure():
    found = gdjax.suggest(lambda w: -w, 0.0, steps=10)
    assert (found.sure, found.confidence) == (False, "not sure")
    assert "at the edge" in str(found)


def test_where_single_orders_disagree_there_are_more(monkeypatch):
    few = gdjax.suggest(loss, jnp.zeros(4), (X, Y), batch_size=16, steps=20, key=0)
    monkeypatch.setattr(trials, "FAIRLY", 0.0)
    monkeypatch.setattr(trials, "SHARE", 0.0)
    more = gdjax.suggest(loss, jnp.zeros(4), (X, Y), batch_size=16, steps=20, key=0)
    rates = len(suggestion.THOROUGH.fine)
    assert (more.evaluations - few.evaluations) % (rates * 3 * 20) == 0
    assert more.evaluations == few.evaluations + trials.AGAIN * rates * 3 * 20
    assert 0.5 <= more.learning_rate / few.learning_rate <= 2


BAD = [
    (lambda: gdjax.suggest(loss, jnp.zeros(4), (X, Y), lambda h: gdjax.dog(), batch_size=16, steps=5, key=0), TypeError, "of every learning rate"),
    (lambda: gdjax.suggest(loss, jnp.zeros(4), (X, Y), batch_size=16, steps=5, key=0, validation=(X[:, :2], Y)), ValueError, "validation"),
    (lambda: gdjax.suggest(lambda w: (jnp.sum(w**2), 1), jnp.ones(2), steps=5), TypeError, "has_aux"),
    (lambda: gdjax.suggest(loss, jnp.zeros(4), (X, Y), batch_size=16, steps=20), ValueError, "key"),
    (lambda: gdjax.suggest(loss, jnp.zeros(4), (X, Y), batch_size=16, steps=0, key=0), ValueError, "steps"),
    (lambda: gdjax.suggest(loss, jnp.zeros(4), (X, Y), gdjax.sgd(0.1), batch_size=16, steps=5, key=0), TypeError, "make_rule"),
    (lambda: gdjax.suggest(loss, jnp.zeros(4), (X, Y), lambda h: h, batch_size=16, steps=5, key=0), TypeError, "make_rule"),
    (lambda: gdjax.suggest(loss, jnp.zeros(4), (X, Y), batch_size=16, steps=5, key=0, budget=0), ValueError, "budget"),
    (lambda: gdjax.suggest(loss, jnp.zeros(4), iter([]), batch_size=16, steps=5, key=0), TypeError, "stream"),
    (lambda: gdjax.suggest(lambda w: jnp.sum(w**2), jnp.zeros(4), batch_size=16, steps=5, key=0), ValueError, "without data"),
    (lambda: gdjax.suggest(lambda w: jnp.sum(jnp.log(w)), -jnp.ones(4), steps=5), ValueError, "wanted finite"),
    (lambda: jax.jit(lambda w: gdjax.suggest(lambda w: jnp.sum(w**2), w, steps=5).learning_rate)(jnp.ones(2)), ValueError, "inside jit"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
