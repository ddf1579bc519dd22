"""Random runs for ``fuzz_one_kernel.py``: small losses of many kinds through the doors, data in the closure, as arguments, or rows of them as data."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import gdjax

EPS = {"bfloat16": 6e-2, "float16": 1e-2, "float32": 1e-4, "float64": 1e-9}
FLOATS = ("float32", "float32", "float32", "bfloat16", "float16")


class Run:
    """One random run; ``go()`` is its result."""

    def __init__(self, seed, x64: bool):
        self.rng = rng = np.random.default_rng(seed)
        self.dtype = self.one(FLOATS + ("float64",) * 2 * x64)
        self.count, self.width = self.one((3, 17, 40, 900, 6000)), self.one((1, 2, 5, 12))
        put = lambda x, dtype: jax.device_put(x.astype(jnp.dtype(dtype)))  # noqa: E731
        self.X = put(rng.normal(size=(self.count, self.width)), self.dtype)
        self.y = put(np.tanh(rng.normal(size=self.count)), self.dtype)
        self.labels = put(rng.integers(0, self.width, self.count), "int32")
        self.door = self.one(("minimize", "minimize with args", "full", "batches", "batches", "rows", "rows", "examples"))
        self.aux, self.stochastic, self.stateful = (self.chance(0.3) and self.door != "examples" for _ in range(3))
        if self.door.startswith("minimize"):
            self.stochastic = self.stateful = False
        self.kind, self.extra = self.one(KINDS), self.one(EXTRAS)
        self.rule = self.one(RULES)(0.05)
        self.batch_size, self.steps = min(self.one((1, 2, 3, 8, 16)), self.count), self.one((1, 4, 9))
        self.shuffle = self.one(("epoch", "replacement", False))

    def chance(self, share):
        return bool(self.rng.random() < share)

    def one(self, of):
        return of[int(self.rng.integers(len(of)))]

    def params(self):
        """Where it starts."""
        start = {"w": jnp.linspace(-0.5, 0.5, self.width).astype(self.dtype), "b": jnp.asarray(0.1, self.dtype)}
        if self.extra == "empty":
            start["none"] = jnp.zeros((0, 2), self.dtype)
        if self.extra == "half":
            start["h"] = jnp.ones(2, jnp.bfloat16)
        if self.extra == "matrix":
            start["m"] = jnp.full((2 * self.width + 4, 2), 0.1, self.dtype)
        return start

    def value(self, params, X, y, labels):
        """The loss of some rows."""
        value = self.kind(self, params, X, y, labels)
        if self.extra == "half":
            value = value + 0.1 * jnp.sum(params["h"].astype(value.dtype) ** 2)
        if self.extra == "matrix":
            value = value + 0.1 * jnp.mean(jnp.square(params["m"] - 1)).astype(value.dtype)
        return value

    def data(self):
        """What is given as data, or as args."""
        if self.door == "rows":
            return np.arange(self.count, dtype=np.int32)
        return self.X, self.y, self.labels

    def loss_fn(self, params, *more):
        """As the door calls it."""
        more = list(more)
        state = more.pop(0) if self.stateful else None
        if self.door == "minimize":
            X, y, labels = self.X, self.y, self.labels
        elif self.door == "minimize with args":
            X, y, labels = more
        else:
            batch = more.pop(0)
            X, y, labels = (self.X[batch], self.y[batch], self.labels[batch]) if self.door == "rows" else batch
        if self.stochastic:
            X = X * (1 + 0.1 * jax.random.normal(more.pop(0), X.shape[-1:]).astype(X.dtype))
        value = self.value(params, X, y, labels)
        aux = {"mean": jnp.mean(y), "count": jnp.int32(3), "none": jnp.zeros(0 if self.extra == "empty" else 1), "flag": value > 0}
        if self.stateful:
            state = {"mean": 0.9 * state["mean"] + 0.1 * jnp.mean(X).astype(jnp.float32), "seen": state["seen"] + 1, "none": state["none"]}
            return value, ((state, aux) if self.aux else state)
        return (value, aux) if self.aux else value

    def go(self):
        """The result."""
        loss_fn, options = lambda *args: self.loss_fn(*args), dict(has_aux=self.aux)
        if self.door.startswith("minimize"):
            args = () if self.door == "minimize" else self.data()
            return gdjax.minimize(loss_fn, self.params(), self.rule, args=args, max_steps=self.steps, record_every=2, **options)
        if self.stateful:
            empty = jnp.zeros(0 if self.extra == "empty" else 1)
            options |= dict(model_state={"mean": jnp.float32(0), "seen": jnp.int32(0), "none": empty})
        if self.stochastic:
            options |= dict(stochastic=True)
        if self.door == "full":
            return gdjax.fit(loss_fn, self.params(), self.data(), self.rule, batch_size=None, steps=self.steps, key=1, **options)
        if self.door == "examples":
            loss_fn = gdjax.finite_sum(lambda params, row: self.value(params, *jax.tree.map(lambda x: x[None], row)), lambda p: 0.01 * jnp.sum(p["w"] ** 2))
        data = self.data()
        return gdjax.fit(
            loss_fn, self.params(), data, self.rule, batch_size=self.batch_size, steps=self.steps, shuffle=self.shuffle, key=1, record_every=3, **options
        )


def least_squares(run, params, X, y, labels):
    return jnp.mean(jnp.square(X @ params["w"] + params["b"] - y))


def logistic(run, params, X, y, labels):
    return jnp.mean(jax.nn.softplus(-jnp.sign(y) * (X @ params["w"] + params["b"])))


def table(run, params, X, y, labels):
    """A gather whose gradient is a scatter."""
    return jnp.mean(jnp.square(params["w"][labels] - y)) + params["b"] ** 2


def robust(run, params, X, y, labels):
    errors = X @ params["w"] - y
    return jnp.mean(jnp.where(jnp.abs(errors) < 1, errors**2, 2 * jnp.abs(errors) - 1)) + params["b"] ** 2


def closed_over(run, params, X, y, labels):
    """Reads arrays that are in no batch."""
    there = run.X[labels % run.count] * run.y[:1]
    return jnp.mean(jnp.square(there @ params["w"] - y)) + jnp.mean(run.y[:700] * params["b"])


def branching(run, params, X, y, labels):
    value = least_squares(run, params, X, y, labels)
    return lax.cond(labels[0] % 2 == 0, lambda v: v * 2, lambda v: v + run.y[-1] ** 2, value)


def scanned(run, params, X, y, labels):
    """A small recurrent model over the columns."""
    state = lax.scan(lambda h, x: (jnp.tanh(h * params["b"] + x), None), y * 0, X.T)[0]
    return jnp.mean(jnp.square(state - y)) + jnp.sum(params["w"] ** 2)


def looped(run, params, X, y, labels):
    w = lax.fori_loop(0, 3, lambda i, w: (w * 0.9 + 0.1 * run.y[i % run.count]).astype(w.dtype), params["w"])
    return jnp.mean(jnp.square(X @ w - y)) + params["b"] ** 2


def softmaxed(run, params, X, y, labels):
    scores = X * params["w"] + params["b"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], 1))


def ordered(run, params, X, y, labels):
    """Sorts, which no kernel can."""
    return jnp.mean(jnp.square(jnp.sort(X @ params["w"] + params["b"]) - y))


KINDS = (least_squares, least_squares, logistic, table, robust, closed_over, closed_over, branching, scanned, looped, softmaxed, ordered)
EXTRAS = (*["none"] * 6, "empty", "half", "half", "matrix")
RULES = (
    gdjax.sgd, gdjax.sgd, gdjax.gd, gdjax.nesterov, lambda r: gdjax.sgd(r, 0.9), lambda r: gdjax.adgd(), lambda r: gdjax.parameter_free_sgd(),
    lambda r: gdjax.sgd(gdjax.schedules.cosine(r, 9)), lambda r: gdjax.dog(), lambda r: gdjax.normalized(r),
)  # fmt: skip


def different(ours, theirs, dtype) -> str:
    """In what two results differ beyond rounding; empty where they do not."""
    shown = lambda r: (r.params, r.value, r.grad_norm, r.code, r.steps, r.evaluations, r.aux, r.model_state, r.history)  # noqa: E731
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(shown(ours)), jax.tree.leaves(shown(theirs)), strict=True):
        bound = max(EPS[dtype], EPS.get(str(x.dtype), 0))
        x, y = (np.asarray(z).astype(np.float64) for z in (x, y))
        scale = max(1.0, np.max(np.abs(y), initial=0, where=np.isfinite(y)))
        if x.shape != y.shape or not np.allclose(x, y, rtol=bound, atol=bound * scale, equal_nan=True):
            return f"{jax.tree_util.keystr(path)}: {np.array2string(x, threshold=6)} is not {np.array2string(y, threshold=6)}"
    return ""
