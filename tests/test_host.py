"""What the host does around compiled segments: Ctrl-C, kill -9 and back, time limits, callbacks, checkpoints and progress bars."""

import dataclasses
import functools
import io
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.loop import host
from gdjax.result import Diagnosis, Result, Status

ROOT = Path(gdjax.__file__).parents[1]

PROBLEM = """
import os, pickle, signal, sys, threading
import jax, jax.numpy as jnp, numpy as np
import gdjax

jax.config.update("jax_platforms", "cpu")
draw = np.random.default_rng(0).normal
X, Y, HELD_OUT = draw(size=(40, 3)).astype(np.float32), draw(size=40).astype(np.float32), draw(size=(9, 3)).astype(np.float32)


def mean_loss(w, batch, key=None):
    keep = 1 if key is None else jax.random.bernoulli(key, 0.8, w.shape)
    return jnp.mean((batch[0] @ (w * keep) - batch[1]) ** 2)


def fit(epochs=9, **options):
    options = dict(validation=(HELD_OUT, Y[:9]), keep="best", stochastic=True, history=("value", "validation")) | options
    return gdjax.fit(mean_loss, jnp.ones(3), (X, Y), gdjax.sgd(0.02, momentum=0.5), batch_size=7, key=1, epochs=epochs, **options)


def quartic(w):
    return jnp.sum(w**4)


def endless(**options):
    # Slow and never done: at rate 1e-4 a quartic takes ages, and a step of a million numbers takes a while too.
    return gdjax.minimize(quartic, jnp.ones(1_000_000), gdjax.gd(1e-4), tol=0.0, max_steps=10**9, record_every=10**6, **options)
"""
HERE = {}
exec(PROBLEM, HERE)
fit, endless = HERE["fit"], HERE["endless"]


def run_script(text, *arguments):
    """The output of a Python process that runs the problem and then the text."""
    code = [sys.executable, "-c", PROBLEM + text, *map(str, arguments)]
    return subprocess.run(code, capture_output=True, text=True, timeout=240, env=os.environ | {"PYTHONPATH": str(ROOT)})


def of_the_way(a):
    return dataclasses.replace(a, leaf_names=(), diagnosis=Diagnosis(*a.diagnosis[: Diagnosis._fields.index("reason") + 1])) if isinstance(a, Result) else a


def words(x):
    x = jnp.asarray(x)
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def assert_same(a, b):
    """Bit for bit, but for what a look back at the end has found: that depends on the batches that were at hand then."""
    a, b = of_the_way(a), of_the_way(b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(words(x), words(y), err_msg=jax.tree_util.keystr(path))


INTERRUPTED = """
before = signal.getsignal(signal.SIGINT)
threading.Timer(3.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
result = endless()
value = float(quartic(result.params))
print(result.status.name, int(result.steps) > 0, bool(jnp.isfinite(result.params).all()), abs(float(result.value) - value) < 1e-3 * value)
print(signal.getsignal(signal.SIGINT) is before)
threading.Timer(3.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
result = fit(epochs=10**6, validation=None)
print(result.status.name, int(result.steps) > 0, bool(jnp.isfinite(result.params).all()), "resume=result.state" in result.message)
try:
    fit(callbacks=(lambda report: [signal.raise_signal(signal.SIGINT) for _ in range(2)],))
except KeyboardInterrupt:
    print("second signal obeyed", signal.getsignal(signal.SIGINT) is before)
"""


def test_the_first_ctrl_c_returns_the_result_so_far_and_the_second_raises():
    done = run_script(INTERRUPTED)
    assert done.stdout.splitlines() == ["INTERRUPTED True True True", "True", "INTERRUPTED True True True", "second signal obeyed True"], done.stderr


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened():
    def once(report):
        if report.epoch == 4:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    part = fit(callbacks=(once,))
    assert signal.getsignal(signal.SIGINT) is before
    assert (part.status, int(part.steps)) == (Status.INTERRUPTED, 24)
    assert_same(fit(resume=part.state), fit())


KILLED = """
path, seen = sys.argv[1], []

def save(state):
    with open(path + ".new", "wb") as file:
        pickle.dump(state, file)
    os.replace(path + ".new", path)
    seen.append(state)
    if len(seen) == 4:
        os.kill(os.getpid(), signal.SIGKILL)

fit(checkpoint=save)
"""
RESUMED = """
with open(sys.argv[1], "rb") as file:
    state = pickle.load(file)
with open(sys.argv[2], "wb") as file:
    pickle.dump(fit(resume=state), file)
"""


def test_a_killed_run_goes_on_in_a_new_process_bit_for_bit(tmp_path):
    saved, result = tmp_path / "state", tmp_path / "result"
    assert run_script(KILLED, saved).returncode == -signal.SIGKILL
    assert int(pickle.loads(saved.read_bytes()).progress.epochs) == 4
    done = run_script(RESUMED, saved, result)
    assert done.returncode == 0, done.stderr
    assert_same(pickle.loads(result.read_bytes()), fit())


def test_checkpoints_are_resumable_states_one_an_epoch():
    states = []
    whole = fit(epochs=4, checkpoint=states.append)
    assert [int(state.progress.epochs) for state in states] == [1, 2, 3, 4]
    assert [len(state.history["step"]) for state in states] == [1, 2, 3, 4]
    for state in states:
        assert_same(fit(epochs=4, resume=state), whole)
    assert_same(whole, fit(epochs=4))


def test_callbacks_see_every_epoch():
    reports = []
    result = fit(epochs=5, callbacks=(reports.append, lambda report: None))
    assert [report.epoch for report in reports] == [1, 2, 3, 4, 5]
    assert [report.step for report in reports] == result.history["step"].tolist() == [6, 12, 18, 24, 30]
    np.testing.assert_array_equal(np.float32([report.value for report in reports]), result.history["value"])
    np.testing.assert_array_equal(np.float32([report.validation for report in reports]), result.history["validation"])
    assert_same(reports[2].params, fit(epochs=3, keep="last").params)
    assert_same(result, fit(epochs=5))


@pytest.mark.parametrize("yes", [True, np.True_, jnp.asarray(True)], ids=["bool", "numpy", "jax"])
def test_a_callback_that_returns_true_stops(yes):
    reports = []
    result = fit(callbacks=(lambda report: yes if report.epoch == 2 else None, reports.append))
    assert (result.status, int(result.steps)) == (Status.STOPPED, 12)
    assert "(callback)" in result.message
    assert len(reports) == 2
    assert_same(fit(epochs=4, resume=result.state).params, fit(epochs=4).params)


def test_an_error_in_a_callback_is_raised_and_the_handler_restored():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError):
        fit(callbacks=(lambda report: 1 / 0,))
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("door", ["minimize", "fit"])
def test_a_time_limit(door):
    limit, started = gdjax.stop.time_limit(1.0), time.monotonic()
    result = endless(stop=limit) if door == "minimize" else fit(epochs=10**6, stop=limit)
    assert result.status is Status.STOPPED
    assert int(result.steps) > 0
    assert "(time_limit)" in result.message
    assert 1.0 <= time.monotonic() - started < 60


def test_no_time_at_all():
    result = gdjax.minimize(HERE["quartic"], jnp.ones(3), gdjax.gd(1e-3), stop=gdjax.stop.time_limit(0.0), max_steps=10**7, tol=0.0)
    assert result.status is Status.STOPPED
    np.testing.assert_allclose(result.value, jnp.sum(result.params**4), rtol=1e-5)


class Terminal(io.StringIO):
    def isatty(self):
        return True


BAR = re.compile(r"\d+%\|.*\| *\d+/\d+ \[[\d:]+<[\d:?]+,.*(step/s|s/step).*loss=[-\d.e]+")


@pytest.mark.parametrize("door", ["minimize", "fit"])
def test_progress(door, monkeypatch, capsys):
    short = lambda **o: gdjax.minimize(HERE["quartic"], jnp.ones(3), gdjax.gd(1e-3), tol=0.0, max_steps=50, **o)  # noqa: E731
    run = short if door == "minimize" else fit
    run(progress=True)
    shown = capsys.readouterr().err
    assert BAR.search(shown), shown
    assert "100%" in shown
    run(progress=False)
    monkeypatch.setattr(host, "SHOW_AFTER", -1.0)
    run()
    assert capsys.readouterr().err == "", "a bar where no one looks"
    monkeypatch.setattr(sys, "stderr", Terminal())
    jax.jit(lambda w: gdjax.minimize(HERE["quartic"], w, gdjax.gd(1e-3), max_steps=5).value)(jnp.ones(3))
    assert sys.stderr.getvalue() == ""
    run(progress=False)
    assert sys.stderr.getvalue() == ""
    run()
    assert BAR.search(sys.stderr.getvalue())


def test_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(epochs=2)))
    thread.start()
    thread.join()
    assert_same(results[0], fit(epochs=2))


def test_segments_of_any_length_make_the_same_run(monkeypatch):
    names = ("value", "grad_norm", "learning_rate", "evaluations")
    full = lambda: gdjax.minimize(HERE["quartic"], jnp.ones(3), gdjax.sgd(1e-3, momentum=0.5), tol=0.0, max_steps=60, record_every=7)  # noqa: E731
    parts = lambda: fit(history=names, validation=None, keep="last", record_every=5)  # noqa: E731
    whole = full(), parts()
    lengths = np.random.default_rng(0)
    monkeypatch.setattr(host.Watch, "length", lambda self: int(lengths.integers(1, 9)))
    assert_same((full(), parts()), whole)


def test_tracers_in_closures_are_found():
    found = []

    def outside(x):
        def named(w, scale=x):
            return w * scale

        kinds = [lambda w: w * x, named, functools.partial(jnp.multiply, x), gdjax.finite_sum(lambda w, b: w * x)]
        found.extend(host.captures_tracer(f) for f in kinds)
        return x

    jax.jit(outside)(1.0)
    assert found == [True] * 4
    assert not host.captures_tracer(lambda w: w * HERE["X"])
