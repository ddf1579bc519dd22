"""What was answered with an error of NumPy's, JAX's or Python's own, or silently: each door says what came and what is wanted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
DATA, W = (X, X[:, 0].copy()), jnp.zeros(3)
MASKED = np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False])
ARRAYS = (np.zeros(3), np.array([True, False]), np.array(["last", "best"]), jnp.zeros(2), np.zeros(0), MASKED)
RULE = gdjax.gd(0.1)
SUM = gdjax.finite_sum(lambda w, row: (row[0] @ w - row[1]) ** 2)


def bowl(w):
    return sum(jnp.sum((x - 1.0) ** 2) for x in jax.tree.leaves(w))


def squares(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def minimize(params=W, rule=RULE, **options):
    return gdjax.minimize(bowl, params, rule, **options)


def fit(params=W, data=DATA, rule=RULE, **options):
    options = dict(batch_size=4, epochs=1, key=0) | options
    return gdjax.fit(squares, params, data, rule, **options)


def refused(call, text="wanted"):
    with pytest.raises((TypeError, ValueError), match=text):
        call()


OPTIONS = {
    "minimize": (minimize, "has_aux differentiate progress history max_steps record_every tol stop resume args rule"),
    "fit": (fit, "has_aux stochastic chunk_size shuffle keep progress history record_every patience stop callbacks checkpoint batch_size epochs resume rule"),
    "descent": (lambda **options: gdjax.descent(**dict(loss_fn=bowl, rule=RULE) | options), "loss_fn rule has_aux stochastic chunk_size"),
    "multistart": (lambda **options: gdjax.multistart(minimize, jax.random.key, **dict(count=2, key=0) | options), "compare tolerance count block mesh"),
    "sweep": (lambda **options: gdjax.sweep(minimize, gdjax.gd(jnp.ones(2)), **options), "score keep rungs block mesh"),
    "suggest": (lambda **options: gdjax.suggest(squares, W, DATA, **dict(steps=2) | options), "has_aux make_rule steps budget batch_size"),
    "smoothness": (lambda **options: gdjax.smoothness(squares, W, DATA, **options), "has_aux stochastic batch_size iterations batches"),
    "range_test": (lambda **options: gdjax.range_test(squares, W, DATA, **options), "has_aux stochastic make_rule batch_size low steps"),
}


@pytest.mark.parametrize(("door", "name"), [(door, name) for door, (_, names) in OPTIONS.items() for name in names.split()])
def test_arrays_where_something_else_is_wanted(door, name):
    for array in ARRAYS:
        refused(lambda: OPTIONS[door][0](**{name: array}))  # noqa: B023


@pytest.mark.parametrize("name", ["variant", "reference", "kind", "norm", "beta", "restart"])
def test_arrays_for_the_words_of_rules(name):
    of = {"variant": gdjax.adgd, "reference": gdjax.armijo, "kind": gdjax.average, "norm": gdjax.steepest}
    of |= {"beta": gdjax.nonlinear_cg, "restart": gdjax.accelerated}
    given = {"kind": {"inner": RULE}, "norm": {"learning_rate": 0.1}}.get(name, {})
    for array in ARRAYS:
        refused(lambda: of[name](**given, **{name: array}))  # noqa: B023


STARTS = {
    "a shape": jax.ShapeDtypeStruct((3,), jnp.float32),
    "eight bits": jnp.zeros(3, jnp.float8_e4m3fn),
    "keys of two kinds": {"a": W, 1: W},
    "bytes": b"123",
    "objects": np.array([1.0, None]),
    "masked": MASKED,
    "times": np.zeros(3, "M8[s]"),
    "fields": np.zeros(3, [("a", "f4")]),
    "a class": np.float32,
    "a list of words": ["a", W],
}


@pytest.mark.parametrize("name", STARTS)
def test_starts(name):
    refused(lambda: minimize(STARTS[name]))
    refused(lambda: fit(STARTS[name]))
    refused(lambda: gdjax.descent(squares, RULE).init(STARTS[name]))
    refused(lambda: gdjax.smoothness(bowl, STARTS[name]))
    refused(lambda: gdjax.multistart(minimize, lambda key: STARTS[name], 2, key=0))
    if name != "eight bits":  # a state may have any dtype
        loss = lambda w, s, b: (squares(w, b), s)  # noqa: E731
        refused(lambda: gdjax.fit(loss, W, DATA, RULE, batch_size=4, epochs=1, key=0, model_state=STARTS[name]))


def test_lists_of_arrays_and_long_doubles_are_starts():
    for start in ([W, W], [np.zeros(2, ">f4")], np.zeros(2, np.longdouble), np.ma.masked_array([0.0, 0.0])):
        assert minimize(start, gdjax.gd(0.25), max_steps=100).converged


def test_numbers_as_model_state():
    """A number is a state like any other: it keeps its dtype."""
    counted = gdjax.fit(lambda w, s, b: (squares(w, b), s + 1), W, DATA, RULE, batch_size=4, epochs=2, key=0, model_state=0)
    assert int(counted.model_state) == 6


@pytest.mark.parametrize("length", [2, 3])
def test_learning_rates_are_one(length):
    """Of another length than the params they raised in JAX, of the same they were one for each coordinate; several rules are a sweep."""
    rates = np.linspace(0.1, 0.2, length)
    lifted = gdjax.rule(optax.adam)(rates)
    for rule in (gdjax.gd(rates), gdjax.sgd(0.1, momentum=rates), gdjax.chain(gdjax.gd(rates)), gdjax.average(gdjax.gd(rates)), lifted):
        refused(lambda: minimize(rule=rule), r"with numbers of shape \(\d,\); wanted one rule: to try several type gdjax.sweep")  # noqa: B023
        refused(lambda: fit(rule=rule), "wanted one rule")  # noqa: B023
        refused(lambda: gdjax.descent(bowl, rule), "wanted one rule")  # noqa: B023
    assert jax.vmap(lambda rule: minimize(rule=rule, max_steps=2).value)(gdjax.gd(jnp.asarray(rates))).shape == (length,)
    refused(lambda: gdjax.gd([0.1, 0.2]), "gd: learning_rate is")


def test_matrices_in_rules_of_ones_own():
    @gdjax.rule
    def preconditioned(learning_rate, matrix):
        return lambda params: (), lambda grads, state, params=None: (-learning_rate * (matrix @ grads), state)

    assert minimize(rule=preconditioned(0.1, np.eye(3)), max_steps=100).value < 1e-3


def test_finite_sums_without_data():
    for door in (gdjax.smoothness, gdjax.range_test, lambda *given: gdjax.suggest(*given, steps=3)):
        refused(lambda: door(SUM, W), "data is None and loss_fn is a finite_sum; wanted the examples")  # noqa: B023
    refused(lambda: gdjax.minimize(SUM, W, RULE, args=((X, X[:4, 0]),)), r"args\[0\]\[0\] has 12, args\[0\]\[1\] has 4; wanted")


def test_an_empty_chain():
    refused(gdjax.chain, "chain: got no rules; wanted one at least")


def test_what_descent_takes():
    init, step = gdjax.descent(squares, RULE)
    refused(lambda: step(W, DATA), r"step: state is .*; wanted what init")
    refused(lambda: step(init(W), (X, ["a"])), r"batch\[1\]\[0\] is 'a' \(str\); wanted arrays")
    refused(lambda: gdjax.descent(lambda w, batch, key: squares(w, batch), RULE, stochastic=True)[0](W), "key is None, but the loss is stochastic; wanted")
    assert float(step(init(W), DATA)[1].value) > 0


@pytest.mark.parametrize("answer", [np.array([True, True]), jnp.zeros(3), MASKED, "stop", np.array(["a"]), [1, [2]], object()], ids=lambda x: type(x).__name__)
def test_callbacks_that_return_other_things_do_not_stop(answer):
    assert int(fit(epochs=2, callbacks=(lambda report: answer,)).steps) == 6


@pytest.mark.parametrize("answer", [True, np.bool_(True), np.array(True), jnp.array(True)], ids=lambda x: type(x).__name__)
def test_callbacks_that_stop(answer):
    assert int(fit(epochs=2, callbacks=(lambda report: answer,)).steps) == 3


@pytest.mark.parametrize("made", ["text", np.array(["a"]), {"a": 1.0, 2: 2.0}, None, object(), b"x"], ids=lambda x: type(x).__name__)
def test_what_a_swept_run_returns(made):
    refused(lambda: gdjax.sweep(lambda rule: made, gdjax.gd(jnp.ones(2))))


def test_pictures_of_other_things():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed").use("Agg")
    for picture in (gdjax.plot.history, gdjax.plot.sweep, gdjax.plot.range_test):
        for other in (None, 3, "a", W, {"a": 1}, object()):
            refused(lambda: picture(other))  # noqa: B023
    refused(lambda: gdjax.plot.history({}), "results is empty")
    refused(lambda: gdjax.plot.history(minimize(max_steps=1), ax=W), "ax is")


def test_schedules_and_stops():
    for given in (MASKED, np.array(["a"]), np.zeros(2, "m8[s]"), jax.random.key(0), np.array([None]), {"a": 1, 2: 3}, np.timedelta64(3, "s")):
        for factory in (gdjax.schedules.constant, gdjax.stop.target, gdjax.stop.time_limit, gdjax.gd, gdjax.stop.plateau, gdjax.schedules.silver):
            refused(lambda: factory(given))  # noqa: B023
        refused(lambda: gdjax.schedules.join(given, [3]))  # noqa: B023
        refused(lambda: gdjax.sampling.uniform(0.0, given))  # noqa: B023


def test_functions_that_do_not_say_what_they_take():
    refused(lambda: gdjax.grid(type, learning_rate=[0.1, 0.2]), "does not say what it takes; wanted a function whose arguments have names")
    refused(lambda: gdjax.suggest(squares, W, DATA, type, steps=2))


@pytest.mark.parametrize("keys", [3, "a", MASKED[1:2], {"a": 1}, object(), iter([1])], ids=lambda x: type(x).__name__)
def test_keys_of_a_sweep(keys):
    refused(lambda: gdjax.sweep(lambda rule, key: minimize(rule=rule), gdjax.gd(jnp.ones(2)), keys=keys))
