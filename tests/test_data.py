"""The order of the examples, and streams: epochs are permutations, decided by the key alone, whatever is asked for around them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax import data as sources

SIZES = [(1, 1), (7, 1), (7, 2), (7, 7), (12, 4), (13, 5), (100, 32)]
WORDS = np.array([1, 2], np.uint32)


def device_rows(count, size, order, epoch, seed=0):
    return np.asarray(sources.device_rows(jax.random.key(seed), count, size, order, epoch))


def host_rows(count, size, order, epoch, seed=0):
    return sources.host_rows(sources.key_words(jax.random.key(seed)), count, size, order, epoch)


makers = pytest.mark.parametrize("make", [host_rows, device_rows])
sizes = pytest.mark.parametrize(("count", "size"), SIZES)


@makers
@sizes
def test_every_epoch_is_a_permutation(make, count, size):
    for epoch in range(3):
        rows = make(count, size, "epoch", epoch)
        assert rows.dtype == np.int32
        assert rows.shape == (-(-count // size), size)
        assert sorted(rows.ravel()[:count]) == list(range(count))


@makers
@sizes
def test_the_last_batch_is_filled_up_with_the_first_rows(make, count, size):
    order = make(count, size, "epoch", 4).ravel()
    np.testing.assert_array_equal(order[count:], order[: order.size - count])


@makers
def test_the_order_is_a_function_of_key_and_epoch(make):
    first = make(50, 8, "epoch", 0)
    np.testing.assert_array_equal(first, make(50, 8, "epoch", 0))
    orders = [make(50, 8, "epoch", epoch, seed) for epoch, seed in itertools.product(range(5), range(4))]
    assert all((a != b).any() for a, b in itertools.combinations(orders, 2))


@makers
def test_the_order_does_not_depend_on_the_batch_size(make):
    orders = [make(60, size, "epoch", 2).ravel()[:60] for size in (1, 7, 60)]
    np.testing.assert_array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(orders[0], orders[2])


@makers
def test_permutations_favour_no_place(make):
    # The mean place of row 0 over 400 epochs of 11 rows: uniform on 0..10, deviation √(10/400) = 0.16; five of those.
    places = [list(make(11, 11, "epoch", epoch).ravel()).index(0) for epoch in range(400 if make is host_rows else 40)]
    assert abs(np.mean(places) - 5) < 5 * np.sqrt(10 / len(places))


@makers
def test_replacement_draws_each_row_alike(make):
    rows = make(10, 5, "replacement", 0)
    assert rows.shape == (2, 5)
    many = np.concatenate([make(1000, 100, "replacement", epoch).ravel() for epoch in range(3)])
    assert many.min() >= 0
    assert many.max() < 1000
    # Of 3000 draws from 1000 rows 1000 (1 − e⁻³) = 950 are distinct, give or take 7: without replacement it would be 1000.
    assert 910 < len(set(many.tolist())) < 990
    assert (make(1000, 100, "replacement", 0) != make(1000, 100, "replacement", 1)).any()


def test_steps_per_epoch():
    assert [sources.steps_per_epoch(*pair) for pair in SIZES] == [1, 7, 4, 1, 3, 3, 4]


def test_keys_of_all_kinds():
    typed = jax.random.key(7)
    for key in (7, np.int64(7), typed, jax.random.PRNGKey(7)):
        np.testing.assert_array_equal(sources.key_words(sources.check_key(key, "")), sources.key_words(typed))
    assert sources.key_words(typed).dtype == np.uint32


def test_take_takes_rows_of_every_leaf():
    data = {"x": jnp.arange(12.0).reshape(6, 2), "y": np.arange(6)}
    taken = sources.take(jax.tree.map(jnp.asarray, data), jnp.asarray([4, 0, 4]))
    np.testing.assert_array_equal(taken["x"], data["x"][np.array([4, 0, 4])])
    np.testing.assert_array_equal(taken["y"], [4, 0, 4])


def test_blocks_cover_everything_once_in_order():
    data = (np.arange(10), np.arange(20).reshape(10, 2))
    for size in range(1, 12):
        cut = list(sources.blocks(data, size))
        assert all(len(block[0]) <= size for block in cut)
        for leaf, parts in zip(data, zip(*cut, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), leaf)


class Epochs:
    """A re-iterable stream that notes how often it was started."""

    def __init__(self, *lengths):
        self.lengths, self.started = lengths, 0

    def __iter__(self):
        self.started += 1
        return iter([np.full(length, 10 * self.started + i) for i, length in enumerate(self.lengths)])


def firsts(block):
    return [int(batch[0]) for batch in block]


def test_what_is_a_stream():
    streams = [Epochs(2), iter([1]), (x for x in ()), map(abs, [1])]
    assert all(sources.is_stream(data) for data in streams)
    arrays = [np.zeros(3), jnp.zeros(3), (np.zeros(3), np.zeros(3)), {"x": np.zeros(3)}, [np.zeros(3)], None, 5]
    assert not any(sources.is_stream(data) for data in arrays)


def test_a_stream_goes_around():
    stream = sources.Stream(Epochs(2, 2, 2))
    assert firsts(stream.next_block(2)) == [10, 11]
    assert not stream.epoch_is_over
    assert firsts(stream.next_block(2)) == [12]
    assert stream.epoch_is_over
    assert firsts(stream.next_block(9)) == [20, 21, 22]
    assert stream.source.started == 2


def test_blocks_of_a_stream_have_one_shape():
    stream = sources.Stream(Epochs(3, 3, 1, 3))
    assert [firsts(stream.next_block(9)) for _ in range(3)] == [[10, 11], [12], [13]]


@pytest.mark.parametrize("count", range(8))
def test_skipping_is_walking(count):
    walked, skipped = sources.Stream(Epochs(1, 1, 1)), sources.Stream(Epochs(1, 1, 1))
    for _ in range(count):
        walked.next_block(1)
    skipped.skip(count)
    assert firsts(skipped.next_block(1)) == firsts(walked.next_block(1))
    assert skipped.epoch_is_over == walked.epoch_is_over


def test_an_iterator_has_one_epoch():
    stream = sources.Stream(iter([np.zeros(1), np.ones(1)]))
    assert len(stream.next_block(5)) == 2
    with pytest.raises(ValueError, match="only once"):
        stream.next_block(1)


def test_an_empty_stream():
    with pytest.raises(ValueError, match="no batch in epoch 0"):
        sources.Stream([]).next_block(1)


def test_stack():
    made = sources.stack([{"x": np.zeros(2), "y": jnp.float32(1)}, {"x": np.ones(2), "y": 2.0}])
    np.testing.assert_array_equal(made["x"], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(made["y"], [1, 2])
