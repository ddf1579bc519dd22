"""Gradients over all rows of large data: in blocks that fit the cache, beside the whole at once, NumPy, PyTorch, and one read of the data."""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from benchmarks import measure, register
from gdjax.objective import Objective

RESULTS = pathlib.Path(__file__).parent / "results" / "gradients.json"
OURS, READ = "gdjax, blocked", "one read of X"
CALLS = 5  # timed together


class Work(NamedTuple):
    """Rows and columns of the data, and outputs of the model: 1 for logistic regression, more for softmax regression."""

    name: str
    rows: int
    columns: int
    outputs: int

    @property
    def bytes(self) -> int:
        """Of X, in float32."""
        return 4 * self.rows * self.columns


WORK = (
    Work("logistic regression 10,000 x 100", 10_000, 100, 1),
    Work("logistic regression 100,000 x 100", 100_000, 100, 1),
    Work("logistic regression 1,000,000 x 50", 1_000_000, 50, 1),
    Work("softmax regression 60,000 x 784, 10 classes", 60_000, 784, 10),
)
QUICK = WORK[:2]


def logistic(w, example):
    """Of one row, labels ±1."""
    return jax.nn.softplus(-example[1] * jnp.dot(example[0], w))


def softmax(w, example):
    """Of one row, labels 0, 1, ..."""
    scores = example[0] @ w
    return jax.nn.logsumexp(scores) - scores[example[1]]


def data_of(work: Work) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(X, y, w), the same in every run."""
    draw = np.random.default_rng(0)
    inputs = draw.standard_normal((work.rows, work.columns), np.float32)
    if work.outputs == 1:
        labels = np.where(draw.random(work.rows) < 0.5, np.float32(-1), np.float32(1))
        return inputs, labels, draw.standard_normal(work.columns, np.float32) / 10
    return inputs, draw.integers(0, work.outputs, work.rows).astype(np.int32), draw.standard_normal((work.columns, work.outputs), np.float32) / 10


def with_numpy(work: Work, inputs, labels, w) -> Callable[[], Any]:
    """Value and gradient by hand, over all rows at once."""

    def one():
        margins = -labels * (inputs @ w)
        slopes = -labels / (1 + np.exp(-margins)) / np.float32(work.rows)
        return np.logaddexp(0, margins).mean(), slopes @ inputs

    def several():
        scores = inputs @ w
        scores -= scores.max(1, keepdims=True)
        shares = np.exp(scores)
        sums = shares.sum(1, keepdims=True)
        value = (np.log(sums[:, 0]) - scores[np.arange(work.rows), labels]).mean()
        shares /= sums
        shares[np.arange(work.rows), labels] -= 1
        return value, inputs.T @ (shares / np.float32(work.rows))

    return one if work.outputs == 1 else several


def with_torch(work: Work, inputs, labels, w) -> Callable[[], Any]:
    """By automatic differentiation, over all rows at once."""
    import torch

    x, params = torch.from_numpy(inputs), torch.from_numpy(w.copy()).requires_grad_()
    y = torch.from_numpy(labels if work.outputs == 1 else labels.astype(np.int64))

    def run():
        loss = torch.nn.functional.softplus(-y * (x @ params)).mean() if work.outputs == 1 else torch.nn.functional.cross_entropy(x @ params, y)
        (grad,) = torch.autograd.grad(loss, params)
        return loss.detach().numpy(), grad.numpy()

    return run


def contenders(work: Work) -> dict[str, Callable[[], Any]]:
    """name -> a call that returns (value, gradient) on the host or ready; and the limit, which returns nothing of use."""
    inputs, labels, w = data_of(work)
    loss = gdjax.finite_sum(logistic if work.outputs == 1 else softmax)
    arrays, params = (jnp.asarray(inputs), jnp.asarray(labels)), jnp.asarray(w)
    blocked = jax.jit(lambda w, data: Objective(loss, chunk_size="auto").value_and_grad(w, data)[:2])
    whole = jax.jit(lambda w, data: jax.value_and_grad(loss)(w, data))
    total = jax.jit(jnp.sum)
    found = {
        OURS: lambda: jax.block_until_ready(blocked(params, arrays)),
        "jax.value_and_grad": lambda: jax.block_until_ready(whole(params, arrays)),
        "NumPy": with_numpy(work, inputs, labels, w),
    }
    if importlib.util.find_spec("torch"):
        found["PyTorch"] = with_torch(work, inputs, labels, w)
    found[READ] = lambda: jax.block_until_ready(total(arrays[0]))
    return found


def check(found: dict[str, Callable[[], Any]]) -> float:
    """The largest difference of a gradient from that of the first contender, as a share of its norm."""
    grads = {name: np.asarray(run()[1], np.float64) for name, run in found.items() if name != READ}
    first = next(iter(grads.values()))
    worst = max(np.linalg.norm(grad - first) for grad in grads.values()) / np.linalg.norm(first)
    if worst > 1e-4:
        raise measure.Disagreement(f"gradients differ by {worst:.1e} of their norm")
    return float(worst)


def several(run: Callable[[], Any]) -> None:
    """Calls one after another, as the steps of a run are."""
    for _ in range(CALLS):
        run()


def run_work(work: Work, rounds: int) -> dict:
    """Every contender's time per call, in turns; each turn begins with a call that is not timed, after which its threads are awake."""
    found = contenders(work)
    difference, names = check(found), list(found)
    found[READ]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for index in measure.order_of_round(len(names), turn):
            time.sleep(measure.PAUSE)
            found[names[index]]()
            seconds[names[index]].append(measure.seconds_of(functools.partial(several, found[names[index]]))[0])
    records = [{"name": name, "steps": CALLS, "seconds": taken, "seconds_per_call": float(np.median(taken)) / CALLS} for name, taken in seconds.items()]
    measure.add_ratios(records, [name for name in (OURS, READ) if name in seconds])
    return {"work": work.name, "bytes": work.bytes, "rounds": rounds, "largest_difference": difference, "contenders": records}


def table(result: dict, markdown: bool = False) -> str:
    """A piece of work's contenders."""
    rows = []
    for record in result["contenders"]:
        ratios = [f"{r['median']:.2f} ({r['q1']:.2f}-{r['q3']:.2f})" for r in record["ratios"].values()]
        rows.append([record["name"], f"{1e6 * record['seconds_per_call']:,.0f}", f"{result['bytes'] / record['seconds_per_call'] / 1e9:.1f}", *ratios])
    references = [f"x {name}" for name in result["contenders"][0]["ratios"]]
    head = f"{result['work']} (X of {result['bytes'] / 1e6:,.0f} MB; {result['rounds']} rounds; gradients equal to {result['largest_difference']:.0e})"
    return f"{'### ' if markdown else ''}{head}\n\n{measure.table(['', 'us', 'GB/s of X', *references], rows, markdown)}"


def as_markdown(report: dict) -> str:
    """The report as a Markdown page."""
    what = "Value and gradient of the mean loss over all rows, float32. Ratios: medians over rounds of time over that of the reference, with quartiles."
    return "\n\n".join([measure.heading("Gradients", report, what, cores=True), *(table(result, markdown=True) for result in report["work"])])


def _add_arguments(parser) -> None:
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(work.name for work in QUICK)}")
    parser.add_argument("--rounds", type=int, default=15, help="rounds (default 15)")
    measure.add_json_argument(parser, RESULTS)


@register("gradients", _add_arguments)
def main(arguments) -> int:
    """Full-batch gradients of large data in blocks, beside JAX on the whole, NumPy, PyTorch and one read of the data."""
    report = {"benchmark": "gradients", "machine": measure.machine(), "work": []}
    for work in QUICK if arguments.quick else WORK:
        report["work"].append(run_work(work, arguments.rounds))
        print(f"{table(report['work'][-1])}\n")
    if arguments.json:
        measure.save(report, as_markdown(report), arguments.json)
    return 0
