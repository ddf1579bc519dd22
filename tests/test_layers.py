"""Imports point down only: read from the source, by ast."""

import ast
from pathlib import Path

import pytest

import gdjax

PACKAGE = Path(gdjax.__file__).parent
LAYERS = {
    "typing": 0,
    "brief": 0.5,
    "arguments": 1,
    "tree": 1,
    "contexts": 1,
    "result": 1,
    "rule": 2,
    "schedules": 2,
    "linesearch": 2,
    "parts": 2.5,  # made of layer 2, made into rules
    "rules": 3,
    "objective": 3,
    "data": 1.3,
    "checks": 1.6,
    "stop": 3,
    "sampling": 3.5,
    "sharding": 3,
    "loop": 4,
    "_minimize": 5,
    "_fit": 5,
    "_sweep": 5.5,
    "diagnose": 6,
    "checkpoint": 6,
    "quantize": 6,
    "plot": 7,
    "report": 7,
    "table": 7,
    "__main__": 8,
}
DRIVERS = ("loop", "_minimize", "_fit", "objective", "data", "stop", "sharding")
FILES = sorted(PACKAGE.rglob("*.py"))


def unit(file):
    """The name under gdjax/ that a file belongs to: loop for loop.py and loop/segments.py, rules for rules/gd.py."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source, available):
    """The names under gdjax that a source imports, inside functions too; ``*`` for the package as a whole."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; type from gdjax.{node.module or 'module'} import ..."
            names = [f"gdjax.{alias.name}" for alias in node.names] if node.module == "gdjax" else [node.module]
        else:
            continue
        for parts in (name.split(".") for name in names):
            if parts[0] == "gdjax":
                yield parts[1] if len(parts) > 1 and parts[1] in available else "*"


# The public list, gdjax/__init__.py, stands above all.
@pytest.mark.parametrize("file", [file for file in FILES if unit(file) != "__init__"], ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file):
    name = unit(file)
    assert name in LAYERS, f"gdjax/{name} has no layer: add it to LAYERS in tests/test_layers.py and to the design"
    for other in imported(file.read_text(), LAYERS):
        if other == "*":
            assert name == "__main__", f"{file.name} imports gdjax as a whole; import the file that is meant"
        elif other != name:
            assert LAYERS[other] < LAYERS[name], f"{file.name} (layer {LAYERS[name]}) imports {other} (layer {LAYERS[other]})"


@pytest.mark.parametrize("file", [file for file in FILES if unit(file) in DRIVERS], ids=lambda file: str(file.relative_to(PACKAGE)))
def test_drivers_know_no_rule(file):
    source = file.read_text()
    assert "rules" not in set(imported(source, LAYERS)), f"{file.name} imports gdjax.rules; only __init__ binds the default rule"
    rules = {rule.stem for rule in (PACKAGE / "rules").glob("*.py")} - {"__init__"}
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not rules & (names | strings), f"{file.name} names the rules {rules & (names | strings)}; a driver sees (init, update) alone"


@pytest.mark.parametrize("file", [file for file in FILES if unit(file) == "rules" and file.stem != "__init__"], ids=lambda file: file.name)
def test_rules_do_not_import_one_another(file):
    assert "rules" not in set(imported(file.read_text(), LAYERS)), f"rules/{file.name} imports another rule; share through a file of a lower layer"


def test_the_reader_of_imports_sees_them_all():
    source = "import jax, gdjax.tree\nfrom gdjax import loop, nonsense\ndef f():\n    from gdjax.rules.gd import gd\n    import gdjax\n"
    assert list(imported(source, LAYERS)) == ["tree", "loop", "*", "rules", "*"]
    with pytest.raises(AssertionError, match="relative"):
        list(imported("from . import tree", LAYERS))


def lengths(file):
    """(name, lines) of each function in a file: of its body, without docstring and inner functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            nested = sum(child.end_lineno - child.lineno + 1 for child in body if isinstance(child, ast.FunctionDef))
            yield node.name, (node.end_lineno - body[0].lineno + 1 if body else 0) - nested


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_and_functions_are_short(file):
    lines = len(file.read_text().splitlines())
    limit = 120 if unit(file) == "rules" else 400
    assert lines <= limit, f"{file.name} has {lines} lines, limit {limit}: make it a folder of the same name"
    long = {name: length for name, length in lengths(file) if length > 40}
    assert not long, f"{file.name}: functions over 40 lines: {long}"
