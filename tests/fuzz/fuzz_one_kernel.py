"""Thousands of random loops and runs, with one kernel and without: Python must never be ended, and the numbers must be those of plain JAX to rounding.

    python tests/fuzz/fuzz_one_kernel.py --count 5000 --runs 500

Each batch of loops is a process of its own, so that one that XLA ends is noted, with the seed, and the rest goes on. Of the loops, one in eight is compiled
with XLA's usual flags, the others with a code generator that is cheaper; kernels are made, and XLA died, before either comes in; runs are compiled as users'
are. A version of jaxlib belongs into ``gdjax.parts.xla.FUZZED`` once the whole of this ran on it.
"""

import argparse
import json
import os
import subprocess
import sys
import time

CHEAP = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
PER_PROCESS = 100  # loops: each program holds memory
TOGETHER = 5  # loops of a program
USUAL = 8  # one program, or process of runs, in so many is compiled as usual
FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def main(arguments=None) -> int:
    """The number of seeds at which something was wrong, 0 or 1 for the shell."""
    given = _arguments().parse_args(arguments)
    if given.worker:
        return _worker(given)
    total = {"loops": 0, "kernels": 0, "runs": 0, "wrong": [], "ended": []}
    for kind, count, size in (("loops", given.count, PER_PROCESS), ("runs", given.runs, PER_PROCESS // 4)):
        for first in range(given.first, given.first + count, size):
            _part(kind, first, min(first + size, given.first + count), total)
            print(f"{kind} to {first + size}: {total['kernels']} kernels, {len(total['ended'])} ended, {len(total['wrong'])} wrong", flush=True)
    print(json.dumps(total))
    return int(bool(total["wrong"] or total["ended"]))


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="random loops")
    parser.add_argument("--runs", type=int, default=500, help="random runs through the doors")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--worker", choices=("loops", "runs"), help=argparse.SUPPRESS)
    parser.add_argument("--last", type=int, help=argparse.SUPPRESS)
    return parser


def _part(kind: str, first: int, last: int, total) -> None:
    """Some seeds, in as many processes as it takes."""
    while first < last:
        command = [sys.executable, __file__, "--worker", kind, "--first", str(first), "--last", str(last)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": str(first // 100 % 4 == 3)}
        if kind == "runs":
            environment |= {"XLA_FLAGS": FLAGS if first // (PER_PROCESS // 4) % USUAL else ""}
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600, env=environment)
        begun = first
        for line in map(json.loads, filter(lambda text: text.startswith("{"), done.stdout.splitlines())):
            begun = line.get("begun", begun)
            total[kind] += line.get("done", 0)
            total["kernels"] += line.get("kernels", 0)
            if "wrong" in line:
                total["wrong"].append(line["wrong"])
                print(line["wrong"], flush=True)
        if done.returncode == 0:
            return
        why = next((text for text in done.stderr.splitlines() if "Check failed" in text or "Error" in text), done.stderr[-300:])
        total["ended"].append([kind, begun, done.returncode, why])
        print(total["ended"][-1], flush=True)
        first = begun + (TOGETHER if kind == "loops" else 1)


def _worker(given) -> int:
    import jax

    from gdjax.loop import one_kernel

    made, known = [], one_kernel._in_one_kernel
    one_kernel._in_one_kernel = lambda *args: (made.append(1), known(*args))[1]
    started = time.process_time()
    for first in range(given.first, given.last, TOGETHER if given.worker == "loops" else 1):
        print(json.dumps({"begun": first}), flush=True)
        if given.worker == "loops":
            wrong, done = _loops(range(first, min(first + TOGETHER, given.last)), bool(jax.config.jax_enable_x64))
        else:
            wrong, done = _run(first, bool(jax.config.jax_enable_x64)), 1
        print(json.dumps({"done": done, "kernels": len(made)} | ({"wrong": [given.worker, first, wrong]} if wrong else {})), flush=True)
        made.clear()
    print(f"{time.process_time() - started:.0f} s of CPU")
    return 0


def _loops(seeds, x64: bool) -> tuple[str, int]:
    """What is wrong with these loops, and how many they are."""
    from jax import lax
    from random_loops import Loop, compiled, different

    from gdjax.loop import one_kernel

    loops = [Loop(seed, x64) for seed in seeds]
    ours = compiled(loops, one_kernel.while_loop, {} if seeds[0] // TOGETHER % USUAL == 0 else CHEAP)()
    theirs = compiled(loops, lax.while_loop, CHEAP)()
    found = [f"seed {seed}: {text}" for seed, x, y in zip(seeds, ours, theirs, strict=True) if (text := different(x, y))]
    return " | ".join(found), len(loops)


def _run(seed: int, x64: bool) -> str:
    """What is wrong with this run."""
    from random_runs import Run, different

    from gdjax.parts import xla

    ours = Run(seed, x64).go()
    xla.ON, xla.KERNELS, kept = False, False, (xla.ON, xla.KERNELS)
    try:
        theirs = Run(seed, x64).go()
    finally:
        xla.ON, xla.KERNELS = kept
    return different(ours, theirs, Run(seed, x64).dtype)


if __name__ == "__main__":
    sys.exit(main())
