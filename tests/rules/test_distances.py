"""Learning-rate-free rules in use: their averages, low precision, bad gradients, what they refuse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.parts.averaging import polynomial_average
from gdjax.parts.distance import hypotenuse, over, root, smallest_move

AVERAGED = ("dog", "l_dog", "dowg")
RULES = {name: getattr(gdjax, name) for name in (*AVERAGED, "d_adaptation", "prodigy")} | {"mechanic": lambda: gdjax.mechanic(gdjax.sgd(0.1))}
every = pytest.mark.parametrize("name", RULES)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("gamma", [0, 1, 8])
def test_the_polynomial_average_weights_points_by_a_polynomial(gamma):
    """w_t ∝ (t + γ − 1)!/(t − 1)!, of degree γ: the recursion of Shamir and Zhang in closed form."""
    points = np.random.default_rng(0).normal(size=(40, 3))
    weights = np.array([math.perm(t + gamma - 1, gamma) for t in range(1, 41)], np.float64)
    average = jnp.full(3, 1e9)
    for t, point in enumerate(points, 1):
        average = polynomial_average(average, jnp.asarray(point), jnp.int32(t), gamma)
    np.testing.assert_allclose(average, weights @ points / weights.sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", AVERAGED)
@pytest.mark.parametrize("averaging", [0.0, 8.0, jnp.inf])
def test_what_they_report_is_the_average_of_the_points_after_the_start(name, averaging):
    rule, x = RULES[name](0.3, averaging=averaging), jnp.array([2.0, -1.0])
    state, points = rule.init(x), []
    np.testing.assert_array_equal(gdjax.eval_params(rule, state, x), x)
    for t in range(1, 8):
        updates, state = rule.update(2 * x, state, x)
        x = x + updates
        points.append(np.asarray(x))
        if np.isinf(averaging):
            expected = points[-1]
        else:
            weights = np.array([math.perm(i + int(averaging) - 1, int(averaging)) for i in range(1, t + 1)], np.float64)
            expected = weights @ np.stack(points) / weights.sum()
        np.testing.assert_allclose(gdjax.eval_params(rule, state, x), expected, rtol=1e-5)


def test_no_averaging_is_the_same_state():
    """The average is turned off by a number, so both compile once, and map together."""
    states = [jax.eval_shape(gdjax.dog(averaging=number).init, jnp.ones(3)) for number in (8.0, jnp.inf)]
    assert states[0] == states[1]


def test_fit_returns_the_average():
    """On batches of a noisy least-squares fit the average of DoG is nearer to the solution than its points are."""
    random = np.random.default_rng(0)
    features = random.normal(size=(512, 4)).astype(np.float32)
    labels = (features @ np.arange(1.0, 5.0) + 3 * random.normal(size=512)).astype(np.float32)
    solution = np.linalg.lstsq(features, labels)[0]

    def loss(w, batch):
        return jnp.mean((batch[0] @ w - batch[1]) ** 2) / 2

    errors = []
    for averaging in (8.0, jnp.inf):
        result = gdjax.fit(loss, jnp.zeros(4), (features, labels), gdjax.dog(averaging=averaging), batch_size=4, epochs=6, key=jax.random.key(0))
        errors.append(np.linalg.norm(result.params - solution))
    assert errors[0] < 0.5 * errors[1]
    assert errors[0] < 0.2


@pytest.mark.parametrize("name", AVERAGED)
def test_bfloat16_moves_and_its_average_does_not_freeze(name):
    """A first step of 1e-6 (1 + ‖x₀‖) would be lost in bfloat16, and so would weights of 9/t beside 1."""
    rule, x = RULES[name](), jnp.full(8, 3.0, jnp.bfloat16)

    def body(carry, _):
        x, state = carry
        updates, state = rule.update(jnp.sign(x - 1), state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), None

    (x, state), _ = jax.lax.scan(body, (x, rule.init(x)), length=3000)
    reported = gdjax.eval_params(rule, state, x)
    assert reported.dtype == jnp.bfloat16
    assert state.average.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(reported, np.float32), 1.0, atol=0.1)


@pytest.mark.parametrize("growth_rate", [None, 1.5])
@pytest.mark.parametrize(("start", "dtype"), [(10.0, jnp.bfloat16), (1e4, jnp.float32), (-3e8, jnp.float32)])
def test_prodigy_moves_where_its_first_step_would_be_lost_in_rounding(start, dtype, growth_rate):
    """Steps of 10⁻⁶ leave such params where they are, and d with them. The first d is then ε|x₀|; d is within |x₀ − x⋆| all the same."""
    rule, x = gdjax.prodigy(growth_rate=growth_rate), jnp.full(4, start, dtype)

    def body(carry, _):
        x, state = carry
        updates, state = rule.update(x - jnp.asarray(2.0, dtype), state, x)
        return (optax.apply_updates(x, updates), state), state.distance

    (end, state), distances = jax.lax.scan(body, (x, rule.init(x)), length=1000)
    np.testing.assert_allclose(state.first_distance, jnp.finfo(dtype).eps * abs(start), rtol=1e-6)
    assert np.all(np.isfinite(distances))
    assert distances[-1] <= abs(start - 2.0) * (1 + 1e-5)
    assert np.all(np.abs(np.asarray(end, np.float32) - 2.0) <= 0.02 * abs(start))


def test_the_floor_of_the_first_distance_is_that_of_each_leaf():
    half, single = jnp.full((2, 3), -3.0, jnp.bfloat16), jnp.full(4, 50.0)
    np.testing.assert_allclose(smallest_move({"w": half, "b": single}), (6 * 3 * 2.0**-7 + 4 * 50 * 2.0**-23) / 10, rtol=1e-6)
    assert smallest_move({}) == smallest_move(jnp.zeros(3, jnp.bfloat16)) == 0.0
    assert jnp.isfinite(smallest_move(jnp.full(9, 3e38)))
    assert gdjax.prodigy().init(jnp.full(3, 5.0)).distance == jnp.float32(1e-6)  # what it was, at scales where it moves the params


@pytest.mark.one_in(2)
@every
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_is_left_out(name, bad):
    rule, x = RULES[name](), jnp.array([3.0, -1.0])
    state = rule.init(x)
    for _ in range(3):
        updates, state = rule.update(2 * x, state, x)
        x = x + updates
    updates, after = rule.update(jnp.array([1.0, bad]), state, x)
    np.testing.assert_array_equal(updates, 0.0)
    for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(before, now)


@pytest.mark.one_in(2)
@every
def test_a_first_gradient_of_zero_spoils_nothing(name):
    """Steps begin at the first gradient that says something; derivatives through both are finite."""
    rule, x = RULES[name](), jnp.array([3.0, -1.0])

    def end(x, first):
        state = rule.init(x)
        for grads in (first * x, 2 * x, 2 * x):
            updates, state = rule.update(grads, state, x)
            x = x + updates
        return jnp.sum(x), updates

    (_, updates), slope = jax.value_and_grad(end, has_aux=True)(x, 0.0)
    assert np.all(np.sign(updates) == -np.sign(x))
    assert np.all(np.isfinite(slope))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", [*AVERAGED, "d_adaptation"])
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_float32_has_room_for_losses_of_any_unit(name, size):
    """‖g‖² underflows and overflows long before ‖g‖."""
    rule, x = RULES[name](first_distance=0.1), jnp.array([3.0, -1.0])

    def run(size):
        state, y = rule.init(x), x
        for _ in range(4):
            updates, state = rule.update(size * y, state, y)
            y = y + updates
        return y

    np.testing.assert_allclose(run(size), run(1.0), rtol=1e-5)


def test_numbers_are_leaves_pairs_of_them_too():
    assert len(jax.tree.leaves(gdjax.prodigy(1.0, (0.9, 0.999)))) == 3
    swept = jax.vmap(lambda r: gdjax.minimize(lambda x: jnp.sum((x - 1.0) ** 2), jnp.zeros(2), gdjax.dowg(r), max_steps=300).value)(jnp.array([1e-3, 0.1]))
    assert np.all(swept < 1e-3)


def test_helpers_at_zero_and_at_the_ends_of_the_range():
    for a, b, expected in ((0.0, 0.0, 0.0), (3.0, -4.0, 5.0), (3e30, 4e30, 5e30), (3e-30, 4e-30, 5e-30)):
        np.testing.assert_allclose(hypotenuse(jnp.float32(a), jnp.float32(b)), expected, rtol=1e-6)
        assert np.all(np.isfinite(jax.grad(hypotenuse, (0, 1))(jnp.float32(a), jnp.float32(b))))
    np.testing.assert_allclose(jax.grad(hypotenuse, (0, 1))(3.0, 4.0), [0.6, 0.8], rtol=1e-6)
    assert root(jnp.float32(0)) == jax.grad(root)(0.0) == 0.0
    assert over(jnp.float32(1), jnp.float32(0)) == jax.grad(over, 1)(1.0, 0.0) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gdjax.dog(0.0), "first_distance is 0.0; wanted a number > 0"),
        (lambda: gdjax.l_dog(jnp.nan), "first_distance is nan"),
        (lambda: gdjax.dowg(averaging=-1.0), "averaging is -1.0; wanted a number ≥ 0"),
        (lambda: gdjax.d_adaptation(momentum=1.0), "momentum is 1.0; wanted 0 ≤ momentum < 1"),
        (lambda: gdjax.d_adaptation(growth_rate=0.5), "growth_rate is 0.5; wanted a number ≥ 1"),
        (lambda: gdjax.prodigy(betas=(0.9, 1.0)), r"betas\[1\] is 1.0; wanted two numbers β, 0 ≤ β < 1"),
        (lambda: gdjax.prodigy(betas=0.9), r"prodigy: betas is 0.9; wanted two numbers β, 0 ≤ β < 1: type betas=\(0.9, 0.999\)"),
        (lambda: gdjax.prodigy(betas=(0.9,)), r"prodigy: betas is \(0.9,\); wanted two numbers"),
        (lambda: gdjax.prodigy(beta3=1.0), "prodigy: beta3 is 1.0; wanted a number β₃"),
        (lambda: gdjax.prodigy(-1.0), "learning_rate is -1.0"),
        (lambda: gdjax.mechanic(gdjax.sgd(0.1), first_scale=0.0), "first_scale is 0.0"),
        (lambda: gdjax.mechanic(gdjax.nesterov(0.1)), "takes gradients away from the point it reports"),
    ],
)
def test_bad_arguments_are_caught_at_the_call(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_mechanic_reports_the_learning_rate_it_has_learnt():
    """Σ s times that of the rule, a schedule's too; x − x₀ = Σ s Δ and Δ has moved at the rule's."""
    loss, halves = lambda w: (w - 2.0) ** 2, gdjax.schedules.exponential(8.0, 0.5, 1)
    for inner, unit in ((gdjax.sgd(4.0), lambda k: 4.0), (gdjax.sgd(halves), lambda k: 8.0 * 0.5**k), (optax.sgd(4.0), lambda k: 1.0)):
        rule = gdjax.mechanic(gdjax.chain(optax.identity(), inner), first_scale=1e-2)
        result = gdjax.minimize(loss, 5.0, rule, max_steps=9, tol=0.0, history=("learning_rate",))
        learnt = float(jnp.sum(result.state.progress.state.rule_state.scales)) * unit(8)
        np.testing.assert_allclose(result.history["learning_rate"][-1], learnt, rtol=1e-5)
        assert learnt > 0


def test_d_adaptation_says_that_a_tiny_first_gradient_misleads_it():
    """The limit that its docstring names: steps in units of ‖g₀‖."""
    rule, x = gdjax.d_adaptation(), jnp.float32(1.0)
    state = rule.init(x)
    lengths = [jnp.abs(rule.update(jnp.float32(1.0), rule.update(first, state, x)[1], x)[0]) for first in (jnp.float32(1.0), jnp.float32(1e-6))]
    assert lengths[1] > 1e5 * lengths[0]
    assert "plateau" in gdjax.d_adaptation.__doc__


def test_mechanic_wants_a_rule():
    with pytest.raises(TypeError, match="wanted a gradient transformation"):
        gdjax.mechanic(0.1)
