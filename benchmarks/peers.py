"""The peers' loops, written as their documentation writes them, and gdjax's own doors. Imports are inside, so that missing peers can be skipped."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.handwritten import order
from benchmarks.measure import threads
from benchmarks.problems import Problem


def _rule(problem: Problem):
    import gdjax

    return gdjax.sgd(problem.learning_rate, momentum=problem.momentum)


def _optax_sgd(problem: Problem):
    return optax.sgd(problem.learning_rate, momentum=problem.momentum)


def _start(problem: Problem):
    return jax.tree.map(jnp.asarray, problem.params)


def _jaxopt():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jaxopt
    return jaxopt


def gdjax_minimize(problem: Problem, steps: int, shuffle: bool = False, **options):
    """``gdjax.minimize`` to the last step."""
    import gdjax

    params, args, rule = _start(problem), problem.args, _rule(problem)

    def run():
        result = gdjax.minimize(problem.loss_fn, params, rule, args=args, tol=0.0, max_steps=steps, progress=False, **options)
        return jax.block_until_ready(result.params), int(result.steps)

    return run


def gdjax_fit(problem: Problem, steps: int, shuffle: bool, batch_size: int, **options):
    """``gdjax.fit`` on arrays in memory, epochs shuffled."""
    import gdjax

    params, data, rule = _start(problem), problem.args[0], _rule(problem)
    shuffle_as = "epoch" if shuffle else False

    def run():
        settings = {"batch_size": batch_size, "steps": steps, "key": 0, "shuffle": shuffle_as, "progress": False}
        result = gdjax.fit(problem.loss_fn, params, data, rule, **settings, **options)
        return jax.block_until_ready(result.params), int(result.steps)

    return run


def _optax_step(problem: Problem):
    transformation = _optax_sgd(problem)

    @jax.jit
    def step(params, state, *args):
        value, grads = jax.value_and_grad(problem.loss_fn)(params, *args)
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return transformation, step


def optax_minimize(problem: Problem, steps: int, shuffle: bool = False):
    """The tutorial loop: a Python ``for`` around one jitted step."""
    transformation, step = _optax_step(problem)
    start, args = _start(problem), problem.args

    def run():
        params, state = start, transformation.init(start)
        for _ in range(steps):
            params, state, _ = step(params, state, *args)
        return jax.block_until_ready(params), steps

    return run


def batches(problem: Problem, random: np.random.Generator, batch_size: int, steps: int, shuffle: bool) -> Iterator[tuple]:
    """The batches of shuffled epochs, cut from NumPy arrays as a tutorial would."""
    for indices in order(random, len(problem.data[0]), batch_size, steps, shuffle):
        yield tuple(x[indices] for x in problem.data)


def optax_fit(problem: Problem, steps: int, shuffle: bool, batch_size: int):
    """The tutorial loop over NumPy batches: a Python ``for`` around one jitted step."""
    transformation, step = _optax_step(problem)
    start, random = _start(problem), np.random.default_rng(0)

    def run():
        params, state = start, transformation.init(start)
        for batch in batches(problem, random, batch_size, steps, shuffle):
            params, state, _ = step(params, state, batch)
        return jax.block_until_ready(params), steps

    return run


def jaxopt_minimize(problem: Problem, steps: int, shuffle: bool = False):
    """``jaxopt.GradientDescent``, fixed step size, no acceleration; ``jaxopt.OptaxSolver`` where there is momentum, which the former has not."""
    jaxopt = _jaxopt()
    if problem.momentum is None:
        solver = jaxopt.GradientDescent(problem.loss_fn, stepsize=problem.learning_rate, acceleration=False, maxiter=steps, tol=0.0, jit=True)
    else:
        solver = jaxopt.OptaxSolver(problem.loss_fn, _optax_sgd(problem), maxiter=steps, tol=0.0, jit=True)
    start, args = _start(problem), problem.args

    def run():
        result = solver.run(start, *args)
        return jax.block_until_ready(result.params), int(result.state.iter_num)

    return run


def jaxopt_fit(problem: Problem, steps: int, shuffle: bool, batch_size: int):
    """``jaxopt.OptaxSolver.run_iterator``. Its first batch only initialises, so one more is drawn and the run begins with a batch seen before."""
    jaxopt = _jaxopt()
    solver = jaxopt.OptaxSolver(lambda params, data: problem.loss_fn(params, data), _optax_sgd(problem), maxiter=steps, tol=0.0, jit=True)
    start, random = _start(problem), np.random.default_rng(0)

    def stream():
        yield tuple(x[:batch_size] for x in problem.data)
        yield from batches(problem, random, batch_size, steps, shuffle)

    def run():
        result = solver.run_iterator(start, stream())
        return jax.block_until_ready(result.params), int(result.state.iter_num)

    return run


def optimistix_minimize(problem: Problem, steps: int, shuffle: bool = False):
    """``optimistix.minimise`` with ``OptaxMinimiser(optax.sgd)``; its own ``GradientDescent`` searches for the step and is another method."""
    import optimistix

    solver = optimistix.OptaxMinimiser(_optax_sgd(problem), rtol=0.0, atol=0.0)
    start, args = _start(problem), problem.args

    def loss_fn(params, args):
        return problem.loss_fn(params, *args)

    def run():
        solution = optimistix.minimise(loss_fn, solver, start, args=args, max_steps=steps, throw=False)
        return jax.block_until_ready(solution.value), int(solution.stats["num_steps"])

    return run


def _torch_loop(problem: Problem):
    import torch

    torch.set_num_threads(threads())
    loss_fn = functools.partial(problem.torch_loss_fn, torch)

    def begin():
        params = jax.tree.map(lambda x: torch.tensor(x, requires_grad=True), problem.params)
        optimizer = torch.optim.SGD(jax.tree.leaves(params), lr=problem.learning_rate, momentum=problem.momentum or 0.0)

        def step(batch):
            optimizer.zero_grad()
            loss_fn(params, batch).backward()
            optimizer.step()

        return params, step

    return torch, begin


def _numpy(params):
    return jax.tree.map(lambda x: x.detach().numpy(), params)


def torch_minimize(problem: Problem, steps: int, shuffle: bool = False):
    """PyTorch: ``zero_grad``, ``backward``, ``step`` in a Python ``for``."""
    torch, begin = _torch_loop(problem)
    data = None if problem.data is None else tuple(torch.from_numpy(x) for x in problem.data)

    def run():
        params, step = begin()
        for _ in range(steps):
            step(data)
        return _numpy(params), steps

    return run


def torch_fit(problem: Problem, steps: int, shuffle: bool, batch_size: int):
    """PyTorch over batches cut by index from tensors in memory (a ``DataLoader`` would be slower)."""
    torch, begin = _torch_loop(problem)
    inputs, labels = problem.data
    inputs, labels = torch.from_numpy(inputs), torch.from_numpy(labels.astype(np.int64) if labels.dtype == np.int32 else labels)
    random = np.random.default_rng(0)

    def run():
        params, step = begin()
        for indices in torch.from_numpy(order(random, len(inputs), batch_size, steps, shuffle)):
            step((inputs[indices], labels[indices]))
        return _numpy(params), steps

    return run


def sklearn_fit(problem: Problem, steps: int, shuffle: bool, batch_size: int):
    """scikit-learn's compiled loop over single examples of a logistic regression: ``SGDClassifier`` on the first rows, for whole epochs."""
    from sklearn.linear_model import SGDClassifier

    rows = min(steps, len(problem.data[0]))
    inputs, labels = (x[:rows] for x in problem.data)
    options = {"loss": "log_loss", "penalty": None, "learning_rate": "constant", "eta0": problem.learning_rate, "tol": None}

    def run():
        model = SGDClassifier(max_iter=steps // rows, shuffle=shuffle, random_state=0, **options).fit(inputs, labels)
        return {"weights": model.coef_[0], "bias": model.intercept_[0]}, rows * (steps // rows)

    return run
