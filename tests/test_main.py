"""python -m gdjax, as a user starts it."""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import gdjax
from gdjax import __main__ as command
from gdjax.arguments import Factory


def start(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(Path(gdjax.__file__).parents[1])}
    return subprocess.run([sys.executable, "-m", "gdjax", *arguments], capture_output=True, text=True, timeout=300, env=environment, **options)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return start("demo", cwd=folder), folder


def test_demo_ends_well_and_says_how_each_run_ended(demo):
    done, _ = demo
    assert done.returncode == 0, done.stderr
    assert "455 tumours to learn from, 114 held out" in done.stdout
    assert "CONVERGED after" in done.stdout
    assert done.stdout.count("evaluations (") == 2
    assert "Traceback" not in done.stderr


def test_demo_tells_the_held_out_tumours_apart(demo):
    accuracies = [float(x) for x in re.findall(r"([\d.]+) held out$", demo[0].stdout, re.MULTILINE)]
    assert len(accuracies) == 2
    assert min(accuracies) >= 0.97


def test_demo_saves_the_loss_curves(demo):
    picture = (demo[1] / "gdjax-demo" / "loss.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", picture[16:24])
    assert width >= 800
    assert height >= 500


def test_the_split_is_fixed_and_standardised_without_the_held_out_part():
    table = command.load()
    assert (len(table.train.label), len(table.held_out.label)) == (455, 114)
    assert abs(table.train.features.mean(axis=0)).max() < 1e-5
    assert abs(table.train.features.std(axis=0) - 1).max() < 1e-4
    assert abs(table.held_out.features.mean(axis=0)).max() > 1e-3
    assert (command.load().held_out.features == table.held_out.features).all()


def test_the_curvature_bounds_that_of_the_loss():
    import jax
    import jax.numpy as jnp

    train = command.load().train
    flat, unravel = jax.flatten_util.ravel_pytree({"weights": jnp.zeros(30), "bias": jnp.zeros(())})
    hessian = jax.hessian(lambda x: command.loss_fn(unravel(x), train))(flat)  # at 0 every sigmoid has its largest slope, 1/4
    assert float(jnp.linalg.eigvalsh(hessian)[-1]) == pytest.approx(command.curvature(train), rel=1e-3)


def test_rules_lists_every_rule_with_the_first_line_of_its_docstring():
    done = start("rules")
    assert done.returncode == 0, done.stderr
    names = [name for name, value in vars(gdjax.rules).items() if isinstance(value, Factory)]
    assert len(names) >= 2
    for name in names:
        assert re.search(rf"^{name}\(", done.stdout, re.MULTILINE)
        assert getattr(gdjax.rules, name).__doc__.strip().splitlines()[0] in done.stdout


def test_rules_tells_all_about_those_that_are_named(capsys):
    assert command.main(["rules", "gd", "sgd"]) == 0
    shown = capsys.readouterr().out
    for part in ("gd(learning_rate)", "x ← x − h g", "Guarantee:", "(κ − 1)/(κ + 1)", "When to use it:", "Cauchy", "v ← μ v + (1 − τ) g"):
        assert part in shown
    assert command.main(["rules", "gd", "nonsense"]) == 2
    assert "no rule nonsense; there are ac_fgm, " in capsys.readouterr().err


def test_version_and_help(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"gdjax {gdjax.__version__}, jax ")
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    assert {"demo", "rules", "suggest"} <= set(capsys.readouterr().out.split())


def test_no_command_shows_the_help(capsys):
    assert command.main([]) == 0
    assert {"demo", "rules", "suggest"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["rulse"], "rules"),
        (["sugest", "f.csv"], "suggest"),
        (["demo", "--ouf", "x"], "--out"),
        (["suggest", "f.csv", "--target", "y", "--epoch-s", "3"], "--epochs"),
        (["suggest", "f.csv", "--target", "y", "--model", "logisic"], "logistic"),
    ],
)
def test_slips_are_answered_with_what_was_meant(arguments, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_rules_that_are_misspelt_are_found(capsys):
    assert command.main(["rules", "nestrov", "zzz"]) == 2
    assert "no rule nestrov (did you mean nesterov?), zzz; there are ac_fgm, " in capsys.readouterr().err


def test_missing_extras_are_named_before_anything_is_computed(monkeypatch, capsys, tmp_path):
    find = command.importlib.util.find_spec
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None if name in ("sklearn", "tqdm") else find(name))
    monkeypatch.setattr(command, "load", lambda: pytest.fail("computed something"))
    with pytest.raises(SystemExit) as ended:
        command.main(["demo", "--out", str(tmp_path)])
    assert ended.value.code == 1
    assert 'the demo needs scikit-learn, tqdm: type pip install "gdjax[examples,progress]"' in capsys.readouterr().err
