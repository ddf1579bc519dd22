"""The benchmarks of gradients and start-up: what they compute is right, and programs outlive their process in JAX's compilation cache."""

import json

import numpy as np
import pytest

from benchmarks import __main__ as command, gradients, startup

TINY = (gradients.Work("a", 3000, 7, 1), gradients.Work("b", 500, 5, 3))


@pytest.mark.parametrize("work", TINY, ids=lambda work: work.name)
def test_numpy_and_gdjax_agree(work):
    found = gradients.contenders(work)
    value, grad = found["gdjax, blocked"]()
    inputs, labels, w = (x.astype(np.float64) for x in gradients.data_of(work))
    true_value, true_grad = gradients.with_numpy(work, inputs, labels if work.outputs == 1 else labels.astype(int), w)()
    np.testing.assert_allclose(value, true_value, rtol=1e-5)
    np.testing.assert_allclose(grad, true_grad, atol=1e-5)
    assert gradients.check(found) < 1e-5


def test_a_wrong_gradient_is_noticed():
    found = gradients.contenders(TINY[0])
    value, grad = found["NumPy"]()
    with pytest.raises(AssertionError, match="gradients differ"):
        gradients.check({**found, "NumPy": lambda: (value, 1.01 * grad)})


def test_the_report_of_gradients(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gradients, "WORK", TINY)
    path = tmp_path / "gradients.json"
    assert command.main(["gradients", "--rounds", "2", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert [work["work"] for work in report["work"]] == ["a", "b"]
    assert all(record["seconds_per_call"] > 0 for work in report["work"] for record in work["contenders"])
    assert gradients.READ in capsys.readouterr().out
    assert "| gdjax, blocked" in path.with_suffix(".md").read_text()


@pytest.mark.full
def test_programs_outlive_their_process(tmp_path):
    """The second process compiles nothing: all its programs are in the cache. Another learning rate never compiled anything."""
    imports, body = startup.WORK["batches of 32, no rule given"]["gdjax.fit"]
    first, second = (startup.once(imports, body, str(tmp_path)) for _ in range(2))
    assert first["cache_hits"] == 0
    assert second["cache_hits"] == second["compilations"] == first["compilations"] > 0


def test_a_failed_process_says_why():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        startup.once("", "1 / 0", None)
