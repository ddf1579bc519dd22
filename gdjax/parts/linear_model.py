"""Linear models found in a loss by reading its program: ℓ(x, example) = φ(predictions, example), where the predictions are affine in the params x.

The gradient of an example is then Aᵀ φ′, with A the linear map from params to predictions: it can be made anew from the few numbers φ′ and the example. That
is what lets a table of gradients hold one number per example for a logistic regression, whatever the number of its params.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

CALLS = ("jit", "pjit", "closed_call", "core_call")  # read through; custom derivatives, loops and branches are taken as they are, and as nonlinear
LINEAR = (
    "neg", "reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims", "slice", "reduce_sum", "cumsum", "rev", "copy", "copy_p",
    "convert_element_type",
)  # fmt: skip
INDEXED = ("dynamic_slice", "gather")  # linear in their first operand
SUMS = ("add", "sub", "add_any", "concatenate", "pad")  # affine if their operands are
PRODUCTS = ("mul", "dot_general", "conv_general_dilated")  # affine if one operand is and the others are data


class LinearModel(NamedTuple):
    """A per-example loss in two parts: ``loss(predict(params, example), example)``."""

    predict: Any  # (params, example) -> tuple of arrays, affine in params
    loss: Any  # (predictions, example) -> scalar
    size: int  # numbers in the predictions of one example, fewer than in the params


class Operation(NamedTuple):
    """A line of a flat program. Values are named by numbers; a constant stands for itself."""

    equation: Any
    inputs: tuple  # of Name, or constants
    outputs: tuple[Name, ...]


class Name(NamedTuple):
    """A value of a flat program."""

    number: int
    shape: tuple[int, ...]
    dtype: Any


def find(example_loss_fn, params, example) -> LinearModel | None:
    """The linear model in ``example_loss_fn(params, example)``, or None where it has none with fewer predictions than there are params.

    Nothing is computed: the function is traced, and its program cut where it stops being affine in the params. ``params`` and ``example`` may be shapes.
    """
    structure = jax.tree.structure((params, example))
    program = jax.make_jaxpr(example_loss_fn)(params, example)
    if not program.out_avals or program.out_avals[0].shape != ():
        return None
    made: list[Operation] = []
    numbers, count = itertools.count(), len(jax.tree.leaves(params))
    names = [_named(next(numbers), v) for v in program.jaxpr.invars]
    result = _flatten(program.jaxpr, program.consts, names, made, numbers)[0]
    cut = _cut(_needed(made, (result,), names), set(names[:count]), result)
    size = sum(math.prod(name.shape) for name in cut)
    if not cut or size >= sum(math.prod(name.shape) for name in names[:count]) or any(not jnp.issubdtype(name.dtype, jnp.floating) for name in cut):
        return None

    def predict(params, example):
        known = dict(zip(names, _leaves(structure, params, example), strict=True))
        return tuple(_evaluate(made, known, cut))

    def loss(predictions, example):
        known = dict(zip(names[count:], jax.tree.leaves(example), strict=True)) | dict(zip(cut, predictions, strict=True))
        return _evaluate(made, known, (result,))[0]

    return LinearModel(predict, loss, size)


def _leaves(structure, params, example):
    if jax.tree.structure((params, example)) != structure:
        raise ValueError(f"linear model: got {jax.tree.structure((params, example))}; wanted params and an example as in the trace, {structure}.")
    return [jnp.asarray(x) for x in jax.tree.leaves((params, example))]


def _named(number: int, variable) -> Name:
    return Name(number, tuple(variable.aval.shape), variable.aval.dtype)


def _flatten(program, constants, inputs, made: list[Operation], numbers) -> list:
    """Appends a program's lines to ``made``, those of the functions it calls in their places, and returns the names of its results."""
    names = dict(zip(program.constvars, constants, strict=True)) | dict(zip(program.invars, inputs, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else names[atom]

    for equation in program.eqns:
        given = [read(atom) for atom in equation.invars]
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr")) if equation.primitive.name in CALLS else None
        if isinstance(inner, core.ClosedJaxpr):
            outputs = _flatten(inner.jaxpr, inner.consts, given, made, numbers)
        else:
            outputs = [_named(next(numbers), v) for v in equation.outvars]
            made.append(Operation(equation, tuple(given), tuple(outputs)))
        names.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in program.outvars]


def _needed(made: list[Operation], wanted, known) -> list[Operation]:
    """The lines that lead from the known values to the wanted ones."""
    open_names, lines = {x for x in wanted if isinstance(x, Name) and x not in known}, []
    for line in reversed(made):
        if not open_names.isdisjoint(line.outputs):
            lines.append(line)
            open_names |= {x for x in line.inputs if isinstance(x, Name) and x not in known}
    return lines[::-1]


def _cut(made: list[Operation], params: set, result) -> list[Name]:
    """The affine values of which the rest of the program is a function, moved towards the params as far as that makes them no larger."""
    affine, bent, makers = set(params), set(), {}
    for line in made:
        moving = [i for i, x in enumerate(line.inputs) if isinstance(x, Name) and (x in affine or x in bent)]
        if not moving:
            continue
        makers.update(dict.fromkeys(line.outputs, line))
        straight = not any(isinstance(x, Name) and x in bent for x in line.inputs) and _is_affine(line, moving)
        (affine if straight else bent).update(line.outputs)
    used = [x for line in made if not bent.isdisjoint(line.outputs) for x in line.inputs if isinstance(x, Name) and x in affine]
    used += [result] if isinstance(result, Name) and result in affine else []
    return list(dict.fromkeys(_earlier(name, makers, affine, params) for name in used))


def _earlier(name: Name, makers, affine, params) -> Name:
    """The first value, going back from ``name``, that determines it together with the data and has no more entries."""
    best = here = name
    while here not in params:
        before = {x for x in makers[here].inputs if isinstance(x, Name) and x in affine}
        if len(before) != 1:
            break
        (here,) = before
        if math.prod(here.shape) <= math.prod(best.shape):
            best = here
    return best


def _is_affine(line: Operation, moving: list[int]) -> bool:
    """Whether the results of a line are affine in the operands that move with the params."""
    name = line.equation.primitive.name
    if name in SUMS or name in LINEAR:
        return all(jnp.issubdtype(output.dtype, jnp.floating) for output in line.outputs)
    if name in INDEXED or name == "div":
        return moving == [0]
    if name == "select_n":
        return 0 not in moving
    return name in PRODUCTS and len(moving) == 1


def _evaluate(made: list[Operation], known: dict, wanted) -> list:
    """The wanted values from the known ones, by the lines that they need alone."""
    values = dict(known)
    for line in _needed(made, wanted, known):
        bound = line.equation.primitive.get_bind_params(line.equation.params)
        functions, parameters = bound if isinstance(bound, tuple) else ((), bound)  # JAX has had both forms
        given = [values[x] if isinstance(x, Name) else x for x in line.inputs]
        out = line.equation.primitive.bind(*functions, *given, **parameters)
        values.update(zip(line.outputs, out if line.equation.primitive.multiple_results else [out], strict=True))
    return [values[x] if isinstance(x, Name) else x for x in wanted]
