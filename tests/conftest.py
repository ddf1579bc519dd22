"""Strict flags for every test, and what they share."""

import collections
import gc
import importlib.metadata
import itertools
import os
import sys
from pathlib import Path

# The suite compiles some twenty thousand small programs, and compiling is most of its time: three times less with a plainer code generator and LLVM at -O0.
# What the programs compute is the same to rounding; XLA_FLAGS="" tests with the usual one. Flags come and go, and XLA dies of one it does not know.
if importlib.metadata.version("jaxlib").startswith(("0.10.", "0.12.")):
    emitters = "--xla_cpu_use_fusion_emitters=false " if importlib.metadata.version("jaxlib").startswith("0.10.") else ""  # always on since 0.12
    plain = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", emitters + plain)

import hypothesis
import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # cases.py, problems.py, representatives.py, reference/ and theorems/

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Examples that compile take as long as they take, and the same ones come up in every run.
hypothesis.settings.register_profile("gdjax", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("gdjax")


gc.set_threshold(100_000, 20, 50)  # tracing makes heaps of small objects that live: looking at them as often as Python does by default costs 4 %


@pytest.fixture
def x64():
    """Float64 in one test: for comparisons with NumPy, PyTorch and theory to 1e-8 and beyond."""
    with jax.enable_x64(True):
        yield


@pytest.hookimpl(tryfirst=True)  # before those marked ``full`` are left out
def pytest_collection_modifyitems(items):
    """Of the rows of a test marked ``one_in(n)`` each n-th is tried every time, and each in the full run; laws begin at other rows, so that rules take turns.

    And the laws of test_contract.py come rule by rule rather than law by law, so that those about a rule share its compiled programs.
    """
    rows = collections.defaultdict(itertools.count)
    for item in items:
        if (turn := item.get_closest_marker("one_in")) and not item.get_closest_marker("full"):
            law = item.nodeid.partition("[")[0]
            if (next(rows[law]) + len(law)) % turn.args[0]:
                item.add_marker(pytest.mark.full)
    laws = [index for index, item in enumerate(items) if item.path.name == "test_contract.py" and hasattr(item, "callspec") and "case" in item.callspec.params]
    by_rule = sorted((items[index] for index in laws), key=lambda item: str(item.callspec.params["case"]))
    for index, item in zip(laws, by_rule, strict=True):
        items[index] = item


TESTS_RUN, MAPS = itertools.count(1), Path("/proc/self/maps")


def pytest_runtest_teardown(item, nextitem):
    """Compiled programs are let go when they are many: each holds memory maps, of which Linux grants a process 65,530, and XLA dies when there are no more."""
    if next(TESTS_RUN) % 50 == 0 and (not MAPS.exists() or MAPS.read_text().count("\n") > 25_000):
        jax.clear_caches()
