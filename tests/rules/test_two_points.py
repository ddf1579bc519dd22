"""Averages, schedule-free learning, lookahead and outer loops against their transcriptions, and in the drivers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from problems import offered

import gdjax

HESSIAN = np.array([[2.0, 0.6, -0.3], [0.6, 1.2, 0.5], [-0.3, 0.5, 2.8]])
CENTRE = np.array([1.5, -0.7, 0.4])
START = np.array([-1.0, 2.0, 0.5])


def loss(x):
    return (x - CENTRE) @ jnp.asarray(HESSIAN) @ (x - CENTRE) / 2 + 0.2 * jnp.sum(jnp.sin(x))


def oracle(x):
    return HESSIAN @ (x - CENTRE) + 0.2 * np.cos(x)


@functools.partial(jax.jit, static_argnames="steps")
def run(rule, steps):
    """(params, reported) at the start and after each step, stacked."""

    def body(carry, _):
        x, state = carry
        grads, extra = offered(loss, x)
        updates, state = rule.update(grads, state, x, **extra)
        x = x + updates
        return (x, state), (x, gdjax.eval_params(rule, state, x))

    x = jnp.array(START)
    points = jax.lax.scan(body, (x, rule.init(x)), length=steps)[1]
    return tuple(jnp.concatenate([x[None], rest]) for rest in points)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("inner", "start"), [(gdjax.sgd(0.2, 0.5), 0), (gdjax.rule(optax.adam)(0.3), 7), (gdjax.gd(0.3), 100)], ids=["sgd", "adam", "gd"])
@pytest.mark.parametrize(
    "how", [dict(kind="uniform"), dict(kind="polynomial"), dict(kind="polynomial", power=1.5), dict(kind="ema"), dict(kind="ema", decay=0.7)], ids=repr
)
def test_averages_are_those_of_all_points_at_once(inner, how, start):
    params, reported = run(gdjax.average(inner, **how, start=start), 20)
    np.testing.assert_allclose(params, run(inner, 20)[0], rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(reported[1:], reference.averages(np.asarray(params), **how, start=start), rtol=1e-12, atol=1e-13)
    if start:
        np.testing.assert_array_equal(reported[: start + 2], params[: start + 2])  # the last point, to the bit


@pytest.mark.usefixtures("x64")
def test_the_points_averaged_are_those_the_rule_reports():
    """Nesterov's method takes gradients at y and reports x."""
    rule = gdjax.nesterov(0.2)
    params, reported = run(gdjax.average(rule, "uniform"), 15)
    y, x = run(rule, 15)
    np.testing.assert_array_equal(params, y)
    np.testing.assert_allclose(reported[1:], np.cumsum(x[1:], axis=0) / np.arange(1, 16)[:, None], rtol=1e-12)
    chained = run(gdjax.average(gdjax.chain(optax.identity(), rule), "uniform"), 15)[1]
    np.testing.assert_allclose(chained, reported, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "rule",
    [
        gdjax.schedule_free_sgd(0.5),
        gdjax.schedule_free_sgd(0.5, 0.6, warmup_steps=7, weight_decay=0.1, step_power=1.5, rate_power=1.0),
        gdjax.schedule_free_sgd(gdjax.schedules.linear(0.6, 0.1, 10), 1.0, warmup_steps=3, rate_power=1.5),
        gdjax.schedule_free_sgd(0.0),
        gdjax.schedule_free_sgd(0.5, gdjax.schedules.linear(0.9, 0.4, 10)),
        gdjax.schedule_free(gdjax.sgd(0.2, 0.5, nesterov=True), 0.7, step_power=2.0),
        gdjax.schedule_free(gdjax.gd(0.3), gdjax.schedules.linear(0.5, 1.0, 10)),
        gdjax.schedule_free(gdjax.gd(gdjax.schedules.wsd(0.4, 20, 5, 10)), learning_rate=gdjax.schedules.wsd(0.4, 20, 5, 10), rate_power=1.0),
    ],
    ids=repr,
)
def test_schedule_free_learning_is_that_of_its_authors(rule):
    y, x = run(rule, 25)
    transcription = getattr(reference, rule.factory.__name__)
    np.testing.assert_allclose(y, transcription(oracle, START, 25, **rule.arguments), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(x, transcription(oracle, START, 25, **rule.arguments, report=True), rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_the_wrapper_around_gradient_descent_is_the_rule():
    wrapper, rule = gdjax.schedule_free(gdjax.gd(0.3), 0.8, step_power=1.0), gdjax.schedule_free_sgd(0.3, 0.8, step_power=1.0)
    for ours, theirs in zip(run(wrapper, 20), run(rule, 20), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_leaves_polyak_steps_where_they_are(value):
    rule, x = gdjax.schedule_free_polyak(), jnp.array([1.0, 2.0])
    _, state = rule.update(x, rule.init(x), x, value=jnp.float32(2.5))
    updates, after = rule.update(x, state, x, value=jnp.float32(value))
    np.testing.assert_array_equal(updates, [0.0, 0.0])
    updates, after = rule.update(jnp.array([np.nan, 1.0]), after, x, value=jnp.float32(2.5))
    np.testing.assert_array_equal(updates, [0.0, 0.0])
    jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("momentum", [None, 0.7])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(("period", "step_size"), [(1, 0.5), (4, 0.3), (5, 1.0), (3.0, 0.8)])
def test_lookahead_is_two_loops(period, step_size, reset, momentum):
    rule = gdjax.lookahead(gdjax.sgd(0.1, momentum), period, step_size, reset_state=reset)
    given = rule.arguments | dict(period=int(period))
    x, slow = run(rule, 17)
    theirs = reference.lookahead(oracle, START, 17, **given)
    np.testing.assert_allclose(x, theirs, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(slow, theirs[np.arange(18) // int(period) * int(period)], rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_an_outer_loop_of_one_worker():
    """With outer SGD it is lookahead, at learning rate 1 the inner rule; with the outer rule of DiLoCo its transcription. Outer rules may keep two points."""
    inner = gdjax.sgd(0.1, 0.5)
    for mine, other in zip(run(gdjax.outer_loop(inner, gdjax.sgd(0.4), 3), 14), run(gdjax.lookahead(inner, 3, 0.4), 14), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12)
    np.testing.assert_allclose(run(gdjax.outer_loop(inner, gdjax.sgd(1.0), 3), 14)[0], run(inner, 14)[0], rtol=1e-12)
    rule = gdjax.outer_loop(inner, period=4)
    np.testing.assert_allclose(run(rule, 19)[0], reference.outer_loop(oracle, START, 19, **rule.arguments), rtol=1e-12, atol=1e-13)
    averaged = run(gdjax.outer_loop(gdjax.sgd(0.1), gdjax.average(gdjax.sgd(1.0), "uniform"), 5), 20)
    np.testing.assert_allclose(averaged[1][-1], averaged[0][5::5].mean(axis=0), rtol=1e-12)


BATCHES = np.random.default_rng(0).normal(size=(3, 24, 3))  # 3 workers, each its own 24 batches


def worker(rule):
    """(path, reported) of one worker on its batches: gradients x − batch."""

    def go(x, batches):
        def body(carry, batch):
            x, state = carry
            updates, state = rule.update(HESSIAN @ (x - batch), state, x)
            return (x + updates, state), x + updates

        (x, state), path = jax.lax.scan(body, (x, rule.init(x)), batches)
        return path, gdjax.eval_params(rule, state, x)

    return go


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("outer", [gdjax.sgd(1.0), gdjax.sgd(0.6, 0.5), None], ids=repr)
@pytest.mark.parametrize("period", [1, 5, 8])
def test_workers_with_different_batches(outer, period):
    rule = gdjax.outer_loop(gdjax.sgd(0.1), outer, period, axis_name="workers")
    starts = jnp.tile(START, (3, 1))
    ours, reported = jax.jit(jax.vmap(worker(rule), axis_name="workers"))(starts, jnp.array(BATCHES))
    feeds = [iter(batches) for batches in BATCHES]
    grad_fns = [lambda x, feed=feed: HESSIAN @ (x - next(feed, np.zeros(3))) for feed in feeds]
    theirs = reference.local_sgd(grad_fns, START, 24, reference.Inner(gdjax.sgd(0.1)), outer, period)
    np.testing.assert_allclose(ours, theirs[:, 1:], rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(reported, jnp.tile(reported[0], (3, 1)))
    if period == 1 and outer == gdjax.sgd(1.0):  # the steps of SGD with the mean gradient
        alone = worker(gdjax.sgd(0.1))(jnp.array(START), jnp.array(BATCHES.mean(axis=0)))[0]
        np.testing.assert_allclose(ours[0], alone, rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_workers_on_devices_communicate_in_the_outer_step_only():
    """On a mesh of the one device there is: the program, its types and where it communicates are those of many."""
    rule, spec = gdjax.outer_loop(gdjax.sgd(0.1, 0.9), None, 5, axis_name="workers"), jax.sharding.PartitionSpec("workers")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("workers",))
    mapped = jax.shard_map(lambda x, b: jax.tree.map(lambda a: a[None], worker(rule)(x[0], b[0])), mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    inputs = jnp.array(START)[None], jnp.array(BATCHES[:1])
    alone = worker(gdjax.outer_loop(gdjax.sgd(0.1, 0.9), None, 5))(jnp.array(START), inputs[1][0])
    for ours, theirs in zip(jax.jit(mapped)(*inputs), alone, strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-12)
    program = str(jax.make_jaxpr(mapped)(*inputs))
    assert "cond" in program
    assert program.count("psum") == 1
    assert program.index("cond") < program.index("psum")


@pytest.mark.parametrize("rule", [gdjax.average(gdjax.sgd(0.1), "uniform"), gdjax.schedule_free_polyak(), gdjax.outer_loop(gdjax.sgd(0.1), period=7)], ids=repr)
def test_the_drivers_report_the_second_point(rule):
    def squares(x, batch=CENTRE[None]):
        return jnp.mean(jnp.sum((x - batch) ** 2, axis=-1))

    def squares_at_rows(x, batch):
        return squares(x[None], batch)

    full = gdjax.minimize(lambda x: squares(x[None]), jnp.zeros(3), rule, max_steps=20, tol=0.0)
    batches = gdjax.fit(squares_at_rows, jnp.zeros(3), np.float32(BATCHES[0]), rule, batch_size=4, steps=20, key=jax.random.key(0))
    for result in (full, batches):
        state = result.state.progress.state
        np.testing.assert_array_equal(result.params, gdjax.eval_params(rule, state.rule_state, state.params))
        assert not np.array_equal(result.params, state.params)
    np.testing.assert_allclose(full.value, squares(full.params[None]), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_evaluations_of_an_inner_rule_are_counted():
    init, step = gdjax.descent(lambda x, batch: loss(x), gdjax.average(gdjax.armijo(0.3, first_learning_rate=10.0)))
    state, info = step(init(jnp.array(START)), None)
    assert state.rule_state.inner.evaluations > 1
    assert state.evaluations == info.evaluations == 1 + state.rule_state.inner.evaluations


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gdjax.average(gdjax.sgd(0.1), "mean"), "kind"),
        (lambda: gdjax.average(gdjax.sgd(0.1), "uniform", power=2.0), "power"),
        (lambda: gdjax.average(gdjax.sgd(0.1), "polynomial", decay=0.9), "decay"),
        (lambda: gdjax.average(gdjax.sgd(0.1), "ema", decay=1.0), "decay"),
        (lambda: gdjax.average(gdjax.sgd(0.1), power=-1.0), "power"),
        (lambda: gdjax.average(gdjax.sgd(0.1), start=-1), "start"),
        (lambda: gdjax.schedule_free_sgd(-1.0), "learning_rate"),
        (lambda: gdjax.schedule_free_sgd(momentum=1.1), "momentum"),
        (lambda: gdjax.schedule_free_sgd(warmup_steps=-1), "warmup_steps"),
        (lambda: gdjax.schedule_free_sgd(rate_power=np.nan), "rate_power"),
        (lambda: gdjax.schedule_free(gdjax.sgd(0.1), -0.1), "momentum"),
        (lambda: gdjax.schedule_free(gdjax.nesterov(0.1)), "two points"),
        (lambda: gdjax.schedule_free_polyak(np.inf), "lower_bound"),
        (lambda: gdjax.schedule_free_polyak(max_learning_rate=0.0), "max_learning_rate"),
        (lambda: gdjax.lookahead(gdjax.sgd(0.1), 0), "period"),
        (lambda: gdjax.lookahead(gdjax.sgd(0.1), 2.5), "lookahead: period is 2.5; wanted a whole number of steps ≥ 1: type period=6"),
        (lambda: gdjax.lookahead(gdjax.sgd(0.1), np.array([2.0, 2.5])), "period"),
        (lambda: gdjax.outer_loop(gdjax.sgd(0.1), period=7.5), "outer_loop: period is 7.5; wanted a whole number"),
        (lambda: gdjax.lookahead(gdjax.sgd(0.1), step_size=0.0), "step_size"),
        (lambda: gdjax.lookahead(gdjax.average(gdjax.sgd(0.1))), "two points"),
        (lambda: gdjax.outer_loop(gdjax.sgd(0.1), period=0.5), "period"),
        (lambda: gdjax.outer_loop(gdjax.schedule_free_sgd(0.1)), "two points"),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_door(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_what_is_no_rule_or_name_is_refused_at_the_door():
    for name in ("average", "lookahead", "mechanic", "schedule_free"):
        with pytest.raises(TypeError, match=rf"^{name}: rule is <rule factory sgd.*wanted.*pass sgd\(0\.1\)"):
            getattr(gdjax, name)(gdjax.sgd)
    for given, word in (((0.7,), "inner is 0.7"), ((gdjax.sgd(0.1), 0.7), "outer is 0.7"), ((gdjax.sgd(0.1), None, 5, 3), "")):
        options = {"axis_name": given[3]} if len(given) == 4 else {}
        with pytest.raises(TypeError, match=f"^outer_loop: {word}.*wanted"):
            gdjax.outer_loop(*given[:3], **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_point_that_is_not_finite_is_left_out_of_the_average(bad):
    """A loop that drops the step keeps the state."""
    rule, x = gdjax.average(gdjax.sgd(0.1), "uniform"), jnp.array([1.0, 2.0])
    state = rule.init(x)
    for grads in ([1.0, 2.0], [bad, bad], [1.0, 2.0]):
        updates, state = rule.update(jnp.array(grads), state, x)
        x = jnp.where(jnp.all(jnp.isfinite(updates)), x + updates, x)
    mean = gdjax.eval_params(rule, state, x)
    np.testing.assert_allclose(mean, [0.9 - 0.1 / 3, 1.8 - 0.2 / 3], rtol=1e-6)  # the last of three points has a third


def test_runs_shorter_than_a_period_stay_where_they_began():
    """And the docstrings say so."""
    for factory, words in ((gdjax.lookahead, "in a shorter one s stays at the start"), (gdjax.outer_loop, "fewer than k steps returns the params it began")):
        assert words in " ".join(factory.__doc__.split())
        result = gdjax.minimize(lambda w: (w - 2.0) ** 2, 5.0, factory(gdjax.sgd(0.1), period=7), max_steps=6, tol=0.0)
        assert result.params == 5.0


def test_converged_is_true_of_the_point_returned():
    loss = lambda w: jnp.sum(jnp.array([1.0, 0.1]) * (w - 2.0) ** 2)  # noqa: E731
    for rule in (gdjax.average(gdjax.sgd(0.3), "uniform"), gdjax.nesterov(0.3), gdjax.schedule_free_sgd(0.5)):
        result = gdjax.minimize(loss, jnp.zeros(2), rule, tol=1e-3, max_steps=3000)
        assert result.status.name == "CONVERGED"
        np.testing.assert_allclose(result.grad_norm, np.linalg.norm(jax.grad(loss)(result.params)), rtol=1e-5)
        assert result.grad_norm <= 1e-3


def test_the_learning_rate_of_a_wrapped_rule_is_reported():
    rule = gdjax.average(gdjax.sgd(gdjax.schedules.linear(0.3, 0.0, 10)))
    history = gdjax.minimize(lambda w: (w - 2.0) ** 2, 5.0, rule, max_steps=3, tol=0.0, history=("learning_rate",)).history
    np.testing.assert_allclose(history["learning_rate"][1:4], [0.3, 0.27, 0.24], rtol=1e-6)
