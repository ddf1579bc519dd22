"""fit against NumPy loops over the same rows, loops by hand and itself: N + M steps, streams, jit, vmap, grad; validation, patience, the best; counts."""

import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import data as sources
from gdjax.result import Diagnosis, Status

ROWS = 40
RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(ROWS, 3)) * [1.0, 2.0, 0.5]
Y = X @ [1.0, -2.0, 3.0] + 0.5 + 0.3 * RANDOM.normal(size=ROWS)
START = np.array([0.5, -0.3, 0.2])
HELD_OUT = (RANDOM.normal(size=(9, 3)), RANDOM.normal(size=9))


def example_loss(w, example):
    return (example[0] @ w - example[1]) ** 2 / 2


def mean_loss(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2) / 2


SUM = gdjax.finite_sum(example_loss)


def noisy_loss(w, batch, key):
    return mean_loss(w * jax.random.bernoulli(key, 0.8, w.shape), batch)


def stateful_loss(w, seen, batch):
    mean = 0.9 * seen["mean"] + 0.1 * jnp.mean(batch[0], 0)
    return mean_loss(w, (batch[0] - mean[None], batch[1])), ({"mean": mean, "count": seen["count"] + 1}, batch[1])


def data(dtype=np.float32):
    return X.astype(dtype), Y.astype(dtype)


def start(dtype=jnp.float32):
    return jnp.asarray(START, dtype)


class Stream:
    """The rows in order, in batches, again at every iter()."""

    def __init__(self, arrays, size):
        self.arrays, self.size = arrays, size

    def __iter__(self):
        return iter(sources.blocks(self.arrays, self.size))


def words(x):
    x = jnp.asarray(x)
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def assert_same(a, b):
    """Bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert jnp.result_type(x) == jnp.result_type(y), jax.tree_util.keystr(path)
        np.testing.assert_array_equal(words(x), words(y), err_msg=jax.tree_util.keystr(path))


def fit(loss=mean_loss, arrays=None, rule=None, **options):
    options = dict(batch_size=7, key=3) | options
    return gdjax.fit(loss, start(), data() if arrays is None else arrays, rule or gdjax.sgd(0.05), **options)


# ---- against NumPy


def numpy_sgd(size, epochs, order, rate, momentum=None, exact=True, key=3):
    """(params, mean loss of each epoch) by a loop in NumPy; ``exact``: the last batch of an epoch is the short one."""
    w, velocity, means = START.copy(), None, []
    for epoch in range(epochs):
        rows = np.resize(np.arange(ROWS), (-(-ROWS // size), size))
        if order:
            rows = sources.host_rows(sources.key_words(jax.random.key(key)), ROWS, size, order, epoch)
        total, seen = 0.0, 0
        for step, batch in enumerate(rows):
            if exact and step == len(rows) - 1 and ROWS % size:
                batch = batch[: ROWS % size]
            residual = X[batch] @ w - Y[batch]
            gradient = X[batch].T @ residual / len(batch)
            total, seen = total + (residual**2).sum() / 2, seen + len(batch)
            velocity = gradient if velocity is None or momentum is None else momentum * velocity + gradient
            w = w - rate * velocity
        means.append(total / seen)
    return w, means


@pytest.mark.one_in(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("momentum", [None, 0.7])
@pytest.mark.parametrize(("size", "order"), [(1, "epoch"), (7, "epoch"), (8, False), (7, False), (32, "replacement"), (40, "epoch")])
def test_sgd_equals_a_loop_in_numpy(size, order, momentum):
    made = gdjax.fit(SUM, START, (X, Y), gdjax.sgd(0.02, momentum=momentum), batch_size=size, epochs=3, key=3, shuffle=order)
    params, means = numpy_sgd(size, 3, order, 0.02, momentum)
    np.testing.assert_allclose(made.params, params, rtol=1e-10)
    assert made.history["step"].tolist() == [k * -(-ROWS // size) for k in (1, 2, 3)]
    assert int(made.steps) == int(made.evaluations) == made.history["step"][-1]
    np.testing.assert_allclose(made.history["value"], means, rtol=1e-10)
    np.testing.assert_allclose(made.value, means[-1], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_last_batch_of_an_opaque_loss_is_filled_up():
    made = gdjax.fit(mean_loss, START, (X, Y), gdjax.sgd(0.02), batch_size=7, epochs=2, key=3)
    np.testing.assert_allclose(made.params, numpy_sgd(7, 2, "epoch", 0.02, exact=False)[0], rtol=1e-10)


@pytest.mark.parametrize("size", [1, 7, 32, 39])
def test_an_epoch_at_rate_zero_shows_the_exact_mean(size):
    made = fit(SUM, rule=gdjax.sgd(0.0), batch_size=size, epochs=1)
    np.testing.assert_allclose(made.value, gdjax.evaluate(SUM, start(), data()), rtol=1e-5)


@pytest.mark.parametrize("chunk", [None, "auto", 9])
def test_full_batches_are_minimize(chunk):
    made = fit(SUM, rule=gdjax.gd(0.1), batch_size=None, steps=25, chunk_size=chunk, key=None)
    other = gdjax.minimize(lambda w, x, y: SUM(w, (x, y)), start(), gdjax.gd(0.1), args=data(), max_steps=25)
    np.testing.assert_allclose(made.history["value"], other.history["value"], rtol=1e-5)
    np.testing.assert_allclose(made.params, other.params, rtol=1e-5)
    assert (made.status, int(made.steps), int(made.evaluations)) == (other.status, 25, 26)


def test_descent_by_hand_is_fit():
    init, step = gdjax.descent(noisy_loss, gdjax.sgd(0.05, momentum=0.5), stochastic=True)
    step, state = jax.jit(step), init(start(), key=jax.random.key(3))
    rows = np.concatenate([sources.host_rows(sources.key_words(jax.random.key(3)), ROWS, 7, "epoch", epoch) for epoch in range(2)])
    values = []
    for batch in rows:
        state, info = step(state, jax.tree.map(lambda x: x[batch], data()))  # noqa: B023
        values.append(float(info.value))
    made = fit(noisy_loss, rule=gdjax.sgd(0.05, momentum=0.5), stochastic=True, epochs=2, record_every=1)
    np.testing.assert_allclose(made.params, state.params, rtol=1e-5)
    np.testing.assert_allclose(made.history["value"], values, rtol=1e-5)


# ---- traces and counts


def counting(loss):
    calls = []

    def counted(*args):
        calls.append(None)
        return loss(*args)

    return counted, calls


@pytest.mark.one_in(3)
@pytest.mark.parametrize("size", [1, 32, None])
def test_one_trace_serves_other_numbers(size):
    loss, calls = counting(mean_loss)
    run = functools.partial(gdjax.fit, loss, start(), batch_size=size)
    run(data=data(), rule=gdjax.sgd(0.01), steps=6, key=0)
    run(data=data(), rule=gdjax.sgd(0.03), steps=13, key=1)
    other = jax.tree.map(lambda x: x[::-1].copy(), data())
    first = run(data=other, rule=gdjax.sgd(0.02), epochs=3, key=2, record_every=2)
    run(data=other, rule=gdjax.sgd(0.02), epochs=5, key=2, resume=first.state)
    assert len(calls) == 1


WRAPPED = {
    "adam": optax.adam(0.05),
    "lbfgs": optax.lbfgs(),
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)),
    "multi steps": optax.MultiSteps(optax.sgd(0.05), 3).gradient_transformation(),
    "apply if finite": optax.apply_if_finite(optax.sgd(0.05), 3),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("size", [None, 20])
@pytest.mark.parametrize("name", WRAPPED)
def test_optax_needs_no_plumbing(name, size):
    seen = []

    def watched(w, batch):
        jax.debug.callback(lambda: seen.append(None))
        return mean_loss(w, batch)

    loss, calls = counting(watched)
    stop = None if size else gdjax.stop.grad_norm(0.0)  # which looks no closer: those evaluations are not counted
    made = fit(loss, rule=WRAPPED[name], batch_size=size, steps=12, stop=stop)
    jax.effects_barrier()
    assert len(calls) == 1
    assert int(made.evaluations) == len(seen)
    assert float(gdjax.evaluate(mean_loss, made.params, data())) < 0.9 * float(gdjax.evaluate(mean_loss, start(), data()))


# ---- N + M


RUNS = {
    "batch 1": dict(batch_size=1, rule=gdjax.sgd(0.01)),
    "batch 7": dict(batch_size=7, record_every=1),
    "batch 32": dict(batch_size=32, record_every=7),
    "exact sum": dict(loss=SUM, batch_size=32, rule=gdjax.sgd(0.02, momentum=0.9)),
    "in order": dict(batch_size=7, shuffle=False, rule=gdjax.sgd(gdjax.schedules.cosine(0.1, 20))),
    "replacement": dict(batch_size=7, shuffle="replacement", rule=optax.adam(0.05)),
    "noise": dict(loss=noisy_loss, stochastic=True, record_every=7),
    "model state": dict(loss=stateful_loss, has_aux=True, model_state={"mean": np.zeros(3, np.float32), "count": np.int32(0)}),
    "the best": dict(validation=jax.tree.map(np.float32, HELD_OUT), keep="best", patience=50, stop=gdjax.stop.plateau(50), rule=gdjax.sgd(0.2)),
    "whole": dict(batch_size=None, rule=gdjax.sgd(0.05, momentum=0.5), record_every=3, stop=gdjax.stop.target(-1.0)),
    "whole, the best": dict(batch_size=None, keep="best", validation=jax.tree.map(np.float32, HELD_OUT)),
    "line search": dict(batch_size=None, rule=optax.lbfgs(), stop=gdjax.stop.target(-1.0)),
    "stream": dict(arrays=Stream(data(), 7), batch_size=None, rule=gdjax.sgd(0.05, momentum=0.5), record_every=1),
}


def in_parts(run, cuts, total, passing=lambda state: state):
    part = None
    for steps in (*cuts, total):
        part = run(steps=steps, resume=None if part is None else passing(part.state))
    return part


def of_the_way(result):
    """A result without what a look back at its end has found, which depends on the batches that were at hand then."""
    return dataclasses.replace(result, leaf_names=(), diagnosis=Diagnosis(*result.diagnosis[: Diagnosis._fields.index("reason") + 1]))


@pytest.mark.one_in(3)
@pytest.mark.filterwarnings("ignore:No epoch ended")  # some parts are shorter than that
@pytest.mark.parametrize("name", RUNS)
def test_the_steps_add_up(name):
    options = RUNS[name]
    size = ROWS if options.get("batch_size") is None else options["batch_size"]
    per_epoch = 6 if name == "stream" else -(-ROWS // size)
    total = 12 if per_epoch == 1 else 2 * per_epoch + max(per_epoch // 2, 1)
    run = functools.partial(fit, **options)
    whole = run(steps=total)
    assert int(whole.steps) == total
    for cuts in ((0,), (1,), (per_epoch,), (total - 1,), (0, per_epoch + 1, per_epoch + 1, total - 1)):
        assert_same(of_the_way(in_parts(run, cuts, total)), of_the_way(whole))
    nothing = in_parts(run, (total,), total)
    # The aux of the last batch is no part of a state, and a run without a step has none.
    assert_same(of_the_way(dataclasses.replace(nothing, aux=whole.aux)), of_the_way(whole))


@pytest.mark.filterwarnings("ignore:No epoch ended")
@pytest.mark.parametrize("passing", [jax.device_get, lambda state: pickle.loads(pickle.dumps(state))], ids=["device_get", "pickle"])
@pytest.mark.parametrize("name", ["noise", "the best", "stream"])
def test_a_state_may_leave_the_device(name, passing):
    run = functools.partial(fit, **RUNS[name])
    assert_same(of_the_way(in_parts(run, (4, 9), 13, passing)), of_the_way(run(steps=13)))


def test_a_finished_run_makes_no_more_steps():
    for arrays, size in ((Stream(data(), 8), None), (data(), 8)):
        done = fit(arrays=arrays, batch_size=size, epochs=2)
        again = fit(arrays=arrays, batch_size=size, epochs=2, resume=done.state)
        assert int(done.steps) == int(again.steps) == 10
        assert again.status is Status.MAX_STEPS
        assert_same(again.params, done.params)
        more = fit(arrays=arrays, batch_size=size, epochs=3, resume=done.state)
        assert_same(more.params, fit(arrays=arrays, batch_size=size, epochs=3).params)


def test_no_epochs_are_no_steps():
    for arrays, size in ((Stream(data(), 8), None), (data(), 8)):
        made = fit(arrays=arrays, batch_size=size, epochs=0)
        assert (made.status, int(made.steps)) == (Status.MAX_STEPS, 0)
        assert_same(made.params, start())


def test_the_arrays_of_the_user_survive():
    params, arrays, state = start(), jax.tree.map(jnp.asarray, data()), {"mean": jnp.zeros(3), "count": jnp.int32(0)}
    key = jax.random.key(1)
    run = functools.partial(gdjax.fit, stateful_loss, params, arrays, gdjax.sgd(0.05, momentum=0.5), batch_size=7, has_aux=True, model_state=state, key=key)
    first = run(steps=9, keep="best")
    second = run(steps=20, resume=first.state, keep="best")
    run(steps=30, resume=first.state, keep="best")
    for array in jax.tree.leaves((params, arrays, state, key, first, second)):
        assert not (isinstance(array, jax.Array) and array.is_deleted())
    assert_same(params, start())
    assert int(state["count"]) == 0


# ---- streams


def test_a_stream_equals_the_arrays_in_the_same_order():
    options = dict(rule=gdjax.sgd(0.05, momentum=0.5), epochs=3, record_every=4)
    arrays = fit(batch_size=8, shuffle=False, **options)
    stream = fit(arrays=Stream(data(), 8), batch_size=None, key=None, **options)
    assert_same((stream.params, stream.value, stream.grad_norm, stream.history), (arrays.params, arrays.value, arrays.grad_norm, arrays.history))
    assert (stream.status, int(stream.steps), int(stream.evaluations)) == (Status.MAX_STEPS, 15, 15)


def test_a_ragged_stream_equals_the_exact_sum():
    arrays = fit(SUM, batch_size=7, shuffle=False, epochs=2)
    stream = fit(SUM, Stream(data(), 7), batch_size=None, key=None, epochs=2)
    np.testing.assert_allclose(stream.params, arrays.params, rtol=1e-5)
    assert stream.history["step"].tolist() == arrays.history["step"].tolist() == [6, 12]


def test_an_iterator_serves_one_epoch():
    once = fit(arrays=iter(Stream(data(), 8)), batch_size=None, epochs=1)
    assert_same(once.params, fit(arrays=Stream(data(), 8), batch_size=None, epochs=1).params)
    with pytest.raises(ValueError, match="only once"):
        fit(arrays=iter(Stream(data(), 8)), batch_size=None, epochs=2)


# ---- validation, patience, the best


def by_hand(epochs, patience, rate=0.25):
    """(validation losses, params after each epoch) of a run with patience, as a person would write it."""
    w, best, waited, losses, path = start(), np.inf, 0, [], []
    step = jax.jit(lambda w, batch: w - rate * jax.grad(mean_loss)(w, batch))
    for epoch in range(epochs):
        for rows in sources.host_rows(sources.key_words(jax.random.key(3)), ROWS, 8, "epoch", epoch):
            w = step(w, jax.tree.map(lambda x: x[rows], data()))  # noqa: B023
        losses.append(float(mean_loss(w, jax.tree.map(jnp.float32, HELD_OUT))))
        path.append(w)
        best, waited = (losses[-1], 0) if losses[-1] < best else (best, waited + 1)
        if waited >= patience:
            break
    return losses, path


@pytest.mark.parametrize("patience", [1, 2, 30])
@pytest.mark.parametrize("keep", ["best", "last"])
def test_validation_patience_and_the_best_equal_a_loop_by_hand(patience, keep):
    made = fit(
        rule=gdjax.sgd(0.25), batch_size=8, epochs=12, validation=jax.tree.map(np.float32, HELD_OUT), patience=patience, keep=keep, history=("validation",)
    )
    losses, path = by_hand(12, patience)
    np.testing.assert_allclose(made.history["validation"], losses, rtol=1e-4)
    chosen = int(np.argmin(losses)) if keep == "best" else -1
    np.testing.assert_allclose(made.params, path[chosen], rtol=1e-4)
    assert made.status is (Status.STOPPED if len(losses) < 12 else Status.MAX_STEPS)
    assert int(made.steps) == 5 * len(losses)
    assert "(patience)" in made.message or made.status is Status.MAX_STEPS


def test_patience_without_validation_watches_the_training_loss():
    made = fit(rule=gdjax.sgd(0.0), batch_size=8, epochs=20, patience=3)
    # The same params every epoch: the means differ by rounding at most, and the order of the rows.
    assert made.status is Status.STOPPED
    assert 4 <= int(made.steps) // 5 < 20


def test_stopping_rules_are_asked_once_an_epoch():
    made = fit(batch_size=8, epochs=50, stop=gdjax.stop.target(0.3) | gdjax.stop.plateau(40))
    assert made.status is Status.STOPPED
    assert "(target)" in made.message
    means = made.history["value"]
    assert float(means[-1]) <= 0.3 < float(means[:-1].min())
    assert float(made.value) == float(means[-1])


def test_the_kept_best_is_copied():
    made = fit(rule=gdjax.sgd(0.25), batch_size=8, epochs=6, keep="best")
    best = int(np.argmin(made.history["value"]))
    np.testing.assert_array_equal(made.params, fit(rule=gdjax.sgd(0.25), batch_size=8, epochs=best + 1).params)


# ---- history and verdicts


@pytest.mark.parametrize(("every", "wanted"), [(None, [6, 12, 15]), (1, list(range(1, 16))), (7, [7, 14, 15]), (100, [15])])
def test_what_is_recorded(every, wanted):
    names = ("value", "grad_norm", "learning_rate", "evaluations")
    single, made = fit(steps=15, record_every=1), fit(steps=15, record_every=every, history=names)
    assert made.history["step"].tolist() == wanted
    assert set(made.history) == {"step", *names}
    means = [single.history["value"][a:b].mean() for a, b in zip([0, *wanted], wanted, strict=False)]
    np.testing.assert_allclose(made.history["value"], means, rtol=1e-5)
    np.testing.assert_allclose(made.history["grad_norm"], single.history["grad_norm"][np.array(wanted) - 1], rtol=1e-5)
    np.testing.assert_array_equal(made.history["evaluations"], wanted)
    np.testing.assert_allclose(made.history["learning_rate"], 0.05, rtol=1e-6)
    assert fit(steps=15, record_every=every, history=()).history["step"].tolist() == wanted


def test_aux_is_that_of_the_last_batch_and_model_state_is_carried():
    made = fit(stateful_loss, has_aux=True, model_state={"mean": np.zeros(3, np.float32), "count": np.int32(0)}, batch_size=8, shuffle=False, epochs=2)
    np.testing.assert_array_equal(made.aux, data()[1][-8:])
    mean = np.zeros(3)
    for first in [*range(0, ROWS, 8)] * 2:
        mean = 0.9 * mean + 0.1 * X[first : first + 8].mean(0)
    carried = made.state.progress.state.model_state
    np.testing.assert_allclose(carried["mean"], mean, rtol=1e-5)
    assert int(carried["count"]) == 10


def test_a_first_batch_without_loss_is_no_divergence():
    # The first example is fitted from the start: its loss is 0, and every other loss is infinitely many times that.
    targets = np.array([0.0, 1, 1, 1, 1, 1, 1, 1], np.float32)
    made = gdjax.fit(lambda w, b: jnp.mean((w - b) ** 2), 0.0, targets, gdjax.sgd(0.05), batch_size=1, epochs=5, shuffle=False)
    assert made.status is Status.MAX_STEPS


@pytest.mark.one_in(3)
@pytest.mark.parametrize("size", [1, 8, None])
def test_a_rate_that_is_too_large_diverges_to_finite_params(size):
    made = fit(rule=gdjax.sgd(3.0), batch_size=size, epochs=4000 if size is None else 40)
    assert made.status is Status.DIVERGED
    assert np.isfinite(made.params).all()
    inside = jax.jit(lambda w: gdjax.fit(mean_loss, w, data(), gdjax.sgd(3.0), batch_size=size, steps=300, key=3))(start())
    assert inside.status is Status.DIVERGED
    assert np.isfinite(inside.params).all()


@pytest.mark.parametrize("size", [4, 8])
def test_the_last_finite_params_are_returned(size):
    poisoned = (np.arange(1, ROWS + 1, dtype=np.float32), np.where(np.arange(ROWS) == 33, np.nan, 1).astype(np.float32))
    loss = lambda w, b: jnp.mean(w * b[0] * b[1])  # noqa: E731
    made = gdjax.fit(loss, 1.0, poisoned, gdjax.sgd(1e-3), batch_size=size, epochs=3, shuffle=False)
    # The params of the step before: at them a loss was finite, at those of the step that met the NaN it never was.
    sound = gdjax.fit(loss, 1.0, poisoned, gdjax.sgd(1e-3), batch_size=size, steps=33 // size - 1, shuffle=False)
    assert made.status is Status.NONFINITE
    assert int(made.steps) == 33 // size - 1
    np.testing.assert_allclose(made.params, sound.params, rtol=1e-6)


def test_a_gradient_that_breaks_while_the_loss_is_fine():
    # √(w − b) with b = 1/2 in the fifth batch: w is 1/2 there, the loss is 0 and its slope infinite; the last gradient that was finite was taken at 5/8.
    rows = np.array([0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0], np.float32)
    loss = lambda w, b: jnp.mean(jnp.where(b > 0, jnp.sqrt(w - b), w))  # noqa: E731
    made = gdjax.fit(loss, 1.0, rows, gdjax.sgd(0.125), batch_size=1, steps=8, shuffle=False)
    assert made.status is Status.NONFINITE
    assert (float(made.params), int(made.steps)) == (0.625, 3)


def test_the_default_rule_needs_no_rate():
    made = gdjax.fit(mean_loss, start(), data(), batch_size=8, epochs=60, key=0)
    assert repr(made.rule) == "parameter_free_adam(steps=300)"
    best = np.linalg.lstsq(X, Y, rcond=None)[0]
    optimum = ((X @ best - Y) ** 2).mean() / 2
    assert float(gdjax.evaluate(mean_loss, made.params, data())) < 1.1 * optimum
    whole = gdjax.fit(mean_loss, start(), data(), batch_size=None, epochs=60)
    assert whole.rule == gdjax.reduced_hessian()
    np.testing.assert_allclose(whole.params, best, rtol=1e-3)


# ---- transformations


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["batch 7", "exact sum", "noise", "the best", "whole", "in order"])
def test_inside_jit_the_same_run(name):
    options = {k: v for k, v in RUNS[name].items() if k not in ("loss", "rule")}
    loss, rule = RUNS[name].get("loss", mean_loss), RUNS[name].get("rule", gdjax.sgd(0.05))
    run = lambda w, rule: gdjax.fit(loss, w, data(), rule, steps=15, **dict(batch_size=7, key=3) | options)  # noqa: E731
    outside, inside = run(start(), rule), jax.jit(run)(start(), rule)
    np.testing.assert_allclose(inside.params, outside.params, rtol=1e-4)
    np.testing.assert_allclose(inside.value, outside.value, rtol=1e-4)
    assert (int(inside.code), int(inside.steps), int(inside.evaluations)) == (outside.status, int(outside.steps), int(outside.evaluations))
    count = len(outside.history["step"])
    assert inside.history["step"][:count].tolist() == outside.history["step"].tolist()
    np.testing.assert_allclose(inside.history["value"][:count], outside.history["value"], rtol=1e-4)
    assert (inside.history["step"][count:] == -1).all()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("make", [lambda: 3, lambda: jax.random.key(3), lambda: jax.random.PRNGKey(3)], ids=["seed", "key", "legacy"])
def test_a_key_that_is_known_gives_the_same_order_inside_jit(make):
    key = make()
    run = lambda w: gdjax.fit(mean_loss, w, data(), gdjax.sgd(0.05), batch_size=7, steps=8, key=key).params  # noqa: E731
    np.testing.assert_allclose(jax.jit(run)(start()), run(start()), rtol=1e-5)
    np.testing.assert_allclose(jax.jvp(run, (start(),), (start(),))[0], run(start()), rtol=1e-5)


def test_vmap_over_rules_keys_and_starts():
    run = lambda rule, key, w: gdjax.fit(mean_loss, w, data(), rule, batch_size=7, steps=15, key=key).params  # noqa: E731
    rules, keys, starts = gdjax.sgd(jnp.asarray([0.01, 0.05, 0.1])), jax.random.split(jax.random.key(0), 3), jnp.outer(jnp.asarray([1.0, 2.0, 3.0]), start())
    many, one = jax.jit(jax.vmap(run))(rules, keys, starts), jax.jit(run)
    for i in range(3):
        np.testing.assert_allclose(many[i], one(gdjax.sgd(rules.leaves[0][i]), keys[i], starts[i]), rtol=1e-5)
    concrete = jax.vmap(lambda w: run(gdjax.sgd(0.05), 3, w))(starts)
    for i in range(3):
        np.testing.assert_allclose(concrete[i], run(gdjax.sgd(0.05), 3, starts[i]), rtol=1e-5)


def test_vmap_over_states():
    run = lambda steps, resume=None: fit(steps=steps, resume=resume)  # noqa: E731
    states = jax.tree.map(lambda x: jnp.stack([x, x]), run(7).state)
    many = jax.vmap(lambda state: run(15, state).params)(states)
    np.testing.assert_allclose(many[1], run(15).params, rtol=1e-5)


@pytest.mark.one_in(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [7, None])
def test_derivatives_through_fit_equal_finite_differences(size):
    def final(numbers, options=dict(batch_size=size, steps=9, key=3)):  # noqa: B006
        w = gdjax.fit(SUM, numbers[2:5], (X, Y * numbers[5]), gdjax.sgd(numbers[0], momentum=numbers[1]), **options).params
        return mean_loss(w, (X, Y))

    numbers, width = np.concatenate([[0.03, 0.5], START, [1.1]]), 1e-6
    shifts = width * np.eye(len(numbers))
    many = jax.jit(jax.vmap(final))
    differences = (many(numbers + shifts) - many(numbers - shifts)) / (2 * width)
    np.testing.assert_allclose(jax.jit(jax.grad(final))(jnp.asarray(numbers)), differences, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(final))(jnp.asarray(numbers)), differences, rtol=1e-6)
