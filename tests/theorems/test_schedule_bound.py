"""What schedules guarantee for the last iterate: exact where that is known, never exceeded, and sharper than the bound in use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import last_iterate as reference
from scipy import optimize

import gdjax
from gdjax import schedules

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = {
    "constant": lambda h, steps: schedules.constant(h),
    "inverse_sqrt": lambda h, steps: schedules.inverse_sqrt(h),
    "wsd": lambda h, steps: schedules.wsd(h, steps, 0, steps // 5),
    "cosine": schedules.cosine,
    "linear": lambda h, steps: schedules.linear(h, 0.0, steps),
}


def last(schedule, subgradient, start, steps):
    """The last iterate, by the rule of this package."""
    rule = gdjax.gd(schedule)

    def body(_, carry):
        x, state = carry
        updates, state = rule.update(subgradient(x), state)
        return x + updates, state

    return jax.lax.fori_loop(0, steps, body, (start, rule.init(start)))[0]


@pytest.mark.parametrize(("steps", "printed"), [(5, 0.40825), (20, 0.21822), (100, 0.099504)])
def test_minimax_steps_attain_their_bound_on_the_hardest_function(steps, printed):
    """F(x) = max{x₁, ..., x_{N+1}, −D/√(N + 1)} G from 0: the subgradient is a coordinate not seen before, as long as there are any. Exactly GD/√(N + 1)."""
    distance, lipschitz = 3.0, 2.0
    floor = -distance / np.sqrt(steps + 1)
    loss = lambda x: lipschitz * jnp.maximum(jnp.max(x), floor)  # noqa: E731
    subgradient = lambda x: lipschitz * jnp.where(jnp.arange(steps + 1) == jnp.argmax(x), 1.0, 0.0)  # noqa: E731
    schedule = schedules.minimax(distance, lipschitz, steps)
    gap = loss(last(schedule, subgradient, jnp.zeros(steps + 1), steps)) - lipschitz * floor
    np.testing.assert_allclose(gap / (distance * lipschitz), 1 / np.sqrt(steps + 1), rtol=1e-12)
    np.testing.assert_allclose(gap / (distance * lipschitz), printed, rtol=2e-5)
    np.testing.assert_allclose(schedules.bound(schedule, steps, distance, lipschitz), gap, rtol=1e-9)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("name", "suffix", "ours"),
    [("constant", 2.91, 1.61), ("inverse_sqrt", 2.57, 1.37), ("wsd", 2.17, 1.08), ("cosine", 2.06, 1.03), ("linear", 2.01, 1.00)],
)
def test_shapes_rank_as_in_the_papers(name, suffix, ours):
    """The least bound over scales of 1000 steps, in units of DG/√1000: the numbers of the suffix bound, and that ours ranks the same at half of them."""
    rates, steps = np.geomspace(0.003, 3, 200), 1000
    h = np.asarray(jax.vmap(SHAPES[name](1.0, steps))(jnp.arange(steps)))
    np.testing.assert_allclose(min(reference.suffix_bound(rate * h) for rate in rates) * np.sqrt(steps), suffix, atol=0.006)
    bounds = jax.jit(jax.vmap(lambda rate: schedules.bound(SHAPES[name](rate, steps), steps)))(rates)
    np.testing.assert_allclose(bounds.min() * np.sqrt(steps), ours, atol=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_bound_is_that_of_the_theorem_and_below_the_suffix_bound(seed):
    """For steps at random: the same as from the theorem's sums, minimised by SciPy, and never above the suffix bound with any last weight."""
    random = np.random.default_rng(seed)
    steps, distance, lipschitz = 12, 1.7, 0.6
    h = random.uniform(0.02, 2.0, steps) * random.choice([0.3, 3.0])
    ours = float(schedules.bound(lambda t: jnp.asarray(h)[t], steps, distance, lipschitz))
    weighted = lambda s: reference.weighted_bound(h, distance, lipschitz, np.exp(s))  # noqa: E731
    theirs = optimize.minimize_scalar(weighted, bounds=(-9, 5), method="bounded", options=dict(xatol=1e-9))
    np.testing.assert_allclose(ours, theirs.fun, rtol=1e-7)
    assert ours <= min(reference.suffix_bound(np.append(h, weight), distance, lipschitz) for weight in np.geomspace(1e-3, 1e3, 200))


@pytest.mark.parametrize("name", SHAPES)
def test_no_run_is_above_the_bound(name):
    """Random convex functions max_j ⟨a_j, x⟩ + b_j with ‖a_j‖ ≤ 1 and a known minimum at a known distance, whatever the scale of the steps."""
    random = np.random.default_rng(11)
    steps, count = 25, 40
    slopes = random.normal(size=(count, 8, 6))
    slopes -= slopes.mean(axis=1, keepdims=True)  # 0 is a mean of the slopes at the minimum, 0
    slopes /= np.linalg.norm(slopes, axis=2).max(axis=1)[:, None, None]
    starts = random.normal(size=(count, 6))
    starts /= np.linalg.norm(starts, axis=1, keepdims=True)

    def gap(rate, slopes, start):
        subgradient = lambda x: slopes[jnp.argmax(slopes @ x)]  # noqa: E731
        return jnp.max(slopes @ last(SHAPES[name](rate, steps), subgradient, start, steps))

    rates = np.geomspace(0.01, 2.0, 12)
    gaps = jax.jit(jax.vmap(lambda rate: jax.vmap(lambda a, x: gap(rate, a, x))(jnp.asarray(slopes), jnp.asarray(starts))))(rates)
    bounds = jax.jit(jax.vmap(lambda rate: schedules.bound(SHAPES[name](rate, steps), steps)))(rates)
    assert np.all(gaps <= bounds[:, None])
    assert gaps.max() > 0.05


def test_bound_is_differentiated_through_the_schedule():
    value, width = jax.jit(lambda rate: schedules.bound(schedules.cosine(rate, 50), 50, 2.0, 3.0)), 1e-5
    np.testing.assert_allclose(jax.jit(jax.grad(value))(0.15), (value(0.15 + width) - value(0.15 - width)) / (2 * width), rtol=1e-5)


def test_bound_of_steps_of_zero_is_that_of_the_start():
    np.testing.assert_allclose(schedules.bound(0.0, 10, 2.0, 3.0), 6.0, rtol=1e-6)


def test_bound_in_single_precision():
    with jax.enable_x64(False):
        np.testing.assert_allclose(schedules.bound(schedules.minimax(1.0, 1.0, 100), 100), 0.0995037, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.bound(0.1, 10, -1.0), "distance=1.0"),
        (lambda: schedules.bound(0.1, 10, lipschitz=0.0), "lipschitz=1.0"),
        (lambda: schedules.bound(0.1, 10.0), "steps=100"),
        (lambda: schedules.bound(-0.1, 10), "learning_rate"),
        (lambda: schedules.minimax(0.0, 1.0, 10), "distance=1.0"),
        (lambda: schedules.minimax(1.0, 1.0, 0), "steps=100"),
    ],
)
def test_says_what_is_wrong_with_its_arguments(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
