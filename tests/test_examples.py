"""The examples, run as scripts, and what they claim."""

import runpy
from pathlib import Path

import numpy as np
import pytest

import gdjax

EXAMPLES = Path(__file__).parents[1] / "examples"


def main_of(name, **settings):
    """What the script runs, with some of its constants as given here."""
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    main.__globals__.update(settings)
    return main


def sized(small):
    """Small settings every time, and those of the script in the full run."""
    return pytest.mark.parametrize("settings", [pytest.param(small, id="small"), pytest.param({}, id="as it is", marks=pytest.mark.full)])


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


@sized({"TRIALS": 60, "BATCH": 16})
def test_optuna_batches(capsys, settings):
    study, scores, traces = main_of("optuna_batches", **settings)()
    trials = settings.get("TRIALS", 240)
    assert traces == {"in batches": 1, "one at a time": 1}  # though the last batch is smaller
    np.testing.assert_allclose(scores["in batches"], scores["one at a time"], rtol=1e-4)
    told = [np.nan if trial.value is None else trial.value for trial in study.trials]
    np.testing.assert_array_equal(np.float32(told), scores["in batches"])
    failed = [trial.state.name for trial in study.trials].count("FAIL")
    assert 0 < failed == np.sum(np.isnan(scores["in batches"])) < len(study.trials) == trials
    assert study.best_value < 0.27
    printed = capsys.readouterr().out
    assert "trials per second" in printed
    assert f"{failed} of {trials} trials diverged" in printed


@sized({"ORDERS": 1})
def test_hypergradients(capsys, settings):
    losses, slopes, traces = main_of("hypergradients", **settings)()
    assert traces == 1
    assert max(slopes[name] for name in ("peak_value", "end_value", "momentum")) < 0  # longer steps, at a learning rate far too small
    (before, untuned), (after, unseen), (best, _) = losses["before"], losses["after"], losses["best of grid"]
    assert after < 0.95 * best < 0.2 * before
    assert unseen < 0.15 * untuned  # on other digits, in other orders
    assert "128 rules in the grid" in capsys.readouterr().out


@sized({"STEPS": 2000, "SEEDS": 6, "STARTS": 60})
def test_local_minima(capsys, tmp_path, settings):
    least, stuck, reached, points, networks = main_of("local_minima", **settings)(tmp_path)
    assert stuck.converged
    assert stuck.grad_norm < 1e-3
    assert stuck.value > least + 7  # a minimum, but by far not the least
    assert reached["0.002 to 0"][0] == 0  # too little noise: as stuck as gradient descent
    assert reached["0.02 to 0"][0] >= (2 if settings else 14)
    assert reached["0.02 to 0"][1] < least + 0.5 < reached["0.02, constant"][1] - 0.5  # noise that does not fall leads everywhere
    assert 20 < len(points) <= 25 if settings else len(points) == 25  # five by five
    assert points.minima[0].value == pytest.approx(least, abs=1e-4)
    np.testing.assert_allclose(points.best.params, [0.0, 0.0], atol=1e-3)
    assert any(np.allclose(each.params, stuck.params, atol=1e-3) for each in points.minima)
    assert 0.5 < networks.minima[0].count / settings.get("STARTS", 400) < 0.95
    assert [round(each.value, 2) for each in networks.minima] == [0.01, 0.52, 0.52, 0.52, 0.52]
    assert points.failed == networks.failed == 0
    assert (tmp_path / "local_minima.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "CONVERGED at (1.866, -1.866)" in printed
    assert settings or "400 starts, 25 distinct minima" in printed
