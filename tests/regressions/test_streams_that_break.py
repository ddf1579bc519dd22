"""Streams whose batches change, hold no numbers, or that raise: an error with the number of the batch. Streams that fill one array again and again."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 3)).astype(np.float32)
Y = X[:, 0].copy()
GOOD = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 64, 8)]


def loss(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def fit(data, **options):
    options = dict(batch_size=None, epochs=1) | options
    return gdjax.fit(loss, jnp.zeros(3), data, gdjax.sgd(0.1), **options)


class Stream:
    """Batches, again at each iter(); an exception in the place of a batch is raised."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        for batch in self.batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch


BROKEN = {
    "structure": ((X[:8],), r"batch 4 of epoch 0: batch has the structure .*; wanted every batch like the first"),
    "a dict": ({"x": X[:8], "y": Y[:8]}, r"batch 4 of epoch 0: batch has the structure"),
    "features": ((X[:8, :2], Y[:8]), r"batch 4 of epoch 0: batch has rows of shape \(2,\), \(\), batches before \(3,\), \(\), and loss_fn raised"),
    "dimensions": ((X[:8], Y[:8, None]), r"batch 4 of epoch 0: batch holds an array of 2 dimensions and dtype float32, the first of 1"),
    "dtypes": ((X[:8].astype(int), Y[:8]), r"batch 4 of epoch 0: batch holds an array of 2 dimensions and dtype int32, the first of 2 and float32"),
    "lengths": ((X[:8], Y[:7]), r"arrays in data, batch 4 of epoch 0: batch differ in length"),
    "words": ((np.array(["a"] * 8), Y[:8]), r"batch 4 of epoch 0: batch\[0\] has dtype <U1; wanted numbers"),
    "objects": ((np.array([None] * 8), Y[:8]), r"batch 4 of epoch 0: batch\[0\] has dtype object; wanted numbers"),
    "None within": ((None, Y[:8]), r"batch 4 of epoch 0: batch has the structure"),
    "None": (None, r"batch 4 of epoch 0: batch is None, a pytree without arrays; wanted arrays"),
    "a number": (3.0, r"batch 4 of epoch 0: batch is 3.0; wanted an array"),
    "a path": ("batch.npz", r"batch 4 of epoch 0: batch is 'batch.npz'; wanted an array"),
    "no rows": ((X[:0], Y[:0]), r"batch 4 of epoch 0: batch has 0 examples; wanted at least one"),
    "masked": ((np.ma.masked_array(X[:8], X[:8] > 0), Y[:8]), r"batch 4 of epoch 0: batch\[0\] is a masked array"),
    "beyond 32 bits": ((X[:8], np.full(8, 2**40)), r"batch 4 of epoch 0: batch\[1\] is int64 and holds 1099511627776"),
    "a generator": (iter(GOOD), r"batch 4 of epoch 0: batch is .*generator|batch 4 of epoch 0: batch is <list_iterator"),
    "raises": (RuntimeError("disk gone"), r"data raised RuntimeError in batch 4 of epoch 0: disk gone; wanted a stream that can be read to its end"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name):
    batch, text = BROKEN[name]
    with pytest.raises((TypeError, ValueError), match=text) as caught:
        fit(Stream([*GOOD[:4], batch, *GOOD[4:]]))
    if name in ("raises", "features"):
        assert caught.value.__cause__ is not None


def test_a_later_epoch():
    class Ages(Stream):
        def __iter__(self):
            self.epochs = getattr(self, "epochs", -1) + 1
            yield from self.batches[:2]
            if self.epochs == 2:
                raise OSError("gone")

    with pytest.raises(ValueError, match="data raised OSError in batch 2 of epoch 2: gone") as caught:
        fit(Ages(GOOD), epochs=5)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(ValueError, match=r"data, batch 1 of epoch 0: batch is None"):
        gdjax.evaluate(loss, jnp.zeros(3), Stream([GOOD[0], None]))


def test_an_iter_that_raises():
    class Closed:
        def __iter__(self):
            raise OSError("closed")

    with pytest.raises(ValueError, match="data raised OSError in __iter__: closed; wanted a stream"):
        fit(Closed())


def test_the_first_batch():
    with pytest.raises(TypeError, match=r"data, batch 0 of epoch 0: batch\[0\] has dtype <U1; wanted numbers"):
        fit(Stream([BROKEN["words"][0]]))
    with pytest.raises(TypeError, match=r"data, batch 0 of epoch 0: batch is 0; wanted an array"):
        fit(range(10))


@pytest.mark.parametrize("kind", ["arrays", "dict", "views"])
def test_a_stream_that_fills_the_same_arrays(kind):
    """What is trained on is what was yielded, not what the arrays held when a block of batches was full."""

    class Reuses:
        def __iter__(self):
            x, y = np.zeros((8, 3), np.float32), np.zeros(8, np.float32)
            batch = [x, y]
            for i in range(0, 64, 8):
                x[:], y[:] = X[i : i + 8], Y[i : i + 8]
                batch[:] = (x[:], y[:]) if kind == "views" else (x, y)
                yield batch if kind == "dict" else (batch[0], batch[1])

    np.testing.assert_array_equal(fit(Reuses(), epochs=3).params, fit(GOOD, epochs=3).params)


def test_tensors_that_are_filled_again():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    class Reuses:
        def __iter__(self):
            x, y = torch.zeros(8, 3), torch.zeros(8)
            for i in range(0, 64, 8):
                x[:], y[:] = torch.from_numpy(X[i : i + 8]), torch.from_numpy(Y[i : i + 8])
                yield x, y

    np.testing.assert_array_equal(fit(Reuses(), epochs=3).params, fit(GOOD, epochs=3).params)


def test_batches_of_other_shapes_that_the_loss_can_take():
    """Sequences of several lengths, and a ragged last batch, are no error; the steps are those of a loop by hand."""
    lengths = (5, 3, 5, 7)
    batches = [(RNG.normal(size=(4 if i < 3 else 2, length)).astype(np.float32),) for i, length in enumerate(lengths)]
    w = np.float32(0)
    for _ in range(2):
        for (batch,) in batches:
            w = w - np.float32(0.1) * 2 * np.mean(w - batch)
    result = gdjax.fit(lambda w, b: jnp.mean((w - b[0]) ** 2), 0.0, batches, gdjax.sgd(0.1), batch_size=None, epochs=2)
    np.testing.assert_allclose(result.params, w, rtol=1e-5)


def test_data_changed_in_a_callback_change_nothing():
    rows, labels = np.zeros((64, 3), np.float32), np.zeros(64, np.float32)  # aligned or not, as it comes
    buffer = np.zeros(64 * 3 + 16, np.float32)
    first = (-buffer.ctypes.data // 4) % 16
    aligned = buffer[first : first + 64 * 3].reshape(64, 3)  # at a multiple of 64 bytes JAX on CPUs reads it in place

    def run(x, callbacks):
        x[:], labels[:] = X, Y
        return fit((x, labels), batch_size=8, key=0, epochs=4, callbacks=callbacks, validation=(x, labels), history=("value", "validation"))

    right = run(rows, ())
    for x in (rows, aligned):
        spoilt = run(x, (lambda report: x.fill(7.0),))  # noqa: B023
        np.testing.assert_array_equal(spoilt.params, right.params)
        np.testing.assert_array_equal(spoilt.history["validation"], right.history["validation"])


def test_params_are_not_shared():
    start = np.zeros(1 << 12, np.float32)
    result = gdjax.minimize(lambda w: jnp.sum((w - 1) ** 2), start, gdjax.gd(0.1), max_steps=0)
    start[:] = 9
    np.testing.assert_array_equal(result.params, 0)
