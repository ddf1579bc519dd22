"""All that can be run in minutes, and one table at the end: what gdjax takes, what the best peer takes, what the limit would be."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import benchmarks
from benchmarks import gradients, measure, memory, register, startup, updates

RESULTS = pathlib.Path(__file__).parent / "results" / "all.json"
PEER, LIMIT = "the best peer", "the limit"
SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


class Side(NamedTuple):
    """What one way to do the work takes in every round, in seconds or bytes."""

    name: str
    amounts: Sequence[float]

    @property
    def median(self) -> float:
        """Over the rounds."""
        return float(np.median(self.amounts))


def side_by_side(work: str, unit: str, mine: Side, peers: Sequence[Side], limit: Side | None) -> dict:
    """A row: our amount, that of the peer with the least, the limit, and medians and quartiles of the ratios of the rounds."""
    row: dict[str, Any] = {"work": work, "unit": unit, "gdjax": {"name": mine.name, "amount": mine.median}, "ratios": {}}
    best = min(peers, key=lambda side: side.median, default=None)
    for key, side in ((PEER, best), (LIMIT, limit)):
        if side is not None:
            quartiles = np.quantile(np.asarray(mine.amounts) / np.asarray(side.amounts), [0.25, 0.5, 0.75])
            row[key] = {"name": side.name, "amount": side.median}
            row["ratios"][key] = dict(zip(("q1", "median", "q3"), map(float, quartiles), strict=True))
    return row


def parted(sides: Sequence[Side], limit: str, apart: Sequence[str] = ()) -> tuple[Side, list[Side], Side | None]:
    """(the first of ours, the peers, the limit); those apart count as none of these."""
    ours = [side for side in sides if "gdjax" in side.name]
    others = [side for side in sides if side not in ours and side.name not in apart]
    return ours[0], [side for side in others if side.name != limit], next((side for side in others if side.name == limit), None)


def timed(records: Sequence[dict]) -> list[Side]:
    """Seconds per step of each round."""
    return [Side(record["name"], [seconds / record.get("steps", 1) for seconds in record["seconds"]]) for record in records]


def of_overhead(report: dict) -> Iterator[dict]:
    """Per step; the limit is the hand-written loop that keeps the same history."""
    for row in report["rows"]:
        kind = "scan" if row["batch_size"] else "while"
        name = f"{row['name']}, {'fit' if row['batch_size'] else 'minimize'}, a step"
        yield side_by_side(name, "s", *parted(timed(row["contenders"]), f"{kind}, same history", ("scan", "while")))


def of_work(limit: str, per: str, report: dict) -> Iterator[dict]:
    """Of reports whose pieces of work have contenders with seconds."""
    for result in report["work"]:
        yield side_by_side(f"{result['work']}, {per}", "s", *parted(timed(result["contenders"]), limit))


def of_finite_sums(report: dict) -> Iterator[dict]:
    """Per example evaluated; there is no limit."""
    for found in report["problems"]:
        sides = {name: Side(name, [1e-9 * row["ns/example"]]) for name, row in found["rows"].items()}
        peers = [side for name, side in sides.items() if name.startswith("scikit-learn")]
        yield side_by_side(f"saga, {found['problem']}, an example", "s", sides["saga()"], peers, None)


def of_memory(report: dict) -> Iterator[dict]:
    """Peaks in bytes."""
    for result in report["work"]:
        sides = [Side(record["name"], record["peaks"]) for record in result["contenders"]]
        mine, peers, _ = parted(sides, memory.LIMIT)
        least = Side(memory.LIMIT, [result["least_bytes"]] * len(mine.amounts))
        name = f"{result['work']}, {result['size']:,} {result['unit']}, peak"
        yield side_by_side(name, "B", mine, peers, least)


def of_accelerator(report: dict) -> Iterator[dict]:
    """Per item, such as an update; the copy counts with as many bytes as the item moves."""
    from benchmarks import accelerator

    for part in report["parts"]:
        item = part["contenders"][-1]["work"] / part["contenders"][-1]["count"]
        sides = [Side(r["name"], [item * seconds / r["work"] for seconds in r["seconds"]]) for r in part["contenders"]]
        limit = next((name for name in (accelerator.IN_PLACE, gradients.READ) if name in part["references"]), "")
        sides = sorted(sides, key=lambda side: side.median)  # the fastest of ours
        yield side_by_side(f"{part['title'].split(' (')[0]}, {part['item']}", "s", *parted(sides, limit, (accelerator.COPY,)))


class Part(NamedTuple):
    """A benchmark, how its report becomes rows, and its options."""

    name: str
    rows: Callable[[dict], Iterator[dict]]
    quick: tuple[str, ...] = ("--quick",)
    full: tuple[str, ...] = ()


def _bind(limit: str, per: str) -> Callable[[dict], Iterator[dict]]:
    return lambda report: of_work(limit, per, report)


PARTS = (
    Part("overhead", of_overhead, ("--quick", "--rows", "logistic-momentum,softmax-32,mlp-256")),
    Part("gradients", _bind(gradients.READ, "value and gradient"), ("--quick", "--rounds", "7")),
    Part("updates", _bind(updates.LIMIT, "an update")),
    Part("startup", _bind(startup.HAND, "first result")),
    Part("finite_sums", of_finite_sums, ("--quick", "--repeats", "3")),
    Part("memory", of_memory),
    Part("accelerator", of_accelerator),
)


def report_of(part: Part, quick: bool, folder: str) -> dict | str:
    """The report of a benchmark run in a process of its own, or a line that says why there is none."""
    if part.name not in benchmarks.BENCHMARKS:
        return f"{part.name}: skipped, there is no such benchmark"
    path = pathlib.Path(folder) / f"{part.name}.json"
    command = [sys.executable, "-m", "benchmarks", part.name, *(part.quick if quick else part.full), "--json", str(path)]
    done = subprocess.run(command, cwd=pathlib.Path(__file__).parent.parent, capture_output=True, text=True)
    print(done.stdout.rstrip(), flush=True)
    if done.returncode:
        return f"{part.name}: failed, {(done.stderr.strip() or 'without a word').splitlines()[-1]}"
    return json.loads(path.read_text()) if path.exists() else f"{part.name}: skipped, it left no report"


def run_all(parts: Sequence[Part], quick: bool) -> dict:
    """Every benchmark, one after another, and their rows."""
    report: dict[str, Any] = {"benchmark": "all", "quick": quick, "machine": None, "rows": [], "skipped": [], "seconds": {}}
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            print(f"== {part.name}\n", flush=True)
            report["seconds"][part.name], found = measure.seconds_of(lambda: report_of(part, quick, folder))  # noqa: B023
            print(f"== {part.name}: {report['seconds'][part.name]:.0f} s\n", flush=True)
            if isinstance(found, str):
                report["skipped"].append(found)
                continue
            report["machine"] = report["machine"] or found["machine"]
            report["rows"] += [{**row, "work": f"{part.name}: {row['work']}"} for row in part.rows(found)]
    report["machine"] = report["machine"] or measure.machine()  # ours last: a process that has asked may hold the device
    return report


def shown(amount: float, unit: str) -> str:
    """In a unit that leaves few digits."""
    scale, name = (1e6, "MB") if unit == "B" else next((pair for pair in SCALES if amount >= pair[0]), SCALES[-1])
    value = amount / scale
    return f"{value:,.0f} {name}" if value >= 100 else f"{value:.1f} {name}" if value >= 10 else f"{value:.2f} {name}"


def table(report: dict, markdown: bool = False) -> str:
    """One line per piece of work."""
    rows = []
    for row in report["rows"]:
        cells = [row["work"], shown(row["gdjax"]["amount"], row["unit"])]
        for key in (PEER, LIMIT):
            there = row.get(key)
            cells += [f"{there['name']}: {shown(there['amount'], row['unit'])}", f"{row['ratios'][key]['median']:.2f}"] if there else ["-", "-"]
        rows.append(cells)
    skipped = [f"{'- ' if markdown else ''}{line}" for line in report["skipped"]]
    return "\n".join([measure.table(["work", "gdjax", "best peer", "ratio", "limit", "ratio"], rows, markdown), *([""] if skipped else []), *skipped])


WHAT = (
    "What gdjax takes, the peer that takes least, and the limit: a hand-written loop, a pass over as many bytes, or the bytes of data, params and state. "
    "Ratios are medians over rounds of gdjax over the other in the same round; below 1 gdjax takes less."
)


def as_markdown(report: dict) -> str:
    """The report as a Markdown page."""
    what = f"{WHAT} {'Quick versions' if report['quick'] else 'All'}, {sum(report['seconds'].values()):.0f} s in all."
    return "\n\n".join([measure.heading("All", report, what, cores=True), table(report, markdown=True)])


def selected(names: str) -> list[Part]:
    """The parts asked for, by default all; exits with a message for a name that does not exist."""
    wanted, known = [name.strip() for name in names.split(",") if name.strip()], [part.name for part in PARTS]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"--only: no benchmark {', '.join(unknown)} here; there are {', '.join(known)}")
    return [part for part in PARTS if part.name in wanted or not wanted]


def _add_arguments(parser) -> None:
    parser.add_argument("--quick", action="store_true", help="the quick version of each: under five minutes on two cores")
    parser.add_argument("--only", default="", help=f"comma-separated, of: {','.join(part.name for part in PARTS)}")
    measure.add_json_argument(parser, RESULTS)


@register("all", _add_arguments)
def main(arguments) -> int:
    """Overhead, gradients, updates, start-up, finite sums, memory and the accelerator in turn, and one table: gdjax, the best peer, the limit."""
    start, parts = time.perf_counter(), selected(arguments.only)
    report = run_all(parts, arguments.quick)
    if arguments.json:
        measure.save(report, as_markdown(report), arguments.json)
    print(f"{time.perf_counter() - start:.0f} s\n\n{table(report)}")
    return int(any(": failed, " in line for line in report["skipped"]))
