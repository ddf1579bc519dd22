"""PyTorch's DataLoaders and tensors, and lists of batches, as data and as validation."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

RNG = np.random.default_rng(0)
TRUE = np.array([1.0, -2.0, 0.5], np.float32)
X = RNG.normal(size=(128, 3)).astype(np.float32)
Y = X @ TRUE
TUPLES = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 128, 16)]
LISTS = [list(batch) for batch in TUPLES]
DICTS = [{"x": x, "y": y} for x, y in TUPLES]


def loss(w, batch):
    x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
    return jnp.mean((x @ w - y) ** 2)


def fit(data, validation=None, **options):
    options = dict(batch_size=None, epochs=10) | options
    return gdjax.fit(loss, jnp.zeros(3), data, gdjax.sgd(0.1), validation=validation, history=("value", "validation"), **options)


def loaded(shuffle=True, size=16):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rows = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    return torch.utils.data.DataLoader(rows, batch_size=size, shuffle=shuffle)


@pytest.mark.parametrize("batches", [TUPLES, LISTS, DICTS], ids=["tuples", "lists", "dicts"])
def test_a_list_of_batches_is_a_stream(batches):
    result = fit(batches)
    assert int(result.steps) == 80
    np.testing.assert_allclose(result.params, TRUE, atol=0.01)
    np.testing.assert_array_equal(result.params, fit(batches, validation=batches).params)


def test_a_list_of_arrays_is_a_pytree():
    assert int(gdjax.fit(loss, jnp.zeros(3), [X, Y], gdjax.sgd(0.1), batch_size=None, epochs=3).steps) == 3
    assert int(fit([X, Y], epochs=3, batch_size=16, key=0).steps) == 24


def test_a_loader_as_data_and_as_validation():
    by_arrays = fit(loaded(shuffle=False), (X, Y))
    np.testing.assert_array_equal(by_arrays.params, fit(TUPLES).params)
    by_loader = fit(loaded(shuffle=False), loaded(size=50))
    np.testing.assert_array_equal(by_loader.params, by_arrays.params)
    np.testing.assert_allclose(by_loader.history["validation"], by_arrays.history["validation"], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(fit(loaded()).params, TRUE, atol=0.01)


@pytest.mark.parametrize("sizes", [(4, 4, 2), (10,), (1, 9), (3, 3, 1, 3)], ids=str)
def test_validation_streams_count_rows(sizes):
    """The mean over all rows, whatever the batches: of w = 0 and rows b, the mean of b²."""
    rows = np.r_[np.zeros(8), np.full(2, 100.0)].astype(np.float32)
    parts = [(part,) for part in np.split(rows, np.cumsum(sizes)[:-1])]
    square = lambda w, batch: jnp.mean((w - batch[0]) ** 2)  # noqa: E731
    result = gdjax.fit(square, 0.0, (rows,), gdjax.sgd(0.0), batch_size=5, epochs=2, key=0, validation=parts, history=("validation",), keep="best")
    np.testing.assert_allclose(result.history["validation"][-2:], np.mean(rows**2), rtol=1e-6)
    assert float(gdjax.evaluate(square, 0.0, parts)) == pytest.approx(np.mean(rows**2), rel=1e-6)


def test_validation_streams_stop_a_run():
    away = [(X[:7], Y[:7] + 10), (X[7:9], Y[7:9] + 10)]
    result = fit((X, Y), away, batch_size=16, key=0, epochs=50, patience=2, keep="best")
    same = fit((X, Y), (X[:9], Y[:9] + 10), batch_size=16, key=0, epochs=50, patience=2, keep="best")
    assert int(result.steps) == int(same.steps) < 400
    np.testing.assert_array_equal(result.params, same.params)


def test_a_validation_stream_of_other_rows():
    with pytest.raises(ValueError, match=r"validation\[0\] has rows of shape \(2,\); wanted \(3,\)"):
        fit((X, Y), [(X[:, :2], Y)])
    with pytest.raises(ValueError, match=r"validation, batch 1 of epoch 0: batch has the structure.*wanted every batch like the first"):
        fit((X, Y), [(X, Y), (X,)])


def test_tensors():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensors = torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)
    right = fit((X, Y), batch_size=16, key=0).params
    np.testing.assert_array_equal(fit(tensors, batch_size=16, key=0).params, right)
    half = tuple(x.detach().to(torch.bfloat16) for x in tensors)
    np.testing.assert_allclose(fit(half, half, batch_size=16, key=0).params, TRUE, atol=0.02)
    started = gdjax.fit(loss, torch.zeros(3, requires_grad=True), tensors, gdjax.sgd(0.1), batch_size=16, epochs=10, key=0)
    np.testing.assert_array_equal(started.params, right)
    assert float(gdjax.evaluate(loss, TRUE, tensors)) == pytest.approx(0, abs=1e-10)


def test_tensors_that_are_refused():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for x in (torch.from_numpy(X).to_sparse(), torch.empty(128, 3, device="meta")):
        with pytest.raises(TypeError, match=r"data\[0\] is a tensor .*wanted a dense tensor"):
            fit((x, Y), batch_size=16, key=0)
    with pytest.raises(TypeError, match=r"params is an integer array"):
        gdjax.minimize(jnp.sum, torch.zeros(3, dtype=torch.int64))
