"""What got slower between two reports."""

import copy
import json
import pathlib

import pytest

from benchmarks import __main__ as command, compare

OVERHEAD = json.loads((pathlib.Path(compare.__file__).parent / "results" / "overhead.json").read_text())
for _ratio in OVERHEAD["rows"][0]["contenders"][1]["ratios"].values():  # so near each other that no run of the benchmark decides what the tests see
    _ratio |= {"q1": 0.99 * _ratio["median"], "q3": 1.01 * _ratio["median"]}


def run(tmp_path, old, new, *more):
    paths = []
    for name, report in (("old", old), ("new", new)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(report))
    return command.main(["compare", *map(str, paths), *more])


def slowed(report, factor):
    """Its first row's second contender so many times slower against everyone."""
    report = copy.deepcopy(report)
    record = report["rows"][0]["contenders"][1]
    for ratio in record["ratios"].values():
        ratio |= {key: factor * value for key, value in ratio.items()}
    return report, record["name"]


def test_nothing_changed(tmp_path, capsys):
    assert run(tmp_path, OVERHEAD, OVERHEAD, "--fail") == 0
    assert ": 0 slower, 0 faster" in capsys.readouterr().out


@pytest.mark.parametrize(("factor", "word"), [(1.5, "slower"), (0.5, "faster")])
def test_what_changed_is_named(tmp_path, capsys, factor, word):
    new, name = slowed(OVERHEAD, factor)
    assert run(tmp_path, OVERHEAD, new, "--fail") == (factor > 1)
    lines = capsys.readouterr().out.splitlines()
    changed = [line for line in lines if name in line]
    assert len(changed) == len(OVERHEAD["rows"][0]["contenders"][1]["ratios"])
    assert all(word in line and f"{factor:.2f}" in line for line in changed)


def test_ratios_within_their_quartiles_are_noise():
    new, _ = slowed(OVERHEAD, 1.5)
    for ratio in new["rows"][0]["contenders"][1]["ratios"].values():
        ratio["q1"] = 0.0
    assert not [change for change in compare.changes(OVERHEAD, new) if change.ratio > 1.1 and change.certain]


def test_records_without_ratios_go_by_their_times():
    one = {"problems": [{"problem": "a", "rows": {"saga()": {"ns/example": 400.0, "gap": 1e-9}}}]}
    two = {"problems": [{"problem": "a", "rows": {"saga()": {"ns/example": 800.0, "gap": 1e-3}}}]}
    [change] = compare.changes(one, two)
    assert (change.path, change.ratio) == ("problems / a / rows / saga() / ns/example", 2.0)


def test_other_machines_are_said_to_be(tmp_path, capsys):
    run(tmp_path, OVERHEAD, {**OVERHEAD, "machine": {"cpu": "another"}})
    assert "Other machines" in capsys.readouterr().out


def test_two_benchmarks_are_not_compared(tmp_path):
    with pytest.raises(SystemExit, match="wanted two of the same"):
        run(tmp_path, OVERHEAD, {**OVERHEAD, "benchmark": "fit"})


@pytest.mark.parametrize("content", ["[1, 2]", "no JSON", None])
def test_what_is_no_report_is_refused(tmp_path, content):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit, match="wanted the JSON of a benchmark"):
        command.main(["compare", str(path), str(path)])
