"""Schedules: their values, their twins in optax, and the laws of calls whose numbers are leaves."""

import copy
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

import gdjax
from gdjax import schedules
from gdjax.arguments import Factory

STEPS = [0, 1, 7, 10, 33, 99, 100, 101, 5000]

# name, the schedule, its transcription's arguments, its twin in optax
TABLE = [
    ("constant", schedules.constant(0.3), (0.3,), optax.constant_schedule(0.3)),
    ("linear", schedules.linear(0.3, 0.05, 100), (0.3, 0.05, 100), optax.linear_schedule(0.3, 0.05, 100)),
    ("cosine", schedules.cosine(0.3, 100), (0.3, 100), optax.cosine_decay_schedule(0.3, 100)),
    ("cosine", schedules.cosine(0.3, 100, 0.06), (0.3, 100, 0.06), optax.cosine_decay_schedule(0.3, 100, alpha=0.2)),
    ("exponential", schedules.exponential(0.3, 0.8, 10), (0.3, 0.8, 10), optax.exponential_decay(0.3, 10, 0.8)),
    ("exponential", schedules.exponential(0.3, 0.8, 10, True), (0.3, 0.8, 10, True), optax.exponential_decay(0.3, 10, 0.8, staircase=True)),
    ("inverse_sqrt", schedules.inverse_sqrt(0.3), (0.3,), None),
    ("inverse_sqrt", schedules.inverse_sqrt(0.3, 20), (0.3, 20), None),
    ("polynomial", schedules.polynomial(0.3, 0.05, 2.5, 100), (0.3, 0.05, 2.5, 100), optax.polynomial_schedule(0.3, 0.05, 2.5, 100)),
    ("polynomial", schedules.polynomial(0.05, 0.3, 2, 100), (0.05, 0.3, 2, 100), optax.polynomial_schedule(0.05, 0.3, 2, 100)),
    ("warmup", schedules.warmup(0.3, 10, 0.1), (0.3, 10, 0.1), optax.warmup_constant_schedule(0.1, 0.3, 10)),
    ("warmup", schedules.warmup(0.3, 0), (0.3, 0), None),
    (
        "warmup",
        schedules.warmup(schedules.cosine(0.3, 90, 0.03), 10),
        (lambda t: reference.cosine(t, 0.3, 90, 0.03), 10),
        optax.warmup_cosine_decay_schedule(0.0, 0.3, 10, 100, 0.03),
    ),
    (
        "wsd",
        schedules.wsd(0.3, 100, 10, 30, 0.03),
        (0.3, 100, 10, 30, 0.03),
        optax.join_schedules([optax.linear_schedule(0, 0.3, 10), optax.constant_schedule(0.3), optax.linear_schedule(0.3, 0.03, 30)], [10, 70]),
    ),
    ("wsd", schedules.wsd(0.3, 100, 0, 0), (0.3, 100, 0, 0), None),
    ("wsd", schedules.wsd(0.3, 100, 40, 60), (0.3, 100, 40, 60), None),
    (
        "join",
        schedules.join([0.3, schedules.linear(0.2, 0.1, 50), 0.01], [10, 99]),
        ([0.3, lambda t: reference.linear(t, 0.2, 0.1, 50), 0.01], [10, 99]),
        optax.join_schedules([optax.constant_schedule(0.3), optax.linear_schedule(0.2, 0.1, 50), optax.constant_schedule(0.01)], [10, 99]),
    ),
    ("minimax", schedules.minimax(3.5, 0.7, 100), (3.5, 0.7, 100), None),
    ("silver", schedules.silver(3.5), (3.5,), None),
    ("anytime", schedules.anytime(3.5), (3.5,), None),
    ("long_steps", schedules.long_steps(3.5, 100), (3.5, 100), None),
    ("long_steps", schedules.long_steps(3.5, 1), (3.5, 1), None),
    ("chebyshev", schedules.chebyshev(3.5, 0.2, 64), (3.5, 0.2, 64), None),
    ("chebyshev", schedules.chebyshev(3.5, 0.2, 37), (3.5, 0.2, 37), None),
]
every = pytest.mark.parametrize(("name", "schedule", "arguments", "twin"), TABLE, ids=[str(row[1]) for row in TABLE])


def test_every_schedule_has_its_row():
    factories = {name for name, made in vars(schedules).items() if isinstance(made, Factory)}
    assert factories == {row[0] for row in TABLE}, "add a row to TABLE in tests/test_schedules.py"


@pytest.mark.one_in(2)
@every
def test_equals_its_transcription_in_numpy(name, schedule, arguments, twin):
    expected = [getattr(reference, name)(step, *arguments) for step in STEPS]
    np.testing.assert_allclose([schedule(step) for step in STEPS], expected, rtol=2e-6, atol=5e-8)
    with jax.enable_x64(True):
        np.testing.assert_allclose([schedule(step) for step in STEPS], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("schedule", "twin"), [row[1::2] for row in TABLE if row[3]], ids=[str(row[1]) for row in TABLE if row[3]])
def test_equals_its_twin_in_optax(schedule, twin):
    np.testing.assert_allclose([schedule(step) for step in STEPS], [twin(step) for step in STEPS], rtol=2e-6, atol=1e-7)


@pytest.mark.one_in(3)
@every
def test_python_steps_traced_steps_and_arrays_of_steps_agree(name, schedule, arguments, twin):
    plain = jnp.stack([schedule(step) for step in STEPS])
    traced = jax.jit(schedule)
    np.testing.assert_allclose([traced(jnp.int32(step)) for step in STEPS], plain, rtol=1e-6, atol=5e-8)
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.array(STEPS)), plain, rtol=1e-6, atol=5e-8)
    np.testing.assert_allclose([schedule(float(step)) for step in STEPS], plain, rtol=1e-6, atol=1e-8)


@pytest.mark.one_in(4)
@every
@pytest.mark.parametrize(
    "step", [3, np.int64(3), jnp.int32(3), jnp.uint8(3), jnp.bfloat16(3)], ids=lambda step: type(step).__name__ + str(jnp.result_type(step))
)
def test_values_are_strong_float32_scalars(name, schedule, arguments, twin, step):
    value = schedule(step)
    assert (value.shape, value.dtype, value.weak_type) == ((), jnp.float32, False)
    with jax.enable_x64(True):
        assert schedule(3).dtype in (jnp.float32, jnp.float64)


@every
def test_its_numbers_are_leaves(name, schedule, arguments, twin):
    leaves, treedef = jax.tree.flatten(schedule)
    assert leaves == list(schedule.leaves)
    assert all(isinstance(leaf, float) for leaf in leaves)
    assert jax.tree.unflatten(treedef, leaves) == schedule
    jax.tree.unflatten(treedef, [None] * len(leaves))
    traces = []

    @jax.jit
    def run(schedule):
        traces.append(schedule)
        return schedule(7)

    halved = jax.tree.map(lambda leaf: leaf / 2, schedule)
    chex.assert_trees_all_close([run(schedule), run(halved)], [schedule(7), halved(7)], rtol=1e-6)
    assert len(traces) == 1


@every
def test_equality_repr_copy_and_pickle_are_by_value(name, schedule, arguments, twin):
    assert eval(repr(schedule), vars(schedules)) == schedule
    for again in (copy.copy(schedule), copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert again == schedule
        assert hash(again) == hash(schedule)
        assert again(7) == schedule(7)
    if schedule.leaves:
        assert jax.tree.map(lambda leaf: leaf / 2, schedule) != schedule


@every
def test_derivatives_are_finite_everywhere(name, schedule, arguments, twin):
    for step in STEPS:
        slopes = jax.grad(lambda schedule, step=step: schedule(step))(jax.tree.map(jnp.float32, schedule))
        chex.assert_tree_all_finite(slopes)


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_polynomials_are_differentiable_in_all_their_numbers_at_and_past_the_end(power):
    def value(end_value, power, steps, step):
        return schedules.polynomial(0.3, end_value, power, steps)(step)

    for step in (50, 100, 150):
        slopes = jax.grad(value, argnums=(0, 1, 2))(0.1, power, 100.0, step)
        chex.assert_tree_all_finite(slopes)
    width = 1e-2
    numeric = (value(0.1, power, 100.0 + width, 50) - value(0.1, power, 100.0 - width, 50)) / (2 * width)
    np.testing.assert_allclose(jax.grad(value, argnums=2)(0.1, power, 100.0, 50), numeric, rtol=0.02)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "steps",
    [100.0, np.float32(100), np.int64(100), jnp.int32(100), jnp.float32(100)],
    ids=lambda steps: str(jnp.result_type(steps)) + type(steps).__name__,
)
def test_numbers_of_steps_may_be_floats_and_arrays(steps):
    tenth = steps / 10 if isinstance(steps, float) else steps // 10
    made = {
        "linear": lambda n, m: schedules.linear(0.3, 0.1, n),
        "cosine": lambda n, m: schedules.cosine(0.3, n),
        "exponential": lambda n, m: schedules.exponential(0.3, 0.5, n),
        "inverse_sqrt": lambda n, m: schedules.inverse_sqrt(0.3, n),
        "polynomial": lambda n, m: schedules.polynomial(0.3, 0.1, 2, n),
        "warmup": lambda n, m: schedules.warmup(schedules.cosine(0.3, n), m),
        "wsd": lambda n, m: schedules.wsd(0.3, n, m, m),
        "join": lambda n, m: schedules.join([0.3, schedules.linear(0.2, 0.1, n)], [m]),
    }
    for make in made.values():
        ints, others = make(100, 10), make(steps, tenth)
        np.testing.assert_allclose([others(step) for step in STEPS], [ints(step) for step in STEPS], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose([jax.jit(lambda s, t: s(t))(others, step) for step in STEPS], [ints(step) for step in STEPS], rtol=1e-6, atol=1e-7)


def test_steps_beyond_int32_do_not_overflow():
    np.testing.assert_allclose(schedules.cosine(0.3, 10**11)(5 * 10**10), 0.15, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(schedules.linear(0.3, 0.0, 10**11))(jnp.int32(2**31 - 1)), 0.3 * (1 - 2**31 / 10**11), rtol=1e-6)


def test_vmap_over_schedules_is_a_loop_over_schedules():
    values = jnp.array([0.1, 0.2, 0.4])
    mapped = jax.vmap(lambda schedule: schedule(30))(schedules.linear(values, jnp.zeros(3), jnp.array([50, 60, 100])))
    looped = [schedules.linear(value, 0.0, steps)(30) for value, steps in zip(values, (50, 60, 100), strict=True)]
    np.testing.assert_allclose(mapped, looped, rtol=1e-6)


def test_bfloat16_numbers_give_float32_values():
    assert schedules.cosine(jnp.bfloat16(0.1), 100)(5).dtype == jnp.float32
    assert schedules.constant(jnp.bfloat16(0.1))(5).dtype == jnp.float32
    assert schedules.constant(1)(5).dtype == jnp.float32


@pytest.mark.parametrize("factory", [gdjax.gd, gdjax.sgd, gdjax.rule(optax.adam)])
def test_their_leaves_are_leaves_of_the_rules_they_go_into(factory):
    rule = factory(schedules.cosine(0.1, 100))
    assert jax.tree.leaves(rule) == [0.1]
    params = jnp.array([1.0, -2.0])

    def second(rule):
        state = rule.init(params)
        _, state = rule.update(params, state, params)
        return rule.update(params, state, params)[0]

    twin = factory(optax.cosine_decay_schedule(0.1, 100))
    assert jax.tree.leaves(twin) == []
    np.testing.assert_allclose(second(rule), second(twin), rtol=1e-6)
    traces = []
    jitted = jax.jit(lambda rule: (traces.append(rule), second(rule))[1])
    np.testing.assert_allclose(jitted(factory(schedules.cosine(0.2, 100))), 2 * jitted(rule), rtol=1e-5)
    assert len(traces) == 1


def test_schedules_follow_one_another_without_looking_back():
    """A foreign schedule that is NaN before its start does no harm, to the derivative neither."""
    joined = schedules.join([0.3, lambda step: 0.1 / jnp.sqrt(step)], [10])
    assert joined(3) == np.float32(0.3)
    np.testing.assert_allclose(joined(14), 0.05, rtol=1e-6)
    assert jax.grad(lambda rate: schedules.join([0.3, lambda step: rate * jnp.sqrt(step)], [10])(3))(0.1) == 0
    assert jax.grad(lambda rate: schedules.warmup(lambda step: rate * jnp.sqrt(step + 1), 10)(5))(0.1) == 0.5


def test_a_schedule_of_your_own():
    @schedules.schedule
    def harmonic(init_value, delay=1):
        return lambda step: init_value / (delay + step)

    assert repr(harmonic(0.5, delay=2)) == "harmonic(init_value=0.5, delay=2)"
    assert jax.tree.leaves(harmonic(0.5)) == [0.5]
    assert harmonic(0.5)(4) == np.float32(0.1)
    lifted = schedules.schedule(optax.cosine_decay_schedule)
    assert jax.tree.leaves(lifted(0.5, 100)) == [0.5]
    np.testing.assert_allclose(lifted(0.5, 100)(50), schedules.cosine(0.5, 100)(50), rtol=1e-6)
    assert schedules.schedule(harmonic) is harmonic


@pytest.mark.parametrize("given", [0.1, None, schedules.constant(0.1), gdjax.gd], ids=str)
def test_only_factories_become_schedules(given):
    with pytest.raises(TypeError, match=r"^schedule: got .*; wanted .*: type schedule\(optax"):
        schedules.schedule(given)


def test_a_factory_that_returns_no_function_is_told_so():
    with pytest.raises(TypeError, match=r"broken returned 0.1; wanted a function of the step: type return lambda step"):
        schedules.schedule(broken)(0.1)


def broken(init_value):
    return init_value


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.constant(float("nan")), ValueError, "constant: value is nan; wanted a number, for example value=0.1"),
        (lambda: schedules.constant(None), TypeError, "constant: value is None; wanted a number"),
        (lambda: schedules.constant(schedules.constant(0.1)), TypeError, "constant: value is constant.*; wanted a number"),
        (lambda: schedules.linear("0.1", 0.0, 10), TypeError, "linear: init_value is '0.1'; wanted a number, for example init_value=0.1"),
        (lambda: schedules.linear(0.1, 0.0, 0), ValueError, "linear: steps is 0.0; wanted a number of steps > 0, for example steps=100"),
        (lambda: schedules.linear(0.1, 0.0, None), TypeError, "linear: steps is None; wanted a number of steps > 0"),
        (lambda: schedules.linear(0.1, 0.0, np.array([10, -1])), ValueError, "linear: steps is .*-1.*; wanted a number of steps > 0"),
        (lambda: schedules.cosine(0.1, -5), ValueError, "cosine: steps is -5.0; wanted a number of steps > 0"),
        (lambda: schedules.cosine(0.1, True), TypeError, "cosine: steps is True; wanted a number of steps > 0"),
        (lambda: schedules.exponential(0.1, 0.0, 10), ValueError, "exponential: decay_rate is 0.0; wanted a factor > 0, for example"),
        (lambda: schedules.inverse_sqrt(0.1, 0.0), ValueError, "inverse_sqrt: steps is 0.0; wanted a number of steps > 0"),
        (lambda: schedules.polynomial(0.1, 0.0, 0, 10), ValueError, "polynomial: power is 0.0; wanted a number > 0, for example power=2"),
        (lambda: schedules.warmup(0.1, -1), ValueError, "warmup: steps is -1.0; wanted a number of steps ≥ 0"),
        (lambda: schedules.warmup(float("nan"), 10), ValueError, "warmup: schedule is nan; wanted a number"),
        (lambda: schedules.wsd(0.1, 100, 60, 50), ValueError, r"wsd: warmup_steps \+ decay_steps is 60 \+ 50; wanted at most steps = 100: type"),
        (lambda: schedules.join([], []), ValueError, r"join: got 0 schedules and 0 boundaries; wanted one fewer: type join"),
        (lambda: schedules.join([0.1, 0.2], [5, 10]), ValueError, "join: got 2 schedules and 2 boundaries; wanted one fewer"),
        (lambda: schedules.join([0.1, 0.2, 0.3], [10, 5]), ValueError, r"join: boundaries is \[10, 5\]; wanted increasing steps"),
        (lambda: schedules.join([0.1, None], [5]), TypeError, r"join: schedules\[1\] is None; wanted a number"),
        (lambda: schedules.join([0.1, 0.2], [-5]), ValueError, r"join: boundaries\[0\] is -5.0; wanted a number of steps ≥ 0"),
    ],
)
def test_mistakes_are_caught_at_the_call(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_traced_numbers_are_not_checked():
    jax.jit(lambda number: schedules.wsd(number, number, number, number)(3))(-1.0)
