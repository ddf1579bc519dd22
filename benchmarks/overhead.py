"""Microseconds per step of the two doors, against hand-written loops and peers that compute the same thing."""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import footprint, handwritten, measure, peers, problems, register
from benchmarks.measure import Contender

RESULTS = pathlib.Path(__file__).parent / "results" / "overhead.json"


class Row(NamedTuple):
    """One comparison: a problem, how many steps, who takes part and whom the ratios refer to."""

    name: str
    problem: Callable[[], problems.Problem]
    steps: int
    quick_steps: int  # 0: left out of --quick, unless named
    python_cap: int  # Python loops make at most this many steps
    batch_size: int | None = None  # None: the full batch, `minimize`
    needs: str | None = None  # a package without which there is no data

    @property
    def references(self) -> tuple[str, ...]:
        return ("scan", "scan, same history", "scan, in order") if self.batch_size else ("scan", "while", "while, same history")


ROWS = (
    Row("rosenbrock", problems.rosenbrock, 20_000, 20_000, 1_000),
    Row("rosenbrock-long", problems.rosenbrock, 200_000, 0, 1_000),
    Row("logistic", problems.logistic, 5_000, 0, 500, needs="sklearn"),
    Row("logistic-momentum", functools.partial(problems.logistic, 0.9), 5_000, 2_000, 500, needs="sklearn"),
    Row("binary-1", problems.binary, 60_000, 0, 1_000, 1),
    Row("softmax-1", problems.softmax, 20_000, 5_000, 1_000, 1),
    Row("softmax-32", problems.softmax, 1_875, 600, 500, 32),
    Row("softmax-256", problems.softmax, 234, 0, 100, 256),
    Row("mlp-1", problems.mlp, 3_000, 1_000, 500, 1),
    Row("mlp-32", problems.mlp, 500, 0, 150, 32),
    Row("mlp-256", problems.mlp, 100, 20, 20, 256),
    Row("convolutional-32", problems.convolutional, 100, 0, 100, 32),
)


def minimize_contenders(problem: problems.Problem, cap: int = 10**9) -> list[Contender]:
    """Everyone who can take the full batch down."""
    bind = functools.partial
    return [
        Contender("scan", bind(handwritten.minimize_scan, problem)),
        Contender("while", bind(handwritten.minimize_while, problem)),
        Contender("while, same history", bind(handwritten.minimize_while, problem, history=True)),
        Contender("gdjax", bind(peers.gdjax_minimize, problem)),
        Contender("gdjax, no history", bind(peers.gdjax_minimize, problem, history=())),
        Contender("optax, Python loop", bind(peers.optax_minimize, problem), cap),
        Contender("jaxopt", bind(peers.jaxopt_minimize, problem), needs="jaxopt"),
        Contender("optimistix", bind(peers.optimistix_minimize, problem), needs="optimistix"),
        Contender("PyTorch", bind(peers.torch_minimize, problem), cap, needs="torch"),
    ]


def fit_contenders(problem: problems.Problem, batch_size: int, cap: int = 10**9) -> list[Contender]:
    """Everyone who can go through mini-batches (optimistix has none)."""
    bind = functools.partial
    return [
        Contender("scan", bind(handwritten.fit_scan, problem, batch_size=batch_size)),
        Contender("scan, same history", bind(handwritten.fit_scan, problem, batch_size=batch_size, history=True)),
        Contender("scan, in order", bind(handwritten.fit_in_order, problem, batch_size=batch_size)),
        Contender("gdjax", bind(peers.gdjax_fit, problem, batch_size=batch_size)),
        Contender("gdjax, no history", bind(peers.gdjax_fit, problem, batch_size=batch_size, history=())),
        Contender("optax, Python loop", bind(peers.optax_fit, problem, batch_size=batch_size), cap),
        Contender("jaxopt", bind(peers.jaxopt_fit, problem, batch_size=batch_size), cap, needs="jaxopt"),
        Contender("PyTorch", bind(peers.torch_fit, problem, batch_size=batch_size), cap, needs="torch"),
        *([Contender("scikit-learn", bind(peers.sklearn_fit, problem, batch_size=1), needs="sklearn")] if problem.name == "binary" else []),
    ]


def run_row(row: Row, rounds: int, quick: bool = False) -> dict:
    """Checks that the contenders of a row agree, then times them; returns what goes into the JSON."""
    problem = row.problem()
    everyone = fit_contenders(problem, row.batch_size, row.python_cap) if row.batch_size else minimize_contenders(problem, row.python_cap)
    contenders, skipped = measure.split_missing(everyone)
    steps = (quick and row.quick_steps) or row.steps
    checked = min(steps, 100)
    difference = measure.check_agreement(contenders, checked)
    records = measure.race(contenders, steps, rounds)
    measure.add_ratios(records, [name for name in row.references if any(record["name"] == name for record in records)])
    agreement = {"steps": checked, "largest_difference": difference}
    return {
        "name": row.name,
        "problem": problem.name,
        "batch_size": row.batch_size,
        "steps": steps,
        "rounds": rounds,
        "agreement": agreement,
        "contenders": records,
        "skipped": skipped,
    }


def format_row(result: dict, markdown: bool = False) -> str:
    """One row's table: microseconds per step, first call, ratios with quartiles."""
    references = list(result["contenders"][0]["ratios"])
    header = ["contender", "steps", "us/step", "first call s", *[f"x {name}" for name in references]]
    lines = []
    for record in result["contenders"]:
        ratios = [f"{r['median']:.2f} ({r['q1']:.2f}-{r['q3']:.2f})" for r in record["ratios"].values()]
        times = [f"{record['microseconds_per_step']:.3f}", f"{record['first_call_seconds']:.2f}"]
        lines.append([record["name"], f"{record['steps']:,}", *times, *ratios])
    kind = f"fit, batch {result['batch_size']}" if result["batch_size"] else "minimize"
    title = f"{result['name']} ({kind}; {result['rounds']} rounds; same params to {result['agreement']['largest_difference']:.1e})"
    body = measure.table(header, lines, markdown)
    return "\n".join([f"### {title}\n" if markdown else title, body, *[f"{'- ' if markdown else ''}{line}" for line in result["skipped"]]]) + "\n"


def _add_arguments(parser) -> None:
    parser.add_argument("--quick", action="store_true", help="fewer steps and rounds: under 90 s")
    parser.add_argument("--rows", default="", help=f"comma-separated, of: {','.join([row.name for row in ROWS])},compilations,memory")
    parser.add_argument("--rounds", type=int, help="rounds (default 7, with --quick 3)")
    measure.add_json_argument(parser, RESULTS)


def selected(names: str, quick: bool = False) -> list[str]:
    """The rows asked for, by default all of them or those that are quick; exits with a message for a name that does not exist."""
    known = [*[row.name for row in ROWS], "compilations", "memory"]
    slow = [row.name for row in ROWS if quick and not row.quick_steps]
    wanted = [name.strip() for name in names.split(",") if name.strip()] or [name for name in known if name not in slow]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"--rows: no row {', '.join(unknown)}; there are {', '.join(known)}")
    return wanted


def measure_all(wanted: list[str], rounds: int, quick: bool, show: Callable[[str], None] = print) -> dict:
    """Runs the rows asked for, shows each as it is ready, and returns the report."""
    report = {"benchmark": "overhead", "quick": quick, "machine": measure.machine(), "rows": [], "skipped": []}
    for row in ROWS:
        if row.name not in wanted:
            continue
        if row.needs and importlib.util.find_spec(row.needs) is None:
            report["skipped"].append(f"{row.name}: skipped, {row.needs} is not installed: pip install 'gdjax[{measure.EXTRA}]'")
            show(report["skipped"][-1])
            continue
        report["rows"].append(run_row(row, rounds, quick))
        show(format_row(report["rows"][-1]))
    for name in ("compilations", "memory"):
        if name in wanted:
            report[name] = getattr(footprint, name)()
            show(getattr(footprint, f"format_{name}")(report[name]))
    return report


def markdown(report: dict) -> str:
    """The report as a Markdown page."""
    what = (
        "Every ratio is the median over rounds of (time per step) / (time per step of the reference in the same round), with the quartiles. "
        "The contenders take turns in every round, each time after another one; the first call of each, which compiles, is reported apart. "
        "All of them were checked to arrive at the same params."
    )
    parts = [format_row(row, markdown=True) for row in report["rows"]] + report["skipped"]
    parts += [getattr(footprint, f"format_{name}")(report[name], markdown=True) for name in ("compilations", "memory") if name in report]
    return "\n\n".join([measure.heading("Overhead", report, what, cores=True), *parts])


@register("overhead", _add_arguments)
def main(arguments) -> int:
    """Microseconds per step of minimize and fit against hand-written loops, optax, jaxopt, optimistix and PyTorch; compilations; memory."""
    start = time.perf_counter()
    wanted = selected(arguments.rows, arguments.quick)
    report = measure_all(wanted, arguments.rounds or (3 if arguments.quick else 7), arguments.quick)
    report["seconds"] = time.perf_counter() - start
    if arguments.json:
        measure.save(report, markdown(report), arguments.json)
    print(f"{report['seconds']:.0f} s")
    return 0
