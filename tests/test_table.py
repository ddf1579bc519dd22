"""Tables in files: what is made of them, and the learning rate found for them, beside NumPy and scikit-learn."""

import re

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import gdjax
import gdjax.table
from gdjax import __main__ as command

ROWS = 60


def table(rows=ROWS, seed=0, **more):
    """A column that two others tell, and more columns."""
    random = np.random.default_rng(seed)
    x, z = random.normal(5.0, 2.0, rows).round(3), random.normal(-1.0, 30.0, rows).round(3)
    return pd.DataFrame({"x": x, "z": z, **more, "y": (3 * x - 0.2 * z + random.normal(size=rows)).round(3)})


def saved(folder, frame, name="t.csv", **options):
    frame.to_parquet(folder / name) if name.endswith("parquet") else frame.to_csv(folder / name, index=False, **options)
    return folder / name


def written(folder, text, name="t.csv", encoding="utf-8"):
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


def dropped(problem):
    return next((note for note in problem.notes if note.startswith("dropped: ")), "")


def refused(capsys, *arguments):
    """What the command says of bad input: on stderr, without a traceback."""
    assert command.main(["suggest", *map(str, arguments)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("python -m gdjax suggest: ")
    assert shown.err.count("\n") == 1
    return shown.err


# What is read


def mixed():
    missing = np.arange(ROWS) % 7 == 0
    return table(
        whole=np.arange(ROWS) % 9,
        hole=np.where(missing, np.nan, np.linspace(0.5, 9, ROWS)),
        yes=np.arange(ROWS) % 3 == 0,
        maybe=pd.Series(np.arange(ROWS) % 2 == 0, dtype=object).where(~missing, None),
        text=pd.Series(["red", "green", "blue, light", 'a "b"', "é"] * (ROWS // 5)).where(~missing, None),
        sex=["m", "f"] * (ROWS // 2),
        many=[f"c{i % 30}" for i in range(ROWS)],
        name=[f"n{i}" for i in range(ROWS)],
        row_id=np.arange(ROWS) + 100,
        same=1.5,
        empty=np.nan,
        when=pd.date_range("2020-01-30", periods=ROWS),
    )


def test_csv_and_parquet_give_the_same(tmp_path):
    one, other = (gdjax.table.read(saved(tmp_path, mixed(), name), "y") for name in ("t.csv", "t.parquet"))
    assert one.names == other.names
    assert one.notes[1:] == other.notes[1:]
    np.testing.assert_allclose(one.data.features, other.data.features, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(one.data.target, other.data.target, rtol=1e-6)
    assert one.scale == pytest.approx(other.scale)


def test_every_kind_of_column_becomes_features_or_is_dropped_with_a_reason(tmp_path):
    problem = gdjax.table.read(saved(tmp_path, mixed()), "y")
    texts = ("text=(missing)", 'text=a "b"', "text=blue, light", "text=green", "text=red", "text=é")
    assert problem.names == ("x", "z", "whole", "hole", "hole is missing", "yes", "maybe", "maybe is missing", *texts, "sex=m")
    assert problem.data.features.dtype == problem.data.target.dtype == np.float32
    for part in ("'many' (30 different texts, more than 20)", "'name' (texts, different in every row)", "'row_id' (an id, different in every row)",
                 "'same' (constant)", "'empty' (empty)", "'when' (dates)"):  # fmt: skip
        assert part in dropped(problem)
    assert "missing values: 'hole' 9, 'maybe' 9, 'text' 9;" in " ".join(problem.notes)


def test_numbers_are_standardised_and_missing_ones_become_the_mean(tmp_path):
    frame = mixed()
    problem = gdjax.table.read(saved(tmp_path, frame), "y")
    features = dict(zip(problem.names, problem.data.features.T, strict=True))
    np.testing.assert_allclose(features["z"], (frame.z - frame.z.mean()) / frame.z.std(ddof=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(problem.data.target, (frame.y - frame.y.mean()) / frame.y.std(ddof=0), rtol=1e-5, atol=1e-6)
    assert problem.scale == pytest.approx(frame.y.std(ddof=0))
    missing = frame.hole.isna()
    assert (features["hole is missing"] == missing).all()
    np.testing.assert_allclose(features["hole"][missing], 0.0, atol=1e-6)
    np.testing.assert_allclose(features["hole"][~missing].std(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(features["maybe"][missing], features["maybe"][~missing].mean(), rtol=1e-6)
    assert (features["sex=m"] == (frame.sex == "m")).all()
    assert (features["text=green"] == (frame.text == "green")).all()


def test_numbers_too_large_to_be_squared(tmp_path):
    problem = gdjax.table.read(saved(tmp_path, table().assign(x=np.linspace(-1e300, 1e300, ROWS))), "y")
    np.testing.assert_allclose(problem.data.features.std(0), 1.0, rtol=1e-5)


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
def test_separators(tmp_path, sep):
    frame = table(text=["a,b", "c;d", "e|f"] * (ROWS // 3))
    one, other = gdjax.table.read(saved(tmp_path, frame, sep=sep), "y"), gdjax.table.read(saved(tmp_path, frame, "t.parquet"), "y")
    assert one.names == other.names
    np.testing.assert_allclose(one.data.features, other.data.features, rtol=1e-6, atol=1e-7)


def test_decimal_commas_byte_order_marks_spaces_and_question_marks(tmp_path):
    frame = table()
    plain = gdjax.table.read(saved(tmp_path, frame), "y")
    comma = gdjax.table.read(saved(tmp_path, frame, "comma.csv", sep=";", decimal=",", encoding="utf-8-sig"), "y")
    np.testing.assert_allclose(comma.data.features, plain.data.features, rtol=1e-6, atol=1e-7)
    spaced = gdjax.table.read(written(tmp_path, "x, y\n" + "".join(f"{'?' if i == 3 else i}, {i}.5\n" for i in range(20)) + "\n"), "y")
    assert spaced.names == ("x", "x is missing")


def test_rows_without_a_target_are_left_out(tmp_path):
    frame = table()
    frame.loc[[3, 5], "y"] = np.nan
    problem = gdjax.table.read(saved(tmp_path, frame), "y")
    assert len(problem.data.target) == ROWS - 2
    assert "rows without 'y', left out: 2" in problem.notes


def test_an_index_of_parquet_and_unnamed_row_numbers_are_ids(tmp_path):
    frame = table()
    frame.to_csv(tmp_path / "t.csv")
    assert "'Unnamed: 0' (an id" in dropped(gdjax.table.read(tmp_path / "t.csv", "y"))
    frame.set_index("x").to_parquet(tmp_path / "t.parquet")
    assert set(gdjax.table.read(tmp_path / "t.parquet", "y").names) == {"x", "z"}
    counted = gdjax.table.read(written(tmp_path, "x,y\n" + "".join(f"{i},{i}.5\n" for i in range(20))), "y")
    assert counted.names == ("x",)  # counts, but not called an id


TWO = {"0/1": (0, 1), "-1/1": (-1, 1), "yes/no": ("no", "yes"), "booleans": (False, True), "fractions": (0.5, 2.5)}


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize(("low", "high"), TWO.values(), ids=TWO)
def test_a_target_of_two_values_is_told_by_its_odds(tmp_path, low, high, name):
    above = table().y > 15
    frame = table(label=np.where(above, high, low))
    problem = gdjax.table.read(saved(tmp_path, frame, name), "label")
    assert problem.model == "logistic"
    assert problem.classes == (str(low), str(high))
    assert (problem.data.target == above).all()
    assert float(gdjax.evaluate(problem.loss_fn, problem.params, problem.data)) == pytest.approx(np.log(2))


def test_more_classes_and_the_loss_beside_numpy(tmp_path):
    found = np.arange(ROWS) % 3
    for column, classes in ((found, "012"), (found + 1, "123"), (np.array(["a", "b", "c"])[found], "abc")):
        problem = gdjax.table.read(saved(tmp_path, table(label=column)), "label")
        assert problem.model == "softmax"
        assert problem.classes == tuple(classes)
        assert (problem.data.target == found).all()
    params = {"weights": jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32), "bias": jnp.array([0.1, -0.2, 0.3])}
    scores = problem.data.features @ np.float64(params["weights"]) + np.float64(params["bias"])
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    expected = -np.log(chances[np.arange(ROWS), found]).mean()
    assert float(gdjax.evaluate(problem.loss_fn, params, problem.data)) == pytest.approx(expected, rel=1e-5)


def test_which_model_for_whole_numbers(tmp_path):
    counts = saved(tmp_path, table(rooms=np.arange(ROWS) % 12 + 3, rating=np.arange(ROWS) % 5 + 1, age=np.arange(ROWS) % 40))
    assert gdjax.table.read(counts, "rooms").model == "linear"
    assert gdjax.table.read(counts, "rating").model == "softmax"
    assert "--model linear takes them as numbers" in gdjax.table.read(counts, "rating").notes[-1]
    assert gdjax.table.read(counts, "rating", model="linear").model == "linear"
    assert gdjax.table.read(counts, "rooms", model="logistic").model == "softmax"
    assert gdjax.table.read(counts, "age").model == "linear"


# What is refused


def test_files_that_cannot_be_read(tmp_path, capsys):
    assert "none.csv: no such file." in refused(capsys, tmp_path / "none.csv", "--target", "y")
    (tmp_path / "folder.csv").mkdir()
    assert "a folder." in refused(capsys, tmp_path / "folder.csv", "--target", "y")
    assert "unknown kind of file; wanted .csv" in refused(capsys, written(tmp_path, "", "t.xlsx"), "--target", "y")
    assert "t.csv: empty; wanted" in refused(capsys, written(tmp_path, ""), "--target", "y")
    assert "no rows below" in refused(capsys, written(tmp_path, "x,y\n"), "--target", "y")
    assert "not UTF-8" in refused(capsys, written(tmp_path, "x,y\né,1\n", encoding="latin-1"), "--target", "y")
    assert "not a Parquet file" in refused(capsys, written(tmp_path, "x,y\n1,2\n", "t.parquet"), "--target", "y")
    assert "a quote is opened" in refused(capsys, written(tmp_path, 'x,y\n1,"2\n'), "--target", "y")
    assert "more than one column is called 'x'" in refused(capsys, written(tmp_path, "x,y,x\n1,2,3\n"), "--target", "y")


@pytest.mark.parametrize(("row", "said"), [("3", "a missing value is an empty field"), ("3,4,5", "a field with ',' in it needs quotes")])
def test_ragged_rows_are_named(tmp_path, capsys, row, said):
    text = "x,y\n1,2\n\n" + f"{row}\n" + "".join(f"{i},{i}\n" for i in range(20))
    shown = refused(capsys, written(tmp_path, text), "--target", "y")
    assert "t.csv, line 4: fields:" in shown
    assert said in shown


def test_a_column_that_is_not_there(tmp_path, capsys):
    file = saved(tmp_path, table(price=1.0))
    assert "no column 'Prise'; there are 'price', 'x', 'z', 'y'." in refused(capsys, file, "--target", "Prise")
    wide = saved(tmp_path, pd.DataFrame(np.zeros((20, 30)), columns=[f"column {i}" for i in range(30)]))
    assert "and 18 more" in refused(capsys, wide, "--target", "nothing alike?")
    assert "the first line has no names" in refused(capsys, written(tmp_path, "1,2.5\n3,4\n"), "--target", "y")


def test_targets_that_cannot_be_learned(tmp_path, capsys):
    prices = [f"{i},{i:03}" if i == 7 else f"{i}.5" for i in range(ROWS)]
    file = saved(tmp_path, table(same=2.0, name=[f"n{i}" for i in range(ROWS)], price=prices, when=pd.date_range("2020", periods=ROWS)))
    assert "'same' has one value, 2;" in refused(capsys, file, "--target", "same")
    assert "'name' has 60 different texts; wanted 2 to 20 classes" in refused(capsys, file, "--target", "name")
    assert "most are numbers; '7,007' is not" in refused(capsys, file, "--target", "price")
    assert "'when' holds dates" in refused(capsys, file, "--target", "when")
    assert "type --model linear" in refused(capsys, file, "--target", "y", "--model", "logistic")
    assert "linear regression wants numbers" in refused(capsys, file, "--target", "name", "--model", "linear")


def test_too_little_to_learn_from(tmp_path, capsys):
    assert "rows with 'y': 9; wanted 10 at least" in refused(capsys, saved(tmp_path, table(9)), "--target", "y")
    lone = saved(tmp_path, table()[["y"]].assign(id=np.arange(ROWS)))
    assert "no column is left to learn from; dropped: 'id' (an id" in refused(capsys, lone, "--target", "y")
    assert "--batch-size is 61, but there are 60 rows" in refused(capsys, saved(tmp_path, table()), "--target", "y", "--batch-size", 61)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("column", ["x", "y"])
def test_infinite_values(tmp_path, capsys, column, name):
    frame = table()
    frame.loc[[4, 8], column] = [np.inf, -np.inf]
    shown = refused(capsys, saved(tmp_path, frame, name), "--target", "y")
    assert f"column '{column}': infinite values: 2, the first in row 5; correct them" in shown


def test_bad_options_are_told_by_the_parser(capsys):
    for arguments in (["t.csv"], ["t.csv", "--target", "y", "--batch-size", "0"], ["t.csv", "--target", "y", "--epochs", "few"]):
        with pytest.raises(SystemExit) as ended:
            command.main(["suggest", *arguments])
        assert ended.value.code == 2
        assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(("package", "name"), [("pandas", "t.csv"), ("pandas", "t.parquet"), ("pyarrow", "t.parquet")])
def test_a_missing_extra_is_named(tmp_path, capsys, monkeypatch, package, name):
    file = saved(tmp_path, table(), name)
    monkeypatch.setitem(__import__("sys").modules, package, None)  # as if it were not installed
    assert command.main(["suggest", str(file), "--target", "y"]) == 1
    assert f'tables are read with {package}, which is not installed: type pip install "gdjax[tables]"' in capsys.readouterr().err


# What is suggested


def run(capsys, file, *arguments):
    """What the command prints; the losses in its table by name; and what the lines of code that it prints lead to."""
    assert command.main(["suggest", str(file), *map(str, arguments)]) == 0
    shown = capsys.readouterr().out
    rows = re.findall(r"^  (\S.{26,27}) +(\d\S*)", shown[shown.index("\nOver the ") :], re.MULTILINE)
    names = {}
    exec(shown.partition("To run it:\n")[2].replace("\n  ", "\n").removeprefix("  "), names)
    return shown, {name.strip(): float(value) for name, value in rows}, names["problem"], names["result"]


def test_a_linear_table_comes_down_to_least_squares(tmp_path, capsys):
    frame = table(200, text=["a", "b", "c", "d"] * 50)
    shown, losses, problem, result = run(capsys, saved(tmp_path, frame), "--target", "y", "--epochs", 20)
    design = np.column_stack([frame.x, frame.z, frame.text == "b", frame.text == "c", frame.text == "d", np.ones(200)]).astype(float)
    residual = frame.y - design @ np.linalg.lstsq(design, frame.y, rcond=None)[0]
    least = float(np.mean(residual**2)) / frame.y.var(ddof=0)
    suggested = next(value for name, value in losses.items() if name.startswith("learning rate "))
    assert losses["at the start"] == pytest.approx(1.0, rel=1e-5)
    assert losses["closed form, least squares"] == pytest.approx(least, rel=1e-4)
    assert suggested - least < 0.01 * (1 - least)  # 1 % of the way from the start
    assert losses["no learning rate, rule=None"] < 1
    assert "batch size 32, epochs 20, steps 140\nlearning rate " in shown
    assert float(gdjax.evaluate(problem.loss_fn, result.params, problem.data)) == pytest.approx(suggested, rel=1e-4)


def test_breast_cancer_comes_down_as_far_as_scikit_learn(tmp_path, capsys):
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    frame = load_breast_cancer(as_frame=True).frame
    shown, losses, problem, _ = run(capsys, saved(tmp_path, frame), "--target", "target", "--epochs", 20, "--seed", 3)
    fitted = LogisticRegression(C=100.0, max_iter=10_000).fit(problem.data.features, frame.target)
    least = log_loss(frame.target, fitted.predict_proba(problem.data.features))
    suggested = next(value for name, value in losses.items() if name.startswith("learning rate "))
    assert losses["at the start"] == pytest.approx(np.log(2), rel=1e-4)
    assert suggested - least < 0.05 * (np.log(2) - least)  # 5 % of the way from the start
    accuracy = float(re.search(r"^  learning rate .* ([\d.]+)$", shown, re.MULTILINE)[1])
    assert accuracy > 0.97
    assert "the largest class alone" in shown
    assert f"{357 / 569:.4f}" in shown


def test_classes_of_iris_are_told_apart(tmp_path, capsys):
    from sklearn.datasets import load_iris

    frame = load_iris(as_frame=True).frame
    shown, losses, problem, _ = run(capsys, saved(tmp_path, frame, "t.parquet"), "--target", "target", "--epochs", 10, "--batch-size", 50)
    assert problem.classes == ("0", "1", "2")
    assert losses["at the start"] == pytest.approx(np.log(3), rel=1e-4)
    assert float(re.search(r"^  learning rate .* ([\d.]+)$", shown, re.MULTILINE)[1]) > 0.9
