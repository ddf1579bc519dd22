"""The regrets that ``python -m benchmarks fit`` reports are those of its definition, at equal evaluations, on the data they are said to be of."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from benchmarks import __main__ as command_line, curves, fit, fit_methods, training, training_tasks
from benchmarks.training import Method, Runs, Sweep
from benchmarks.training_tasks import Task, linear

pytest.importorskip("sklearn")


def build():
    generator = np.random.default_rng(3)
    features = generator.normal(size=(50, 3)).astype(np.float32)
    targets = features @ np.array([1.0, -2.0, 0.5], np.float32) + 0.1 * generator.normal(size=50).astype(np.float32)
    train, test = training_tasks.task.split((features, targets), 10)
    loss = lambda params, batch: jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2)  # noqa: E731
    return Task("tiny", "least squares", lambda key: {"w": 0.1 * jax.random.normal(key, (3,))}, loss, train, test, batch_size=8, steps=40)


@pytest.fixture(autouse=True)
def broadcasting():
    with jax.numpy_rank_promotion("allow"):  # losses as users write them
        yield


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(training_tasks.BUILDERS, "tiny", build)
    monkeypatch.setattr(training_tasks, "_built", {})
    return training_tasks.named("tiny")


def by_hand(task, seed, steps, learning_rate=0.05):
    """SGD in NumPy over the given batches: (params, loss of all training examples)."""
    w = np.asarray(task.init(jax.random.PRNGKey(seed))["w"], np.float64)
    for rows in training_tasks.batches(task, seed)[:steps]:
        x, y = task.train[0][rows], task.train[1][rows]
        w = w - learning_rate * 2 * x.T @ (x @ w - y) / len(rows)
    return w, np.mean((task.train[0] @ w - task.train[1]) ** 2)


def test_regret_is_the_share_of_the_way_that_is_left():
    assert training.regret([1.0, 2.0, 3.0], best=1.0, initial=5.0) == 0.25
    assert training.regret([5.0], best=1.0, initial=5.0) == 1.0
    assert training.regret([-90.0], best=-80.0, initial=20.0) == pytest.approx(-0.1)
    assert training.regret([1.0, np.nan], best=1.0, initial=5.0) == np.inf


@pytest.mark.parametrize(
    ("initial", "losses", "lost"),
    [(2.0, [1.0, 19.9, 20.1, np.nan, np.inf], [0, 0, 1, 1, 1]), (-1.0, [-5.0, 7.9, 8.1], [0, 0, 1]), (2.0, [-np.inf], [1])],
)
def test_divergences_are_losses_not_finite_or_ten_times_the_first(initial, losses, lost):
    np.testing.assert_array_equal(training.diverged(losses, initial), np.array(lost, bool))


@gdjax.rule
def wasteful(learning_rate):
    """SGD that asks for the loss twice more at every step, to no purpose."""

    def update(grads, state, params=None, *, value_fn=None, **extra):
        wasted = value_fn(params) + value_fn(jax.tree.map(lambda x: x + 1, params))
        return jax.tree.map(lambda g: -learning_rate * g + 0 * wasted, grads), state

    return lambda params: (), update


@pytest.mark.parametrize(("rule", "steps", "evaluations"), [(gdjax.sgd, 40, 40), (wasteful, 13, 39)])
def test_a_run_ends_when_its_evaluations_are_spent(tiny, rule, steps, evaluations):
    runs = training.run(tiny, Method("sgd", lambda steps: rule(0.05)), (0, 2))
    np.testing.assert_array_equal(runs.spent[:, -1], evaluations)
    np.testing.assert_allclose(runs.train, [by_hand(tiny, seed, steps)[1] for seed in (0, 2)], rtol=1e-4)
    np.testing.assert_allclose(runs.curve[:, 0], [by_hand(tiny, seed, 0)[1] for seed in (0, 2)], rtol=1e-5)
    np.testing.assert_allclose(runs.curve[:, -1], runs.train, rtol=1e-5)  # all 40 examples are of the curve
    assert (np.diff(runs.spent) >= 0).all()


def test_schedules_are_told_how_many_steps_there_will_be(tiny):
    told = []
    training.run(tiny, Method("two evaluations a step", lambda steps: told.append(steps) or gdjax.sgd(0.05), cost=2), (0,))
    assert told == [20]


def test_through_fit_and_through_descent_is_the_same_run(tiny):
    make = lambda steps: gdjax.sgd(gdjax.schedules.cosine(0.1, steps), 0.9)  # noqa: E731
    fitted, scanned = (training.run(tiny, Method("sgd", make, driver=driver), (0, 1)) for driver in ("fit", "descent"))
    np.testing.assert_allclose(fitted.train, scanned.train, rtol=1e-4)
    np.testing.assert_allclose(fitted.test, scanned.test, rtol=1e-4)
    assert not fitted.failed.any()


def test_fit_that_spends_too_much_is_cut(tiny):
    runs = training.run(tiny, Method("wasteful", lambda steps: wasteful(0.05), driver="fit"), (0,))
    assert runs.spent[0, -1] == 39
    np.testing.assert_allclose(runs.train, by_hand(tiny, 0, 13)[1], rtol=1e-4)


def test_a_run_that_fit_calls_diverged_is_one(tiny):
    known = {"initial": 5.0, "initial_test": 5.0, "best": 0.1, "best_test": 0.1}
    assert fit.run_method(tiny, Method("wild", lambda steps: gdjax.sgd(1e6), driver="fit"), (0,), known)["diverged"] == 1


def test_a_sweep_goes_on_past_an_edge_and_finds_the_best(tiny):
    low = Sweep("sgd", lambda rate, steps: gdjax.sgd(rate), (1e-4, 1e-3, 1e-2))
    found = training.sweep(tiny, low, (0, 1))
    np.testing.assert_allclose(found["grid"], [10.0**power for power in range(-4, 2)])
    means = [np.mean([by_hand(tiny, seed, 40, rate)[1] for seed in (0, 1)]) for rate in found["grid"][:4]]
    np.testing.assert_allclose(found["train"][:4], means, rtol=1e-3)
    assert found["learning_rate"] == found["grid"][int(np.argmin(means))]
    assert found["best"] == pytest.approx(min(means), rel=1e-3)
    assert found["train"][-1] is None or found["train"][-1] > 1e3
    high = training.sweep(tiny, low._replace(grid=(1e2, 1e3, 1e4)), (0,))
    assert high["learning_rate"] in (pytest.approx(0.1), pytest.approx(0.01))
    assert len(high["grid"]) > 3


@pytest.mark.full
def test_end_to_end(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fit, "BEST", tmp_path / "best.json")
    sweeps = fit_methods.sweeps()[:1]
    monkeypatch.setattr(fit_methods, "sweeps", lambda: sweeps)
    path = tmp_path / "out" / "fit.json"
    asked = ["fit", "--tasks", "tiny", "--methods", "default,optax dog averaged", "--seeds", "2", "--sweep", "--json", str(path)]
    assert command_line.main(asked) == 0
    report = json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    (task,) = report["tasks"]
    assert {run["method"] for run in task["runs"]} == set(report["summary"]) == {"default", "optax dog averaged"}
    assert list(task["sweeps"]) == [sweeps[0].name]
    assert task["best"] == task["sweeps"][sweeps[0].name]["best"]
    for run in task["runs"]:
        share = (np.mean(run["train"]) - task["best"]) / (task["initial"] - task["best"])
        assert run["regret"] == pytest.approx(share) == report["summary"][run["method"]]["median"]
        assert (run["diverged"], run["evaluations"], len(run["curve"])) == (0, 40, training.POINTS + 1)
    assert {"cpu", "versions", "git_commit"} <= set(report["machine"])
    assert path.with_suffix(".png").stat().st_size > 10_000
    page = path.with_suffix(".md").read_text()
    assert page.startswith("# Fit")
    assert "![Loss curves](fit.png)" in page
    assert "optax dog averaged" in capsys.readouterr().out
    monkeypatch.setattr(training, "sweep", lambda *_: pytest.fail("the sweeps were kept"))
    assert command_line.main([*asked[:3], "--methods", "optax momo", "--seeds", "2"]) == 0


def test_a_method_that_fails_is_told_of_and_has_lost(tiny):
    known = {"initial": 5.0, "initial_test": 5.0, "best": 0.1, "best_test": 0.1}

    def broken(steps):
        raise ValueError("no such luck")

    lost = fit.run_method(tiny, Method("broken", broken), (0, 1), known)
    wild = fit.run_method(tiny, Method("wild", lambda steps: gdjax.sgd(1e6)), (0, 1), known)
    assert (lost["diverged"], wild["diverged"], lost["regret"], wild["regret"]) == (2, 2, None, None)
    assert lost["error"] == "ValueError: no such luck"
    fine = {"method": "fine", "regret": 0.1, "regret_test": 0.2, "diverged": 0}
    tasks = [{"runs": [lost, wild, fine]}, {"runs": [lost, {**wild, "regret": 0.5}, {**fine, "regret": 0.3}]}]
    rows = fit.summary(tasks)
    assert list(rows) == ["fine", "broken", "wild"] or list(rows) == ["fine", "wild", "broken"]
    assert rows["fine"] == {"median": pytest.approx(0.2), "worst": 0.3, "median_test": 0.2, "worst_test": 0.2, "diverged": 0}
    assert rows["wild"]["worst"] == np.inf
    assert [fit.percent(x) for x in (0.0123, 3.0, None, -0.05, 1e9)] == ["1.2", "300", "inf", "-5.0", "1e+11"]


def test_unknown_names_are_answered_with_the_known(capsys):
    with pytest.raises(SystemExit, match="no nonsense; there are default"):
        command_line.main(["fit", "--methods", "nonsense"])
    with pytest.raises(SystemExit, match="no nonsense; there are softmax_digits"):
        command_line.main(["fit", "--tasks", "nonsense"])


def test_ours_are_found_by_their_defaults():
    methods, left_out = fit_methods.ours()
    names = [method.name for method in methods]
    assert names[0] == fit_methods.DEFAULT
    assert "polyak" in names
    assert "sgd" not in names
    assert "gdjax sgd: left out, it has no default for learning_rate" in left_out
    assert not any(name.split("(")[0] in fit_methods.FULL_BATCH | fit_methods.FINITE_SUM for name in names)


def test_the_average_of_dog_is_that_of_its_authors():
    rule, x, points = fit_methods.averaged(optax.sgd(0.1), power=3.0), jnp.array([1.0, 2.0]), []
    state = rule.init(x)
    for _ in range(6):
        updates, state = rule.update(x, state, x)
        x = x + updates
        points.append(np.asarray(x))
    mean = points[0]
    for t, point in enumerate(points[1:], start=2):
        mean = (1 - 4.0 / (t + 3.0)) * mean + 4.0 / (t + 3.0) * point
    np.testing.assert_allclose(gdjax.eval_params(rule, state, x), mean, rtol=1e-6)


@pytest.mark.parametrize("name", list(training_tasks.BUILDERS))
def test_tasks(name):
    task = training_tasks.named(name)
    one, other = np.arange(32), np.arange(32, 64)
    stacked = tuple(x[np.array([[*one, *other], [*one, *one], [*other, *other]])] for x in task.train)
    shapes, generator = jax.eval_shape(task.init, jax.random.PRNGKey(0)), np.random.default_rng(7)
    params = jax.tree.map(lambda x: 0.1 * generator.normal(size=x.shape).astype(x.dtype), shapes)
    losses = jax.jit(jax.vmap(task.loss, in_axes=(None, 0)))(params, stacked)
    np.testing.assert_allclose(losses[0], jnp.mean(losses[1:]), rtol=1e-4)  # a mean over the batch
    assert task.steps % training.POINTS == 0
    rows = training_tasks.batches(task, 1)
    per_epoch = min(task.examples // task.batch_size, task.steps)
    assert rows.shape == (task.steps, task.batch_size)
    assert len(np.unique(rows[:per_epoch])) == per_epoch * task.batch_size


@pytest.mark.parametrize("build", linear.BUILDERS)
def test_the_sweeps_that_are_kept_are_of_these_tasks(build):
    assert json.loads(fit.BEST.read_text())[build.__name__]["fingerprint"] == build().fingerprint


def test_curves_are_shares_of_the_way_down():
    line = curves.relative([10.0, 5.5, None, 1.0], start=10.0, low=1.0)
    np.testing.assert_allclose(line, [1.0, 0.5 * (1 - curves.FLOOR) + curves.FLOOR, np.nan, curves.FLOOR])
    runs = Runs(np.array([[1.0], [np.nan]]), np.zeros((2, 1)), np.ones((2, 1, 2)), np.zeros((2, 1, 2)), np.zeros((2, 1), bool))
    assert training._best_of(runs) == 0
