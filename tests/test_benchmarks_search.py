"""The benchmarks of sweeps and of suggested learning rates: their figures are those of the runs, and their reports have their fields."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from benchmarks import __main__ as command, suggest, sweeps
from benchmarks.training_tasks import named


@pytest.fixture
def short(monkeypatch):
    """A task of few steps, one rule, a small sweep."""
    task = dataclasses.replace(named("softmax_digits"), steps=24)
    monkeypatch.setattr(suggest, "named", lambda name: task)
    monkeypatch.setattr(suggest, "WAYS", suggest.WAYS[:1])
    monkeypatch.setattr(suggest, "HALF", 2)
    monkeypatch.setattr(suggest, "MOST", 1)
    monkeypatch.setattr(suggest, "SEEDS", (10, 11))
    monkeypatch.setattr(suggest, "BUDGETS", (7.0, 2.0))
    with jax.numpy_rank_promotion("allow"):  # the tasks are those of their source
        yield task


@pytest.mark.full
def test_the_report_of_suggest(short, tmp_path, capsys):
    path = tmp_path / "suggest.json"
    assert command.main(["suggest", "--tasks", "softmax_digits", "--json", str(path)]) == 0
    report, printed = json.loads(path.read_text()), capsys.readouterr().out
    (case,) = report["cases"]
    assert [row["budget"] for row in case["suggestions"]] == [7.0, 2.0]
    assert all(row["over_best"] == pytest.approx(row["learning_rate"] / case["best"]) for row in case["suggestions"])
    assert case["suggestions"][0]["runs"] > case["suggestions"][1]["runs"]
    assert [row["budget"] for row in report["summary"]] == [7.0, 2.0]
    assert "suggest(budget=7)" in printed
    assert "| softmax_digits, sgd 0.9, cosine" in path.with_suffix(".md").read_text()


@pytest.mark.full
def test_sweeps_around_a_rate_are_those_of_single_runs_and_grow_at_an_edge(short):
    way = suggest.WAYS[0]
    found = suggest.swept_around(short, way, 1e-4)  # far too small: the best is at the upper edge
    assert len(found.rates) == 7
    assert (np.diff(found.rates) > 0).all()
    key = jax.random.key(11)
    rule = way.make(float(found.rates[3]), 24.0)
    result = gdjax.fit(short.loss, short.init(key), short.train, rule, batch_size=short.batch_size, steps=24, key=key)
    np.testing.assert_allclose(found.losses[3, 1], short.loss(result.params, short.train), rtol=1e-4)


def test_shares_within_a_factor():
    assert suggest.within([1.0, 2.0, 0.5, 2.1, 0.4]) == pytest.approx(0.6)
    assert suggest._regret(np.array([1.0, 3.0]), 1.0, 5.0) == pytest.approx(0.25)
    assert suggest._regret(np.array([1.0, np.inf]), 1.0, 5.0) is None


def test_the_report_of_sweeps(monkeypatch, tmp_path, capsys):
    loss, starts = lambda w: jnp.sum((w - 1) ** 2), gdjax.gd(jnp.geomspace(0.01, 0.4, 6))
    run = lambda rule: gdjax.minimize(loss, jnp.zeros(2), rule, max_steps=20)  # noqa: E731
    tiny = [sweeps.Work("tiny", 6, [sweeps._swept(run, starts), sweeps._mapped(run, starts), sweeps._alone(run, starts)])]
    monkeypatch.setattr(sweeps, "works", lambda: tiny)
    path = tmp_path / "sweep.json"
    assert command.main(["sweep", "--quick", "--json", str(path)]) == 0
    (work,) = json.loads(path.read_text())["work"]
    assert [record["name"] for record in work["contenders"]] == ["gdjax.sweep", "jax.jit(jax.vmap(run))", "one after another"]
    assert all(len(record["seconds"]) == sweeps.QUICK_ROUNDS for record in work["contenders"])
    assert "us/run" in capsys.readouterr().out
    assert "### tiny" in path.with_suffix(".md").read_text()


def test_all_ways_of_a_piece_of_work_make_the_same_runs():
    work = next(each for each in sweeps.works() if each.name.startswith("64 rates"))
    swept, alone = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(way.make())]) for way in work.ways)
    np.testing.assert_allclose(swept, alone, rtol=1e-3)
    assert [way.share for way in work.ways] == [1.0, 1.0]
