"""The benchmarks of updates and memory, and the table of all: what they compute, what they count, and that two of their reports can be compared."""

import copy
import json

import jax
import numpy as np
import pytest

from benchmarks import __main__ as command, accelerator, compare, everything, measure, memory, updates

TINY = (updates.Work("a", ((7,),), 4), updates.Work("b", ((3, 2), (5,)), 3))


def record(name, seconds, steps=1):
    return {"name": name, "steps": steps, "seconds": seconds}


def test_all_updates_are_those_of_momentum():
    """x ← x − h v, v ← μ v + g, by hand; the second call goes on where the first ended."""
    work = TINY[1]
    params, grads = updates.arrays_of(work.shapes, 0), updates.arrays_of(work.shapes, 1)
    sums = [sum((1 - updates.MOMENTUM**k) / (1 - updates.MOMENTUM) for k in range(1, steps + 1)) for steps in (3, 6)]
    present, _ = measure.split_missing(updates.contenders(work)[:-1])
    for contender in present:
        run = contender.prepare(work.steps, False)
        for total in sums:
            found, steps = run()
            assert steps == 3
            for x, start, grad in zip(found, params, grads, strict=True):
                np.testing.assert_allclose(x, start - updates.RATE * total * grad, rtol=1e-5, atol=1e-6, err_msg=contender.name)


def test_the_limit_moves_as_many_bytes():
    """Reads and writes of a pass: 8 bytes for each number of x."""
    work = updates.Work("c", ((10, 20),), 3)
    x, steps = updates.one_pass(work, work.steps)()
    assert 8 * x.size == work.bytes == 5 * 4 * 200
    np.testing.assert_array_equal(x, np.full(x.size, steps))


def test_the_small_network_has_150_leaves():
    shapes = updates.small_network()
    assert len(shapes) == 150
    assert all(len(shape) in (1, 4) for shape in shapes)
    assert len(set(shapes)) > 10


def test_the_report_of_updates(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(updates, "WORK", TINY)
    path = tmp_path / "updates.json"
    assert command.main(["updates", "--rounds", "2", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert [work["work"] for work in report["work"]] == ["a", "b"]
    for work in report["work"]:
        assert not work["best_peer"].startswith("gdjax")
        assert all(set(each["ratios"]) == {work["best_peer"], updates.LIMIT} for each in work["contenders"])
    assert updates.OURS in capsys.readouterr().out
    assert f"| {updates.LIMIT}" in path.with_suffix(".md").read_text()


def test_a_wrong_update_is_noticed(monkeypatch):
    right = updates.contenders
    wrong = measure.Contender("wrong", lambda steps, shuffle: lambda: ([np.ones(7, np.float32)], steps))
    monkeypatch.setattr(updates, "contenders", lambda work: [*right(work)[:2], wrong, right(work)[-1]])
    with pytest.raises(measure.Disagreement, match="wrong and gdjax"):
        updates.run_work(TINY[0], 1)


@pytest.mark.parametrize("work", memory.WORK[:3], ids=lambda work: work.name)
def test_all_gradients_whose_memory_is_measured_are_the_same(work):
    model = work.build(40)
    present, _ = measure.split_missing([measure.Contender(name, way, needs=needs) for name, (way, needs) in work.ways.items()])
    ways = [work.ways[contender.name][0] for contender in present if not contender.name.startswith("gdjax.fit")]
    first, *others = ([np.asarray(leaf) for leaf in jax.tree.leaves(way(model)())] for way in ways)
    for other in others:
        grads = other[-len(jax.tree.leaves(model.params)) :]
        for mine, theirs in zip(first[1:], grads, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.full
@pytest.mark.skipif(not memory.footprint.STATUS.exists(), reason="the system does not say how much memory a process has")
def test_the_report_of_memory(monkeypatch, tmp_path, capsys):
    """Two processes in all: 20 MB of data take at least as much."""
    ways = {name: memory.WAYS[name] for name in ("gdjax.fit", memory.GRADIENT)}
    monkeypatch.setattr(memory, "WORK", (memory.WORK[0]._replace(quick=100_000, ways=ways),))
    path = tmp_path / "memory.json"
    assert command.main(["memory", "--quick", "--json", str(path)]) == 0
    [work] = json.loads(path.read_text())["work"]
    assert work["data_bytes"] == 100_000 * 51 * 4
    assert work["least_bytes"] == work["data_bytes"] + 50 * 4
    for each in work["contenders"]:
        assert each["peak_bytes"] > 0.9 * work["data_bytes"]
        assert each["ratios"][memory.LIMIT]["median"] == each["peak_bytes"] / work["least_bytes"]
    assert "params + state" in capsys.readouterr().out


def test_a_process_that_fails_says_why(monkeypatch):
    with pytest.raises(RuntimeError, match="KeyError"):
        memory.in_fresh_process(memory.WORK[0], "no such way")


OVERHEAD = {
    "batch_size": None,
    "name": "o",
    "contenders": [record(name, [s], 2) for name, s in {"while": 1, "while, same history": 2, "gdjax": 4, "p": 3}.items()],
}
STARTUP = {"work": "s", "contenders": [record("hand-written scan", [1.0]), record("gdjax.fit", [3.0])]}
MEMORY = {"work": "m", "size": 5, "unit": "rows", "least_bytes": 2e6, "contenders": [{"name": "gdjax.fit", "peaks": [3e6]}, {"name": "p", "peaks": [4e6]}]}
SAGA = {
    "problem": "f",
    "rows": {name: {"ns/example": ns} for name, ns in {"saga()": 300, "sag()": 1, "scikit-learn sag": 200, "scikit-learn saga": 600}.items()},
}
PART = {
    "title": "t (x)",
    "item": "update",
    "references": [accelerator.IN_PLACE],
    "contenders": [
        {"name": accelerator.COPY, "work": 8.0, "count": 1, "seconds": [1.0]},
        {"name": accelerator.IN_PLACE, "work": 8.0, "count": 1, "seconds": [2.0]},
        {"name": "optax.sgd, Python loop", "work": 20.0, "count": 1, "seconds": [6.0]},
        {"name": "gdjax.sgd, Python loop", "work": 20.0, "count": 1, "seconds": [8.0]},
        {"name": "gdjax.sgd, 10 in one program", "work": 200.0, "count": 10, "seconds": [40.0]},
    ],
}


def figures(row):
    """(ours, the peer, the limit, ratio to the peer, ratio to the limit)."""
    amounts = [row[key]["amount"] if key in row else None for key in ("gdjax", everything.PEER, everything.LIMIT)]
    return *amounts, *(row["ratios"][key]["median"] if key in row["ratios"] else None for key in (everything.PEER, everything.LIMIT))


@pytest.mark.parametrize(
    ("part", "report", "expected"),
    [
        ("overhead", {"rows": [OVERHEAD]}, (2, 1.5, 1, 4 / 3, 2)),
        ("startup", {"work": [STARTUP]}, (3, None, 1, None, 3)),
        ("memory", {"work": [MEMORY]}, (3e6, 4e6, 2e6, 0.75, 1.5)),
        ("finite_sums", {"problems": [SAGA]}, (3e-7, 2e-7, None, 1.5, None)),
        ("accelerator", {"parts": [PART]}, (4, 6, 5, 2 / 3, 0.8)),
    ],
)
def test_reports_become_rows(part, report, expected):
    [row] = next(each for each in everything.PARTS if each.name == part).rows(report)
    assert figures(row) == pytest.approx(expected)


def test_ratios_are_those_of_the_rounds():
    sides = everything.timed([record("gdjax", [2, 4, 30], 2), record("slow", [9, 9, 9]), record("fast", [1, 4, 10]), record("limit", [1, 1, 1])])
    row = everything.side_by_side("w", "s", *everything.parted(sides, "limit"))
    assert row[everything.PEER] == {"name": "fast", "amount": 4}
    assert row["ratios"][everything.PEER] == {"q1": 0.75, "median": 1.0, "q3": 1.25}
    assert row["ratios"][everything.LIMIT]["median"] == 2


@pytest.mark.parametrize(
    ("amount", "unit", "text"), [(0.25, "s", "250 ms"), (12.5, "s", "12.5 s"), (3e-9, "s", "3.00 ns"), (2.5e9, "B", "2,500 MB"), (0, "s", "0.00 ns")]
)
def test_amounts_in_few_digits(amount, unit, text):
    assert everything.shown(amount, unit) == text


def test_all_ends_with_one_table(monkeypatch, tmp_path, capsys):
    """What is left out and what fails is said under it."""
    report = {"machine": {**measure.machine(), "cpu": "of the first report"}, "work": [STARTUP]}
    found = {"startup": report, "memory": "memory: skipped, it left no report", "updates": "updates: failed, ValueError: no"}
    monkeypatch.setattr(everything, "report_of", lambda part, quick, folder: found[part.name])
    path = tmp_path / "all.json"
    assert command.main(["all", "--quick", "--only", "memory,startup,updates", "--json", str(path)]) == 1
    table = capsys.readouterr().out.split(" s\n\n")[-1].splitlines()
    assert table[0].split() == ["work", "gdjax", "best", "peer", "ratio", "limit", "ratio"]
    assert table[1].split()[-6:] == ["-", "hand-written", "scan:", "1.00", "s", "3.00"]
    assert table[3:] == ["updates: failed, ValueError: no", "memory: skipped, it left no report"]
    assert json.loads(path.read_text())["machine"]["cpu"] == "of the first report"
    assert "startup: s, first result" in path.with_suffix(".md").read_text()


def test_a_benchmark_in_a_process_of_its_own(tmp_path):
    """Its report is read; one that does not exist is skipped, one that fails says why."""
    part = everything.Part("gradients", lambda report: iter(()), full=("--quick", "--rounds", "1"))
    report = everything.report_of(part, False, str(tmp_path))
    assert isinstance(report, dict)
    assert report["benchmark"] == "gradients"
    assert everything.report_of(part._replace(name="nothing"), False, str(tmp_path)) == "nothing: skipped, there is no such benchmark"
    failed = everything.report_of(part._replace(full=("--rounds", "none")), False, str(tmp_path))
    assert isinstance(failed, str)
    assert "failed" in failed


def test_a_part_that_does_not_exist_is_refused():
    with pytest.raises(SystemExit, match="no benchmark nothing"):
        everything.selected("startup,nothing")


def reports():
    row = {**everything.side_by_side("m", "s", *everything.parted(everything.timed([record("gdjax", [2.0]), record("p", [1.0])]), ""))}
    ratio = {"q1": 1.0, "median": 1.0, "q3": 1.0}
    return {
        "all": {"rows": [row]},
        "updates": {"work": [{"work": "u", "contenders": [{"name": "gdjax", "microseconds_per_step": 5.0, "ratios": {updates.LIMIT: ratio}}]}]},
        "memory": {"work": [{"work": "m", "contenders": [{"name": "gdjax.fit", "peak_bytes": 5e6, "ratios": {memory.LIMIT: ratio}}]}]},
    }


@pytest.mark.parametrize("name", ["all", "updates", "memory"])
def test_two_reports_can_be_compared(name):
    """A ratio twice as large is a change, and the only one."""
    old = reports()[name]
    new = copy.deepcopy(old)
    entry = new["rows"][0] if name == "all" else new["work"][0]["contenders"][0]
    [ratio] = entry["ratios"].values()
    ratio |= {key: 2 * value for key, value in ratio.items()}
    [change] = compare.changes(old, new)
    assert (change.ratio, change.certain) == (2.0, True)
