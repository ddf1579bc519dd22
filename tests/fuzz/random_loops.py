"""Random loops for ``fuzz_one_kernel.py``: what a step may do, of values of all kinds, from the carry, from closures of all sizes and from constants.

A loop's carry stays bounded and depends on itself smoothly, so that programs that round otherwise stay close. What jumps (comparisons, roundings, indices) is
taken of numbers that no program rounds: integers, and the data as they are.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

FLOATS = ("float32", "float32", "bfloat16", "float16")
WHOLE = ("int32", "int32", "int8", "uint8", "uint32", "int16", "bool")
SHAPES = ((), (), (1,), (3,), (7,), (2, 3), (4, 3), (3, 1, 2), (5, 5))
LARGE = ((40, 3), (2000, 3), (700,), (5000,), (64, 16), (30_000,), (9, 400))
EPS = {"bfloat16": 2e-2, "float16": 4e-3, "float32": 2e-5, "float64": 1e-12}


class Loop:
    """One random loop: ``run(while_loop, *arrays)`` runs it with either of two ways to loop."""

    def __init__(self, seed, x64: bool):
        self.rng = np.random.default_rng(seed)
        self.floats, self.whole = FLOATS + ("float64",) * 2 * x64, WHOLE + ("int64",) * x64
        self.carry = {f"c{i}": self.made(self.one(SHAPES)) for i in range(self.rng.integers(1, 5))}
        if self.chance(0.15):
            self.carry["key"] = jax.random.key(int(self.rng.integers(1000)))
        if self.chance(0.05):
            self.carry["empty"] = np.zeros((0, 3)[: self.rng.integers(1, 3)], np.float32)
        self.data = {f"d{i}": self.made(self.one(LARGE if self.chance(0.6) else SHAPES)) for i in range(self.rng.integers(0, 4))}
        self.as_arguments = {name for name in self.data if self.chance(0.3)}
        self.turns, self.plan = int(self.rng.integers(1, 9)), self.rng.integers(0, 1 << 31, 3)

    def chance(self, share):
        return self.rng.random() < share

    def one(self, of):
        return of[int(self.rng.integers(len(of)))]

    def made(self, shape):
        """An array of a random kind; now and then NumPy's own."""
        dtype = self.one(self.floats if self.chance(0.65) else self.whole)
        numbers = self.rng.normal(size=shape) if dtype in self.floats else self.rng.integers(0, 2 if dtype == "bool" else 100, shape)
        array = np.asarray(numbers).astype(jnp.dtype(dtype))
        return array if self.chance(0.2) else jax.device_put(array)

    def arguments(self):
        """What the program is given: some of the data, and a part of the carry."""
        return self.carry, {name: self.data[name] for name in sorted(self.as_arguments)}

    def run(self, while_loop, carry, given):
        """The carry after the turns. What is not given is closed over."""
        data = {**self.data, **given}
        if self.plan[2] % 5 == 0:  # part of the carry is a constant of the program
            carry = {**carry, "c0": self.carry["c0"]}
        start = ({name: jnp.asarray(x) for name, x in carry.items()}, jnp.int32(0))
        return while_loop(lambda c: c[1] < self.turns, lambda c: (self.step(*c, data), c[1] + 1), start)[0]

    def step(self, carry, turn, data):
        """The carry of the next turn."""
        rng = np.random.default_rng(self.plan[0])  # the same choices each time this is traced
        pool = Pool(rng, turn, {name: x for name, x in carry.items() if name not in ("key", "empty")}, data, self.floats)
        if "key" in carry:
            pool.floating.append(jax.random.normal(jax.random.fold_in(carry["key"], turn), (3,)))
        for _ in range(rng.integers(2, 7)):
            pool.grow()
        made = {name: pool.next_of(x) for name, x in carry.items() if name not in ("key", "empty")}
        if "key" in carry:
            made["key"] = jax.random.split(carry["key"])[0] if self.plan[1] % 2 else carry["key"]
        return {**carry, **made}


class Pool:
    """The values at hand within a step."""

    def __init__(self, rng, turn, carry, data, floats):
        self.rng, self.turn, self.floats = rng, turn, floats
        data = {name: jnp.asarray(x) for name, x in data.items()}
        self.data = [x for x in data.values() if x.ndim]
        values = [jnp.asarray(x) for x in (*carry.values(), *data.values())]
        self.floating = [x for x in values if jnp.issubdtype(x.dtype, jnp.floating)] or [jnp.float32(0.5)]
        self.exact = [turn, *(x for x in values if not jnp.issubdtype(x.dtype, jnp.floating)), *data.values()]  # no program rounds these

    def one(self, of):
        return of[int(self.rng.integers(len(of)))]

    def next_of(self, old):
        """A value for the next turn, of the same shape and dtype."""
        if self.rng.random() < 0.15:
            return old
        if jnp.issubdtype(old.dtype, jnp.floating):
            new = jnp.tanh(self.fitted(self.one(self.floating), old.shape).astype(old.dtype))
            return (old * 0.5).astype(old.dtype) + (new * 0.5).astype(old.dtype)
        whole = [x for x in self.exact if not jnp.issubdtype(x.dtype, jnp.floating)]
        new = self.fitted(self.one(whole), old.shape)
        if old.dtype == jnp.bool_:
            return old ^ (new.astype(jnp.int32) % 2 == 0)
        return old + new.astype(old.dtype)

    def fitted(self, x, shape):
        """The value in another shape."""
        if x.shape == shape:
            return x
        if x.size >= int(np.prod(shape)):
            return x.ravel()[: int(np.prod(shape))].reshape(shape)
        return jnp.broadcast_to(x.ravel()[0], shape)

    def small(self, x):
        """At most some hundred entries of the value, or all of it."""
        if x.size > 300 and self.rng.random() < 0.8:
            return lax.dynamic_slice_in_dim(x.ravel(), self.index(x.size), 40)
        return x

    def index(self, size):
        """A random place, of no known range: JAX clamps or wraps it."""
        whole = [x for x in self.exact if jnp.issubdtype(x.dtype, jnp.integer)]
        place = self.fitted(self.one(whole), ()).astype(jnp.int32)
        return lax.rem(jnp.abs(place) + 3 * self.turn, jnp.int32(size)) if self.rng.random() < 0.7 else place

    def grow(self):
        """One more value."""
        made = self.one(STEPS)(self)
        (self.floating if jnp.issubdtype(made.dtype, jnp.floating) else self.exact).append(made)

    # What a step may do.

    def smooth(self):
        x = self.small(self.one(self.floating))
        function = self.one((jnp.sin, jnp.tanh, jax.nn.sigmoid, jax.nn.softplus, jax.nn.relu, jnp.cos, jnp.arctan, lax.erf, jnp.square, jnp.expm1))
        return jnp.clip(function(x / 4), -4, 4).astype(x.dtype)

    def guarded(self):
        x = self.small(self.one(self.floating))
        function = self.one((jnp.sqrt, jnp.log, lax.rsqrt, jnp.log1p, jnp.reciprocal, lambda y: y**-3, lambda y: y**0.7, lambda y: jnp.hypot(y, y)))
        return jnp.clip(function(jnp.abs(x) + 1), -4, 4).astype(x.dtype)

    def together(self):
        x, y = self.small(self.one(self.floating)), self.one(self.floating)
        y = self.fitted(y, x.shape).astype(x.dtype)
        function = self.one((jnp.add, jnp.multiply, jnp.subtract, jnp.maximum, jnp.minimum, lambda x, y: x / (1 + y * y), jnp.arctan2, jnp.logaddexp))
        return jnp.clip(function(x, y), -8, 8).astype(x.dtype)

    def whole_numbers(self):
        x = self.one([x for x in self.exact if not jnp.issubdtype(x.dtype, jnp.floating)])
        x = self.small(x).astype(jnp.int32)
        function = self.one(
            (lambda x: x // 3, lambda x: x % 5, lambda x: x & 7, lambda x: x | 1, lambda x: x << 2, lambda x: ~x, jnp.abs, jnp.sign, jnp.cumsum, jnp.flip)
        )
        return function(x) if x.ndim else (x * 3 + 1) % 7

    def compared(self):
        x = self.small(self.one(self.exact))
        y = self.fitted(self.one([y for y in self.exact if y.dtype == x.dtype]), x.shape)
        return self.one((jnp.less, jnp.greater_equal, jnp.equal, jnp.not_equal))(x, y)

    def converted(self):
        return jnp.clip(self.small(self.one(self.exact)).astype(self.one(self.floats)), -8, 8)

    def rounded(self):
        x = self.small(self.one(self.exact))
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x.astype(jnp.float32) / 128
        return self.one((jnp.floor, jnp.ceil, jnp.round, jnp.sign))(x)

    def reduced(self):
        x = self.small(self.one(self.floating))
        axis = None if not x.ndim or self.rng.random() < 0.5 else int(self.rng.integers(x.ndim))
        function = self.one((jnp.mean, jnp.max, jnp.min, lambda x, axis: jnp.sum(x, axis) / max(x.size, 1), jax.nn.logsumexp, jnp.std))
        return jnp.clip(function(x, axis=axis), -8, 8).astype(x.dtype)

    def placed(self):
        x = self.small(self.one(self.exact))
        return self.one((jnp.argmax, jnp.argmin, lambda x: jnp.sum(x != 0), lambda x: jnp.any(x > 1), lambda x: jnp.all(x < 2)))(x)

    def gathered(self):
        x = self.one(self.data or self.floating)
        if not x.ndim:
            return x.astype(jnp.float32)
        rows = self.one([y for y in self.exact if jnp.issubdtype(y.dtype, jnp.integer)])
        rows = self.small(rows).astype(jnp.int32) + self.turn
        taken = x[lax.rem(jnp.abs(rows), jnp.int32(x.shape[0]))] if self.rng.random() < 0.6 else jnp.take(x, rows, 0, mode=self.one(("clip", "wrap", "fill")))
        return jnp.clip(jnp.nan_to_num(taken.astype(jnp.float32)), -8, 8)

    def scattered(self):
        x = self.small(self.one(self.floating))
        if not x.ndim:
            return x
        place = self.index(x.shape[0])
        return self.one((lambda x: x.at[place].set(0.5), lambda x: x.at[place].add(0.25), lambda x: x.at[jnp.array([0, -1])].max(0.0)))(x)

    def written(self):
        x = self.small(self.one(self.floating))
        return lax.dynamic_update_slice_in_dim(x, x[:1] * 0.5, self.index(x.shape[0]), 0) if x.ndim else x

    def moved(self):
        x = self.small(self.one(self.floating))
        moves = (jnp.ravel, jnp.transpose, lambda x: jnp.pad(x, 1), lambda x: jnp.concatenate([x.ravel(), x.ravel()]), lambda x: x[None], jnp.squeeze)
        return self.one(moves)(x)

    def product(self):
        x = self.small(self.one(self.floating)).astype(jnp.float32)
        matrix = self.one([y for y in self.data if y.ndim == 2] or [jnp.outer(x.ravel()[:5], x.ravel()[:5])])
        matrix = lax.dynamic_slice_in_dim(matrix, self.index(matrix.shape[0]), min(8, len(matrix)))[:, :16].astype(jnp.float32)
        vector = self.fitted(x, (matrix.shape[1],))
        kinds = (lambda: matrix @ vector, lambda: matrix.T @ (matrix @ vector), lambda: jnp.vdot(vector, vector), lambda: jnp.outer(vector, vector))
        return jnp.tanh(self.one((*kinds, lambda: matrix @ matrix.T))() / 16)

    def derivative(self):
        x = self.small(self.one(self.floating)).astype(jnp.float32)
        weights = self.fitted(self.one(self.floating), x.shape).astype(jnp.float32)
        loss = self.one((lambda x: jnp.mean(jax.nn.softplus(x * weights)), lambda x: jax.nn.logsumexp(x + weights), lambda x: jnp.mean(jnp.tanh(x) ** 2)))
        value, slope = jax.value_and_grad(loss)(x)
        return jnp.clip(x - slope * value, -8, 8)

    def branch(self):
        x = self.small(self.one(self.floating))
        unused = self.one(self.floating)  # a branch may read nothing, and close over anything
        low, high = lambda x: jnp.zeros_like(x), lambda x: x * 0.5 + self.fitted(unused, x.shape).astype(x.dtype) * 0.25
        kinds = (lambda: lax.cond(self.turn % 3 == 1, low, high, x), lambda: lax.switch(lax.rem(self.turn, jnp.int32(4)), [low, high, jnp.tanh], x))
        return self.one(kinds)()

    def chosen(self):
        x = self.small(self.one(self.floating))
        flag = self.fitted(self.one([y for y in self.exact if y.dtype == jnp.bool_] or [self.turn % 2 == 0]), x.shape)
        return jnp.where(flag, x, x * 0.5)

    def within(self):
        x, other = self.small(self.one(self.floating)), self.small(self.one(self.floating))
        pull = self.fitted(other, x.shape).astype(x.dtype)
        step = lambda i, x: x * 0.7 + (pull * 0.1).astype(x.dtype)  # noqa: E731
        table = jnp.linspace(-1.0, 1.0, self.one((3, 5, 600))).astype(x.dtype)
        kinds = (
            lambda: lax.fori_loop(0, 3, step, x),
            lambda: lax.while_loop(lambda c: c[0] < lax.rem(self.turn, jnp.int32(4)), lambda c: (c[0] + 1, step(0, c[1])), (jnp.int32(0), x))[1],
            lambda: lax.scan(lambda x, y: (x * 0.7 + y * 0.1, None), x, table[:5])[0],
            lambda: jnp.mean(lax.scan(lambda x, y: (x * 0.7 + y * 0.1, jnp.mean(x)), x, table[:3])[1], keepdims=True),
            lambda: lax.map(lambda y: jnp.tanh(y) * 0.5, x[None])[0],
        )
        return self.one(kinds)()

    def called(self):
        x = self.small(self.one(self.floating))
        table = jnp.asarray(np.linspace(0, 1, self.one((2, 50, 4000))), x.dtype)  # a constant of its own
        inner = jax.jit(lambda x, i: x * table[lax.rem(i, jnp.int32(len(table)))])
        kinds = (lambda: inner(x, self.turn), lambda: jax.checkpoint(jnp.tanh)(x), lambda: jax.vmap(lambda y: y * 0.5)(x[None])[0])
        return self.one(kinds)()

    def normed(self):
        x = self.small(self.one(self.floating))
        return jax.nn.softmax(x.astype(jnp.float32)) if x.ndim else jnp.abs(x)

    def constant(self):
        size = self.one((1, 7, 900, 4000))
        return jnp.arange(size, dtype=jnp.float32)[:: max(size // 7, 1)] / size

    def random(self):
        key = jax.random.fold_in(jax.random.key(7), self.turn)
        return self.one((lambda: jax.random.uniform(key, (3,)), lambda: jax.random.normal(key), lambda: jax.random.bernoulli(key, 0.5, (5,)) * 1.0))()

    def outside(self):
        """What the grammar does not know: such loops are left to XLA."""
        x = self.small(self.one(self.floating)).astype(jnp.float32).ravel()
        return self.one((jnp.sort, lambda x: jnp.cumprod(jnp.tanh(x)), lambda x: jnp.convolve(x, jnp.ones(3) / 3), lambda x: jnp.median(x) * jnp.ones(2)))(x)


USUAL = (Pool.smooth, Pool.guarded, Pool.together, Pool.whole_numbers, Pool.compared, Pool.converted, Pool.rounded, Pool.reduced, Pool.placed, Pool.gathered)
NESTED = (Pool.branch, Pool.chosen, Pool.within, Pool.called, Pool.derivative, Pool.product, Pool.normed, Pool.written, Pool.moved, Pool.constant, Pool.random)
STEPS = 6 * (USUAL + NESTED) + (Pool.scattered, Pool.outside)


def different(ours, theirs) -> str:
    """In what two carries differ beyond the rounding of the least precise of what they hold; empty where they do not."""
    found, coarsest = [], max(EPS.get(str(x.dtype), 0) for x in (*ours.values(), np.zeros(1, np.float32)))
    for name, x in ours.items():
        y = theirs[name]
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        bound = coarsest if str(x.dtype) in EPS else 0
        x, y = (np.asarray(z).astype(np.float64) for z in (x, y))
        if x.shape != y.shape or not np.allclose(x, y, rtol=bound, atol=4 * bound, equal_nan=True):
            found.append(f"{name}: {np.array2string(x, threshold=6)} is not {np.array2string(y, threshold=6)}")
    return "; ".join(found)


def compiled(loops, while_loop, options):
    """A program of several loops, and what it is given."""
    run = jax.jit(lambda given: [loop.run(while_loop, *of) for loop, of in zip(loops, given, strict=True)], compiler_options=options)
    return functools.partial(run, [loop.arguments() for loop in loops])
