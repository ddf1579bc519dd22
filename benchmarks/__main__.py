"""``python -m benchmarks <name> [options]``: every file beside this one is imported and registers what it measures."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys

import benchmarks


def main(argv: list[str] | None = None) -> int:
    """Runs the subcommand named on the command line and returns its exit code."""
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name != "__main__":
            importlib.import_module(f"benchmarks.{module.name}")
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="gdjax side by side with hand-written loops and peers.")
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, benchmark in sorted(benchmarks.BENCHMARKS.items()):
        command = commands.add_parser(name, help=benchmark.summary, description=benchmark.main.__doc__)
        benchmark.add_arguments(command)
    arguments = parser.parse_args(argv)
    return benchmarks.BENCHMARKS[arguments.benchmark].main(arguments)


if __name__ == "__main__":
    sys.exit(main())
