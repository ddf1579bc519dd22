"""``sgd`` is torch.optim.SGD, step for step: against numbers that PyTorch made (tests/data/make_torch_sgd.py)."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

TORCH = json.loads((Path(__file__).parents[1] / "data" / "torch_sgd.json").read_text())


def loss_fn(params):
    inputs, labels = jnp.array(TORCH["inputs"]), jnp.array(TORCH["labels"])
    margins = labels * (inputs @ params["weights"] + params["bias"])
    return jnp.mean(jax.nn.softplus(-margins)) + 0.3 * jnp.sum(jnp.sin(params["weights"] + 2 * params["bias"]))


def path(rule, steps):
    params = {"weights": jnp.array(TORCH["weights"]), "bias": jnp.array(TORCH["bias"])}

    def body(carry, _):
        params, state = carry
        updates, state = rule.update(jax.grad(loss_fn)(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.concatenate([params["weights"], params["bias"][None]])

    return jax.lax.scan(body, (params, rule.init(params)), length=steps)[1]


def name(case):
    return "-".join(f"{key}={value}" for key, value in case["arguments"].items() if value) or "plain"


@pytest.mark.one_in(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", TORCH["cases"], ids=name)
def test_equals_pytorch(case):
    arguments = {key: value or None for key, value in case["arguments"].items() if key in ("momentum", "dampening", "weight_decay")}
    flags = {key: case["arguments"][key] for key in ("nesterov", "maximize")}
    ours = path(gdjax.sgd(TORCH["learning_rate"], **arguments, **flags), len(case["path"]))
    np.testing.assert_allclose(ours, case["path"], rtol=1e-13, atol=1e-13)


def test_the_grid_is_not_trivial():
    ends = np.array([case["path"][-1] for case in TORCH["cases"]])
    distances = np.abs(ends[:, None] - ends[None]).max(axis=-1) + np.eye(len(ends))
    assert len(ends) == 28
    assert distances.min() > 1e-4, "two entries of the grid end at the same point, so one of the arguments is not seen"


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nesterov", [False, True])
def test_numbers_at_zero_are_like_no_numbers(nesterov):
    """What is None for a lighter state may be 0.0, for example in a sweep, with the same result."""
    zeros = gdjax.sgd(0.15, 0.0, weight_decay=0.0, nesterov=nesterov)
    np.testing.assert_allclose(path(zeros, 6), path(gdjax.sgd(0.15), 6), rtol=1e-15)
    np.testing.assert_allclose(path(gdjax.sgd(0.15, 0.9, dampening=0.0), 6), path(gdjax.sgd(0.15, 0.9), 6), rtol=1e-15)


def test_the_first_step_is_not_dampened():
    rule = gdjax.sgd(1.0, 0.5, dampening=0.9)
    updates, state = rule.update(jnp.array([2.0, -3.0]), rule.init(jnp.zeros(2)))
    np.testing.assert_array_equal(updates, [-2.0, 3.0])
    updates, _ = rule.update(jnp.array([2.0, -3.0]), state)
    np.testing.assert_allclose(updates, [-1.2, 1.8], rtol=1e-6)  # 0.5·2 + 0.1·2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_average_as_velocity(nesterov):
    """Its steps are 1 − μ times as long as those of momentum, whatever the gradients; dampening by μ is something else: its first step is not shortened."""
    average = path(gdjax.sgd(0.4, 0.75, nesterov=nesterov, ema=True), 6)
    np.testing.assert_allclose(average, path(gdjax.sgd(0.1, 0.75, nesterov=nesterov), 6), rtol=1e-13)
    assert np.abs(average - path(gdjax.sgd(0.4, 0.75, dampening=0.75), 6)).max() > 0.01
    np.testing.assert_allclose(path(gdjax.sgd(0.4, 0.0, nesterov=nesterov, ema=True), 6), path(gdjax.sgd(0.4), 6), rtol=1e-13)


def test_the_average_follows_its_schedule():
    """With μ from a schedule, weights of gradients are products of μ times 1 − μ, and sum to 1 but for the start."""
    rule, mean = gdjax.sgd(1.0, gdjax.schedules.exponential(0.5, 0.5, 1), ema=True), 0.0
    state = rule.init(jnp.zeros(1))
    for step in range(4):
        mu = 0.5 * 0.5**step
        mean = mu * mean + (1 - mu) * (1.0 + step)
        updates, state = rule.update(jnp.array([1.0 + step]), state)
        np.testing.assert_allclose(updates, [-mean], rtol=1e-6)


def test_the_textbook_example():
    """L(w) = (w − 2)², from w = 5 with learning rate 0.1: gradient 6, next w = 4.4, then on to 2 by a factor of 0.8 a step."""
    rule, w = gdjax.sgd(learning_rate=0.1), jnp.array(5.0)
    state, gradient = rule.init(w), jax.grad(lambda w: (w - 2.0) ** 2)
    assert gradient(w) == 6.0
    updates, state = rule.update(gradient(w), state)
    np.testing.assert_allclose(w + updates, 4.4, rtol=1e-7)
    for step in range(1, 61):
        updates, state = rule.update(gradient(w), state)
        w = w + updates
        np.testing.assert_allclose(w - 2, 3 * 0.8**step, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(w, 2.0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({}, set()),
        ({"momentum": 0.9}, {"velocity"}),
        ({"momentum": 0.0}, {"velocity"}),
        ({"momentum": 0}, {"velocity"}),
        ({"momentum": 0.9, "dampening": 0.1}, {"velocity", "step"}),
        ({"momentum": 0.9, "ema": True}, {"velocity"}),
        ({"momentum": 0.9, "dampening": 0.0}, {"velocity", "step"}),
        ({"weight_decay": 0.1}, set()),
        ({"learning_rate": gdjax.schedules.cosine(0.1, 10)}, {"step"}),
        ({"learning_rate": optax.cosine_decay_schedule(0.1, 10)}, {"step"}),
        ({"learning_rate": gdjax.schedules.constant(0.1), "momentum": 0.9, "nesterov": True}, {"velocity", "step"}),
        ({"momentum": gdjax.schedules.linear(0.5, 0.9, 10)}, {"velocity", "step"}),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(sorted(value) if isinstance(value, set) else value)),  # the same in every worker
)
def test_the_state_holds_what_is_needed_and_no_more(arguments, fields):
    state = gdjax.sgd(**{"learning_rate": 0.1, **arguments}).init({"w": jnp.ones((2, 3))})
    assert {field for field, value in state._asdict().items() if value is not None} == fields


def test_the_structure_of_the_state_does_not_depend_on_values():
    structures = {jax.tree.structure(jax.eval_shape(gdjax.sgd(0.1, value, dampening=value).init, jnp.ones(3))) for value in (0.0, 0.5, np.float32(0.9))}
    assert len(structures) == 1


def test_every_number_may_be_a_schedule():
    halves = gdjax.schedules.exponential(1.0, 0.5, 1)
    rule = gdjax.sgd(halves, halves_from(0.5), weight_decay=halves_from(0.25))
    params, state = jnp.array([2.0]), rule.init(jnp.array([2.0]))
    velocity = 0.0
    for step in range(4):
        grads = jnp.array([1.0 + step])
        velocity = 0.5 * 0.5**step * velocity + (1.0 + step) + 0.25 * 0.5**step * float(params[0])
        updates, state = rule.update(grads, state, params)
        np.testing.assert_allclose(updates, [-(0.5**step) * velocity], rtol=1e-6)
        params = params + updates


def halves_from(value):
    return gdjax.schedules.exponential(value, 0.5, 1)


@pytest.mark.parametrize("learning_rate", [1, np.int32(1), np.float64(1.0), jnp.float32(1.0), jnp.int32(1), jnp.bfloat16(1.0)], ids=repr)
@pytest.mark.parametrize("factory", [gdjax.gd, gdjax.sgd])
def test_learning_rates_come_in_many_types(factory, learning_rate):
    rule = factory(learning_rate)
    updates, _ = rule.update(jnp.array([3.0, -2.0]), rule.init(jnp.zeros(2)))
    assert updates.dtype == jnp.float32
    np.testing.assert_array_equal(updates, [-3.0, 2.0])


@pytest.mark.parametrize(
    ("arguments", "error", "came", "wanted", "typed"),
    [
        ({"learning_rate": -0.1}, ValueError, "learning_rate is -0.1", "a finite number ≥ 0 or a schedule", r"sgd\(0.1\)"),
        ({"learning_rate": float("inf")}, ValueError, "learning_rate is inf", "a finite number ≥ 0 or a schedule", r"sgd\(0.1\)"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate is nan", "a finite number ≥ 0 or a schedule", r"sgd\(0.1\)"),
        ({"learning_rate": jnp.float32(-1.0)}, ValueError, "learning_rate is -1.0", "a finite number ≥ 0", r"schedules.cosine\(0.1, 100\)"),
        ({"learning_rate": np.array([0.1, -0.2])}, ValueError, r"learning_rate is array\(\[ 0.1, -0.2\]\)", "a finite number ≥ 0", r"sgd\(0.1\)"),
        ({"learning_rate": -1}, ValueError, "learning_rate is -1", "a finite number ≥ 0", r"sgd\(0.1\)"),
        ({"learning_rate": None}, TypeError, "learning_rate is None", "a finite number ≥ 0", r"sgd\(0.1\)"),
        ({"learning_rate": "0.1"}, TypeError, "learning_rate is '0.1'", "a finite number ≥ 0", r"sgd\(0.1\)"),
        ({"learning_rate": True}, TypeError, "learning_rate is True", "a finite number ≥ 0", r"sgd\(0.1\)"),
        ({"learning_rate": 1j}, TypeError, "learning_rate is 1j", "a finite number ≥ 0", r"sgd\(0.1\)"),
        ({"momentum": 1.0}, ValueError, "momentum is 1.0", "0 ≤ momentum < 1", "momentum=0.9"),
        ({"momentum": -0.5}, ValueError, "momentum is -0.5", "0 ≤ momentum < 1", "momentum=0.9"),
        ({"momentum": float("nan")}, ValueError, "momentum is nan", "0 ≤ momentum < 1", "momentum=0.9"),
        ({"momentum": True}, TypeError, "momentum is True", "0 ≤ momentum < 1", "momentum=0.9"),
        ({"momentum": 0.9, "dampening": 1.5}, ValueError, "dampening is 1.5", "0 ≤ dampening ≤ 1", "dampening=0.1"),
        ({"weight_decay": -1e-4}, ValueError, "weight_decay is -0.0001", "weight_decay ≥ 0", "weight_decay=1e-4"),
        ({"dampening": 0.1}, ValueError, "momentum is None with dampening=0.1", "wanted a momentum", "momentum=0.9"),
        ({"nesterov": True}, ValueError, "momentum is None with nesterov=True", "wanted a momentum", "momentum=0.9"),
        ({"ema": True}, ValueError, "momentum is None with ema=True", "wanted a momentum", "momentum=0.9"),
        ({"ema": True, "momentum": 0.9, "dampening": 0.1}, ValueError, "dampening is 0.1 with ema=True", "one of the two", "leave dampening out"),
        (
            {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
            ValueError,
            "dampening is 0.1 with nesterov=True",
            "one of the two",
            "leave dampening out",
        ),
    ],
    ids=str,
)
def test_mistakes_are_caught_at_the_call(arguments, error, came, wanted, typed):
    with pytest.raises(error, match=rf"^sgd: {came}.*{wanted}.*{typed}"):
        gdjax.sgd(**{"learning_rate": 0.1, **arguments})


@pytest.mark.parametrize("learning_rate", [-0.1, float("nan"), None, "0.1"], ids=str)
def test_gd_catches_them_too(learning_rate):
    with pytest.raises((ValueError, TypeError), match=r"^gd: learning_rate is .*; wanted a finite number ≥ 0 or a schedule: type gd\(0.1\)"):
        gdjax.gd(learning_rate)


def test_weight_decay_asks_for_params():
    rule = gdjax.sgd(0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"sgd: update got params=None; .*type rule.update\(grads, state, params\)"):
        rule.update(jnp.ones(2), rule.init(jnp.ones(2)))


def test_traced_numbers_are_not_checked():
    jax.jit(lambda rate: gdjax.sgd(rate, rate, weight_decay=rate))(-1.0)
    jax.vmap(lambda rate: gdjax.sgd(rate, 0.9, dampening=rate))(jnp.array([-1.0, 2.0]))


def test_arrays_of_numbers_are_a_sweep():
    rule = gdjax.sgd(jnp.array([0.1, 0.2]), jnp.array([0.0, 0.9]))
    updates = jax.vmap(lambda rule: rule.update(jnp.array([1.0, -2.0]), rule.init(jnp.zeros(2)))[0])(rule)
    np.testing.assert_allclose(updates, [[-0.1, 0.2], [-0.2, 0.4]], rtol=1e-6)
