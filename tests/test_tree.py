"""Arithmetic on pytrees against NumPy in float64, and the dtypes, zeros and empty trees where it could go wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax import tree

DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)
EPS = {jnp.bfloat16: 2.0**-7, jnp.float16: 2.0**-10, jnp.float32: 2.0**-22}


def sample(dtype=jnp.float32, seed=0):
    """A pytree with a matrix, a vector, a scalar and a None."""
    draw = np.random.default_rng(seed).normal
    return {"matrix": jnp.asarray(draw(size=(3, 2)), dtype), "rest": (jnp.asarray(draw(size=4), dtype), None, jnp.asarray(draw(), dtype))}


def flat(a):
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(a)])


def assert_like(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert [(x.dtype, x.shape) for x in jax.tree.leaves(a)] == [(x.dtype, x.shape) for x in jax.tree.leaves(b)]


OPERATIONS = {
    "add": (lambda a, b, s: tree.add(a, b), lambda a, b, s: a + b),
    "subtract": (lambda a, b, s: tree.subtract(a, b), lambda a, b, s: a - b),
    "scale": (lambda a, b, s: tree.scale(s, a), lambda a, b, s: s * a),
    "add_scaled": (lambda a, b, s: tree.add_scaled(a, s, b), lambda a, b, s: a + s * b),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", OPERATIONS)
def test_arithmetic_equals_numpy_and_keeps_the_dtype(name, dtype):
    ours, numpys = OPERATIONS[name]
    a, b = sample(dtype), sample(dtype, seed=1)
    for scalar in (0.5, jnp.float32(0.5), np.float64(0.5), jnp.asarray(0.5, jnp.bfloat16)):
        made = ours(a, b, scalar)
        assert_like(made, a)
        np.testing.assert_allclose(flat(made), numpys(flat(a), flat(b), 0.5), rtol=2 * EPS[dtype], atol=2 * EPS[dtype])


def test_the_second_operand_takes_the_dtype_of_the_first():
    low, high = sample(jnp.bfloat16), sample(jnp.float32, seed=1)
    for made in (tree.add(low, high), tree.subtract(low, high), tree.add_scaled(low, jnp.float32(0.1), high)):
        assert_like(made, low)
    assert_like(tree.cast_like(high, low), low)
    np.testing.assert_array_equal(flat(tree.cast_like(high, low)), flat(jax.tree.map(lambda x: x.astype(jnp.bfloat16), high)))


def test_a_rounded_sum_is_rounded_once():
    # 256 + 1 is not a bfloat16: adding in float32 first and rounding at the end would give the same; subtracting back must not.
    made = tree.add(jnp.asarray(256, jnp.bfloat16), jnp.float32(1.0))
    assert made.dtype == jnp.bfloat16
    assert float(made) == 256.0


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_vdot_and_norm_equal_numpy(dtype):
    a, b = sample(dtype), sample(dtype, seed=1)
    np.testing.assert_allclose(float(tree.vdot(a, b)), flat(a) @ flat(b), rtol=1e-5)
    np.testing.assert_allclose(float(tree.norm(a)), np.linalg.norm(flat(a)), rtol=1e-6)
    assert tree.norm(a).dtype == tree.vdot(a, b).dtype == jnp.float32


def test_reductions_accumulate_in_float32():
    # In bfloat16 a sum of ones stops at 256, in float16 a sum of squares overflows at 65504.
    assert float(tree.norm(jnp.ones(10_000, jnp.bfloat16))) == 100.0
    assert float(tree.vdot(jnp.full(2, 300, jnp.float16), jnp.full(2, 300, jnp.float16))) == 180_000.0


@pytest.mark.usefixtures("x64")
def test_float64_is_kept():
    a = jnp.asarray([1.0, 1e-12])
    assert a.dtype == tree.norm(a).dtype == tree.vdot(a, a).dtype == tree.dtype_of(a) == jnp.float64
    assert float(tree.vdot(a, jnp.ones(2)) - 1.0) == pytest.approx(1e-12, rel=1e-3)
    mixed = {"low": jnp.ones(2, jnp.bfloat16), "high": jnp.ones(2)}
    assert tree.dtype_of(mixed) == tree.norm(mixed).dtype == jnp.float64


def test_the_derivative_of_the_norm_at_zero_is_zero():
    zero = {"a": jnp.zeros(3), "b": jnp.zeros(())}
    for made in (jax.grad(tree.norm)(zero), jax.jit(jax.grad(tree.norm))(zero)):
        np.testing.assert_array_equal(flat(made), np.zeros(4))
    assert float(jax.jvp(tree.norm, (zero,), (tree.map(jnp.ones_like, zero),))[1]) == 0.0
    np.testing.assert_array_equal(jax.hessian(tree.norm)(jnp.zeros(2)), np.zeros((2, 2)))


def test_the_derivative_of_the_norm_is_the_direction():
    a = sample()
    np.testing.assert_allclose(flat(jax.grad(tree.norm)(a)), flat(a) / np.linalg.norm(flat(a)), rtol=1e-6)
    both = jax.vmap(jax.grad(tree.norm))(jnp.asarray([[0.0, 0.0], [3.0, 4.0]]))
    np.testing.assert_allclose(both, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_curvature_of_the_norm():
    x = np.array([3.0, -4.0])
    np.testing.assert_allclose(jax.hessian(tree.norm)(jnp.asarray(x)), (np.eye(2) - np.outer(x, x) / 25) / 5, atol=1e-14)


@pytest.mark.parametrize("empty", [{}, (), None, [None, ()]], ids=repr)
def test_empty_trees(empty):
    assert float(tree.norm(empty)) == float(tree.vdot(empty, empty)) == 0.0
    assert tree.norm(empty).dtype == tree.dtype_of(empty) == jnp.float32
    assert tree.size(empty) == tree.bytes_of(empty) == 0
    assert bool(tree.all_finite(empty))
    assert not tree.is_traced(empty)
    assert tree.add(empty, empty) == tree.scale(2.0, empty) == tree.copy(empty) == tree.zeros_like(empty) == empty


def test_scalars_of_python_are_leaves():
    assert float(tree.add(1.0, 2.0)) == 3.0
    assert float(tree.add_scaled(1.0, 0.5, jnp.float32(2.0))) == 2.0
    assert float(tree.norm((3.0, 4.0))) == 5.0
    assert tree.size((3.0, np.zeros((2, 2)))) == 5


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_all_finite(bad):
    good = sample() | {"count": jnp.int32(3)}
    assert bool(tree.all_finite(good))
    assert not bool(tree.all_finite(good | {"matrix": good["matrix"].at[2, 1].set(bad)}))
    assert not bool(jax.jit(tree.all_finite)((jnp.asarray(bad, jnp.bfloat16),)))


def test_where_takes_all_of_one():
    a, b = sample(), sample(seed=1)
    for condition, wanted in ((True, a), (jnp.asarray(False), b)):
        np.testing.assert_array_equal(flat(tree.where(condition, a, b)), flat(wanted))
    chosen = jax.vmap(tree.where)(jnp.asarray([True, False]), jnp.asarray([[1.0], [1.0]]), jnp.asarray([[2.0], [2.0]]))
    np.testing.assert_array_equal(chosen, [[1.0], [2.0]])


def test_copy_makes_new_buffers():
    a = sample()
    for copied in (tree.copy(a), jax.jit(tree.copy)(a)):
        np.testing.assert_array_equal(flat(copied), flat(a))
        assert all(x.unsafe_buffer_pointer() != y.unsafe_buffer_pointer() for x, y in zip(jax.tree.leaves(copied), jax.tree.leaves(a), strict=True))


def test_sizes_and_bytes():
    a = sample(jnp.bfloat16)
    assert tree.size(a) == 11
    assert tree.bytes_of(a) == 22
    assert tree.bytes_of((np.zeros(3, np.float64), None)) == 24


def test_is_traced():
    seen = []
    jax.jit(lambda x: seen.append((tree.is_traced(1.0, {"x": x}), tree.is_traced(jnp.float32(1.0)))) or x)(1.0)
    assert seen[0][0]
    assert not tree.is_traced(sample())


def test_stop_gradient():
    assert float(jax.grad(lambda x: tree.stop_gradient({"x": x})["x"] * x)(3.0)) == 3.0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=lambda d: d.__name__)
def test_products_are_rounded_once(dtype):
    """s = 1e6 is no float16, s x is; 257 is no bfloat16, 257/256 rounds up only if it is a float first."""
    for scalar, x in ((1e6, 1e-6), (257.0, 1.0 / 256.0), (jnp.float32(1e-6), 3e4)):
        x = jnp.asarray(x, dtype)
        wanted = jnp.asarray(float(scalar) * float(x), dtype)
        for made in (tree.scale(scalar, x), tree.add_scaled(jnp.zeros((), dtype), scalar, x), jax.jit(tree.scale)(scalar, x)):
            assert made.dtype == dtype
            assert made == wanted


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-37, 1e30, 1e38])
def test_the_norm_of_numbers_known_when_it_compiles(size):
    """The gradient of a linear or constant loss is one."""
    np.testing.assert_allclose(jax.jit(lambda: tree.norm(jnp.full(3, size, jnp.float32)))(), np.sqrt(3) * size, rtol=1e-6)
