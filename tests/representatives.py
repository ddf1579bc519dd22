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
