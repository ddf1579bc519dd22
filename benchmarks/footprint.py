"""What time does not show: how often the loss is traced, how many programs are compiled, how much memory a fit takes. Each in a fresh process."""

from __future__ import annotations

import gc
import json
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks import handwritten, measure, peers, problems

STATUS = pathlib.Path("/proc/self/status")
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
MEMORY_CONTENDERS = {
    "scan": (handwritten.fit_scan, None),
    "gdjax": (peers.gdjax_fit, None),
    "optax, Python loop": (peers.optax_fit, None),
    "jaxopt": (peers.jaxopt_fit, "jaxopt"),
    "PyTorch": (peers.torch_fit, "torch"),
}


def in_fresh_process(what: str) -> dict:
    """Runs ``python -m benchmarks.footprint WHAT`` and reads the JSON on its last line."""
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-m", "benchmarks.footprint", what], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"benchmarks.footprint {what} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def count_compilations(call: Callable[[], object], traces: list[int]) -> dict:
    """Programs that XLA compiled during ``call`` (every program of the process, one-operation helpers included) and traces of the loss."""
    compiled = []

    def listen(event, seconds, **_):
        if event == COMPILE_EVENT:
            compiled.append(seconds)

    before = len(traces)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.block_until_ready(call())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return {"loss_traces": len(traces) - before, "programs_compiled": len(compiled), "compile_seconds": sum(compiled)}


def compilations_of(door: str) -> dict:
    """Traces and compilations of a door's first call, and with another learning rate, other data and params of the same shapes, other steps."""
    import gdjax

    problem, traces = problems.softmax(rows=2_000, columns=50), []

    def loss_fn(params, batch):
        traces.append(1)
        return problem.loss_fn(params, batch)

    def call(learning_rate, scale, steps=50):
        params = jax.tree.map(lambda x: np.asarray(x + scale, np.float32), problem.params)
        data = (problem.data[0] * np.float32(1 + scale), problem.data[1])
        rule = gdjax.sgd(learning_rate)
        if door == "minimize":
            return gdjax.minimize(loss_fn, params, rule, args=(data,), tol=0.0, max_steps=steps, progress=False).params
        return gdjax.fit(loss_fn, params, data, rule, batch_size=32, steps=steps, key=0, progress=False).params

    calls = {
        "first call": (0.1, 0.0),
        "another learning rate": (0.02, 0.0),
        "other data and params": (0.02, 0.5),
        "another number of steps": (0.02, 0.5, 57),
    }
    return {name: count_compilations(lambda: call(*numbers), traces) for name, numbers in calls.items()}  # noqa: B023


def compilations() -> dict:
    """Counts for both doors, each in a fresh process."""
    return {door: in_fresh_process(f"compilations:{door}") for door in ("minimize", "fit")}


def status_bytes(field: str) -> int:
    """Of a line of /proc/self/status, such as VmRSS."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {field}")


class PeakMemory:
    """Resident memory beyond that at entry, sampled every millisecond where the kernel's own peak cannot be reset."""

    def __enter__(self):
        gc.collect()
        self.start, self.exact = status_bytes("VmRSS"), True
        self.sampled, self.stop = self.start, threading.Event()
        try:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.exact = False
        self.sampler = threading.Thread(target=self._sample, daemon=True)
        if not self.exact:
            self.sampler.start()
        return self

    def _sample(self):
        while not self.stop.is_set():
            self.sampled = max(self.sampled, status_bytes("VmRSS"))
            time.sleep(0.001)

    def __exit__(self, *_):
        self.stop.set()
        if not self.exact:
            self.sampler.join()
        gc.collect()
        self.live = status_bytes("VmRSS") - self.start
        self.peak = (status_bytes("VmHWM") if self.exact else self.sampled) - self.start


def memory_of(name: str, side: int = 5000) -> dict:
    """Growth of the resident memory during a fit of side x side params with momentum, in units of the params."""
    prepare, _ = MEMORY_CONTENDERS[name]
    small = prepare(problems.large_linear(side=64), 5, True, batch_size=8)
    small()  # libraries loaded, thread pools up
    problem = problems.large_linear(side)
    run = prepare(problem, 5, True, batch_size=8)
    with PeakMemory() as used:
        params, _ = run()
    unit = problem.params.nbytes
    assert jax.tree.leaves(params)[0].shape == problem.params.shape  # alive until here
    return {"params_bytes": unit, "peak_over_params": used.peak / unit, "live_after_over_params": used.live / unit, "kernel_peak": used.exact}


def memory() -> dict:
    """Memory of every contender that is installed, each in a fresh process."""
    if not STATUS.exists():
        return {"contenders": {}, "skipped": [f"memory: skipped, this system has no {STATUS}"]}
    contenders = [measure.Contender(name, None, needs=needs) for name, (_, needs) in MEMORY_CONTENDERS.items()]
    present, skipped = measure.split_missing(contenders)
    return {"contenders": {c.name: in_fresh_process(f"memory:{c.name}") for c in present}, "skipped": skipped}


def format_compilations(result: dict, markdown: bool = False) -> str:
    """The counts as a table."""
    rows = [
        [f"{door}, {call}", str(counts["loss_traces"]), str(counts["programs_compiled"]), f"{counts['compile_seconds']:.2f}"]
        for door, calls in result.items()
        for call, counts in calls.items()
    ]
    title = "compilations (fresh process; Python calls of the loss, and all programs XLA compiled, one-operation helpers included)"
    body = measure.table(["call", "loss traces", "programs", "compile s"], rows, markdown)
    return f"{'### ' if markdown else ''}{title}\n" + ("\n" if markdown else "") + body + "\n"


def format_memory(result: dict, markdown: bool = False) -> str:
    """The growth of memory as a table."""
    rows = [[name, f"{m['peak_over_params']:.2f}", f"{m['live_after_over_params']:.2f}"] for name, m in result["contenders"].items()]
    unit = max((m["params_bytes"] for m in result["contenders"].values()), default=0) / 1e6
    title = f"memory (fit, momentum, {unit:.0f} MB of params: growth of resident memory over params; 3 = new params + velocity + gradient)"
    body = measure.table(["contender", "peak", "live after"], rows, markdown)
    skipped = [f"{'- ' if markdown else ''}{line}" for line in result["skipped"]]
    return "\n".join([f"{'### ' if markdown else ''}{title}", *([""] if markdown else []), body, *skipped]) + "\n"


if __name__ == "__main__":
    kind, _, argument = sys.argv[1].partition(":")
    print(json.dumps({"compilations": compilations_of, "memory": memory_of}[kind](argument)))
