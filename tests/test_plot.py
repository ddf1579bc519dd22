"""gdjax.plot: what is in the picture, for one run, several, noisy, diverged and batched ones."""

import builtins

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

import gdjax
from gdjax import plot

mpl.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def loss_fn(w):
    return (w - 2.0) ** 2 + 0.5


def run(learning_rate, **options):
    return gdjax.minimize(loss_fn, 5.0, gdjax.gd(learning_rate), **options)


def marks(ax):
    return [line.get_marker() for line in ax.lines]


def words(ax):
    return [text.get_text() for text in ax.get_legend().texts]


def test_one_run_shows_every_record_and_how_it_ended():
    result = run(0.1, max_steps=20)
    ax = plot.history(result)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), result.history["step"])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), result.history["value"], rtol=1e-6)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("step", "loss", "log")
    assert words(ax) == ["max steps at step 20"]
    assert marks(ax) == ["|"]


def test_converged_runs_end_in_a_dot_and_diverged_ones_in_a_cross_on_the_frame():
    runs = {"slow": run(0.1, max_steps=30), "good": run(0.4), "bad": run(1.2)}
    ax = plot.history(runs)
    assert marks(ax) == ["|", "o", "X"]
    assert words(ax) == ["slow: max steps at step 30", f"good: converged at step {runs['good'].steps}", f"bad: diverged at step {runs['bad'].steps}"]
    highest = max(float(np.max(runs[name].history["value"])) for name in ("slow", "good"))
    top = ax.get_ylim()[1]
    assert top == pytest.approx(10 * highest)
    assert ax.lines[2].get_ydata()[-1] == pytest.approx(top)
    assert np.max(runs["bad"].history["value"]) > top


def test_a_diverged_run_alone_is_shown_whole():
    bad = run(1.2)
    line = plot.history(bad).lines[0]
    assert line.get_ydata()[-1] == pytest.approx(np.max(bad.history["value"][np.isfinite(bad.history["value"])]))


def test_several_names_are_told_apart_by_their_lines():
    ax = plot.history({"a": run(0.1), "b": run(0.3)}, names=("value", "grad_norm"))
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--", "-", "--"]
    assert [line.get_color() for line in ax.lines] == ["C0", "C0", "C1", "C1"]
    assert words(ax)[1].startswith("a, gradient norm")
    assert ax.get_ylabel().startswith("loss, gradient norm")


def test_lanes_of_a_batched_result_get_a_line_each():
    swept = jax.vmap(lambda rule: gdjax.minimize(loss_fn, 5.0, rule, max_steps=60))(gdjax.gd(jnp.array([0.01, 0.3, 0.4, 1.3])))
    ax = plot.history({"sweep": swept})
    assert len(ax.lines) == 4
    assert len({mpl.colors.to_hex(line.get_color()) for line in ax.lines}) == 4
    assert marks(ax) == ["|", "o", "o", "X"]
    assert words(ax) == ["sweep: 2 converged, 1 max steps, 1 diverged"]


def test_noisy_curves_are_pale_under_their_mean():
    rng = np.random.default_rng(1)
    data = rng.normal(2.0, 1.0, 512).astype(np.float32)
    result = gdjax.fit(lambda w, x: jnp.mean((w - x) ** 2), 5.0, data, gdjax.sgd(0.1), batch_size=4, epochs=1, key=0, record_every=1)
    ax = plot.history(result)
    raw, mean = ax.lines
    assert raw.get_alpha() == pytest.approx(0.25)
    assert np.std(np.diff(mean.get_ydata())) < 0.5 * np.std(np.diff(raw.get_ydata()))
    np.testing.assert_array_equal(raw.get_xdata(), mean.get_xdata())
    tail = slice(len(raw.get_ydata()) // 2, None)
    assert np.mean(mean.get_ydata()[tail]) == pytest.approx(np.mean(raw.get_ydata()[tail]), rel=0.05)
    assert len(words(ax)) == 1


def test_negative_losses_get_a_linear_axis_and_zeros_sit_at_the_floor_of_a_logarithmic_one():
    below = gdjax.minimize(lambda w: (w - 2.0) ** 2 - 3.0, 5.0, gdjax.gd(0.1), max_steps=9)
    assert plot.history(below).get_yscale() == "linear"
    exact = gdjax.minimize(lambda w: (w - 2.0) ** 2, 5.0, gdjax.gd(0.5), max_steps=9)
    ax = plot.history(exact)
    assert ax.get_yscale() == "log"
    values = np.asarray(exact.history["value"])
    floor = values[values > 0].min() / 10
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.where(values > 0, values, floor), rtol=1e-6)
    assert ax.get_ylim()[0] == pytest.approx(floor)
    assert plot.history(exact, log=False).get_yscale() == "linear"


class Stream:
    def __iter__(self):
        return iter([np.ones(4, np.float32)] * 3)


def rows(**options):
    x = np.linspace(-1.0, 1.0, 96, dtype=np.float32)
    asked = {"rule": gdjax.sgd(0.1), "batch_size": 16, "epochs": 6, "key": 0} | options
    return gdjax.fit(lambda w, x: jnp.mean((w - x) ** 2), 5.0, x, **asked)


def test_epochs_are_an_axis_and_the_best_has_a_ring():
    result = rows(validation=np.linspace(4.0, 4.2, 8, dtype=np.float32), keep="best")  # the best is far from the end
    best = int(result.best_step)
    assert best < int(result.steps) == 36
    ax = plot.history({"fit": result, "descent": run(0.1, max_steps=6)}, names=("value",), x="epoch")
    assert ax.get_xlabel() == "epoch (pass over the data)"
    np.testing.assert_allclose(ax.lines[0].get_xdata(), np.arange(1, 7))
    np.testing.assert_array_equal(ax.lines[2].get_xdata(), np.arange(7))
    ring = ax.lines[1]
    assert (ring.get_marker(), ring.get_markerfacecolor(), float(ring.get_xdata()[0])) == ("o", "none", best / 6)
    assert words(ax)[0] == f"fit: max steps at step 36, best at step {best}"
    by_step = plot.history(result)
    assert float(by_step.lines[1].get_xdata()[0]) == best
    whole = rows(batch_size=None, key=None)
    np.testing.assert_array_equal(plot.history(whole, x="epoch").lines[0].get_xdata(), whole.history["step"])
    with pytest.raises(ValueError, match='wanted "step"'):
        plot.history(gdjax.fit(lambda w, x: jnp.mean((w - x) ** 2), 5.0, Stream(), gdjax.sgd(0.1), batch_size=None, epochs=2), x="epoch")


def test_a_run_that_diverged_at_once_is_shown_from_its_start():
    bad = rows(rule=gdjax.sgd(1e4))
    assert bad.status in (gdjax.Status.DIVERGED, gdjax.Status.NONFINITE)
    ax = plot.history(bad)
    assert float(ax.lines[0].get_xdata()[0]) == 0.0
    assert float(ax.lines[0].get_ydata()[0]) == pytest.approx(float(bad.diagnosis.initial_value))
    assert marks(ax) == ["X"]
    assert words(ax) == [f"{bad.status.name.lower()} at step {int(bad.steps)}"]


def test_a_legend_of_many_entries_stands_beside_the_picture():
    few, many = ({f"run {i}": run(0.1) for i in range(n)} for n in (5, 6))
    for runs, inside in ((few, True), (many, False)):
        ax = plot.history(runs)
        ax.figure.canvas.draw()
        assert ax.bbox.contains(*ax.get_legend().get_window_extent().p0) == inside
        assert ax.figure.bbox.contains(*ax.get_legend().get_window_extent().p1)


def test_draws_on_the_axes_given_and_saves(tmp_path):
    mine = mpl.figure.Figure().subplots()
    assert plot.history(run(0.1), ax=mine) is mine
    mine.figure.savefig(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 2000


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match=r"'norm' was not recorded; this run has .*'value'"):
        plot.history(run(0.1), names="norm")
    with pytest.raises(ValueError, match="'hour' was not recorded"):
        plot.history(run(0.1), x="hour")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__
    result = run(0.1)

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "gdjax\[plot\]"'):
        plot.history(result)


def test_range_tests_show_the_curve_the_suggestion_and_the_end():
    found = gdjax.range_test(lambda w: jnp.sum(jnp.array([1.0, 10.0]) * w**2), jnp.ones(2), make_rule=gdjax.gd)
    ax = plot.range_test(found)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.asarray(found.learning_rates, np.float64))
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), np.asarray(found.smoothed, np.float64))
    assert ax.lines[2].get_xdata()[0] == pytest.approx(float(found.suggestion))
    assert ax.lines[3].get_xdata()[0] == pytest.approx(float(found.diverged_at))
    assert words(ax) == [f"falls fastest: {float(found.suggestion):.3g}", f"lost from {float(found.diverged_at):.3g} on"]
    low, high = ax.get_ylim()
    assert low < np.nanmin(found.smoothed)
    assert high < 2 * float(found.values[0])


def test_range_tests_of_several_seeds_and_of_nothing():
    keys = jax.random.split(jax.random.key(0), 3)
    test = lambda key: gdjax.range_test(lambda w, x: jnp.mean((w - x) ** 2), 5.0, jnp.arange(20.0), batch_size=4, key=key)  # noqa: E731
    ax = plot.range_test(jax.vmap(test)(keys))
    assert words(ax) == ["falls fastest", "lost"]
    still = plot.range_test(gdjax.range_test(loss_fn, 5.0, make_rule=gdjax.gd, low=1e-9, high=1e-8))
    assert len(still.lines) == 2
    assert still.get_legend() is None


def test_sweeps_show_every_lane_and_the_failed_ones():
    rules = gdjax.grid(gdjax.sgd, learning_rate=[0.01, 0.1, 0.4, 1.5], momentum=[0.0, 0.5])
    found = gdjax.sweep(lambda rule: run_rule(rule), rules)
    ax = plot.sweep(found)
    for line, momentum in zip(ax.lines, (0.0, 0.5), strict=False):
        lanes = [i for i in range(8) if found.arguments["momentum"][i] == momentum and np.isfinite(found.scores[i])]
        np.testing.assert_allclose(line.get_xdata(), [found.arguments["learning_rate"][i] for i in lanes])
        np.testing.assert_allclose(line.get_ydata(), found.scores[lanes])
    failed = int((~np.isfinite(found.scores)).sum())
    assert failed > 0
    assert words(ax) == ["momentum 0", "momentum 0.5", f"{failed} failed", "the best"]
    assert ax.get_xscale() == "log"
    assert plot.sweep(found, x="momentum").get_xlabel() == "momentum"


def run_rule(rule):
    return gdjax.minimize(loss_fn, 5.0, rule, max_steps=20)


def test_sweeps_of_seeds_have_bands_and_structures_lines():
    x = jnp.arange(20.0)
    fit = lambda rule, key: gdjax.fit(lambda w, x: jnp.mean((w - x) ** 2), 5.0, x, rule, batch_size=4, steps=10, key=key)  # noqa: E731
    rules = gdjax.grid(gdjax.sgd, learning_rate=[0.01, 0.1], momentum=[None, 0.5])
    ax = plot.sweep(gdjax.sweep(fit, rules, keys=range(3)))
    assert len(ax.collections) == 2
    assert words(ax) == ["momentum None", "momentum 0.5", "the best"]
    many = plot.sweep(gdjax.sweep(run_rule, gdjax.grid(gdjax.sgd, learning_rate=[0.1, 0.2], momentum=np.linspace(0, 0.5, 12))))
    assert many.get_legend() is None
    with pytest.raises(ValueError, match="x is 'lr'"):
        plot.sweep(gdjax.sweep(run_rule, gdjax.gd(jnp.array([0.1, 0.2]))), x="lr")
    with pytest.raises(ValueError, match="no argument is a number"):
        plot.sweep(gdjax.sweep(run_rule, gdjax.grid(gdjax.sgd, learning_rate=0.1, nesterov=[True, False], momentum=0.5)))
