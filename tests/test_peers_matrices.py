"""Rules for matrices, layers and neighbourhoods where peers go wrong. What peers do today stands in the docstrings, not in the assertions: they may mend it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

TORCH = json.loads((Path(__file__).parent / "data" / "torch_muon.json").read_text())
TRIPLES = ((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012))
MATRIX = jnp.asarray(np.random.default_rng(2).normal(size=(4, 3)), jnp.float32)


@pytest.mark.parametrize("name", [name for name in TORCH if name != "torch"])
def test_muon_takes_the_steps_of_pytorch(name):
    """``torch.optim.Muon``, in bfloat16 as well; the mean is rounded otherwise there, which may move single entries of NS by an ulp of bfloat16."""
    run, rename = TORCH[name], {"lr": "learning_rate", "ns_steps": "steps", "adjust_lr_fn": "scale"}
    arguments = {rename.get(key, key): "rms" if value == "match_rms_adamw" else value for key, value in run["arguments"].items()}
    rule = gdjax.muon(**arguments, layout="out_in")
    x = jnp.asarray(run["start"], jnp.float32)
    state, update = rule.init(x), jax.jit(rule.update)
    for g, expected in zip(run["grads"], run["path"], strict=True):
        updates, state = update(jnp.asarray(g, jnp.float32), state, x)
        x = x + updates
        np.testing.assert_allclose(x, expected, atol=2e-6)


def test_coefficients_and_steps_of_muon_are_checked_the_right_way_round():
    """optax 0.2.8: five triples and three steps raise "not enough coefficients", three triples and five steps silently run three."""
    assert gdjax.muon(0.02, coefficients=TRIPLES).arguments["steps"] is None
    gdjax.muon(0.02, coefficients=TRIPLES, steps=5)
    for steps, triples in ((3, TRIPLES), (5, TRIPLES[:3])):
        with pytest.raises(ValueError, match=f"coefficients for {len(triples)} steps with steps={steps}"):
            gdjax.muon(0.02, coefficients=triples, steps=steps)
    for coefficients in ((1.0, 2.0), ((1.0, 2.0, 3.0, 4.0),), (), 1.0):
        with pytest.raises(ValueError, match="three numbers"):
            gdjax.muon(0.02, coefficients=coefficients)
    for steps in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="int ≥ 1"):
            gdjax.muon(0.02, steps=steps)
    with pytest.raises(ValueError, match="rms"):
        gdjax.muon(0.02, scale="rmsprop")


def test_muon_has_no_bias_correction():
    """optax 0.2.8 divides the mean by 1 − βᵗ before the gradient is mixed in, so that the first steps weigh it less than the reference does.

    From g₁, then g₂ orthogonal to it, plain Muon has u₂ = β² (1 − β) g₁ + (1 − β²) g₂; corrected it would have m̂ = 0.49 g₁ + 0.51 g₂ in place of m.
    """
    first, second = jnp.diag(jnp.array([1.0, 0.0])), jnp.diag(jnp.array([0.0, 1.0]))
    rule = gdjax.muon(1.0, steps=1, coefficients=(1.0, 0.0, 0.0), dtype="float32")  # NS is division by the norm
    updates, state = rule.update(first, rule.init(first))
    updates, _ = rule.update(second, state)
    u = np.array([0.95**2 * 0.05, 1 - 0.95**2])
    np.testing.assert_allclose(jnp.diag(updates), -u / np.linalg.norm(u), rtol=1e-5)


def test_lars_divides_by_the_sum_of_the_norms():
    """optax 0.2.8: ``lars`` divides by ‖g + λw‖ where the paper has ‖g‖ + λ‖w‖: with g against w, as here, a third of it."""
    w, g, decay = jnp.array([3.0, 4.0]), jnp.array([-0.6, -0.8]), 0.1
    rule = gdjax.lars(1.0, 0.0, weight_decay=decay, trust=0.001)
    updates = rule.update(g, rule.init(w), w)[0]
    np.testing.assert_allclose(updates, -0.001 * 5.0 / (1.0 + 0.1 * 5.0) * (g + decay * w), rtol=1e-6)
    # without decay, or with g along w, the two are the same
    for gradient, without in ((g, True), (0.3 * w, False)):
        ours, theirs = gdjax.lars(0.5, 0.9, weight_decay=None if without else decay), optax.lars(0.5, 0.0 if without else decay)
        np.testing.assert_allclose(ours.update(gradient, ours.init(w), w)[0], theirs.update(gradient, theirs.init(w), w)[0], rtol=1e-5)


def test_lars_leaves_zero_and_stays_at_rest():
    rule, w = gdjax.lars(0.1, weight_decay=0.1), {"new": jnp.zeros(2), "old": jnp.ones(2), "empty": jnp.zeros((0, 3))}
    grads = {"new": jnp.array([3.0, 4.0]), "old": jnp.zeros(2), "empty": jnp.zeros((0, 3))}
    updates = rule.update(grads, rule.init(w), w)[0]
    np.testing.assert_allclose(updates["new"], [-0.3, -0.4], rtol=1e-6)
    np.testing.assert_allclose(updates["old"], -0.1 * 0.1 * np.ones(2), rtol=1e-6)
    slopes = jax.grad(lambda grads: sum(jnp.sum(x) for x in jax.tree.leaves(rule.update(grads, rule.init(w), w)[0])))(grads)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(slopes))
    masked = gdjax.lars(0.1, layers=lambda params: {name: name == "old" for name in params})
    np.testing.assert_allclose(masked.update(w, masked.init(w), w)[0]["old"], -0.1 * 0.001 * np.ones(2), rtol=1e-5)


def test_lars_steps_are_shares_of_the_weights():
    """Whatever the scale of the gradient, in float32 also where its square under- or overflows."""
    w = jnp.array([3.0, 4.0])
    for scale in (1e-30, 1.0, 1e30):
        rule = gdjax.lars(1.0, 0.0, trust=0.01)
        np.testing.assert_allclose(jnp.linalg.norm(rule.update(scale * jnp.array([0.6, -0.8]), rule.init(w), w)[0]), 0.05, rtol=1e-5)


@pytest.mark.parametrize("wrap", [gdjax.sam, gdjax.asam])
def test_neighbourhoods_of_a_stationary_point_are_that_point(wrap):
    """optax 0.2.8: ``contrib.sam`` with its ``normalize`` is NaN there; and between its steps the params it is given are not those it moves."""
    x = jnp.array([1.0, 2.0])
    points = []
    flat = lambda y: (points.append(y), (jnp.float32(0), jnp.zeros(2)))[1]  # noqa: E731
    rule = wrap(gdjax.sgd(0.1))
    updates, _ = rule.update(jnp.zeros(2), rule.init(x), x, value_and_grad_fn=flat)
    np.testing.assert_array_equal(points[0], x)
    np.testing.assert_array_equal(updates, [0.0, 0.0])


def test_the_clips_of_optax_are_rules():
    """Adaptive (unit by unit) and leaf by leaf; they are right, and finite at zero, so they are lifted, not written anew."""
    w, g = jnp.array([[3.0, 0.3], [4.0, 0.4]]), jnp.array([[0.3, 3.0], [-0.4, 4.0]])
    adaptive = gdjax.chain(gdjax.rule(optax.adaptive_grad_clip)(0.5), gdjax.sgd(1.0))
    expected = -np.asarray(g) * np.minimum(1, 0.5 * np.linalg.norm(w, axis=0) / np.linalg.norm(g, axis=0))
    np.testing.assert_allclose(adaptive.update(g, adaptive.init(w), w)[0], expected, rtol=1e-6)
    blocks = gdjax.chain(gdjax.rule(optax.clip_by_block_rms)(2.0), gdjax.sgd(1.0))
    tree = {"small": jnp.ones(4), "large": jnp.full(4, 6.0)}
    updates = blocks.update(tree, blocks.init(tree), tree)[0]
    np.testing.assert_allclose([updates["small"][0], updates["large"][0]], [-1.0, -2.0], rtol=1e-6)
    for rule, params in ((adaptive, w), (blocks, w)):
        np.testing.assert_array_equal(rule.update(jnp.zeros_like(w), rule.init(params), params)[0], np.zeros((2, 2)))
    assert adaptive.leaves[0] == 0.5
    assert len(jax.tree.leaves(blocks)) == 2
