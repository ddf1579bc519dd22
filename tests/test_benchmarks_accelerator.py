"""The benchmark of accelerators: its report has its fields, its ratios are those of rates, and what does not fit the memory is halved."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as command, accelerator, measure
from benchmarks.gradients import READ

TINY = accelerator.Sizes(params=1000, leaves=3, chained=2, logistic_steps=20, network_steps=6, network_rows=96, rows=300, columns=5, rates=3, epochs=1)
PART = accelerator.Part("work", "GB/s", "update", ("reference",))


@pytest.fixture
def tiny(monkeypatch):
    """Small data, and stretches of calls no longer than a call."""
    monkeypatch.setattr(accelerator, "sizes_for", lambda platform, quick: TINY)
    monkeypatch.setattr(accelerator, "LEAST", 0.0)


def test_the_report(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(accelerator, "RESULTS", tmp_path)
    assert command.main(["accelerator", "--rounds", "2", "--json"]) == 0
    (path,) = tmp_path.glob("accelerator-*.json")
    report, printed = json.loads(path.read_text()), capsys.readouterr().out
    assert report["device"]["platform"] == jax.devices()[0].platform
    assert report["sizes"] == TINY._asdict()
    assert [part["unit"] for part in report["parts"]] == ["GB/s", "updates/s", "steps/s", "steps/s", "GB/s of X", "runs/s"]
    for part in report["parts"]:
        for record in part["contenders"]:
            assert len(record["seconds"]) == part["rounds"] == 2
            assert record["rate"] > 0
            assert set(record["rate_ratios"]) == set(part["references"])
        assert part["title"] in printed
    shown = path.with_suffix(".md").read_text()
    assert all(name in shown for name in ("# Accelerator", accelerator.COPY, accelerator.OPTAX_LOOP, READ, accelerator.ONE_BY_ONE))


def test_rates_and_ratios_from_known_seconds():
    """Twice the work in half the time of the same round is four times the rate, whatever the rounds were like."""
    records = [
        {"name": "reference", "work": 1.0, "count": 1, "calls": 1, "seconds": [1.0, 2.0, 8.0]},
        {"name": "mine", "work": 2.0, "count": 4, "calls": 1, "seconds": [0.5, 1.0, 4.0]},
    ]
    reference, mine = accelerator.result_of(PART, records)["contenders"]
    assert mine["rate_ratios"]["reference"] == {"q1": 4.0, "median": 4.0, "q3": 4.0}
    assert reference["rate_ratios"]["reference"]["median"] == 1.0
    assert (reference["rate"], mine["rate"]) == (0.5, 2.0)
    assert (reference["microseconds"], mine["microseconds"]) == (2e6, 0.25e6)
    assert "4.00 (4.00-4.00)" in accelerator.table(accelerator.result_of(PART, records))


def test_bytes_and_counts_of_updates(tiny):
    """Five numbers per param move in an update and two in a copy, however many updates a program makes."""
    found = {r["name"]: r for r in accelerator.run_updates(TINY, 1, TINY.params)["contenders"]}
    assert found[accelerator.COPY]["work"] == found[accelerator.IN_PLACE]["work"] == pytest.approx(8e-6)
    assert {r["work"] / r["count"] for name, r in found.items() if "optax" in name or "gdjax" in name} == {20e-6}
    assert found["gdjax.sgd, 2 in one program"]["count"] == 2


def test_updates_of_all_contenders_agree():
    grads = [jnp.full((2, 2), 0.5), jnp.full(3, -0.25)]
    moved = 0.1 * (1 + 1.9 + 2.71 + 3.439)  # sums of powers of the momentum
    for entry in accelerator.momentum_entries(grads, 1.0, 2):
        for _ in range(4 // entry.count):
            params, _ = entry.call()
        jax.tree.map(lambda x, g: np.testing.assert_allclose(x, 1 - moved * g, rtol=1e-6), params, grads)


def test_running_out_of_memory_halves(monkeypatch):
    monkeypatch.setattr(accelerator, "memory_bytes", lambda: 1600)
    tried = []

    def run(size):
        tried.append(size)
        if size > 30:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return {**PART._asdict(), "rounds": 1, "contenders": []}

    result = accelerator.halving(run, 400, 8)  # 800 bytes are half of the memory
    assert tried == [100, 50, 25]
    assert (result["size"], result["asked"]) == (25, 400)
    assert "halved from 400, which do not fit the memory" in accelerator.table(result)


@pytest.mark.parametrize(("size", "error"), [(1, MemoryError()), (8, ValueError("wrong"))], ids=["nothing left to halve", "another error"])
def test_other_errors_pass(size, error):
    def run(size):
        raise error

    with pytest.raises(type(error)):
        accelerator.halving(run, size, 1)


def test_results_that_differ_are_noticed():
    assert accelerator.apart(np.ones((2, 3)), np.ones((2, 3))) == 0
    for wrong in (1.1, np.nan):
        with pytest.raises(measure.Disagreement, match="differ"):
            accelerator.apart(np.full((2, 3), wrong), np.ones((2, 3)))


def test_sizes_and_names_of_devices():
    assert accelerator.sizes_for("gpu", False).rows * accelerator.sizes_for("gpu", False).columns * 4 > 4e9
    assert accelerator.sizes_for("gpu", True) == accelerator.sizes_for("cpu", True)
    assert accelerator.results_path("NVIDIA H200 (SXM)").name == "accelerator-nvidia-h200-sxm.json"
