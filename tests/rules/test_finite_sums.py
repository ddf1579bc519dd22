"""The rules for finite sums: transcriptions, the laws that make sense for rules that need data, their table, and scikit-learn's solution."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from cases import ON_DATA
from representatives import some

import gdjax
from gdjax import data as sources
from gdjax.loop import mini_batch
from gdjax.parts.examples import Examples, next_success, seed_words

DRAW = np.random.default_rng(11)
N, D = 23, 4
X, NOISE = DRAW.normal(size=(N, D)) * [1.0, 0.5, 2.0, 1.0] + [0.3, 0.0, -0.2, 0.0], DRAW.normal(size=N)
Y = np.where(X @ [1.0, -2.0, 0.5, 0.3] + NOISE > 0, 1.0, -1.0)
START = np.array([0.5, -0.3, 0.2, 1.0])
LAMBDA = 0.05
exact = pytest.mark.usefixtures("x64")
every = pytest.mark.parametrize("name", ON_DATA)


def logistic(w, example):
    return jax.nn.softplus(-example[1] * jnp.dot(example[0], w))


def wavy(w, example):
    return logistic(w, example) + jnp.sum(jnp.sin(w * example[0]))


def ridge(w):
    return LAMBDA / 2 * jnp.vdot(w, w)


LOSS, WAVY = gdjax.finite_sum(logistic, ridge), gdjax.finite_sum(wavy, ridge)


def order_of(name):
    return "replacement" if name == "sag" else "epoch"


def fit(name, *given, loss=LOSS, data=(X, Y), start=START, batch_size=1, key=3, dtype=None, **options):
    """The rule on the data, in the order it wants."""
    options.setdefault("shuffle", order_of(name))
    options.setdefault("history", ())
    rule = given[0] if given and isinstance(given[0], gdjax.Rule) else getattr(gdjax, name)(*given)
    arrays = jax.tree.map(lambda x: jnp.asarray(x, dtype), (start, data))
    return gdjax.fit(loss, arrays[0], arrays[1], rule, batch_size=batch_size, key=key, **options)


def example_grad(loss):
    grad = jax.jit(jax.grad(loss))
    return lambda i, x: np.asarray(grad(jnp.asarray(x), (jnp.asarray(X[i]), jnp.asarray(Y[i]))))


def batches(batch_size, order, steps, key=3):
    per_epoch, words = -(-N // batch_size), sources.key_words(jax.random.key(key))
    rows = np.concatenate([sources.host_rows(words, N, batch_size, order, epoch) for epoch in range(-(-steps // per_epoch))])[:steps]
    full = [batch_size if (step + 1) % per_epoch else N - (per_epoch - 1) * batch_size for step in range(steps)]
    return [list(row[:size]) for row, size in zip(rows, full, strict=True)]


def heads(name, probability, steps, key=3):
    """The steps at which the coin falls on its right side; tossed first at step 0 by loopless_svrg, at step 1 by page."""
    seed = seed_words(jax.random.key(key))
    found = [int(next_success(seed, jnp.int32(0), probability)) - (1 if name == "loopless_svrg" else 0)]
    while found[-1] < steps:
        found.append(int(next_success(seed, jnp.int32(found[-1]), probability)))
    return found


@pytest.mark.one_in(2)
@exact
@pytest.mark.parametrize(
    ("name", "batch_size", "order", "loss"),
    [(name, batch_size, order_of(name), LOSS) for name in ON_DATA for batch_size in (1, 5)]
    + [("saga", 5, "replacement", LOSS), ("saga", 5, "epoch", WAVY), ("sag", 1, "replacement", WAVY), ("page", 5, "replacement", WAVY)],
)
def test_equals_its_transcription_in_numpy(name, batch_size, order, loss):
    """Over 200 steps, in which ragged batches drawn with replacement hold the same example as a row that counts and as one that does not."""
    steps, rate = 203, 0.05
    given = {"svrg": {"period": 7}}.get(name, {})
    chance = {"loopless_svrg": batch_size / N, "page": batch_size / (N + batch_size)}
    more = given if name not in chance else {"heads": heads(name, chance[name], steps)}
    ours = fit(name, getattr(gdjax, name)(rate, **given), loss=loss, batch_size=batch_size, steps=steps, shuffle=order).params
    arguments = (example_grad(loss.example_loss_fn), lambda x: LAMBDA * x, START, batches(batch_size, order, steps), N, rate)
    np.testing.assert_allclose(ours, getattr(reference, name)(*arguments, **more), rtol=1e-11, atol=1e-12)


@pytest.mark.one_in(2)
@exact
@every
def test_finds_the_solution_of_scikit_learn_with_no_number(name):
    linear_model = pytest.importorskip("sklearn.linear_model")
    theirs = linear_model.LogisticRegression(C=1 / (LAMBDA * N), fit_intercept=False, solver="saga", tol=1e-13, max_iter=100_000, random_state=0).fit(X, Y)
    result = fit(name, epochs=4000 if name == "page" else 1500, batch_size=4)
    np.testing.assert_allclose(result.params, theirs.coef_[0], atol=1e-8)


@pytest.mark.one_in(2)
@exact
@every
def test_resumes_bit_for_bit_and_counts_evaluations(name):
    whole = fit(name, steps=50, batch_size=4)
    cut = fit(name, steps=50, batch_size=4, resume=fit(name, steps=17, batch_size=4).state)
    jax.tree.map(np.testing.assert_array_equal, *(run.state.progress._replace(state=run.state.progress.state._replace(key=None)) for run in (whole, cut)))
    assert int(cut.evaluations) == int(whole.evaluations)
    per_epoch = -(-N // 4)
    start = per_epoch + -(-2 * 8 * N // 4)  # one pass for the curvatures of examples, 8 rounds of two for their mean
    looks = per_epoch + sum(step % 64 == 0 for step in range(per_epoch, 50))
    mine = {"sag": 0, "saga": 0, "svrg": 50 + per_epoch * -(-50 // (2 * per_epoch))}
    if name in mine:
        assert int(whole.evaluations) == 50 + start + looks + mine[name]
    else:
        assert int(whole.evaluations) > 50 + start + looks + 50


@exact
# One that keeps a table of gradients, and one that comes back to full gradients: the others are made of the same two parts.
@pytest.mark.parametrize("name", some(ON_DATA, ["svrg"].__contains__))
def test_a_table_of_learning_rates_is_one_trace_and_equals_the_loop(name):
    traces = []

    def counted(w, example):
        traces.append(1)
        return logistic(w, example)

    loss, rates = gdjax.finite_sum(counted, ridge), jnp.array([0.02, 0.1])
    alone = [fit(name, float(rate), loss=loss, steps=30, batch_size=4).params for rate in rates]
    once = len(traces)
    fit(name, 0.07, loss=loss, steps=30, batch_size=4)
    assert len(traces) == once
    mapped = jax.vmap(lambda rate: fit(name, rate, loss=loss, steps=30, batch_size=4).params)(rates)
    np.testing.assert_allclose(mapped, alone, rtol=1e-11)
    slope = jax.jacfwd(lambda rate: fit(name, rate, steps=30, batch_size=4).params)(0.05)
    moved = [fit(name, 0.05 + e, steps=30, batch_size=4).params for e in (1e-5, -1e-5)]
    np.testing.assert_allclose(slope, (moved[0] - moved[1]) / 2e-5, rtol=1e-5, atol=1e-7)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("dtype", some([jnp.float32, jnp.bfloat16], lambda dtype: dtype == jnp.bfloat16))  # which all else promotes
@every
def test_keeps_its_dtypes(name, dtype):
    one, many = (fit(name, steps=steps, batch_size=4, dtype=dtype).state.progress.state for steps in (1, 40))
    assert one.params.dtype == dtype
    assert jax.tree.map(lambda x: (x.shape, x.dtype), one) == jax.tree.map(lambda x: (x.shape, x.dtype), many)
    assert bool(jnp.all(jnp.isfinite(many.params)))


@exact
@pytest.mark.parametrize("loss", [LOSS, WAVY], ids=["numbers", "gradients"])
def test_the_table_holds_the_gradients_last_seen_and_the_mean_is_their_mean(loss):
    state = fit("saga", 0.1, loss=loss, epochs=1).state.progress.state.rule_state
    leaf = jax.tree.leaves(state.table)[0]
    assert leaf.shape == ((N,) if loss is LOSS else (N, D))
    examples = Examples(loss.example_loss_fn, None, (jnp.asarray(X), jnp.asarray(Y)))
    np.testing.assert_allclose(state.mean, examples.combine(jnp.asarray(START), state.table.rows) / N, rtol=1e-13)
    rows, stale, x = batches(1, "epoch", N), np.zeros((N, D)), None
    for step in range(N):  # each row's gradient is that at the point before its step
        x = fit("saga", 0.1, loss=loss, steps=step).params if step % 6 == 0 else x
        if step % 6 == 0:
            (row,) = rows[step]
            stale[row] = example_grad(loss.example_loss_fn)(row, x)
            ours = examples.combine(jnp.asarray(START), jax.tree.map(lambda t, r=row: jnp.zeros_like(t).at[r].set(t[r]), state.table.rows))
            np.testing.assert_allclose(ours, stale[row], rtol=1e-12, atol=1e-15)


@exact
@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_compiled_loop_does_not_copy_the_table(monkeypatch, batch_size):
    texts, segment = [], mini_batch._segment

    def spied(*args, **kwargs):
        texts.append(segment.lower(*args, **kwargs).compile().as_text())
        return segment(*args, **kwargs)

    monkeypatch.setattr(mini_batch, "_segment", spied)
    count = 1613  # of no other shape
    fit("saga", 0.1, data=(np.resize(X, (count, D)), np.resize(Y, count)), epochs=1, batch_size=batch_size)
    writes = [text for text in re.split(r"\n(?=%|ENTRY)", texts[0]) if re.search(r"= f64\[1613\]\S* (fusion\(.*)?(scatter|dynamic-update-slice)", text)]
    assert writes
    copies = [line for text in writes for line in text.splitlines() if re.search(r"= f64\[1613\]\S* copy\(", line)]
    assert not copies, copies


@exact
@pytest.mark.parametrize("name", ["saga", "sag"])
def test_a_batch_that_is_not_finite_leaves_params_and_table_as_they_were(name):
    bad = X.copy()
    bad[batches(1, order_of(name), 30)[20][0]] = np.nan
    result = fit(name, 0.1, data=(bad, Y), epochs=3)
    assert result.status.name == "NONFINITE"
    state = result.state.progress.state
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((state.params, state.rule_state)))


# (loss of an example, labels, shape of the params). Curvatures of Poisson and softmax losses at the start are far below those met later.
PROBLEMS = {
    "logistic": (logistic, Y, (D,)),
    "least squares": (lambda w, e: 0.5 * (e[0] @ w - e[1]) ** 2, X @ [3.0, -1.0, 2.0, 0.5] + NOISE, (D,)),
    "poisson": (lambda w, e: jnp.exp(e[0] @ w) - e[1] * (e[0] @ w), np.exp(X @ [0.5, -0.5, 0.4, 0.2] + 2).round(), (D,)),
    "softmax": (lambda w, e: -jax.nn.log_softmax(e[0] @ w)[e[1].astype(int)], (np.arange(N) % 3).astype(float), (D, 3)),
    "huber": (lambda w, e: optax.losses.huber_loss(e[0] @ w, e[1]), X @ [3.0, -1.0, 2.0, 0.5] + 5 * NOISE, (D,)),
    "no model": (lambda w, e: logistic(w, (e[0], e[1])) + 0.1 * jnp.sum(jnp.cosh(w)), Y, (D,)),
}


@pytest.mark.one_in(2)
@exact
@pytest.mark.parametrize(
    ("name", "problem", "scale"),
    [("saga", problem, 1.0) for problem in PROBLEMS]
    + [("saga", "poisson", 1e-3), ("saga", "logistic", 1e3), ("svrg", "poisson", 1.0), ("sag", "softmax", 1.0)],
)
def test_needs_no_learning_rate(name, problem, scale):
    example_loss, y, shape = PROBLEMS[problem]
    loss = gdjax.finite_sum(example_loss, lambda w: LAMBDA / 2 * scale**2 * jnp.vdot(w, w))
    data, start = (scale * X, y), np.zeros(shape)
    result = fit(name, loss=loss, data=data, start=start, epochs=1000)
    gradient = lambda w: jnp.linalg.norm(jax.grad(lambda w: loss(w, jax.tree.map(jnp.asarray, data)))(w))  # noqa: E731
    assert gradient(result.params) <= 1e-3 * gradient(jnp.asarray(start))


class Stream:
    def __init__(self, batch):
        self.batch = batch

    def __iter__(self):
        return iter([self.batch])


def test_errors_say_what_to_do():
    data = (jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32))
    start, run = jnp.zeros(D), dict(batch_size=1, epochs=1, key=0)
    opaque = lambda w, batch: jnp.mean(jax.vmap(logistic, (None, 0))(w, batch))  # noqa: E731
    wanted = r"saga: got no examples; wanted .*gdjax.finite_sum.*gdjax.fit\(loss, params, data, gdjax.saga\(\), batch_size=1"
    for call in (
        lambda: gdjax.saga().init(start),
        lambda: gdjax.fit(opaque, start, data, gdjax.saga(), **run),
        lambda: gdjax.minimize(ridge, start, gdjax.saga()),
        lambda: gdjax.fit(LOSS, start, data, gdjax.saga(), batch_size=None, epochs=1),
        lambda: gdjax.fit(gdjax.finite_sum(lambda w, e, key: logistic(w, e)), start, data, gdjax.saga(), stochastic=True, **run),
    ):
        with pytest.raises(ValueError, match=wanted):
            call()
    with pytest.raises(ValueError, match=r'sag: the rows come in passes.*type shuffle="replacement"'):
        gdjax.fit(LOSS, start, data, gdjax.sag(), **run)
    with pytest.raises(ValueError, match=r"svrg: got no full_value_and_grad_fn"):
        gdjax.fit(opaque, start, Stream(data), gdjax.svrg(0.1), batch_size=None, epochs=1)
    for wrong in (lambda: gdjax.saga(-1.0), lambda: gdjax.sag(jnp.nan), lambda: gdjax.svrg(period=0), lambda: gdjax.page(probability=0.0)):
        with pytest.raises(ValueError, match="wanted"):
            wrong()
    with pytest.raises(TypeError, match=r"svrg: period is 2\.5; wanted an integer"):
        gdjax.svrg(0.1, 2.5)


def test_a_learning_rate_is_enough_for_opaque_losses_where_nothing_is_kept_per_example():
    opaque = lambda w, batch: jnp.mean(jax.vmap(logistic, (None, 0))(w, batch)) + ridge(w)  # noqa: E731
    for name in ("svrg", "loopless_svrg", "page"):
        ours, theirs = (fit(name, 0.1, loss=loss, dtype=jnp.float32, steps=40).params for loss in (opaque, LOSS))
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)


@exact
def test_chains_and_schedules_take_it():
    plain = fit("saga", 0.1, steps=40).params
    chained = fit("saga", gdjax.chain(gdjax.saga(0.2), gdjax.rule(optax.scale)(0.5)), steps=40).params
    scheduled = fit("saga", gdjax.saga(gdjax.schedules.constant(0.1)), steps=40).params
    np.testing.assert_allclose(chained, plain, rtol=1e-12)
    np.testing.assert_allclose(scheduled, plain, rtol=1e-12)


def test_evaluations_of_rules_within_rules_are_summed():
    @gdjax.rule
    def counting(each, inner=None):
        def init(params):
            return {"evaluations": jnp.int32(0), "inner": None if inner is None else inner.init(params)}

        def update(grads, state, params=None, *, value_and_grad_fn=None, **extra):
            for _ in range(each):
                value_and_grad_fn(params)
            inside = None if inner is None else inner.update(grads, state["inner"], params, value_and_grad_fn=value_and_grad_fn, **extra)[1]
            return jax.tree.map(lambda g: -0.1 * g, grads), {"evaluations": state["evaluations"] + each, "inner": inside}

        return init, update

    result = fit("saga", counting(2, counting(3)), steps=10, dtype=jnp.float32)
    assert int(result.evaluations) == 10 * (1 + 2 + 3)


def test_the_coin_is_fair():
    seed, at, p = seed_words(jax.random.key(5)), jnp.int32(0), 0.05
    waits = np.asarray(jax.vmap(lambda step: next_success(seed, step, p) - step)(jnp.arange(20000)))
    assert waits.min() == 1
    # Mean 1/p, variance (1 − p)/p²; P(1) = p: within 5 standard errors.
    assert abs(waits.mean() - 1 / p) < 5 * np.sqrt((1 - p) / p**2 / 20000)
    assert abs(np.mean(waits == 1) - p) < 5 * np.sqrt(p * (1 - p) / 20000)
    assert int(next_success(seed, at, 1.0)) == 1


@exact
@pytest.mark.parametrize(
    "wrap",
    [
        gdjax.average,
        lambda rule: gdjax.chain(optax.identity(), rule),
        lambda rule: gdjax.lookahead(rule, period=10**6),
        lambda rule: gdjax.outer_loop(rule, period=10**6),
        lambda rule: gdjax.schedule_free(rule, 0.0),  # y = z
    ],
)
def test_wrappers_hand_on_what_fit_offers(wrap):
    plain = fit("saga", 0.1, steps=30)
    wrapped = fit("saga", wrap(gdjax.saga(0.1)), steps=30)
    np.testing.assert_allclose(wrapped.state.progress.state.params, plain.params, rtol=1e-12)


@exact
@pytest.mark.parametrize("name", ["saga", "loopless_svrg"])
def test_mechanic_takes_them(name):
    result = fit(name, gdjax.mechanic(getattr(gdjax, name)(1.0), first_scale=1e-3, weight_decay=0.0), epochs=30)
    plain = fit(name, epochs=30)
    assert result.value < plain.value + 0.01 < np.mean([logistic(START, row) for row in zip(X, Y, strict=True)])


@pytest.mark.parametrize("inner", [gdjax.saga(), gdjax.svrg(0.1), gdjax.chain(optax.identity(), gdjax.sag())], ids=repr)
@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (gdjax.ef21, r"^ef21: .*would not be compressed; .*type gdjax\.ef21\(gdjax\.gd\(0\.1\)\)"),
        (lambda rule: gdjax.lookahead(rule, reset_state=True), r"^lookahead: .*cannot begin anew.*type lookahead\(.*, reset_state=False\)"),
        (lambda rule: gdjax.outer_loop(gdjax.sgd(0.1), rule), r"^outer_loop: .*type gdjax\.outer_loop\(inner, gdjax\.sgd\(1\.0\)\)"),
        (lambda rule: gdjax.muon(0.1, others=rule), r"^muon: .*of some leaves only; .*type gdjax\.muon\("),
    ],
    ids=["ef21", "lookahead", "outer_loop", "muon"],
)
def test_wrappers_that_cannot_take_them_say_so(wrap, words, inner):
    with pytest.raises(ValueError, match=words):
        wrap(inner)


def test_lookahead_begins_states_anew_with_the_counts_that_fit_offers():
    @gdjax.rule
    def counts():
        def init(params, *, num_examples=None, batch_size=None):
            return jnp.asarray([-1 if num_examples is None else num_examples, -1 if batch_size is None else batch_size])

        return init, lambda grads, state, params=None: (jax.tree.map(lambda g: -0.1 * g, grads), state * 0)

    result = fit("saga", gdjax.lookahead(counts(), period=2, reset_state=True), steps=4, dtype=jnp.float32)
    np.testing.assert_array_equal(result.state.progress.state.rule_state.inner, [N, 1])
