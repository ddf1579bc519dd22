"""Of many combinations those that are tried every time; the rest is marked ``full`` and waits for ``python -m pytest -m full``."""

import pytest


def some(rows, kept):
    """The rows of a parametrisation, each a value or a tuple of values; those that are not ``kept(row)`` are left to the full run."""
    return [row if kept(row) else pytest.param(*(row if isinstance(row, tuple) else (row,)), marks=pytest.mark.full) for row in rows]


def firsts(rows, name):
    """``kept`` for the first row of each name."""
    seen = {}
    for row in rows:
        seen.setdefault(name(row), row)
    return lambda row: seen[name(row)] is row


def paired(first, second):
    """The product of two lists, of which every time only as many pairs are tried as the longer has entries, each with one of the shorter in turn."""
    first, second = list(first), list(second)
    turns = min(len(first), len(second))
    return [
        (x, y) if (i - j) % turns == 0 else pytest.param(x, y, marks=pytest.mark.full) for i, x in enumerate(first) for j, y in enumerate(second)
    ]
