"""What an editor sees: pyright on the package, and on what people write, in a folder of their own."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import gdjax
from gdjax import data, typing
from gdjax.loop import deterministic, options, stochastic

ROOT = Path(__file__).parents[1]
USER = ROOT / "tests" / "data" / "typed.py"


def pyright(*arguments, cwd):
    """The reports on these arguments; skips where there is no pyright, or no Node.js for it and none to be fetched."""
    command = [sys.executable, "-m", "pyright"]
    tried = subprocess.run([*command, "--version"], capture_output=True, text=True, cwd=cwd)
    if tried.returncode:
        pytest.skip(f'pyright does not run here ({(tried.stderr or tried.stdout).strip()[-200:]}): type pip install "pyright[nodejs]"')
    done = subprocess.run([*command, "--pythonpath", sys.executable, "--outputjson", *map(str, arguments)], capture_output=True, text=True, cwd=cwd)
    return json.loads(done.stdout)["generalDiagnostics"]


def is_installed_from_here() -> bool:
    """Whether it is this checkout that the environment has under gdjax, by an editable install."""
    try:
        origin = importlib.metadata.distribution("gdjax").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return False
    return bool(origin) and json.loads(origin)["url"] == ROOT.as_uri()


def test_the_package_is_clean():
    assert [f"{each['file']}:{each['range']['start']['line'] + 1}: {each['message']}" for each in pyright("gdjax", cwd=ROOT)] == []


def test_what_people_write_is_accepted_and_their_slips_are_found(tmp_path):
    """In a fresh folder: where the checkout is installed in editable mode, it must be found through the install alone."""
    lines = USER.read_text(encoding="utf-8").splitlines()
    (tmp_path / "typed.py").write_text("\n".join(lines), encoding="utf-8")
    settings = {"typeCheckingMode": "basic", "reportUnusedExpression": False, "extraPaths": [] if is_installed_from_here() else [os.fspath(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    expected = {number: line.partition("# error: ")[2] for number, line in enumerate(lines, 1) if "# error: " in line}
    found = {}
    for each in pyright("--project", tmp_path, cwd=tmp_path):
        found.setdefault(each["range"]["start"]["line"] + 1, []).append(each["message"])
    assert found.keys() == expected.keys(), {number: found.get(number, "nothing") for number in found.keys() ^ expected.keys()}
    for number, words in expected.items():
        assert any(words in message for message in found[number]), f"line {number}: wanted {words!r} in {found[number]}"


def test_an_editable_install_is_a_path():
    """Import hooks are invisible to type checkers; with this setting setuptools writes the path of the checkout instead."""
    assert re.search(r'^package-dir = \{ "" = "\." \}', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert (ROOT / "gdjax" / "py.typed").exists()


@pytest.mark.parametrize(
    ("literal", "known"),
    [
        (typing.Recorded, deterministic.HISTORY),
        (typing.RecordedOfBatches, stochastic.HISTORY),
        (typing.Differentiate, options.DIFFERENTIATE),
        (typing.Shuffle, data.ORDERS),
    ],
)
def test_literals_are_what_the_doors_take(literal, known):
    assert set(get_args(literal)) == set(known)


def test_every_literal_of_a_rule_is_taken_by_it():
    for make, words in {
        lambda word: gdjax.accelerated(restart=word): ("gradient", "function", None),
        lambda word: gdjax.adgd(0.1, variant=word): ("adgd2", "adgd1", "adgd"),
        lambda word: gdjax.average(gdjax.sgd(0.1), word): ("uniform", "polynomial", "ema"),
        lambda word: gdjax.muon(0.02, scale=word): ("original", "rms"),
        lambda word: gdjax.steepest(0.1, word): ("l2", "linf", "l1", "spectral"),
        gdjax.nonlinear_cg: ("hager_zhang", "polak_ribiere", "fletcher_reeves", "hestenes_stiefel", "dai_yuan"),
    }.items():
        for word in words:
            make(word)
