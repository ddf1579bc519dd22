"""Steepest descent in norms, normalized and clipped gradients: what each step must gain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorems.worst_cases import descend, huber, iterates, quadratic

import gdjax

pytestmark = pytest.mark.usefixtures("x64")

RANDOM = np.random.default_rng(0)
ROOT = RANDOM.normal(size=(12, 12))
HESSIAN = ROOT @ ROOT.T / 12
CENTRE = RANDOM.normal(size=12)
START = {"matrix": RANDOM.normal(size=(4, 2)) * 3, "vector": RANDOM.normal(size=4) * 3}


def flat(params):
    return jnp.concatenate([params["matrix"].ravel(), params["vector"]])


def loss(params):
    x = flat(params) - CENTRE
    return x @ (HESSIAN @ x) / 2


def dual_norm(grads, norm):
    g = np.asarray(flat(grads))
    if norm == "spectral":
        return np.linalg.svd(np.asarray(grads["matrix"]), compute_uv=False).sum() + np.linalg.norm(grads["vector"])
    return {"l2": np.linalg.norm(g), "linf": np.abs(g).sum(), "l1": np.abs(g).max()}[norm]


def signs():
    return np.array(np.meshgrid(*[[-1.0, 1.0]] * 12)).reshape(12, -1)


# The largest ‖H d‖⁎ over ‖d‖ = 1; for "spectral" a bound: the dual norm is at most √3 times the Euclidean one (rank 2 and 1), as is the Euclidean of d.
SMOOTHNESS = {
    "l2": np.linalg.eigvalsh(HESSIAN)[-1],
    "linf": np.einsum("in,ij,jn->n", signs(), HESSIAN, signs()).max(),
    "l1": np.abs(HESSIAN).max(),
    "spectral": 3 * np.linalg.eigvalsh(HESSIAN)[-1],
}


@pytest.mark.parametrize("norm", SMOOTHNESS)
def test_a_scaled_step_gains_the_square_of_the_dual_norm(norm):
    """f(x₊) ≤ f(x) − ‖g‖⁎²/(2L) at h = 1/L, L the smoothness in that norm."""
    points = iterates(gdjax.steepest(1 / SMOOTHNESS[norm], norm), loss, START, 30)[0]
    for k in range(30):
        before, after = (jax.tree.map(lambda leaf, k=k: leaf[k], points) for k in (k, k + 1))
        gain = dual_norm(jax.grad(loss)(before), norm) ** 2 / (2 * SMOOTHNESS[norm])
        assert loss(after) <= loss(before) - gain * (1 - 1e-10)


@pytest.mark.parametrize("norm", SMOOTHNESS)
def test_an_unscaled_step_has_length_one_and_goes_steepest(norm):
    grads = jax.grad(loss)(START)
    rule = gdjax.steepest(1.0, norm, scaled=False)
    updates = rule.update(grads, rule.init(START))[0]
    x = np.asarray(flat(updates))
    lengths = {"l2": np.linalg.norm(x), "linf": np.abs(x).max(), "l1": np.abs(x).sum()}
    spectral = max(np.linalg.norm(np.asarray(updates["matrix"]), 2), np.linalg.norm(updates["vector"]))
    np.testing.assert_allclose(lengths.get(norm, spectral), 1, rtol=1e-12)
    np.testing.assert_allclose(-jnp.vdot(flat(grads), x), dual_norm(grads, norm), rtol=1e-12)


def test_the_worst_function_of_a_norm_is_met_with_equality():
    """(Σx)²/2 is 1-smooth in Σ|x| and n²-smooth in max |x|; the gain is ‖g‖⁎²/(2L) exactly, all there is."""
    whole = lambda x: jnp.sum(x) ** 2 / 2  # noqa: E731
    x = jnp.array([1.0, 2.0, -0.5])
    for norm, smoothness in (("linf", 9.0), ("l1", 1.0)):
        after = iterates(gdjax.steepest(1 / smoothness, norm), whole, x, 1)[0][1]
        np.testing.assert_allclose(whole(after), 0.0, atol=1e-15)
        dual = 3 * 2.5 if norm == "linf" else 2.5
        np.testing.assert_allclose(whole(x) - whole(after), dual**2 / (2 * smoothness), rtol=1e-14)


def test_spectral_descent_takes_matrices_of_lower_rank_and_of_more_axes():
    matrix = np.outer([1.0, 2.0, 2.0], [3.0, 4.0])
    rule = gdjax.steepest(1.0, "spectral", scaled=False)
    np.testing.assert_allclose(rule.update(jnp.asarray(matrix), rule.init(matrix))[0], -matrix / 15, atol=1e-14)
    np.testing.assert_array_equal(rule.update(jnp.zeros((3, 2)), rule.init(matrix))[0], np.zeros((3, 2)))
    kernel = RANDOM.normal(size=(3, 2, 2))
    flat_update = rule.update(jnp.asarray(kernel.reshape(3, 4)), rule.init(kernel))[0]
    np.testing.assert_allclose(rule.update(jnp.asarray(kernel), rule.init(kernel))[0], flat_update.reshape(3, 2, 2), atol=1e-14)


@pytest.mark.parametrize("kink", [0.01, 0.1, 1.0, 5.0])
def test_normalized_steps_keep_their_bound(kink):
    """Nesterov 2004: at h = R/√N the least f − f⋆ is at most L R²/(2N) if L-smooth and G R/√N if ‖g‖ ≤ G, with neither known."""
    radius, steps = 2.0, 50
    for start in (np.array([2.0, 0.0]), np.array([1.2, -1.6])):
        points = iterates(gdjax.normalized(radius / np.sqrt(steps)), lambda x: jnp.sum(huber(x, kink)), start, steps)[0][:-1]
        best = jax.vmap(lambda x: jnp.sum(huber(x, kink)))(points).min()
        assert best <= min(radius**2 / (2 * steps), kink * np.sqrt(2) * radius / np.sqrt(steps))


def test_normalized_bound_holds_for_schedules_of_every_scale():
    for scale in (0.05, 0.3, 2.0):
        schedule, steps = gdjax.schedules.linear(scale, 0.0, 40), 40
        h = np.asarray(schedule(jnp.arange(steps)))
        points = iterates(gdjax.normalized(schedule), quadratic([1.0, 0.1], [1.0, -3.0]), np.zeros(2), steps)[0][:-1]
        best = jax.vmap(quadratic([1.0, 0.1], [1.0, -3.0]))(points).min()
        assert best <= ((10 + np.sum(h**2)) / (2 * np.sum(h))) ** 2 / 2


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 10.0])
def test_clipped_steps_gain_what_they_should(max_norm):
    """f(x₊) ≤ f(x) − (h/2)‖g‖ min{‖g‖, c} for h ≤ 1/L; and no step is longer than h c."""
    smooth, rate = quadratic([2.0, 0.3, 0.7], [1.0, -2.0, 0.5]), 0.5
    points = iterates(gdjax.clipped(rate, max_norm), smooth, np.array([4.0, 3.0, -6.0]), 40)[0]
    norms = jnp.linalg.norm(jax.vmap(jax.grad(smooth))(points), axis=1)
    values = jax.vmap(smooth)(points)
    assert jnp.all(values[1:] <= values[:-1] - (rate / 2 * norms * jnp.minimum(norms, max_norm))[:-1] + 1e-13)
    assert jnp.linalg.norm(jnp.diff(points, axis=0), axis=1).max() <= rate * max_norm * (1 + 1e-12)


def test_clipping_survives_a_cliff():
    """From 5 on x⁴ a constant learning rate that suits the minimum diverges; clipped it arrives."""
    gradient = lambda x: 4 * x**3  # noqa: E731
    assert abs(descend(gdjax.clipped(0.1, 2.0), gradient, 5.0, 400)) < 0.2
    assert not abs(descend(gdjax.gd(0.1), gradient, 5.0, 400)) < 1e3
