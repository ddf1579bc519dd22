"""Many starts: the minima of a function that are known, how many starts found each, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import Status


def wells(x):
    """Minima near −1 (lower) and 1."""
    return jnp.sum((x**2 - 1.0) ** 2 + 0.3 * x)


def descend(x):
    return gdjax.minimize(wells, x, gdjax.gd(0.05))


def uniform(key):
    return jax.random.uniform(key, (), minval=-2.0, maxval=2.0)


def test_the_minima_and_the_starts_that_found_them():
    found = gdjax.multistart(descend, uniform, 64, key=0)
    roots = np.roots([4, 0, -4, 0.3])
    low, high = roots.min(), roots.max()
    peak = np.median(roots)
    assert len(found) == 2
    np.testing.assert_allclose([each.params for each in found.minima], [low, high], atol=1e-3)
    np.testing.assert_allclose([each.value for each in found.minima], [(r**2 - 1) ** 2 + 0.3 * r for r in (low, high)], atol=1e-5)
    # Gradient descent from x goes to the minimum on its side of the maximum between them.
    assert found.minima[0].count == int((np.asarray(found.starts) < peak).sum())
    assert sum(each.count for each in found.minima) == 64
    assert found.best.status is Status.CONVERGED
    assert float(found.best.value) == found.minima[0].value
    for each in found.minima:
        assert len(each.lanes) == each.count
        np.testing.assert_allclose(found.results.params[each.lanes], each.params, atol=1e-3)
    assert "64 starts, 2 distinct minima, 0 failed" in str(found)
    assert len(found.table().splitlines()) == 3


def test_lanes_are_the_runs_by_themselves_and_follow_the_key():
    found, again, other = (gdjax.multistart(descend, uniform, 5, key=k) for k in (0, jax.random.key(0), 1))
    np.testing.assert_array_equal(found.starts, again.starts)
    assert not np.array_equal(found.starts, other.starts)
    for lane in range(5):
        np.testing.assert_allclose(found.results.params[lane], descend(found.starts[lane]).params, atol=1e-4)


def test_many_minima_are_all_found_and_sorted():
    rastrigin = lambda x: 20 + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x))  # noqa: E731
    start = lambda key: jax.random.uniform(key, (2,), minval=-2.5, maxval=2.5)  # noqa: E731
    found = gdjax.multistart(lambda x: gdjax.minimize(rastrigin, x, gdjax.gd(0.002)), start, 300, key=0)
    assert found.minima[0].value < 1e-4
    np.testing.assert_allclose(found.minima[0].params, 0, atol=1e-3)
    values = [each.value for each in found.minima]
    assert values == sorted(values)
    # 25 minima lie in the box, one in each cell of the integers, and starts on the edges may reach the next ones outside.
    assert 25 <= len(found) <= 36
    cells = {tuple(np.round(np.asarray(each.params)).astype(int).tolist()) for each in found.minima}
    assert len(cells) == len(found)


def test_what_is_the_same_is_for_the_user_to_say():
    square = lambda x: jnp.sum((x**2 - 1.0) ** 2)  # noqa: E731
    start = lambda key: jax.random.normal(key, (2,))  # noqa: E731
    run = lambda x: gdjax.minimize(square, x, gdjax.gd(0.05))  # noqa: E731
    assert len(gdjax.multistart(run, start, 40, key=0)) == 4
    assert len(gdjax.multistart(run, start, 40, key=0, compare=lambda x: x**2)) == 1
    assert len(gdjax.multistart(run, start, 40, key=0, tolerance=100.0)) == 1


def test_runs_that_fail_are_no_minima():
    cliff = lambda x: jnp.where(x > 0, (x - 1.0) ** 2, jnp.inf)  # noqa: E731
    run = lambda x: gdjax.minimize(cliff, x, gdjax.gd(0.1))  # noqa: E731
    found = gdjax.multistart(run, uniform, 40, key=0)
    assert found.failed == int((np.asarray(found.starts) <= 0).sum()) > 5
    assert len(found) == 1
    with pytest.raises(ValueError, match="all 3 runs failed"):
        gdjax.multistart(run, lambda key: -1.0 - uniform(key) ** 2, 3, key=0)


def test_pytrees_fits_and_blocks():
    x = jnp.linspace(-1, 1, 40)
    net = lambda p, batch: jnp.mean((jnp.tanh(batch * p["a"]) @ p["b"] - jnp.sign(batch[:, 0])) ** 2)  # noqa: E731
    start = lambda key: {"a": jax.random.normal(key, (1, 2)), "b": jnp.ones((2,))}  # noqa: E731
    run = lambda p: gdjax.fit(net, p, x[:, None], gdjax.sgd(0.1), batch_size=8, epochs=2, key=0)  # noqa: E731
    whole, parts = (gdjax.multistart(run, start, 10, key=0, block=block) for block in (None, 4))
    np.testing.assert_allclose(whole.results.value, parts.results.value, rtol=1e-4)
    assert whole.results.params["a"].shape == (10, 1, 2)


def test_params_that_are_lists():
    start = lambda key: [(jax.random.normal(key, (2, 2)), jnp.zeros(2)), jax.random.normal(key, ())]  # noqa: E731
    bowl = lambda p: jnp.sum(p[0][0] ** 2) + jnp.sum((p[0][1] - 1) ** 2) + p[1] ** 2  # noqa: E731
    found = gdjax.multistart(lambda p: gdjax.minimize(bowl, p, gdjax.gd(0.1)), start, 5, key=0)
    assert len(found) == 1
    np.testing.assert_allclose(found.best.params[0][1], 1, atol=1e-4)


BAD = [
    (lambda: gdjax.multistart(descend, uniform, 5, key=0, compare=3), TypeError, "compare"),
    (lambda: gdjax.multistart(descend, uniform, 0, key=0), ValueError, "count"),
    (lambda: gdjax.multistart(descend, uniform, 5, key=None), ValueError, "key"),
    (lambda: gdjax.multistart(descend, jnp.zeros(3), 5, key=0), TypeError, "params_sampler"),
    (lambda: gdjax.multistart(descend, uniform, 5, key=0, tolerance=0), ValueError, "tolerance"),
    (lambda: gdjax.multistart(lambda x: descend(x).value, uniform, 5, key=0), TypeError, "Result"),
    (lambda: gdjax.multistart(None, uniform, 5, key=0), TypeError, "run"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
