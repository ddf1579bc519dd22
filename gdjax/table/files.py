"""CSV and Parquet files as they are."""

from __future__ import annotations

import csv
import difflib
import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TEXT, PARQUET = (".csv", ".tsv", ".txt"), (".parquet", ".pq")
SHOWN = 12  # names in one line


def frame(path: Path) -> Any:
    """The table as it is in the file."""
    if path.suffix.lower() not in TEXT + PARQUET:
        raise ValueError(f"{path}: unknown kind of file; wanted {', '.join(TEXT + PARQUET)}.")
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}.")
    try:
        frame = _parquet(path) if path.suffix.lower() in PARQUET else _csv(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text; in a spreadsheet, save it as CSV UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error
    if not len(frame):
        raise ValueError(f"{path}: no rows below the names of the columns.")
    return frame


def imported(name: str) -> Any:
    """A module of the extra ``tables``."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f'tables are read with {package}, which is not installed: type pip install "gdjax[tables]", or pip install pandas pyarrow') from error


def _parquet(path: Path) -> Any:
    imported("pandas")
    arrow, parquet = imported("pyarrow"), imported("pyarrow.parquet")
    try:
        found = parquet.ParquetFile(path).read()
    except arrow.lib.ArrowException as error:
        raise ValueError(f"{path}: not a Parquet file: {error}") from error
    _check_names(path, found.column_names)
    return found.to_pandas(ignore_metadata=True)  # an index is a column


def _csv(path: Path) -> Any:
    pandas = imported("pandas")
    with path.open(newline="", encoding="utf-8-sig") as file:
        head = file.read(1 << 16)
    first = re.sub(r'"[^"]*"', "", head.lstrip("\r\n").partition("\n")[0])
    separator = max(",;\t|", key=first.count)
    decimal = "," if separator == ";" and re.search(r"\d,\d", head) and not re.search(r"\d\.\d", head) else "."
    names = _check_rows(path, separator)
    options = dict(skipinitialspace=True, index_col=False, low_memory=False, encoding="utf-8-sig", na_values=["?"])
    try:
        frame = pandas.read_csv(path, sep=separator, decimal=decimal, **options)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError) as error:
        raise ValueError(f"{path}: {'a quote is opened and not closed' if 'EOF inside string' in str(error) else error}") from error
    return frame.set_axis([given or made for given, made in zip(names, frame.columns, strict=True)], axis=1)


def _check_rows(path: Path, separator: str) -> list[str]:
    """The names of the columns, once every row is known to have as many fields."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, delimiter=separator, skipinitialspace=True)
        names = next((row for row in rows if row), None)
        if names is None:
            raise ValueError(f"{path}: empty; wanted a line with the names of the columns, and rows below.")
        for row in rows:
            if row and len(row) != len(names):
                why = f"a field with {separator!r} in it needs quotes" if len(row) > len(names) else "a missing value is an empty field, with its separator"
                raise ValueError(f"{path}, line {rows.line_num}: fields: {len(row)}, columns named in the first line: {len(names)}; {why}.")
    names = [name.strip() for name in names]
    _check_names(path, [name for name in names if name])
    return names


def _check_names(path: Path, names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: more than one column is called {twice[0]!r}; rename all but one.")


def no_column(target: str, columns: list[str]) -> str:
    """That there is none of this name, and which there are, those of like names first."""
    lower = {name.lower(): name for name in columns}
    close = [lower[name] for name in difflib.get_close_matches(target.lower(), lower, cutoff=0.5)]
    names = close + [name for name in columns if name not in close]
    headless = all(re.fullmatch(r"[-+.\deE]+", name) for name in columns)
    hint = "; the first line has no names: write them above the rows" if headless else ""
    return f"no column {target!r}; there {'is' if len(names) == 1 else 'are'} {listed(repr(name) for name in names)}{hint}."


def listed(items: Iterable[str]) -> str:
    """At most so many, and how many more."""
    items = list(items)
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")
