"""Many runs side by side: sweeps, halving, many starts and Optuna's batches, each beside the same runs one after another or by a plain vmap."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import pathlib
import runpy
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from benchmarks import measure, register

RESULTS = pathlib.Path(__file__).parent / "results" / "sweep.json"
OPTUNA = pathlib.Path(__file__).parents[1] / "examples" / "optuna_batches.py"
ROUNDS, QUICK_ROUNDS = 7, 3
MOST_ALONE = 64  # runs made one after another at most; more are counted as so many times as long


class Way(NamedTuple):
    """One way to make the runs."""

    name: str
    make: Callable[[], Any]  # -> something to wait for
    share: float = 1.0  # of the runs that it makes


class Work(NamedTuple):
    """Runs to be made, the first way ours."""

    name: str
    runs: int
    ways: Sequence[Way]


def cancer():
    """569 × 30, standardised, and labels of 0 and 1."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return jnp.asarray((features - features.mean(0)) / features.std(0), jnp.float32), jnp.asarray(labels, jnp.float32)


def logistic(weights, example):
    return jax.nn.softplus((1 - 2 * example[1]) * (example[0] @ weights))


LOSS = gdjax.finite_sum(logistic, lambda weights: 0.5e-3 * jnp.vdot(weights, weights))


def rastrigin(x):
    return 10.0 * len(x) + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x))


def works() -> list[Work]:
    """All of it."""
    data, start = cancer(), jnp.zeros(30)

    def by_batches(rule, steps=500, resume=None):
        return gdjax.fit(LOSS, start, data, rule, batch_size=32, steps=steps, key=0, resume=resume, history=())

    def by_all(rule):
        return gdjax.fit(LOSS, start, data, rule, batch_size=None, steps=500, history=())

    few = gdjax.grid(gdjax.sgd, learning_rate=np.geomspace(1e-3, 1, 64), momentum=0.9)
    many = gdjax.grid(gdjax.sgd, learning_rate=np.geomspace(1e-3, 3, 50), momentum=np.linspace(0, 0.95, 20))
    found = [
        Work("64 rates, batches of 32, 500 steps", 64, [_swept(by_batches, few), _alone(by_batches, few)]),
        Work("1,000 rules, batches of 32, 500 steps", 1000, [_swept(by_batches, many), _alone(by_batches, many)]),
        Work("1,000 rules, full batch, 500 steps at most", 1000, [_swept(by_all, many), _mapped(by_all, many), _alone(by_all, many)]),
        Work("1,000 rules, batches of 32, 3,645 steps", 1000, [_halved(by_batches, many), _swept(lambda rule: by_batches(rule, 3645), many)]),
        Work("1,000 starts, Rastrigin's function of two numbers", 1000, _starts()),
    ]
    return found


def _swept(run, rules) -> Way:
    return Way("gdjax.sweep", lambda: gdjax.sweep(run, rules).results.value)


def _halved(run, rules) -> Way:
    return Way("gdjax.sweep, rungs", lambda: gdjax.sweep(run, rules, rungs=(135, 405, 1215, 3645)).results.value)


def _mapped(run, rules) -> Way:
    program = jax.jit(jax.vmap(run))
    return Way("jax.jit(jax.vmap(run))", lambda: program(rules).value)


def _alone(run, rules) -> Way:
    each = np.unique(np.linspace(0, len(jax.tree.leaves(rules)[0]) - 1, MOST_ALONE).astype(int))
    single = [jax.tree.map(lambda x: x[i], rules) for i in each]  # noqa: B023
    return Way("one after another", lambda: [run(rule).value for rule in single], len(each) / len(jax.tree.leaves(rules)[0]))


def _starts() -> list[Way]:
    def run(x):
        return gdjax.minimize(rastrigin, x, gdjax.gd(0.001), max_steps=2000, history=())

    def draw(key):
        return jax.random.uniform(key, (2,), minval=-5.0, maxval=5.0)

    starts = jax.vmap(draw)(jax.random.split(jax.random.key(0), 1000))
    program = jax.jit(jax.vmap(run))
    mine = Way("gdjax.multistart", lambda: gdjax.multistart(run, draw, 1000, key=0).results.value)
    return [mine, Way("jax.jit(jax.vmap(run))", lambda: program(starts).value), Way("one after another", lambda: [run(x).value for x in starts[:64]], 0.064)]


def run_work(work: Work, rounds: int) -> dict:
    """First and later calls of every way, in turn; seconds for all runs."""
    records: list[dict[str, Any]] = []
    for way in work.ways:
        began = time.perf_counter()
        jax.block_until_ready(way.make())
        records.append({"name": way.name, "first_call_seconds": time.perf_counter() - began, "share": way.share, "steps": 1, "seconds": []})
    for turn in range(rounds):
        for place in measure.order_of_round(len(work.ways), turn):
            began = time.perf_counter()
            jax.block_until_ready(work.ways[place].make())
            records[place]["seconds"].append((time.perf_counter() - began) / work.ways[place].share)
    measure.add_ratios(records, [records[0]["name"]])
    return {"work": work.name, "runs": work.runs, "rounds": rounds, "contenders": records}


def table(result: dict, markdown: bool = False) -> str:
    """One piece of work."""
    reference = result["contenders"][0]["name"]
    rows = []
    for record in result["contenders"]:
        ratio = record["ratios"][reference]
        note = "" if record["share"] == 1 else " *"
        times = (
            f"{record['first_call_seconds']:.2f}",
            f"{np.median(record['seconds']):.3f}{note}",
            f"{1e6 * np.median(record['seconds']) / result['runs']:,.0f}",
        )
        rows.append([record["name"], *times, f"{ratio['median']:.2f} ({ratio['q1']:.2f}-{ratio['q3']:.2f})"])
    head = f"{'### ' if markdown else ''}{result['work']}"
    return f"{head}\n\n{measure.table(['', 'first call s', 's', 'us/run', f'x {reference}'], rows, markdown)}"


def optuna_table() -> str | None:
    """What the example prints; None where Optuna is missing."""
    if importlib.util.find_spec("optuna") is None:
        return None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(str(OPTUNA))["main"]()
    return printed.getvalue().strip()


WHAT = (
    "Breast-cancer table, 569 × 30, regularised logistic regression, one compiled program for all lanes. First call: with compilation. Seconds: medians over "
    f"rounds in which the ways take turns, with quartiles of their ratios. *: {MOST_ALONE} of the runs, evenly spread, made and counted as all of them."
)


def as_markdown(report: dict) -> str:
    """The report as a Markdown page."""
    parts = [measure.heading("Sweep", report, WHAT, cores=True), *(table(result, markdown=True) for result in report["work"])]
    if report.get("optuna"):
        parts += ["### Optuna, trials by the batch (examples/optuna_batches.py)", f"```text\n{report['optuna']}\n```"]
    return "\n\n".join(parts)


def _add_arguments(parser) -> None:
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, without Optuna")
    measure.add_json_argument(parser, RESULTS)


@register("sweep", _add_arguments)
def main(arguments) -> int:
    """Seconds for many runs side by side, beside the same runs one after another."""
    report: dict[str, Any] = {"benchmark": "sweep", "quick": arguments.quick, "machine": measure.machine(), "work": []}
    for work in works():
        report["work"].append(run_work(work, QUICK_ROUNDS if arguments.quick else ROUNDS))
        print(f"{table(report['work'][-1])}\n", flush=True)
    if not arguments.quick and (found := optuna_table()):
        report["optuna"] = found
        print(found)
    if arguments.json:
        measure.save(report, as_markdown(report), arguments.json)
    return 0
