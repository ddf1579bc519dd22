"""The examples, run as scripts, and what they claim."""

import runpy
from pathlib import Path

import numpy as np
import pytest

import gdjax

EXAMPLES = Path(__file__).parents[1] / "examples"


def main_of(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_every_example_has_a_test():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {name.removeprefix("test_") for name in globals() if name.startswith("test_")} - {
        "every_example_has_a_test"
    }


def test_quickstart(capsys):
    result, sweep = main_of("quickstart")()
    assert result.converged
    assert float(result.params) == pytest.approx(2.0, abs=1e-5)
    status = [gdjax.Status(int(code)).name for code in sweep.status]
    assert status == ["MAX_STEPS", "MAX_STEPS", "CONVERGED", "CONVERGED", "CONVERGED", "DIVERGED"]
    printed = capsys.readouterr().out
    assert "w = 4.400" in printed
    assert "CONVERGED after" in printed


def test_linear_regression(capsys):
    results, excess = main_of("linear_regression")()
    assert results["full batch"].converged
    assert excess["full batch"] < 1e-7
    assert results["batches of 32"].status is results["single examples"].status is gdjax.Status.MAX_STEPS
    assert int(results["single examples"].steps) == 100 * 442
    assert max(excess["batches of 32"], excess["single examples"]) < 1e-3
    assert min(excess.values()) > -1e-7
    assert "closed form" in capsys.readouterr().out


def test_new_rule(capsys):
    result, sweep, traces = main_of("new_rule")()
    assert traces == 1
    assert float(np.min(sweep.value)) < 1e-3
    assert np.shape(sweep.value) == (9,)
    np.testing.assert_allclose(result.params, [1.0, 1.0], atol=0.05)
    assert "is a rule: True" in capsys.readouterr().out
