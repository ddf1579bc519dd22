"""Columns as numbers: what is learned, what it is learned from, and what was done to them."""

from __future__ import annotations

import re
from numbers import Number
from typing import Any, NamedTuple

import numpy as np

from gdjax.table.files import imported, listed

LEVELS = 20  # texts of a column, or classes of the target, at most
ID = re.compile(r"(^unnamed: \d+|^__index_level_\d+__|(^|[_ .-])(id|idx|index|row|rownames|uuid))$", re.IGNORECASE)
CAMEL_ID = re.compile(r"[a-z]I[dD]$")
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d.*)?$")
UNUSED = {"dates": "dates", "others": "neither numbers nor text"}  # kinds of columns


class Goal(NamedTuple):
    """What is to be learned."""

    model: str
    target: Any  # as in Examples
    classes: tuple[str, ...]
    scale: float
    note: str


def _kind(column) -> str:
    """Numbers, booleans, texts, dates, or others; of objects, by what they are."""
    types = imported("pandas").api.types
    if isinstance(column.dtype, imported("pandas").CategoricalDtype):
        return "texts"
    if types.is_bool_dtype(column):
        return "booleans"
    if types.is_numeric_dtype(column):
        return "others" if types.is_complex_dtype(column) else "numbers"
    if types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column):
        return "dates"
    values = column.dropna()
    found = set(map(type, values))
    if found and all(issubclass(kind, (bool, np.bool_)) for kind in found):
        return "booleans"
    if found and all(issubclass(kind, Number) for kind in found):
        return "numbers"
    if any(kind.__hash__ is None for kind in found):
        return "others"
    return "dates" if len(values) and all(DATE.match(str(value)) for value in values[:100]) else "texts"


def _texts(column) -> np.ndarray:
    return np.array([str(value) for value in column.astype(object)], object)


def _numbers(name: str, column) -> np.ndarray:
    values = column.to_numpy(dtype="float64", na_value=np.nan)
    if len(infinite := np.flatnonzero(np.isinf(values))):
        first = column.index[infinite[0]] + 1
        raise ValueError(f"column {name!r}: infinite values: {len(infinite)}, the first in row {first}; correct them, or leave them empty.")
    return values


def _standardised(values: np.ndarray) -> tuple[np.ndarray, float]:
    """With mean 0 and deviation 1 (NaN left out), and the deviation; by way of a scale at which squares neither overflow nor vanish."""
    top = np.nanmax(np.abs(values))
    values = values / top
    deviation = float(np.nanstd(values))
    return (values - np.nanmean(values)) / deviation, deviation * float(top)


def goal(name: str, column, model: str | None) -> Goal:
    """What is to be learned of a column, all of it there."""
    kind = _kind(column)
    if kind in ("dates", "others"):
        raise ValueError(f"column {name!r} holds {UNUSED[kind]}; wanted numbers or classes as the target.")
    values = _texts(column) if kind == "texts" else _numbers(name, column)
    found, labels = np.unique(values, return_inverse=True)
    if len(found) < 2:
        raise ValueError(f"column {name!r} has one value, {found[0] if kind == 'texts' else f'{found[0]:g}'}; there is nothing to learn.")
    if model is None:
        model = "linear" if kind == "numbers" and len(found) > 2 and not _numbered(found, len(values)) else "logistic"
    if model == "linear" and kind == "texts":
        raise ValueError(f"column {name!r} holds text{_odd(column)}; linear regression wants numbers: leave --model out, or type --model logistic.")
    if model == "linear":
        target, scale = _standardised(values)
        return Goal("linear", np.float32(target), (), scale, f"linear regression of {name!r}")
    if len(found) > min(LEVELS, len(values) // 2):
        what = f"{len(found)} different {'texts' + _odd(column) if kind == 'texts' else 'numbers; type --model linear'}"
        raise ValueError(f"column {name!r} has {what}; wanted 2 to {LEVELS} classes, on average of two rows or more.")
    return _classes(name, kind, found, labels.reshape(-1))


def _numbered(found: np.ndarray, rows: int) -> bool:
    """Are these the numbers of classes: from 0 or 1 on, few, and many rows of each?"""
    return bool(found[0] in (0, 1) and np.array_equal(found, found[0] + np.arange(len(found))) and len(found) <= LEVELS and rows >= 10 * len(found))


def _classes(name: str, kind: str, found: np.ndarray, labels: np.ndarray) -> Goal:
    classes = tuple(str(bool(value)) if kind == "booleans" else f"{value:.6g}" if kind == "numbers" else str(value) for value in found)
    shares = listed(f"{label} {count}" for label, count in zip(classes, np.bincount(labels), strict=True))
    number = "; --model linear takes them as numbers" if kind == "numbers" and len(found) > 2 else ""
    if len(found) == 2:
        return Goal("logistic", np.float32(labels), classes, 1.0, f"logistic regression of {name!r}; rows of each class: {shares}")
    return Goal("softmax", np.int32(labels), classes, 1.0, f"softmax regression of {name!r}, {len(found)} classes; rows of each: {shares}{number}")


def _odd(column) -> str:
    """Where most texts are numbers: the first that is not."""
    texts = column.dropna().astype(object).map(str)
    numbers = imported("pandas").to_numeric(texts, errors="coerce").notna()
    return f" (most are numbers; {texts[~numbers].iloc[0]!r} is not)" if 0.5 < numbers.mean() < 1 else ""


def features(frame) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """The columns as numbers, their names, and what was done to them."""
    made, dropped, filled, kinds = {}, [], [], {"numbers": 0, "booleans": 0, "texts": 0}
    for name, column in frame.items():
        kind = _kind(column)
        columns, reason = _columns(name, kind, column)
        made |= columns
        if reason:
            dropped.append(f"{name!r} ({reason})")
            continue
        kinds[kind] += 1
        if missing := int(column.isna().sum()):
            filled.append(f"{name!r} {missing}")
    if not made:
        raise ValueError(f"no column is left to learn from{'; dropped: ' + listed(dropped) if dropped else ''}.")
    source = ", ".join(f"{count} of {kind}" for kind, count in kinds.items() if count)
    said = [f"features: {len(made)}, from columns: {sum(kinds.values())} ({source})"]
    if filled:
        said.append(f"missing values: {listed(filled)}; in numbers the mean stands for them, with a feature that says where; in texts they are a level")
    if dropped:
        said.append(f"dropped: {listed(dropped)}")
    return np.column_stack([np.float32(values) for values in made.values()]), tuple(made), said


def _columns(name: str, kind: str, column) -> tuple[dict[str, np.ndarray], str]:
    """The features made of a column, or why it is dropped."""
    if column.isna().all():
        return {}, "empty"
    if kind in UNUSED:
        return {}, UNUSED[kind]
    if kind == "texts":
        return _indicators(name, column)
    values = _numbers(name, column)
    missing, seen = np.isnan(values), np.unique(values[~np.isnan(values)])
    if len(seen) == len(column) and (ID.search(name) or CAMEL_ID.search(name)) and (seen % 1 == 0).all():
        return {}, "an id, different in every row"
    made = {}
    if len(seen) > 1:
        values = _standardised(values)[0] if kind == "numbers" else values
        made[name] = np.where(missing, np.nanmean(values), values)
    if missing.any():
        made[f"{name} is missing"] = missing
    return made, "" if made else "constant"


def _indicators(name: str, column) -> tuple[dict[str, np.ndarray], str]:
    """A feature per text; of two texts, for the second."""
    missing = column.isna().to_numpy()
    texts = np.where(missing, "(missing)", _texts(column))
    levels = sorted(set(texts))
    if len(levels) == 1:
        return {}, "constant"
    if len(levels) > LEVELS or len(levels) == len(texts):
        many = "texts, different in every row" if len(levels) == len(texts) else f"{len(levels)} different texts, more than {LEVELS}"
        return {}, _odd(column).strip(" ()") or many
    return {f"{name}={level}": texts == level for level in (levels[1:] if len(levels) == 2 else levels)}, ""
