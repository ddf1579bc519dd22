"""Variance reduction: the contractions of the papers, in exact expectation over the next example, and their rates along runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.parts.examples import Examples, Table
from gdjax.rules.loopless_svrg import LooplessSVRGState
from gdjax.rules.saga import SAGAState

pytestmark = pytest.mark.usefixtures("x64")
N, D = 7, 3


def example_loss(x, example):
    hessian, centre = example
    return (x - centre) @ hessian @ (x - centre) / 2


def problem(seed, low, high):
    """(Hᵢ, cᵢ) with the eigenvalues of each Hᵢ in [low, high], both attained, and the minimum of the mean."""
    draw = np.random.default_rng(seed)
    bases = np.linalg.qr(draw.normal(size=(N, D, D)))[0]
    curvatures = np.stack([np.append(draw.uniform(low, high, D - 2), [low, high]) for _ in range(N)])
    hessians, centres = np.einsum("nij,nj,nkj->nik", bases, curvatures, bases), draw.normal(size=(N, D)) * 2 + 1
    minimum = np.linalg.solve(hessians.sum(0), np.einsum("nij,nj->i", hessians, centres))
    return (jnp.asarray(hessians), jnp.asarray(centres)), jnp.asarray(minimum), draw


def gradients(data, points):
    """∇fᵢ at a point of each example's own."""
    return jax.vmap(jax.grad(example_loss))(jnp.broadcast_to(points, (N, D)), data)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("low", [0.05, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_saga_contracts_its_lyapunov_function(seed, low):
    """Defazio et al. 2014, theorem 1, fᵢ μ-strongly convex and L-smooth, h = 1/(2(μn + L)):  E V₊ ≤ (1 − hμ) V,

    V = 1/n Σ (fᵢ(φᵢ) − fᵢ(x⋆) − ⟨∇fᵢ(x⋆), φᵢ − x⋆⟩) + c ‖x − x⋆‖²,  c = 1/(2h(1 − hμ)n); at any x and any points φᵢ behind the table.
    """
    high = 2.0
    data, minimum, draw = problem(seed, low, high)
    h = 1 / (2 * (low * N + high))
    c = 1 / (2 * h * (1 - h * low) * N)
    rule = gdjax.saga(h)

    def lyapunov(x, points):
        at_minimum = gradients(data, minimum)
        losses = jax.vmap(example_loss)(points, data) - jax.vmap(example_loss, (None, 0))(minimum, data)
        return jnp.mean(losses - jnp.sum(at_minimum * (points - minimum[None]), 1)) + c * jnp.sum((x - minimum) ** 2)

    @jax.vmap
    def ratio(x, points):
        table = gradients(data, points)
        state = SAGAState(jnp.int32(3), Table(table), jnp.mean(table, 0), None)

        def after(index):
            one = Examples(example_loss, None, jax.tree.map(lambda leaf: leaf[index][None], data))
            updates, new = rule.update(None, state, x, examples=one, indices=index[None], num_examples=N, batch_size=1)
            stored = points.at[index].set(x)
            return lyapunov(x + updates, stored), jnp.max(jnp.abs(new.table.rows - gradients(data, stored)))

        values, apart = jax.vmap(after)(jnp.arange(N))
        return jnp.mean(values) / lyapunov(x, points), jnp.max(apart)

    ratios, apart = ratio(jnp.asarray(draw.normal(size=(400, D)) * 3), jnp.asarray(draw.normal(size=(400, N, D)) * 3))
    assert jnp.max(apart) < 1e-13
    assert jnp.max(ratios) <= 1 - h * low + 1e-12
    assert jnp.max(ratios) > 1 - 12 * h * low  # not an empty statement: some states contract by little more


@pytest.mark.parametrize("probability", [1 / N, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_loopless_svrg_contracts_its_lyapunov_function(seed, probability):
    """Kovalev, Horváth, Richtárik 2020, theorem 5, h = 1/(6L):  E Ψ₊ ≤ (1 − min{hμ, p/2}) Ψ,  Ψ = ‖x − x⋆‖² + 4h²/(pn) Σ ‖∇fᵢ(w) − ∇fᵢ(x⋆)‖²."""
    low, high = 0.2, 2.0
    data, minimum, draw = problem(seed + 10, low, high)
    h, p = 1 / (6 * high), probability
    rule = gdjax.loopless_svrg(h, p)

    def lyapunov(x, snapshot):
        return jnp.sum((x - minimum) ** 2) + 4 * h**2 / (p * N) * jnp.sum((gradients(data, snapshot) - gradients(data, minimum)) ** 2)

    def full(x):
        return jnp.nan, jnp.mean(gradients(data, x), 0)

    @jax.vmap
    def ratio(x, snapshot):
        def after(index, heads):
            one = jax.tree.map(lambda leaf: leaf[index], data)
            grad = lambda x: (jnp.nan, jax.grad(example_loss)(x, one))  # noqa: E731
            zero, refresh = jnp.int32(0), jnp.where(heads, 3, 4).astype(jnp.int32)
            state = LooplessSVRGState(zero + 3, zero, refresh, jnp.zeros(2, jnp.uint32), snapshot, full(snapshot)[1], None)
            offered = dict(num_examples=N, batch_size=1, value_and_grad_fn=grad, full_value_and_grad_fn=full)
            updates, new = rule.update(grad(x)[1], state, x, **offered)
            return lyapunov(x + updates, new.snapshot)

        heads, tails = (jnp.mean(jax.vmap(lambda index, side=side: after(index, side))(jnp.arange(N))) for side in (jnp.bool_(True), jnp.bool_(False)))
        return (p * heads + (1 - p) * tails) / lyapunov(x, snapshot)

    ratios = ratio(jnp.asarray(draw.normal(size=(400, D)) * 3), jnp.asarray(draw.normal(size=(400, D)) * 3))
    assert jnp.max(ratios) <= 1 - min(h * low, p / 2) + 1e-12
    assert jnp.max(ratios) > 0.5


def runs(rule, data, steps, seeds=8, start=3.0, **options):
    """The last points of runs with different orders, rows drawn independently."""
    loss = gdjax.finite_sum(example_loss)
    one = lambda key: gdjax.fit(loss, jnp.full(D, start), data, rule, batch_size=1, steps=steps, key=key, shuffle="replacement", history=(), **options).params  # noqa: E731
    return jax.vmap(one)(jax.random.split(jax.random.key(1), seeds))


def gap(data, x):
    return jnp.mean(jax.vmap(example_loss, (None, 0))(x, data))


RULES = {
    # name: (rule of L and μ, factor per step of the bound on E[f − f⋆] or E‖x − x⋆‖²)
    "saga, 1/(3L)": (lambda L, mu: gdjax.saga(1 / (3 * L)), lambda L, mu: 1 - min(1 / (4 * N), mu / (3 * L))),
    "sag, 1/(16L)": (lambda L, mu: gdjax.sag(1 / (16 * L)), lambda L, mu: 1 - min(1 / (8 * N), mu / (16 * L))),
    "sag, measured L": (lambda L, mu: gdjax.sag(), lambda L, mu: 1 - min(1 / (8 * N), mu / (16 * L))),
    "loopless svrg, 1/(6L)": (lambda L, mu: gdjax.loopless_svrg(1 / (6 * L)), lambda L, mu: 1 - min(mu / (6 * L), 1 / (2 * N))),
    # m = 20 L/μ and h = 1/(10L), with which Johnson and Zhang's factor of a period is 1/(μh(1 − 2Lh)m) + 2Lh/(1 − 2Lh) = 7/8.
    "svrg, 1/(10L)": (lambda L, mu: gdjax.svrg(1 / (10 * L), int(20 * L / mu)), lambda L, mu: (7 / 8) ** (mu / (20 * L))),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", RULES)
def test_rates_along_runs(name):
    """From step 200 to step 600 the mean gap over 8 orders falls at least as fast as its bound."""
    low, high = 0.4, 2.0
    data, minimum, _ = problem(5, low, high)
    make, factor = RULES[name]
    best, rule, rate = gap(data, minimum), make(high, low), factor(high, low)
    early, late = (jnp.mean(jax.vmap(lambda x: gap(data, x) - best)(runs(rule, data, steps))) for steps in (200, 600))
    assert early > 0
    assert late <= max(early * rate**400, 1e-13)


def test_page_finds_stationary_points_of_a_loss_that_is_not_convex():
    """Li et al. 2021, theorem 1: the mean of E‖∇f‖² over N steps is at most 2(f(x₀) − f⋆)/(hN), h = 1/(L(1 + √((1 − p)/(pb))))."""
    data, _, _ = problem(6, 0.2, 1.0)
    waves = lambda x, example: example_loss(x, example) + jnp.sum(jnp.cos(x * jnp.arange(1.0, D + 1)) / jnp.arange(1.0, D + 1) ** 2)  # noqa: E731
    smoothness, p, steps, start = 2.0, 1 / (N + 1), 60, jnp.full(D, 3.0)
    f = lambda x: jnp.mean(jax.vmap(waves, (None, 0))(x, data))  # noqa: E731
    h = 1 / (smoothness * (1 + np.sqrt((1 - p) / p)))

    rule = gdjax.page(h)

    def squares(key):
        begin = rule.init(start, num_examples=N, batch_size=1, key=key)

        def step(carry, index):
            x, state = carry
            one = jax.tree.map(lambda leaf: leaf[index], data)
            grad = lambda x: (jnp.nan, jax.grad(waves)(x, one))  # noqa: E731
            offered = dict(num_examples=N, batch_size=1, value_and_grad_fn=grad, full_value_and_grad_fn=lambda x: (jnp.nan, jax.grad(f)(x)))
            updates, state = rule.update(grad(x)[1], state, x, **offered)
            return (x + updates, state), jnp.sum(jax.grad(f)(x) ** 2)

        return jax.lax.scan(step, (start, begin), jax.random.randint(key, (steps,), 0, N))[1]

    found = jnp.mean(jax.vmap(squares)(jax.random.split(jax.random.key(2), 30)))
    least = min(float(f(jnp.asarray(x))) for x in np.random.default_rng(0).normal(size=(200, D)) * 2)  # f⋆ is at most this, so the bound below is no looser
    assert found <= 2 * (f(start) - least) / (h * steps)
