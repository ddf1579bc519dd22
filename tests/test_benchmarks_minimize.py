"""The evaluations that ``python -m benchmarks minimize`` reports are those that were made, and its shares those of its definition."""

import importlib.util
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pytest
import scipy.optimize

import gdjax
from benchmarks import __main__ as command_line, contenders, counting, cutest, minimize, profiles
from benchmarks.counting import Counted, Record

START = np.array([-1.2, 1.0])


def rosenbrock(x):
    return 100.0 * (x[1] - x[0] ** 2) ** 2 + (1.0 - x[0]) ** 2


def bowl(x):
    return jnp.sum(x**2)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def counted():
    return Counted(rosenbrock)


def made(counted, call):
    """The costs noted while ``call()`` ran."""
    record = counted.begin(None)
    jax.block_until_ready(call())
    return record.costs


def test_value_alone_is_a_quarter_and_a_gradient_with_its_value_one(counted):
    x = jnp.asarray(START)
    both, three = jax.jit(jax.value_and_grad(counted.fun)), jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x - 1e-4 * jax.grad(counted.fun)(x), x))
    assert made(counted, lambda: counted.fun(x)) == [0.25]
    assert made(counted, lambda: jax.jit(counted.fun)(x)) == [0.25]
    assert made(counted, lambda: both(x)) == [1.0]
    assert made(counted, lambda: jax.grad(counted.fun)(x)) == [1.0]
    assert made(counted, lambda: three(x)) == [1.0, 1.0, 1.0]
    assert made(counted, lambda: jax.jit(lambda x: both(x)[0])(x)) == [0.25]  # the gradient is asked for and dropped by the compiler
    assert sorted(made(counted, lambda: jax.jit(lambda x: (counted.fun(x), both(2 * x)))(x))) == [0.25, 1.0]


@pytest.mark.parametrize("used", [True, False])
def test_a_gradient_taken_later_is_added_to_its_value(counted, used):
    @jax.jit
    def some(x, used):
        value, slope = jax.linearize(counted.fun, x)
        return value, jax.lax.cond(used, lambda: jax.linear_transpose(slope, x)(jnp.ones_like(value))[0], lambda: jnp.zeros_like(x))

    record = counted.begin(None)
    value, grad = jax.block_until_ready(some(jnp.asarray(START), used))
    assert record.costs == [1.0 if used else 0.25]
    assert record.work == sum(record.costs)
    assert record.values == [value] == [pytest.approx(rosenbrock(START))]
    np.testing.assert_allclose(grad, jax.grad(rosenbrock)(jnp.asarray(START)) if used else np.zeros(2), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_is_changed_by_counting(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(START, dtype)
        seen = jax.jit(jax.value_and_grad(Counted(rosenbrock, dtype).fun))(x)
        for mine, plain in zip(seen, jax.jit(jax.value_and_grad(rosenbrock))(x), strict=True):
            assert mine.dtype == plain.dtype == dtype
            np.testing.assert_allclose(mine, plain, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("rule", "steps"), [(gdjax.gd(1e-3), 40), (None, 20)])
def test_ours_as_the_result_says(counted, rule, steps):
    record = counted.begin(None)
    result = gdjax.minimize(counted.fun, START, rule, tol=0.0, max_steps=steps, progress=False)
    assert record.gradients == len(record.costs) == int(result.evaluations)
    assert int(result.evaluations) == steps + 1 if rule else int(result.evaluations) > steps + 1


def test_optax_lbfgs_as_its_line_search_says(counted):
    rule, record = optax.lbfgs(), counted.begin(None)
    value_and_grad = optax.value_and_grad_from_state(counted.fun)

    @jax.jit
    def step(x, state):
        value, grad = value_and_grad(x, state=state)
        updates, state = rule.update(grad, state, x, value=value, grad=grad, value_fn=counted.fun)
        return optax.apply_updates(x, updates), state

    x, evaluations = jnp.asarray(START), 1
    state = rule.init(x)
    for _ in range(20):
        x, state = step(x, state)
        evaluations += int(state[-1].info.num_linesearch_steps)
    assert record.costs == [1.0] * evaluations
    assert evaluations > 21


@pytest.mark.parametrize("method", ["CG", "L-BFGS-B", "BFGS", "Powell"])
def test_scipy_as_its_result_says(counted, method):
    record = counted.begin(None)
    gradient = None if method == "Powell" else counted.gradient
    result = scipy.optimize.minimize(counted.value, START, jac=gradient, method=method)
    gradients = result.get("njev", 0)
    assert record.gradients == gradients
    assert record.work == gradients + 0.25 * (len(record.costs) - gradients)
    assert len(record.costs) == result.nfev or method == "Powell"  # which looks at a point twice, and is told what is known
    assert record.best == pytest.approx(result.fun)


def test_optimistix_pays_a_quarter_for_a_rejected_step(counted):
    record = counted.begin(None)
    solution = optimistix.minimise(lambda x, _: counted.fun(x), optimistix.BFGS(0.0, 0.0), jnp.asarray(START), max_steps=40, throw=False)
    accepted = int(solution.state.num_accepted_steps)
    assert record.gradients == accepted < 40
    assert record.work == accepted + 0.25 * (40 - accepted)


def test_work_to_the_solution_by_hand():
    record = Record(target=1.0)
    for value, graded in [(9.0, True), (np.nan, False), (3.0, False), (1.0, True), (0.5, False)]:
        number = record.value(value)
        if graded:
            record.gradient(number)
            record.gradient(number)
        assert record.done == (value <= 1.0)
    assert record.costs == [1.0, 0.25, 0.25, 1.0, 0.25]
    assert [record.work_to(target) for target in (9.0, 3.0, 2.0, 1.0, 0.7, 0.1)] == [1.0, 1.5, 2.5, 2.5, 2.75, np.inf]
    assert record.best == 0.5
    record.budget = 2.5
    assert [record.work_to(1.0), record.work_to(0.5)] == [2.5, np.inf]


def test_a_run_ends_when_its_time_is_over(monkeypatch):
    clock = [5.0]
    monkeypatch.setattr(counting.time, "monotonic", lambda: clock[0])
    record = Record(target=1.0, seconds=2.0)
    clock[0] = 50.0  # compiling before the first evaluation takes nothing from it
    assert not record.done
    record.value(9.0)
    assert not record.done
    clock[0] = 52.5
    assert record.done
    assert contenders.ending(record) == "time"


def begin_at(counted, target, budget=20.0):
    return lambda budget=budget: counted.begin(target, budget, 60.0)


def every_solver():
    return [solver for solver in contenders.ours() + contenders.peers() if solver.needs is None or importlib.util.find_spec(solver.needs)]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("solver", every_solver(), ids=lambda solver: solver.name)
def test_every_solver_ends_at_the_target_or_with_the_budget(counted, solver):
    target = rosenbrock(START) / 2
    record, end = solver.solve(counted, START, begin_at(counted, target, 200.0))
    assert record.reached == (end.split(",")[0] == "target")
    assert np.isfinite(record.work_to(target))
    record, end = solver.solve(counted, START, begin_at(counted, -1.0))
    assert end.split(",")[0] == "budget"
    assert 20.0 <= record.work < 60.0  # a step is finished before anyone looks
    assert record.values[0] == pytest.approx(rosenbrock(START))


def test_rules_come_from_the_table_where_they_can_be_made(monkeypatch):
    rows = {"gd 0.001": ("gd", {"learning_rate": 0.001}), "gd": ("gd", {}), "unknown": ("no_such_rule", {}), "other": ("gd", {"no_such_argument": 1})}
    monkeypatch.setattr(contenders, "RULES", rows)
    assert [solver.name for solver in contenders.ours()] == ["default", "gd 0.001"]


def test_learning_rates_are_tried_on_short_runs(counted):
    small = Counted(lambda x: 0.5e3 * bowl(x))
    record, end = contenders.optimistix_descent(small, START, lambda budget=500.0: small.begin(1e-3, budget))
    assert end == "target, learning rate 0.001"  # 1/L = 1e-3 goes there at once
    assert record.work == record.work_to(1e-3) == 2.0


def test_shares_and_their_table():
    work = {"a": [50.0, 51.0, 2000.0, np.inf], "b": [1.0, 2.0, 3.0, 4.0]}
    assert profiles.shares(work["a"]) == [0.25, 0.5, 0.5, 0.5, 0.5, 0.75]
    lines = profiles.table(work).splitlines()
    assert lines[0].split() == ["%", "solved", "within", "50", "100", "200", "500", "1000", "2000"]
    assert [line.split() for line in lines[1:]] == [["b"] + ["100"] * 6, ["a", "25", "50", "50", "50", "50", "75"]]


def raises(counted, start, begin):
    begin()
    counted.value(start)
    raise FloatingPointError("no more\nlines")


def test_a_solver_that_raises_has_not_solved_it():
    problem = cutest.Problem("bowl", lambda: (bowl, START), float(bowl(START)), 0.0)
    run = minimize.run_problem(problem, [contenders.Solver("broken", raises)], "float64")["runs"][0]
    assert (run["work_to_solution"], run["end"], run["work"]) == (None, "FloatingPointError: no more", 0.25)


def test_float32_is_judged_in_float64():
    # Near the minimum the float32 value is 1e8 wherever |x| < 2, and looks solved; truly so only where x**2 <= 0.1.
    points = [10.0, 1.9, 0.1, 0.0]

    def visit(counted, start, begin):
        record = begin()
        for point in points:
            jax.block_until_ready(counted.fun(jnp.float32([point])))
        return record, "ended"

    problem = cutest.Problem("flat", lambda: (lambda x: 1e8 + jnp.sum(x**2), np.array([10.0])), 1e8 + 100.0, 1e8)
    prepared = minimize.Prepared(problem, "float32")
    assert prepared.run(contenders.Solver("visit", visit))["work_to_solution"] == 0.75
    assert prepared.counted.record.values[1] == 1e8


def test_perturbed_starts_differ_by_seed_and_little():
    starts = [minimize.perturbed(START, seed, "float64") for seed in (None, 1, 1, 2)]
    assert np.array_equal(starts[0], START)
    assert np.array_equal(starts[1], starts[2])
    assert 0 < np.abs(starts[1] - starts[3]).max() < 1e-8
    assert not np.array_equal(minimize.perturbed(START, 1, "float32"), START.astype("float32"))


@pytest.fixture
def handmade(monkeypatch):
    """Two problems by hand instead of the list."""
    known = {
        "BOWL": cutest.Problem("BOWL", lambda: (bowl, np.arange(3.0)), 5.0, 0.0),
        "ROSEN": cutest.Problem("ROSEN", lambda: (rosenbrock, START), rosenbrock(START), 0.0),
    }
    monkeypatch.setattr(cutest, "entries", lambda: [{"name": name} for name in known])
    monkeypatch.setattr(cutest, "load", lambda entry: known[entry["name"]])
    monkeypatch.setattr(cutest, "check_installed", lambda: None)


def test_report_has_its_fields(handmade, tmp_path, capsys):
    path = tmp_path / "minimize.json"
    assert command_line.main(["minimize", "--solvers", "default,scipy CG", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert {"cpu", "versions", "git_commit", "date"} <= set(report["machine"])
    assert {"jax", "scipy", "sif2jax"} <= set(report["machine"]["versions"])
    assert (report["dtype"], report["accuracy"], report["perturb"]) == ("float64", 1e-6, None)
    assert [problem["problem"] for problem in report["problems"]] == ["BOWL", "ROSEN"]
    for problem in report["problems"]:
        assert [run["solver"] for run in problem["runs"]] == ["default", "scipy CG"]
        for run in problem["runs"]:
            assert 0 < run["work_to_solution"] <= run["work"] <= run["evaluations"]
            assert run["end"] == "target" or problem["problem"] == "BOWL"  # whose minimum is met exactly
            assert run["best_gap"] <= 1e-6
    assert report["profiles"]["default"] == [1.0] * 6
    page = path.with_suffix(".md").read_text()
    assert "# Minimize" in page
    assert "minimize.png" in page
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "% solved within" in capsys.readouterr().out


def test_float32_report_has_the_statuses(handmade, tmp_path, capsys):
    path = tmp_path / "minimize.json"
    assert command_line.main(["minimize", "--solvers", "default", "--problems", "BOWL", "--dtype", "float32", "--perturb", "3", "--json", str(path)]) == 0
    row = json.loads(path.read_text())["float32"][0]
    assert row["float32"]["end"] == "CONVERGED"
    assert row["float64"]["work_to_solution"] == row["float32"]["work_to_solution"] > 0
    assert "of those it solves so in float64: 1 of 1 (100 %)" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "first"), [("--solvers", "default"), ("--problems", "BOWL")])
def test_unknown_names_are_refused(handmade, option, first):
    with pytest.raises(SystemExit, match=f"{option}: no nonsense; there are {first}"):
        command_line.main(["minimize", option, f"{first},nonsense"])


def test_missing_problems_are_named_with_their_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"sif2jax, which is not installed: pip install 'gdjax\[bench\]'"):
        cutest.check_installed()


def test_list_is_whole():
    entries = cutest.entries()
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names) == 59
    assert set(cutest.QUICK) <= set(names)
    assert all(set(entry) == {"name", "module", "cls", "kwargs", "n", "f0", "fstar"} and entry["f0"] > entry["fstar"] for entry in entries)


def test_problems_are_built_without_their_whole_package(monkeypatch, tmp_path):
    folder = tmp_path / "sif2jax" / "cutest"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").write_text("raise AssertionError('the whole package was imported')")
    (folder.parent / "base.py").write_text("class Base:\n    args = 3\n")
    text = "import jax.numpy as jnp\nfrom ..base import Base\nclass TWO(Base):\n    def __init__(self, n): self.y0 = (jnp.ones(n), jnp.float64(2))\n"
    (folder / "two.py").write_text(text + "    def objective(self, y, args): return args * (jnp.sum(y[0]) + y[1])\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = {name for name in sys.modules if name.startswith("sif2jax")}
    problem = cutest.load({"name": "TWO", "module": "sif2jax.cutest.two", "cls": "TWO", "kwargs": {"n": 4}, "f0": 18.0, "fstar": 0.0})
    fun, start = problem.build()
    assert float(fun(start)) == 18.0
    assert start.shape == (5,)
    assert {name for name in sys.modules if name.startswith("sif2jax")} == before
    assert problem.target(0.5) == 9.0


def test_costs_are_the_documented_ones():
    assert (counting.VALUE_ALONE, counting.WITH_GRADIENT, counting.BUDGET) == (0.25, 1.0, 2000.0)
    assert profiles.BUDGETS == (50, 100, 200, 500, 1000, 2000)
