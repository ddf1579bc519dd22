"""The mean loss over a stream counts rows, not batches: of an epoch, since a record, of an unfinished epoch; it decides patience and the best."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

ROWS = np.r_[np.zeros(8), np.full(2, 100.0)].astype(np.float32)


class Stream:
    """Batches of the rows given, the last one short."""

    def __init__(self, *epochs):
        self.epochs, self.next = epochs, -1

    def __iter__(self):
        self.next = (self.next + 1) % len(self.epochs)
        rows = self.epochs[self.next]
        return iter([rows[i : i + 4] for i in range(0, len(rows), 4)])


def loss(w, b):
    return jnp.mean((w - b) ** 2)


LOSSES = {"opaque": loss, "finite sum": gdjax.finite_sum(lambda w, row: (w - row) ** 2)}


@pytest.mark.parametrize("name", LOSSES)
def test_an_epoch(name):
    made = gdjax.fit(LOSSES[name], 0.0, Stream(ROWS), gdjax.sgd(0.0), batch_size=None, epochs=2)
    np.testing.assert_allclose([made.value, *made.history["value"], gdjax.evaluate(LOSSES[name], 0.0, Stream(ROWS))], np.mean(ROWS**2), rtol=1e-6)


def test_records_and_what_is_left():
    made = gdjax.fit(loss, 0.0, Stream(ROWS), gdjax.sgd(0.0), batch_size=None, steps=8, record_every=6)
    np.testing.assert_allclose(made.history["value"], [np.mean(ROWS**2), 0.0], rtol=1e-6)
    made = gdjax.fit(loss, 0.0, Stream(ROWS[::-1]), gdjax.sgd(0.0), batch_size=None, steps=5)
    np.testing.assert_allclose(made.history["value"], [np.mean(ROWS**2), np.mean(ROWS[2:] ** 2)], rtol=1e-6)
    cut = gdjax.fit(loss, 0.0, Stream(ROWS[::-1]), gdjax.sgd(0.0), batch_size=None, steps=2)
    whole = gdjax.fit(loss, 0.0, Stream(ROWS[::-1]), gdjax.sgd(0.0), batch_size=None, steps=5, resume=cut.state)
    np.testing.assert_array_equal(whole.history["value"], made.history["value"])


def test_the_best_epoch_is_that_of_the_rows():
    """By batches the second epoch is better, by rows the first."""
    first, second = np.r_[np.zeros(8), np.full(1, 3.0)], np.r_[np.full(8, 1.5), np.zeros(1)]
    assert np.mean(first**2) < np.mean(second**2)
    assert np.mean([0, 0, 9.0]) > np.mean([2.25, 2.25, 0.0])
    made = gdjax.fit(loss, 0.0, Stream(np.float32(first), np.float32(second)), gdjax.sgd(0.0), batch_size=None, epochs=2, keep="best")
    assert int(made.best_step) == 3
