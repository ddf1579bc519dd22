"""What a notebook shows of each thing that a user can hold: a line or a few, never arrays; and what ``dir``, ``help`` and ``import *`` show of the package."""

import pydoc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax._sweep.multistart import Minimum, Multistart
from gdjax.brief import brief
from gdjax.diagnose.curvature import Smoothness
from gdjax.diagnose.suggestion import Suggestion
from gdjax.loop import host
from gdjax.objective import Objective

MANY = jnp.arange(1000.0)


def loss_fn(w, x):
    return jnp.mean((w[None] - x[:, None]) ** 2)


@pytest.fixture(scope="module")
def shown():
    """Everything at once, since each is compiled for its own sake elsewhere."""
    reports = []
    rule, x = gdjax.sgd(0.1), jnp.linspace(0.0, 1.0, 64)
    fitted = gdjax.fit(loss_fn, jnp.zeros(500), x, rule, batch_size=8, epochs=2, key=0, callbacks=[reports.append])
    descended = gdjax.minimize(lambda w: jnp.sum((w - 2.0) ** 2), jnp.zeros(500), gdjax.gd(0.1), max_steps=50)
    init, step = made = gdjax.descent(loss_fn, rule)
    state, info = step(init(jnp.zeros(500)), x)
    found = gdjax.sweep(lambda rule: gdjax.minimize(lambda w: jnp.sum((w - 2.0) ** 2), jnp.zeros(500), rule, max_steps=5), gdjax.gd(jnp.linspace(0.01, 2, 30)))
    tested = gdjax.range_test(lambda w: jnp.sum(w**2), jnp.ones(500), make_rule=gdjax.gd)
    smoothness, minimum = Smoothness(*(MANY,) * 8, products=3), Minimum(MANY, 0.5, 1000, np.arange(1000))
    reasons, tried = ("a reason",) * 9, (np.geomspace(0.01, 1, 500), np.ones(500))
    return {
        "fit": fitted,
        "fit's state": fitted.state,
        "its progress": fitted.state.progress,
        "minimize's state": descended.state,
        "its run": descended.state.progress,
        "diagnosis": fitted.diagnosis,
        "report": reports[0],
        "descent": made,
        "state": state,
        "info": info,
        "sweep": found,
        "lane": found.best(),
        "range test": tested,
        "finite sum": gdjax.finite_sum(loss_fn),
        "a mean": Objective(loss_fn),
        "stop": gdjax.stop.grad_norm(1e-5) | gdjax.stop.time_limit(3),
        "rules of arrays": gdjax.sgd(MANY, momentum=gdjax.schedules.cosine(MANY / 1001, 100)),
        "schedule": gdjax.schedules.cosine(MANY, 10),
        "chain": gdjax.chain(optax.clip(1.0), rule),
        "factory": gdjax.sgd,
        "distribution": gdjax.sampling.log_uniform(1e-4, 1.0),
        "smoothness": smoothness,
        "minimum": minimum,
        "multistart": Multistart([minimum._replace(lanes=np.arange(30))] * 100, fitted, MANY, found.results, 0, 0.1),
        "suggestion": Suggestion(0.1, 0.05, 0.2, 1.1, rule, 0.5, 1.0, reasons, *tried, smoothness, tested, 9, 9),
    }


def test_each_is_a_line_or_two(shown):
    long = {name: repr(thing) for name, thing in shown.items() if len(repr(thing)) > 480 or repr(thing).count("\n") > 2}
    assert not long


def test_none_shows_arrays_or_addresses(shown):
    for name, thing in shown.items():
        assert "rray([" not in repr(thing), name
        assert " at 0x" not in repr(thing), name


def test_the_reports_are_longer(shown):
    for name in ("fit", "sweep", "multistart", "suggestion"):
        assert str(shown[name]).count("\n") >= 4
        assert "\n" not in repr(shown[name])


def test_a_suggestion_is_sure_or_not(shown):
    assert shown["suggestion"].sure is True
    assert shown["suggestion"].confidence == "sure"


def test_joined_stopping_rules_are_shown_as_they_are_typed(shown):
    assert repr(shown["stop"]) == "grad_norm(atol=1e-05) | time_limit(seconds=3)"


def test_values_in_few_words():
    report = host.Report(3, 1, 0.5, float("nan"), {"w": MANY, "b": jnp.float32(2.0)}, None)
    assert repr(report) == "Report(step=3, epoch=1, value=0.5, validation=nan, params={'w': <float32[1000]>, 'b': 2}, model_state=None)"
    assert brief({str(i): i for i in range(9)}) == "{'0': 0, '1': 1, '2': 2, '3': 3, … 5 more}"
    assert brief([MANY, (1.0,), "word", None, 1]) == "[<float32[1000]>, (1,), 'word', None, … 1 more]"
    assert brief(jnp.bfloat16(1.5)) == "1.5"
    assert brief(np.True_) == "True"
    assert brief(jax.random.key(0)).startswith("<key")
    assert jax.make_jaxpr(lambda x: brief(x) == "<traced float32[]>" and x)(1.0).out_avals


def test_the_package_shows_the_library_not_its_rooms():
    for room in ("loop", "parts", "arguments", "objective", "tree", "_fit", "checks", "diagnose", "data"):
        assert room not in dir(gdjax)
    for door in ("minimize", "fit", "sgd", "adgd", "schedules", "stop", "plot", "Result", "suggest", "__version__"):
        assert door in dir(gdjax)
    assert all(hasattr(gdjax, name) for name in dir(gdjax))
    names = {}
    exec("from gdjax import *", names)
    assert set(names) - {"__builtins__"} == set(gdjax.__all__)
    assert set(gdjax.__all__) >= {name for name in vars(gdjax.rules) if isinstance(getattr(gdjax.rules, name), type(gdjax.sgd))}


def test_help_tells_what_there_is():
    text = pydoc.render_doc(gdjax, renderer=pydoc.plaintext)
    assert "``fit`` fits params to data" in text
    for line in ("minimize(fun", "sgd(learning_rate, momentum=None, ", "class Result("):
        assert line in text
