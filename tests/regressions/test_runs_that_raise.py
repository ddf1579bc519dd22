"""An exception in a callback, a checkpoint function or a stream carries the result so far, from which the run goes on as if nothing had happened."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.result import Status

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(24, 3)).astype(np.float32), RANDOM.normal(size=24).astype(np.float32)
KINDS = {"full batch": dict(batch_size=None), "mini-batches": dict(batch_size=8, key=1)}


def loss(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def fit(epochs=8, data=(X, Y), **options):
    return gdjax.fit(loss, jnp.zeros(3), data, gdjax.sgd(0.05), epochs=epochs, **options)


def raising(error, at):
    calls = []

    def service(_):
        calls.append(1)
        if len(calls) == at:
            raise error

    return service


def assert_goes_on(error, epochs, kind):
    made, whole = error.result, fit(**kind)
    assert made.status is Status.INTERRUPTED
    assert "attribute result" in error.__notes__[-1]
    per_epoch = int(whole.steps) // 8
    assert int(made.steps) == epochs * per_epoch
    rest = fit(resume=made.state, **kind)
    for name in ("params", "value", "grad_norm", "steps", "history"):
        jax.tree.map(np.testing.assert_array_equal, getattr(rest, name), getattr(whole, name))


@pytest.mark.parametrize("error", [ValueError("mine"), StopIteration(3), KeyboardInterrupt(), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("service", ["callbacks", "checkpoint"])
@pytest.mark.parametrize("kind", KINDS)
def test_services_that_raise(kind, service, error):
    function = raising(error, at=3)
    with pytest.raises(type(error)) as caught:
        fit(**KINDS[kind], **{service: (function,) if service == "callbacks" else function})
    assert caught.value is error
    assert_goes_on(error, 3, KINDS[kind])


def test_a_run_in_a_callback_that_raises_leaves_the_outer_result():
    def inner(report):
        if report.epoch == 2:
            fit(**KINDS["full batch"], callbacks=(raising(ValueError("inner"), 4),))

    with pytest.raises(ValueError, match="inner") as caught:
        fit(**KINDS["full batch"], callbacks=(inner,))
    assert int(caught.value.result.steps) == 2
    assert len(caught.value.__notes__) == 2


class Stream:
    """Three batches an epoch; the reading of one of them fails."""

    def __init__(self, fails_at):
        self.left = fails_at

    def __iter__(self):
        for first in (0, 8, 16):
            self.left -= 1
            if self.left == 0:
                raise ConnectionError("gone")
            yield X[first : first + 8], Y[first : first + 8]


def test_a_stream_that_breaks():
    with pytest.raises(ValueError, match="ConnectionError") as caught:
        fit(data=Stream(8), batch_size=None)
    made = caught.value.result
    assert (made.status, int(made.steps)) == (Status.INTERRUPTED, 7)
    rest = fit(data=Stream(-1), batch_size=None, resume=made.state)
    np.testing.assert_array_equal(rest.params, fit(data=Stream(-1), batch_size=None).params)


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_step_there_is_nothing_to_carry(kind):
    with pytest.raises(ValueError, match="At the params given") as caught:
        gdjax.fit(lambda w, batch: jnp.nan * w.sum(), jnp.zeros(3), (X, Y), gdjax.sgd(0.05), epochs=8, **KINDS[kind])
    assert not hasattr(caught.value, "result")
