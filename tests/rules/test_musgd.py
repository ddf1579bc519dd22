"""MuSGD against its transcription, bit for bit, and the groups of its trainer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import matrices as reference

import gdjax
from gdjax.parts.newton_schulz import newton_schulz

# Numbers of few bits, whose products with a number of 24 bits by halves and quarters are exact: then a fused multiply-add rounds as the two operations do.
DYADIC = dict(learning_rate=2**-6, momentum=0.5, muon=0.25, sgd=1.0, weight_decay=2**-10)
LAYOUT = dict(layout="out_in")


def margin(sums):
    """How far from a tie the sums are that were rounded to bfloat16, in units of 2⁻²⁴ Σ|terms|.

    A float32 sum of n terms, in any order and with products exact or rounded once, is off by at most n + 3 of these (n + 2 roundings, and terms of second
    order), and the root of one of n squares, of numbers scaled and scaled back, by n/2 + 4: above that every order rounds to the same number.
    """
    least = np.inf
    for value, size in sums:
        near = np.abs(reference.bfloat16(value))
        unit = 2.0 ** (np.floor(np.log2(np.where(near > 0, near, 1))) - 7)
        least = min(least, np.min((unit / 2 - np.abs(value - reference.bfloat16(value))) / (size * 2.0**-24)))
    return least


@pytest.mark.parametrize(("seed", "shape"), [(24, (6, 4)), (74, (5, 5)), (60, (3, 9))])
def test_newton_schulz_equals_its_transcription_bit_for_bit(seed, shape):
    """In one compiled piece and in many, although XLA orders the float32 sums as it likes: none of them is near enough to a tie for that to matter."""
    matrix, sums = np.random.default_rng(seed).normal(size=shape).astype(np.float32), []
    expected = reference.newton_schulz(matrix, sums=sums)
    assert margin(sums) > max(max(shape) + 3, np.prod(shape) / 2 + 4)
    for function in (newton_schulz, jax.jit(newton_schulz)):
        made = function(matrix)
        assert made.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(made, np.float64), expected)


def gradients(seed, shape, steps=3):
    random = np.random.default_rng(seed)
    return [(3 * random.normal(size=shape)).astype(np.float32) for _ in range(steps + 1)]


def run(rule, tensors, compiled):
    """The params before each step, updates and the two buffers after it."""
    x, state = jnp.asarray(tensors[0]), rule.init(tensors[0])
    update = jax.jit(rule.update) if compiled else rule.update
    for g in tensors[1:]:
        updates, state = update(jnp.asarray(g), state, x)
        yield np.asarray(x), np.asarray(updates), np.asarray(state.velocity), None if state.mean is None else np.asarray(state.mean)
        x = x + updates


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("compiled", "nesterov"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize(("seed", "shape"), [(80, (3, 7)), (51, (7, 3)), (79, (4, 2, 1, 1)), (5, (2, 3, 2, 2)), (0, (5,)), (0, (2, 2, 3))], ids=str)
def test_equals_its_transcription_bit_for_bit(compiled, nesterov, seed, shape):
    rule, orthogonal = gdjax.musgd(**DYADIC, **LAYOUT, nesterov=nesterov), len(shape) in (2, 4)
    numbers = DYADIC if len(shape) > 1 else DYADIC | dict(weight_decay=None)
    tensors, sums = gradients(seed, shape), []
    m = b = np.zeros(shape, np.float32)
    for g, (x, updates, velocity, mean) in zip(tensors[1:], run(rule, tensors, compiled), strict=True):
        expected, m, b = reference.musgd_step(g, x, m, b, **numbers, nesterov=nesterov, orthogonal=orthogonal, sums=sums)
        np.testing.assert_array_equal(velocity, b)
        np.testing.assert_array_equal(updates, expected)
        if orthogonal:
            np.testing.assert_array_equal(mean, m)
    if orthogonal:
        assert margin(sums) > max(shape[0] + 3, np.prod(shape[1:]) + 3, np.prod(shape) / 2 + 4)


@pytest.mark.parametrize("shape", [(7, 3), (5,)])
def test_equals_its_transcription_at_the_defaults_too(shape):
    """Bit for bit where operations are compiled one by one; in one piece products and sums fuse, which here rounds otherwise, by an ulp or two of the terms."""
    rule, tensors = gdjax.musgd(0.01, **LAYOUT), gradients(0, shape)
    numbers = dict(learning_rate=0.01, momentum=0.9, muon=0.2, sgd=1.0, weight_decay=5e-4 if len(shape) > 1 else None, nesterov=True)
    for compiled in (False, True):
        m = b = np.zeros(shape, np.float32)
        for g, (x, updates, velocity, _) in zip(tensors[1:], run(rule, tensors, compiled), strict=True):
            expected, m, b = reference.musgd_step(g, x, m, b, **numbers, orthogonal=len(shape) > 1)
            same = functools.partial(np.testing.assert_allclose, rtol=4e-7, atol=4e-7) if compiled else np.testing.assert_array_equal
            same(velocity / np.abs(b).max(), b / np.abs(b).max())
            if compiled and len(shape) > 1:  # an entry of u may be on the other side of a tie
                np.testing.assert_allclose(updates, expected, atol=0.01 * 0.2 * 2**-6)
            else:
                same(updates, expected)


def kernels():
    random, shapes = np.random.default_rng(3), {"dense": (4, 6), "square": (5, 5), "conv": (6, 2, 3, 3), "bias": (4,)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def transposed(tree):
    """PyTorch's layout as Flax's: OI as IO, OIHW as HWIO."""
    return {name: np.transpose(x, (2, 3, 1, 0)) if x.ndim == 4 else x.T for name, x in tree.items()}


def test_kernels_of_flax_and_of_pytorch_take_the_same_steps():
    params, grads = kernels(), jax.tree.map(lambda x: x[::-1] * 2, kernels())
    theirs, ours = (gdjax.musgd(0.01, layout=layout) for layout in ("out_in", "in_out"))
    expected = theirs.update(grads, theirs.init(params), params)[0]
    updates = ours.update(transposed(grads), ours.init(transposed(params)), transposed(params))[0]
    for name, update in transposed(jax.tree.map(np.asarray, expected)).items():
        np.testing.assert_allclose(updates[name], update, rtol=1e-6, atol=0.01 * 0.2 * 2**-7)


def test_sizes_of_the_muon_part():
    """√max{1, outputs/inputs} for matrices, √max{1, height/width} for windows, in either layout."""
    rule = gdjax.musgd(1.0, muon=1.0, sgd=0.0, weight_decay=None, layout="in_out")
    for shape, size in (((1, 4), 2.0), ((4, 1), 1.0), ((9, 1, 2, 2), 3.0), ((1, 9, 2, 2), 1.0)):
        kernel = np.ones(shape, np.float32)
        updates = rule.update(kernel, rule.init(kernel))[0]
        unit = np.linalg.norm(updates)  # of rank one, so its norm is its singular value
        assert 0.6 < unit / size < 1.21, (shape, unit)


def test_groups_are_by_axes_unless_told():
    params = kernels()
    zeros = jax.tree.map(np.zeros_like, params)
    rule = gdjax.musgd(0.5, weight_decay=0.1)
    state = rule.init(params)
    assert {name for name, mean in state.mean.items() if mean is not None} == {"dense", "square", "conv"}
    updates = rule.update(zeros, state, params)[0]  # weight decay alone: g + μ b = 1.9 λ x
    np.testing.assert_allclose(updates["dense"], -0.5 * 1.9 * 0.1 * params["dense"], rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], np.zeros(4))
    told = gdjax.musgd(
        0.5,
        weight_decay=0.1,
        orthogonal=lambda tree: {name: name == "conv" for name in tree},
        decayed={"dense": False, "square": True, "conv": True, "bias": True},
        factors={"dense": 3.0, "square": 1.0, "conv": 1.0, "bias": 2.0},
    )
    state = told.init(params)
    assert {name for name, mean in state.mean.items() if mean is not None} == {"conv"}
    updates = told.update(zeros, state, params)[0]
    np.testing.assert_array_equal(updates["dense"], np.zeros((4, 6)))
    np.testing.assert_allclose(updates["bias"], -2 * 0.5 * 1.9 * 0.1 * params["bias"], rtol=1e-6)


def test_factors_multiply_both_parts_and_are_leaves():
    params = kernels()
    params = {name: params[name] for name in ("dense", "bias")}
    threefold = lambda factor: gdjax.musgd(0.01, weight_decay=None, factors=jax.tree.map(lambda _: factor, params))  # noqa: E731
    once, thrice = (threefold(factor).update(params, threefold(factor).init(params))[0] for factor in (1.0, 3.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(3 * a, b, rtol=1e-5), once, thrice)
    assert len(threefold(3.0).leaves) == 1 + 2
    slope = jax.grad(lambda rule: jnp.sum(rule.update(params, rule.init(params))[0]["bias"]))(threefold(3.0))
    np.testing.assert_allclose(slope.arguments["factors"]["bias"], once["bias"].sum(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_matrices_pass_jit_vmap_grad_and_keep_their_dtypes(dtype):
    params = {name: jnp.asarray(kernels()[name], dtype) for name in ("dense", "bias")}
    rule = gdjax.musgd(gdjax.schedules.linear(0.01, 0.0, 10), gdjax.schedules.linear(0.8, 0.9, 5))

    def stepped(rule, params):
        state = rule.init(params)
        for _ in range(2):
            updates, state = rule.update(params, state, params)
        assert jax.tree.map(lambda x: x.dtype, (updates, state)) == jax.tree.map(lambda x: x.dtype, (params, rule.init(params)))
        return updates

    stacked = jax.jit(jax.vmap(stepped, (None, 0)))(rule, jax.tree.map(lambda x: jnp.stack([x, -x]), params))
    single = jax.jit(stepped)(rule, params)
    tolerance = 0.02 if dtype == jnp.bfloat16 else 1e-4
    for sign, index in ((1, 0), (-1, 1)):
        jax.tree.map(lambda a, b, s=sign, i=index: np.testing.assert_allclose(np.float32(a[i]), s * np.float32(b), atol=tolerance), stacked, single)
    slopes = jax.jit(jax.grad(lambda rule: sum(jnp.sum(x**2) for x in jax.tree.leaves(stepped(rule, params))).astype(jnp.float32)))(rule)
    assert all(np.isfinite(slope) for slope in jax.tree.leaves(slopes))


def test_a_gradient_of_zero_or_of_nothing_moves_nothing():
    params = {"dense": jnp.ones((3, 2)), "empty": jnp.ones((0, 2)), "conv": jnp.ones((2, 2, 1, 3))}
    rule = gdjax.musgd(0.1, weight_decay=None)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = jax.jit(rule.update)(zeros, rule.init(params), params)
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves((updates, state)))
    derivative = jax.jit(jax.grad(lambda g: jnp.sum(rule.update(g, rule.init(params), params)[0]["dense"])))(zeros)
    assert np.all(np.isfinite(derivative["dense"]))


def test_trains_a_small_network():
    """A teacher of the same form is learnt to a hundredth of the first loss."""
    random = np.random.default_rng(0)
    data = jnp.asarray(random.normal(size=(256, 6)), jnp.float32)

    def network(params, x):
        return jnp.tanh(x @ params["first"] + params["bias"][None]) @ params["second"]

    shapes = {"first": (6, 12), "bias": (12,), "second": (12, 3)}
    teacher, start = ({name: jnp.asarray(random.normal(size=shape) / 3, jnp.float32) for name, shape in shapes.items()} for _ in range(2))
    loss = lambda params: jnp.mean((network(params, data) - network(teacher, data)) ** 2)  # noqa: E731
    result = gdjax.minimize(loss, start, gdjax.musgd(gdjax.schedules.linear(0.05, 0.0, 300), weight_decay=None), max_steps=300)
    assert result.value < 1e-2 * loss(start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(layout="oihw"), "in_out"),
        (dict(momentum=1.0), "momentum < 1"),
        (dict(momentum=None), "momentum"),
        (dict(muon=-0.1), "muon=0.2"),
        (dict(sgd=float("nan")), "sgd=1.0"),
        (dict(weight_decay=-1.0), "weight_decay"),
    ],
)
def test_says_what_is_wrong_with_its_arguments(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        gdjax.musgd(0.1, **arguments)


def test_numbers_without_axes_are_no_matrices():
    params = {"w": jnp.ones((2, 3)), "scale": jnp.float32(2.0)}
    for name, rule in (("musgd", gdjax.musgd(0.1, orthogonal={"w": True, "scale": True})), ("muon", gdjax.muon(0.1, matrices={"w": True, "scale": True}))):
        with pytest.raises(ValueError, match=rf"^{name}: .* is true of \['scale'\], without axes; wanted"):
            rule.init(params)
    with pytest.raises(ValueError, match="musgd: orthogonal is true of the params"):
        gdjax.musgd(0.1, orthogonal=True).init(jnp.float32(1.0))


def test_muon_says_which_word_it_does_not_know():
    for name, wrong, first in (("dtype", jnp.bfloat16, "bfloat16"), ("scale", "spectral", "original"), ("scale", ["rms"], "original")):
        with pytest.raises(ValueError, match=f'^muon: {name} is .*; wanted one of .*: type {name}="{first}"'):
            gdjax.muon(0.1, **{name: wrong})


@pytest.mark.parametrize("name", ["orthogonal", "decayed", "factors"])
def test_says_which_mask_does_not_fit(name):
    rule = gdjax.musgd(0.1, **{name: [True, False]})
    params = kernels()
    with pytest.raises(ValueError, match=f"musgd: {name} is .* one entry for each leaf"):
        rule.update(params, rule.init(params), params)
