"""Whether ``gdjax.suggest`` finds the learning rate that a fine sweep finds: on the training tasks of ``fit``, for four rules."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gdjax
from benchmarks import measure, register
from benchmarks.fit import QUICK_TASKS, percent
from benchmarks.minimize import names_of
from benchmarks.training_tasks import BUILDERS, Task, named
from gdjax import schedules

RESULTS = pathlib.Path(__file__).parent / "results" / "suggest.json"
SEEDS = (10, 11, 12)  # of the sweeps: first params and orders of the data that no suggestion saw
KEY = 1  # of the suggestions
RATIO, HALF = 1.5, 9  # learning rates of a sweep: so far apart, so many on either side of the one suggested
MOST = 2  # how often a sweep whose best is at its edge is made wider
BUDGETS = (None, 7.0)  # runs; None: all that trials take
adam = gdjax.rule(optax.adam)


class Way(NamedTuple):
    """A rule to be given a learning rate: ``make(learning_rate, steps)``."""

    name: str
    make: Callable[[Any, float], Any]


WAYS = (
    Way("sgd 0.9, cosine", lambda rate, steps: gdjax.sgd(schedules.cosine(rate, steps), 0.9)),
    Way("sgd, cosine", lambda rate, steps: gdjax.sgd(schedules.cosine(rate, steps))),
    Way("adam, cosine", lambda rate, steps: adam(schedules.cosine(rate, steps))),
    Way("sgd 0.9, constant", lambda rate, steps: gdjax.sgd(rate, 0.9)),
)


class Swept(NamedTuple):
    """Final training losses of a sweep."""

    rates: np.ndarray
    losses: np.ndarray  # (rates, seeds); inf where a run diverged

    @property
    def best(self) -> int:
        """Of the rates, by the mean over seeds."""
        return int(np.argmin(self.losses.mean(1)))


def swept(task: Task, way: Way, rates: np.ndarray) -> Swept:
    """Every learning rate for every seed, through ``gdjax.sweep``."""

    def run(rule, key):
        result = gdjax.fit(task.loss, task.init(key), task.train, rule, batch_size=task.batch_size, steps=task.steps, key=key, history=())
        return {"loss": task.loss(result.params, task.train), "code": result.code}

    failed = jnp.array([gdjax.Status.DIVERGED, gdjax.Status.NONFINITE])
    rules = gdjax.sampling.stacked([way.make(float(rate), float(task.steps)) for rate in rates])
    made = gdjax.sweep(run, rules, keys=SEEDS, score=lambda found: jnp.where(jnp.isin(found["code"], failed), jnp.inf, found["loss"]))
    return Swept(rates, made.scores)


def swept_around(task: Task, way: Way, rate: float) -> Swept:
    """A sweep around this rate, made wider while its best is at an edge."""
    found = swept(task, way, rate * RATIO ** np.arange(-HALF, HALF + 1.0))
    for _ in range(MOST):
        up = found.best == len(found.rates) - 1
        if not up and found.best > 0:
            break
        more = swept(task, way, found.rates[-1 if up else 0] * RATIO ** (np.arange(1.0, HALF + 1) * (1 if up else -1)))
        order = np.argsort(np.append(found.rates, more.rates))
        found = Swept(np.append(found.rates, more.rates)[order], np.concatenate([found.losses, more.losses])[order])
    return found


def case(task: Task, way: Way, budgets: Sequence[float | None]) -> dict:
    """The suggestions of one rule on one task, beside a sweep around the first."""
    made = []
    for budget in budgets:
        began = time.perf_counter()
        said = gdjax.suggest(task.loss, task.init, task.train, way.make, batch_size=task.batch_size, steps=task.steps, key=KEY, budget=budget)
        made.append((budget, said, time.perf_counter() - began))
    found = swept_around(task, way, made[0][1].learning_rate)
    best, means = float(found.rates[found.best]), found.losses.mean(1)
    rows = []
    for budget, said, seconds in made:
        losses = swept(task, way, np.array([said.learning_rate])).losses[0]
        rows.append(
            {
                "budget": budget,
                "learning_rate": said.learning_rate,
                "over_best": said.learning_rate / best,
                "factor": said.factor,
                "low": said.low,
                "high": said.high,
                "regret": _regret(losses, means[found.best], said.initial_value),
                "diverged": int(np.sum(~np.isfinite(losses))),
                "runs": said.evaluations / task.steps,
                "seconds": seconds,
            }
        )
    first = made[0][1]
    limit = float(np.min(first.smoothness.stable_below()))
    rates = {"the range test's steepest": first.range_test.suggestion, "its lowest": first.range_test.lowest_at, "1/L": limit / 2}
    alone = {name: float(rate) / best for name, rate in rates.items()}
    each = (found.rates[np.argmin(found.losses, 0)] / best).tolist()
    return {"task": task.name, "rule": way.name, "best": best, "seeds_over_best": each, "suggestions": rows, "alone": alone}


def _regret(losses: np.ndarray, best: float, initial: float) -> float | None:
    return float((losses.mean() - best) / (initial - best)) if np.isfinite(losses).all() else None


def within(ratios: Sequence[float], factor: float = 2.0) -> float:
    """The share of the ratios that are between 1/factor and factor."""
    each = np.asarray(ratios, float)
    return float(np.mean((each >= 1 / factor * 0.999) & (each <= factor * 1.001)))


def summary(cases: Sequence[dict]) -> list[dict]:
    """A row per budget: share within 2, median and worst regret, divergences, cost."""
    rows = []
    for place, given in enumerate(cases[0]["suggestions"]):
        each = [case["suggestions"][place] for case in cases]
        regrets = [np.inf if row["regret"] is None else row["regret"] for row in each]
        rows.append(
            {
                "budget": given["budget"],
                "within_2": within([row["over_best"] for row in each]),
                "as_good": float(np.mean(np.asarray(regrets) <= 0.02)),
                "median_regret": float(np.median(regrets)),
                "worst_regret": float(np.max(regrets)),
                "diverged": sum(row["diverged"] for row in each),
                "runs": float(np.median([row["runs"] for row in each])),
                "seconds": float(np.median([row["seconds"] for row in each])),
            }
        )
    return rows


def summary_table(report: dict, markdown: bool = False) -> str:
    """Shares over all cases."""
    count = len(report["cases"])
    rows = []
    for row in report["summary"]:
        name = "suggest" if row["budget"] is None else f"suggest(budget={row['budget']:g})"
        regrets = [percent(row["median_regret"]), percent(row["worst_regret"])]
        cells = [f"{100 * row['within_2']:.0f} %", f"{100 * row['as_good']:.0f} %", *regrets, f"{row['diverged']} of {len(SEEDS) * count}"]
        rows.append([name, *cells, f"{row['runs']:.0f}", f"{row['seconds']:.1f}"])
    for name in report["cases"][0]["alone"]:
        rows.append([f"{name} alone", f"{100 * within([case['alone'][name] for case in report['cases']]):.0f} %", *["-"] * 6])
    seeds = within([ratio for case in report["cases"] for ratio in case["seeds_over_best"]])
    rows.append(["the best rate of one seed", f"{100 * seeds:.0f} %", *["-"] * 6])
    return measure.table([f"{count} cases", "within 2 ×", "regret ≤ 2 %", "median regret %", "worst %", "diverged", "runs", "s"], rows, markdown)


def case_table(report: dict, markdown: bool = False) -> str:
    """Every case."""
    rows = []
    for case in report["cases"]:
        first = case["suggestions"][0]
        cells = [f"{case['best']:.2g}", f"{first['learning_rate']:.2g}", f"{first['over_best']:.2f}", f"{first['factor']:.2f}", percent(first["regret"])]
        others = [f"{row['over_best']:.2f}" for row in case["suggestions"][1:]]
        rows.append([f"{case['task']}, {case['rule']}", *cells, str(first["diverged"]), *others])
    later = [f"× best, {row['budget']:g} runs" for row in report["cases"][0]["suggestions"][1:]]
    return measure.table(["", "best", "suggested", "× best", "sure to ×", "regret %", "diverged", *later], rows, markdown)


WHAT = (
    f"Best: of a sweep of learning rates a factor of {RATIO:g} apart, by the final training loss, mean over {len(SEEDS)} seeds (first params, order of the "
    "data) that the suggestion did not see. Regret: of runs at the suggested rate on these seeds, (loss − best)/(loss at the start − best). Diverged: of these "
    "runs. Runs: what a suggestion costs, in runs of the task; seconds include compilation. 'The best rate of one seed': of the sweep's own seeds, against the "
    "mean of all three: how well the best is determined at all. 'Alone': what the parts of the suggestion say by themselves."
)


def as_markdown(report: dict) -> str:
    """The report as a Markdown page."""
    head = measure.heading("Suggest", report, WHAT)
    return "\n\n".join([head, summary_table(report, markdown=True), "## Case by case", case_table(report, markdown=True)])


def _add_arguments(parser) -> None:
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK_TASKS)} tasks, no other budgets")
    parser.add_argument("--tasks", default="", help=f"comma-separated names, of {', '.join(BUILDERS)}")
    measure.add_json_argument(parser, RESULTS)


@register("suggest", _add_arguments)
def main(arguments) -> int:
    """Learning rates that gdjax.suggest finds, beside the best of fine sweeps, on the tasks of fit."""
    report: dict[str, Any] = {"benchmark": "suggest", "machine": measure.machine(), "cases": []}
    wanted = names_of(arguments.tasks or (",".join(QUICK_TASKS) if arguments.quick else ""), list(BUILDERS), "--tasks")
    for name in wanted:
        for way in WAYS:
            found = case(named(name), way, BUDGETS[:1] if arguments.quick else BUDGETS)
            report["cases"].append(found)
            ratios = ", ".join(f"{row['over_best']:.2f}" for row in found["suggestions"])
            print(f"{name}, {way.name}: best {found['best']:.3g}, suggested {found['suggestions'][0]['learning_rate']:.3g}; over the best {ratios}", flush=True)
        jax.clear_caches()  # programs of a task are of no use to the next
    report["summary"] = summary(report["cases"])
    print(f"\n{WHAT}\n\n{summary_table(report)}")
    if arguments.json:
        measure.save(report, as_markdown(report), arguments.json)
    return 0
