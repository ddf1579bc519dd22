"""How near rules come, at their documented defaults, to the best of learning-rate sweeps: regrets on small training tasks."""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks import curves, fit_methods, measure, register, training
from benchmarks.minimize import names_of
from benchmarks.training import Method, Sweep
from benchmarks.training_tasks import BUILDERS, Task, named

RESULTS = pathlib.Path(__file__).parent / "results" / "fit.json"
BEST = pathlib.Path(__file__).parent / "fit_best.json"  # what the sweeps came to, so that they need not be run again
QUICK_TASKS = ("softmax_digits", "poisson_digits", "pinball_diabetes", "mlp_digits", "matrix_factorisation")
QUICK = (fit_methods.DEFAULT, "optax prodigy", "optax dog averaged", "optax schedule_free_sgd")
COLOURED = 6  # methods in colours in the plot: those of the least median regret


def swept(task: Task, sweeps: Sequence[Sweep], seeds: Sequence[int], known: dict) -> dict:
    """Initial losses and the best of the sweeps: as known, if of the same task and seeds, or found now."""
    kept = known.get(task.name)
    if kept and kept["fingerprint"] == task.fingerprint and kept["seeds"] == list(seeds) and list(kept["sweeps"]) == [sweep.name for sweep in sweeps]:
        return kept
    found = {sweep.name: training.sweep(task, sweep, seeds) for sweep in sweeps}
    train, test = training.initial(task, seeds)
    best = {name: min(sweep[name] for sweep in found.values()) for name in ("best", "best_test")}
    return {"fingerprint": task.fingerprint, "seeds": list(seeds), "initial": train, "initial_test": test, **best, "sweeps": found}


def run_method(task: Task, method: Method, seeds: Sequence[int], known: dict) -> dict:
    """What goes into the JSON of one method on one task; one that raises has no losses, and what it raised is kept."""
    began = time.perf_counter()
    try:
        runs = training.run(task, method, seeds)
    except Exception as error:  # a method's failure is a result, not the end of the benchmark
        words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        nothing = {"train": [None] * len(seeds), "test": [None] * len(seeds), "regret": None, "regret_test": None, "curve": [], "spent": []}
        return {"method": method.name, **nothing, "diverged": len(seeds), "error": words}
    lost = training.diverged(runs.train, known["initial"]) | runs.failed
    regrets = training.regret(runs.train, known["best"], known["initial"]), training.regret(runs.test, known["best_test"], known["initial_test"])
    return {
        "method": method.name,
        "train": training.finite(runs.train),
        "test": training.finite(runs.test),
        **dict(zip(("regret", "regret_test"), training.finite(regrets), strict=True)),
        "diverged": int(lost.sum()),
        "evaluations": int(runs.spent[:, -1].max()),
        "curve": training.finite(runs.curve.mean(0)),
        "spent": runs.spent.mean(0).tolist(),
        "seconds": time.perf_counter() - began,
    }


def summary(tasks: Sequence[dict]) -> dict[str, dict]:
    """Median and worst regret over the tasks, train and test, and all divergences, per method; inf stands for no finite loss."""
    found = {}
    for name in [run["method"] for run in tasks[0]["runs"]] if tasks else []:
        runs = [next(run for run in task["runs"] if run["method"] == name) for task in tasks]
        columns = {key: np.array([np.inf if run[key] is None else run[key] for run in runs]) for key in ("regret", "regret_test")}
        figures = {f"{word}{key.removeprefix('regret')}": float(reduce(column)) for key, column in columns.items() for word, reduce in REDUCTIONS.items()}
        found[name] = {**figures, "diverged": sum(run["diverged"] for run in runs)}
    return dict(sorted(found.items(), key=lambda item: (item[1]["median"], item[1]["worst"])))


REDUCTIONS = {"median": np.median, "worst": np.max}


def percent(share: float | None) -> str:
    """A regret in per cent, three digits; ``inf`` where a loss was not finite."""
    if share is None or not np.isfinite(share):
        return "inf"
    number = 100 * share
    return f"{round(number, 1) + 0.0:.1f}" if abs(number) < 99.95 else f"{number:.0f}" if abs(number) < 1e5 else f"{number:.0e}"


def _loss(losses: Sequence[float | None]) -> str:
    return "-" if None in losses else f"{np.mean(losses):.5g}"


def task_table(task: dict, markdown: bool = False) -> str:
    """Every method on one task, the least regret first, and the sweeps."""
    runs = sorted(task["runs"], key=lambda run: np.inf if run["regret"] is None else run["regret"])
    rows = [[r["method"], percent(r["regret"]), percent(r["regret_test"]), _loss(r["train"]), _loss(r["test"]), str(r["diverged"])] for r in runs]
    for name, sweep in task["sweeps"].items():
        regrets = [training.regret([sweep[f"best{part}"]], task[f"best{part}"], task[f"initial{part}"]) for part in ("", "_test")]
        losses = [f"{sweep['best']:.5g}", f"{sweep['best_test']:.5g}", str(sweep["diverged"])]
        rows.append([f"{name}: {sweep['learning_rate']:.2g}", *map(percent, regrets), *losses])
    head = f"{task['task']}: {task['note']}; {task['examples']} examples, {task['steps']} steps of {task['batch_size']}"
    losses = f"loss at the start {task['initial']:.5g}, on test data {task['initial_test']:.5g}"
    return f"{head}; {losses}.\n\n{measure.table(['method', 'regret %', 'on test', 'loss', 'test loss', 'diverged'], rows, markdown)}"


def summary_table(report: dict, markdown: bool = False) -> str:
    """Every method over all tasks, the least median regret first."""
    count = len(report["tasks"]) * len(report["seeds"])
    columns = ("median", "worst", "median_test", "worst_test")
    rows = [[name, *(percent(row[column]) for column in columns), f"{row['diverged']} of {count}"] for name, row in report["summary"].items()]
    return measure.table(["regret %", "median", "worst", "median, test", "worst, test", "diverged"], rows, markdown)


def measure_all(tasks: Sequence[Task], methods: Sequence[Method], seeds: Sequence[int], known: dict, show: Callable[[str], None] = print) -> dict:
    """Runs all methods on all tasks, shows each task as it is ready, and returns the report. ``known`` holds earlier sweeps and takes those made now."""
    report = {"benchmark": "fit", "seeds": list(seeds), "machine": measure.machine(), "tasks": []}
    for task in tasks:
        known[task.name] = found = swept(task, fit_methods.sweeps(), seeds, known)
        sizes = {"examples": task.examples, "steps": task.steps, "batch_size": task.batch_size}
        runs = [run_method(task, method, seeds, found) for method in methods]
        jax.clear_caches()  # programs of a task are of no use to the next
        report["tasks"].append({"task": task.name, "note": task.note, **sizes, **found, "runs": runs})
        show(f"\n{task_table(report['tasks'][-1])}")
        for run in runs:
            if "error" in run:
                show(f"{run['method']}: {run['error']}")
    report["summary"] = {name: {key: value if np.isfinite(value) else None for key, value in row.items()} for name, row in summary(report["tasks"]).items()}
    return report


CRITERION = (
    "Regret: (final loss − best)/(initial − best), mean over seeds; best is that of the sweeps below, of momentum SGD and Adam with a cosine over 13 learning "
    "rates (on test data: at the rates that are best in training). 0: as good as the best sweep; 100 %: no progress; negative: better than every sweep. "
    "Diverged: the final loss is not finite or above ten times the initial one. All get the same batches, a gradient evaluation for each; loss evaluations "
    "beyond that count."
)


def markdown(report: dict) -> str:
    """The report as a Markdown page."""
    head = [
        measure.heading("Fit", report, f"{CRITERION} {len(report['seeds'])} seeds, {len(report['tasks'])} tasks."),
        summary_table(report, markdown=True),
        "\n".join(f"- {line}" for line in report.get("left_out", [])),
        f"![Loss curves]({report['plot']})" if "plot" in report else "",
        "## Task by task",
    ]
    return "\n\n".join([part for part in [*head, *(task_table(task, markdown=True) for task in report["tasks"])] if part])


def draw(report: dict, path: str | pathlib.Path) -> None:
    """Draws the curves, or says what is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot: matplotlib is not installed: pip install 'gdjax[plot]'")
        return
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    best = [name for name in report["summary"] if name != fit_methods.DEFAULT][:COLOURED]
    curves.plot(report["tasks"], fit_methods.DEFAULT, best, path)
    report["plot"] = pathlib.Path(path).name


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK_TASKS)} tasks, and of the methods {', '.join(QUICK)}")
    parser.add_argument("--tasks", default="", help=f"comma-separated names, of {', '.join(BUILDERS)}")
    parser.add_argument("--methods", default="", help="comma-separated names; the message for an unknown one lists them")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N − 1 (default 3)")
    parser.add_argument("--sweep", action="store_true", help=f"make the sweeps anew, and keep them in benchmarks/{BEST.name}")
    measure.add_json_argument(parser, RESULTS, "Markdown and a plot")
    parser.add_argument("--plot", metavar="PATH", help="draw the curves here")


def _check_installed() -> None:
    if importlib.util.find_spec("sklearn") is None:
        sys.exit(f"the data of the tasks come with scikit-learn, which is not installed: pip install 'gdjax[{measure.EXTRA}]'")


def _known(anew: bool) -> dict:
    return {} if anew or not BEST.exists() else json.loads(BEST.read_text())


@register("fit", _add_arguments)
def main(arguments) -> int:
    """Rules at their defaults against swept momentum SGD and Adam, and optax's rules at theirs: regrets on small training tasks."""
    began = time.perf_counter()
    mine, left_out = fit_methods.ours()
    everyone = {method.name: method for method in [*mine, *fit_methods.peers()]}
    asked = arguments.methods or (",".join(QUICK) if arguments.quick else "")
    chosen = names_of(asked, list(everyone), "--methods")
    wanted = names_of(arguments.tasks or (",".join(QUICK_TASKS) if arguments.quick else ""), list(BUILDERS), "--tasks")
    _check_installed()
    for line in left_out:
        print(line)
    known = _known(arguments.sweep)
    report = measure_all([named(name) for name in wanted], [everyone[name] for name in chosen], range(arguments.seeds), known)
    report |= {"left_out": left_out, "seconds": time.perf_counter() - began}
    if arguments.sweep:
        BEST.write_text(json.dumps(_known(False) | known, indent=1) + "\n")
    print(f"\n{CRITERION}\n\n{summary_table(report)}")
    if arguments.plot or arguments.json:
        draw(report, arguments.plot or pathlib.Path(arguments.json).with_suffix(".png"))
    if arguments.json:
        measure.save(report, markdown(report), arguments.json)
    print(f"{report['seconds']:.0f} s")
    return 0
