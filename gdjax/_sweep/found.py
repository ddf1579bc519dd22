"""What a sweep found: lanes, the best of them, tables."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree
from gdjax.arguments import Call
from gdjax.brief import brief_repr
from gdjax.result import Result, Status
from gdjax.sampling import columns

BEST = 10  # lanes that print(sweep) shows


class Lane(NamedTuple):
    """One lane of a sweep."""

    index: int  # among the lanes
    arguments: dict[str, Any]  # what distinguishes it: argument -> value
    rule: Any  # with the numbers of this lane
    score: float  # mean over the seeds
    result: Any  # what the run returned; of the seed of the least score, where there are several
    results: Any  # of all seeds, with their axis first; the result itself where there are none

    __repr__ = brief_repr


@dataclass(frozen=True)
class Sweep:
    """What ``gdjax.sweep`` found.

    Attributes:
        rules: the rules of the sweep, with an axis of lanes; a list of them where their structures differ.
        results: what the runs returned, with an axis of lanes (and one of seeds after it); likewise a list where the structures of the rules differ. Where
            lanes were dropped, records that they did not reach are NaN (their steps −1).
        scores: float64 of shape (lanes,) or (lanes, seeds); the lower the better, inf for lanes that failed.
        keys: the seeds, or None.
        rungs: what the lanes were given: lanes left after each rung of successive halving, by its steps.
        blocks: how many programs' worth of lanes were run one after another, at most.

    ``len(sweep)`` is the number of lanes; ``print(sweep)`` the ten best.
    """

    rules: Any
    results: Any
    scores: np.ndarray
    keys: tuple[Any, ...] | None
    rungs: dict[int, int]
    blocks: int

    def __len__(self):
        return len(self.scores)

    @functools.cached_property
    def arguments(self) -> dict[str, list[Any]]:
        """Argument -> its values, one per lane, of those that differ between lanes."""
        return _arguments(groups_of(self.rules))

    @property
    def means(self) -> np.ndarray:
        """The score of each lane, shape (lanes,): the mean over its seeds."""
        return self.scores if self.keys is None else self.scores.mean(1)

    def order(self) -> np.ndarray:
        """The lanes from the best to the worst; ties in the order of the rules."""
        return np.argsort(self.means, kind="stable")

    def best(self) -> Lane:
        """The lane of the least score (mean over seeds).

        Raises:
            ValueError: every lane failed.
        """
        lane = self.lane(int(self.order()[0]))
        if not np.isfinite(lane.score):
            raise ValueError(f"best: all {len(self)} lanes failed ({self._failures()}); wanted one with a finite score: try smaller learning rates.")
        return lane

    def lane(self, index: int) -> Lane:
        """The lane of this number."""
        group, place = self._place(index)
        rule, results = (tree.take(of[group], place) if jax.tree.leaves(of[group]) else of[group] for of in (groups_of(self.rules), self._results))
        single = results if self.keys is None else tree.take(results, int(np.argmin(self.scores[index])))
        arguments = {name: column[index] for name, column in self.arguments.items()}
        return Lane(range(len(self))[index], arguments, rule, float(self.means[index]), single, results)

    @property
    def _results(self) -> list[Any]:
        return self.results if isinstance(self.rules, list) else [self.results]

    def _place(self, index: int) -> tuple[int, int]:
        ends = np.cumsum([count_of(group) for group in groups_of(self.rules)])
        index = range(len(self))[index]
        group = int(np.searchsorted(ends, index, side="right"))
        return group, index - int(ends[group - 1] if group else 0)

    def _column(self, name: str) -> np.ndarray | None:
        """A field of the results over all lanes, shape like ``scores``; None where the runs return something else."""
        if not all(isinstance(results, Result) for results in self._results):
            return None
        return np.concatenate([np.asarray(getattr(results, name)) for results in self._results])

    def to_dict(self) -> dict[str, list[Any]]:
        """One row per lane, or per lane and seed, as columns: ``pandas.DataFrame(sweep.to_dict())``."""
        each = 1 if self.keys is None else len(self.keys)
        found = {name: [value for value in column for _ in range(each)] for name, column in self.arguments.items()}
        if self.keys is not None:
            found["seed"] = [_seed(key) for key in self.keys] * len(self)
        found["score"] = self.scores.ravel().tolist()
        for name in ("value", "grad_norm", "steps", "evaluations"):
            if (column := self._column(name)) is not None:
                found[name] = column.ravel().tolist()
        if (codes := self._column("code")) is not None:
            found["status"] = [Status(int(code)).name for code in codes.ravel()]
        return found

    def table(self, rows: int | None = BEST, rich: bool = False) -> Any:
        """The best lanes, best first: their arguments, score, status and steps.

        Args:
            rows: how many; None for all.
            rich: a ``rich.table.Table`` to print with rich, instead of text. Needs rich.

        Raises:
            ImportError: rich was asked for and is missing.
        """
        header, body = self._cells(self.order()[: len(self) if rows is None else rows])
        return _rich(header, body) if rich else text_table(header, body)

    def _cells(self, lanes: Iterable[int]) -> tuple[list[str], list[list[str]]]:
        spread = self.keys is not None and len(self.keys) > 1
        codes, steps = self._column("code"), self._column("steps")
        header = [*self.arguments, "score", *(["± over seeds"] if spread else []), *(["status", "steps"] if codes is not None else [])]
        body = []
        for lane in lanes:
            row = [_show(column[lane]) for column in self.arguments.values()] + [f"{self.means[lane]:.6g}"]
            row += [f"{np.std(self.scores[lane], ddof=1) if np.isfinite(self.means[lane]) else np.nan:.2g}"] if spread else []
            if codes is not None and steps is not None:
                names = sorted({Status(int(code)).name for code in np.ravel(codes[lane])})
                row += [", ".join(names), str(int(np.max(steps[lane])))]
            body.append(row)
        return header, body

    def _failures(self) -> str:
        codes = self._column("code")
        if codes is None:
            return "no finite score"
        counts = dict(zip(*np.unique(codes, return_counts=True), strict=True))
        return ", ".join(f"{count} {Status(int(code)).name}" for code, count in counts.items())

    def _head(self) -> str:
        seeds = "" if self.keys is None else f" × {len(self.keys)} seeds"
        failed = int(np.sum(~np.isfinite(self.means)))
        halved = "".join(f"; {lanes} lanes to step {steps}" for steps, lanes in self.rungs.items()) if len(self.rungs) > 1 else ""
        return f"sweep of {len(self)} lanes{seeds}, {failed} failed{halved}"

    def __str__(self):
        return f"{self._head()}\n{self.table()}" + (f"\n… {len(self) - BEST} more: sweep.table(None)" if len(self) > BEST else "")

    def __repr__(self):
        best = int(self.order()[0])
        least = f"; the least score, {self.means[best]:.6g}, is that of lane {best}" if np.isfinite(self.means[best]) else ""
        return f"<{self._head()}{least}>"


def groups_of(rules: Any) -> list[Any]:
    """The rules by structure."""
    return rules if isinstance(rules, list) else [rules]


def count_of(group: Any) -> int:
    """The lanes of a group."""
    leaves = jax.tree.leaves(group)
    return leaves[0].shape[0] if leaves else 1


def _arguments(groups: list[Any]) -> dict[str, list[Any]]:
    """Argument -> its values over all lanes, of those that differ."""
    made = [group.factory.__name__ if isinstance(group, Call) else "" for group in groups]
    kinds = {"rule": [name for name, group in zip(made, groups, strict=True) for _ in range(count_of(group))]} if len(set(made)) > 1 else {}
    each = [{name: _column(value, count_of(group)) for name, value in columns(group).items()} for group in groups]
    names = list(dict.fromkeys(name for columns in each for name in columns))
    whole = {name: [x for columns, group in zip(each, groups, strict=True) for x in columns.get(name, [None] * count_of(group))] for name in names}
    return kinds | {name: column for name, column in whole.items() if len(column) == 1 or any(x != column[0] for x in column)}


def _column(value: Any, count: int) -> list[Any]:
    if np.ndim(value) == 0:
        return [value] * count
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.ndim == 1:
        return [float(f"{x:.7g}") if array.dtype.itemsize < 8 and array.dtype.kind not in "iub" else x.item() for x in array]
    return [tuple(np.ravel(x).tolist()) for x in array]


def _seed(key: Any) -> Any:
    return key if isinstance(key, (int, np.integer)) else tuple(np.asarray(jax.random.key_data(key)).tolist())


def _show(x: Any) -> str:
    if isinstance(x, float):
        return f"{x:.6g}"
    return ", ".join(_show(y) for y in x[:3]) + (", …" if len(x) > 3 else "") if isinstance(x, tuple) else str(x)


def text_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Columns, aligned to the right."""
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *body])


def _rich(header: Sequence[str], body: Sequence[Sequence[str]]) -> Any:
    try:
        table = importlib.import_module("rich.table").Table()
    except ImportError as error:
        raise ImportError("table(rich=True) needs rich, which is not installed: type pip install rich, or take table() as text.") from error
    for name in header:
        table.add_column(name, justify="right")
    for row in body:
        table.add_row(*row)
    return table
