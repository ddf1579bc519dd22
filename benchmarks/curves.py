"""Loss curves of ``python -m benchmarks fit``: a panel per task."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

COLUMNS, FLOOR, TOP = 4, 1e-3, 2.0


def relative(curve, start: float, low: float) -> np.ndarray:
    """The loss above the lowest one of the panel, as a share of that of the start; not below FLOOR, NaN where it is not finite."""
    losses = np.array([np.nan if x is None else x for x in curve], np.float64)
    return np.maximum((losses - low) / (start - low), 0.0) * (1 - FLOOR) + FLOOR


def lowest(task: dict) -> float:
    """Of all curves of a task, and of its sweeps."""
    curves = [run["curve"] for run in task["runs"]] + [sweep["curve"] for sweep in task["sweeps"].values()]
    return min(x for curve in curves for x in curve if x is not None)


def plot(tasks: Sequence[dict], first: str, shown: Sequence[str], path: str | pathlib.Path) -> None:
    """``first`` in black, the sweeps in grey, the methods ``shown`` in colours, all others thin in the background."""
    from matplotlib.figure import Figure

    rows, columns = -(-len(tasks) // COLUMNS), min(COLUMNS, len(tasks))
    figure = Figure(figsize=(3.6 * columns + 0.4, 2.6 * rows + 1.0), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    styles = {first: {"color": "black", "linewidth": 2.2, "zorder": 5}}
    styles |= {name: {"color": f"C{index}", "linewidth": 1.2, "zorder": 3} for index, name in enumerate(shown) if name != first}
    swept = tasks[0]["sweeps"] if tasks else {}
    styles |= {name: {"color": "0.55", "linewidth": 2.0, "linestyle": line, "zorder": 4} for name, line in zip(swept, ("--", ":"), strict=False)}
    for panel, task in zip(panels, tasks, strict=False):
        low, entries = lowest(task), {run["method"]: run for run in task["runs"]}
        for name, run in [*entries.items(), *task["sweeps"].items()]:
            start = run["curve"][0] if run["curve"] else None
            if start is None or start <= low:
                continue
            label = name if name in styles else "_"
            panel.plot(run["spent"], relative(run["curve"], start, low), label=label, **styles.get(name, {"color": "0.85", "linewidth": 0.7}))
        panel.set(yscale="log", ylim=(0.8 * FLOOR, TOP), xlim=(0, task["steps"]))
        panel.set_title(task["task"], fontsize="medium")
        panel.grid(alpha=0.25)
    for panel in panels[len(tasks) :]:
        panel.axis("off")
    found = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=min(4, columns + 1), fontsize="small")
    figure.supxlabel("gradient evaluations", fontsize="medium")
    figure.supylabel("training loss above the panel's lowest, share of the start", fontsize="medium")
    figure.savefig(path, dpi=110)
