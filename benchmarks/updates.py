"""Parameter updates at the speed of memory: steps with momentum, gradients given, beside optax, PyTorch and a pass over as many bytes."""

from __future__ import annotations

import functools
import itertools
import math
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import gdjax
from benchmarks import measure, register
from benchmarks.measure import Contender

RESULTS = pathlib.Path(__file__).parent / "results" / "updates.json"
OURS = "gdjax, compiled loop"
LIMIT = "a pass in place"
RATE, MOMENTUM = 0.01, 0.9


class Work(NamedTuple):
    """The shapes of the params, and how many steps a timed call makes."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    steps: int

    @property
    def parameters(self) -> int:
        """In all leaves together."""
        return sum(map(math.prod, self.shapes))

    @property
    def bytes(self) -> int:
        """What a step reads and writes: params and velocity both ways, the gradient once; float32."""
        return 5 * 4 * self.parameters


def small_network() -> tuple[tuple[int, ...], ...]:
    """150 leaves: 50 convolutions of 3 x 3, each with a scale and a bias, of 16 to 96 channels."""
    channels = [16 * (1 + layer // 10) for layer in range(51)]
    layers = [((3, 3, before, after), (after,), (after,)) for before, after in itertools.pairwise(channels)]
    return tuple(shape for layer in layers for shape in layer)


WORK = (
    Work("one leaf of 25,000,000", ((25_000_000,),), 10),
    Work("1,000 leaves of 16 x 16", ((16, 16),) * 1000, 50),
    Work("150 leaves of a small network", small_network(), 50),
)
QUICK, QUICK_STEPS = WORK[:2], 10


@functools.lru_cache(maxsize=2)
def arrays_of(shapes: tuple[tuple[int, ...], ...], seed: int) -> list[np.ndarray]:
    """Normal numbers, the same in every run: to be copied before they are changed."""
    draw = np.random.default_rng(seed)
    return [draw.standard_normal(shape, np.float32) for shape in shapes]


def _one_step(rule, carry, grads):
    params, state = carry
    updates, state = rule.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def _start(work: Work, rule):
    params = [jnp.array(x) for x in arrays_of(work.shapes, 0)]
    return params, rule.init(params)


def compiled_loop(rule, work: Work, grads, steps: int, shuffle: bool = False) -> Callable:
    """All steps of a call in one program; the number of steps and the gradient are arguments, so that nothing can be worked out beforehand."""

    @functools.partial(jax.jit, donate_argnums=0)
    def descend(carry, grads, steps):
        return lax.fori_loop(0, steps, lambda _, carry: _one_step(rule, carry, grads), carry)

    held = [_start(work, rule)]

    def run():
        held[0] = jax.block_until_ready(descend(held[0], grads, steps))
        return held[0][0], steps

    return run


def python_loop(rule, donated: bool, work: Work, grads, steps: int, shuffle: bool = False) -> Callable:
    """One jitted step, called from Python."""
    step = jax.jit(functools.partial(_one_step, rule), donate_argnums=0 if donated else ())
    held = [_start(work, rule)]

    def run():
        carry = held.pop()
        for _ in range(steps):
            carry = step(carry, grads)
        held.append(jax.block_until_ready(carry))
        return carry[0], steps

    return run


def with_torch(kind: str, work: Work, grads, steps: int, shuffle: bool = False) -> Callable:
    """``torch.optim.SGD`` with ``foreach=True`` or ``fused=True``."""
    import torch

    torch.set_num_threads(measure.threads())
    params = [torch.tensor(x).requires_grad_() for x in arrays_of(work.shapes, 0)]
    for x, grad in zip(params, arrays_of(work.shapes, 1), strict=True):
        x.grad = torch.from_numpy(grad)
    optimizer = torch.optim.SGD(params, lr=RATE, momentum=MOMENTUM, **{kind: True})

    def run():
        for _ in range(steps):
            optimizer.step()
        return [x.detach().numpy() for x in params], steps

    return run


def one_pass(work: Work, steps: int, shuffle: bool = False) -> Callable:
    """The limit: ``x + 1`` in place over an array so long that reading and writing it moves as many bytes as a step."""

    @functools.partial(jax.jit, donate_argnums=0)
    def passes(x, steps):
        return lax.fori_loop(0, steps, lambda _, x: x + 1, x)

    held = [jnp.zeros(work.bytes // 8)]

    def run():
        held[0] = jax.block_until_ready(passes(held[0], steps))
        return held[0], steps

    return run


def contenders(work: Work) -> list[Contender]:
    """Everyone who can make the steps, and last the limit, which computes nothing of use."""
    grads, bind = [jnp.asarray(x) for x in arrays_of(work.shapes, 1)], functools.partial
    ours, theirs = gdjax.sgd(RATE, momentum=MOMENTUM), optax.sgd(RATE, momentum=MOMENTUM)
    return [
        Contender(OURS, bind(compiled_loop, ours, work, grads)),
        Contender("gdjax, step donated", bind(python_loop, ours, True, work, grads)),
        Contender("optax, compiled loop", bind(compiled_loop, theirs, work, grads)),
        Contender("optax, step donated", bind(python_loop, theirs, True, work, grads)),
        Contender("optax, step", bind(python_loop, theirs, False, work, grads)),
        Contender("PyTorch, foreach", bind(with_torch, "foreach", work, grads), needs="torch"),
        Contender("PyTorch, fused", bind(with_torch, "fused", work, grads), needs="torch"),
        Contender(LIMIT, bind(one_pass, work)),
    ]


def best_peer(records: list[dict]) -> str:
    """The fastest of the others."""
    others = [record for record in records if not record["name"].startswith("gdjax") and record["name"] != LIMIT]
    return min(others, key=lambda record: record["microseconds_per_step"])["name"]


def run_work(work: Work, rounds: int) -> dict:
    """Times all contenders in turns, and checks that the first call of each made the same params."""
    seen: dict = {}
    present, skipped = measure.split_missing(contenders(work))
    records = measure.race(present, work.steps, rounds, seen)
    del seen[LIMIT]
    difference = measure.largest_difference(seen, work.steps)
    best = best_peer(records)
    measure.add_ratios(records, [best, LIMIT])
    facts = {"work": work.name, "parameters": work.parameters, "leaves": len(work.shapes), "bytes": work.bytes, "rounds": rounds}
    return {**facts, "largest_difference": difference, "best_peer": best, "contenders": records, "skipped": skipped}


def table(result: dict, markdown: bool = False) -> str:
    """A piece of work's contenders."""
    rows = []
    for record in result["contenders"]:
        seconds = record["microseconds_per_step"] / 1e6
        ratios = [f"{r['median']:.2f} ({r['q1']:.2f}-{r['q3']:.2f})" for r in record["ratios"].values()]
        rows.append([record["name"], f"{1e6 * seconds:,.0f}", f"{result['bytes'] / seconds / 1e9:.1f}", f"{record['first_call_seconds']:.2f}", *ratios])
    references = [f"x {name}" for name in result["contenders"][0]["ratios"]]
    size = f"{result['parameters']:,} params, {result['bytes'] / 1e6:,.0f} MB read and written a step"
    head = f"{result['work']} ({size}; {result['rounds']} rounds; same params to {result['largest_difference']:.0e})"
    body = measure.table(["", "us/step", "GB/s", "first call s", *references], rows, markdown)
    return "\n".join([f"{'### ' if markdown else ''}{head}\n", body, *[f"{'- ' if markdown else ''}{line}" for line in result["skipped"]]])


WHAT = (
    "Stochastic gradient descent with momentum 0.9, gradients given, float32. A step reads params, velocity and gradient and writes params and velocity: "
    f"five times the params. '{LIMIT}': x + 1 over an array so long that it moves as many bytes. Ratios: medians over rounds of time over that of the "
    "fastest peer and of the limit, with quartiles; the contenders take turns."
)


def as_markdown(report: dict) -> str:
    """The report as a Markdown page."""
    return "\n\n".join([measure.heading("Updates", report, WHAT, cores=True), *(table(result, markdown=True) for result in report["work"])])


def _add_arguments(parser) -> None:
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(work.name for work in QUICK)}, {QUICK_STEPS} steps a call, 3 rounds")
    parser.add_argument("--rounds", type=int, help="rounds (default 15, with --quick 3)")
    measure.add_json_argument(parser, RESULTS)


@register("updates", _add_arguments)
def main(arguments) -> int:
    """Seconds per update of many params with momentum, beside optax, PyTorch and a pass over as many bytes."""
    report = {"benchmark": "updates", "quick": arguments.quick, "machine": measure.machine(), "work": []}
    for work in QUICK if arguments.quick else WORK:
        steps = min(work.steps, QUICK_STEPS) if arguments.quick else work.steps
        report["work"].append(run_work(work._replace(steps=steps), arguments.rounds or (3 if arguments.quick else 15)))
        print(f"{table(report['work'][-1])}\n")
    if arguments.json:
        measure.save(report, as_markdown(report), arguments.json)
    return 0
