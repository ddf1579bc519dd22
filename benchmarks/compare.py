"""Two results of the same benchmark side by side: what got slower, and what got faster."""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import measure, register

TIMES = ("microseconds_per_step", "microseconds", "first_call_seconds", "ns/example", "compile s", "compile_seconds", "seconds_per_call")  # less is better
NAMES = ("name", "method", "task", "problem", "work")  # what tells the entries of a list apart
NOISE = 1.1  # a ratio of less is not shown, unless asked for


class Figure(NamedTuple):
    """A number of a report of which less is better."""

    value: float
    spread: tuple[float, float] | None  # quartiles, where there are any


def figures(report: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """All times of a report; of a record with ratios to a reference in the same run, these instead, for they hold on another machine too."""
    if isinstance(report, dict):
        ratios = report.get("ratios") or {}
        for name, ratio in ratios.items():
            yield (*path, f"times {name}"), Figure(ratio["median"], (ratio["q1"], ratio["q3"]))
        for key, value in report.items():
            if key in TIMES and isinstance(value, (int, float)) and not (ratios and key == "microseconds_per_step"):
                yield (*path, key), Figure(float(value), None)
            elif isinstance(value, (dict, list)) and key not in ("ratios", "machine"):
                yield from figures(value, (*path, key))
    elif isinstance(report, list):
        for index, entry in enumerate(report):
            if isinstance(entry, (dict, list)):
                label = next((str(entry[name]) for name in NAMES if isinstance(entry, dict) and name in entry), str(index))
                yield from figures(entry, (*path, label))


class Change(NamedTuple):
    """A figure in both reports."""

    path: str
    old: float
    new: float
    certain: bool  # the quartiles do not overlap, or there are none

    @property
    def ratio(self) -> float:
        """New over old: above 1 it got slower."""
        return self.new / self.old


def changes(old: dict, new: dict) -> list[Change]:
    """The figures that both reports have, the one that got slowest first."""
    before, found = dict(figures(old)), []
    for path, now in figures(new):
        then = before.get(path)
        if then is None or not (then.value > 0 and now.value > 0):
            continue
        apart = not (now.spread and then.spread) or now.spread[0] > then.spread[1] or now.spread[1] < then.spread[0]
        found.append(Change(" / ".join(path), then.value, now.value, apart))
    return sorted(found, key=lambda change: -change.ratio)


def table(found: list[Change], threshold: float) -> str:
    """What changed by more than the threshold, either way."""
    shown = [change for change in found if max(change.ratio, 1 / change.ratio) >= threshold and change.certain]
    rows = [[c.path, f"{c.old:.4g}", f"{c.new:.4g}", f"{c.ratio:.2f}", "slower" if c.ratio > 1 else "faster"] for c in shown]
    slower = sum(change.ratio > 1 for change in shown)
    middle = f"; median of all ratios {statistics.median([c.ratio for c in found]):.2f}" if found else ""
    end = f"{len(found)} figures in both: {slower} slower, {len(shown) - slower} faster by a factor of {threshold:g} or more{middle}."
    return f"{measure.table(['', 'old', 'new', 'new/old', ''], rows)}\n\n{end}" if rows else end


def read(path: str) -> dict:
    """A report, or the end of the program with a message."""
    try:
        report = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}; wanted the JSON of a benchmark: python -m benchmarks overhead --json {path}")
    if not isinstance(report, dict):
        sys.exit(f"{path} holds a {type(report).__name__}; wanted the JSON of a benchmark, an object.")
    return report


def _add_arguments(parser) -> None:
    parser.add_argument("old", help="JSON of an earlier run")
    parser.add_argument("new", help="JSON of a later run of the same benchmark")
    parser.add_argument("--threshold", type=float, default=NOISE, help=f"show ratios from here on, either way (default {NOISE})")
    parser.add_argument("--fail", action="store_true", help="exit code 1 if something got slower")


@register("compare", _add_arguments)
def main(arguments) -> int:
    """What got slower between two results of the same benchmark: python -m benchmarks compare OLD.json NEW.json."""
    old, new = read(arguments.old), read(arguments.new)
    if old.get("benchmark") != new.get("benchmark"):
        sys.exit(f"{arguments.old} is of benchmark {old.get('benchmark')!r}, {arguments.new} of {new.get('benchmark')!r}; wanted two of the same.")
    where = [report.get("machine", {}).get("cpu") for report in (old, new)]
    if where[0] != where[1]:
        print(f"Other machines ({where[0]}, {where[1]}): of the figures below only those named 'times ...', ratios within a run, can be compared.\n")
    found = changes(old, new)
    print(table(found, arguments.threshold))
    worse = any(change.ratio >= arguments.threshold and change.certain for change in found)
    return int(arguments.fail and worse)
