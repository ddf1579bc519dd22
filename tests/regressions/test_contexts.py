"""Every door in the contexts of JAX that change what is allowed around it: a right result in each."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

WEIGHTS = np.array([1.0, -2.0, 0.5])
X = jnp.asarray(np.random.default_rng(0).normal(size=(34, 3)), jnp.float32)
Y = X @ jnp.asarray(WEIGHTS, jnp.float32)
START, RATES, KEYS = jnp.zeros(3), gdjax.sgd(jnp.array([0.05, 0.1])), jax.random.split(jax.random.key(0), 2)


def loss(w, batch):
    return jnp.mean(jnp.square(batch[0] @ w - batch[1]))


def of_all(w):
    return loss(w, (X, Y))


SUM = gdjax.finite_sum(lambda w, row: jnp.square(row[0] @ w - row[1]))


class Stream:
    def __iter__(self):
        return iter([(X[i : i + 8], Y[i : i + 8]) for i in range(0, 32, 8)])


def fit(loss_fn=loss, rule=None, data=(X, Y), **options):
    return gdjax.fit(loss_fn, START, data, gdjax.sgd(0.1) if rule is None else rule, **({"batch_size": 8, "epochs": 30, "key": 0} | options)).params


def resumed():
    first = gdjax.minimize(of_all, START, gdjax.gd(0.1), max_steps=40)
    return gdjax.minimize(of_all, START, gdjax.gd(0.1), max_steps=200, resume=first.state).params


def swept():
    run = lambda rule, key: gdjax.fit(loss, START, (X, Y), rule, batch_size=8, epochs=30, key=key)  # noqa: E731
    return np.asarray(gdjax.sweep(run, RATES, keys=KEYS).results.params)[1, 0]


def many_starts():
    found = gdjax.multistart(lambda start: gdjax.minimize(of_all, start, gdjax.gd(0.1)), lambda key: jax.random.normal(key, (3,)), 2, key=0)
    return found.best.params


def close(result):
    return np.allclose(np.asarray(result), WEIGHTS, atol=0.05)


DOORS = {
    "minimize": (lambda: gdjax.minimize(of_all, START).params, close),
    "minimize, all columns": (
        lambda: gdjax.minimize(of_all, START, gdjax.gd(0.1), history=("value", "grad_norm", "update_norm", "learning_rate", "evaluations")).params,
        close,
    ),
    "minimize, under jit": (jax.jit(lambda: gdjax.minimize(of_all, START, gdjax.gd(0.1)).params), close),
    "minimize, resumed": (resumed, close),
    "fit": (fit, close),
    "fit, with everything": (
        lambda: fit(validation=(X, Y), keep="best", record_every=3, stop=gdjax.stop.value_change(1e-12), callbacks=[lambda report: None]),
        close,
    ),
    "fit, a schedule": (lambda: fit(rule=gdjax.sgd(gdjax.schedules.cosine(0.2, 150), 0.5)), close),
    "fit, ragged sum": (lambda: fit(SUM, batch_size=16, epochs=50), close),
    "fit, saga": (lambda: fit(SUM, gdjax.saga(), batch_size=1), close),
    "fit, page": (lambda: fit(SUM, gdjax.page(0.05), batch_size=2), close),
    "fit, whole": (lambda: fit(batch_size=None, epochs=100), close),
    "fit, whole in chunks": (lambda: fit(SUM, batch_size=None, epochs=100, chunk_size=5), close),
    "fit, stream": (lambda: fit(data=Stream(), batch_size=None), close),
    "fit, mapped": (lambda: np.asarray(jax.vmap(lambda key: fit(key=key))(KEYS))[0], close),
    "evaluate": (lambda: gdjax.evaluate(SUM, START, (X, Y)), lambda value: np.allclose(np.asarray(value), np.mean(np.square(np.asarray(Y))), rtol=1e-5)),
    "sweep": (swept, close),
    "multistart": (many_starts, close),
    "smoothness": (
        lambda: gdjax.smoothness(of_all, START).largest,
        lambda largest: np.allclose(np.asarray(largest), np.linalg.eigvalsh(np.asarray(2 * X.T @ X / 34))[-1], rtol=0.01),
    ),
    "range_test": (lambda: gdjax.range_test(of_all, START), lambda found: bool(found.diverged)),
}


@contextlib.contextmanager
def every_check():
    with jax.debug_nans(True), jax.debug_infs(True), jax.debug_key_reuse(True), jax.transfer_guard("disallow"):
        yield


@pytest.mark.one_in(3)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("context", [every_check, lambda: jax.numpy_dtype_promotion("strict")], ids=["every check", "strict promotion"])
def test_doors_work_in_contexts(door, context):
    run, right = DOORS[door]
    with context():
        found = run()
    assert right(found), found


def test_a_true_nan_is_reported_or_raised_where_it_came_from():
    edge = lambda w: jnp.sqrt(w) + w  # noqa: E731
    with jax.debug_nans(True):
        assert gdjax.minimize(edge, 1.0, gdjax.gd(0.9)).status is gdjax.Status.NONFINITE
        with pytest.raises(ValueError, match="At the params given, the loss is nan"):
            gdjax.minimize(edge, -1.0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_diagnosis_of_narrow_params_under_strict_promotion(dtype):
    with jax.numpy_dtype_promotion("strict"):
        x, y, start = X.astype(dtype), Y.astype(dtype), START.astype(dtype)
        largest = gdjax.smoothness(loss, start, (x, y)).largest
    np.testing.assert_allclose(float(largest), np.linalg.eigvalsh(np.asarray(2 * X.T @ X / 34))[-1], rtol=0.02)
