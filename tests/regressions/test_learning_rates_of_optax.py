"""The learning rate of an optax rule is recorded wherever it can be read, and asked for where it cannot it is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

X = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
SCHEDULE = optax.exponential_decay(0.1, 1, 0.5)
FALLING = [0.1, 0.05, 0.025, 0.0125]
READ = {
    "an argument": (gdjax.rule(optax.adam)(0.1), [0.1] * 4),
    "injected": (optax.inject_hyperparams(optax.adam)(learning_rate=0.1), [0.1] * 4),
    "an injected schedule": (optax.inject_hyperparams(optax.adam)(learning_rate=SCHEDULE), FALLING),
    "a schedule beside other counts": (gdjax.rule(optax.adamw)(SCHEDULE), FALLING),
    "in a chain": (gdjax.chain(optax.clip_by_global_norm(1.0), gdjax.rule(optax.sgd)(SCHEDULE)), FALLING),
    "none there is": (gdjax.dog(), None),
}


def loss(w, b):
    return jnp.mean((b @ w - 1) ** 2)


def fit(rule, **options):
    return gdjax.fit(loss, jnp.zeros(2), X, rule, **dict(batch_size=2, steps=4, key=0, record_every=1, history=("learning_rate",)) | options)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", READ)
def test_read(name):
    rule, rates = READ[name]
    found = fit(rule).history["learning_rate"]
    if rates is None:
        assert np.isfinite(found).all() or np.isnan(found).all()
    else:
        np.testing.assert_allclose(found, rates, rtol=1e-6)
        result = gdjax.minimize(lambda w: jnp.sum((w - 3) ** 2), jnp.zeros(2), rule, tol=0.0, max_steps=4, history=("learning_rate",))
        np.testing.assert_allclose(result.history["learning_rate"][1:], rates, rtol=1e-6)


@pytest.mark.parametrize(
    "rule", [optax.adam(1e-3), optax.chain(optax.scale_by_adam(), optax.scale(-1e-3)), gdjax.chain(optax.adam(1e-3))], ids=["adam", "chain", "ours"]
)
def test_refused_before_anything_is_computed(rule):
    calls = []

    def counted(w, b=X):
        calls.append(None)
        return loss(w, b)

    runs = [
        lambda: gdjax.fit(counted, jnp.zeros(2), X, rule, batch_size=2, steps=4, key=0, history=("learning_rate",)),
        lambda: gdjax.fit(counted, jnp.zeros(2), X, rule, batch_size=None, steps=4, history=("learning_rate",)),
        lambda: gdjax.minimize(counted, jnp.zeros(2), rule, history=("learning_rate",)),
    ]
    for run in runs:
        with pytest.raises(ValueError, match=r"learning_rate.*cannot be read from.*gdjax.rule\(optax.adam\)\(1e-3\)"):
            run()
    assert not calls
    assert fit(rule, history=("value",)).history["value"].shape == (4,)


class Endless:
    """Batches without an end."""

    def __iter__(self):
        while True:
            yield X[:2]


def test_what_an_epoch_decides_where_none_ends():
    with pytest.warns(UserWarning, match=r"No epoch ended in 3 steps \(an epoch has 4\), so patience and stop, .* type steps=40 or epochs=10"):
        fit(gdjax.sgd(0.1), steps=3, patience=2, stop=gdjax.stop.target(0.0))
    with pytest.warns(UserWarning, match=r"No epoch ended in 5 steps \(the stream had not ended then\), so patience, .*islice"):
        made = gdjax.fit(loss, jnp.zeros(2), Endless(), gdjax.sgd(0.1), batch_size=None, steps=5, patience=2, validation=X, keep="best")
    assert int(made.best_step) == 5
    np.testing.assert_allclose(made.best_validation, loss(made.params, X), rtol=1e-6)
    fit(gdjax.sgd(0.1), steps=3, stop=gdjax.stop.time_limit(60.0))
    jax.jit(lambda: fit(gdjax.sgd(0.1), steps=3, patience=2))()
