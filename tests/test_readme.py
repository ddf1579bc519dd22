"""The README: its Python runs, its commands are CI's, its tables are complete."""

import re
from pathlib import Path

import gdjax

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", README, re.MULTILINE | re.DOTALL)


def test_python_blocks_run_in_order_and_print_what_is_said(capsys):
    assert len(BLOCKS) >= 4
    names: dict = {"__name__": "readme"}
    for number, (code, said) in enumerate(BLOCKS, 1):
        exec(compile(code, f"README block {number}", "exec"), names)
        printed = capsys.readouterr().out
        assert not said or printed.split() == said.split(), f"README block {number} printed\n{printed}"


def test_ci_runs_the_test_command_word_for_word():
    commands = [line.strip() for line in README.splitlines() if "-m pytest" in line]
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_status_is_in_the_table():
    assert re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE) == [status.name for status in gdjax.Status]
