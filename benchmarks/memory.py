"""Peak memory of fits and gradients, each in a process of its own, beside what the data, the params and the state of the rule take."""

from __future__ import annotations

import functools
import gc
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from benchmarks import footprint, gradients, measure, peers, problems, register
from gdjax.objective import Objective

RESULTS = pathlib.Path(__file__).parent / "results" / "memory.json"
LIMIT = "data, params and state"
STEPS = 3  # of a fit


class Model(NamedTuple):
    """The loss of one example in JAX, that of all in PyTorch, and what they are given."""

    example_loss: Callable
    torch_loss: Callable  # torch_loss(torch, leaves of params, batch)
    params: Any
    data: tuple[np.ndarray, np.ndarray]


class Work(NamedTuple):
    """A model by the number of its examples, and who is measured on it; ``state`` is how often the rule holds the params."""

    name: str
    build: Callable[[int], Any]
    size: int
    small: int  # the size of the warm-up
    quick: int  # the size of --quick, 0 to leave it out
    ways: dict[str, tuple[Callable, str | None]]  # name -> (way(model) -> run, package it needs)
    state: int = 0
    unit: str = "rows"  # of the size

    def of(self, quick: bool) -> Work:
        """Itself, with as many examples as are measured."""
        return self._replace(size=self.quick) if quick else self


def network(params, example):
    """Cross-entropy of one image by a network with one hidden layer."""
    hidden = jax.nn.relu(example[0] @ params[0] + params[1])
    scores = hidden @ params[2] + params[3]
    return jax.nn.logsumexp(scores) - scores[example[1]]


def _torch_logistic(torch, params, batch):
    return torch.nn.functional.softplus(-batch[1] * (batch[0] @ params[0])).mean()


def _torch_softmax(torch, params, batch):
    return torch.nn.functional.cross_entropy(batch[0] @ params[0], batch[1].long())


def _torch_network(torch, params, batch):
    hidden = torch.relu(batch[0] @ params[0] + params[1])
    return torch.nn.functional.cross_entropy(hidden @ params[2] + params[3], batch[1].long())


def linear_model(columns: int, outputs: int, rows: int) -> Model:
    """Logistic regression, or softmax regression for more than one output, on normal numbers."""
    inputs, labels, w = gradients.data_of(gradients.Work("", rows, columns, outputs))
    losses = (gradients.logistic, _torch_logistic) if outputs == 1 else (gradients.softmax, _torch_softmax)
    return Model(*losses, w, (inputs, labels))


def network_model(rows: int) -> Model:
    """784 -> 1024 -> 10, on normal numbers."""
    inputs, labels, _ = gradients.data_of(gradients.Work("", rows, 784, 10))
    draw = np.random.default_rng(1)
    shapes = ((784, 1024), (1024,), (1024, 10), (10,))
    return Model(network, _torch_network, [draw.standard_normal(shape, np.float32) / 30 for shape in shapes], (inputs, labels))


def on_device(tree):
    """As JAX's arrays, once they are there: until then those of NumPy are held."""
    return jax.block_until_ready(jax.tree.map(jnp.asarray, tree))


def with_fit(model: Model, numpy: bool = False) -> Callable:
    """``gdjax.fit`` on all examples, as JAX's arrays or as NumPy's."""
    data = model.data if numpy else on_device(model.data)
    loss, params = gdjax.finite_sum(model.example_loss), model.params
    return lambda: gdjax.fit(loss, params, data, gdjax.gd(1e-3), batch_size=None, steps=STEPS, progress=False).params


def with_blocks(model: Model) -> Callable:
    """One gradient by gdjax."""
    loss, (params, data) = gdjax.finite_sum(model.example_loss), on_device((model.params, model.data))
    gradient = jax.jit(lambda params, data: Objective(loss, chunk_size="auto").value_and_grad(params, data)[:2])
    return lambda: gradient(params, data)


def with_whole(model: Model) -> Callable:
    """One gradient by JAX, of all examples at once."""
    loss, (params, data) = gdjax.finite_sum(model.example_loss), on_device((model.params, model.data))
    gradient = jax.jit(lambda params, data: jax.value_and_grad(loss)(params, data))
    return lambda: gradient(params, data)


def with_torch(model: Model) -> Callable:
    """One gradient by PyTorch, of all examples at once."""
    import torch

    params, data = [torch.tensor(x, requires_grad=True) for x in jax.tree.leaves(model.params)], tuple(map(torch.from_numpy, model.data))
    return lambda: [x.numpy() for x in torch.autograd.grad(model.torch_loss(torch, params, data), params)]


def with_batches(prepare: Callable, problem: problems.Problem) -> Callable:
    """Steps on batches of 32 with momentum, by a loop of ``peers``."""
    run = prepare(problem, STEPS, True, batch_size=32)
    return lambda: run()[0]


GRADIENT = "jax.value_and_grad"
WAYS: dict[str, tuple[Callable, str | None]] = {
    "gdjax.fit": (with_fit, None),
    "gdjax.fit, NumPy data": (functools.partial(with_fit, numpy=True), None),
    "gdjax, one gradient": (with_blocks, None),
    GRADIENT: (with_whole, None),
    "PyTorch, one gradient": (with_torch, "torch"),
}
LOOPS: dict[str, tuple[Callable, str | None]] = {
    "gdjax.fit": (functools.partial(with_batches, peers.gdjax_fit), None),
    "optax, Python loop": (functools.partial(with_batches, peers.optax_fit), None),
    "PyTorch": (functools.partial(with_batches, peers.torch_fit), "torch"),
}


WORK = (
    Work("logistic regression, 50 columns", functools.partial(linear_model, 50, 1), 1_000_000, 10_000, 1_000_000, WAYS),
    Work("softmax regression, 784 columns, 10 classes", functools.partial(linear_model, 784, 10), 60_000, 6_000, 0, WAYS),
    Work("network 784-1024-10", network_model, 60_000, 2_000, 10_000, WAYS),
    Work("square linear map, momentum, batches of 32", problems.large_linear, 5_000, 64, 5_000, LOOPS, state=1, unit="columns"),
)


def bytes_of(tree) -> int:
    """Of all arrays in a tree."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def peak_of(work: Work, way: str) -> dict:
    """Runs in a fresh process: the peak of resident memory above that after the imports and a small run of the same kind, in bytes."""
    prepare = work.ways[way][0]
    jax.block_until_ready(prepare(work.build(work.small))())
    gc.collect()
    baseline = footprint.status_bytes("VmRSS")
    model = work.build(work.size)
    sizes = {"data_bytes": bytes_of(model.data), "params_bytes": bytes_of(model.params)}
    run = prepare(model)
    if "NumPy" not in way and work.ways is WAYS:
        del model  # what JAX has its own copies of
    with footprint.PeakMemory() as used:
        out = jax.block_until_ready(run())
    return {**sizes, "state_bytes": work.state * sizes["params_bytes"], "peak_bytes": used.start + used.peak - baseline, "result_bytes": bytes_of(out)}


def in_fresh_process(work: Work, way: str) -> dict:
    """Runs ``python -m benchmarks.memory WORK WAY SIZE`` and reads the JSON on its last line."""
    root, found = pathlib.Path(__file__).parent.parent, [sys.executable, "-m", "benchmarks.memory", work.name, way, str(work.size)]
    done = subprocess.run(found, cwd=root, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})  # where memory is the process's
    if done.returncode:
        raise RuntimeError(f"benchmarks.memory {work.name}, {way} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_work(work: Work, repeats: int) -> dict:
    """Every contender's peak, the median over processes, and its ratio to what data, params and state take."""
    present, skipped = measure.split_missing([measure.Contender(name, way, needs=needs) for name, (way, needs) in work.ways.items()])
    records, least, facts = [], 0, {}
    for contender in present:
        found = [in_fresh_process(work, contender.name) for _ in range(repeats)]
        facts = {key: found[0][key] for key in ("data_bytes", "params_bytes", "state_bytes")}
        least, peaks = sum(facts.values()), [one["peak_bytes"] for one in found]
        quartiles = dict(zip(("q1", "median", "q3"), (float(q) / least for q in np.quantile(peaks, [0.25, 0.5, 0.75])), strict=True))
        records.append({"name": contender.name, "peaks": peaks, "peak_bytes": float(np.median(peaks)), "ratios": {LIMIT: quartiles}})
    return {
        "work": work.name,
        "size": work.size,
        "unit": work.unit,
        "repeats": repeats,
        **facts,
        "least_bytes": least,
        "contenders": records,
        "skipped": skipped,
    }


def table(result: dict, markdown: bool = False) -> str:
    """A piece of work's contenders."""
    data, held = result["data_bytes"] / 1e6, (result["params_bytes"] + result["state_bytes"]) / 1e6
    rows = [[r["name"], f"{data:,.0f}", f"{held:,.0f}", f"{r['peak_bytes'] / 1e6:,.0f}", f"{r['ratios'][LIMIT]['median']:.2f}"] for r in result["contenders"]]
    body = measure.table(["MB", "data", "params + state", "peak", "ratio"], rows, markdown)
    skipped = [f"{'- ' if markdown else ''}{line}" for line in result["skipped"]]
    return "\n".join([f"{'### ' if markdown else ''}{result['work']}: {result['size']:,} {result['unit']}\n", body, *skipped])


WHAT = (
    "Peak of resident memory above that after the imports and a small run of the same kind, which loads libraries and compiles; each in a process of its own, "
    "the median where there are several. Ratio: the peak over the bytes of data, params and state of the rule, each once; below 1 nothing could work. "
    "Data are JAX's arrays unless it says NumPy; PyTorch's share memory with NumPy's."
)


def as_markdown(report: dict) -> str:
    """The report as a Markdown page."""
    return "\n\n".join([measure.heading("Memory", report, WHAT), *(table(result, markdown=True) for result in report["work"])])


def _add_arguments(parser) -> None:
    parser.add_argument("--quick", action="store_true", help="one process each, less work")
    parser.add_argument("--repeats", type=int, help="processes per contender (default 3, with --quick 1)")
    measure.add_json_argument(parser, RESULTS)


@register("memory", _add_arguments)
def main(arguments) -> int:
    """Peak memory of fits and gradients beside the bytes of data, params and state, each in a process of its own."""
    report = {"benchmark": "memory", "quick": arguments.quick, "machine": measure.machine(), "work": []}
    if not footprint.STATUS.exists():
        print(f"memory: skipped, this system has no {footprint.STATUS}")
        return 0
    for work in WORK:
        if arguments.quick and not work.quick:
            continue
        report["work"].append(run_work(work.of(arguments.quick), arguments.repeats or (1 if arguments.quick else 3)))
        print(f"{table(report['work'][-1])}\n")
    if arguments.json:
        measure.save(report, as_markdown(report), arguments.json)
    return 0


if __name__ == "__main__":
    name, way, size = sys.argv[1:]
    print(json.dumps(peak_of(next(work for work in WORK if work.name == name)._replace(size=int(size)), way)))
