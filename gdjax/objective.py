"""The loss, made ready: checks at trace time, finite sums, exact chunks, aux, keys and model state, behind one ``value_and_grad``."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax import tree
from gdjax.arguments import is_array, is_whole, short
from gdjax.brief import brief_repr
from gdjax.checks import check_callable, check_flag, check_takes
from gdjax.parts import blocks, convolutions, turned
from gdjax.parts.blocks import Blocks
from gdjax.parts.examples import Examples
from gdjax.parts.held import Held, hold, remembered
from gdjax.typing import Batch, Params


@dataclass(frozen=True)
class FiniteSum:
    """A loss declared as the mean of per-example losses plus a regulariser; made by ``gdjax.finite_sum``."""

    example_loss_fn: Any
    regularizer: Any = None
    __repr__ = brief_repr

    @property
    def traced(self):
        """``example_loss_fn``, traced once for each kind of arguments."""
        return remembered(self.example_loss_fn, FiniteSum, self._jitted) if isinstance(self.example_loss_fn, Held) else self._traced

    @functools.cached_property
    def _traced(self):
        return self._jitted()

    def _jitted(self):
        return jax.jit(lambda *inputs: self.example_loss_fn(*inputs), inline=True)

    def examples(self, params: Params, batch: Batch, keys=None) -> Any:
        """Per-example losses, shape (n,), or (losses, aux stacked along axis 0)."""
        if keys is None:
            return jax.vmap(self.traced, (None, 0))(params, batch)
        return jax.vmap(self.traced, (None, 0, 0))(params, batch, keys)

    def __call__(self, params: Params, batch: Batch, key=None) -> Any:
        """The mean over the batch plus the regulariser: an ordinary loss_fn(params, batch[, key])."""
        out = self.examples(params, batch, None if key is None else example_keys(key, 0, leading(batch)))
        losses, aux = out if isinstance(out, tuple) else (out, None)
        value = jnp.mean(losses) + (0 if self.regularizer is None else self.regularizer(params))
        return (value, aux) if isinstance(out, tuple) else value


def finite_sum(example_loss_fn, regularizer=None) -> FiniteSum:
    """Declares a loss as a finite sum of examples: f(x) = 1/n Σᵢ ℓ(x, exampleᵢ) + r(x).

    The declaration is what makes exact chunks (gradients of data larger than the cache or the memory), exact ragged last batches and per-example gradients
    possible; an opaque ``loss_fn(params, batch)`` is never taken apart silently.

    Args:
        example_loss_fn: ``(params, example[, key]) -> loss | (loss, aux)`` for one example: a pytree like the data without its leading axis.
        regularizer: ``params -> scalar``, added once; or None.

    Returns:
        A loss, callable as ``loss_fn(params, batch)``, that ``fit``, ``descent`` and ``evaluate`` recognise.

    Raises:
        TypeError: an argument is not callable.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> loss = gdjax.finite_sum(lambda w, row: (row[0] * w - row[1]) ** 2, lambda w: 0.1 * w**2)
        >>> print(f"{loss(2.0, (jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0]))):.2f}")
        5.40
    """
    if not callable(example_loss_fn):
        raise TypeError(f"finite_sum: example_loss_fn is {short(example_loss_fn)}; wanted a function (params, example): type gdjax.finite_sum(example_loss).")
    if regularizer is not None and not callable(regularizer):
        raise TypeError(f"finite_sum: regularizer is {short(regularizer)}; wanted a function of params: type regularizer=lambda w: 0.01 * jnp.vdot(w, w).")
    return FiniteSum(example_loss_fn, regularizer)


class Evaluation(NamedTuple):
    """One evaluation of the loss."""

    value: Any  # shape (), float32 at least
    grads: Any  # like params
    model_state: Any  # the new one, or None
    aux: Any  # or None


@dataclass(frozen=True)
class Objective:
    """A loss with what the driver was told about it: static, hashable, traced once per compilation."""

    loss_fn: Any
    has_aux: bool = False
    stochastic: bool = False
    stateful: bool = False
    splat: bool = False  # minimize: fun(params, *args)
    chunk_size: Any = None  # an int, "auto", None or Blocks
    __repr__ = brief_repr

    @property
    def is_sum(self) -> bool:
        """Whether the loss was declared with ``finite_sum``."""
        return isinstance(self.loss_fn, FiniteSum)

    @property
    def held(self) -> Any:
        """The loss held weakly, with what is remembered for it; None where it is held as it is."""
        loss_fn = self.loss_fn.example_loss_fn if self.is_sum else self.loss_fn
        return loss_fn if isinstance(loss_fn, Held) else None

    @property
    def functions(self) -> Any:
        """What the caller of ``weakly`` keeps."""
        return self.loss_fn if self.held is None else self.held.owners

    def weakly(self) -> Objective:
        """The same of a loss held weakly, which the caller keeps as long as it is to be called: what is compiled for it, and so knows this, goes with it."""
        if not self.is_sum:
            return dataclasses.replace(self, loss_fn=hold(self.loss_fn))
        example, regularizer = self.loss_fn.example_loss_fn, self.loss_fn.regularizer
        both = (hold(example), None) if regularizer is None else (hold(example, regularizer), hold(regularizer, example))
        return dataclasses.replace(self, loss_fn=FiniteSum(*both))

    def value_and_grad(self, params, batch, *, model_state=None, key=None, weights=None) -> Evaluation:
        """Value, gradient, new model state and aux on a batch; ``weights`` of shape (rows,) only for finite sums (0 drops a row)."""
        rows = self.rows_of(batch)
        flags = turned.which(params, rows)
        if not any(flags):
            return self._value_and_grad(params, batch, model_state, key, weights)
        there = self._of_turned(flags)._value_and_grad(turned.turn(flags, params), batch, model_state, key, weights)
        return there._replace(grads=turned.turn(flags, turned.hold(flags, there.grads)))

    def rows_of(self, batch) -> int | None:
        """The rows of a batch, where it is known to be one."""
        shape = () if self.splat or not jax.tree.leaves(batch) else jnp.shape(jax.tree.leaves(batch)[0])
        return shape[0] if shape else None

    def _of_turned(self, flags):
        """The same loss as a function of turned params."""
        loss_fn = _of_turned(self.loss_fn, flags)
        if self.is_sum:
            regularizer = self.loss_fn.regularizer
            loss_fn = FiniteSum(_of_turned(self.loss_fn.traced, flags), None if regularizer is None else _of_turned(regularizer, flags))
        return dataclasses.replace(self, loss_fn=loss_fn)

    def _value_and_grad(self, params, batch, model_state, key, weights) -> Evaluation:
        if self.is_sum:
            return self._sum(params, batch, key, weights)
        chunk = self.chunk_size if isinstance(self.chunk_size, int) else None
        if chunk is not None and chunk < leading(batch):
            return self._opaque_chunks(params, batch, chunk)
        return self._whole(params, batch, model_state, key)

    def laid_out(self, data) -> Objective:
        """The same loss for these concrete arrays: where their rows are spread over devices, each takes its own."""
        spread = blocks.shards(data) if self.is_sum and self.chunk_size == "auto" else 1
        return self if spread == 1 else dataclasses.replace(self, chunk_size=Blocks(spread if leading(data) % spread == 0 else 1))

    def value(self, params, batch, *, model_state=None, key=None) -> tuple[Any, Any]:
        """(value, aux) alone; in blocks where a gradient would be."""
        if not self.is_sum and not isinstance(self.chunk_size, int):
            value, (_, aux) = self._call(params, batch, model_state, key)
            return value, aux
        # Chunks are laid out by value_and_grad; under jit the gradient is not used and so not computed.
        seen = self.value_and_grad(params, batch, model_state=model_state, key=key)
        return seen.value, seen.aux

    def examples(self, batch, weights=None, independent: bool = False) -> Examples | None:
        """The rows of a batch as examples, or None where the loss cannot be taken apart into functions of the params alone. Nothing is traced yet."""
        if not self.is_sum or self.stochastic:
            return None
        declared = self.loss_fn.example_loss_fn
        loss_fn = (lambda params, example: declared(params, example)[0]) if self.has_aux else declared
        return Examples(loss_fn, self.loss_fn.regularizer, batch, None if weights is None else weights > 0, independent)

    def _call(self, params, batch, model_state, key):
        before = [params, model_state] if self.stateful else [params]
        middle = list(batch) if self.splat else [batch]
        out = self.loss_fn(*before, *middle, *([key] if self.stochastic else []))
        value, model_state, aux = self._unpack(out, model_state)
        return check_value(value), (model_state, aux)

    def _unpack(self, out, model_state):
        if not (self.has_aux or self.stateful):
            if isinstance(out, (tuple, list)):
                raise TypeError(f"loss_fn returned a {type(out).__name__} of {len(out)}; wanted a scalar loss. If it returns (loss, aux), pass has_aux=True.")
            return out, model_state, None
        if not isinstance(out, tuple) or len(out) != 2:
            wanted = "(loss, (model_state, aux)) or (loss, model_state)" if self.stateful else "(loss, aux)"
            raise TypeError(f"loss_fn returned {_describe(out)}; wanted {wanted}, since {'model_state' if self.stateful else 'has_aux=True'} was given.")
        value, rest = out
        if not self.stateful:
            return value, model_state, _check_aux(rest)
        new, aux = rest if _is_state_and_aux(rest, model_state) else (rest, None)
        return value, _check_model_state(model_state, new), _check_aux(aux)

    def _whole(self, params, batch, model_state, key):
        call = lambda p: self._call(p, batch, model_state, key)  # noqa: E731
        (value, (model_state, aux)), grads = jax.value_and_grad(call, has_aux=True)(params)
        return Evaluation(value, grads, model_state, aux)

    def _opaque_chunks(self, params, batch, chunk):
        rows = leading(batch)
        full, rest = divmod(rows, chunk)
        grad = jax.value_and_grad(lambda p, b: self._call(p, b, None, None)[0])

        def add(total, block):
            return tree.add_scaled(total, chunk / rows, grad(params, block)), None

        blocks = jax.tree.map(lambda x: x[: full * chunk].reshape(full, chunk, *x.shape[1:]), batch)
        total = (jnp.zeros((), tree.dtype_of(params)), jax.tree.map(_accumulator, params))
        total = convolutions.arranged(lambda total, blocks: lax.scan(add, total, blocks)[0])(total, blocks)
        if rest:
            total = tree.add_scaled(total, rest / rows, grad(params, jax.tree.map(lambda x: x[full * chunk :], batch)))
        return Evaluation(total[0], tree.cast_like(total[1], params), None, None)

    def _sum(self, params, batch, key, weights):
        total = leading(batch) if weights is None else jnp.sum(weights)
        value, grads, aux = self._sum_in_parts(params, batch, key, weights, total, self._blocks(params, batch))
        if self.loss_fn.regularizer is not None:
            regular = jax.value_and_grad(lambda p: check_value(self.loss_fn.regularizer(p), "regularizer"))(params)
            value, grads = value + regular[0], tree.add(grads, regular[1])
        return Evaluation(value, tree.cast_like(grads, params), None, aux)

    def _blocks(self, params, batch) -> Blocks:
        if isinstance(self.chunk_size, Blocks):
            return self.chunk_size
        if self.chunk_size != "auto":
            return Blocks(1, self.chunk_size)
        keys = lambda: [jax.random.key(0)] if self.stochastic else []  # noqa: E731
        return blocks.choose(lambda params, example: self.loss_fn.traced(params, example, *keys()), params, batch)

    def _sum_in_parts(self, params, batch, key, weights, total, layout: Blocks):
        def part(batch, weights, first):
            if layout.rows is None or layout.rows >= leading(batch):
                return self._block(params, batch, key, weights, first, total)
            return self._sum_in_blocks(params, batch, key, weights, layout.rows, total, first)

        if layout.parts == 1:
            return part(batch, weights, 0)
        rows = leading(batch) // layout.parts
        split = lambda x: x.reshape(layout.parts, rows, *x.shape[1:])  # noqa: E731
        firsts = rows * jnp.arange(layout.parts, dtype=jnp.int32)
        value, grads, aux = jax.vmap(part)(jax.tree.map(split, batch), jax.tree.map(split, weights), firsts)
        grads = jax.tree.map(lambda g: blocks.pairwise_sum(g.astype(tree.dtype_of(g))), grads)
        return jnp.sum(value), grads, jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), aux)

    def _block(self, params, block, key, weights, first, total):
        """(Σ wᵢ ℓᵢ / total, its gradient, aux) of one block of rows that starts at row ``first`` of the batch."""
        keys = example_keys(key, first, leading(block)) if self.stochastic else None

        def weighted(p):
            losses, aux = self._examples(p, block, keys)
            losses = losses if weights is None else jnp.where(weights > 0, losses * weights.astype(losses.dtype), 0)
            value = jnp.sum(losses.astype(tree.dtype_of(losses)))
            return value / jnp.asarray(total, value.dtype), aux

        (value, aux), grads = jax.value_and_grad(weighted, has_aux=True)(params)
        return value, grads, aux

    def _examples(self, params, block, keys):
        out = self.loss_fn.examples(params, block, keys)
        if isinstance(out, tuple) != self.has_aux or (self.has_aux and len(out) != 2):
            raise TypeError(f"example_loss_fn returned {_describe(out)} with has_aux={self.has_aux}; wanted a loss; of (loss, aux) pass has_aux=True.")
        losses, aux = out if self.has_aux else (out, None)
        return _check_examples(losses, leading(block)), aux

    def _sum_in_blocks(self, params, batch, key, weights, chunk, total, start):
        # Every block has the same shape; the last one starts early and gives weight 0 to the rows that were counted before, so nothing is padded or copied.
        rows = leading(batch)
        count = -(-rows // chunk)

        def add(carry, index):
            first = jnp.minimum(index * chunk, rows - chunk)
            cut = lambda x: lax.dynamic_slice_in_dim(x, first, chunk)  # noqa: E731
            fresh = (first + jnp.arange(chunk, dtype=jnp.int32) >= index * chunk).astype(jnp.float32)
            mine = fresh if weights is None else fresh * cut(weights)
            value, grads, aux = self._block(params, jax.tree.map(cut, batch), key, mine, start + first, total)
            return tree.add(carry, (value, grads)), aux

        zero = (jnp.zeros((), tree.dtype_of(params)), jax.tree.map(_accumulator, params))
        (value, grads), aux = convolutions.arranged(lambda zero, index: lax.scan(add, zero, index))(zero, jnp.arange(count, dtype=jnp.int32))
        overlap = count * chunk - rows
        whole = lambda x: jnp.concatenate([x[:-1].reshape((count - 1) * chunk, *x.shape[2:]), x[-1, overlap:]])  # noqa: E731
        return value, grads, jax.tree.map(whole, aux)


def _of_turned(function, flags):
    return lambda params, *rest: function(turned.turn(flags, params), *rest)


def _accumulator(x):
    return jnp.zeros(jnp.shape(x), tree.dtype_of(x))


def leading(batch: Batch) -> int:
    """The number of rows: the common leading axis of a batch."""
    return jax.tree.leaves(batch)[0].shape[0]


def example_keys(key, first, rows: int):
    """A key per example, from its place in the batch: the same for every chunk size."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(first + jnp.arange(rows, dtype=jnp.int32))


def _describe(x) -> str:
    if isinstance(x, (tuple, list)):
        return f"a {type(x).__name__} of {len(x)}"
    return f"{jnp.result_type(x)}{list(jnp.shape(x))}" if hasattr(x, "dtype") else type(x).__name__


def check_value(value, name: str = "loss_fn") -> Any:
    """The value if it is a real floating scalar; otherwise an error that says what came, at trace time."""
    if not hasattr(value, "dtype") and not isinstance(value, (int, float, complex)):
        raise TypeError(f"{name} returned {type(value).__name__}; wanted a scalar loss: return jnp.mean(errors**2), for example.")
    shape, dtype = jnp.shape(value), jnp.result_type(value)
    if shape != ():
        raise TypeError(f"{name} returned an array of shape {shape}; wanted a scalar, shape (): take jnp.mean or jnp.sum of it.")
    if not jnp.issubdtype(dtype, jnp.floating):
        hint = "return jnp.real(loss) or jnp.abs(loss)**2" if jnp.issubdtype(dtype, jnp.complexfloating) else "compute it in floating point"
        raise TypeError(f"{name} returned a scalar of dtype {dtype}; wanted a real floating number: {hint}.")
    return jnp.asarray(value)


def _check_examples(losses, rows: int):
    if jnp.shape(losses) != (rows,):
        raise TypeError(f"example_loss_fn returned shape {jnp.shape(losses)[1:]} for one example; wanted a scalar, shape (): take jnp.mean or jnp.sum of it.")
    check_value(losses[0], "example_loss_fn")
    return losses


def _check_aux(aux):
    for path, leaf in jax.tree_util.tree_leaves_with_path(aux):
        if not is_array(leaf):
            where = f"aux{jax.tree_util.keystr(path)}"
            raise TypeError(f"loss_fn returned (loss, aux) where {where} is {short(leaf)} ({type(leaf).__name__}); wanted arrays: leave all else out of aux.")
    return aux


def _is_state_and_aux(rest, model_state) -> bool:
    structure = jax.tree.structure(model_state)
    return jax.tree.structure(rest) != structure and isinstance(rest, tuple) and len(rest) == 2 and jax.tree.structure(rest[0]) == structure


def _check_model_state(old, new):
    def shapes(state):
        return [(jnp.shape(x), str(jnp.result_type(x))) for x in jax.tree.leaves(state)]

    if jax.tree.structure(old) != jax.tree.structure(new) or shapes(old) != shapes(new):
        raise TypeError(
            f"loss_fn changed the structure of model_state from {jax.tree.structure(old)} {shapes(old)} to {jax.tree.structure(new)} {shapes(new)}; "
            "wanted one like that it got, same keys, shapes and dtypes: return a model_state like it."
        )
    return new


def declared(loss_fn, has_aux, stochastic, model_state, chunk_size, args: int | None = None, name: str = "loss_fn") -> Objective:
    """The loss with what a door was told about it, checked; held weakly, so that the door keeps it. ``args``: how many it takes instead of a batch."""
    flags = check_flag("has_aux", has_aux), check_flag("stochastic", stochastic), model_state is not None
    objective = check_chunk_size(Objective(check_callable(loss_fn, name), *flags, args is not None, chunk_size))
    middle = [f"args[{i}]" for i in range(args)] if args is not None else ["example" if objective.is_sum else "batch"]
    given = ["params", *["model_state"] * objective.stateful, *middle, *["key"] * objective.stochastic]
    check_takes(loss_fn.example_loss_fn if objective.is_sum else loss_fn, given, "example_loss_fn" if objective.is_sum else name)
    if objective.is_sum and loss_fn.regularizer is not None:
        check_takes(loss_fn.regularizer, ["params"], "regularizer")
    return objective.weakly()


def check_chunk_size(objective: Objective) -> Objective:
    """The objective, if its chunk size fits its form."""
    chunk = objective.chunk_size
    if isinstance(chunk, np.integer) and is_whole(chunk):
        return check_chunk_size(dataclasses.replace(objective, chunk_size=int(chunk)))
    known = chunk is None or (isinstance(chunk, str) and chunk == "auto") or (isinstance(chunk, int) and not isinstance(chunk, bool) and chunk >= 1)
    if not known:
        raise ValueError(f'chunk_size is {short(chunk)}; wanted "auto", None or an integer >= 1: type chunk_size=1024.')
    if isinstance(chunk, int) and not objective.is_sum and (objective.has_aux or objective.stateful or objective.stochastic):
        raise ValueError(
            f"chunk_size is {chunk} for an opaque loss with aux, a key or model state, which cannot be taken apart; "
            "wanted a sum: declare the loss with gdjax.finite_sum, or type chunk_size=None."
        )
    if objective.is_sum and objective.stateful:
        raise ValueError("model_state was given with a finite_sum, whose examples are independent; wanted a loss_fn(params, model_state, batch): write it so.")
    return objective
