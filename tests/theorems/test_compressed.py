"""Compressed gradients with error feedback: convergence at the proved rates, also where compression alone fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorems.worst_cases import iterates

import gdjax

pytestmark = pytest.mark.usefixtures("x64")

RANDOM = np.random.default_rng(5)
SIZE = 12


def curved(eigenvalues):
    """A quadratic with these curvatures, in a random basis, and its minimum."""
    basis = np.linalg.qr(RANDOM.normal(size=(SIZE, SIZE)))[0]
    hessian, minimum = basis @ np.diag(eigenvalues) @ basis.T, RANDOM.normal(size=SIZE)
    return lambda x: (x - minimum) @ (jnp.asarray(hessian) @ (x - minimum)) / 2


def states(rule, loss, x, steps):
    """(params, state) before the first step and after each."""
    state, seen, update = rule.init(x), [], jax.jit(rule.update)
    for _ in range(steps):
        updates, after = update(jax.grad(loss)(x), state, x)
        seen.append((x, after))
        x, state = x + updates, after
    return seen


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kept", [1, 4, 0.75, 12])
def test_ef21_shrinks_its_potential_linearly(kept):
    """Theorem 2: f − f⋆ + (h/θ)‖w − ∇f‖² by 1 − hμ at every step, at the largest learning rate allowed."""
    eigenvalues = np.geomspace(0.05, 2.0, SIZE)
    loss, smoothness, convexity = curved(eigenvalues), 2.0, 0.05
    alpha = (kept if isinstance(kept, int) else kept * SIZE) / SIZE
    theta = 1 - np.sqrt(1 - alpha)
    beta = (1 - alpha) / theta
    h = min(1 / (smoothness * (1 + np.sqrt(2 * beta / theta))), theta / (2 * convexity))
    seen = states(gdjax.ef21(gdjax.gd(h), kept), loss, jnp.zeros(SIZE), 40)
    potentials = [loss(x) + h / theta * jnp.sum((state.estimate - jax.grad(loss)(x)) ** 2) for x, state in seen]
    assert np.all(np.asarray(potentials[1:]) <= (1 - h * convexity) * np.asarray(potentials[:-1]) * (1 + 1e-12))


@pytest.mark.parametrize("kept", [1, 3])
def test_ef21_keeps_its_bound_where_the_loss_is_not_convex(kept):
    """Theorem 1: the mean of ‖∇f‖² over N steps is at most 2(f(x₀) − f⋆)/(hN) + ‖w₀ − ∇f(x₀)‖²/(θN)."""
    loss, smoothness, steps = lambda x: jnp.sum(jnp.arange(1.0, 1 + SIZE) / 6 * (x**2 / 2 + 1.5 * jnp.cos(x))), 2 * 2.5, 60
    alpha = kept / SIZE
    theta = 1 - np.sqrt(1 - alpha)
    h = 1 / (smoothness * (1 + np.sqrt((1 - alpha) / theta**2)))
    start = jnp.asarray(RANDOM.normal(size=SIZE) * 3)
    lowest = jnp.sum(jnp.arange(1.0, 1 + SIZE) / 6) * min(x**2 / 2 + 1.5 * np.cos(x) for x in np.linspace(0, 3, 3001))
    seen = states(gdjax.ef21(gdjax.gd(h), kept), loss, start, steps)
    first = jnp.sum((seen[0][1].estimate - jax.grad(loss)(start)) ** 2)
    mean = np.mean([jnp.sum(jax.grad(loss)(x) ** 2) for x, _ in seen])
    assert mean <= 2 * (loss(start) - lowest) / (h * steps) + first / (theta * steps)


def test_ef21_converges_where_top_k_alone_does_not():
    """Beznosikov et al. 2020, Example 1, by three workers whose gradients are compressed each by itself: it leads away; EF21 on each converges."""
    slopes = np.array([[-3.0, 2.0, 2.0], [2.0, -3.0, 2.0], [2.0, 2.0, -3.0]])
    workers = [lambda x, a=a: jnp.vdot(a, x) ** 2 + jnp.vdot(x, x) / 4 for a in slopes]
    gradients, rule = jax.jit(lambda x: [jax.grad(f)(x) for f in workers]), gdjax.ef21(gdjax.gd(0.01), kept=1)
    alone = feedback = jnp.ones(3)
    memory = [rule.init(alone) for _ in workers]
    for _ in range(200):
        alone = alone - 0.01 * sum(jnp.where(jnp.abs(g) == jnp.max(jnp.abs(g)), g, 0) for g in gradients(alone)) / 3
        sent, memory = zip(*(rule.update(g, state) for g, state in zip(gradients(feedback), memory, strict=True)), strict=True)
        feedback = feedback + sum(sent) / 3
    assert jnp.linalg.norm(alone) > jnp.sqrt(3)
    assert jnp.linalg.norm(feedback) < 0.7


def test_sign_error_feedback_converges_where_sign_descent_is_stuck():
    """Karimireddy et al. 2019, Counterexample 2: ε|x₁ + x₂| + |x₁ − x₂|. All signs of the subgradient are ±(1, −1): x₁ + x₂ never changes."""
    loss = lambda x: 0.5 * jnp.abs(x[0] + x[1]) + jnp.abs(x[0] - x[1])  # noqa: E731
    schedule = gdjax.schedules.inverse_sqrt(0.1)
    start = jnp.array([1.0, 0.6])
    signs = iterates(gdjax.steepest(schedule, "linf", scaled=False), loss, start, 2000)[0]
    np.testing.assert_allclose(signs.sum(axis=1), 1.6, atol=1e-9)
    assert jax.vmap(loss)(signs).min() >= 0.5 * 1.6 - 1e-9
    assert loss(iterates(gdjax.sign_error_feedback(schedule), loss, start, 2000)[0][-1]) < 0.02


def test_sign_error_feedback_keeps_its_bounds():
    """‖e‖² ≤ 4(1 − δ)h²G²/δ², and the mean of ‖∇f‖² at most 2(f(x₀) − f⋆)/(hN) + hLG² + 4(1 − δ)h²L²G²/δ²; the real iterate x − e is plain descent."""
    loss, h, steps = curved(np.geomspace(0.05, 2.0, SIZE)), 0.05, 300
    seen = states(gdjax.sign_error_feedback(h), loss, jnp.zeros(SIZE), steps)
    grads = np.stack([jax.grad(loss)(x) for x, _ in seen])
    errors = np.stack([np.zeros(SIZE), *(state.error for _, state in seen)])
    wanted = h * grads + errors[:-1]
    delta = np.min(np.abs(wanted).sum(axis=1) ** 2 / (SIZE * np.sum(wanted**2, axis=1)))
    most = np.sum(grads**2, axis=1).max()
    assert np.sum(errors**2, axis=1).max() <= 4 * (1 - delta) * h**2 * most / delta**2
    bound = 2 * loss(jnp.zeros(SIZE)) / (h * steps) + h * 2.0 * most + 4 * (1 - delta) * h**2 * 4.0 * most / delta**2
    assert np.mean(np.sum(grads**2, axis=1)) <= bound
    points = np.stack([x for x, _ in seen])
    np.testing.assert_allclose(points[1:] - errors[1:-1], points[:-1] - errors[:-2] - h * grads[:-1], atol=1e-12)


def test_updates_are_as_small_to_send_as_they_claim():
    """One number for each leaf and signs; k entries more than before."""
    params = {"a": jnp.zeros(7), "b": jnp.zeros((2, 2))}
    grads = jax.tree.map(lambda x: jnp.asarray(RANDOM.normal(size=x.shape)), params)
    updates, _ = gdjax.sign_error_feedback(0.1).update(grads, gdjax.sign_error_feedback(0.1).init(params))
    assert all(len(np.unique(np.abs(x))) == 1 for x in jax.tree.leaves(updates))
    for kept, count in ((3, 3), (0.3, 3), (1.0, 11), (100, 11), (1e-9, 1)):
        rule = gdjax.ef21(gdjax.gd(0.1), kept)
        _, state = rule.update(grads, rule.init(params))
        assert sum(np.count_nonzero(x) for x in jax.tree.leaves(state.estimate)) == count
    ties = gdjax.ef21(gdjax.gd(0.1), 2)
    np.testing.assert_array_equal(ties.update(jnp.array([1.0, -1.0, 1.0, 0.5]), ties.init(jnp.zeros(4)))[1].estimate, [1.0, -1.0, 0.0, 0.0])
    broken = gdjax.ef21(gdjax.gd(0.1), 3).update(jnp.array([1.0, jnp.nan, jnp.inf, 0.5]), ties.init(jnp.zeros(4)))[1].estimate
    np.testing.assert_array_equal(broken, [1.0, 0.0, 0.0, 0.5])


@pytest.mark.parametrize("kept", [0, 0.0, 1.5, -1, float("nan")])
def test_ef21_says_what_may_be_kept(kept):
    with pytest.raises(ValueError, match=r"share in \(0, 1\]"):
        gdjax.ef21(gdjax.gd(0.1), kept)
