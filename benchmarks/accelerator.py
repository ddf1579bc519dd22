"""What an accelerator makes of gdjax: memory bandwidth of updates, steps per second of small models, gradients of large data, a sweep in one program.

Runs on any device of JAX and needs nothing beyond the core dependencies. All figures are rates, the higher the better; every ratio is one of rates of the
same round.
"""

from __future__ import annotations

import functools
import itertools
import os
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import gdjax
from benchmarks import gradients, measure, problems, register
from benchmarks.handwritten import order
from gdjax.objective import Objective

RESULTS = pathlib.Path(__file__).parent / "results"
LEAST = 0.05  # seconds of a timed stretch of calls, so that handing over the first and waiting for the last do not count
MOST_CALLS = 1000  # in a stretch
RATE = 1e-3  # of small models: with larger ones the full batch arrives, and stalls, before its last step
COPY, IN_PLACE = "copy (x + 0)", "in place (x + 1)"
OPTAX_UPDATE = "optax.sgd, Python loop"
OPTAX_LOOP, OPTAX_BATCHES = "optax, Python loop", "optax, Python loop, NumPy batches"
WHOLE, ONE_BY_ONE = "jax.value_and_grad", "one after another"
LOGISTIC = gradients.Work("logistic regression", 569, 30, 1)


class Sizes(NamedTuple):
    """How large everything is; those of a CPU, which takes a minute or two."""

    params: int = 25_000_000  # in one leaf
    leaves: int = 1_000  # of 16 x 16
    chained: int = 20  # updates in one program
    logistic_steps: int = 10_000
    network_steps: int = 2_000
    network_rows: int = 60_000
    rows: int = 1_000_000  # of the data of gradients
    columns: int = 50
    rates: int = 64  # of the sweep
    epochs: int = 20  # of each of its runs


class Entry(NamedTuple):
    """One way to do the work of a part: ``call()`` returns arrays, perhaps not ready yet."""

    name: str
    call: Callable[[], Any]
    work: float  # per call, in the part's unit
    count: int = 1  # updates, steps, ... per call


class Part(NamedTuple):
    """What is measured together: the title, the unit of work and a name for what is counted."""

    title: str
    unit: str  # of the rate, such as GB/s
    item: str  # what takes so many microseconds
    references: tuple[str, ...]


def sizes_for(platform: str, quick: bool) -> Sizes:
    """Large data for devices with memory of their own, less of everything to be quick."""
    if quick:
        return Sizes(leaves=300, logistic_steps=2_000, network_steps=300, network_rows=9_600, rows=100_000, columns=100, epochs=5)
    return Sizes() if platform == "cpu" else Sizes(rows=4_000_000, columns=256)


def stretch(call: Callable[[], Any], calls: int) -> float:
    """Seconds per call of so many, one handed over behind the other, until the last is ready."""
    start, out = time.perf_counter(), None
    for _ in range(calls):
        out = call()
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / calls


def calls_for(call: Callable[[], Any]) -> int:
    """How many calls make a stretch, from the second call: the first compiles."""
    stretch(call, 1)
    return min(max(round(LEAST / max(stretch(call, 1), 1e-9)), 1), MOST_CALLS)


def in_turns(entries: Sequence[Entry], rounds: int) -> list[dict]:
    """A record per entry, with the seconds per call of each round."""
    calls = [calls_for(entry.call) for entry in entries]
    seconds: list[list[float]] = [[] for _ in entries]
    for turn in range(rounds):
        for index in measure.order_of_round(len(entries), turn):
            time.sleep(measure.PAUSE)
            seconds[index].append(stretch(entries[index].call, calls[index]))
    found = zip(entries, calls, seconds, strict=True)
    return [{"name": e.name, "work": e.work, "count": e.count, "calls": n, "seconds": s} for e, n, s in found]


def result_of(part: Part, records: list[dict], **more) -> dict:
    """The part with rates, times per item and ratios of rates: medians over the rounds, the latter with quartiles."""
    rates = {record["name"]: record["work"] / np.asarray(record["seconds"]) for record in records}
    for record in records:
        mine = rates[record["name"]]
        record["rate"] = float(np.median(mine))
        record["microseconds"] = 1e6 * float(np.median(record["seconds"])) / record["count"]
        quartiles = {name: np.quantile(mine / rates[name], [0.25, 0.5, 0.75]) for name in part.references}
        record["rate_ratios"] = {name: dict(zip(("q1", "median", "q3"), map(float, q), strict=True)) for name, q in quartiles.items()}
    return {**part._asdict(), **more, "rounds": len(records[0]["seconds"]), "contenders": records}


def memory_bytes() -> int | None:
    """Of the device, or of the host for a CPU; None where nobody says."""
    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    host = device.platform == "cpu" and hasattr(os, "sysconf")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if limit is None and host else limit


def out_of_memory(error: Exception) -> bool:
    """Whether this is how a device, or NumPy, says so."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def halving(run: Callable[[int], dict], size: int, bytes_each: int) -> dict:
    """``run(size)`` at a size that takes half of the memory at most, halved again each time memory runs out; the result says what was asked for."""
    asked, memory = size, memory_bytes()
    while memory is not None and size > 1 and size * bytes_each > memory / 2:
        size //= 2
    while True:
        try:
            return {**run(size), "size": size, "asked": asked}
        except Exception as error:
            if size == 1 or not out_of_memory(error):
                raise
        size //= 2  # here, where the error is gone and with it the arrays that its frames hold


def in_place(step: Callable, carry: tuple, *rest) -> Callable[[], Any]:
    """A call that gives its last output to the next one, donated."""
    jitted, held = jax.jit(step, donate_argnums=tuple(range(len(carry)))), [carry]

    def call():
        held[0] = jitted(*held[0], *rest)
        return held[0]

    return call


def update_with(rule) -> Callable:
    """One step of an optax transformation."""

    def step(params, state, grads):
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def repeated(step: Callable, count: int) -> Callable:
    """So many steps in one compiled loop."""
    return lambda params, state, grads: lax.fori_loop(0, count, lambda _, carry: step(*carry, grads), (params, state))


def momentum_entries(grads, work: float, chained: int) -> list[Entry]:
    """Momentum by optax and gdjax, a donated step at a time, and by gdjax in a loop that is one program."""
    ours = {"gdjax.sgd": gdjax.sgd(0.1, momentum=0.9), "gdjax.heavy_ball": gdjax.heavy_ball(0.1, 0.9)}

    def entry(name, rule, count=1):
        params = jax.tree.map(jnp.ones_like, grads)
        step = update_with(rule) if count == 1 else repeated(update_with(rule), count)
        label = f"{name}, Python loop" if count == 1 else f"{name}, {count} in one program"
        return Entry(label, in_place(step, (params, rule.init(params)), grads), count * work, count)

    singles = [entry(name, rule) for name, rule in {"optax.sgd": optax.sgd(0.1, momentum=0.9), **ours}.items()]
    return singles + [entry(name, rule, chained) for name, rule in ours.items()]


def run_updates(sizes: Sizes, rounds: int, size: int) -> dict:
    """Momentum of one large leaf: reads params, gradient and velocity, writes params and velocity."""
    x, copied = jnp.ones(size, jnp.float32), 8 * size / 1e9
    copy, add_one = jax.jit(lambda x: x + 0), in_place(lambda x: (x + 1,), (jnp.ones(size, jnp.float32),))
    entries = [Entry(COPY, lambda: copy(x), copied), Entry(IN_PLACE, add_one, copied)]
    entries += momentum_entries(x, 20 * size / 1e9, sizes.chained)
    part = Part(f"momentum of {size:,} float32 params in one leaf, 20 bytes each (copy: 8)", "GB/s", "update", (COPY, IN_PLACE))
    return result_of(part, in_turns(entries, rounds))


def run_leaves(sizes: Sizes, rounds: int) -> dict:
    """Momentum of many small leaves."""
    grads = [jnp.full((16, 16), 1e-3, jnp.float32) for _ in range(sizes.leaves)]
    part = Part(f"momentum of {sizes.leaves:,} leaves of 16 x 16", "updates/s", "update", (OPTAX_UPDATE,))
    return result_of(part, in_turns(momentum_entries(grads, 1, sizes.chained), rounds))


class Model(NamedTuple):
    """A loss with its start and data; ``batch_size`` None is the full batch."""

    name: str
    loss_fn: Callable
    params: Any
    data: tuple[np.ndarray, np.ndarray]
    batch_size: int | None
    steps: int


def models(sizes: Sizes) -> list[Model]:
    """Logistic regression, and a network on generated images."""
    start, network = {"weights": np.zeros(30, np.float32), "bias": np.zeros((), np.float32)}, problems.mlp(sizes.network_rows)
    data = gradients.data_of(LOGISTIC)[:2]
    return [
        Model("logistic regression 569 x 30, full batch", problems.logistic_loss, start, data, None, sizes.logistic_steps),
        Model("network 784-128-10, batches of 32", network.loss_fn, network.params, network.data, 32, sizes.network_steps),
    ]


def fitted(model: Model, steps: int, shuffle: bool) -> Callable[[], tuple[Any, int]]:
    """``gdjax.fit``, with a stop that never comes."""
    params, data = jax.tree.map(jnp.asarray, (model.params, model.data))
    never = gdjax.stop.grad_norm(0.0) if model.batch_size is None else None
    settings = {"batch_size": model.batch_size, "steps": steps, "key": 0, "shuffle": "epoch" if shuffle else False, "stop": never, "progress": False}

    def run():
        result = gdjax.fit(model.loss_fn, params, data, gdjax.sgd(RATE), **settings)
        return jax.block_until_ready(result.params), int(result.steps)

    return run


def looped(model: Model, steps: int, shuffle: bool, on_device: bool = True) -> Callable[[], tuple[Any, int]]:
    """optax in a Python loop around a jitted step with donated params: batches are taken within the step, or cut from NumPy arrays."""
    rule, size, draw = optax.sgd(RATE), model.batch_size, np.random.default_rng(0)
    data = jax.tree.map(jnp.asarray, model.data) if on_device else model.data

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, data, rows):
        batch = data if rows is None else jax.tree.map(lambda x: x[rows], data)
        value, grads = jax.value_and_grad(model.loss_fn)(params, batch)
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    def run():
        params = jax.tree.map(jnp.array, model.params)
        state = rule.init(params)
        for rows in itertools.repeat(None, steps) if size is None else order(draw, len(model.data[0]), size, steps, shuffle):
            seen = (data, rows) if on_device else (tuple(x[rows] for x in data), None)
            params, state, _ = step(params, state, *seen)
        return jax.block_until_ready(params), steps

    return run


def run_model(model: Model, rounds: int) -> dict:
    """Steps per second of ``gdjax.fit`` and of optax in a Python loop, after both were seen to arrive at the same params without shuffling."""
    prepare = {"gdjax.fit": functools.partial(fitted, model), OPTAX_LOOP: functools.partial(looped, model)}
    if model.batch_size is not None:
        prepare[OPTAX_BATCHES] = functools.partial(looped, model, on_device=False)
    contenders = [measure.Contender(*named) for named in prepare.items()]
    difference = measure.check_agreement(contenders, min(model.steps, 50), atol=2e-3)  # room for products of reduced precision
    records = [{**record, "work": model.steps, "count": model.steps, "calls": 1} for record in measure.race(contenders, model.steps, rounds)]
    part = Part(f"{model.name}, {model.steps:,} steps", "steps/s", "step", (OPTAX_LOOP,))
    return result_of(part, records, largest_difference=difference)


@functools.partial(jax.jit, static_argnums=(0, 1))
def large_data(rows: int, columns: int):
    """(w, (X, y)), made on the device; y = ±1 by another w."""
    inputs = jax.random.uniform(jax.random.key(0), (rows, columns), jnp.float32, minval=-1.0)
    right, w = jax.random.normal(jax.random.key(1), (2, columns), jnp.float32)
    return w / 10, (inputs, jnp.where(inputs @ right > 0, jnp.float32(1), jnp.float32(-1)))


def run_gradients(sizes: Sizes, rounds: int, size: int) -> dict:
    """Value and gradient over all rows, in blocks and whole, beside one read of them."""
    w, data = large_data(size, sizes.columns)
    loss, total, moved = gdjax.finite_sum(gradients.logistic), jax.jit(jnp.sum), 4 * size * sizes.columns / 1e9
    blocked = jax.jit(lambda w, data: Objective(loss, chunk_size="auto").value_and_grad(w, data)[:2])
    whole = jax.jit(lambda w, data: jax.value_and_grad(loss)(w, data))
    difference = apart(blocked(w, data)[1], whole(w, data)[1])
    calls = {"gdjax, blocked": lambda: blocked(w, data), WHOLE: lambda: whole(w, data), gradients.READ: lambda: total(data[0])}
    title = f"logistic regression {size:,} x {sizes.columns}, value and gradient (X of {1e3 * moved:,.0f} MB)"
    part = Part(title, "GB/s of X", "pass", (WHOLE, gradients.READ))
    return result_of(part, in_turns([Entry(name, call, moved) for name, call in calls.items()], rounds), largest_difference=difference)


def apart(mine, reference, most: float = 1e-2) -> float:
    """The largest distance of the rows of two arrays, as a share of the largest norm; an error past what products of reduced precision explain."""
    mine, reference = np.atleast_2d(np.asarray(mine, np.float64)), np.atleast_2d(np.asarray(reference, np.float64))
    worst = float(np.linalg.norm(mine - reference, axis=1).max() / np.linalg.norm(reference, axis=1).max())
    if not worst <= most:
        raise measure.Disagreement(f"results differ by {worst:.1e} of their norm")
    return worst


def run_sweep(sizes: Sizes, rounds: int) -> dict:
    """Runs with many learning rates: all at once by ``jax.vmap``, and one after another with one compiled run."""
    data = jax.tree.map(jnp.asarray, gradients.data_of(LOGISTIC)[:2])
    start = {"weights": jnp.zeros(30, jnp.float32), "bias": jnp.zeros((), jnp.float32)}
    rules = gdjax.sgd(jnp.geomspace(1e-3, 1.0, sizes.rates))
    each = [jax.tree.map(lambda number, i=i: number[i], rules) for i in range(sizes.rates)]

    def fit(rule, data):
        return gdjax.fit(problems.logistic_loss, start, data, rule, batch_size=32, epochs=sizes.epochs, key=0, progress=False).params["weights"]

    at_once, alone = jax.jit(jax.vmap(fit, in_axes=(0, None))), jax.jit(fit)
    difference = apart(at_once(rules, data), np.stack([alone(rule, data) for rule in each]))
    calls = {"jax.vmap of gdjax.fit": lambda: at_once(rules, data), ONE_BY_ONE: lambda: [alone(rule, data) for rule in each]}
    part = Part(f"{sizes.rates} learning rates, logistic regression 569 x 30, batches of 32, {sizes.epochs} epochs", "runs/s", "run", (ONE_BY_ONE,))
    entries = [Entry(name, call, sizes.rates, sizes.rates) for name, call in calls.items()]
    return result_of(part, in_turns(entries, rounds), largest_difference=difference)


def measure_all(sizes: Sizes, rounds: int, show: Callable[[str], None] = print) -> list[dict]:
    """Every part, shown as soon as it is there."""
    runs = [
        lambda: halving(functools.partial(run_updates, sizes, rounds), sizes.params, 64),  # some 15 arrays
        lambda: run_leaves(sizes, rounds),
        *[functools.partial(run_model, model, rounds) for model in models(sizes)],
        lambda: halving(functools.partial(run_gradients, sizes, rounds), sizes.rows, 8 * sizes.columns),
        lambda: run_sweep(sizes, rounds),
    ]
    parts = []
    for run in runs:
        parts.append(run())
        show(f"{table(parts[-1])}\n")
    return parts


def device_facts() -> dict:
    """The device that all was run on, and how many there are."""
    device = jax.devices()[0]
    version = " ".join(str(device.client.platform_version).split())
    return {"kind": device.device_kind, "platform": device.platform, "count": jax.device_count(), "runtime": version, "memory_bytes": memory_bytes()}


def describe(device: dict) -> str:
    """The facts as a sentence."""
    memory = "unknown memory" if device["memory_bytes"] is None else f"{device['memory_bytes'] / 1e9:,.0f} GB of memory"
    return f"Device: {device['kind']} (platform {device['platform']}), the first of {device['count']}, {memory}; runtime {device['runtime']}."


def number(x: float) -> str:
    """With as many digits as can be meant."""
    return f"{x:,.0f}" if x >= 1000 else f"{x:,.1f}" if x >= 10 else f"{x:.2f}"


def table(result: dict, markdown: bool = False) -> str:
    """A part's contenders."""
    rows = []
    for record in result["contenders"]:
        ratios = [f"{r['median']:.2f} ({r['q1']:.2f}-{r['q3']:.2f})" for r in record["rate_ratios"].values()]
        rows.append([record["name"], number(record["microseconds"]), number(record["rate"]), *ratios])
    notes = [f"{result['rounds']} rounds"] + ([f"results equal to {result['largest_difference']:.0e}"] if "largest_difference" in result else [])
    notes += [f"halved from {result['asked']:,}, which do not fit the memory"] if result.get("asked", 0) > result.get("size", 0) else []
    header = ["", f"us per {result['item']}", result["unit"], *(f"x {name}" for name in result["references"])]
    return f"{'### ' if markdown else ''}{result['title']} ({'; '.join(notes)})\n\n{measure.table(header, rows, markdown)}"


def as_markdown(report: dict) -> str:
    """The report as a Markdown page."""
    what = (
        f"{describe(report['device'])}\n\nRates are medians over rounds, the higher the better. Ratios: medians over rounds of the rate over that of the "
        "reference in the same round, with quartiles. The copy writes to fresh memory, which on a CPU the system has to hand out first; in place there is none."
    )
    return "\n\n".join([measure.heading("Accelerator", report, what), *(table(part, markdown=True) for part in report["parts"])])


def results_path(kind: str) -> pathlib.Path:
    """Where the results of a kind of device go by default."""
    return RESULTS / f"accelerator-{re.sub(r'[^a-z0-9]+', '-', kind.lower()).strip('-')}.json"


def _add_arguments(parser) -> None:
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds: under 40 s")
    parser.add_argument("--rounds", type=int, help="rounds (default 11, with --quick 3)")
    where = f"write JSON, and Markdown beside it (default benchmarks/{RESULTS.name}/accelerator-<device>.json)"
    parser.add_argument("--json", nargs="?", const="", metavar="PATH", help=where)


@register("accelerator", _add_arguments)
def main(arguments) -> int:
    """Bandwidth of updates, steps per second of small models, gradients of large data and a sweep, on whatever device JAX finds."""
    began, device = time.perf_counter(), device_facts()
    sizes = sizes_for(device["platform"], arguments.quick)
    report = {"benchmark": "accelerator", "quick": arguments.quick, "machine": measure.machine(), "device": device, "sizes": sizes._asdict()}
    print(f"{describe(device)} {', '.join(f'{name} {v}' for name, v in report['machine']['versions'].items() if v)}\n")
    report["parts"] = measure_all(sizes, arguments.rounds or (3 if arguments.quick else 11))
    report["seconds"] = time.perf_counter() - began
    if arguments.json is not None:
        measure.save(report, as_markdown(report), arguments.json or results_path(device["kind"]))
    print(f"{report['seconds']:.0f} s")
    return 0
