"""Rules for weight matrices: what Newton and Schulz's iteration does to singular values, Muon's steps, and those of LARS."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import matrices as reference

import gdjax
from gdjax.parts.newton_schulz import newton_schulz, polynomials

pytestmark = pytest.mark.usefixtures("x64")
RANDOM = np.random.default_rng(7)


def with_values(values, rows, columns):
    """A matrix with these singular values."""
    left, right = (np.linalg.qr(RANDOM.normal(size=(n, n)))[0] for n in (rows, columns))
    return left[:, : len(values)] @ np.diag(values) @ right[: len(values)]


def test_five_steps_send_singular_values_near_one():
    """Every σ in [10⁻³, 1] into [0.470, 1.203], here on a dense grid; these bounds are attained to three digits."""
    x = np.geomspace(1e-3, 1, 200001)
    for a, b, c in polynomials("test", reference.QUINTIC, None):
        x = a * x + b * x**3 + c * x**5
    assert 0.470 <= x.min() < 0.4715
    assert 1.2015 < x.max() <= 1.203


@pytest.mark.parametrize("shape", [(12, 12), (12, 30), (30, 12)])
def test_newton_schulz_acts_on_singular_values_alone(shape):
    """NS(U S Vᵀ) = U p(S/‖S‖) Vᵀ with p the iterated polynomial."""
    values = np.geomspace(1e-3, 1, 12)
    matrix = with_values(values, *shape)
    x = values / (np.linalg.norm(values) + 1e-7)
    for _ in range(5):
        x = np.polyval([2.0315, 0, -4.7750, 0, 3.4445, 0], x)
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    expected = u @ np.diag(x[::-1]) @ v
    np.testing.assert_allclose(newton_schulz(matrix, dtype="float64"), expected, atol=1e-12)
    np.testing.assert_allclose(newton_schulz(matrix.T, dtype="float64").T, expected, atol=1e-12)


def test_bfloat16_keeps_singular_values_near_one():
    """Of matrices whose singular values are no less than a fiftieth of their norm; smaller ones drown in the rounding of X to eight bits."""
    for shape in ((12, 12), (12, 30), (64, 16)):
        values = np.geomspace(0.15, 1, 12)
        assert values[0] / np.linalg.norm(values) > 0.02
        made = np.linalg.svd(np.asarray(newton_schulz(with_values(values, *shape)), np.float64), compute_uv=False)[:12]
        assert 0.42 < made.min() <= made.max() < 1.25


def test_newton_schulz_converges_to_the_polar_factor():
    """Steps of (15, −10, 3)/8, whose fixed point 1 is of order three, end at U Vᵀ itself: the direction of ``steepest`` in the spectral norm."""
    matrix = with_values(np.geomspace(0.05, 1, 8), 8, 11)
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    rule = gdjax.muon(0.5, momentum=0.0, coefficients=(15 / 8, -10 / 8, 3 / 8), steps=14, dtype="float64", layout="out_in")
    updates = rule.update(jnp.asarray(matrix), rule.init(jnp.asarray(matrix)))[0]
    np.testing.assert_allclose(updates, -0.5 * u @ v, atol=1e-12)
    steepest = gdjax.steepest(0.5, "spectral", scaled=False)
    np.testing.assert_allclose(updates, steepest.update(jnp.asarray(matrix), steepest.init(matrix))[0], atol=1e-12)


def test_one_step_of_muon_falls_by_its_guarantee():
    """F(X) = ‖X − C‖_F²/2 has smoothness L = rank in the spectral norm; no singular value of u/‖u‖ is below 10⁻³ here."""
    centre, h = with_values([3.0, 2.0, 1.0, 0.5], 4, 9), 0.01
    x = jnp.zeros((4, 9))
    rule = gdjax.muon(h, momentum=0.0, dtype="float64", layout="out_in")
    grads = x - centre
    x = x + rule.update(grads, rule.init(x))[0]
    gain = h * (0.47 * 6.5 - 0.73 * h * 4)
    assert np.sum((x - centre) ** 2) / 2 <= np.sum(centre**2) / 2 - gain


def paths(rule, grads, start):
    x, state, made = start, rule.init(start), []
    update = jax.jit(rule.update)
    for g in grads:
        updates, state = update(g, state, x)
        x = jax.tree.map(jnp.add, x, updates)
        made.append(x)
    return made


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["original", "rms"])
@pytest.mark.parametrize(("shape", "layout"), [((5, 3), "out_in"), ((3, 5), "out_in"), ((5, 3), "in_out")])
def test_muon_equals_its_transcription(nesterov, scale, shape, layout):
    grads, start = RANDOM.normal(size=(6, *shape)), RANDOM.normal(size=shape)
    rule = gdjax.muon(0.02, nesterov=nesterov, weight_decay=0.1, scale=scale, layout=layout, dtype="float64")
    turn = np.transpose if layout == "in_out" else np.asarray
    x, m = turn(start), 0.0
    exact = lambda u: reference.newton_schulz(u, rounding=lambda value: value)  # noqa: E731
    for g, ours in zip(grads, paths(rule, jnp.asarray(grads), jnp.asarray(start)), strict=True):
        x, m = reference.muon_step(turn(g), x, m, 0.02, 0.95, nesterov, 0.1, scale, exact)
        np.testing.assert_allclose(turn(ours), x, atol=1e-13)


def test_convolutions_are_matrices_of_outputs_by_the_rest():
    kernel = RANDOM.normal(size=(3, 3, 2, 8))
    rule = gdjax.muon(0.1, dtype="float64")
    updates = rule.update(jnp.asarray(kernel), rule.init(kernel))[0]
    flat = rule.update(jnp.asarray(kernel.reshape(18, 8)), rule.init(kernel.reshape(18, 8)))[0]
    np.testing.assert_allclose(updates.reshape(18, 8), flat, atol=1e-14)
    pytorch = gdjax.muon(0.1, dtype="float64", layout="out_in")
    turned = jnp.asarray(np.transpose(kernel, (3, 2, 0, 1)))
    np.testing.assert_allclose(np.transpose(pytorch.update(turned, pytorch.init(turned))[0], (2, 3, 1, 0)), updates, atol=1e-13)


def test_muon_leaves_the_rest_to_another_rule():
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2), "embedding": jnp.ones((4, 2))}
    grads = jax.tree.map(lambda x: jnp.asarray(RANDOM.normal(size=x.shape)), params)
    adam, matrices = gdjax.rule(optax.adam)(3e-4), lambda tree: {name: name == "kernel" for name in tree}
    rule = gdjax.muon(0.02, adam, matrices=matrices)
    updates, state = rule.update(grads, rule.init(params), params, value=1.0, grad=grads, value_fn=print)
    theirs = adam.update(grads, adam.init(params), params)[0]
    for name in ("bias", "embedding"):
        np.testing.assert_array_equal(updates[name], theirs[name])
    assert state.mean["bias"] is None

    with pytest.raises(ValueError, match=r"bias.*is no matrix.*others=gdjax.rule\(optax.adam\)"):
        gdjax.muon(0.02).init(params)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_muon_passes_jit_vmap_and_grad_on_matrices(dtype):
    params = jnp.asarray(RANDOM.normal(size=(2, 4, 3)), dtype)

    def update(rule, g):
        updates, state = rule.update(g, rule.init(g), g)
        assert (updates.dtype, state.mean.dtype) == (dtype, dtype)
        return updates

    rule = gdjax.muon(0.1, weight_decay=0.1)
    mapped = jax.jit(jax.vmap(update, (None, 0)))(rule, params)
    for i in range(2):
        np.testing.assert_allclose(np.float32(mapped[i]), np.float32(update(rule, params[i])), atol=2e-3)
    slopes = jax.jit(jax.grad(lambda rule: jnp.sum(update(rule, params[0]).astype(jnp.float32) ** 2)))(rule)
    np.testing.assert_allclose(slopes.leaves[0], 2 * np.sum(np.float32(mapped[0]) ** 2) / 0.1, rtol=0.03)
    assert np.all(np.asarray(update(gdjax.muon(0.1), jnp.zeros((4, 3), dtype))) == 0)
    assert np.all(np.isfinite(jax.jit(jax.grad(lambda g: jnp.sum(update(rule, g).astype(jnp.float32))))(jnp.zeros((4, 3), dtype))))
