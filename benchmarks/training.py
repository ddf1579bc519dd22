"""One way to train on one task: a compiled run over the batches that all get, ended when its evaluations are spent; sweeps; regrets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from benchmarks.training_tasks import Task, batches

POINTS = 20  # of a curve, beside the start
FAR = 9.0  # a final loss this many times |initial| above the initial one is a divergence: ten times the initial loss where it is positive
EXTENSIONS = 3  # of a grid whose best is at its edge, at most


class Method(NamedTuple):
    """A way to train. ``make(steps)`` returns the rule for so many steps; its schedules, where it has some, end there."""

    name: str
    make: Callable[[int], Any]
    cost: int = 1  # evaluations per step, from which ``make`` is told how many steps there will be
    driver: str = "descent"  # or "fit": through gdjax.fit


class Sweep(NamedTuple):
    """A learning rate for each task: ``make(learning_rate, steps)``, the best of ``grid`` (and beyond, where the best is at its edge)."""

    name: str
    make: Callable[[Any, int], Any]
    grid: tuple[float, ...]


class Runs(NamedTuple):
    """What came out, an axis of seeds first (after one of learning rates in sweeps)."""

    train: np.ndarray  # final loss of all training examples, at the params the rule reports
    test: np.ndarray
    curve: np.ndarray  # (..., POINTS + 1): training loss, of some examples; only start and end, if the steps are no multiple of POINTS
    spent: np.ndarray  # like the curve: evaluations made by then
    failed: np.ndarray  # bool: the driver itself said so


def starts(task: Task, seeds: Sequence[int]):
    """(params, rows) of the seeds, stacked."""
    params = [task.init(jax.random.PRNGKey(seed)) for seed in seeds]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *params), jnp.asarray(np.stack([batches(task, seed) for seed in seeds]))


@functools.cache
def _losses(task: Task):
    """params, stacked over seeds -> (train, test), compiled."""
    mapped = jax.jit(jax.vmap(lambda params, train, test: (task.loss(params, train), task.loss(params, test)), in_axes=(0, None, None)))
    return lambda params: tuple(np.asarray(loss) for loss in mapped(params, task.train, task.test))


@functools.cache
def _curves(task: Task):
    """(first params, params at the points) -> training loss of some examples, shape (seeds, POINTS + 1), compiled."""

    def curve(first, points, some):
        return jnp.concatenate([task.loss(first, some)[None], jax.lax.map(lambda params: task.loss(params, some), points)])

    mapped, some = jax.jit(jax.vmap(curve, in_axes=(0, 0, None))), tuple(x[: task.curve_examples] for x in task.train)
    return lambda first, points: np.asarray(mapped(first, points, some))


def initial(task: Task, seeds: Sequence[int]) -> tuple[float, float]:
    """The loss of the first params on (train, test), mean over seeds."""
    train, test = _losses(task)(starts(task, seeds)[0])
    return float(train.mean()), float(test.mean())


def _one_run(task: Task, make: Callable[[], Any], params, rows, train):
    """A run of one seed, pure: (reported params, evaluations made) at the points of the curve.

    It ends before the step that would spend more than one evaluation per batch given.
    """
    rule = make()
    init, step = gdjax.descent(task.loss, rule)

    def advance(carry, row):
        state, over = carry
        new, _ = step(state, tuple(x[row] for x in train))
        over = over | (new.evaluations > task.steps)
        return (jax.tree.map(lambda old, new: jnp.where(over, old, new), state, new), over), None

    def span(carry, rows):
        (state, over), _ = jax.lax.scan(advance, carry, rows)
        return (state, over), (gdjax.eval_params(rule, state.rule_state, state.params), state.evaluations)

    points = POINTS if task.steps % POINTS == 0 else 1
    _, seen = jax.lax.scan(span, (init(params), jnp.asarray(False)), rows.reshape(points, -1, rows.shape[-1]))
    return seen


def _runs(task: Task, first, seen) -> Runs:
    points, spent = seen
    train, test = _losses(task)(jax.tree.map(lambda x: x[:, -1], points))
    return Runs(train, test, _curves(task)(first, points), np.pad(np.asarray(spent), ((0, 0), (1, 0))), np.zeros(train.shape, bool))


def by_descent(task: Task, method: Method, seeds: Sequence[int]) -> Runs:
    """All seeds at once, through ``gdjax.descent``."""
    make = lambda: method.make(task.steps // method.cost)  # noqa: E731
    params, rows = starts(task, seeds)
    run = jax.jit(jax.vmap(lambda params, rows, train: _one_run(task, make, params, rows, train), in_axes=(0, 0, None)))
    return _runs(task, params, run(params, rows, task.train))


def by_fit(task: Task, method: Method, seeds: Sequence[int]) -> Runs:
    """Seed by seed through ``gdjax.fit``, the batches laid out in the order in which they come.

    The curve is that of the same rule through ``descent``, and so is the end if ``fit`` made more evaluations than there are: it cannot stop in time.
    """
    results, count = [], task.steps // method.cost
    for seed in seeds:
        data = tuple(x[batches(task, seed)[:count].ravel()] for x in task.train)
        options = dict(batch_size=task.batch_size, steps=count, shuffle=False, progress=False)
        results.append(gdjax.fit(task.loss, task.init(jax.random.PRNGKey(seed)), data, method.make(count), **options))
    drawn = by_descent(task, method._replace(make=lambda steps: results[0].rule), seeds)
    if any(int(result.evaluations) > task.steps for result in results):
        return drawn
    train, test = _losses(task)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *[result.params for result in results]))
    failed = [result.status in (gdjax.Status.DIVERGED, gdjax.Status.NONFINITE) for result in results]
    return drawn._replace(train=train, test=test, failed=np.array(failed))


def run(task: Task, method: Method, seeds: Sequence[int]) -> Runs:
    """All seeds of one method."""
    return {"descent": by_descent, "fit": by_fit}[method.driver](task, method, seeds)


def diverged(losses, initial: float) -> np.ndarray:
    """Which final losses are not finite, or above ten times the initial one."""
    losses = np.asarray(losses, np.float64)
    return ~np.isfinite(losses) | (losses > initial + FAR * abs(initial))


def regret(final, best: float, initial: float) -> float:
    """(final − best)/(initial − best), mean over seeds; inf if a run has no finite loss. 0: as good as the best of the sweeps; 1: no progress."""
    losses = np.asarray(final, np.float64)
    return float((np.mean(losses) - best) / (initial - best)) if np.isfinite(losses).all() else np.inf


def wider(grid: Sequence[float], up: bool) -> list[float]:
    """As many points again on one side, in the same ratio, in increasing order."""
    ratio = grid[1] / grid[0]
    return [grid[-1] * ratio ** (i + 1) for i in range(len(grid))] if up else [grid[0] / ratio ** (len(grid) - i) for i in range(len(grid))]


def sweep(task: Task, method: Sweep, seeds: Sequence[int]) -> dict:
    """Every learning rate of the grid for every seed, in one program; the grid is made wider while its best is at an edge.

    Returns:
        A dict: grid, train and test (means over seeds, None where not finite) per learning rate; learning_rate, best, best_test: those of the rate with the
        least training loss; curve, spent: of that rate, mean over seeds.
    """

    def of_rate(rate, params, rows, train):
        return _one_run(task, lambda: method.make(rate, task.steps), params, rows, train)

    params, rows = starts(task, seeds)
    mapped = jax.vmap(of_rate, in_axes=(None, 0, 0, None))
    compiled = jax.jit(lambda rates, *given: jax.lax.map(lambda rate: mapped(rate, *given), rates))

    def of_grid(rates) -> Runs:
        points, spent = compiled(jnp.asarray(rates, jnp.float32), params, rows, task.train)
        each = [_runs(task, params, (jax.tree.map(lambda x: x[i], points), spent[i])) for i in range(len(rates))]  # noqa: B023
        return Runs(*(np.stack(column) for column in zip(*each, strict=True)))

    grid = [float(rate) for rate in method.grid]
    runs = of_grid(grid)
    for _ in range(EXTENSIONS):
        up = _best_of(runs) == len(grid) - 1
        if not up and not _is_low(runs):
            break
        more = wider(grid[-len(method.grid) :] if up else grid[: len(method.grid)], up)
        found = of_grid(more)
        grid, parts = (grid + more, (runs, found)) if up else (more + grid, (found, runs))
        runs = Runs(*(np.concatenate(pair) for pair in zip(*parts, strict=True)))
    place = _best_of(runs)
    return {
        "grid": grid,
        "train": finite(runs.train.mean(1)),
        "test": finite(runs.test.mean(1)),
        "learning_rate": grid[place],
        "best": float(runs.train[place].mean()),
        "best_test": float(runs.test[place].mean()),
        "diverged": int(diverged(runs.train[place], runs.curve[place, :, 0].mean()).sum()),
        "curve": finite(runs.curve[place].mean(0)),
        "spent": runs.spent[place].mean(0).tolist(),
    }


def _best_of(runs: Runs) -> int:
    means = runs.train.astype(np.float64).mean(1)
    return int(np.argmin(np.where(np.isfinite(means), means, np.inf)))


def _is_low(runs: Runs) -> bool:
    """Whether lower rates may be better: the lowest is the best, or none has made progress."""
    place = _best_of(runs)
    return place == 0 or not runs.train[place].mean() < runs.curve[place, :, 0].mean()


def finite(numbers) -> list[float | None]:
    """A list for JSON: None where a number is not finite."""
    return [float(x) if np.isfinite(x) else None for x in np.asarray(numbers, np.float64)]
