"""The benchmarks compute what they say: contenders agree, and the report has its fields. Nothing here looks at a time."""

import itertools
import json

import numpy as np
import pytest

from benchmarks import __main__ as command_line, footprint, handwritten, measure, overhead, problems

BATCH = 8


@pytest.fixture
def tiny(monkeypatch):
    """The smallest rows: 10 variables for ``minimize``, 40 examples of 6 numbers for ``fit``."""
    rows = (
        overhead.Row("rosenbrock", problems.rosenbrock, 12, 12, 5),
        overhead.Row("softmax", lambda: problems.softmax(rows=40, columns=6), 12, 12, 5, BATCH),
    )
    monkeypatch.setattr(overhead, "ROWS", rows)
    return rows


@pytest.mark.full
def test_report_has_its_fields(tiny, tmp_path, capsys):
    path = tmp_path / "overhead.json"
    assert command_line.main(["overhead", "--rounds", "2", "--rows", "rosenbrock,softmax", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert {"cpu", "cpu_count", "affinity", "platform", "versions", "git_commit", "date"} <= set(report["machine"])
    assert report["machine"]["versions"]["jax"]
    for row in report["rows"]:
        names = [record["name"] for record in row["contenders"]]
        assert {"scan", "gdjax", "gdjax, no history", "optax, Python loop"} <= set(names)
        assert row["agreement"]["steps"] == 12
        for record in row["contenders"]:
            assert len(record["seconds"]) == 2
            assert record["steps"] == (5 if "Python" in record["name"] or record["name"] == "PyTorch" else record["steps"])
            assert set(record["ratios"]["scan"]) == {"q1", "median", "q3"}
            assert record["microseconds_per_step"] > 0
            assert record["first_call_seconds"] > 0
    assert "# Overhead" in path.with_suffix(".md").read_text()
    assert "x scan" in capsys.readouterr().out


def test_missing_peers_are_named_with_their_extra():
    contenders = [measure.Contender("here", None, needs="numpy"), measure.Contender("gone", None, needs="no_such_package")]
    present, lines = measure.split_missing(contenders)
    assert [contender.name for contender in present] == ["here"]
    assert lines == ["gone: skipped, no_such_package is not installed: pip install 'gdjax[bench]'"]


def test_a_contender_that_computes_something_else_is_caught():
    problem = problems.rosenbrock()
    right = measure.Contender("right", lambda steps, shuffle: handwritten.minimize_while(problem, steps))
    wrong = measure.Contender("wrong", lambda steps, shuffle: handwritten.minimize_scan(problem._replace(learning_rate=2e-5), steps))
    early = measure.Contender("early", lambda steps, shuffle: lambda: (problem.params, steps - 1))
    with pytest.raises(measure.Disagreement, match="wrong and right differ"):
        measure.check_agreement([right, wrong], 20)
    with pytest.raises(measure.Disagreement, match="early made 19 steps, wanted 20"):
        measure.check_agreement([right, early], 20)


def test_ratios_are_taken_within_rounds():
    records = [{"name": "a", "steps": 10, "seconds": [1.0, 2.0, 4.0]}, {"name": "b", "steps": 5, "seconds": [1.0, 2.0, 4.0]}]
    measure.add_ratios(records, ["a"])
    assert records[1]["ratios"]["a"] == {"q1": 2.0, "median": 2.0, "q3": 2.0}


@pytest.mark.parametrize("count", [2, 6, 8])
def test_nobody_keeps_the_same_predecessor(count):
    rounds = [measure.order_of_round(count, turn) for turn in range(count)]
    assert all(sorted(order) == list(range(count)) for order in rounds)
    pairs = [pair for order in rounds for pair in itertools.pairwise(order)]
    assert len(set(pairs)) == len(pairs) == count * (count - 1)


def test_epochs_visit_every_row_once():
    rows = handwritten.order(np.random.default_rng(0), 12, 4, 7, True)
    assert rows.shape == (7, 4)
    assert sorted(rows[:3].ravel()) == sorted(rows[3:6].ravel()) == list(range(12))
    assert not np.array_equal(rows[:3], rows[3:6])


def test_unknown_rows_are_refused():
    with pytest.raises(SystemExit, match="no row nonsense; there are rosenbrock"):
        overhead.selected("nonsense")


@pytest.mark.parametrize("door", ["minimize", "fit"])
def test_compilations_are_counted(door):
    counts = footprint.compilations_of(door)
    assert set(counts) == {"first call", "another learning rate", "other data and params", "another number of steps"}
    assert counts["first call"]["loss_traces"] >= 1
    assert counts["another learning rate"]["loss_traces"] == 0


def test_memory_is_counted():
    if not footprint.STATUS.exists():
        return  # read from the kernel, on Linux only
    used = footprint.memory_of("gdjax", side=64)
    assert used["params_bytes"] == 64 * 64 * 4
