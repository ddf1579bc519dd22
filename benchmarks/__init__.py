"""Side by side with peers: ``python -m benchmarks <name>``, from the root of the repository. Never imported by the package.

A file of this folder that registers a benchmark becomes a subcommand by being there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Benchmark(NamedTuple):
    """What ``python -m benchmarks`` knows of one subcommand."""

    add_arguments: Callable
    main: Callable
    summary: str


BENCHMARKS: dict[str, Benchmark] = {}


def register(name: str, add_arguments: Callable):
    """Makes ``main(arguments) -> exit code`` the subcommand ``name``; the first line of its docstring is the help."""

    def decorate(main):
        BENCHMARKS[name] = Benchmark(add_arguments, main, (main.__doc__ or "").strip().split("\n")[0])
        return main

    return decorate
