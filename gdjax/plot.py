"""Pictures of runs. matplotlib is imported when a picture is made: ``pip install "gdjax[plot]"``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gdjax._sweep.found import Sweep
from gdjax.arguments import short
from gdjax.checks import check_flag
from gdjax.diagnose.ranges import RangeTest
from gdjax.result import Result, Status

FAILED = (Status.DIVERGED, Status.NONFINITE)
LABELS = {"epoch": "epoch (pass over the data)", "value": "loss", "grad_norm": "gradient norm ‖∇f‖₂"}
LINES = ("-", "--", ":", "-.")
MARKS = dict.fromkeys(Status, "|") | {Status.CONVERGED: "o"} | dict.fromkeys(FAILED, "X")
MAPS = ("viridis", "plasma", "cividis")
HEADROOM = 10.0  # a diverged run is followed this far above the others, then leaves the picture
FLOOR = 10.0  # zeros sit this far below the least positive value of a logarithmic axis
INSIDE = 5  # a legend of more entries stands beside the picture


class Curve(NamedTuple):
    """One line of the picture: one quantity of one run, or of one lane of a batched run."""

    x: np.ndarray  # (records,): steps, or whatever the horizontal axis counts
    y: np.ndarray  # (records,), finite
    status: Status
    steps: int
    best: float = np.nan  # x of the best epoch or point; NaN where it was not looked for


def history(results: Result | Mapping[str, Result], names=("value",), ax: Any = None, log: bool = True, x: str = "step"):
    """Draws what runs recorded: one line per run, ending in a mark that says how it ended.

    A dot is a run that converged, a cross one that diverged, a bar any other ending; the legend says it in words. A ring is the best epoch, where it was
    looked for (``keep="best"``, ``validation`` or ``patience``). Noisy curves, such as mini-batch losses, are drawn pale with their running mean on top.
    Batched results (from ``jax.vmap``) get one line per lane. Where a run diverged and others did not, the axis keeps to the others and the cross stands
    where the run leaves the picture; one that diverged before its second record is drawn from its start.

    Args:
        results: one result, or a dict of results by the name to show.
        names: which of the recorded quantities, see ``result.history``; a second one is drawn dashed.
        ax: matplotlib axes to draw on; without it, new ones.
        log: a logarithmic axis, unless a value is negative. Values of exactly 0 sit at its floor.
        x: the quantity on the horizontal axis: "step", "epoch" (passes over the data, of ``fit``), or one that was recorded.

    Returns:
        The matplotlib axes; ``ax.figure.savefig("loss.png")`` saves them.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: a name was not recorded.

    Example:
        >>> import gdjax
        >>> import matplotlib; matplotlib.use("Agg")
        >>> run = lambda learning_rate: gdjax.minimize(lambda w: (w - 2.0) ** 2, 5.0, gdjax.gd(learning_rate))
        >>> ax = gdjax.plot.history({"0.1": run(0.1), "0.4": run(0.4)})
        >>> ax.get_xlabel(), ax.get_ylabel(), len(ax.get_legend().texts)
        ('step', 'loss', 2)
    """
    plt = _pyplot()
    _check_axes("history", ax)
    runs = dict(results) if isinstance(results, Mapping) else {"": results}
    for run in runs.values():
        _check_kind("history", "results", run, Result, "gdjax.plot.history(gdjax.minimize(fun, params))")
    if not runs:
        raise ValueError("history: results is empty; wanted one result at least: type gdjax.plot.history(result).")
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, (tuple, list)) or not names:
        raise TypeError(f'history: names is {short(names)}; wanted names of recorded quantities: type names=("value", "grad_norm").')
    sets = [(label, name, _curves(run, name, x)) for label, run in runs.items() for name in names]
    curves = [curve for *_, members in sets for curve in members]
    log = check_flag("log", log) and _has_logarithm(curves)
    ceiling, floor = _ceiling(curves, log), _floor(curves) if log else None
    ax = plt.subplots(figsize=(7.0, 4.5), layout="constrained")[1] if ax is None else ax
    for index, (label, name, members) in enumerate(sets):
        run, line = divmod(index, len(names))
        at = None if len(members) > 1 or runs[label].best_step is None else int(runs[label].best_step)
        legend = _legend(label, name if line or len(names) > 1 else "", members, at)
        _draw(ax, _visible(members, ceiling, floor), _colors(plt, run, len(members)), LINES[line % len(LINES)], legend)
    return _furnish(ax, x, names, log, (floor, ceiling))


def _check_kind(door: str, name: str, given: Any, kind: type, example: str) -> None:
    if not isinstance(given, kind):
        raise TypeError(f"{door}: {name} is {short(given)}; wanted a {kind.__name__}: type {example}.")


def _check_axes(door: str, ax: Any) -> None:
    if ax is not None and not (hasattr(ax, "plot") and hasattr(ax, "set_xlabel")):
        raise TypeError(f"{door}: ax is {short(ax)}; wanted matplotlib's axes, or None for new ones: type ax=plt.gca().")


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('gdjax.plot draws with matplotlib, which is not installed: type pip install "gdjax[plot]".') from error
    return plt


def _curves(run: Result, name: str, x: str) -> list[Curve]:
    """The lines of one quantity of a run: one, or one per lane; records that are missing (NaN) or not finite are left out."""
    codes, steps = np.ravel(np.asarray(run.code)), np.ravel(np.asarray(run.steps))
    shape = np.shape(_recorded(run, name))
    ys, xs, at = (
        np.broadcast_to(np.asarray(each, np.float64), shape).reshape(codes.size, -1) for each in (run.history[name], _horizontal(run, x), run.history["step"])
    )
    bests = np.full(codes.size, np.nan) if run.best_step is None else np.ravel(np.asarray(run.best_step, np.float64))
    starts = {"value": run.diagnosis.initial_value, "grad_norm": run.diagnosis.initial_grad_norm}.get(name, np.nan)
    starts = np.broadcast_to(np.ravel(np.asarray(starts, np.float64)), codes.shape)
    return [_curve(xs[i], ys[i], at[i], Status(int(codes[i])), int(steps[i]), starts[i], bests[i]) for i in range(codes.size)]


def _curve(x, y, at, status: Status, steps: int, start: float, best: float) -> Curve:
    """The records that are numbers, from the start on where a run failed before its second; the best by its step."""
    kept = np.isfinite(y) & np.isfinite(x)
    x, y, at = x[kept], y[kept], at[kept]
    if status in FAILED and np.sum(at > 0) < 2 and not np.any(at == 0) and np.isfinite(start):
        x, y, at = np.append(0.0, x), np.append(start, y), np.append(0.0, at)
    return Curve(x, y, status, steps, float(np.interp(best, at, x)) if x.size and np.isfinite(best) else np.nan)


def _recorded(run: Result, name: str) -> Any:
    if not isinstance(name, str) or name not in run.history:
        known = ", ".join(repr(key) for key in run.history)
        raise ValueError(f"history: {short(name)} was not recorded; this run has {known}; wanted one of them: type history=({short(name)},) there.")
    return run.history[name]


def _horizontal(run: Result, x: str) -> np.ndarray:
    """The quantity on the horizontal axis at each record."""
    if not isinstance(x, str) or x != "epoch" or x in run.history:
        return np.asarray(_recorded(run, x), np.float64)
    setting = getattr(run.state, "setting", None)
    size, rows = (1, 1) if run.kind == "full batch" else (0, 0) if setting is None else (int(np.ravel(n)[0]) for n in (setting.batch_size, setting.examples))
    if not rows:
        raise ValueError('history: x is "epoch" for a run on a stream, whose epochs are as long as it yields batches; wanted "step": leave x out.')
    return np.asarray(run.history["step"], np.float64) / -(-rows // (size or rows))


def _has_logarithm(curves: Sequence[Curve]) -> bool:
    """Nothing is negative and something is positive."""
    return all(np.all(curve.y >= 0) for curve in curves) and any(np.any(curve.y > 0) for curve in curves)


def _ceiling(curves: Sequence[Curve], log: bool) -> float | None:
    """Where the picture ends if runs that diverged would dwarf the others, else None."""
    sound = [curve.y for curve in curves if curve.status not in FAILED and curve.y.size]
    if not sound:
        return None
    low, high = min(y.min() for y in sound), max(y.max() for y in sound)
    ceiling = high * HEADROOM if log else high + (high - low)
    return float(ceiling) if any(np.any(curve.y > ceiling) for curve in curves) else None


def _floor(curves: Sequence[Curve]) -> float | None:
    """Where zeros sit on a logarithmic axis, if there are any."""
    values = np.concatenate([curve.y for curve in curves])
    return float(values[values > 0].min() / FLOOR) if np.any(values == 0) else None


def _visible(curves: Sequence[Curve], ceiling: float | None, floor: float | None) -> list[Curve]:
    """The curves as far as they can be drawn: zeros at the floor of a logarithmic axis, up to where they cross the ceiling."""
    drawn = [curve if floor is None else curve._replace(y=np.maximum(curve.y, floor)) for curve in curves]
    return drawn if ceiling is None else [_cut(curve, ceiling) for curve in drawn]


def _cut(curve: Curve, ceiling: float) -> Curve:
    above = np.flatnonzero(curve.y > ceiling)
    if not above.size:
        return curve
    end = above[0]
    start = max(end - 1, 0)
    scale = np.log if np.all(curve.y[[start, end]] > 0) and ceiling > 0 else np.asarray
    crossing = np.interp(scale(ceiling), scale(curve.y[[start, end]]), curve.x[[start, end]])
    return curve._replace(x=np.append(curve.x[:end], crossing), y=np.append(curve.y[:end], ceiling))


def _colors(plt: Any, run: int, lanes: int) -> list[Any]:
    """One colour of the cycle for a run, a range of a colour map for the lanes of a batched one."""
    return [f"C{run}"] if lanes == 1 else list(plt.get_cmap(MAPS[run % len(MAPS)])(np.linspace(0.05, 0.85, lanes)))


def _legend(label: str, name: str, curves: Sequence[Curve], step: int | None) -> str:
    """How the run, or its lanes, ended, and the step of its best point where that was looked for."""
    what = ", ".join(part for part in (str(label), LABELS.get(name, name)) if part)
    words = [curve.status.name.lower().replace("_", " ") for curve in curves]
    best = f", best at step {step}" if len(curves) == 1 and step is not None else ""
    ending = f"{words[0]} at step {curves[0].steps}{best}" if len(curves) == 1 else ", ".join(f"{n} {word}" for word, n in Counter(words).most_common())
    return ": ".join(part for part in (what, ending) if part)


def _draw(ax: Any, curves: Sequence[Curve], colors: Sequence[Any], line: str, legend: str) -> None:
    for index, (curve, color) in enumerate(zip(curves, colors, strict=True)):
        noisy = _is_noisy(curve.y)
        if noisy:
            ax.plot(curve.x, curve.y, line, color=color, alpha=0.25, linewidth=0.8)
        y = _running_mean(curve.y) if noisy else curve.y
        mark = {"marker": MARKS[curve.status], "markevery": [-1], "markersize": 9} if y.size else {}
        edge = {"markeredgecolor": "black", "markerfacecolor": "tab:red"} if curve.status in FAILED else {}
        clip = curve.status not in FAILED  # the cross may stand on the frame
        ax.plot(curve.x, y, line, color=color, linewidth=1.8, label=legend if index == 0 else None, clip_on=clip, **mark, **edge)
        if np.isfinite(curve.best) and curve.x.size and curve.best <= curve.x[-1]:
            ax.plot(curve.best, np.interp(curve.best, curve.x, y), "o", color=color, markerfacecolor="none", markersize=11, markeredgewidth=1.6)


def _is_noisy(y: np.ndarray) -> bool:
    """A curve that turns at every fourth record or more."""
    turns = np.diff(y)[1:] * np.diff(y)[:-1] < 0
    return y.size >= 50 and bool(np.mean(turns) > 0.25)


def _running_mean(y: np.ndarray) -> np.ndarray:
    """The mean over a thirtieth of the records: around each, narrower at the start so that a steep descent is not smeared, behind it at the end."""
    half, index = max(1, y.size // 60), np.arange(y.size)
    first, last = index - np.minimum(half, index), index + np.minimum(np.minimum(half, index), y.size - 1 - index)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    return (sums[last + 1] - sums[first]) / (last + 1 - first)


def _furnish(ax: Any, x: str, names: Sequence[str], log: bool, ends: tuple[float | None, float | None]) -> Any:
    ax.set_xlabel(LABELS.get(x, x.replace("_", " ")))
    ax.set_ylabel(", ".join(LABELS.get(name, name.replace("_", " ")) for name in names))
    ax.set_yscale("log" if log else "linear")
    ax.set_ylim(*ends)
    return _plain(ax)


def range_test(found: Any, ax: Any = None):
    """Draws a range test: the loss against the learning rate, with the suggestion, and where all was lost.

    Args:
        found: what ``gdjax.range_test`` returned; with an axis of seeds, from ``vmap``, one line per seed.
        ax: matplotlib axes to draw on; without it, new ones.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: matplotlib is missing.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> import matplotlib; matplotlib.use("Agg")
        >>> ax = gdjax.plot.range_test(gdjax.range_test(lambda w: jnp.sum(w**2), jnp.ones(2), make_rule=gdjax.gd))
        >>> ax.get_xlabel(), ax.get_xscale()
        ('learning rate', 'log')
    """
    plt = _pyplot()
    _check_kind("range_test", "found", found, RangeTest, "gdjax.plot.range_test(gdjax.range_test(loss_fn, params))")
    _check_axes("range_test", ax)
    ax = plt.subplots(figsize=(7.0, 4.5), layout="constrained")[1] if ax is None else ax
    rates, values, smoothed = (np.atleast_2d(np.asarray(x, np.float64)) for x in (found.learning_rates, found.values, found.smoothed))
    suggestions, ends = np.atleast_1d(np.asarray(found.suggestion)), np.atleast_1d(np.asarray(found.diverged_at))
    several = len(values) > 1
    for lane, (x, y, mean) in enumerate(zip(rates, values, smoothed, strict=True)):
        color = f"C{lane % 10}" if several else "C0"
        ax.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
        ax.plot(x, mean, color=color, linewidth=1.8)
        if np.isfinite(suggestions[lane]):
            label = None if lane else f"falls fastest: {suggestions[lane]:.3g}" if not several else "falls fastest"
            ax.plot(suggestions[lane], np.interp(np.log(suggestions[lane]), np.log(x), mean), "o", color=color, markersize=9, label=label)
        if np.isfinite(ends[lane]):
            label = None if lane else f"lost from {ends[lane]:.3g} on" if not several else "lost"
            ax.axvline(ends[lane], color="tab:red", linestyle=":", linewidth=1.2, label=label)
    low, first = float(np.nanmin(smoothed)), float(np.nanmax(values[:, 0]))
    room = 0.3 * max(first - low, 1e-3 * abs(first), 1e-12)
    ax.set_ylim(low - room / 3, first + room)
    ax.set(xlabel="learning rate", ylabel="loss", xscale="log")
    return _plain(ax)


def sweep(found: Any, x: str | None = None, ax: Any = None):
    """Draws the scores of a sweep against one of the arguments: a line for every setting of the others, a cross where a lane failed.

    With several seeds the line is their mean, and a band goes from the least to the largest. The best lane has a ring.

    Args:
        found: a ``Sweep``.
        x: the argument on the horizontal axis; without it, the first that is a number.
        ax: matplotlib axes to draw on; without it, new ones.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: no such argument, or none that is a number.

    Example:
        >>> import gdjax
        >>> import matplotlib; matplotlib.use("Agg")
        >>> loss = lambda w: (w - 2.0) ** 2
        >>> rules = gdjax.grid(gdjax.sgd, learning_rate=[0.01, 0.1, 0.5], momentum=[0.0, 0.5])
        >>> ax = gdjax.plot.sweep(gdjax.sweep(lambda rule: gdjax.minimize(loss, 0.0, rule, max_steps=10), rules))
        >>> ax.get_xlabel(), len(ax.get_legend().texts)
        ('learning rate', 3)
    """
    plt = _pyplot()
    _check_kind("sweep", "found", found, Sweep, "gdjax.plot.sweep(gdjax.sweep(run, rules))")
    _check_axes("sweep", ax)
    name = _number_argument(found, x)
    ax = plt.subplots(figsize=(7.0, 4.5), layout="constrained")[1] if ax is None else ax
    groups: dict[tuple, list[int]] = {}
    for lane in range(len(found)):
        groups.setdefault(tuple((key, column[lane]) for key, column in found.arguments.items() if key != name), []).append(lane)
    places, scores = np.asarray(found.arguments[name], np.float64), np.asarray(found.scores, np.float64).reshape(len(found), -1)
    colors = [f"C{i}" for i in range(len(groups))] if len(groups) <= 10 else list(plt.get_cmap(MAPS[0])(np.linspace(0.05, 0.9, len(groups))))
    finite = scores[np.isfinite(scores)]
    log = finite.size > 0 and finite.min() > 0 and finite.max() > 10 * finite.min()
    top = finite.max() * 2 if log else finite.max() + 0.1 * np.ptp(finite) if finite.size else 1.0
    for color, (others, lanes) in zip(colors, groups.items(), strict=True):
        label = ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in others)
        _draw_scores(ax, places[lanes], scores[lanes], color, label)
    broken = ~np.isfinite(scores).all(1)
    if broken.any():
        ax.plot(places[broken], np.full(broken.sum(), top), "X", color="tab:red", markeredgecolor="black", markersize=8, label=f"{broken.sum()} failed")
    if np.isfinite(found.means).any():
        best = int(found.order()[0])
        ax.plot(places[best], found.means[best], "o", markersize=12, markerfacecolor="none", markeredgecolor="black", label="the best")
    wide = places.min() > 0 and places.max() > 10 * places.min()
    ax.set(xlabel=name.replace("_", " "), ylabel="score", xscale="log" if wide else "linear", yscale="log" if log else "linear")
    return _plain(ax, legend=len(groups) <= 10)


def _number_argument(found: Any, x: str | None) -> str:
    numbers = [name for name, column in found.arguments.items() if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in column)]
    if x is not None and not (isinstance(x, str) and x in numbers):
        raise ValueError(f"sweep: x is {short(x)}; wanted an argument that is a number in every lane: {', '.join(map(repr, numbers)) or 'there is none'}.")
    if not numbers:
        raise ValueError("sweep: no argument is a number in every lane; wanted one for the horizontal axis: print(found.table()) shows them all.")
    return numbers[0] if x is None else x


def _draw_scores(ax: Any, x: np.ndarray, scores: np.ndarray, color: Any, label: str) -> None:
    order = np.argsort(x, kind="stable")
    x, scores = x[order], scores[order]
    sound = np.isfinite(scores).all(1)
    ax.plot(x[sound], scores[sound].mean(1), "-o", color=color, markersize=4, linewidth=1.5, label=label or None)
    if scores.shape[1] > 1:
        ax.fill_between(x[sound], scores[sound].min(1), scores[sound].max(1), color=color, alpha=0.15, linewidth=0)


def _plain(ax: Any, legend: bool = True) -> Any:
    """Grid, open frame, legend where something has a name, beside the picture where many have."""
    ax.grid(True, which="major", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    named = len(ax.get_legend_handles_labels()[1])
    if legend and named:
        ax.legend(frameon=False, **({} if named <= INSIDE else {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}))
    return ax
