"""Start-up: seconds from the first line after the imports to the first result, each in a process of its own, with and without a compilation cache."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from benchmarks import measure, register

RESULTS = pathlib.Path(__file__).parent / "results" / "startup.json"
HAND = "hand-written scan"
REPEATS, QUICK_REPEATS = 5, 2

PREAMBLE = """
import json, time
import numpy as np
began = time.perf_counter()
import jax, jax.numpy as jnp
from jax import lax
IMPORTS
counted = dict(compilations=0, cache_hits=0)
def heard(event, **_):
    counted["cache_hits"] += event == "/jax/compilation_cache/cache_hits"
def took(event, seconds, **_):
    counted["compilations"] += event == "/jax/core/compile/backend_compile_duration"
jax.monitoring.register_event_listener(heard)
jax.monitoring.register_event_duration_secs_listener(took)
jax.block_until_ready(jnp.zeros(3) + 1)  # the device is there
imported = time.perf_counter()
draw = np.random.default_rng(0)
X = draw.standard_normal((569, 30)).astype(np.float32)
y = np.where(draw.random(569) < 0.5, -1, 1).astype(np.float32)
def loss(w, batch):
    return jnp.mean(jax.nn.softplus(-batch[1] * (batch[0] @ w)))
"""
ENDING = """
first = time.perf_counter()
jax.block_until_ready(run(0.2))
second = time.perf_counter()
print(json.dumps(dict(import_seconds=imported - began, first_call_seconds=first - imported, another_learning_rate=second - first, **counted)))
"""
FULL = """
@jax.jit
def descend(h, data):
    body = lambda w, _: ((lambda v, g: (w - h * g, v))(*jax.value_and_grad(loss)(w, data)))
    return lax.scan(body, jnp.zeros(30), length=500)
def run(h):
    return descend(h, (jnp.asarray(X), jnp.asarray(y)))
jax.block_until_ready(run(0.1))
"""
BATCHES = """
@jax.jit
def descend(h, data, order):
    def body(w, rows):
        value, g = jax.value_and_grad(loss)(w, jax.tree.map(lambda x: x[rows], data))
        return w - h * g, value
    return lax.scan(body, jnp.zeros(30), order)
def run(h):
    order = np.stack([np.random.default_rng(epoch).permutation(569)[:544].reshape(17, 32) for epoch in range(10)]).reshape(-1, 32)
    return descend(h, (jnp.asarray(X), jnp.asarray(y)), jnp.asarray(order))
jax.block_until_ready(run(0.1))
"""
OPTAX = """
rule = optax.sgd(0.1)
@jax.jit
def step(w, state, batch):
    value, g = jax.value_and_grad(loss)(w, batch)
    updates, state = rule.update(g, state)
    return optax.apply_updates(w, updates), state, value
def run(h):
    w, data = jnp.zeros(30), (jnp.asarray(X), jnp.asarray(y))
    state = rule.init(w)
    for _ in range(500):
        w, state, value = step(w, state, data)
    return w
jax.block_until_ready(run(0.1))
"""
OURS = """
def run(h):
    return gdjax.fit(loss, jnp.zeros(30), (X, y), RULE, batch_size=SIZE, epochs=EPOCHS, key=0).params
jax.block_until_ready(run(0.1))
"""


def _ours(rule: str, size: str, epochs: int) -> tuple[str, str]:
    return "import gdjax", OURS.replace("RULE", rule).replace("SIZE", size).replace("EPOCHS", str(epochs))


WORK = {
    "full batch, 500 steps": {HAND: ("", FULL), "gdjax.fit": _ours("gdjax.gd(h)", "None", 500), "optax, Python loop": ("import optax", OPTAX)},
    "batches of 32, 10 epochs": {HAND: ("", BATCHES), "gdjax.fit": _ours("gdjax.sgd(h)", "32", 10)},
    "batches of 32, no rule given": {HAND: ("", BATCHES), "gdjax.fit": _ours("None", "32", 10)},
}


QUICK = [name for name in WORK if name != "batches of 32, 10 epochs"]


def once(imports: str, body: str, cache: str | None) -> dict:
    """The figures of one process."""
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent.parent)}
    if cache:
        least = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
        environment |= {"JAX_COMPILATION_CACHE_DIR": cache, **least}
    code = PREAMBLE.replace("IMPORTS", imports) + body + ENDING
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"a process of the benchmark failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_work(name: str, repeats: int) -> dict:
    """Medians over processes, contenders in turns: without a cache, and with one that an earlier process has filled."""
    contenders = WORK[name]
    with tempfile.TemporaryDirectory() as folder:
        for imports, body in contenders.values():
            once(imports, body, folder)
        seen: dict = {key: [] for key in contenders}
        cached: dict = {key: [] for key in contenders}
        for _ in range(repeats):
            for key, (imports, body) in contenders.items():
                seen[key].append(once(imports, body, None))
                cached[key].append(once(imports, body, folder))
    records = []
    for key in contenders:
        medians = {field: float(np.median([run[field] for run in seen[key]])) for field in seen[key][0]}
        warm = {f"{field} cached": float(np.median([run[field] for run in cached[key]])) for field in ("first_call_seconds", "cache_hits")}
        ratio = np.array([mine["first_call_seconds"] / hers["first_call_seconds"] for mine, hers in zip(seen[key], seen[HAND], strict=True)])
        quartiles = dict(zip(("q1", "median", "q3"), map(float, np.quantile(ratio, [0.25, 0.5, 0.75])), strict=True))
        seconds = [run["first_call_seconds"] for run in seen[key]]
        records.append({"name": key, **medians, **warm, "seconds": seconds, "ratios": {HAND: quartiles}})
    return {"work": name, "repeats": repeats, "contenders": records}


def table(result: dict, markdown: bool = False) -> str:
    """A piece of work's contenders."""
    rows = []
    for record in result["contenders"]:
        ratio = record["ratios"][HAND]
        seconds = [record[key] for key in ("import_seconds", "first_call_seconds", "another_learning_rate", "first_call_seconds cached")]
        counts = [f"{record['compilations']:.0f}", f"{record['cache_hits cached']:.0f}"]
        rows.append([record["name"], *(f"{s:.3f}" for s in seconds), *counts, f"{ratio['median']:.2f} ({ratio['q1']:.2f}-{ratio['q3']:.2f})"])
    header = ["seconds", "import", "first result", "another rate", "with cache", "programs", "cache hits", f"x {HAND}"]
    head = f"{result['work']} ({result['repeats']} processes each)"
    return f"{'### ' if markdown else ''}{head}\n\n{measure.table(header, rows, markdown)}"


def as_markdown(report: dict) -> str:
    """The report as a Markdown page."""
    what = (
        "Logistic regression, 569 rows of 30 columns. First result: from the end of the imports, tracing and compiling included. Programs: compiled in all, "
        "another learning rate included. With cache: the first result in a process whose programs an earlier one has left in JAX's compilation cache."
    )
    return "\n\n".join([measure.heading("Start-up", report, what), *(table(result, markdown=True) for result in report["work"])])


def _add_arguments(parser) -> None:
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}: under 60 s")
    parser.add_argument("--repeats", type=int, help=f"processes per contender (default {REPEATS}, with --quick {QUICK_REPEATS})")
    measure.add_json_argument(parser, RESULTS)


@register("startup", _add_arguments)
def main(arguments) -> int:
    """Seconds to the first result, in processes of their own, beside a hand-written loop and optax in a Python loop; with a compilation cache too."""
    report = {"benchmark": "startup", "machine": measure.machine(), "work": []}
    for name in QUICK if arguments.quick else WORK:
        report["work"].append(run_work(name, arguments.repeats or (QUICK_REPEATS if arguments.quick else REPEATS)))
        print(f"{table(report['work'][-1])}\n")
    if arguments.json:
        measure.save(report, as_markdown(report), arguments.json)
    return 0
