"""``multistart``: one run from many starts, and which minima they found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from gdjax._sweep.found import BEST, Sweep, text_table
from gdjax._sweep.run import checked_block, sweep
from gdjax.arguments import short
from gdjax.brief import brief_repr
from gdjax.checks import check_count, check_params, check_takes
from gdjax.contexts import promoting, undisturbed
from gdjax.data import check_key
from gdjax.loop.signals import attach
from gdjax.result import Result, Status
from gdjax.typing import Params, Seed

NEAR = 0.01  # of the median distance between the starts: results this near are the same minimum


class Minimum(NamedTuple):
    """Results that came to the same place."""

    params: Any  # of the one with the least value
    value: float  # the least
    count: int  # starts that ended there
    lanes: np.ndarray  # which: int, (count,), the least value first

    __repr__ = brief_repr


@dataclass(frozen=True)
class Multistart:
    """What ``gdjax.multistart`` found; ``print`` it.

    Attributes:
        minima: the distinct minima, a list of ``Minimum``, the least value first.
        best: the ``Result`` of the least value.
        starts: the params started from, with an axis of starts.
        results: all results, with an axis of starts.
        failed: how many runs diverged or broke; they count as no minimum.
        tolerance: results nearer than this are the same minimum.
    """

    minima: list[Minimum]
    best: Result
    starts: Any
    results: Result
    failed: int
    tolerance: float

    def __len__(self):
        return len(self.minima)

    def table(self, rows: int | None = BEST) -> str:
        """The minima, the least first: value, share of the starts, a status, steps."""
        total, codes, steps = len(self.results.code), np.asarray(self.results.code), np.asarray(self.results.steps)
        body = []
        for each in self.minima[: len(self.minima) if rows is None else rows]:
            names = ", ".join(sorted({Status(int(code)).name for code in codes[each.lanes]}))
            body.append([f"{each.value:.6g}", str(each.count), f"{100 * each.count / total:.3g}", f"{np.median(steps[each.lanes]):.0f}", names])
        return text_table(["value", "starts", "%", "steps, median", "status"], body)

    def _head(self) -> str:
        count = len(self.results.code)
        return f"{count} starts, {len(self.minima)} distinct minima, {self.failed} failed; the least, {self.minima[0].value:.6g}, from {self.minima[0].count}"

    def __str__(self):
        return f"{self._head()}\n{self.table()}" + (f"\n… {len(self.minima) - BEST} more: found.table(None)" if len(self.minima) > BEST else "")

    def __repr__(self):
        return f"<{self._head()}>"


@undisturbed
def multistart(
    run, params_sampler, count: int, *, key: Seed, tolerance: float | None = None, compare=None, block: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Multistart:  # fmt: skip
    """Runs ``run(params)`` from ``count`` random starts side by side, and sorts what they found into distinct minima.

    The starts are lanes of one program, as in ``gdjax.sweep``: those that have ended are taken out while the others go on. If a share p of the starts leads to
    the global minimum, n of them miss it with probability (1 − p)ⁿ: the counts of the minima say whether more starts are worth it. A minimum that only one
    start found is a sign that others have not been found yet.

    Args:
        run: ``run(params) -> Result``: a call of ``gdjax.minimize`` or ``gdjax.fit`` from these params.
        params_sampler: ``params_sampler(key) -> params``: a random start, such as ``lambda key: jax.random.uniform(key, (2,), minval=-5, maxval=5)``.
        count: how many starts.
        key: a seed or key, from which the starts are drawn.
        tolerance: results are the same minimum where their params (or what ``compare`` makes of them) are nearer to its best than this, in the Euclidean norm.
            Default: a hundredth of the median distance between the starts.
        compare: ``compare(params) -> array``: what to compare instead of the params, where different params mean the same: the predictions of a network, whose
            units can be permuted. The default tolerance is then that of the starts' predictions.
        block: starts at once, as in ``sweep``.
        mesh: devices to split the starts over, as in ``sweep``.

    Returns:
        A ``Multistart``.

    Raises:
        TypeError, ValueError: bad arguments, named with what is wanted; every run failed. Inside jit, vmap or grad.
        KeyboardInterrupt: as in ``sweep``; its attribute ``result`` is a ``Multistart`` of the runs so far.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> wells = lambda x: (x**2 - 1.0) ** 2 + 0.3 * x
        >>> start = lambda key: jax.random.uniform(key, (), minval=-2.0, maxval=2.0)
        >>> found = gdjax.multistart(lambda x: gdjax.minimize(wells, x, gdjax.gd(0.05)), start, 20, key=0)
        >>> print(len(found), f"{found.best.params:.3f}", [f"{each.value:.3f}" for each in found.minima])
        2 -1.036 ['-0.305', '0.294']
    """
    check_count("count", count, 1)
    for name, function in (("run", run), ("compare", run if compare is None else compare)):
        if not callable(function):
            raise TypeError(f"multistart: {name} is {short(function)}; wanted a function of params: type lambda params: gdjax.minimize(fun, params).")
    if not callable(params_sampler):
        raise TypeError(f"multistart: params_sampler is {short(params_sampler)}; wanted a function of a key that draws params: type jax.random.normal.")
    check_takes(run, ["params"], "run")
    check_takes(params_sampler, ["key"], "params_sampler")
    if tolerance is not None and not (isinstance(tolerance, (int, float)) and 0 < tolerance < np.inf):
        raise ValueError(f"multistart: tolerance is {short(tolerance)}; wanted a distance above 0, or None: type tolerance=1e-3.")
    checked_block(block, mesh, "multistart")
    keys = jax.random.split(check_key(key, "the starts are drawn from it"), int(count))
    starts = jax.vmap(lambda key: check_params(params_sampler(key), "what params_sampler draws"))(keys)
    try:
        found = sweep(_From(run), {"params": starts}, block=block, mesh=mesh)  # params may be a list, which to sweep would be several rules
    except BaseException as error:
        if (so_far := getattr(error, "result", None)) is not None:
            attach(error, lambda: _sorted(so_far, compare, tolerance))
        raise
    return _sorted(found, compare, tolerance)


def _sorted(found: Sweep, compare, tolerance: float | None) -> Multistart:
    """The distinct minima among the results of a sweep over starts."""
    count, starts = len(found), found.rules["params"]
    if not isinstance(found.results, Result):
        raise TypeError(f"multistart: run returned {type(found.results).__name__}; wanted a Result: type lambda params: gdjax.minimize(fun, params).")
    if not np.isfinite(found.scores).any():
        raise ValueError(f"multistart: all {count} runs failed; wanted some that did not: try smaller learning rates, or starts nearer to a minimum.")
    places = np.asarray(_flat(found.results.params, compare), np.float64)
    if tolerance is None:
        tolerance = _default_tolerance(np.asarray(_flat(starts, compare), np.float64), places)
    minima = _distinct(found, places, float(tolerance))
    return Multistart(minima, found.best().result, starts, found.results, int(np.sum(~np.isfinite(found.scores))), float(tolerance))


class _From(NamedTuple):
    """The run as a function of a lane of the sweep; the same for the same run, so that programs are found again."""

    run: Any

    def __call__(self, given):
        return self.run(given["params"])


def _flat(params: Params, compare) -> jax.Array:
    """One row per lane of what is compared."""
    return jax.vmap(lambda p: promoting(ravel_pytree)(p if compare is None else compare(p))[0])(params)


def _default_tolerance(starts: np.ndarray, ends: np.ndarray) -> float:
    """A hundredth of the median distance between starts, or where they are all the same, between ends."""
    for points in (starts, ends):
        points = points[np.isfinite(points).all(1)][:512]
        distance = np.median(np.linalg.norm(points[1:] - points[:-1], axis=1)) if len(points) > 1 else 0.0
        if distance > 0:
            return NEAR * float(distance)
    return NEAR


def _distinct(found: Sweep, places: np.ndarray, tolerance: float) -> list[Minimum]:
    """From the least value up, each result joins the first minimum that is near enough, or is one of its own."""
    members: list[list[int]] = []
    centres = np.empty_like(places)
    for lane in found.order()[: int(np.isfinite(found.scores).sum())]:
        near = np.linalg.norm(centres[: len(members)] - places[lane], axis=1) <= tolerance
        if near.any():
            members[int(np.argmax(near))].append(int(lane))
        else:
            centres[len(members)] = places[lane]
            members.append([int(lane)])
    params = jax.tree.map(np.asarray, found.results.params)
    return [Minimum(jax.tree.map(lambda x: x[m[0]], params), float(found.scores[m[0]]), len(m), np.array(m)) for m in members]  # noqa: B023
