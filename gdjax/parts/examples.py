"""What a finite sum offers to rules about single examples: their gradients in few numbers, a table of them, and the smoothness constant of their losses."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import tree
from gdjax.parts import linear_model
from gdjax.typing import Batch, Grads, Params

ROUNDS = 4  # of power iteration where the curvature has more directions than one
WHOLE_ROUNDS, WHOLE_ROWS = 8, 256  # likewise for the mean of the losses, on so many rows
SLACK = 0.25  # of the decrease a step of 1/L promises, ‖g‖²/(2L): less than half of it shows a curvature above 1.5 L
EVERY = 64  # steps between looks at the curvature, after the first pass


class Table(NamedTuple):
    """Rows of numbers, one for each example. Drivers never choose between two tables, which would copy all rows at every step: ``Examples.write`` keeps what
    must stay.
    """

    rows: Any  # a pytree of arrays, leading axis n


def read(table: Table, indices) -> Any:
    """The rows of these examples, by value: were they read again after the table is written, it would have to be copied."""
    taken = jax.tree.map(lambda x: x.at[indices].get(mode="promise_in_bounds"), table.rows)
    # The remainder modulo infinity is the number itself, and an operation that XLA takes for expensive and so does not repeat wherever the rows are used.
    return jax.tree.map(lambda x: lax.rem(x, jnp.full_like(x, jnp.inf)), taken)


def _is_table(x) -> bool:
    return isinstance(x, Table)


def has_table(state: Any) -> bool:
    """Whether a state holds a table."""
    return any(map(_is_table, jax.tree.leaves(state, is_leaf=_is_table)))


def choose(condition, new: Any, old: Any) -> Any:
    """``tree.where``, except that the new tables are taken: where the condition does not hold, no row counts, and the new ones hold the old rows."""
    return jax.tree.map(lambda x, y: x if _is_table(x) else jnp.where(condition, x, y), new, old, is_leaf=_is_table)


def without_tables(tree: Any) -> Any:
    """The tree with () for its tables, which are changed in place and too large to be kept twice."""
    return jax.tree.map(lambda x: () if _is_table(x) else x, tree, is_leaf=_is_table)


def with_tables(tree: Any, other: Any) -> Any:
    """A tree without tables with those of another."""
    return jax.tree.map(lambda theirs, mine: theirs if _is_table(theirs) else mine, other, tree, is_leaf=_is_table)


class Examples:
    """Rows of data of a finite sum f(x) = 1/n Σᵢ ℓᵢ(x) + r(x): all of them in a rule's ``init``, those of the batch in its ``update``.

    The slopes of an example are its gradient in as few numbers as will do: where predictions affine in the params are found in the loss (``linear_model``)
    the derivatives with respect to those, else the gradient itself. ``combine`` turns slopes into gradients.

    Attributes:
        count: rows there are.
        kept: bool, shape (count,), or None for all: rows that count. The others fill up a last batch, or must not be learned from.
        independent: whether the rows of batches are drawn independently, with replacement (static).
    """

    def __init__(self, example_loss_fn, regularizer, batch: Batch, kept=None, independent: bool = False):
        self.example_loss_fn, self.regularizer, self.batch, self.kept, self.independent = example_loss_fn, regularizer, batch, kept, independent
        self.count = jax.tree.leaves(batch)[0].shape[0]
        self._found: dict[str, linear_model.LinearModel | None] = {}  # the model, once it was asked for

    def model(self, params: Params) -> linear_model.LinearModel | None:
        """The linear model in the loss, or None."""
        if "model" not in self._found:
            shape = lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))  # noqa: E731
            example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.batch)
            self._found["model"] = linear_model.find(self.example_loss_fn, jax.tree.map(shape, params), example)
        return self._found["model"]

    def slopes(self, params: Params) -> Any:
        """The slopes of the rows at params: leaves of shape (count, ...)."""
        model = self.model(params)
        if model is None:
            return self.grads(params)
        return jax.vmap(jax.grad(model.loss))(self._predict(model, params), self.batch)

    def grads(self, params: Params) -> Grads:
        """The gradients of the rows at params, regulariser left out: like params with a leading axis of ``count``."""
        return jax.vmap(jax.grad(self.example_loss_fn), (None, 0))(params, self.batch)

    def mean_grad(self, params: Params) -> Grads:
        """The gradient of the mean of the rows' losses."""
        return jax.grad(lambda p: jnp.mean(jax.vmap(self.example_loss_fn, (None, 0))(p, self.batch)))(params)

    def combine(self, params: Params, slopes: Any) -> Grads:
        """Σⱼ of the gradients that the slopes stand for, like params; ``params`` give the form alone."""
        model = self.model(params)
        if model is None:
            return jax.tree.map(lambda x: jnp.sum(x, 0), slopes)
        return jax.vjp(lambda p: self._predict(model, p), params)[1](slopes)[0]

    def _predict(self, model, params):
        return jax.vmap(model.predict, (None, 0))(params, self.batch)

    def regularizer_grad(self, params: Params) -> Grads:
        """∇r, zero without one."""
        return tree.zeros_like(params) if self.regularizer is None else jax.grad(self.regularizer)(params)

    def mask(self, slopes: Any, also=None) -> Any:
        """The slopes with zeros for the rows that do not count."""
        for kept in (self.kept, also):
            slopes = slopes if kept is None else jax.tree.map(lambda x, k=kept: jnp.where(_beside(k, x), x, 0), slopes)
        return slopes

    def write(self, table: Table, indices, fresh: Any, old: Any) -> Table:
        """The table with the fresh slopes of the rows that count; ``old`` is what ``read`` gave for these indices."""
        if self.kept is not None and self.independent and self.count > 1:
            # A row that does not count may be of the same example as one that does, so what it writes must be nothing, not the old slopes.
            places = jnp.where(self.kept, indices, jax.tree.leaves(table.rows)[0].shape[0])
            return Table(jax.tree.map(lambda x, y: x.at[places].set(y.astype(x.dtype), mode="drop"), table.rows, fresh))
        if self.kept is not None:
            fresh = jax.tree.map(lambda x, y: jnp.where(_beside(self.kept, x), x, y), fresh, old)
        if self.count == 1:  # no scatter, which would be a call of its own in a small loop
            return Table(jax.tree.map(lambda x, y: lax.dynamic_update_slice_in_dim(x, y.astype(x.dtype), indices[0], 0), table.rows, fresh))
        return Table(jax.tree.map(lambda x, y: x.at[indices].set(y.astype(x.dtype), mode="promise_in_bounds"), table.rows, fresh))

    def first(self, indices) -> jax.Array | None:
        """bool, shape (count,): whether a row is the first of its example; None where no example comes twice."""
        if not self.independent or self.count == 1:
            return None
        order = jnp.argsort(indices, stable=True)
        new = jnp.concatenate([jnp.ones(1, bool), indices[order][1:] != indices[order][:-1]])
        return jnp.zeros(self.count, bool).at[order].set(new)

    def weight(self, dtype):
        """How many rows count, at least 1."""
        return jnp.asarray(self.count, dtype) if self.kept is None else jnp.maximum(jnp.sum(self.kept.astype(dtype)), 1)

    def curvatures(self, params: Params, block: int) -> jax.Array:
        """The largest curvature of each ℓᵢ at params, shape (count,), by power iteration in blocks of rows: exact for one prediction per example."""
        one = functools.partial(_curvature, self.example_loss_fn, self.model(params), params)
        return lax.map(one, self.batch, batch_size=min(block, self.count))

    def test(self, params: Params):
        """A function of L: whether a row shows a curvature above 1.5 L, by what a step of 1/L along its own gradient does to its loss."""
        one = functools.partial(_ahead, self.example_loss_fn, self.model(params), params)

        def shows(smoothness):
            now, then, fall = jax.vmap(one, (0, None))(self.batch, smoothness)
            epsilon, now, then = float(jnp.finfo(now.dtype).eps), now.astype(fall.dtype), then.astype(fall.dtype)
            bad = ~(then <= now - SLACK * fall + 100 * epsilon * jnp.abs(now)) & jnp.isfinite(now) & (fall > 0)
            return jnp.any(bad if self.kept is None else bad & self.kept)

        return shows


def _beside(kept, x):
    return kept.reshape(kept.shape + (1,) * (x.ndim - 1))


def generic(like: Any) -> Any:
    """A fixed tree that is orthogonal to nothing in particular."""
    return jax.tree.map(lambda x: jnp.sin(1.0 + jnp.arange(jnp.size(x), dtype=float)).reshape(jnp.shape(x)).astype(jnp.result_type(x)), like)


def power(apply, start: Any, rounds: int) -> tuple[Any, jax.Array]:
    """(a direction, the factor by which ``apply`` lengthens it): the largest curvature after enough rounds; 0 where all is flat."""
    vector, factor = start, tree.norm(start) * 0
    for _ in range(rounds):
        image, length = apply(vector), tree.norm(vector)
        factor = tree.norm(image) / jnp.where(length > 0, length, 1)
        size = tree.norm(image)
        last, vector = vector, tree.scale(1 / jnp.where(size > 0, size, 1), image)
    return last, factor


def _curvature(example_loss_fn, model, params, example):
    if model is None:
        hessian = lambda v: jax.jvp(lambda p: jax.grad(example_loss_fn)(p, example), (params,), (v,))[1]  # noqa: E731
        return power(hessian, generic(params), ROUNDS)[1]
    predictions, pull = jax.vjp(lambda p: model.predict(p, example), params)
    # The eigenvalues of AᵀΦA other than 0 are those of ΦAAᵀ, which is as small as the predictions are few.
    spread = lambda s: jax.jvp(lambda p: model.predict(p, example), (params,), pull(s))[1]  # noqa: E731
    bend = lambda s: jax.jvp(lambda z: jax.grad(model.loss)(z, example), (predictions,), (s,))[1]  # noqa: E731
    return power(lambda s: bend(spread(s)), generic(predictions), rounds(model))[1]


def rounds(model) -> int:
    """Rounds of power iteration that an example needs."""
    return 1 if model is not None and model.size == 1 else ROUNDS


def _ahead(example_loss_fn, model, params, example, smoothness):
    """(ℓ(x), ℓ(x − g/L), ‖g‖²/L) of an example; squares alone may leave the dtype's range."""
    if model is None:
        now, grads = jax.value_and_grad(example_loss_fn)(params, example)
        step = tree.scale(1 / smoothness, grads)
        return now, example_loss_fn(tree.subtract(params, step), example), tree.vdot(grads, step)
    predictions, pull = jax.vjp(lambda p: model.predict(p, example), params)
    now, slopes = jax.value_and_grad(model.loss)(predictions, example)
    step = tree.scale(1 / smoothness, jax.jvp(lambda p: model.predict(p, example), (params,), pull(slopes))[1])
    return now, model.loss(tree.subtract(predictions, step), example), tree.vdot(slopes, step)


class Pace(NamedTuple):
    """A learning rate from a smoothness constant that is watched: it grows where an example shows a larger one. Scalars of shape ()."""

    learning_rate: jax.Array  # h, of the params' widest dtype
    smoothness: jax.Array  # L, the largest curvature of an example's loss met so far, likewise
    raised: jax.Array  # bool: L was raised at the last look, so that another is due
    evaluations: jax.Array  # int32: made for this, in batches


class Smoothness(NamedTuple):
    """Curvatures of a finite sum at a point, scalars of shape ()."""

    largest: jax.Array  # of one ℓᵢ
    expected: jax.Array  # of the mean over a batch, as mini-batch methods meet it
    regularizer: jax.Array  # of r


def smoothness(examples: Examples, params: Params, batch_size: int) -> tuple[Smoothness, int]:
    """The curvatures of f at params, and the evaluations that took, in batches of ``batch_size``.

    Expected smoothness of b rows out of n without replacement: (n (b − 1) L + (n − b) L_max)/(b (n − 1)), with L that of the mean of the losses, from
    at most 256 rows (Gazagnadou, Gower, Salmon, "Optimal mini-batch and step sizes for SAGA", ICML 2019, their practical estimate).
    """
    params, n, b = tree.stop_gradient(params), examples.count, batch_size
    model, dtype = examples.model(params), tree.dtype_of(params)
    largest = jnp.max(examples.curvatures(params, max(b, 64))).astype(dtype)
    largest = jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1)
    evaluations = rounds(model) * (1 if model else 2) * -(-n // b)
    expected = largest
    if b > 1:
        rows = min(n, WHOLE_ROWS)
        some = Examples(examples.example_loss_fn, None, jax.tree.map(lambda x: x[:: n // rows][:rows], examples.batch))
        hessian = lambda v: jax.jvp(some.mean_grad, (params,), (v,))[1]  # noqa: E731
        mean = jnp.minimum(power(hessian, generic(params), WHOLE_ROUNDS)[1].astype(dtype), largest)
        expected = (n * (b - 1) * mean + (n - b) * largest) / (b * (n - 1))
        evaluations += -(-2 * WHOLE_ROUNDS * rows // b)
    regular = jnp.zeros((), dtype)
    if examples.regularizer is not None:
        hessian = lambda v: jax.jvp(examples.regularizer_grad, (params,), (v,))[1]  # noqa: E731
        regular = power(hessian, generic(params), ROUNDS)[1].astype(dtype)
    return tree.stop_gradient(Smoothness(largest, expected, regular)), evaluations


def first_pace(examples: Examples, params: Params, batch_size: int, rate) -> Pace:
    """The pace to begin with: ``rate`` makes a learning rate of a ``Smoothness``."""
    found, evaluations = smoothness(examples, params, batch_size)
    dtype = tree.dtype_of(params)
    return Pace(jnp.asarray(rate(found), dtype), found.largest, jnp.bool_(False), jnp.int32(evaluations))


def keep_pace(pace: Pace, examples: Examples, params: Params, step, per_epoch: int) -> Pace:
    """The pace after a look at the batch: at each step of the first pass over the data, later at every 64th, and after a look that raised L.

    L is doubled until no row shows more than 1.5 L, and the learning rate falls in proportion: the line search of Schmidt, Le Roux, Bach, "Minimizing
    finite sums with the stochastic average gradient", Math. Program. 162, 2017, section 4.6, without its slow increase of the learning rate.
    """

    def look(pace):
        shows = examples.test(tree.stop_gradient(params))
        ended = lax.while_loop(lambda c: shows(c[0]) & (c[1] < 60), lambda c: (2 * c[0], c[1] + 1), (pace.smoothness, jnp.int32(0)))
        rate = pace.learning_rate * (pace.smoothness / ended[0])
        return Pace(rate, ended[0], ended[1] > 0, pace.evaluations + 1 + ended[1])

    due = (step < per_epoch) | (lax.rem(step, jnp.int32(EVERY)) == 0) | pace.raised
    return lax.cond(due, look, lambda pace: pace._replace(raised=jnp.bool_(False)), tree.stop_gradient(pace))


def seed_words(key) -> jax.Array:
    """Seeds for coins from a run's key, uint32 of shape (2,): counters and seeds may sit in a state, typed keys may not be cast."""
    return jax.random.bits(jax.random.key(0) if key is None else key, (2,), jnp.uint32)


def next_success(seed, step, probability) -> jax.Array:
    """The first step after ``step`` at which a coin of this probability, tossed at each step, falls on its right side: one draw for all the tosses."""
    draw = jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), step), minval=jnp.finfo(jnp.float32).tiny)
    tosses = jnp.ceil(jnp.log(draw) / jnp.log1p(-jnp.asarray(probability, draw.dtype)))
    return step + jnp.clip(tosses, 1, 1 << 30).astype(jnp.int32)


def check_finite_sum(factory: str, **given: Any) -> None:
    """Raise for what a rule for finite sums needs from the driver and did not get (None)."""
    for name, what in given.items():
        if what is None:
            raise ValueError(
                f"{factory}: got no {name}; wanted a run on data whose examples can be told apart. Declare the loss, loss = gdjax.finite_sum(example_loss_fn), "
                f"without keys, and type gdjax.fit(loss, params, data, gdjax.{factory}(), batch_size=1, epochs=30, key=0), data in memory. "
                "Transformations of optax around a rule offer it nothing at the start: type gdjax.chain in place of optax.chain."
            )
