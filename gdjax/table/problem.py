"""``read``: a linear model of one column of a table by the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.objective import finite_sum
from gdjax.table import columns, files

ROWS = 10  # at least


class Examples(NamedTuple):
    """Rows of a table."""

    features: Any  # float32, (rows, features)
    target: Any  # linear: float32, standardised; logistic: float32, 0 or 1; softmax: int32, the class. (rows,)


def _scores(params, example: Examples):
    return example.features @ params["weights"] + params["bias"]


def _squared_error(params, example: Examples):
    return (_scores(params, example) - example.target) ** 2


def _log_loss(params, example: Examples):
    return jax.nn.softplus((1.0 - 2.0 * example.target) * _scores(params, example))


def _cross_entropy(params, example: Examples):
    scores = _scores(params, example)
    return jax.nn.logsumexp(scores) - scores[example.target]


LOSSES = {"linear": finite_sum(_squared_error), "logistic": finite_sum(_log_loss), "softmax": finite_sum(_cross_entropy)}


@dataclass(frozen=True)
class Problem:
    """What ``read`` made of a table: ``gdjax.fit(problem.loss_fn, problem.params, problem.data, ...)`` fits it.

    Attributes:
        loss_fn: the loss of ``model``, a ``finite_sum``.
        params: where to start: {"weights", "bias"}, all 0.
        data: ``Examples``.
        model: "linear", "logistic" (two classes) or "softmax" (more).
        names: of the features.
        classes: in the order of their numbers; empty for "linear".
        scale: the standard deviation of the target; 1 where there are classes.
        notes: sentences on what was read, filled in and dropped.
    """

    loss_fn: Any
    params: dict[str, jax.Array]
    data: Examples
    model: str
    names: tuple[str, ...]
    classes: tuple[str, ...]
    scale: float
    notes: tuple[str, ...]


def read(path: str | Path, target: str, model: str | None = None) -> Problem:
    r"""A linear model of one column of a CSV or Parquet file by all others.

    Numbers are standardised; texts become one column of 0 and 1 per level, two levels a single one. Missing numbers become the mean, with a column of 0 and 1
    that says where; missing texts are a level; rows without a target are left out. Columns that are constant, empty, ids, dates, or texts of more than 20
    levels are dropped. ``notes`` says so.

    Args:
        path: .csv, .tsv or .txt (the first line names the columns; separated by comma, semicolon, tab or bar), .parquet or .pq.
        target: the column to be told from the others.
        model: "linear" or "logistic". None: logistic for texts, booleans, two values, and classes numbered from 0 or 1; linear for other numbers.

    Returns:
        A ``Problem``.

    Raises:
        ImportError: pandas, or pyarrow for Parquet, is missing.
        ValueError: a table that cannot be read or learned from, with what to change.

    Example:
        >>> import pathlib, tempfile, gdjax.table
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "line.csv"
        >>> _ = file.write_text("x,kind,y\n" + "".join(f"{i},{'ab'[i % 2]},{3 * i + 1}\n" for i in range(40)))
        >>> problem = gdjax.table.read(file, target="y")
        >>> problem.model, problem.names, problem.data.features.shape
        ('linear', ('x', 'kind=b'), (40, 2))
    """
    frame = files.frame(Path(path))
    if target not in frame.columns:
        raise ValueError(files.no_column(target, list(frame.columns)))
    known = frame[target].notna()
    notes = [f"{Path(path).name}: {len(frame)} rows, {len(frame.columns)} columns"]
    if unknown := int((~known).sum()):
        notes.append(f"rows without {target!r}, left out: {unknown}")
    frame = frame[known]
    if len(frame) < ROWS:
        raise ValueError(f"rows with {target!r}: {len(frame)}; wanted {ROWS} at least.")
    goal = columns.goal(target, frame[target], model)
    features, names, said = columns.features(frame.drop(columns=target))
    if len(names) >= len(frame):
        said.append("as many features as rows, or more: a loss near 0 over these rows says nothing about others")
    examples = Examples(features, goal.target)
    outputs = (len(goal.classes),) if goal.model == "softmax" else ()
    params = {"weights": jnp.zeros((len(names), *outputs)), "bias": jnp.zeros(outputs)}
    return Problem(LOSSES[goal.model], params, examples, goal.model, names, goal.classes, goal.scale, (*notes, *said, goal.note))
