"""Lanes of a vmap: data stay shared, finished lanes stop costing, each lane is the run it would be alone, and derivatives are those of single runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.loop import lanes, traced

RANDOM = np.random.default_rng(8)
X = jnp.asarray(RANDOM.normal(size=(60, 4)) + 0.2, jnp.float32)
Y = jnp.asarray(X @ np.array([1.0, -2.0, 0.5, 0.0], np.float32) + 0.1 * RANDOM.normal(size=60), jnp.float32)
RATES = jnp.array([0.003, 0.03, 0.1, 0.3])


def loss(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2) / 2


def fit(rate, **options):
    return gdjax.fit(loss, jnp.zeros(4), (X, Y), gdjax.sgd(rate, momentum=0.5), **{"batch_size": 7, "steps": 40, "key": 1} | options)


def arrays(jaxpr):
    """The shapes of all arrays that a program makes, inner ones included."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars if hasattr(v.aval, "shape"))
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(inner, "jaxpr"):
                    yield from arrays(inner.jaxpr)
                elif hasattr(inner, "eqns"):
                    yield from arrays(inner)


SHARED = {
    "mini-batches": lambda rate: fit(rate).params,
    "validation and patience": lambda rate: fit(rate, validation=(X[:20], Y[:20]), patience=3, keep="best").params,
    "full batch": lambda rate: fit(rate, batch_size=None).params,
    "a search": lambda rate: gdjax.fit(loss, rate * jnp.ones(4), (X, Y), gdjax.armijo(), batch_size=None, steps=4).params,
    "kept evaluations": lambda rate: gdjax.fit(loss, rate * jnp.ones(4), (X, Y), gdjax.adgd(), batch_size=None, steps=10).params,
    "minimize": lambda rate: gdjax.minimize(lambda w, x, y: loss(w, (x, y)), rate * jnp.ones(4), gdjax.adgd(), args=(X, Y), max_steps=20).params,
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", SHARED)
def test_data_stay_shared_between_lanes(name):
    made = set(arrays(jax.make_jaxpr(jax.vmap(jax.jit(SHARED[name])))(RATES).jaxpr))
    assert (len(RATES), *X.shape) not in made
    assert (len(RATES), 7, 4) not in made, "every lane gathered a batch of its own"


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", SHARED)
def test_every_lane_is_the_run_it_would_be_alone(name):
    run = SHARED[name]
    alone = [run(rate) for rate in RATES]
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(RATES), alone, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(run)(RATES), alone, rtol=2e-4, atol=1e-5)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("options", [{}, {"batch_size": None}, {"validation": (X[:20], Y[:20]), "keep": "best"}], ids=["batches", "full", "best"])
def test_hypergradients_of_lanes_are_those_of_single_runs(options):
    value = lambda rate: fit(rate, **options).value  # noqa: E731
    alone = [jax.grad(value)(rate) for rate in RATES]
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(value)))(RATES), alone, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda rates: jax.vmap(value)(rates).sum())(RATES), alone, rtol=1e-3, atol=1e-6)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("batch_size", [7, None])
def test_a_lane_that_breaks_leaves_the_others_and_their_derivatives(batch_size):
    rates = jnp.array([0.1, 1e8, 0.03])
    result = jax.jit(jax.vmap(lambda rate: fit(rate, batch_size=batch_size)))(rates)
    assert [gdjax.Status(int(code)) in (gdjax.Status.DIVERGED, gdjax.Status.NONFINITE) for code in result.code] == [False, True, False]
    assert np.isfinite(np.asarray(result.params)).all()
    slopes = jax.jit(jax.vmap(jax.grad(lambda rate: fit(rate, batch_size=batch_size, steps=10).value)))(rates)
    for lane in (0, 2):
        np.testing.assert_allclose(slopes[lane], jax.grad(lambda rate: fit(rate, batch_size=batch_size, steps=10).value)(rates[lane]), rtol=1e-3)


def test_any_lane():
    some = jnp.array([[False, True], [False, False]])
    assert jax.vmap(lambda x: lanes.any_lane(x), out_axes=None)(some[0])
    np.testing.assert_array_equal(jax.vmap(lambda row: jnp.stack([lanes.any_lane(x) for x in row]))(some.T), [[True, False]] * 2)
    assert not lanes.any_lane(False)


def bowl(x, scale):
    return scale * jnp.sum(jnp.arange(1.0, 4.0) * (x - 1) ** 2)


def minimum(rate, start, **options):
    return gdjax.minimize(bowl, start, gdjax.gd(rate), args=(1.0,), **{"max_steps": 3000, "tol": 1e-4} | options)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_compacted_lanes_are_those_of_one_program(count):
    rates = jnp.where(jnp.arange(count) % 5 == 0, 1e-4, 0.1 / (1 + jnp.arange(count)))
    starts = jnp.asarray(RANDOM.normal(size=(count, 3)), jnp.float32)
    there, here = jax.vmap(minimum)(rates, starts), jax.jit(jax.vmap(minimum))(rates, starts)
    for name in ("params", "value", "grad_norm", "code", "steps", "evaluations"):
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), rtol=1e-5, err_msg=name)
    for name, column in there.history.items():
        np.testing.assert_allclose(column, here.history[name], rtol=1e-4, atol=1e-30, err_msg=name)
    assert jax.tree.structure(there) == jax.tree.structure(here)


def test_finished_lanes_stop_costing(monkeypatch):
    sizes = []
    programs = lanes._programs

    def watched(*args):
        made = programs(*args)
        return made._replace(advance=lambda run, *rest: (sizes.append(run.code.shape[0]), made.advance(run, *rest))[1])

    monkeypatch.setattr(lanes, "_programs", watched)
    rates = jnp.where(jnp.arange(16) == 3, 1e-4, 0.1)
    result = jax.vmap(lambda rate: minimum(rate, jnp.zeros(3), history=("value", "learning_rate")))(rates)  # as no other test: not compiled before
    assert sizes[0] == 16
    assert sizes[-1] == 1
    assert len(sizes) >= -(-3001 // traced.EVERY_LOOK)  # and a few more, since the first looks come sooner
    assert sizes == sorted(sizes, reverse=True)
    assert int(result.steps[3]) == 3000
    assert (np.delete(np.asarray(result.code), 3) == gdjax.Status.CONVERGED).all()


def test_compaction_compiles_once(monkeypatch):
    run = lambda rate: minimum(rate, jnp.zeros(3))  # noqa: E731
    jax.vmap(run)(jnp.linspace(0.01, 0.1, 5))
    monkeypatch.setattr(lanes, "_programs", lambda *args: pytest.fail("compiled again"))
    jax.vmap(run)(jnp.linspace(0.02, 0.2, 5))


def test_nested_vmaps_compile_once(caplog):
    nested = lambda rates: jax.vmap(lambda start: jax.vmap(lambda rate: minimum(rate, start))(rates))(jnp.zeros((2, 3)))  # noqa: E731
    nested(jnp.linspace(0.01, 0.1, 5))
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        nested(jnp.linspace(0.02, 0.2, 5))
    assert [each.message for each in caplog.records if "Compiling" in each.message and "linspace" not in each.message] == []


@pytest.mark.full
def test_vmaps_within_vmaps_and_derivatives_are_left_to_one_program():
    nested = jax.vmap(jax.vmap(minimum, (0, None)), (None, 0))(RATES[1:] / 3, jnp.zeros((2, 3)))
    assert nested.params.shape == (2, 3, 3)
    slope = jax.vmap(jax.grad(lambda s: gdjax.minimize(lambda x, s: (x - s) ** 2 + x**4, 0.5, gdjax.gd(0.05), args=(s,), tol=1e-6).params))(RATES)
    step = lambda s: gdjax.minimize(lambda x, s: (x - s) ** 2 + x**4, 0.5, gdjax.gd(0.05), args=(s,), tol=1e-6).params  # noqa: E731
    np.testing.assert_allclose(slope, [(step(s + 1e-2) - step(s - 1e-2)) / 2e-2 for s in RATES], rtol=5e-3)


def test_a_lane_that_has_stopped_keeps_its_table():
    loss = gdjax.finite_sum(lambda w, row: (row[0] @ w - row[1]) ** 2 / 2)
    run = lambda rate: gdjax.fit(loss, jnp.zeros(4), (X, Y), gdjax.saga(rate), batch_size=5, epochs=12, key=1, patience=1)  # noqa: E731
    rates = jnp.array([0.01, 0.15, 0.3])
    many = jax.jit(jax.vmap(run))(rates)
    assert len({int(steps) for steps in many.steps}) > 1
    for lane, rate in enumerate(rates):
        alone = jax.jit(run)(rate)
        pairs = zip(jax.tree.leaves(many.state.progress.state.rule_state), jax.tree.leaves(alone.state.progress.state.rule_state), strict=True)
        for there, here in pairs:
            np.testing.assert_allclose(there[lane], here, rtol=1e-3, atol=1e-4)
