"""What an unlucky user may type. Every error says what came, what is wanted and what to type, and comes before the loss is run."""

import builtins
import re
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import gd, sgd, stop

X = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
Y = X @ np.arange(3, dtype=np.float32)
DATA, W = (X, Y), jnp.zeros(3)


class Executed:
    """A loss that remembers being run by the device; being traced does not count."""

    def __init__(self, loss):
        self.loss, self.runs = loss, []

    def __call__(self, *args):
        jax.debug.callback(lambda: self.runs.append(None))
        return self.loss(*args)


def bowl(w):
    return sum(jnp.sum((jnp.asarray(x) - 1.0) ** 2) for x in jax.tree.leaves(w))


def squares(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def with_state(w, state, batch):
    return squares(w, batch), {"mean": state["mean"] + 1}


STATE = {"mean": jnp.zeros(2)}


class Stream:
    """Batches, again at each iter()."""

    def __init__(self, batches=4):
        self.batches = batches

    def __iter__(self):
        return ((X[:5], Y[:5]) for _ in range(self.batches))


class Module(NamedTuple):
    """As an Equinox module flattens: an array and a function."""

    weight: Any
    activation: Any


def minimize(loss=bowl, params=W, rule=None, **options):
    executed = Executed(loss) if callable(loss) else loss
    return executed, lambda: gdjax.minimize(executed, params, gd(0.1) if rule is None else rule, **dict(max_steps=3) | options)


def fit(loss=squares, params=W, data=DATA, rule=None, **options):
    """A fit with good arguments but for those given; ... leaves an argument out."""
    executed = Executed(loss) if callable(loss) and not hasattr(loss, "example_loss_fn") else loss
    options = {k: v for k, v in (dict(batch_size=5, epochs=2, key=0) | options).items() if v is not ...}
    return executed, lambda: gdjax.fit(executed, params, data, gd(0.1) if rule is None else rule, **options)


def refuses(attempt, kind, *texts):
    """The attempt raises ``kind``; its message holds the texts in this order; the loss was not run."""
    executed, call = attempt
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind) as caught:
            call()
    assert type(caught.value) is kind, repr(caught.value)
    message = str(caught.value)
    assert re.search(".*".join(re.escape(text) for text in texts), message, re.DOTALL), message
    jax.effects_barrier()
    assert not getattr(executed, "runs", []), f"the loss was run before: {message}"
    return message


def table(*rows):
    """Parametrised rows of (id, attempt, error, texts...)."""
    return pytest.mark.parametrize(("attempt", "kind", "texts"), [pytest.param(a, k, t, id=name) for name, a, k, *t in rows])


T, V = TypeError, ValueError

# ---- the loss


@table(
    ("none", minimize(None), T, "fun is None", "wanted a function", "type lambda w"),
    ("an array", minimize(np.ones(3)), T, "fun is array([1., 1., 1.])", "wanted a function"),
    ("a string", minimize("rosenbrock"), T, "fun is 'rosenbrock'", "wanted a function"),
    ("a vector", minimize(lambda w: w), T, "shape (3,)", "wanted a scalar", "jnp.mean"),
    ("a vector of one", minimize(lambda w: jnp.sum(w)[None]), T, "shape (1,)", "wanted a scalar"),
    ("an int array", minimize(lambda w: jnp.sum(w).astype(int)), T, "dtype int32", "wanted a real floating number"),
    ("an int", minimize(lambda w: 3), T, "dtype int32", "floating point"),
    ("a bool", minimize(lambda w: jnp.sum(w) > 0), T, "dtype bool", "floating"),
    ("complex", minimize(lambda w: jnp.sum(w) * 1j), T, "dtype complex64", "jnp.real(loss)"),
    ("nothing", minimize(lambda w: None), T, "returned NoneType", "return jnp.mean"),
    ("text", minimize(lambda w: "low"), T, "returned str", "return jnp.mean"),
    ("a dict", minimize(lambda w: {"loss": bowl(w)}), T, "returned dict", "wanted a scalar loss"),
    ("a pair", minimize(lambda w: (bowl(w), w)), T, "returned a tuple of 2", "pass has_aux=True"),
    ("a list", minimize(lambda w: [bowl(w)]), T, "returned a list of 1", "wanted a scalar loss"),
    ("has_aux without aux", minimize(has_aux=True), T, "returned float32[]", "wanted (loss, aux)", "has_aux=True was given"),
    ("has_aux with three", minimize(lambda w: (bowl(w), 1.0, 2.0), has_aux=True), T, "a tuple of 3", "wanted (loss, aux)"),
    ("has_aux the wrong way round", minimize(lambda w: (w, bowl(w)), has_aux=True), T, "shape (3,)", "wanted a scalar"),
    ("aux of text", minimize(lambda w: (bowl(w), {"note": "hello"}), has_aux=True), T, "aux['note'] is 'hello' (str)", "wanted arrays"),
    ("in fit, none", fit(None), T, "loss_fn is None", "wanted a function"),
    ("in fit, a vector", fit(lambda w, b: b[0] @ w), T, "shape (5,)", "jnp.mean"),
    ("in fit, a pair", fit(lambda w, b: (squares(w, b), 0)), T, "a tuple of 2", "has_aux=True"),
    ("a finite sum of vectors", fit(gdjax.finite_sum(lambda w, row: row[0] * w)), T, "shape (3,) for one example", "wanted a scalar"),
    ("a finite sum of ints", fit(gdjax.finite_sum(lambda w, row: 1)), T, "dtype int32", "floating point"),
    ("a finite sum with aux", fit(gdjax.finite_sum(lambda w, row: (jnp.sum(w), 1.0))), T, "has_aux=False", "pass has_aux=True"),
    ("a regulariser of vectors", fit(gdjax.finite_sum(lambda w, row: jnp.sum(w), lambda w: w)), T, "regularizer", "shape (3,)"),
    ("a finite sum of nothing", (None, lambda: gdjax.finite_sum(3)), T, "example_loss_fn is 3", "type gdjax.finite_sum"),
    ("a regulariser that is a number", (None, lambda: gdjax.finite_sum(bowl, 0.1)), T, "regularizer is 0.1", "type regularizer="),
)
def test_loss(attempt, kind, texts):
    refuses(attempt, kind, *texts)


def test_an_unhashable_loss():
    class Loss:
        __hash__ = None

        def __call__(self, w):
            return bowl(w)

    refuses((None, lambda: gdjax.minimize(Loss(), W)), TypeError, "fun (Loss) is not hashable", "lambda *a")


# ---- the start


@table(
    ("an int", minimize(params=5), T, "params is an integer array (int32)", "write 5.0 instead of 5"),
    ("an int array", minimize(params=np.arange(3)), T, "integer array", "jnp.asarray(x, jnp.float32)"),
    ("an int leaf", minimize(params={"w": W, "n": jnp.arange(2)}), T, "params['n'] is an integer array", "write 5.0"),
    ("a bool", minimize(params=True), T, "params is a boolean array", "wanted a real floating array"),
    ("complex", minimize(params=jnp.ones(2) * 1j), T, "a complex array (complex64)", "real and imaginary parts"),
    ("empty", minimize(params={}), V, "params is {}", "wanted at least one floating array", "pass jnp.zeros(3)"),
    ("none", minimize(params=None), V, "params is None", "pass jnp.zeros(3)"),
    ("of no entries", minimize(params=jnp.zeros((0, 3))), V, "params is Array([]", "wanted at least one"),
    ("text", minimize(params="w.npy"), T, "params is 'w.npy' (str)", "wanted a floating array"),
    ("a text leaf", minimize(params={"w": W, "name": "net"}), T, "params['name'] is 'net' (str)", "wanted a floating array"),
    ("a function leaf", minimize(params=Module(W, jnp.tanh)), T, "params.activation is", "equinox.partition"),
    ("an object array", minimize(params=np.array([1.0, None])), T, "params is array([1.0, None], dtype=object)", "wanted a floating array"),
    ("a key", minimize(params=jax.random.key(0)), T, "params is a key", "key="),
    ("in fit, an int", fit(params=3), T, "params is an integer array", "write 5.0"),
)
def test_params(attempt, kind, texts):
    refuses(attempt, kind, *texts)


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
def test_a_start_that_is_not_finite(bad):
    """Here the loss is run, once: its value is what is wrong."""
    start = jnp.asarray([1.0, bad, 2.0])
    with pytest.raises(ValueError, match=r"At the params given, the loss is (nan|inf); wanted a finite loss.*Start elsewhere"):
        gdjax.minimize(bowl, start, gd(0.1))
    with pytest.raises(ValueError, match=r"At the params given, the loss is (nan|inf)"):
        gdjax.fit(squares, start, DATA, gd(0.1), batch_size=5, epochs=1, key=0)


# ---- args and options of minimize


@table(
    ("args, a list", minimize(args=[1.0]), T, "args is list", "wanted a tuple", "type args=(X, y)"),
    ("args, a number", minimize(args=2.0), T, "args is float", "type args=(X, y)"),
    ("args, none", minimize(args=None), T, "args is NoneType", "wanted a tuple"),
    ("args, an array", minimize(args=W), T, "args is ArrayImpl", "args=(X,)"),
    ("args, text", minimize(lambda w, s: bowl(w), args=("fast",)), T, "args[0] is 'fast' (str)", "wanted arrays", "functools.partial"),
    ("args, a function", minimize(lambda w, f: f(w), args=(bowl,)), T, "args[0] is <function bowl", "wanted arrays"),
    ("max_steps, negative", minimize(max_steps=-1), V, "max_steps is -1", "wanted an integer >= 0", "type max_steps=100"),
    ("max_steps, a float", minimize(max_steps=1e3), V, "max_steps is 1000.0", "wanted an integer"),
    ("max_steps, true", minimize(max_steps=True), V, "max_steps is True", "wanted an integer"),
    ("max_steps, none", minimize(max_steps=None), V, "max_steps is None", "type max_steps=100"),
    ("max_steps, more than int32", minimize(max_steps=10**12), V, "max_steps is 1000000000000", "<= 1073741823"),
    ("record_every, 0", minimize(record_every=0), V, "record_every is 0", "wanted an integer >= 1"),
    ("record_every, a float", minimize(record_every=2.5), V, "record_every is 2.5", "wanted an integer"),
    ("history, unknown", minimize(history=("loss",)), V, "history names 'loss'", "value, grad_norm, update_norm", 'type history=("value"'),
    ("history, a string", minimize(history="value"), V, "history names 'value'", "wanted a tuple"),
    ("history, none", minimize(history=None), V, "history names None", "wanted a tuple"),
    ("history, a number", minimize(history=3), V, "history names 3", "wanted a tuple"),
    ("tol, negative", minimize(tol=-1e-3), V, "tol is -0.001", "wanted a number >= 0", "type tol=1e-6"),
    ("tol, NaN", minimize(tol=float("nan")), V, "tol is nan", "type tol=1e-6"),
    ("tol, text", minimize(tol="1e-3"), T, "tol is '1e-3'", "type tol=1e-6"),
    ("tol, true", minimize(tol=True), T, "tol is True", "type tol=1e-6"),
    ("tol, a list", minimize(tol=[1e-3]), T, "tol is [0.001]", "type tol=1e-6"),
    ("tol, complex", minimize(tol=1j), T, "tol is 1j", "type tol=1e-6"),
    ("tol, a function", minimize(tol=bowl), T, "tol is <function bowl", "type tol=1e-6"),
    ("tol, a stopping rule", minimize(tol=stop.grad_norm(1e-3)), T, "tol is grad_norm(atol=0.001)", "type tol=1e-6"),
    ("tol, several", minimize(tol=np.ones(2)), V, "tol has numbers of shape (2,)", "jax.vmap"),
    ("stop, several", minimize(stop=stop.grad_norm(np.ones(2))), V, "stop has numbers of shape (2,)", "jax.vmap"),
    ("stop, a number", minimize(stop=1e-6), T, "stop is 1e-06", "type stop=gdjax.stop.grad_norm(1e-6)"),
    ("stop, a factory", minimize(stop=stop.grad_norm), T, "stop is <stop factory grad_norm", "type stop="),
    ("stop, a tuple", minimize(stop=(stop.grad_norm(1e-3),)), T, "stop is (grad_norm(atol=0.001),)", "type stop="),
    ("differentiate, unknown", minimize(differentiate="auto"), V, "differentiate is 'auto'", '"implicit" or "unroll"', 'type differentiate="unroll"'),
    ("differentiate, none", minimize(differentiate=None), V, "differentiate is None", '"implicit" or "unroll"'),
    ("progress, yes", minimize(progress="yes"), T, "progress is 'yes'", "wanted True, False, or None"),
)
def test_options_of_minimize(attempt, kind, texts):
    refuses(attempt, kind, *texts)


# ---- rules and stopping rules


@table(
    ("a number", minimize(rule=0.1), T, "rule is 0.1", "wanted a gradient transformation", "gdjax.sgd(0.1)"),
    ("a string", minimize(rule="sgd"), T, "rule is 'sgd'", "gdjax.sgd(0.1) or optax.adam(1e-3)"),
    ("a class", minimize(rule=gdjax.Rule), T, "rule is <class 'gdjax.rule.Rule'>", "wanted a gradient transformation"),
    ("our factory", minimize(rule=gd), T, "rule is <rule factory gd(learning_rate)>", "pass gd(0.1)"),
    ("an optax factory", minimize(rule=optax.sgd), T, "rule is <function sgd", "pass sgd(0.1)"),
    ("a pair of functions", minimize(rule=(bowl, bowl)), T, "rule is (<function bowl", "wanted a gradient transformation (init, update)"),
    ("a list of rules", minimize(rule=[gd(0.1)]), T, "rule is [gd(learning_rate=0.1)]", "wanted a gradient transformation"),
    ("an array", minimize(rule=W), T, "rule is Array(", "wanted a gradient transformation"),
    ("a schedule", minimize(rule=gdjax.schedules.cosine(0.1, 10)), T, "rule is cosine(", "wanted a gradient transformation"),
    ("in fit, a number", fit(rule=0.1), T, "rule is 0.1", "gdjax.sgd(0.1)"),
    ("in fit, a factory", fit(rule=optax.adam), T, "rule is <function adam", "pass adam(0.1)"),
    ("in descent", (None, lambda: gdjax.descent(squares, 0.1)), T, "rule is 0.1", "gdjax.sgd(0.1)"),
)
def test_rule(attempt, kind, texts):
    refuses(attempt, kind, *texts)


def made(factory, *args, **options):
    return None, lambda: factory(*args, **options)


@table(
    ("gd, negative", made(gd, -0.1), V, "gd: learning_rate is -0.1", "≥ 0", "type gd(0.1)"),
    ("gd, NaN", made(gd, float("nan")), V, "gd: learning_rate is nan", "type gd(0.1)"),
    ("gd, text", made(gd, "0.1"), T, "gd: learning_rate is '0.1'", "type gd(0.1)"),
    ("gd, true", made(gd, True), T, "gd: learning_rate is True", "type gd(0.1)"),
    ("gd, none", made(gd, None), T, "gd: learning_rate is None", "type gd(0.1)"),
    ("gd, complex", made(gd, 1j), T, "gd: learning_rate is 1j", "type gd(0.1)"),
    ("gd, one of several", made(gd, np.array([0.1, -0.1])), V, "gd: learning_rate is", "type gd(0.1)"),
    ("gd, nothing", made(gd), T, "gd: missing a required argument: 'learning_rate'", "wanted gd(learning_rate)"),
    ("gd, another name", made(gd, lr=0.1), T, "gd:", "wanted gd(learning_rate)"),
    ("sgd, negative", made(sgd, -0.1), V, "sgd: learning_rate is -0.1", "type sgd(0.1)"),
    ("momentum, negative", made(sgd, 0.1, -0.9), V, "sgd: momentum is -0.9", "0 ≤ momentum < 1", "type momentum=0.9"),
    ("momentum, 1", made(sgd, 0.1, 1.0), V, "sgd: momentum is 1.0", "type momentum=0.9"),
    ("momentum, NaN", made(sgd, 0.1, float("nan")), V, "sgd: momentum is nan", "type momentum=0.9"),
    ("momentum, text", made(sgd, 0.1, "0.9"), T, "sgd: momentum is '0.9'", "type momentum=0.9"),
    ("Nesterov without momentum", made(sgd, 0.1, nesterov=True), V, "momentum is None with nesterov=True", "type momentum=0.9"),
    ("a rule of a transformation", made(gdjax.rule, optax.sgd(0.1)), T, "wanted a factory", "gdjax.rule(optax.adam)(1e-3)"),
    ("a rule of a number", made(gdjax.rule, 0.1), T, "got float", "wanted a factory"),
    ("grad_norm, negative", made(stop.grad_norm, -1.0), V, "stop.grad_norm: atol is -1.0", "type gdjax.stop.grad_norm(atol=1e-6)"),
    ("grad_norm, NaN", made(stop.grad_norm, rtol=float("nan")), V, "stop.grad_norm: rtol is nan", "type gdjax.stop"),
    ("grad_norm, none", made(stop.grad_norm, None), T, "stop.grad_norm: atol is None", "type gdjax.stop"),
    ("grad_norm, a function", made(stop.grad_norm, bowl), T, "stop.grad_norm: atol is <function bowl", "type gdjax.stop"),
    ("target, text", made(stop.target, "low"), T, "stop.target: value is 'low'", "type gdjax.stop.target(0.1)"),
    ("target, NaN", made(stop.target, float("nan")), V, "stop.target: value is nan", "type gdjax.stop.target(0.1)"),
    ("target, none", made(stop.target, None), T, "stop.target: value is None", "type gdjax.stop.target(0.1)"),
    ("plateau, 0", made(stop.plateau, 0), V, "stop.plateau: patience is 0", "integer >= 1", "type gdjax.stop.plateau"),
    ("plateau, a float", made(stop.plateau, 2.5), V, "stop.plateau: patience is 2.5", "type gdjax.stop.plateau"),
    ("plateau, nothing", made(stop.plateau), T, "plateau: missing a required argument: 'patience'", "wanted plateau("),
    ("value_change, true", made(stop.value_change, 1e-3, patience=True), V, "patience is True", "integer >= 1"),
    ("time_limit, negative", made(stop.time_limit, -1), V, "stop.time_limit: seconds is -1.0", "type gdjax.stop.time_limit(60)"),
    ("time_limit, text", made(stop.time_limit, "60"), T, "stop.time_limit: seconds is '60'", "type gdjax.stop.time_limit(60)"),
    ("joined with a number", made(lambda: stop.plateau(3) | 1e-3), T, "cannot join plateau(patience=3) with 0.001", "gdjax.stop.grad_norm(1e-6)"),
)
def test_numbers_of_rules_and_stopping_rules(attempt, kind, texts):
    refuses(attempt, kind, *texts)


# ---- data


@table(
    ("of different length", fit(data=(X, Y[:3])), V, "data[0] has 20, data[1] has 3", "the same number of examples"),
    ("a scalar leaf", fit(data=(X, 2.0)), T, "data[1] is 2.0", "leading axis", "np.asarray(rows)"),
    ("a 0-d leaf", fit(data=(X, np.float32(1))), T, "data[1] is", "wanted an array whose leading axis"),
    ("lists of numbers", fit(data=([1.0, 2.0], [1.0, 2.0])), T, "data[0][0] is 1.0", "np.asarray(rows)"),
    ("empty", fit(data=()), V, "data is ()", "pass (X, y)"),
    ("none", fit(data=None), V, "data is None", "pass (X, y)"),
    ("a number", fit(data=3), T, "data is 3", "wanted an array"),
    ("a path", fit(data="train.csv"), T, "data is 'train.csv'", "wanted an array"),
    ("no rows", fit(data=(X[:0], Y[:0])), V, "data has 0 examples", "wanted at least one"),
    ("labels of text", fit(data=(X, np.array(["cat"] * 20))), T, "data[1] has dtype <U3", "wanted numbers", "integers"),
    ("objects", fit(data=(X, np.array([None] * 20))), T, "data[1] has dtype object", "astype(np.float32)"),
    ("a stream and batch_size", fit(data=Stream()), V, "batch_size is 5 with a stream", "batch_size=None"),
    ("an empty stream", fit(data=Stream(0), batch_size=None), V, "data gave no batch in epoch 0", "starts again at each iter()"),
    ("validation of other rows", fit(validation=(X[:, :2], Y)), V, "validation[0] has rows of shape (2,)", "wanted (3,)"),
    ("validation of another structure", fit(validation=X), V, "validation has the structure", "wanted that of data", "type validation="),
    ("validation of different length", fit(validation=(X, Y[:2])), V, "validation[0] has 20, validation[1] has 2", "same number"),
    ("no validation in it", fit(validation=()), V, "validation is ()", "pass (X, y)"),
    ("validation, a number", fit(validation=3.0), T, "validation is 3.0", "wanted an array"),
)
def test_data(attempt, kind, texts):
    refuses(attempt, kind, *texts)


def test_a_generator_gives_one_epoch_only():
    batches = iter(Stream())
    with pytest.raises(ValueError, match=r"data is an iterator that can be walked through only once.*wanted something that starts again"):
        gdjax.fit(squares, W, batches, gd(0.1), batch_size=None, epochs=2)
    assert int(gdjax.fit(squares, W, iter(Stream()), gd(0.1), batch_size=None, epochs=1).steps) == 4


# ---- options of fit


@table(
    ("batch_size missing", fit(batch_size=...), T, "batch_size"),
    ("batch_size, 0", fit(batch_size=0), V, "batch_size is 0", "wanted an integer >= 1"),
    ("batch_size, negative", fit(batch_size=-1), V, "batch_size is -1", "wanted an integer >= 1"),
    ("batch_size, all and more", fit(batch_size=21), V, "batch_size is 21, but data has 20", "1 <= batch_size <= 20", "batch_size=None"),
    ("batch_size, a float", fit(batch_size=2.5), V, "batch_size is 2.5", "type batch_size="),
    ("batch_size, true", fit(batch_size=True), V, "batch_size is True", "wanted an integer"),
    ("batch_size, text", fit(batch_size="5"), V, "batch_size is '5'", "wanted an integer"),
    ("epochs and steps", fit(steps=3), V, "both epochs=2 and steps=3", "wanted one of the two", "type epochs=10"),
    ("neither epochs nor steps", fit(epochs=None), V, "neither epochs nor steps", "type epochs=10 or steps=1000"),
    ("epochs, negative", fit(epochs=-1), V, "epochs is -1", "wanted an integer >= 0"),
    ("epochs, a float", fit(epochs=1.5), V, "epochs is 1.5", "wanted an integer"),
    ("steps, a float", fit(epochs=None, steps=1e3), V, "steps is 1000.0", "type steps=100"),
    ("steps, more than int32", fit(epochs=None, steps=10**11), V, "steps is 100000000000", "<= 1073741823"),
    ("epochs, more than int32 in steps", fit(epochs=10**9), V, "is 4000000000", "<= 1073741823"),
    ("no key", fit(key=None), V, "key is None", "the order of the data", "type key=0 or key=jax.random.key(0)"),
    ("no key for the loss", fit(lambda w, b, k: squares(w, b), stochastic=True, key=None, batch_size=None), V, "key is None", "stochastic", "key=0"),
    ("a key of text", fit(key="0"), T, "key is '0'", "type key=0"),
    ("a key of 0.5", fit(key=0.5), T, "key is 0.5", "type key=0"),
    ("a key of true", fit(key=True), T, "key is True", "type key=0"),
    ("several keys", fit(key=jax.random.split(jax.random.key(0))), T, "key is", "wanted one seed or key"),
    ("a key of three words", fit(key=jnp.arange(3, dtype=jnp.uint32)), T, "key is Array([0, 1, 2]", "type key=0"),
    ("a generator as key", fit(key=np.random.default_rng(0)), T, "key is Generator", "type key=0"),
    ("a key beyond 64 bits", fit(key=2**70), V, f"key is {2**70}", "type key=0"),
    ("shuffle, true", fit(shuffle=True), V, "shuffle is True", '"epoch", "replacement" or False', 'type shuffle="epoch"'),
    ("shuffle, unknown", fit(shuffle="random"), V, "shuffle is 'random'", 'type shuffle="epoch"'),
    ("shuffle, none", fit(shuffle=None), V, "shuffle is None", 'type shuffle="epoch"'),
    ("chunk_size, 0", fit(chunk_size=0), V, "chunk_size is 0", "type chunk_size=1024"),
    ("chunk_size, unknown", fit(chunk_size="big"), V, "chunk_size is 'big'", "type chunk_size=1024"),
    ("chunk_size, true", fit(chunk_size=True), V, "chunk_size is True", "type chunk_size=1024"),
    ("chunk_size with aux", fit(has_aux=True, chunk_size=5), V, "chunk_size is 5 for an opaque loss with aux", "gdjax.finite_sum"),
    ("history, unknown", fit(history=("loss",)), V, "history names 'loss'", "validation", 'type history=("value"'),
    ("history, a string", fit(history="value"), V, "history names 'value'", "wanted a tuple"),
    ("history, none", fit(history=None), V, "history names None", "wanted a tuple"),
    ("record_every, 0", fit(record_every=0), V, "record_every is 0", "wanted an integer >= 1"),
    ("record_every, negative", fit(record_every=-1), V, "record_every is -1", "wanted an integer >= 1"),
    ("record_every, 0, full batch", fit(batch_size=None, record_every=0), V, "record_every is 0", "wanted an integer >= 1"),
    ("stop, a number", fit(stop=1e-3), T, "stop is 0.001", "type stop=gdjax.stop.target(0.1)"),
    ("stop, a gradient norm", fit(stop=stop.grad_norm(1e-3)), V, "grad_norm(atol=0.001) with mini-batches", "gdjax.stop.plateau(10)"),
    ("stop, a change of params", fit(stop=stop.plateau(3) | stop.param_change(1e-3)), V, "param_change(atol=0.001)", "gdjax.stop.plateau(10)"),
    ("keep, unknown", fit(keep="first"), V, "keep is 'first'", 'wanted "last" or "best"', 'type keep="best"'),
    ("keep, true", fit(keep=True), V, "keep is True", 'type keep="best"'),
    ("patience, 0", fit(patience=0), V, "patience is 0", "wanted an integer >= 1"),
    ("patience, a float", fit(patience=2.5), V, "patience is 2.5", "wanted an integer"),
    ("callbacks, a function", fit(callbacks=print), T, "callbacks is <built-in function print>", "type callbacks=(callback,)"),
    ("callbacks, none", fit(callbacks=None), T, "callbacks is None", "type callbacks=(callback,)"),
    ("callbacks of text", fit(callbacks=("print",)), T, "callbacks is ('print',)", "type callbacks=(callback,)"),
    ("checkpoint, a path", fit(checkpoint="run/"), T, "checkpoint is 'run/'", "type checkpoint=lambda state"),
    ("progress, yes", fit(progress="yes"), T, "progress is 'yes'", "wanted True, False, or None"),
    ("model_state of text", fit(model_state={"mode": "train"}), T, "model_state['mode'] is 'train'", "wanted arrays"),
    ("model_state, finite sum", fit(gdjax.finite_sum(lambda w, r: jnp.sum(w)), model_state=STATE), V, "model_state", "loss_fn(params, model_state, batch)"),
)
def test_options_of_fit(attempt, kind, texts):
    refuses(attempt, kind, *texts)


@table(
    ("another structure", fit(lambda w, s, b: (squares(w, b), s | {"more": 1.0}), model_state=STATE), T, "structure of model_state", "'more'"),
    ("another shape", fit(lambda w, s, b: (squares(w, b), {"mean": jnp.zeros(3)}), model_state=STATE), T, "(2,)", "(3,)", "return a model_state"),
    ("another dtype", fit(lambda w, s, b: (squares(w, b), {"mean": jnp.zeros(2, int)}), model_state=STATE), T, "float32", "int32", "same keys"),
    ("not returned", fit(lambda w, s, b: squares(w, b), model_state=STATE), T, "wanted (loss, (model_state, aux))", "model_state was given"),
    ("none", fit(lambda w, s, b: (squares(w, b), None), model_state=STATE), T, "structure of model_state", "None"),
)
def test_model_state(attempt, kind, texts):
    refuses(attempt, kind, *texts)


# ---- resuming


@pytest.fixture(scope="module")
def earlier():
    return {
        "minimize": gdjax.minimize(bowl, W, gd(0.1), max_steps=3),
        "full batch": gdjax.fit(squares, W, DATA, gd(0.1), batch_size=None, epochs=2),
        "mini-batches": gdjax.fit(squares, W, DATA, gd(0.1), batch_size=5, epochs=2, key=0),
    }


def test_resuming_what_is_not_a_state(earlier):
    for result in (earlier["minimize"], earlier["mini-batches"]):
        refuses(minimize(resume=result), TypeError, "resume is a gdjax.result.data.Result", "type resume=result.state")
        refuses(fit(resume=result), TypeError, "resume is a gdjax.result.data.Result", "type resume=result.state")
    for other in ("run.npz", True, {"params": W}):
        refuses(minimize(resume=other), TypeError, f"resume is a builtins.{type(other).__name__}", "type resume=result.state")
        refuses(fit(resume=other), TypeError, f"resume is a builtins.{type(other).__name__}", "type resume=result.state")


def test_resuming_a_run_of_another_kind(earlier):
    refuses(minimize(resume=earlier["mini-batches"].state), TypeError, "resume is a gdjax.loop.mini_batch.Resumable", "of the same kind")
    refuses(fit(resume=earlier["full batch"].state), TypeError, "resume is a gdjax.loop.deterministic.Resumable", "of the same kind")
    refuses(fit(batch_size=None, resume=earlier["mini-batches"].state), TypeError, "resume is a gdjax.loop.mini_batch.Resumable", "of the same kind")


@pytest.mark.parametrize("kind", ["minimize", "mini-batches"])
def test_resuming_another_run(earlier, kind):
    state = earlier[kind].state
    door, longer = (minimize, dict(max_steps=9)) if kind == "minimize" else (fit, dict(epochs=4))

    def again(**options):
        return door(resume=state, **longer, **options)

    refuses(again(params=jnp.zeros(4)), ValueError, "resume", "params", "float32[3]", "float32[4]", "leave resume out")
    refuses(again(params={"w": W}), ValueError, "resume", "params", "float32[3]", "'w'")
    refuses(again(params=W.astype(jnp.bfloat16)), ValueError, "resume", "params", "bfloat16[3]")
    refuses(again(rule=sgd(0.1, 0.9)), ValueError, "resume", "the state of the rule", "velocity", "leave resume out")
    refuses(again(stop=stop.plateau(3)), ValueError, "resume", "the state of the stopping rule")
    if kind != "minimize":
        refuses(again(keep="best"), ValueError, "resume", "best", "leave resume out")


# ---- the host inside a trace


def traced(call, how):
    """The call inside jit, vmap or grad."""
    wrapped = {"jit": jax.jit(call), "vmap": lambda w: jax.vmap(call)(w[None]), "grad": jax.grad(lambda w: jnp.sum(call(w)))}[how]
    return lambda: wrapped(W)


@pytest.mark.parametrize("how", ["jit", "vmap", "grad"])
def test_the_host_inside_a_trace(how):
    def fitted(data=DATA, **options):
        options = dict(batch_size=5, epochs=1, key=0) | options
        return None, traced(lambda w: gdjax.fit(squares, w, data, gd(0.1), **options).params, how)

    def minimized(**options):
        return None, traced(lambda w: gdjax.minimize(bowl, w, gd(0.1), differentiate="unroll", max_steps=2, **options).params, how)

    inside = "inside jit, vmap or grad"
    refuses(minimized(progress=True), ValueError, "progress=True", inside, "progress=None or False")
    refuses(minimized(stop=stop.grad_norm(1e-3) | stop.time_limit(1.0)), ValueError, "stop.time_limit", inside, "max_steps")
    refuses(fitted(progress=True), ValueError, "progress=True", inside, "progress=None or False")
    refuses(fitted(stop=stop.time_limit(1.0)), ValueError, "stop.time_limit", inside, "steps")
    refuses(fitted(callbacks=(print,)), ValueError, "callbacks were given", inside, "call fit outside")
    refuses(fitted(checkpoint=print), ValueError, "checkpoint was given", inside, "call fit outside")
    refuses(fitted(data=Stream(), batch_size=None), ValueError, "data is a stream", inside, "call fit outside")


def test_lengths_must_be_known_when_compiling():
    steps = jax.jit(lambda n: gdjax.minimize(bowl, W, gd(0.1), max_steps=n))
    epochs = jax.jit(lambda n: gdjax.fit(squares, W, DATA, gd(0.1), batch_size=5, epochs=n, key=0))
    refuses((None, lambda: steps(3)), ValueError, "max_steps is", "wanted an integer")
    refuses((None, lambda: epochs(3)), ValueError, "epochs is", "wanted an integer")


def test_no_steps_inside_a_trace():
    run = lambda w: gdjax.fit(squares, w, DATA, gd(0.1), batch_size=5, steps=0, key=0).params  # noqa: E731
    np.testing.assert_array_equal(run(W), W)
    np.testing.assert_array_equal(jax.jit(run)(W), W)


@pytest.mark.parametrize("wrt", ["rule", "start"])
def test_implicit_derivatives_of_what_a_minimum_does_not_depend_on(wrt):
    run = {"rule": lambda h: gdjax.minimize(bowl, W, gd(h)).value, "start": lambda w: gdjax.minimize(bowl, w, gd(0.1)).value}[wrt]
    at = {"rule": 0.1, "start": W}[wrt]
    refuses((None, lambda: jax.grad(run)(at)), ValueError, "differentiate='implicit'", "differentiate='unroll'")


# ---- the rest


def test_progress_without_tqdm(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "tqdm":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for attempt in (minimize(progress=True), fit(progress=True)):
        refuses(attempt, ImportError, "progress=True needs tqdm", 'pip install "gdjax[progress]"', "progress=False")
    assert gdjax.minimize(bowl, W, gd(0.1), progress=None).converged


@table(
    ("lengths", (None, lambda: gdjax.evaluate(squares, W, (X, Y[:2]))), V, "data[0] has 20, data[1] has 2", "same number"),
    ("params", (None, lambda: gdjax.evaluate(squares, 3, DATA)), T, "params is an integer array", "write 5.0"),
    ("loss", (None, lambda: gdjax.evaluate(None, W, DATA)), T, "loss_fn is None", "wanted a function"),
    ("chunk_size", (None, lambda: gdjax.evaluate(squares, W, DATA, chunk_size=0)), V, "chunk_size is 0", "type chunk_size=1024"),
    ("a vector", (None, lambda: gdjax.evaluate(lambda w, b: b[0] @ w, W, DATA)), T, "shape (20,)", "jnp.mean"),
    ("has_aux", (None, lambda: gdjax.evaluate(squares, W, DATA, has_aux=True)), T, "wanted (loss, aux)", "has_aux=True"),
    ("descent, params", (None, lambda: gdjax.descent(squares, gd(0.1)).init(3)), T, "params is an integer array", "write 5.0"),
)
def test_evaluate_and_descent(attempt, kind, texts):
    refuses(attempt, kind, *texts)


def test_good_input_in_unusual_clothes():
    """What must not be refused: Python floats, lists, NumPy numbers and float64 arrays, negative seeds, legacy keys."""
    assert gdjax.minimize(bowl, [1.5, 2.0], gd(0.1)).converged
    assert gdjax.minimize(bowl, np.ones(3) * 2, gd(np.float64(0.1)), max_steps=np.int64(200), history=["value"]).converged
    assert gdjax.ef21(gd(0.1), np.int64(3)) == gdjax.ef21(gd(0.1), 3)
    assert gdjax.svrg(0.1, np.int32(5)) == gdjax.svrg(0.1, 5)
    for key in (-1, np.int64(3), jax.random.PRNGKey(0), jax.random.key(0)):
        assert int(gdjax.fit(squares, W, DATA, gd(0.1), batch_size=np.int32(5), steps=2, key=key).steps) == 2
    assert int(gdjax.fit(with_state, W, DATA, gd(0.1), batch_size=5, steps=2, key=0, model_state=STATE).steps) == 2
