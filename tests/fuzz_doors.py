"""A fuzz over all public doors: whatever is passed, the outcome is a right result or an error of ours that says what is wanted.

    python tests/fuzz_doors.py --minutes 30 --seed 0        # as long as that
    python tests/fuzz_doors.py --cases 500 --door fit       # so many, one door

A case is a function of the seed and its number: ``--only 1234`` runs one again and shows its traceback. Findings are grouped by kind: the type of the error and
the innermost line of gdjax it came through.
"""

from __future__ import annotations

import argparse
import collections
import decimal
import fractions
import inspect
import itertools
import os
import sys
import time
import traceback
import types
import warnings
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import jax.experimental.sparse
import jax.numpy as jnp
import numpy as np
import optax

import gdjax

PACKAGE = str(Path(gdjax.__file__).parent) + os.sep
HERE = __file__
WORDS = ("wanted", "; type ", "pass ", "return ", "Type ")  # what an error of ours has at least one of
CALLS = ("self.loss_fn(", "options.checkpoint(", "services.checkpoint(", "callback(report)")  # where gdjax calls functions of the user's
GUESTS = ("torch",)  # libraries these may be of
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5])).astype(np.float32)


class Pair(NamedTuple):
    """A pytree with names."""

    a: Any
    b: Any


class Strange:
    """An object that knows nothing."""


class Unhashable:
    """A callable that cannot be hashed."""

    __hash__ = None

    def __call__(self, *args):
        return loss_tree(*args)


class Boolean:
    """An object that has no truth value and no text."""

    def __bool__(self):
        raise RuntimeError("no truth value")

    def __repr__(self):
        raise RuntimeError("no text")


class Batches:
    """A stream; an exception in the place of a batch is raised."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        for batch in self.batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch


# ---- losses: functions whose own errors are the user's


def loss_tree(params, *given):
    """A bowl around the mean of what is given: it takes any pytrees of numbers."""
    numbers = [jnp.mean(jnp.asarray(x).astype(jnp.float32)) for x in jax.tree.leaves(given) if not jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key)]
    target = sum(numbers, jnp.float32(0)) / max(len(numbers), 1)
    return sum(jnp.sum(jnp.square(jnp.asarray(p).astype(jnp.float32) - target)) for p in jax.tree.leaves(params))


def loss_aux(params, *given):
    return loss_tree(params, *given), {"norm": jnp.float32(1)}


def loss_state(params, state, batch):
    return loss_tree(params, batch), state


def loss_of_example(params, example):
    return loss_tree(params, example)


SUM = gdjax.finite_sum(loss_of_example)
RESULT = gdjax.minimize(loss_tree, jnp.zeros(3), gdjax.gd(0.1), max_steps=3)
FITTED = gdjax.fit(loss_tree, jnp.zeros(3), (X, Y), gdjax.gd(0.1), batch_size=4, epochs=1, key=0)
SWEPT = gdjax.sweep(lambda rule: gdjax.minimize(loss_tree, jnp.zeros(3), rule, max_steps=3), gdjax.gd(jnp.array([0.1, 0.2])))
RANGED = gdjax.range_test(loss_tree, jnp.zeros(3) + 1, make_rule=gdjax.gd, steps=5)


def odd_values() -> list[Any]:
    """What nobody should pass, or hardly anybody."""
    values = [
        None, True, False, 0, 1, -1, 3, 2**40, -(2**70), 0.0, 0.1, -0.5, 1e300, float("nan"), float("inf"), 1j, "a", "", b"x", "value", bytearray(b"12"),
        [], (), {}, set(), {1, 2}, frozenset({"a"}), [0.1, 0.2], (0.1, 0.2), [[1.0, 2.0], [3.0]], ["a", None], {"a": 1.0, 2: 3.0}, {"a": "b"}, {None: X},
        {(1, 2): X, "k": Y}, range(4), slice(3), ..., NotImplemented, object(), Strange(), Strange, Boolean(), Unhashable(), type, int, np, print, len,
        lambda: 1.0, lambda *a, **k: None, lambda x: x, lambda x: (_ for _ in ()).throw(KeyError("inside")), (x for x in (1, 2)), iter([X]), map(abs, [1]),
        np.zeros(3), np.ones(2, np.float32), np.array([0.1, 0.2, 0.3]), np.zeros((2, 3)), np.zeros(0), np.zeros((0, 3), np.float32), np.array(1.5),
        np.array(True), np.float32(0.1), np.float64(np.nan), np.int64(3), np.uint64(2**63), np.bool_(True), np.str_("a"), np.datetime64("2020"),
        np.timedelta64(3, "s"), np.array(["a", "b"]), np.array([None, 1.0]), np.array([1.0, 2.0], object), np.array([b"a"]), np.arange(3),
        np.array([True, False]),
        np.zeros(3, np.longdouble), np.longdouble(1.5), np.zeros(3, np.complex64), np.zeros(3, ">f4"), np.full(3, 2**40), np.full(3, 2**63, np.uint64),
        np.zeros(3, np.float16), np.array([np.nan, 1.0]), np.zeros(3, [("a", "f4"), ("b", "i4")]), np.zeros(3, "M8[s]"), np.zeros(3, "m8[s]"),
        np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False]), np.ma.masked_array([1.0, 2.0, 3.0]), np.ma.masked, np.zeros((2, 2)).view(np.matrix),
        np.random.default_rng(0), np.dtype("f4"), np.float32, memoryview(b"abcd"),
        jnp.zeros(3), jnp.float32(0.1), jnp.int32(3), jnp.zeros((2, 3)), jnp.array([True, False]), jnp.zeros(3, jnp.bfloat16), jnp.zeros(3, jnp.float8_e4m3fn),
        jnp.zeros(3, jnp.int4), jnp.array([0.1, 0.2]), jnp.zeros(0), jnp.full(3, jnp.nan), jnp.zeros(3, jnp.complex64), jax.random.key(0),
        jax.random.split(jax.random.key(0), 3), jax.random.PRNGKey(0), jax.ShapeDtypeStruct((3,), jnp.float32), {"w": jax.ShapeDtypeStruct((3,), jnp.float32)},
        jax.eval_shape(lambda: jnp.zeros(3)), jax.tree.structure((1, 2)), jax.devices()[0], jnp.float32, jax.experimental.sparse.BCOO.fromdense(X),
        decimal.Decimal("0.1"), fractions.Fraction(1, 3), Path("x.npy"), types.SimpleNamespace(a=1), types.MappingProxyType({"a": X}), Exception("e"),
        collections.OrderedDict(b=jnp.ones(2), a=jnp.ones(1)), collections.deque([1.0, 2.0]), Pair(X, "a"), Pair(None, None), inspect.signature(len),
        (X, Y), [X, Y], {"x": X, "y": Y}, (X, Y[:4]), (X, None), (None, None), [(X, Y), (X, Y)], [(X,), (X, Y)], [(X, Y), None], [[X, Y], [X[:5], Y[:5]]], X, Y,
        Batches(), Batches((X, Y)), Batches((X, Y), None), Batches((X, Y), (X[:0], Y[:0])), Batches((X, Y), OSError("gone")), Batches("a", "b"), Batches(1.0),
        gdjax.gd(0.1), gdjax.gd, gdjax.sgd(0.1, momentum=0.9), gdjax.gd(np.array([0.1, 0.2, 0.3])), optax.adam(1e-2), optax.adam, gdjax.rule(optax.adam)(1e-2),
        gdjax.schedules.cosine(0.1, 10), gdjax.schedules.cosine, gdjax.stop.plateau(3), gdjax.stop.plateau, gdjax.stop.target(0.1) | gdjax.stop.plateau(2),
        gdjax.sampling.log_uniform(0.01, 1.0), gdjax.Rule, gdjax.Status.CONVERGED, RESULT, RESULT.state, FITTED, FITTED.state, SWEPT, RANGED, SUM, loss_tree,
    ]  # fmt: skip
    return values + [v for v in _foreign() if v is not None]


def _foreign() -> list[Any]:
    """Objects of libraries that may be there."""
    found = []
    try:
        import pandas

        table = pandas.DataFrame(X, columns=list("abc"))
        found += [table, table["a"], table.assign(c="x"), (table, table["a"]), table.index, pandas.Series(["a", "b"]), pandas.NA, pandas.Timestamp(0)]
        found += [pandas.Series([1, None], dtype="Int64"), table.astype("category"), pandas.DataFrame(), pandas.DataFrame({1: Y, "b": Y})]
    except ImportError:
        pass
    try:
        import scipy.sparse

        found += [scipy.sparse.csr_matrix(X), (scipy.sparse.coo_array(X), Y)]
    except ImportError:
        pass
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        found += [torch.zeros(3), torch.zeros(3, requires_grad=True), torch.zeros(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.int64)]
        found += [torch.tensor(0.1)]
        found += [(torch.from_numpy(X), torch.from_numpy(Y)), torch.from_numpy(X).to_sparse(), torch.nn.Linear(2, 2), torch.empty(3, device="meta")]
        found += [torch.utils.data.TensorDataset(torch.zeros(4, 3)), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4, 3)), 2)]
    return found


def containers(rng, value: Any) -> Any:
    """The value in a container, now and then."""
    wrap = [lambda v: v, lambda v: v, lambda v: v, lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: (jnp.zeros(3), v), lambda v: Pair(v, 1.0)]
    return wrap[rng.integers(len(wrap))](value)


# ---- what is good for an argument, by its name

PARAMS = [
    jnp.zeros(3), np.zeros(3), np.zeros(3, np.float32), 0.0, {"w": jnp.zeros(3), "b": 0.0}, (jnp.zeros(2), [jnp.ones(1)]), Pair(jnp.zeros(2), jnp.ones(1)),
    [jnp.zeros(3)], jnp.zeros(3, jnp.bfloat16), np.zeros(3, np.float16), np.zeros(3, ">f8"), {"a": None, "b": jnp.zeros(2)}, jnp.zeros((2, 2)), jnp.float32(1),
    {"w": jnp.zeros(2), "e": jnp.zeros(0)},
]  # fmt: skip
DATA = [
    (X, Y), (jnp.asarray(X), jnp.asarray(Y)), {"x": X, "y": Y}, X, [X, Y], Pair(X, Y), (X.astype(">f4"), Y), (X.astype(np.float64), Y), (X > 0, Y),
    (X.astype(int), Y),
]  # fmt: skip
STREAMS = [Batches((X[:4], Y[:4]), (X[4:], Y[4:])), [(X[:4], Y[:4]), (X[4:8], Y[4:8])], [(X[:4], Y[:4]), (X[4:9], Y[4:9])]]
RULES = [gdjax.gd(0.1), gdjax.sgd(0.1, momentum=0.9), optax.adam(1e-2), gdjax.chain(optax.clip(1.0), gdjax.gd(0.1)), gdjax.nesterov(0.05)]


def run_once(rule):
    return gdjax.minimize(loss_tree, jnp.zeros(3), rule, max_steps=2)


def run_from(params):
    return gdjax.minimize(loss_tree, params, gdjax.gd(0.1), max_steps=2)


def draw(key):
    return jax.random.normal(key, (2,))


COMMON = {
    "loss_fn": [loss_tree], "params": PARAMS, "data": DATA, "rule": RULES, "key": [0, 7, jax.random.key(1)], "has_aux": [False], "stochastic": [False],
    "progress": [None, False], "stop": [None, gdjax.stop.target(0.0)], "steps": [1, 2, 3], "chunk_size": ["auto", None, 4], "history": [("value",), ()],
    "make_rule": [gdjax.gd, gdjax.sgd], "batch_size": [None, 4], "record_every": [1, 2], "ax": [None], "name": ["learning_rate"],
}  # fmt: skip


class Door(NamedTuple):
    """One public function: what it takes, what is good for its arguments, how often it is tried, and what must hold of its result."""

    function: Any
    good: dict[str, list]  # arguments with good values; those of COMMON by name
    names: list[str]
    needed: tuple[str, ...]  # always given
    weight: float
    right: Any = None  # right(result, arguments) -> complaint or ""


def right_result(result, given) -> str:
    """Whether a result is one, of the structure of the params, and a converged one has no gradient."""
    if not isinstance(result, gdjax.Result):
        return f"returned {type(result).__name__}"
    if jax.tree.structure(result.params) != jax.tree.structure(given["params"]) and not hasattr(given["params"], "__array__"):
        return f"params came back as {jax.tree.structure(result.params)}"
    repr(result), str(result)
    if given.get("max_steps", 1) != 0 and result.kind == "full batch" and bool(result.converged):
        with jax.numpy_dtype_promotion("standard"):
            if not np.isfinite(float(result.value)):
                return f"CONVERGED at {result.value}"
    return ""


def positional(function, *names):
    """A function of keywords that passes those of these names by position."""
    return lambda **given: function(*[given.pop(name) for name in names], **given)


def of(function, weight=1.0, needed=(), right=None, **good) -> Door:
    names = [p.name for p in inspect.signature(function).parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Door(function, good, names, tuple(needed), weight, right)


def stepped(loss_fn, rule, has_aux, stochastic, chunk_size, params, model_state, key, batch, steps):
    """``descent``, its init and some steps."""
    init, step = gdjax.descent(loss_fn, rule, has_aux=has_aux, stochastic=stochastic, chunk_size=chunk_size)
    state = init(params, model_state=model_state, key=key)
    for _ in range(2):
        state, _ = step(state, batch)
    return state


def step_of(state, batch):
    return gdjax.descent(loss_tree, gdjax.gd(0.1)).step(state, batch)


def lanes(factory, count, learning_rate, momentum):
    return gdjax.sample(factory, count, 0, learning_rate=learning_rate, momentum=momentum)


def gridded(factory, learning_rate, momentum):
    return gdjax.grid(factory, learning_rate=learning_rate, momentum=momentum)


def chained(first, second):
    return gdjax.chain(first, second).init(jnp.zeros(2))


def joined(first, second):
    return first | second


def at_step(schedule, step):
    return gdjax.schedules.value_at(schedule, step)


def told(callback, keep):
    return gdjax.fit(loss_tree, jnp.zeros(3), (X, Y), gdjax.gd(0.1), batch_size=4, epochs=2, key=0, callbacks=(lambda report: callback,), keep=keep)


def swept_to(returned):
    return gdjax.sweep(lambda rule: returned, gdjax.gd(jnp.array([0.1, 0.2])))


def drawn_from(drawn):
    return gdjax.multistart(run_from, lambda key: drawn, 2, key=0)


def make_doors() -> dict[str, Door]:
    """All doors by name."""
    doors = {
        "minimize": of(gdjax.minimize, 6, ("fun", "params", "rule"), right_result, fun=[loss_tree], args=[(), (X,)], tol=[None, 1e-3], max_steps=[2, 3],
                       differentiate=["implicit", "unroll"], resume=[None], record_every=[1]),
        "fit": of(gdjax.fit, 8, ("loss_fn", "params", "data", "rule", "batch_size", "steps", "key"), right_result, data=DATA, loss_fn=[loss_tree, SUM],
                  epochs=[None], steps=[2, 3, 5], shuffle=["epoch", "replacement", False], validation=[None], patience=[None, 2], keep=["last", "best"],
                  model_state=[None], callbacks=[(), (print_nothing,)], checkpoint=[None, print_nothing], resume=[None]),
        "fit a stream": Door(gdjax.fit, {"data": STREAMS, "validation": [None, *STREAMS], "epochs": [1, 2], "batch_size": [None], "params": [jnp.zeros(3)]},
                             ["loss_fn", "params", "data", "rule", "batch_size", "epochs", "validation", "keep"],
                             ("loss_fn", "params", "data", "rule", "batch_size", "epochs"), 4, right_result),
        "evaluate": of(gdjax.evaluate, 2, ("loss_fn", "params", "data"), loss_fn=[loss_tree, SUM], data=[*DATA, *STREAMS], model_state=[None], key=[None]),
        "descent": of(stepped, 2, ("loss_fn", "rule", "has_aux", "stochastic", "chunk_size", "params", "model_state", "key", "batch", "steps"),
                      model_state=[None], key=[None, 0], batch=DATA, chunk_size=[None]),
        "step": of(step_of, 1, ("state", "batch"), state=[gdjax.descent(loss_tree, gdjax.gd(0.1)).init(jnp.zeros(3))], batch=DATA),
        "finite_sum": of(gdjax.finite_sum, 0.5, ("example_loss_fn",), example_loss_fn=[loss_of_example], regularizer=[None, loss_tree]),
        "sweep": of(gdjax.sweep, 2, ("run", "rules"), run=[run_once], rules=[gdjax.gd(jnp.array([0.1, 0.2]))], keys=[None], score=[None], rungs=[None],
                    keep=[0.5], block=[None, 1], mesh=[None]),
        "grid": of(gridded, 1, ("factory", "learning_rate", "momentum"), factory=[gdjax.sgd], learning_rate=[[0.1, 0.2], 0.1], momentum=[[None, 0.9], 0.5]),
        "sample": of(lanes, 1, ("factory", "count", "learning_rate", "momentum"), factory=[gdjax.sgd], count=[2, 3], momentum=[None, 0.9],
                     learning_rate=[gdjax.sampling.uniform(0.1, 0.2), 0.1]),
        "multistart": of(gdjax.multistart, 1, ("run", "params_sampler", "count", "key"), run=[run_from], params_sampler=[draw], count=[2],
                         tolerance=[None, 0.1], compare=[None], block=[None], mesh=[None]),
        "suggest": of(gdjax.suggest, 0.5, ("loss_fn", "params", "data", "make_rule", "steps", "budget"), loss_fn=[loss_tree], params=[jnp.zeros(3)], steps=[2],
                      budget=[1], validation=[None], make_rule=[gdjax.gd]),
        "smoothness": of(gdjax.smoothness, 1, ("loss_fn", "params", "data"), batches=[1, 2], iterations=[2], model_state=[None], loss_fn=[loss_tree, SUM],
                         data=[None, *DATA], key=[None, 0]),
        "range_test": of(gdjax.range_test, 1, ("loss_fn", "params", "data", "steps"), low=[1e-3], high=[1.0], steps=[4], model_state=[None], key=[None, 0],
                         loss_fn=[loss_tree, SUM], data=[None, *DATA]),
        "rule": of(gdjax.rule, 0.5, ("factory",), factory=[optax.adam]),
        "chain": of(chained, 1, ("first", "second"), first=RULES, second=RULES),
        "eval_params": of(gdjax.eval_params, 0.5, ("rule", "state", "params"), rule=[gdjax.gd(0.1)], state=[()], params=[jnp.zeros(3)]),
        "stop |": of(joined, 0.5, ("first", "second"), first=[gdjax.stop.plateau(3)], second=[gdjax.stop.target(0.1)]),
        "plot.history": of(gdjax.plot.history, 1, ("results",), results=[RESULT, {"a": RESULT}], names=[("value",), "grad_norm"], log=[True, False],
                           x=["step"]),
        "plot.range_test": of(gdjax.plot.range_test, 0.3, ("found",), found=[RANGED]),
        "plot.sweep": of(gdjax.plot.sweep, 0.5, ("found",), found=[SWEPT], x=[None, "learning_rate"]),
        "a callback's answer": of(told, 0.5, ("callback", "keep"), callback=[None, True], keep=["last"]),
        "what a swept run returns": of(swept_to, 0.5, ("returned",), returned=[1.0]),
        "what a sampler draws": of(drawn_from, 0.5, ("drawn",), drawn=[jnp.zeros(2)]),
    }  # fmt: skip
    for room in (gdjax.stop, gdjax.schedules, gdjax.sampling):
        for name in PUBLIC[room.__name__]:
            good = {"options": [[1, 2]], "schedules": [[0.1, 0.2]], "boundaries": [[5]]}
            doors[f"{room.__name__.split('.')[-1]}.{name}"] = of(getattr(room, name), 0.4, **good)
    for name in dir(gdjax):
        if type(getattr(gdjax, name)).__name__ == "Factory":
            doors[f"rule {name}"] = of(getattr(gdjax, name), 0.12)
    return doors


PUBLIC = {
    "gdjax.stop": ["grad_norm", "value_change", "param_change", "target", "plateau", "time_limit", "stop"],
    "gdjax.schedules": ["constant", "cosine", "exponential", "inverse_sqrt", "join", "linear", "polynomial", "warmup", "wsd", "anytime", "chebyshev",
                        "long_steps", "minimax", "silver", "schedule", "bound"],
    "gdjax.sampling": ["uniform", "log_uniform", "one_minus_log_uniform", "choice"],
}  # fmt: skip


def print_nothing(*_):
    """A callback."""


NUMBERS = [0.1, 0.5, 1.0, 2, 10, 3, 0.9]


def made(rng, door: Door, odd: list) -> dict[str, Any]:
    """Arguments: all that are needed and some others, one or two of them odd."""
    chosen = [n for n in door.names if n in door.needed or rng.random() < 0.35]
    given = {}
    for name in chosen:
        good = door.good.get(name) or COMMON.get(name) or NUMBERS
        given[name] = good[rng.integers(len(good))]
    for _ in range(rng.choice([0, 1, 2], p=[0.1, 0.7, 0.2])):
        if door.names:
            given[door.names[rng.integers(len(door.names))]] = containers(rng, odd[rng.integers(len(odd))])
    return given


OUTCOMES: collections.Counter = collections.Counter()


class Finding(NamedTuple):
    """What should not be."""

    kind: str
    case: int
    door: str
    text: str


def judge(error: BaseException) -> str:
    """'' for an error of ours, or one of the user's own loss; else the kind."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(PACKAGE)]
    theirs = [frame for frame in frames if frame.filename == HERE and (frame.name.startswith("loss_") or frame.name == "<lambda>")]
    innermost = frames[-1]
    if theirs and not innermost.filename.startswith(PACKAGE):
        return ""  # raised in, or under, a function of the user's
    if any(call in (innermost.line or "") for call in CALLS) or any(f"{os.sep}{name}{os.sep}" in innermost.filename for name in GUESTS):
        return ""  # raised by a builtin, or by another library, that was given as a function
    if not ours and innermost.filename == HERE:
        return ""  # Python itself, at the call
    said = isinstance(error, (TypeError, ValueError)) and innermost.filename.startswith(PACKAGE) and any(word in str(error) for word in WORDS)
    if said:
        return ""
    place = ours[-1] if ours else innermost
    return f"{type(error).__name__} through {os.path.relpath(place.filename, PACKAGE)}:{place.name}: {place.line}"


def case(seed: int, number: int, doors: dict[str, Door], odd: list, loud: bool = False) -> Finding | None:
    """One case; a finding, or None."""
    rng = np.random.default_rng([seed, number])
    weights = np.array([door.weight for door in doors.values()])
    name = list(doors)[rng.choice(len(doors), p=weights / weights.sum())]
    door = doors[name]
    given = made(rng, door, odd)
    if loud:
        print(name, {k: safe(v) for k, v in given.items()})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", DeprecationWarning)
            result = door.function(**dict(given))
            complaint = door.right(result, given) if door.right else ""
        OUTCOMES["results"] += 1
    except Exception as error:
        if loud:
            traceback.print_exc()
        kind = judge(error)
        ours = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(PACKAGE)
        OUTCOMES["findings" if kind else "errors of ours" if ours else "errors of the user's functions"] += 1
        return Finding(kind, number, name, f"{safe(given)} -> {str(error)[:200]!r}") if kind else None
    finally:
        close_pictures()
    return Finding(f"wrong: {complaint}", number, name, safe(given)) if complaint else None


def close_pictures() -> None:
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def safe(x: Any) -> str:
    try:
        return repr(x)[:300]
    except Exception:
        return f"<{type(x).__name__}>"


def campaign(seed: int, first: int, last: int, seconds: float, doors: dict[str, Door]) -> tuple[int, list[Finding]]:
    """Cases from ``first`` to ``last`` or until the time is up: how many were tried, and what was found."""
    odd, started, found = odd_values(), time.monotonic(), []
    number = first
    for number in itertools.count(first):
        if number >= last or time.monotonic() - started > seconds:
            break
        finding = case(seed, number, doors, odd)
        if finding:
            found.append(finding)
        if number % 2000 == 1999:
            jax.clear_caches()
    return number - first, found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--door", help="only doors whose names contain this")
    asked = parser.parse_args()
    try:
        import torch  # noqa: F401  (so that its tensors are among the odd values)
    except ImportError:
        pass
    doors = {name: door for name, door in make_doors().items() if not asked.door or asked.door in name}
    if asked.only is not None:
        print(case(asked.seed, asked.only, doors, odd_values(), loud=True) or "all right")
        return 0
    count, found = campaign(asked.seed, asked.first, asked.first + asked.cases, 60 * asked.minutes, doors)
    kinds = collections.defaultdict(list)
    for each in found:
        kinds[each.kind].append(each)
    for kind, members in sorted(kinds.items(), key=lambda item: -len(item[1])):
        print(f"{len(members):5}  {kind}\n       case {members[0].case}, {members[0].door}: {members[0].text}")
    print(f"{count} cases ({', '.join(f'{n} {what}' for what, n in OUTCOMES.items())}), {len(kinds)} kinds of findings in {len(found)}")
    return bool(kinds)


if __name__ == "__main__":
    sys.exit(main())
