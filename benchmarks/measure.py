"""Timing, agreement of results, facts about the machine, tables and JSON: all that the benchmarks share."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

EXTRA = "bench"  # pip install 'gdjax[bench]' brings the peers
PAUSE = 0.01  # seconds before each timed call, for threads of the one before to go to sleep
PACKAGES = ("gdjax", "jax", "jaxlib", "numpy", "optax", "jaxopt", "optimistix", "torch", "scikit-learn", "scipy", "sif2jax")


class Contender(NamedTuple):
    """One way to do the work of a row.

    ``prepare(steps, shuffle)`` returns ``run() -> (params, steps done)``, results on the host or ready; ``cap`` bounds the steps of slow loops, whose
    time is then reported per step like that of the others.
    """

    name: str
    prepare: Callable[[int, bool], Callable[[], tuple[Any, int]]]
    cap: int = 10**9
    needs: str | None = None  # a package that may be missing


class Disagreement(AssertionError):
    """Two contenders of a row computed different things."""


def split_missing(contenders: Sequence[Contender]) -> tuple[list[Contender], list[str]]:
    """The contenders that can run here, and a line for each that cannot."""
    missing = [c for c in contenders if c.needs and importlib.util.find_spec(c.needs) is None]
    lines = [f"{c.name}: skipped, {c.needs} is not installed: pip install 'gdjax[{EXTRA}]'" for c in missing]
    return [c for c in contenders if c not in missing], lines


def check_agreement(contenders: Sequence[Contender], steps: int, rtol: float = 2e-3, atol: float = 2e-5) -> float:
    """Runs every contender for the same steps without shuffling; returns the largest difference of params from the first one's.

    Raises:
        Disagreement: params differ by more than rounding, or a contender stopped early.
    """
    found = {}
    for contender in contenders:
        found[contender.name], done = contender.prepare(steps, False)()
        if done != steps:
            raise Disagreement(f"{contender.name} made {done} steps, wanted {steps}")
    return largest_difference(found, steps, rtol, atol)


def largest_difference(found: dict[str, Any], steps: int, rtol: float = 2e-3, atol: float = 2e-5) -> float:
    """Of params from the first ones, all made in as many steps; raises ``Disagreement`` where it is more than rounding."""
    (first, mine), *others = found.items()
    worst = 0.0
    for name, theirs in others:
        for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
            one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
            if not np.allclose(one, other, rtol=rtol, atol=atol):
                raise Disagreement(f"{name} and {first} differ by {np.abs(one - other).max():.3g} after {steps} steps")
            worst = max(worst, float(np.abs(one - other).max(initial=0.0)))
    return worst


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    """The wall-clock seconds of one call, and what it returned."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def order_of_round(count: int, turn: int) -> list[int]:
    """The order of contenders in a round: rows of a Williams square, in which nobody keeps the same predecessor.

    A fixed order A B C A B C would time B right after A for ever, and a loop that follows busy threads (PyTorch's) was seen to take twice as long.
    """
    zigzag = [place // 2 if place % 2 == 0 else count - (place + 1) // 2 for place in range(count)]
    return [(place + turn) % count for place in zigzag]


def race(contenders: Sequence[Contender], steps: int, rounds: int, seen: dict[str, Any] | None = None) -> list[dict]:
    """Times the contenders in turns, round by round, after one call each that is reported apart.

    A contender with a ``cap`` below ``steps`` is a Python loop, which costs the same at every step; a compiled loop is never shortened, for its cost
    per call is part of what is measured. ``seen`` receives copies of the params after each one's first call, to be checked.

    Returns:
        A dict per contender: name, steps, first_call_seconds, seconds (one per round), microseconds_per_step (median).
    """
    runs, records = [], []
    for contender in contenders:
        taken = min(steps, contender.cap)
        run = contender.prepare(taken, True)
        first, (params, done) = seconds_of(run)
        if done != taken:
            raise Disagreement(f"{contender.name} made {done} steps, wanted {taken}")
        if seen is not None:
            seen[contender.name] = jax.tree.map(np.array, params)
        runs.append(run)
        records.append({"name": contender.name, "steps": taken, "first_call_seconds": first, "seconds": []})
    for turn in range(rounds):
        for index in order_of_round(len(runs), turn):
            time.sleep(PAUSE)
            records[index]["seconds"].append(seconds_of(runs[index])[0])
    for record in records:
        record["microseconds_per_step"] = 1e6 * float(np.median(record["seconds"])) / record["steps"]
    return records


def add_ratios(records: Sequence[dict], references: Sequence[str]) -> None:
    """Adds to each record its time per step over that of each reference: median and quartiles of the ratios of the rounds."""
    per_step = {record["name"]: np.asarray(record["seconds"]) / record["steps"] for record in records}
    for record in records:
        ratios = {name: per_step[record["name"]] / per_step[name] for name in references}
        quartiles = {name: [float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])] for name, values in ratios.items()}
        record["ratios"] = {name: {"q1": q1, "median": median, "q3": q3} for name, (q1, median, q3) in quartiles.items()}


def machine() -> dict[str, Any]:
    """Where and with what the figures were taken."""
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "affinity": affinity,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "jax_device": str(jax.devices()[0].device_kind),
        "git_commit": _git_commit(),
    }


def threads() -> int:
    """The cores this process may use: what every contender is given."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" (with changes)" if git("status", "--porcelain", "--", ":/gdjax") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def heading(title: str, report: dict, note: str = "", cores: bool = False) -> str:
    """The top of a Markdown page: its title, when, where and with what the figures were taken, and a paragraph of what they are; the cores on request."""
    facts = report["machine"]
    used = f", {facts['cpu_count']} cores, {len(facts['affinity'] or []) or 'all'} of them used" if cores else ""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    where = f"{facts['date']}; {facts['cpu']}{used}; {facts['platform']}; Python {facts['python']}; {versions}; commit {facts['git_commit']}."
    return "\n\n".join(part for part in (f"# {title}", where, note) if part)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool = False) -> str:
    """Aligned columns: the first to the left, the others to the right; in Markdown on request."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    padded = [[cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))] for row in cells]
    if not markdown:
        return "\n".join("  ".join(row).rstrip() for row in padded)
    rule = ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in [padded[0], rule, *padded[1:]])


def save(report: dict, markdown: str, path: str | pathlib.Path) -> None:
    """Writes the report as JSON, and its tables as Markdown beside it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown.rstrip() + "\n")


def add_json_argument(parser, default: pathlib.Path, beside: str = "Markdown") -> None:
    """The option of every benchmark that writes a report."""
    where = f"write JSON, and {beside} beside it (default benchmarks/{default.parent.name}/{default.name})"
    parser.add_argument("--json", nargs="?", const=default, metavar="PATH", help=where)
