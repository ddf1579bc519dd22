"""Step sizes that accelerate gradient descent: silver, anytime and long steps against what is proved of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorems.worst_cases import descend, huber

import gdjax
from gdjax import schedules

pytestmark = pytest.mark.usefixtures("x64")

SILVER = 1 + np.sqrt(2)
KINKS = np.geomspace(1e-5, 1.0, 2000)
CURVATURES = np.concatenate([np.linspace(0, 1, 2001)[1:], np.geomspace(1e-6, 1, 500)])


def steps_of(schedule, count):
    return np.asarray(jax.vmap(schedule)(jnp.arange(count)))


def worst(steps):
    """sup f(x_N) − f⋆ over 1-smooth Huber functions and quadratics from distance 1, by the steps alone, in NumPy."""
    x, quadratics = np.ones_like(KINKS), np.ones_like(CURVATURES)
    for step in steps:
        x = x - step * np.clip(x, -KINKS, KINKS)
        quadratics = quadratics * (1 - step * CURVATURES)
    hubers = np.where(np.abs(x) <= KINKS, x**2 / 2, KINKS * np.abs(x) - KINKS**2 / 2)
    return max(hubers.max(), (CURVATURES * quadratics**2 / 2).max())


def attained(steps):
    """f(x_N) − f⋆ of gradient descent on the Huber function with the kink at R/(1 + 2 Σh) and on x²/2, by the library."""
    rule = gdjax.gd(schedules.join([*map(float, steps), 1.0], list(range(1, len(steps) + 1))))
    kink = 1 / (1 + 2 * np.sum(steps))
    ends = descend(rule, jax.grad(lambda x: huber(x - 0.7, kink)), 1.7, len(steps)), descend(rule, lambda x: x + 2.0, -1.0, len(steps))
    return huber(ends[0] - 0.7, kink), (ends[1] + 2.0) ** 2 / 2


@pytest.mark.one_in(2)
@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_silver_bound_holds_at_the_ends_of_the_pattern(k):
    """Altschuler and Parrilo 2023: L R²/(1 + √(4ρ^{2k} − 3)) after 2^k − 1 steps; the worst Huber function is at L R²/(4ρ^k − 2)."""
    steps = steps_of(schedules.silver(1.0), 2**k - 1)
    bound = 1 / (1 + np.sqrt(4 * SILVER ** (2 * k) - 3))
    np.testing.assert_allclose(steps.sum(), SILVER**k - 1, rtol=1e-13)
    np.testing.assert_allclose(np.prod(steps - 1), SILVER**-k, rtol=1e-10)
    assert worst(steps) <= bound
    assert worst(steps) <= 1 / (4 * SILVER**k - 2) * (1 + 1e-12)
    if k < 6:
        np.testing.assert_allclose(attained(steps)[0], 1 / (4 * SILVER**k - 2), rtol=1e-11)


def test_silver_numbers():
    """N = 7: the bound is 0.0343775, the supremum over Huber functions 0.0184; N = 31: below 0.0031 and 0.0061, where constant steps are at 0.0079."""
    seven, thirty_one = (steps_of(schedules.silver(1.0), n) for n in (7, 31))
    np.testing.assert_allclose(1 / (1 + np.sqrt(4 * SILVER**6 - 3)), 0.0343775, atol=5e-8)
    np.testing.assert_allclose([worst(seven), worst(thirty_one)], [0.0184, 0.0031], atol=5e-5)
    np.testing.assert_allclose(1 / (1 + np.sqrt(4 * SILVER**10 - 3)), 0.0061, atol=5e-5)
    np.testing.assert_allclose(worst(np.ones(31)), 1 / (2 * 63), rtol=1e-3)


def test_silver_steps_are_exact_in_float32_and_far_out():
    with jax.enable_x64(False):
        schedule = schedules.silver(4.0)
        for count in (1, 2, 12, 2**20, 3 * 2**17, 2**30):
            valuation = (count & -count).bit_length() - 1
            np.testing.assert_allclose(schedule(jnp.int32(count - 1)), (1 + SILVER ** (valuation - 1)) / 4, rtol=2e-7)


def block_ends(count):
    """(steps taken, level) at the end of each block of the anytime schedule."""
    ends, done, level = [], 0, 1
    while done < count:
        for _ in range(int(2 * SILVER**level)):
            done += 2**level
            ends.append(done)
        level += 1
    return [end for end in ends if end <= count]


def test_anytime_bound_holds_at_the_end_of_each_block():
    """Zhang, Lee, Du and Chen 2024: R²/(2 Σh) L; exactly L R²/(2 (1 + 2 Σh)) on the worst Huber function."""
    steps = steps_of(schedules.anytime(1.0), 1400)
    for end in block_ends(1400)[::5]:
        assert worst(steps[:end]) <= 1 / (2 * (1 + 2 * steps[:end].sum())) * (1 + 1e-12) < 1 / (2 * steps[:end].sum())
    for end in block_ends(40)[::4]:
        np.testing.assert_allclose(attained(steps[:end])[0], 1 / (2 * (1 + 2 * steps[:end].sum())), rtol=1e-11)


def test_anytime_is_accelerated_wherever_it_is_stopped():
    """O(T^−1.119): the worst Huber functions and quadratics stay below T^−ϑ after every number of steps; silver steps and constant ones do not."""
    exponent = 2 * np.log2(SILVER) / (1 + np.log2(SILVER))
    assert exponent == pytest.approx(1.119, abs=1e-3)

    def scaled(steps):
        """sup f T^ϑ for each T."""
        x, quadratics, values = np.ones_like(KINKS), np.ones_like(CURVATURES), []
        for step in steps:
            x = x - step * np.clip(x, -KINKS, KINKS)
            quadratics = quadratics * (1 - step * CURVATURES)
            hubers = np.where(np.abs(x) <= KINKS, x**2 / 2, KINKS * np.abs(x) - KINKS**2 / 2)
            values.append(max(hubers.max(), (CURVATURES * quadratics**2 / 2).max()))
        return np.array(values) * np.arange(1, len(steps) + 1) ** exponent

    count = 4000
    anytime = scaled(steps_of(schedules.anytime(1.0), count))
    assert anytime.max() < 1
    assert anytime[2000:].max() <= 1.5 * anytime[:500].max(), "it does not grow with T"
    assert scaled(steps_of(schedules.silver(1.0), count)).max() > 10
    assert scaled(np.ones(count))[-1] > 0.6


def test_anytime_steps_are_right_at_the_ends_of_its_levels_and_after_them():
    """The first step of level j + 1 joins all before it to a block of the sum ρ^{j+1} − 1."""
    schedule, total, start = schedules.anytime(2.0), 0.0, 0
    for level in range(1, 10):
        block = SILVER**level - 1
        for count in range(int(2 * SILVER**level)):
            join = (np.sqrt((total + block + 2) ** 2 + 4 * (total + 1) * (block + 1)) - total - block) / 2
            if count in (0, 1, int(2 * SILVER**level) - 1):
                first = start + count * 2**level
                np.testing.assert_allclose(schedule(first), join / 2, rtol=1e-12)
                np.testing.assert_allclose(schedule(first + 2 ** (level - 1)), (1 + SILVER ** (level - 2)) / 2, rtol=1e-12)
            total += join + block
        start += int(2 * SILVER**level) * 2**level
    assert start > 3.5e6
    assert (schedule(start), schedule(2 * start)) == (0.5, 0.5)


# f(x_N) − f⋆ ≤ this · L R², the exact worst case by semidefinite programming (the performance estimation problem of these steps; 7 digits).
EXACT = {
    1: 0.1250000,
    2: 0.0659460,
    3: 0.0428932,
    4: 0.0311698,
    5: 0.0240707,
    6: 0.0195430,
    7: 0.0163311,
    8: 0.0139344,
    10: 0.0106223,
    12: 0.0084928,
    15: 0.0064793,
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("steps", [*EXACT, 31, 50, 100, 256])
def test_long_steps_attain_their_bound_on_a_huber_function_and_on_a_quadratic(steps):
    """Grimmer, Shu and Wang 2024: L R²/(2 (1 + 2 Σh)), and Π(h − 1)² the same number."""
    table = steps_of(schedules.long_steps(1.0, steps), steps)
    bound = 1 / (2 * (1 + 2 * table.sum()))
    np.testing.assert_allclose(np.prod(table - 1) ** 2 / 2, bound, rtol=1e-9)
    assert worst(table) <= bound * (1 + 1e-9)
    assert bound <= 0.2115 / steps**1.2715
    if steps in EXACT:
        np.testing.assert_allclose(bound, EXACT[steps], atol=5e-8)
        np.testing.assert_allclose(attained(table), [bound, bound], rtol=1e-11)


def test_long_steps_are_better_than_silver_and_anytime_steps():
    silver, anytime = steps_of(schedules.silver(1.0), 63), steps_of(schedules.anytime(1.0), 63)
    for steps in (3, 7, 31, 63):
        long = worst(steps_of(schedules.long_steps(1.0, steps), steps))
        assert long < 0.98 * worst(silver[:steps])
        assert long < worst(anytime[:steps])


def test_long_steps_are_the_best_of_their_length_nearby():
    """Any one step moved, and the worst of Huber functions and quadratics grows."""
    for steps in (2, 5, 9):
        table = steps_of(schedules.long_steps(1.0, steps), steps)
        for k in range(steps):
            for factor in (0.99, 1.01):
                assert worst(np.where(np.arange(steps) == k, factor * table, table)) > worst(table)


def test_after_the_horizon_long_steps_are_gradient_steps():
    schedule = schedules.long_steps(2.0, 20)
    assert [float(schedule(k)) for k in (20, 21, 1000)] == [0.5, 0.5, 0.5]
    assert schedule(19) != 0.5


@pytest.mark.parametrize("steps", [2.5, True, None, np.array([3, 4]), jnp.int32(3)], ids=str)
def test_a_table_wants_an_int(steps):
    for make in (lambda: schedules.long_steps(1.0, steps), lambda: schedules.chebyshev(1.0, 0.1, steps), lambda: gdjax.ogm_g(0.1, steps)):
        with pytest.raises(TypeError, match=r"steps is .*; wanted an int ≥ 1, the number of steps that will be taken: type steps=100"):
            make()
