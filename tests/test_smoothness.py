"""Curvatures by Lanczos against dense eigenvalues; bounds on learning rates against runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

RANDOM = np.random.default_rng(11)


def symmetric(values):
    basis = np.linalg.qr(RANDOM.normal(size=(len(values), len(values))))[0]
    return basis @ np.diag(values) @ basis.T


SPECTRA = {
    "one": [3.0],
    "two": [-1.0, 2.0],
    "spread": np.geomspace(1e-2, 10, 30),
    "equal": [5.0] * 12,
    "pairs": [1.0, 1.0, 4.0, 4.0, 9.0, 9.0],
    "indefinite": [-7.0, -1.0, 0.5, 2.0],
    "negative": [-3.0, -2.0, -1.0],
    "flat": [0.0, 0.0, 0.0, 1.0, 2.0],
    "far apart": [1e-6, 1.0, 1e4],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_extreme_eigenvalues(name):
    values = np.asarray(SPECTRA[name], float)
    matrix = jnp.asarray(symmetric(values), jnp.float32)
    found = gdjax.smoothness(lambda w: 0.5 * w @ matrix @ w, jnp.ones(len(values)))
    rounding = 1e-5 * np.abs(values).max()
    assert float(found.largest) == pytest.approx(values.max(), abs=rounding)
    assert float(found.smallest) == pytest.approx(values.min(), abs=rounding)
    assert float(found.largest_error) <= rounding
    gradient = np.asarray(matrix, float) @ np.ones(len(values))
    assert float(found.along_gradient) == pytest.approx(gradient @ np.asarray(matrix, float) @ gradient / (gradient @ gradient), abs=rounding)
    assert float(found.grad_norm) == pytest.approx(np.linalg.norm(gradient), rel=1e-4)


def test_few_iterations_bound_from_inside_and_say_how_far():
    values = np.linspace(0.01, 10, 300)
    matrix = symmetric(values)
    with jax.enable_x64():
        m = jnp.asarray(matrix)
        for iterations in (2, 5, 20):
            found = gdjax.smoothness(lambda w: 0.5 * w @ m @ w, jnp.ones(300), iterations=iterations)
            assert values.min() <= float(found.smallest) <= float(found.largest) <= values.max() * (1 + 1e-12)
            # Parlett: an eigenvalue lies within the residual of each Ritz value.
            assert np.min(np.abs(values - float(found.largest))) <= float(found.largest_error)
            assert np.min(np.abs(values - float(found.smallest))) <= float(found.smallest_error)
            assert found.products == iterations + 1
        exact = gdjax.smoothness(lambda w: 0.5 * w @ m @ w, jnp.ones(300), iterations=300)
        np.testing.assert_allclose([exact.smallest, exact.largest], [0.01, 10], rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-10, 1e10, 1e19, 1e30])
def test_curvatures_of_any_scale(scale):
    found = gdjax.smoothness(lambda w: scale * 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * w**2), jnp.ones(2))
    np.testing.assert_allclose([found.smallest / scale, found.largest / scale], [1, 10], rtol=1e-5)
    assert float(found.condition_number) == pytest.approx(10, rel=1e-4)


def test_no_curvature():
    found = gdjax.smoothness(lambda w: jnp.sum(w), jnp.ones(4))
    assert float(found.largest) == 0
    assert float(found.stable_below()) == np.inf
    assert float(found.condition_number) == np.inf
    assert "no positive curvature" in str(found)


def least_squares(w, batch):
    x, y = batch
    return jnp.mean((x @ w["slope"] + w["bias"] - y) ** 2)


X = jnp.asarray(RANDOM.normal(size=(60, 3)) * [1, 2, 5], jnp.float32)
DATA = (X, jnp.asarray(RANDOM.normal(size=60), jnp.float32))
START = {"slope": jnp.zeros(3), "bias": jnp.zeros(())}
SUM = gdjax.finite_sum(lambda w, e: (e[0] @ w["slope"] + w["bias"] - e[1]) ** 2, lambda w: 0.5 * jnp.vdot(w["slope"], w["slope"]))


def hessian(rows, l2=0.0):
    design = np.column_stack([np.ones(len(rows)), np.asarray(X, float)[rows]])
    return np.linalg.eigvalsh(2 * design.T @ design / len(rows) + l2 * np.diag([0, 1, 1, 1]))


@pytest.mark.parametrize(("loss", "l2"), [(least_squares, 0.0), (SUM, 1.0)])
def test_losses_over_data(loss, l2):
    found = gdjax.smoothness(loss, START, DATA)
    exact = hessian(np.arange(60), l2)
    np.testing.assert_allclose([found.smallest, found.largest], exact[[0, -1]], rtol=1e-4)
    assert float(found.condition_number) == pytest.approx(exact[-1] / exact[0], rel=1e-3)
    assert "condition number ≥" in str(found)


def test_batches_each_by_itself():
    found = gdjax.smoothness(least_squares, START, DATA, batch_size=20, batches=3, key=0)
    assert found.largest.shape == (3,)
    # The three batches of one epoch hold each row once, so their Hessians average to that of all data.
    matrices = gdjax.smoothness(least_squares, START, DATA).largest
    assert float(found.largest.mean()) >= float(matrices) * (1 - 1e-5)
    again = gdjax.smoothness(least_squares, START, DATA, batch_size=20, batches=3, key=jax.random.key(0))
    np.testing.assert_array_equal(found.largest, again.largest)
    assert (found.largest != gdjax.smoothness(least_squares, START, DATA, batch_size=20, batches=3, key=1).largest).all()
    assert "smoothness of 3 batches" in str(found)
    single = gdjax.smoothness(least_squares, START, DATA, batch_size=1, batches=60, key=3)
    each = 2 * (1 + np.sum(np.asarray(X, float) ** 2, 1))
    np.testing.assert_allclose(np.sort(single.largest), np.sort(each), rtol=1e-4)


def test_batch_sharpness():
    found = gdjax.smoothness(least_squares, START, DATA, batch_size=1, batches=60, key=3)
    design = np.column_stack([np.ones(60), np.asarray(X, float)])
    residual = -np.asarray(DATA[1], float)  # at params of 0
    gradients = 2 * residual[:, None] * design
    above = np.sum(2 * np.sum(design * gradients, 1) ** 2)  # gᵀ (2 x xᵀ) g
    np.testing.assert_allclose(found.batch_sharpness, above / np.sum(gradients**2), rtol=1e-4)
    whole = gdjax.smoothness(least_squares, START, DATA)
    np.testing.assert_allclose(whole.batch_sharpness, whole.along_gradient, rtol=1e-6)


def test_noise_aux_and_model_state():
    noisy = lambda w, batch, key: (least_squares(w, batch) + jax.random.normal(key) * jnp.vdot(w["slope"], w["slope"]), {"n": 1.0})  # noqa: E731
    found = gdjax.smoothness(noisy, START, DATA, has_aux=True, stochastic=True, key=2)
    assert np.isfinite(float(found.largest))
    assert float(found.largest) != float(gdjax.smoothness(noisy, START, DATA, has_aux=True, stochastic=True, key=3).largest)
    stateful = lambda w, state, batch: (state * least_squares(w, batch), state)  # noqa: E731
    doubled = gdjax.smoothness(stateful, START, DATA, model_state=jnp.float32(2.0))
    assert float(doubled.largest) == pytest.approx(2 * float(gdjax.smoothness(least_squares, START, DATA).largest), rel=1e-5)


def test_inside_jit_vmap_and_grad():
    curvature = lambda scale: gdjax.smoothness(lambda w: scale * jnp.sum(jnp.arange(1.0, 5.0) * w**2), jnp.ones(4)).largest  # noqa: E731
    np.testing.assert_allclose(jax.jit(curvature)(2.0), 16.0, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(curvature)(jnp.array([0.5, 1.0, 3.0])), [4, 8, 24], rtol=1e-5)
    np.testing.assert_allclose(jax.grad(curvature)(1.5), 8.0, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_params_of_16_bits_are_taken_in_32(dtype):
    found = gdjax.smoothness(lambda w: 0.5 * jnp.sum(jnp.array([1.0, 3.0]) * w**2), jnp.ones(2, dtype))
    assert found.largest.dtype == jnp.float32
    assert float(found.largest) == pytest.approx(3.0, rel=1e-5)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.5, False), (0.9, True), (0.5, True)])
def test_the_bound_is_where_runs_diverge(momentum, nesterov):
    loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 7.0]) * w**2)  # noqa: E731
    limit = float(gdjax.smoothness(loss, jnp.ones(2)).stable_below(momentum, nesterov=nesterov))
    for share, falls in ((0.98, True), (1.02, False)):
        rule = gdjax.sgd(share * limit, momentum=momentum, nesterov=nesterov)
        result = gdjax.minimize(loss, jnp.ones(2), rule, max_steps=2000, tol=1e-4)
        assert result.converged == falls, (share, result)
        assert falls or result.status is gdjax.Status.DIVERGED


@pytest.mark.parametrize("kappa", [1.0, 10.0, 500.0])
def test_predicted_steps_are_those_of_a_run(kappa):
    with jax.enable_x64():
        values = jnp.array([1.0, kappa])
        loss = lambda w: 0.5 * jnp.sum(values * w**2)  # noqa: E731
        found = gdjax.smoothness(loss, jnp.ones(2))
        predicted = float(found.predicted_steps(1e-3))
        w, steps = np.ones(2), 0
        while np.linalg.norm(w) > 1e-3 * np.sqrt(2):
            w, steps = w - 2 / (1 + kappa) * np.asarray(values) * w, steps + 1
        assert abs(predicted - steps) <= 1
        assert float(found.predicted_steps(1e-3, momentum=True)) <= predicted


def test_flat_directions_predict_no_steps():
    found = gdjax.smoothness(lambda w: w[0] ** 2, jnp.ones(2))
    assert float(found.predicted_steps()) == np.inf
    assert "flat directions" in str(found)
    assert "not convex" in str(gdjax.smoothness(lambda w: w[0] ** 2 - w[1] ** 2, jnp.ones(2)))


BAD = [
    (lambda: gdjax.smoothness(3, jnp.ones(2)), TypeError, "loss_fn"),
    (lambda: gdjax.smoothness(lambda w: w, jnp.ones(2)), TypeError, "scalar"),
    (lambda: gdjax.smoothness(least_squares, START, DATA, batch_size=5), ValueError, "key"),
    (lambda: gdjax.smoothness(least_squares, START, DATA, batch_size=61, key=0), ValueError, "batch_size"),
    (lambda: gdjax.smoothness(lambda w: jnp.sum(w**2), jnp.ones(2), batch_size=1, key=0), ValueError, "data is None"),
    (lambda: gdjax.smoothness(least_squares, START, iter([DATA])), TypeError, "stream"),
    (lambda: gdjax.smoothness(least_squares, START, DATA, iterations=0), ValueError, "iterations"),
    (lambda: gdjax.smoothness(least_squares, START, DATA, batch_size=5, key=0, batches=0), ValueError, "batches"),
    (lambda: gdjax.smoothness(lambda w: jnp.sum(jnp.log(w)), -jnp.ones(2)), ValueError, "finite"),
    (lambda: gdjax.smoothness(lambda w: jnp.sum(w**2), jnp.ones(2)).predicted_steps(2.0), ValueError, "accuracy"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
