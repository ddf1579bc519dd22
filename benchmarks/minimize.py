"""Shares of CUTEst problems that our rules and the peers solve within given work: data profiles."""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks import contenders, counting, cutest, measure, profiles, register
from benchmarks.contenders import Solver
from benchmarks.cutest import Problem

RESULTS = pathlib.Path(__file__).parent / "results" / "minimize.json"
ACCURACY = {"float64": 1e-6, "float32": 1e-3}  # f - f* <= accuracy (f0 - f*)
NOISE = {"float64": 1e-9, "float32": 1e-6}  # relative, of a perturbed start
SECONDS = 30.0  # of a run at most, from its first evaluation
QUICK = ("default", "scipy L-BFGS-B", "optax.lbfgs")
DEFAULT = "default"


def solvers() -> list[Solver]:
    """All who can take part."""
    return contenders.ours() + contenders.peers()


def perturbed(start, seed: int | None, dtype: str):
    """The start, or the start with noise: the share solved moves with it, so that figures of several seeds can be averaged."""
    start = np.asarray(start, dtype)
    if seed is None:
        return start
    return (start * (1 + NOISE[dtype] * np.random.default_rng(seed).standard_normal(start.shape))).astype(dtype)


class Prepared:
    """A problem in one precision, its evaluations counted, and a judge of points in float64."""

    def __init__(self, problem: Problem, dtype: str, seed: int | None = None):
        self.problem, self.dtype, self.accuracy, self.x64 = problem, dtype, ACCURACY[dtype], dtype == "float64"
        with jax.enable_x64(self.x64):
            fun, start = problem.build()
            self.counted = counting.Counted(fun, dtype, keep_points=not self.x64)
        self.start, self._precise = perturbed(start, seed, dtype), None

    def _judge(self, point) -> float:
        with jax.enable_x64(True):
            self._precise = self._precise or jax.jit(self.problem.build()[0])
            return float(self._precise(np.asarray(point, np.float64).reshape(self.start.shape)))

    def run(self, solver: Solver) -> dict:
        """One solver on the problem: what goes into the JSON."""
        began, target = time.perf_counter(), self.problem.target(self.accuracy)
        with jax.enable_x64(self.x64), warnings.catch_warnings():
            # sif2jax asks for float64 by name, and in float32 is told that there is none.
            warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
            record, end = solver.solve(self.counted, self.start, lambda budget=counting.BUDGET: self.counted.begin(target, budget, SECONDS))
            needed = record.work_to(target, None if self.x64 else self._judge)
        return {
            "solver": solver.name,
            "work_to_solution": needed if np.isfinite(needed) else None,
            "work": record.work,
            "evaluations": len(record.costs),
            "gradients": record.gradients,
            "best_gap": float((record.best - self.problem.fstar) / (self.problem.f0 - self.problem.fstar)),
            "end": end,
            "seconds": time.perf_counter() - began,
        }


def run_problem(problem: Problem, chosen: Sequence[Solver], dtype: str, seed: int | None = None) -> dict:
    """All solvers on one problem; one that raises has not solved it, and what it raised is kept."""
    prepared, runs = Prepared(problem, dtype, seed), []
    for solver in chosen:
        try:
            runs.append(prepared.run(solver))
        except Exception as error:  # a peer's failure is a result, not the end of the benchmark
            record = prepared.counted.record
            lost = dict.fromkeys(("work_to_solution", "best_gap"))
            end = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            runs.append({"solver": solver.name, **lost, "work": record.work, "evaluations": len(record.costs), "gradients": record.gradients, "end": end})
    return {"problem": problem.name, "f0": problem.f0, "fstar": problem.fstar, "runs": runs}


def works(results: Sequence[dict]) -> dict[str, list[float]]:
    """Work to the solution per solver, problem by problem, inf where unsolved."""
    names = [run["solver"] for run in results[0]["runs"]] if results else []
    needed = {name: [next(run for run in result["runs"] if run["solver"] == name)["work_to_solution"] for result in results] for name in names}
    return {name: [np.inf if work is None else work for work in column] for name, column in needed.items()}


def in_float32(problems: Sequence[Problem], seed: int | None, show: Callable[[str], None]) -> list[dict]:
    """The default in both precisions to the accuracy of float32: who is solved, and the status of the plain call ``minimize(fun, start)`` in float32."""
    rows = []
    for problem in problems:
        fine, coarse = Prepared(problem, "float64", seed), Prepared(problem, "float32", seed)
        fine.accuracy = coarse.accuracy
        plain = Solver(DEFAULT, contenders.ours(tol=None)[0].solve)
        row = {"problem": problem.name, "float64": fine.run(contenders.ours()[0]), "float32": coarse.run(plain)}
        rows.append(row)
        solved = {dtype: row[dtype]["work_to_solution"] is not None for dtype in ACCURACY}
        show(f"{problem.name}: float64 {'solved' if solved['float64'] else 'no'}, float32 {'solved' if solved['float32'] else 'no'}, {row['float32']['end']}")
        jax.clear_caches()
    return rows


def format_float32(rows: Sequence[dict], markdown: bool = False) -> str:
    """Of the problems solved in float64 the share solved in float32, and a table of statuses."""
    solved = {dtype: [row[dtype]["work_to_solution"] is not None for row in rows] for dtype in ACCURACY}
    both, fine = sum(a and b for a, b in zip(*solved.values(), strict=True)), sum(solved["float64"])
    share = f"{both} of {fine}" + (f" ({100 * both / fine:.0f} %)" if fine else "")
    ends = Counter((row["float32"]["end"], ok) for row, ok in zip(rows, solved["float32"], strict=True))
    statuses = sorted({end for end, _ in ends})
    body = measure.table(["status in float32", "solved", "not solved"], [[s, str(ends[s, True]), str(ends[s, False])] for s in statuses], markdown)
    return f"Solved to {ACCURACY['float32']:g} by the default in float32, of those it solves so in float64: {share}.\n\n{body}\n"


def names_of(text: str, known: Sequence[str], option: str) -> list[str]:
    """The names asked for, by default all; exits with a message for one that does not exist."""
    wanted = [name.strip() for name in text.split(",") if name.strip()] or list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"{option}: no {', '.join(unknown)}; there are {', '.join(known)}")
    return wanted


def measure_all(problems: Sequence[Problem], chosen: Sequence[Solver], dtype: str, seed: int | None, show: Callable[[str], None] = print) -> dict:
    """Runs every solver on every problem, shows each problem as it is ready, and returns the report."""
    present, skipped = measure.split_missing(chosen)
    for line in skipped:
        show(line)
    settings = {"dtype": dtype, "accuracy": ACCURACY[dtype], "budgets": list(profiles.BUDGETS), "perturb": seed}
    report = {"benchmark": "minimize", **settings, "machine": measure.machine(), "problems": [], "skipped": skipped}
    for problem in problems:
        result = run_problem(problem, present, dtype, seed)
        report["problems"].append(result)
        words = [f"{run['solver']} {'-' if run['work_to_solution'] is None else format(run['work_to_solution'], 'g')}" for run in result["runs"]]
        show(f"{problem.name}: {', '.join(words)}")
        jax.clear_caches()  # programs of a problem are of no use to the next
    report["profiles"] = {name: profiles.shares(needed) for name, needed in works(report["problems"]).items()}
    if dtype == "float32":
        show("\nThe plain call in float32, and float64 to the same accuracy:")
        report["float32"] = in_float32(problems, seed, show)
    return report


def format_report(report: dict, markdown: bool = False) -> str:
    """The profiles as a table, and what there is to say of float32."""
    criterion = f"f - f* <= {report['accuracy']:g} (f0 - f*), {len(report['problems'])} problems, {report['dtype']}"
    counted = "work: a gradient with its value 1, a value alone 0.25"
    parts = [f"{criterion}; {counted}.", profiles.table(works(report["problems"]), markdown)]
    if "float32" in report:
        parts.append(format_float32(report["float32"], markdown))
    return "\n\n".join(parts)


def markdown(report: dict) -> str:
    """The report as a Markdown page."""
    names = [run["solver"] for run in report["problems"][0]["runs"]]
    needed = works(report["problems"])
    rows = [[r["problem"], *["" if np.isinf(needed[name][i]) else f"{needed[name][i]:g}" for name in names]] for i, r in enumerate(report["problems"])]
    head = [
        measure.heading("Minimize", report),
        "Unconstrained CUTEst problems from sif2jax. Evaluations are counted where they are executed, those of line searches included; a run ends when it "
        f"is solved, its work is {counting.BUDGET:g} or its own solver gives up. The learning rate of optimistix GradientDescent is for each problem the best "
        "of a grid, and the search for it is not counted.",
        format_report(report, markdown=True),
        f"![Data profiles]({pathlib.Path(report.get('plot', 'minimize.png')).name})" if "plot" in report else "",
        "## Work to the solution, problem by problem",
        measure.table(["problem", *names], rows, markdown=True),
    ]
    return "\n\n".join([part for part in [*head, *[f"- {line}" for line in report["skipped"]]] if part])


def save(report: dict, path: str | pathlib.Path) -> None:
    """Writes JSON, Markdown and the plot, side by side."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot: matplotlib is not installed: pip install 'gdjax[plot]'")
    else:
        report["plot"] = path.with_suffix(".png").name
        profiles.plot(works(report["problems"]), report["accuracy"], path.with_suffix(".png"))
    measure.save(report, markdown(report), path)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help=f"a dozen small problems, and of the solvers {', '.join(QUICK)}")
    parser.add_argument("--problems", default="", help="comma-separated names")
    parser.add_argument("--solvers", default="", help="comma-separated names; the message for an unknown one lists them")
    parser.add_argument("--dtype", choices=list(ACCURACY), default="float64", help="float32: solved means to 1e-3, judged in float64; and statuses")
    parser.add_argument("--perturb", type=int, metavar="SEED", help="multiply the start by 1 + 1e-9 normal noise (float32: 1e-6)")
    measure.add_json_argument(parser, RESULTS, "Markdown and a plot")


@register("minimize", _add_arguments)
def main(arguments) -> int:
    """Data profiles on CUTEst problems: our rules, scipy, jaxopt, optimistix and optax, evaluations counted where they are executed."""
    began = time.perf_counter()
    entries = {entry["name"]: entry for entry in cutest.entries()}
    everyone = {solver.name: solver for solver in solvers()}
    quick = arguments.quick
    chosen = names_of(arguments.solvers or (",".join(QUICK) if quick else ""), list(everyone), "--solvers")
    wanted = names_of(arguments.problems or (",".join(cutest.QUICK) if quick else ""), list(entries), "--problems")
    cutest.check_installed()
    problems = [cutest.load(entries[name]) for name in wanted]
    report = measure_all(problems, [everyone[name] for name in chosen], arguments.dtype, arguments.perturb)
    report["seconds"] = time.perf_counter() - began
    print(f"\n{format_report(report)}")
    if arguments.json:
        save(report, arguments.json)
    print(f"{report['seconds']:.0f} s")
    return 0
