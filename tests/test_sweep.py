"""Sweeps: every lane is the run it would be alone, whatever the blocks, seeds, rungs and devices; and what is refused."""

import os
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import Status
from gdjax._sweep import run as running
from gdjax.parts import lane_bytes

RANDOM = np.random.default_rng(3)
X = jnp.asarray(RANDOM.normal(size=(96, 4)), jnp.float32)
Y = X @ jnp.array([1.0, -2.0, 0.5, 3.0]) + 0.1 * jnp.asarray(RANDOM.normal(size=96), jnp.float32)
RATES = np.geomspace(1e-3, 0.3, 6)


def loss(w, batch):
    x, y = batch
    return jnp.mean((x @ w - y) ** 2)


def by_batches(rule, key=0, steps=36, resume=None):
    return gdjax.fit(loss, jnp.zeros(4), (X, Y), rule, batch_size=16, steps=steps, key=key, resume=resume)


def by_all(rule, steps=40, resume=None):
    return gdjax.fit(loss, jnp.zeros(4), (X, Y), rule, batch_size=None, steps=steps, stop=gdjax.stop.grad_norm(1e-30), resume=resume)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("run", [by_batches, by_all])
def test_every_lane_is_the_run_it_would_be_alone(run):
    found = gdjax.sweep(run, gdjax.grid(gdjax.sgd, learning_rate=RATES, momentum=[0.0, 0.5]))
    assert len(found) == 12
    assert found.blocks == 1
    for lane in (0, 5, 11):
        alone = run(gdjax.sgd(np.float32(RATES[lane // 2]), momentum=np.float32([0.0, 0.5][lane % 2])))
        each = found.lane(lane)
        np.testing.assert_allclose(each.result.params, alone.params, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(each.score, alone.value, rtol=1e-4)
        assert each.result.status is alone.status
        assert each.rule.arguments["momentum"] == [0.0, 0.5][lane % 2]
        assert each.arguments["learning_rate"] == pytest.approx(RATES[lane // 2], rel=1e-6)
    assert found.best().score == found.scores.min()
    assert found.lane(-1).index == 11


@pytest.mark.one_in(2)
@pytest.mark.parametrize("block", [1, 4, 5, 100])
def test_blocks_change_nothing(block):
    whole, parts = (gdjax.sweep(by_batches, gdjax.sgd(jnp.asarray(RATES)), keys=[0, 1], block=b) for b in (None, block))
    assert parts.blocks == -(-6 // min(block, 6))
    np.testing.assert_allclose(parts.scores, whole.scores, rtol=1e-5)
    for left, right in zip(jax.tree.leaves(parts.results), jax.tree.leaves(whole.results), strict=True):
        assert left.shape == right.shape


def test_seeds_are_a_second_axis():
    found = gdjax.sweep(by_batches, gdjax.sgd(jnp.asarray(RATES)), keys=range(3))
    assert found.scores.shape == found.results.value.shape == (6, 3)
    np.testing.assert_allclose(found.means, found.scores.mean(1))
    best = found.best()
    assert best.index == int(np.argmin(found.means))
    np.testing.assert_array_equal(best.result.params, best.results.params[int(np.argmin(found.scores[best.index]))])
    np.testing.assert_allclose(found.results.value[2, 1], by_batches(gdjax.sgd(np.float32(RATES[2])), 1).value, rtol=1e-4)
    keys = jax.random.split(jax.random.key(7), 2)
    np.testing.assert_allclose(
        gdjax.sweep(by_batches, gdjax.sgd(jnp.asarray(RATES)), keys=keys).results.value[0, 1], by_batches(gdjax.sgd(1e-3), keys[1]).value
    )
    assert set(found.to_dict()) >= {"learning_rate", "seed", "score", "status", "steps"}
    assert {len(column) for column in found.to_dict().values()} == {18}
    assert "± over seeds" in found.table()


def test_rules_of_several_structures():
    found = gdjax.sweep(by_batches, gdjax.grid(gdjax.sgd, learning_rate=[0.001, 0.05], momentum=[None, 0.9]))
    assert found.arguments["momentum"] == [None, None, 0.9, 0.9]
    assert isinstance(found.results, list)
    for lane in range(4):
        rule = gdjax.sgd(found.arguments["learning_rate"][lane], momentum=found.arguments["momentum"][lane])
        np.testing.assert_allclose(found.lane(lane).score, by_batches(rule).value, rtol=1e-4)
    assert "None" in found.table()


def test_numbers_beside_the_rule():
    def ridge(given):
        return gdjax.minimize(lambda w, l2: loss(w, (X, Y)) + l2 * jnp.vdot(w, w), jnp.zeros(4), given["rule"], args=(given["l2"],), max_steps=2000, tol=1e-4)

    found = gdjax.sweep(ridge, {"rule": gdjax.gd(0.02), "l2": jnp.array([0.0, 1.0, 10.0])})
    for l2, params in zip([0.0, 1.0, 10.0], found.results.params, strict=True):
        np.testing.assert_allclose(params, np.linalg.solve(X.T @ X / 96 + l2 * np.eye(4), X.T @ Y / 96), atol=1e-3)
    assert found.arguments == {"l2": [0.0, 1.0, 10.0]}


def test_lanes_that_diverge_are_never_best():
    found = gdjax.sweep(by_all, gdjax.gd(jnp.array([0.1, 50.0, 1e30])))
    assert found.best().index == 0
    np.testing.assert_array_equal(found.scores[1:], np.inf)
    assert found.lane(1).result.status in (Status.DIVERGED, Status.NONFINITE)
    assert "DIVERGED" in str(found)
    with pytest.raises(ValueError, match="all 2 lanes failed"):
        gdjax.sweep(by_all, gdjax.gd(jnp.array([50.0, 1e30]))).best()


def test_scores_of_ones_own():
    held_out = lambda result: gdjax.evaluate(loss, result.params, (X[:10], Y[:10]))  # noqa: E731
    found = gdjax.sweep(by_batches, gdjax.sgd(jnp.asarray(RATES)), score=held_out)
    np.testing.assert_allclose(found.scores[3], held_out(by_batches(gdjax.sgd(np.float32(RATES[3])))), rtol=1e-4)
    scalars = gdjax.sweep(lambda rule: by_batches(rule).value, gdjax.sgd(jnp.asarray(RATES)))
    np.testing.assert_allclose(scalars.scores, gdjax.sweep(by_batches, gdjax.sgd(jnp.asarray(RATES))).scores, rtol=1e-6)
    assert "status" not in scalars.table()
    assert set(scalars.to_dict()) == {"learning_rate", "score"}
    dicts = gdjax.sweep(lambda rule: {"loss": by_batches(rule).value}, gdjax.sgd(jnp.asarray(RATES)), score=lambda found: found["loss"])
    np.testing.assert_allclose(dicts.scores, scalars.scores)
    nan = gdjax.sweep(lambda rule: jnp.where(rule.arguments["learning_rate"] > 0.1, jnp.nan, 1.0), gdjax.sgd(jnp.asarray(RATES)))
    assert np.isinf(nan.scores).sum() == (RATES > 0.1).sum()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("run", [by_batches, by_all, lambda rule, steps=40: by_all(rule, steps)])
def test_successive_halving_is_that_by_hand(run):
    rules, steps = gdjax.sgd(jnp.asarray(np.geomspace(1e-3, 0.3, 9))), (12, 24, 36)
    found = gdjax.sweep(run, rules, rungs=steps, keep=1 / 3)
    each = [[run(jax.tree.map(lambda x: x[i], rules), steps=s) for s in steps] for i in range(9)]  # noqa: B023
    first = np.argsort([float(r[0].value) for r in each])[:3]
    second = first[np.argmin([float(each[i][1].value) for i in first])]
    assert found.rungs == {12: 9, 24: 3, 36: 1}
    assert found.best().index == second
    for lane in range(9):
        rung = 2 if lane == second else 1 if lane in first else 0
        assert int(found.results.steps[lane]) == steps[rung]
        np.testing.assert_allclose(found.results.value[lane], each[lane][rung].value, rtol=1e-4)
        assert found.lane(lane).result.status is (Status.MAX_STEPS if rung == 2 else Status.STOPPED)
        alone = {name: np.asarray(column)[np.asarray(each[lane][rung].history["step"]) >= 0] for name, column in each[lane][rung].history.items()}
        for name, column in found.lane(lane).result.history.items():
            np.testing.assert_allclose(column[: len(alone[name])], alone[name], rtol=2e-3, atol=1e-5, err_msg=name)
            assert (np.isnan(column[len(alone[name]) :]) | (column[len(alone[name]) :] == -1)).all()


def test_the_survivor_of_halving_can_be_resumed():
    best = gdjax.sweep(by_batches, gdjax.sgd(jnp.asarray(RATES)), rungs=(6, 12)).best()
    longer = by_batches(best.rule, steps=36, resume=best.result.state)
    np.testing.assert_allclose(longer.params, by_batches(best.rule, steps=36).params, rtol=1e-4)


def test_halving_drops_lanes_that_break_at_once_and_judges_seeds_together():
    found = gdjax.sweep(by_all, gdjax.gd(jnp.array([1e30, 1e29, 1e28, 0.1])), rungs=(5, 10), keep=0.99)
    assert found.rungs == {5: 4, 10: 1}
    found = gdjax.sweep(by_batches, gdjax.sgd(jnp.asarray(RATES)), keys=range(2), rungs=(6, 12), keep=0.5)
    assert found.rungs == {6: 6, 12: 3}
    assert (found.results.steps[:, 0] == found.results.steps[:, 1]).all()
    nothing = gdjax.sweep(by_all, gdjax.gd(jnp.array([1e30, 1e29])), rungs=(5, 10))
    assert nothing.rungs == {5: 2, 10: 0}
    assert np.isinf(nothing.scores).all()


def test_halving_over_several_structures_keeps_the_best_of_all():
    rules = gdjax.grid(gdjax.sgd, learning_rate=[1e-5, 0.05], momentum=[None, 0.5])
    found = gdjax.sweep(by_batches, rules, rungs=(6, 12), keep=0.25)
    assert found.rungs == {6: 4, 12: 1}
    steps = np.concatenate([results.steps for results in found.results])
    assert (steps == 12).sum() == 1
    assert steps[found.best().index] == 12


def test_a_sweep_compiles_its_run_once_and_a_second_one_nothing(caplog):
    traces = []

    def counted(w, batch):
        traces.append(1)
        return loss(w, batch)

    def go(rates, count=64):
        return gdjax.sweep(lambda rule: gdjax.fit(counted, jnp.zeros(4), (X, Y), rule, batch_size=16, steps=30, key=0), gdjax.sgd(rates))

    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        go(jnp.geomspace(1e-3, 1e-2, 64))
    compiled = [each.message for each in caplog.records if "Finished XLA compilation of jit(_whole)" in each.message]
    assert len(compiled) == 1  # the run, for all 64 lanes
    caplog.clear()
    before = len(traces)
    rates = jnp.geomspace(1e-3, 1e-1, 64)
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        go(rates)
    assert len(traces) == before
    assert [each.message for each in caplog.records if "Compiling" in each.message] == []


def test_memory_decides_how_many_lanes_go_at_once(monkeypatch):
    one = lane_bytes.bytes_of_lane(by_batches, gdjax.sgd(0.1))
    monkeypatch.setattr(lane_bytes, "_free_memory", lambda: int(2.5 * one / lane_bytes.SHARE))
    found = gdjax.sweep(by_batches, gdjax.sgd(jnp.asarray(RATES)))
    assert found.blocks == 3


def test_what_a_lane_holds_is_about_what_its_program_takes():
    width, data = 256, jnp.ones((512, 64))

    def network(params, batch):
        return jnp.mean(jnp.tanh(batch @ params["a"]) @ params["b"])

    def run(rule):
        params = {"a": jnp.ones((64, width)) / 64, "b": jnp.ones(width) / width}
        return gdjax.fit(network, params, data, rule, batch_size=None, steps=5)

    guess = lane_bytes.bytes_of_lane(run, gdjax.sgd(0.1, momentum=0.9))
    taken = jax.jit(jax.vmap(run)).lower(gdjax.sgd(jnp.ones(8), momentum=jnp.ones(8) / 2)).compile().memory_analysis()
    each = (taken.temp_size_in_bytes + taken.output_size_in_bytes) / 8
    assert each / 2 < guess < 6 * each  # nothing fused, and no buffer used twice, can only be more
    shared = lane_bytes.bytes_of_lane(lambda rule: jnp.sum(data * 2) * rule, jnp.zeros(()))
    assert shared < 100  # what all lanes share does not count


def test_bytes_of_loops_and_branches():
    big = lambda x: jnp.sum(jnp.ones(1000) * x)  # noqa: E731
    held = lane_bytes.bytes_of_lane
    for program in (
        lambda x: jax.lax.while_loop(lambda c: c < 10, lambda c: c + big(c), x),
        lambda x: jax.lax.scan(lambda c, _: (big(c), None), x, length=3)[0],
        lambda x: jax.lax.cond(x > 0, big, lambda x: x, x),
        lambda x: jax.jit(big)(x),
        jax.checkpoint(big),
    ):
        assert 4000 <= held(program, 1.0) < 9000
    assert held(lambda x: jax.lax.scan(lambda c, _: (c, jnp.ones(100) * c), x, length=10)[1], 1.0) >= 4000


def test_a_mesh_of_devices():
    code = """
import jax, jax.numpy as jnp, numpy as np, gdjax, sys
from gdjax._sweep import run as running
sys.path.insert(0, "tests")
import test_sweep as t
mesh = jax.make_mesh((4,), ("lanes",))
rules = gdjax.grid(gdjax.sgd, learning_rate=t.RATES, momentum=[0.0, 0.5])
for run, options in ((t.by_batches, {}), (t.by_all, {"block": 5}), (t.by_batches, {"rungs": (12, 36)})):
    here, there = (gdjax.sweep(run, rules, mesh=m, **options) for m in (None, mesh))
    np.testing.assert_allclose(there.scores, here.scores, rtol=1e-4)
    np.testing.assert_array_equal(there.results.code, here.results.code)
seeds = gdjax.sweep(t.by_batches, rules, keys=range(2), mesh=mesh, score=lambda result: t.loss(result.params, (t.X, t.Y)))
alone = gdjax.sweep(t.by_batches, rules, keys=range(2), score=lambda result: t.loss(result.params, (t.X, t.Y)))
assert (seeds.scores[:, 0] != seeds.scores[:, 1]).all()
gdjax.sweep(t.by_all, gdjax.sgd(jnp.geomspace(0.01, 0.1, 8)), mesh=mesh)
running._made_to_spread = None  # which makes a program: there is no need of another
gdjax.sweep(t.by_all, gdjax.sgd(jnp.geomspace(0.02, 0.1, 8)), mesh=mesh)
np.testing.assert_allclose(np.log(seeds.scores[:8]), np.log(alone.scores[:8]), atol=0.3)  # the order of the data is another one
whole = gdjax.sweep(t.by_all, gdjax.sgd(jnp.geomspace(0.01, 0.1, 8)), mesh=mesh)
print(len(whole.results.value.sharding.device_set))
"""
    env = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "4"


def test_tables():
    found = gdjax.sweep(by_batches, gdjax.grid(gdjax.sgd, learning_rate=np.geomspace(1e-3, 0.1, 12)))
    lines = found.table(rows=3).splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["learning_rate", "score", "status", "steps"]
    assert float(lines[1].split()[1]) == pytest.approx(found.best().score, rel=1e-4)
    assert str(found).startswith("sweep of 12 lanes, 0 failed\n")
    assert str(found).endswith("2 more: sweep.table(None)")
    assert len(found.table(None).splitlines()) == 13


def test_rich_tables(monkeypatch):
    rich = pytest.importorskip("rich.console", reason="rich is an extra that flax brings")
    found = gdjax.sweep(by_batches, gdjax.sgd(jnp.asarray(RATES)))
    console = rich.Console(record=True, width=100, file=open(os.devnull, "w"))
    console.print(found.table(rich=True))
    console.file.close()
    assert "learning_rate" in console.export_text()
    monkeypatch.setitem(sys.modules, "rich.table", None)
    with pytest.raises(ImportError, match="pip install rich"):
        found.table(rich=True)


def test_scores_that_are_not_finite_are_never_best():
    identity = lambda x, steps=1: x  # noqa: E731
    assert gdjax.sweep(identity, jnp.array([1.0, -jnp.inf, 2.0, jnp.nan])).best().index == 0
    halved = gdjax.sweep(identity, jnp.array([-jnp.inf, 1.0, 2.0, 3.0]), rungs=(1, 2), keep=0.25)
    assert halved.best().index == 1


def test_rungs_of_runs_that_return_no_result_begin_anew():
    run = lambda rule, steps, resume=None: by_batches(rule, steps=steps, resume=resume).value  # noqa: E731
    found = gdjax.sweep(run, gdjax.sgd(jnp.asarray(RATES)), rungs=(6, 36))
    np.testing.assert_allclose(found.best().score, by_batches(gdjax.sgd(np.float32(RATES[found.best().index]))).value, rtol=1e-4)


def test_rules_of_several_factories_and_rules_without_numbers():
    found = gdjax.sweep(by_all, [gdjax.grid(gdjax.gd, learning_rate=[0.001, 0.01]), gdjax.grid(gdjax.normalized, learning_rate=[0.001, 0.01]), gdjax.adgd()])
    assert found.arguments["rule"] == ["gd", "gd", "normalized", "normalized", "adgd"]
    np.testing.assert_allclose(found.lane(4).score, by_all(gdjax.adgd()).value, rtol=1e-4)
    assert found.to_dict()["rule"] == found.arguments["rule"]


def test_lanes_of_keys_and_of_named_tuples():
    class Given(NamedTuple):
        rate: jax.Array
        key: jax.Array

    found = gdjax.sweep(lambda g: by_batches(gdjax.sgd(g.rate), g.key), Given(jnp.array([0.01, 0.1]), jax.random.split(jax.random.key(0), 2)))
    assert found.arguments["rate"] == [pytest.approx(0.01), pytest.approx(0.1)]
    assert len(set(found.arguments["key"])) == 2
    assert "rate" in str(found)


RULES = gdjax.sgd(jnp.asarray(RATES))
BAD = [
    (lambda: gdjax.sweep(by_batches, RULES, score="value"), TypeError, "score is"),
    (lambda: gdjax.sweep(None, RULES), TypeError, "function of a rule"),
    (lambda: gdjax.sweep(by_batches, gdjax.sgd(0.1)), ValueError, "no axis of lanes"),
    (lambda: gdjax.sweep(by_batches, gdjax.sgd(jnp.ones(3), momentum=jnp.zeros(2))), ValueError, "leading axes of 2, 3"),
    (lambda: gdjax.sweep(by_batches, gdjax.sgd), TypeError, "leading axis"),
    (lambda: gdjax.sweep(by_batches, []), ValueError, "empty list"),
    (lambda: gdjax.sweep(by_batches, RULES, keys=4), TypeError, r"keys=range\(4\)"),
    (lambda: gdjax.sweep(by_batches, RULES, keys=[]), TypeError, r"keys=range\(4\)"),
    (lambda: gdjax.sweep(by_batches, RULES, keys=["a"]), TypeError, "key"),
    (lambda: gdjax.sweep(by_batches, RULES, rungs=(5, 5)), ValueError, "increasing"),
    (lambda: gdjax.sweep(by_batches, RULES, rungs=(1.5, 5)), ValueError, "increasing"),
    (lambda: gdjax.sweep(by_batches, RULES, rungs=()), ValueError, "increasing"),
    (lambda: gdjax.sweep(lambda rule: by_batches(rule), RULES, rungs=(5, 10)), TypeError, "takes no steps"),
    (lambda: gdjax.sweep(by_batches, RULES, keep=1.0), ValueError, "keep"),
    (lambda: gdjax.sweep(by_batches, RULES, block=0), ValueError, "block"),
    (lambda: gdjax.sweep(by_batches, RULES, mesh=4), TypeError, "mesh"),
    (lambda: gdjax.sweep(lambda rule: {"a": by_batches(rule).value}, RULES), TypeError, "score"),
    (lambda: gdjax.sweep(by_batches, RULES, score=lambda result: result.params), TypeError, "scalar"),
    (lambda: jax.jit(lambda rates: gdjax.sweep(by_batches, gdjax.sgd(rates)).scores)(jnp.ones(2)), ValueError, "inside jit"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_the_share_that_goes_on_is_at_least_one():
    group = running._Group(None, np.arange(4), scores=np.array([[3.0], [1.0], [np.inf], [2.0]]), dropped=np.zeros(4, bool))
    (after,) = running._halved([group], 0.01)
    np.testing.assert_array_equal(after.active, [1])
    (after,) = running._halved([group], 0.9)
    np.testing.assert_array_equal(after.active, [0, 1, 3])
    np.testing.assert_array_equal(after.dropped, [False, False, True, False])
