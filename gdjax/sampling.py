"""Many rules at once: grids and random samples of the arguments of a factory, as rules whose leaves carry a leading axis of lanes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.arguments import Call, is_concrete, is_number, is_real, is_whole, short, signature_of
from gdjax.data import check_key
from gdjax.rule import rule as lift

MOST_LANES = 1_000_000


@dataclass(frozen=True)
class Distribution:
    """What ``gdjax.sample`` draws an argument from: ``quantile`` takes a number in [0, 1) to a value, so that samples can be stratified."""

    name: str
    quantile: Any

    def __repr__(self):
        return self.name


def uniform(low: float, high: float) -> Distribution:
    """Uniform between ``low`` and ``high``.

    Args:
        low: the least value, finite.
        high: the largest, above ``low``.
    """
    _check_range("uniform", low, high)
    return Distribution(f"uniform({low:g}, {high:g})", lambda u: low + (high - low) * u)


def log_uniform(low: float, high: float) -> Distribution:
    """Uniform in the logarithm: as many between 0.001 and 0.01 as between 0.01 and 0.1. For learning rates.

    Args:
        low: the least value, above 0.
        high: the largest, above ``low``.
    """
    _check_range("log_uniform", low, high, above=0.0)
    return Distribution(f"log_uniform({low:g}, {high:g})", lambda u: math.exp(math.log(low) + (math.log(high) - math.log(low)) * u))


def one_minus_log_uniform(low: float, high: float) -> Distribution:
    """1 − x is log-uniform: as many between 0.9 and 0.99 as between 0.99 and 0.999. For momenta and decay rates.

    Args:
        low: the least value, below ``high``.
        high: the largest, below 1.
    """
    _check_range("one_minus_log_uniform", low, high)
    if not high < 1:
        raise ValueError(f"one_minus_log_uniform: high is {high}; wanted a number below 1: type one_minus_log_uniform(0.5, 0.999).")
    far = log_uniform(1 - high, 1 - low).quantile
    return Distribution(f"one_minus_log_uniform({low:g}, {high:g})", lambda u: 1 - far(1 - u))


def choice(options: Sequence[Any]) -> Distribution:
    """One of the options, all equally likely: of anything, such as None, booleans or schedules."""
    if not _is_axis(options) or not len(options):
        raise ValueError(f"choice: options is {short(options)}; wanted a list of some: type choice([True, False]).")
    options = list(options)
    return Distribution(f"choice({options})", lambda u: options[min(int(u * len(options)), len(options) - 1)])


def _check_range(name: str, low: Any, high: Any, above: float = -math.inf) -> None:
    numbers = all(is_real(x) and is_concrete(x) and not np.ndim(x) for x in (low, high))
    if not numbers or not above < float(low) < float(high) < math.inf:
        least = "" if above == -math.inf else f"{above:g} < "
        raise ValueError(f"{name}: got low={short(low)}, high={short(high)}; wanted {least}low < high, finite: type {name}(0.001, 0.5).")


def grid(factory, **axes: Any) -> Any:
    """All combinations of the arguments of a factory, as one rule whose leaves carry a leading axis of lanes; the last argument varies fastest.

    Args:
        factory: of a rule: ``gdjax.sgd``, ``optax.adam``, or a function of your own that returns a rule or transformation.
        axes: the arguments by name. A list, tuple or array of one dimension holds the values to try, numbers or anything else (schedules, None, booleans);
            anything else is the same for all lanes.

    Returns:
        A rule, for ``gdjax.sweep`` or ``jax.vmap``. Where values change its structure (None for a momentum, booleans), a list of such rules, one for
        each structure.

    Raises:
        TypeError, ValueError: unknown arguments, empty lists, and what the factory itself refuses, such as negative learning rates.

    Example:
        >>> import gdjax
        >>> rules = gdjax.grid(gdjax.sgd, learning_rate=[0.01, 0.1], momentum=[0.5, 0.9])
        >>> rules.arguments["learning_rate"], rules.arguments["momentum"]
        (Array([0.01, 0.01, 0.1 , 0.1 ], dtype=float32), Array([0.5, 0.9, 0.5, 0.9], dtype=float32))
        >>> print(len(gdjax.grid(gdjax.sgd, learning_rate=[0.01, 0.1], momentum=[None, 0.9])))
        2
    """
    factory = _factory("grid", factory, axes)
    values = {name: _as_floats(list(x)) if _is_axis(x) else [x] for name, x in axes.items()}
    if empty := [name for name, x in values.items() if not x]:
        raise ValueError(f"grid: {', '.join(empty)} has no values; wanted at least one: type {empty[0]}=[0.1].")
    if (lanes := math.prod(map(len, values.values()))) > MOST_LANES:
        raise ValueError(f"grid: {lanes} combinations; wanted {MOST_LANES} at most: try fewer values, or gdjax.sample.")
    return stacked([factory(**dict(zip(values, combination, strict=True))) for combination in itertools.product(*values.values())])


def sample(factory, count: int, key: Any, **axes: Any) -> Any:
    """Random arguments of a factory, as one rule whose leaves carry a leading axis of ``count`` lanes.

    Each argument is stratified by itself (Latin hypercube): its range is cut into ``count`` parts of equal probability, and one value drawn from each, in
    random order. So 16 learning rates drawn are 16 different ones, evenly spread, whatever else varies.

    Args:
        factory: of a rule, as in ``gdjax.grid``.
        count: lanes, 1 at least.
        key: a seed or a JAX key.
        axes: the arguments by name: a distribution from ``gdjax.sampling`` (``uniform``, ``log_uniform``, ``one_minus_log_uniform``, ``choice``), or a
            value that is the same for all lanes.

    Returns:
        As ``gdjax.grid``.

    Raises:
        TypeError, ValueError: as ``gdjax.grid``; a count that is not a whole number of at least 1.

    Example:
        >>> import gdjax
        >>> rules = gdjax.sample(gdjax.sgd, 8, key=0, learning_rate=gdjax.sampling.log_uniform(1e-4, 1.0), momentum=0.9)
        >>> rate = rules.arguments["learning_rate"]
        >>> print(rate.shape, bool(((1e-4 < rate) & (rate < 1)).all()))
        (8,) True

    Reference:
        McKay, Beckman, Conover 1979, Technometrics 21. Random search beats grids where few arguments matter: Bergstra, Bengio 2012, JMLR 13.
    """
    factory = _factory("sample", factory, axes)
    if not is_whole(count) or not 1 <= count <= MOST_LANES:
        raise ValueError(f"sample: count is {short(count)}; wanted a whole number from 1 to {MOST_LANES}: type count=16.")
    if wrong := [name for name, x in axes.items() if _is_axis(x)]:
        raise TypeError(f"sample: {wrong[0]} is a list; wanted a distribution or one value: type {wrong[0]}=gdjax.sampling.choice([...]), or take gdjax.grid.")
    keys = jax.random.split(check_key(key, "sample draws at random"), len(axes) + 1)
    drawn = {name: _draw(x, int(count), k) if isinstance(x, Distribution) else [x] * int(count) for k, (name, x) in zip(keys[1:], axes.items(), strict=True)}
    return stacked([factory(**{name: column[lane] for name, column in drawn.items()}) for lane in range(int(count))])


def _draw(distribution: Distribution, count: int, key) -> list[Any]:
    order, within = jax.random.split(key)
    strata = np.asarray(jax.random.permutation(order, count)) + np.asarray(jax.random.uniform(within, (count,)), np.float64)
    return [distribution.quantile(min(float(u), 1 - 1e-12)) for u in strata / count]


def _factory(name: str, factory: Any, axes: dict[str, Any]) -> Any:
    if not callable(factory) or hasattr(factory, "update"):
        raise TypeError(f"{name}: got {short(factory)}; wanted a factory of rules and its arguments: type gdjax.{name}(gdjax.sgd, ..., learning_rate=...).")
    if not axes:
        raise ValueError(f"{name}: got no arguments to vary; type gdjax.{name}(factory, ..., learning_rate=...).")
    parameters = signature_of(factory).parameters
    known = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and (unknown := [axis for axis in axes if axis not in {p.name for p in known}]):
        raise TypeError(f"{name}: unknown arguments {', '.join(unknown)}; wanted some of {', '.join(p.name for p in known)}, which this factory has.")
    return lift(factory)


def _as_floats(values: list[Any]) -> list[Any]:
    """Whole numbers beside others are numbers too, not structure: [1, 0.1] is [1.0, 0.1]."""
    whole = [is_whole(x) for x in values]
    mixed = any(map(is_number, values)) and not all(whole)
    return [float(x) if mixed and flag else x for x, flag in zip(values, whole, strict=True)]


def _is_axis(x: Any) -> bool:
    if isinstance(x, (list, range)) or (isinstance(x, tuple) and not isinstance(x, Call) and not hasattr(x, "_fields")):
        return True
    return hasattr(x, "ndim") and hasattr(x, "__iter__") and np.ndim(x) == 1


def stacked(rules: Sequence[Any]) -> Any:
    """The rules of each structure as one with an axis of lanes, in the order in which structures first come; the only one by itself."""
    groups: dict[Any, list[Any]] = {}
    for each in rules:
        leaves, structure = jax.tree.flatten(each)
        groups.setdefault((structure, tuple(map(np.shape, leaves))), []).append(each)
    stack = lambda *leaves: jnp.asarray(np.stack([np.asarray(x, jnp.result_type(x)) for x in leaves]))  # noqa: E731
    stacked = [jax.tree.map(stack, *group) for group in groups.values()]
    return stacked[0] if len(stacked) == 1 else stacked


def columns(rules: Any) -> dict[str, Any]:
    """The arguments of rules that differ from lane to lane, or may differ between structures: name -> array with the axis of lanes, or one value for all.

    An argument within another (of a schedule, of a member of a chain) is named by both: "learning_rate.peak".
    """
    found = list(_named(rules, ()))
    names = [".".join(path) or "value" for path, _ in found]
    numbered = [name if names.count(name) == 1 else f"{name}.{names[:index].count(name)}" for index, name in enumerate(names)]
    return {name: value for name, (_, value) in zip(numbered, found, strict=True)}


def _named(x: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(x, Call):
        for name, value in x.arguments.items():
            yield from _named(value, (*path, name))
    elif isinstance(x, dict):
        for name, value in x.items():
            yield from _named(value, (*path, str(name)))
    elif isinstance(x, (tuple, list)) and not hasattr(x, "_fields"):
        for index, value in enumerate(x):
            inner = isinstance(value, Call)
            yield from _named(value, (*path[:-1], value.factory.__name__) if inner else (*path, str(index)))
    elif x is None or isinstance(x, (bool, int, str)) or is_number(x):
        yield path, x
    elif not callable(x) or any(map(is_number, jax.tree.leaves(x))):
        for keys, leaf in jax.tree_util.tree_leaves_with_path(x):
            if is_number(leaf):
                yield (*path, *(jax.tree_util.keystr((key,), simple=True) for key in keys)), leaf
