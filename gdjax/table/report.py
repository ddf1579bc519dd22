"""``report``: a learning rate for a table, in words."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from gdjax._fit import evaluate, fit
from gdjax.data import steps_per_epoch
from gdjax.diagnose import suggest
from gdjax.result import Status
from gdjax.rules import sgd
from gdjax.schedules import cosine
from gdjax.table.problem import Problem, read

BATCH_SIZE, STEPS = 32, 1000  # about so many steps, in whole epochs
DIVERGED = (Status.DIVERGED, Status.NONFINITE)
MEANING = {
    "linear": "the mean squared error of the standardised target: 1 for its mean in every row, 0 at best",
    "logistic": "minus the mean log likelihood: log 2 for even odds in every row, 0 at best",
    "softmax": "minus the mean log likelihood: the log of the number of classes for even odds in every row, 0 at best",
}


def report(path: str | Path, target: str, model: str | None = None, batch_size: int | None = None, epochs: int | None = None, seed: int = 0) -> None:
    """Prints what was read, a learning rate for it, how far that gets beside other ways, and what to type."""
    problem = read(path, target, model)
    rows = len(problem.data.target)
    size = min(BATCH_SIZE, rows) if batch_size is None else batch_size
    if size > rows:
        raise ValueError(f"--batch-size is {size}, but there are {rows} rows to learn from.")
    per_epoch = steps_per_epoch(rows, size)
    epochs = max(1, round(STEPS / per_epoch)) if epochs is None else epochs
    steps = epochs * per_epoch
    print("\n".join([problem.notes[0], *(f"  {note}" for note in problem.notes[1:])]))
    print(f"  loss: {MEANING[problem.model]}")
    print(f"\nSGD with momentum 0.9 and a cosine; batch size {size}, epochs {epochs}, steps {steps}", flush=True)
    found = suggest(problem.loss_fn, problem.params, problem.data, steps=steps, batch_size=size, key=seed)
    print(found)
    rate = float(f"{found.learning_rate:.3g}")
    fitting = functools.partial(fit, problem.loss_fn, problem.params, problem.data, batch_size=size, epochs=epochs, key=seed)
    runs = {f"learning rate {rate:g}": fitting(sgd(cosine(rate, steps), momentum=0.9)), "no learning rate, rule=None": fitting()}
    print(f"\nOver the {rows} rows learned from, none held out:")
    print("\n".join(_compared(problem, {name: result.params for name, result in runs.items()})))
    for name, result in runs.items():
        if result.status in DIVERGED:
            print(f"  {name}: {result.message}")
    print("\nTo run it:\n" + "\n".join(f"  {line}" for line in _code(path, target, model, rate, steps, size, epochs, seed)))


def _compared(problem: Problem, params: dict[str, Any]) -> list[str]:
    """A table: the loss, and what it means, of each."""
    linear = problem.model == "linear"
    lines = [f"  {'':<28}{'loss':>11}" + (f"{'R²':>9}{'off by (RMSE)':>16}" if linear else f"{'accuracy':>11}")]
    ways = {"at the start": problem.params, **params}
    if linear:
        ways["closed form, least squares"] = _least_squares(problem)
    for name, found in ways.items():
        loss = float(evaluate(problem.loss_fn, found, problem.data))
        more = f"{round(1 - loss, 4) + 0.0:>9.4f}{loss**0.5 * problem.scale:>16.5g}" if linear else f"{_accuracy(problem, found):>11.4f}"
        lines.append(f"  {name:<28}{loss:>11.6g}" + ("" if not linear and found is problem.params else more))
    if not linear:
        share = np.bincount(np.int32(problem.data.target)).max() / problem.data.target.size
        lines.append(f"  {'the largest class alone':<28}{'':>11}{share:>11.4f}")
    return lines


def _least_squares(problem: Problem) -> dict[str, Any]:
    """In float64, by NumPy."""
    features, target = problem.data.features.astype("float64"), problem.data.target.astype("float64")
    found = np.linalg.lstsq(np.column_stack([features, np.ones(len(target))]), target, rcond=None)[0]
    return {"weights": jnp.asarray(found[:-1], jnp.float32), "bias": jnp.asarray(found[-1], jnp.float32)}


def _accuracy(problem: Problem, params) -> float:
    scores = problem.data.features @ np.asarray(params["weights"])
    told = scores + np.asarray(params["bias"]) > 0 if problem.model == "logistic" else np.argmax(scores + np.asarray(params["bias"])[None], 1)
    return float(np.mean(told == problem.data.target))


def _code(path, target, model, rate: float, steps: int, size: int, epochs: int, seed: int) -> list[str]:
    rule = f"gdjax.sgd(gdjax.schedules.cosine({rate:g}, {steps}), momentum=0.9)"
    return [
        "import gdjax.table",
        f"problem = gdjax.table.read({str(path)!r}, {target!r}{'' if model is None else f', model={model!r}'})",
        f"result = gdjax.fit(problem.loss_fn, problem.params, problem.data, {rule}, batch_size={size}, epochs={epochs}, key={seed})",
    ]
