"""The host has a say after the first step and then every quarter of a second or every step, whatever a step takes; no time at all is no step."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.loop import host
from gdjax.result import RUNNING, Status

X = np.ones((40, 3), np.float32)


class Clock:
    """A watch for a run whose steps take so many seconds each, after those of compiling."""

    def __init__(self, monkeypatch, seconds=None):
        self.now = 100.0
        monkeypatch.setattr(host.time, "monotonic", lambda: self.now)
        self.watch, self.step = host.Watch(None, False, seconds, 0, lambda: None), 0

    def segments(self, count, seconds_per_step, first=0.0):
        lengths = []
        for index in range(count):
            lengths.append(self.watch.length())
            self.step += lengths[-1]
            self.now += lengths[-1] * seconds_per_step + (first if index == 0 else 0) + 1e-4
            self.watch.saw(self.step, 0.0)
        return lengths


def test_a_segment_is_sized_by_the_time_of_a_step(monkeypatch):
    assert Clock(monkeypatch).segments(4, 4.0) == [1, 1, 1, 1]
    assert Clock(monkeypatch).segments(4, 0.01, first=60.0) == [1, 1, 24, 24]
    tiny = Clock(monkeypatch).segments(3, 1e-7)
    assert tiny[0] == 1
    assert tiny[1] == host.GROWTH, "a thousand tiny steps are two segments"
    assert Clock(monkeypatch).segments(2, 1e-7, first=60.0) == [1, 1]


def test_what_is_left_of_a_time_limit_bounds_a_segment(monkeypatch):
    clock = Clock(monkeypatch, seconds=1.0)
    while clock.watch.asked() == RUNNING:
        clock.segments(1, 0.05)
    assert clock.watch.asked() == Status.STOPPED
    assert 1.0 <= clock.now - 100.0 < 1.06, "late by a step at most"


def squares(w, batch):
    return jnp.mean((batch @ w - 1) ** 2)


class Stream:
    def __iter__(self):
        return iter([X[:8]] * 50)


@pytest.mark.parametrize(
    "how", [dict(batch_size=None), dict(batch_size=8, key=0), dict(data=Stream(), batch_size=None)], ids=["full", "batches", "stream"]
)
def test_no_time_is_no_step_or_one(how):
    how = dict(data=X) | how
    result = gdjax.fit(squares, jnp.zeros(3), rule=gdjax.sgd(1e-3), epochs=100, stop=gdjax.stop.time_limit(0.0), **how)
    assert result.status is Status.STOPPED
    assert int(result.steps) <= 1
    assert "(time_limit)" in result.message
