"""Who takes part in ``python -m benchmarks fit``: our rules and the peers at their documented defaults, and the sweeps that say what can be had."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gdjax
from benchmarks.training import Method, Sweep

DEFAULT = "default"  # gdjax.fit with rule=None
FULL_BATCH = {
    "ac_fgm", "accelerated", "adapgm", "adgd", "armijo", "barzilai_borwein", "chebyshev", "exact_line_search", "item", "nonlinear_cg", "ogm", "ogm_g",
    "reduced_hessian", "triple_momentum",
}  # fmt: skip  # by their documentation
FINITE_SUM = {"loopless_svrg", "page", "sag", "saga", "svrg"}  # they want to know whose gradient it is: python -m benchmarks finite_sums

# Our rules that their defaults alone do not make: name -> rule of the number of steps. Those that this version lacks are skipped.
MADE: dict[str, Callable[[Any, int], Any]] = {
    "parameter_free_sgd(steps)": lambda rules, steps: rules.parameter_free_sgd(steps),
    "parameter_free_adam(steps)": lambda rules, steps: rules.parameter_free_adam(steps),
    "average(sgd(0.1, 0.9))": lambda rules, steps: rules.average(rules.sgd(0.1, 0.9)),
    "mechanic(sgd)": lambda rules, steps: rules.mechanic(rules.sgd(1.0)),
    "mechanic(sgd 0.9 cosine)": lambda rules, steps: rules.mechanic(rules.sgd(gdjax.schedules.cosine(1.0, steps), 0.9)),
    "mechanic(adam)": lambda rules, steps: rules.mechanic(optax.adam(1.0)),
}


def of_step_count(make: Callable[[], Any]) -> Callable[[int], Any]:
    """For rules that do not ask how long the run is."""
    return lambda steps: make()


def _sgd(rate, steps):
    return gdjax.sgd(gdjax.schedules.cosine(rate, steps), 0.9)


def _adam(rate, steps):
    return optax.adam(gdjax.schedules.cosine(rate, steps))


def sweeps() -> list[Sweep]:
    """What can be had by trying thirteen learning rates, a factor of 2.6 or 3.2 apart."""
    return [
        Sweep("sgd momentum 0.9 cosine swept", _sgd, tuple(10 ** (5 * i / 12 - 4) for i in range(13))),
        Sweep("adam cosine swept", _adam, tuple(10 ** (i / 2 - 4.5) for i in range(13))),
    ]


def _needed(factory) -> list[str]:
    """Names of the arguments without a default."""
    return [p.name for p in inspect.signature(factory).parameters.values() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _makes(factory) -> bool:
    try:
        factory()
    except (TypeError, ValueError):  # one of several arguments must be given
        return False
    return True


def _takes_schedule(factory) -> bool:
    given = inspect.signature(factory).parameters.get("learning_rate")
    return "steps" not in inspect.signature(factory).parameters and given is not None and isinstance(given.default, (int, float))


def _cosine(factory, steps: int):
    peak = inspect.signature(factory).parameters["learning_rate"].default
    return factory(learning_rate=gdjax.schedules.cosine(peak, steps))


def ours() -> tuple[list[Method], list[str]]:
    """gdjax's default, every rule for mini-batches that its defaults make (with a cosine too, if it takes a schedule), and a line for each left out."""
    methods, left_out = [Method(DEFAULT, lambda steps: None, driver="fit")], []
    for name, factory in sorted(vars(gdjax.rules).items()):
        if name.startswith("_") or not callable(factory) or name in FULL_BATCH | FINITE_SUM:
            continue
        needed = _needed(factory)
        if needed or not _makes(factory):
            left_out.append(f"gdjax {name}: left out, {'it has no default for ' + ', '.join(needed) if needed else 'its defaults alone do not make it'}")
            continue
        methods.append(Method(name, of_step_count(factory)))
        if _takes_schedule(factory) and "schedule_free" not in name:
            methods.append(Method(f"{name}(cosine)", functools.partial(_cosine, factory)))
    for name, make in MADE.items():
        if hasattr(gdjax.rules, name.split("(")[0]):
            methods.append(Method(name, functools.partial(make, gdjax.rules)))
        else:
            left_out.append(f"gdjax {name}: left out, this version has no rule of that name")
    return methods, left_out


@gdjax.rule
def averaged(transformation, power=8.0):
    """A transformation whose points are averaged with weights that grow as t^power: what the authors of DoG report, and optax leaves to its users."""

    def init(params):
        return transformation.init(params), params, jnp.zeros((), jnp.int32)

    def update(grads, state, params=None, **extra):
        inner, mean, step = state
        updates, inner = optax.with_extra_args_support(transformation).update(grads, inner, params, **extra)
        weight = (1.0 + power) / (step + 1.0 + power)
        mean = jax.tree.map(lambda m, x, u: (1 - weight) * m + weight * (x + u), mean, params, updates)
        return updates, (inner, mean, step + 1)

    return init, update, lambda state, params: state[1]


@gdjax.rule
def reporting(transformation):
    """A schedule-free transformation of optax that reports the point it is meant to be read at."""
    return transformation.init, transformation.update, optax.contrib.schedule_free_eval_params


def peers() -> list[Method]:
    """optax at its defaults; where a schedule is a user's to choose, constant and with a cosine."""
    contrib, cosine = optax.contrib, gdjax.schedules.cosine
    fixed = {
        "optax sgd(0.1) momentum 0.9": lambda: optax.sgd(0.1, 0.9),
        "optax adam(1e-3)": lambda: optax.adam(1e-3),
        "optax prodigy": contrib.prodigy,
        "optax dadapt_adamw": contrib.dadapt_adamw,
        "optax dog": contrib.dog,
        "optax dog averaged": lambda: averaged(contrib.dog()),
        "optax dowg": contrib.dowg,
        "optax cocob": contrib.cocob,
        "optax momo": contrib.momo,
        "optax momo_adam": contrib.momo_adam,
        "optax mechanize(sgd)": lambda: contrib.mechanize(optax.sgd(1.0)),
        "optax mechanize(adam)": lambda: contrib.mechanize(optax.adam(1.0)),
        "optax schedule_free_sgd": lambda: reporting(contrib.schedule_free_sgd()),
        "optax schedule_free_adamw": lambda: reporting(contrib.schedule_free_adamw()),
    }
    scheduled = {
        "optax prodigy(cosine)": lambda steps: contrib.prodigy(cosine(1.0, steps)),
        "optax mechanize(sgd 0.9 cosine)": lambda steps: contrib.mechanize(optax.sgd(cosine(1.0, steps), 0.9)),
    }
    return [*[Method(name, of_step_count(make)) for name, make in fixed.items()], *[Method(name, make) for name, make in scheduled.items()]]
