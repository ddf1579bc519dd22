"""The loops one would write by hand in JAX: what gdjax is measured against.

The bare loops do the least that the rule asks for. The others test and record what gdjax does. Full batch: at every step the gradient norm and
whether the value is finite; both are kept. Mini-batches: the mean value since the last record and the gradient norm at it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.problems import Problem


def _apply(params, velocity, grads, learning_rate, momentum):
    if momentum is None:
        return jax.tree.map(lambda x, g: x - learning_rate * g, params, grads), velocity
    velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
    return jax.tree.map(lambda x, v: x - learning_rate * v, params, velocity), velocity


def _norm(tree):
    return jnp.sqrt(sum(jnp.sum(x * x) for x in jax.tree.leaves(tree)))


def _numbers(problem: Problem) -> tuple:
    return jnp.float32(problem.learning_rate), None if problem.momentum is None else jnp.float32(problem.momentum)


def _velocity(params, momentum):
    return None if momentum is None else jax.tree.map(jnp.zeros_like, params)


def _start(problem: Problem):
    return jax.tree.map(jnp.asarray, problem.params)


def minimize_scan(problem: Problem, steps: int, shuffle: bool = False):
    """Full batch, ``lax.scan``: gradient and update, nothing else."""

    @jax.jit
    def loop(params, args, learning_rate, momentum):
        def body(carry, _):
            params, velocity = carry
            return _apply(params, velocity, jax.grad(problem.loss_fn)(params, *args), learning_rate, momentum), None

        return lax.scan(body, (params, _velocity(params, momentum)), length=steps)[0][0]

    params, args, numbers = _start(problem), problem.args, _numbers(problem)
    return lambda: (jax.block_until_ready(loop(params, args, *numbers)), steps)


def minimize_while(problem: Problem, steps: int, shuffle: bool = False, history: bool = False):
    """Full batch, ``lax.while_loop``: stops at a gradient norm or a value that is not finite.

    ``history`` keeps the value and the gradient norm of every step.
    """

    def evaluate(params, args):
        value, grads = jax.value_and_grad(problem.loss_fn)(params, *args)
        return value, grads, _norm(grads)

    @jax.jit
    def loop(params, args, tolerance, learning_rate, momentum):
        def proceed(carry):
            step, _, _, (value, _, norm), _ = carry
            return (step < steps) & (norm > tolerance) & jnp.isfinite(value)

        def body(carry):
            step, params, velocity, (value, grads, norm), kept = carry
            if history:
                kept = (kept[0].at[step].set(value), kept[1].at[step].set(norm))
            params, velocity = _apply(params, velocity, grads, learning_rate, momentum)
            return step + 1, params, velocity, evaluate(params, args), kept

        kept = (jnp.zeros(steps), jnp.zeros(steps)) if history else None
        carry = (0, params, _velocity(params, momentum), evaluate(params, args), kept)
        step, params, _, (value, _, norm), kept = lax.while_loop(proceed, body, carry)
        return params, step, value, norm, kept

    params, args, numbers = _start(problem), problem.args, _numbers(problem)

    def run():
        result = jax.block_until_ready(loop(params, args, 0.0, *numbers))
        return result[0], int(result[1])

    return run


def order(random: np.random.Generator, rows: int, batch_size: int, steps: int, shuffle: bool) -> np.ndarray:
    """Indices (steps, batch_size) of shuffled epochs without the incomplete last batch; in order where ``shuffle`` is False."""
    per_epoch = rows // batch_size
    epochs = -(-steps // per_epoch)
    orders = [random.permutation(rows) if shuffle else np.arange(rows) for _ in range(epochs)]
    batches = [indices[: per_epoch * batch_size].reshape(per_epoch, batch_size) for indices in orders]
    return np.concatenate(batches).astype(np.int32)[:steps]


def fit_scan(problem: Problem, steps: int, shuffle: bool, batch_size: int, history: bool = False):
    """Mini-batches, ``lax.scan`` over the indices of shuffled epochs; ``history`` keeps the mean value and the gradient norm of the last batch."""

    @jax.jit
    def loop(params, data, indices, learning_rate, momentum):
        def evaluate(params, chosen):
            return jax.value_and_grad(problem.loss_fn)(params, jax.tree.map(lambda x: x[chosen], data))

        def body(carry, chosen):
            params, velocity, total = carry
            value, grads = evaluate(params, chosen)
            return (*_apply(params, velocity, grads, learning_rate, momentum), total + value if history else None), None

        carry = (params, _velocity(params, momentum), jnp.float32(0.0) if history else None)
        if not history:
            return lax.scan(body, carry, indices)[0][0]
        params, velocity, total = lax.scan(body, carry, indices[:-1])[0]
        value, grads = evaluate(params, indices[-1])
        return _apply(params, velocity, grads, learning_rate, momentum)[0], (total + value) / len(indices), _norm(grads)

    params, data, numbers = _start(problem), problem.args[0], _numbers(problem)
    random = np.random.default_rng(0)

    def run():
        indices = order(random, len(problem.data[0]), batch_size, steps, shuffle)
        result = jax.block_until_ready(loop(params, data, indices, *numbers))
        return result[0] if history else result, steps

    return run


def fit_in_order(problem: Problem, steps: int, shuffle: bool, batch_size: int):
    """Mini-batches, ``lax.scan`` over slices of the data as they lie, whatever ``shuffle`` asks: nothing is gathered."""

    @jax.jit
    def loop(params, data, places, learning_rate, momentum):
        def body(carry, place):
            params, velocity = carry
            batch = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, place, batch_size), data)
            return _apply(params, velocity, jax.grad(problem.loss_fn)(params, batch), learning_rate, momentum), None

        return lax.scan(body, (params, _velocity(params, momentum)), places)[0][0]

    params, data, numbers = _start(problem), problem.args[0], _numbers(problem)
    places = batch_size * (np.arange(steps, dtype=np.int32) % (len(problem.data[0]) // batch_size))
    return lambda: (jax.block_until_ready(loop(params, data, places, *numbers)), steps)
