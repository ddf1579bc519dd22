"""Convolutions arranged for loops on CPUs: the same numbers for every order of axes, in whatever they are wrapped, and what XLA is given."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import gdjax
from gdjax.objective import Objective
from gdjax.parts import convolutions, xla

if not xla.ON:
    pytest.skip("convolutions are left as they are: GDJAX_XLA=0", allow_module_level=True)

RANDOM = np.random.default_rng(4)


def normal(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


KINDS = {
    "NHWC": ((3, 8, 7, 4), (3, 2, 4, 6), dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), window_strides=(2, 1), padding="SAME")),
    "NCHW": ((3, 4, 8, 7), (6, 4, 3, 2), dict(dimension_numbers=("NCHW", "OIHW", "NCHW"), window_strides=(1, 2), padding="VALID")),
    "mixed": ((8, 3, 4, 7), (3, 6, 2, 4), dict(dimension_numbers=("HNCW", "HOWI", "WCNH"), window_strides=(1, 1), padding=((1, 0), (2, 1)))),
    "1D": ((3, 9, 4), (3, 4, 6), dict(dimension_numbers=("NWC", "WIO", "NWC"), window_strides=(1,), padding="SAME", rhs_dilation=(2,))),
    "3D": ((2, 5, 4, 6, 3), (2, 2, 2, 3, 4), dict(dimension_numbers=("NDHWC", "DHWIO", "NDHWC"), window_strides=(1, 1, 2), padding="SAME")),
    "grouped": ((3, 8, 7, 4), (3, 3, 2, 6), dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), window_strides=(1, 1), padding="SAME", feature_group_count=2)),
    "depthwise": ((3, 8, 7, 4), (3, 3, 1, 4), dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), window_strides=(1, 1), padding="SAME", feature_group_count=4)),
    "transposed": (
        (3, 8, 7, 4),
        (3, 3, 4, 6),
        dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), window_strides=(1, 1), padding=((1, 1), (2, 1)), lhs_dilation=(2, 2)),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_the_same(kind):
    left, right, options = KINDS[kind]

    def loss(x, kernel):
        return jnp.sum(jnp.tanh(lax.conv_general_dilated(x, kernel, **options)))

    x, kernel = normal(*left), normal(*right)
    value_and_grad = jax.value_and_grad(loss, (0, 1))
    for made, plain in zip(*map(jax.tree.leaves, (jax.jit(convolutions.arranged(value_and_grad))(x, kernel), jax.jit(value_and_grad)(x, kernel))), strict=True):
        np.testing.assert_allclose(made, plain, rtol=1e-4, atol=1e-5)


def convolve(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))


@jax.custom_jvp
def clipped(x, kernel):
    return jnp.clip(convolve(x, kernel), -1, 1)


@clipped.defjvp
def _(primals, tangents):
    return clipped(*primals), convolve(tangents[0], primals[1]) + convolve(primals[0], tangents[1])  # straight through


WRAPPED = {
    "scan": lambda x, k: lax.scan(lambda c, _: (jnp.tanh(convolve(c, k)), None), x, None, length=3)[0],
    "fori": lambda x, k: lax.fori_loop(0, 3, lambda i, c: jnp.tanh(convolve(c, k)), x),
    "cond": lambda x, k: lax.cond(x[0, 0, 0, 0] > 0, lambda: convolve(x, k), lambda: convolve(convolve(x, k), k)),
    "jit": lambda x, k: jax.jit(convolve)(x, k),
    "remat": lambda x, k: jax.checkpoint(lambda x: jnp.tanh(convolve(x, k)))(x),
    "custom_jvp": clipped,
    "map": lambda x, k: lax.map(lambda row: convolve(row[None], k)[0], x),
    "vmap": lambda x, k: jax.vmap(lambda scale: convolve(x, scale * k))(jnp.arange(1.0, 3.0)),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("differentiate", ["not", "within", "through"])
def test_in_what_they_may_be_wrapped(name, differentiate):
    function = WRAPPED[name]
    x, kernel = normal(3, 2, 5, 4), normal(2, 2, 3, 3) / 3
    total = lambda x, k: jnp.sum(function(x, k) ** 2)  # noqa: E731
    plain, made = total, convolutions.arranged(total)
    if differentiate == "within":
        plain, made = jax.grad(total, (0, 1)), convolutions.arranged(jax.grad(total, (0, 1)))
    if differentiate == "through":
        plain, made = jax.grad(total, (0, 1)), jax.grad(made, (0, 1))
    for a, b in zip(jax.tree.leaves(jax.jit(made)(x, kernel)), jax.tree.leaves(jax.jit(plain)(x, kernel)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_program_without_convolutions_is_itself():
    closed = jax.make_jaxpr(lambda x: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c), x))(1.0)
    assert convolutions.arrange(closed) is closed


def network(params, x):
    hidden = lax.conv_general_dilated(x.reshape(-1, 6, 6, 1), params["first"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    hidden = lax.conv_general_dilated(jax.nn.relu(hidden), params["second"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(hidden).reshape(x.shape[0], -1) @ params["last"]


def loss(params, batch):
    return optax.softmax_cross_entropy_with_integer_labels(network(params, batch[0]), batch[1]).mean()


PARAMS = {"first": normal(3, 3, 1, 4) / 3, "second": normal(3, 3, 4, 5) / 6, "last": normal(45, 3) / 7}
DATA = (normal(40, 36), jnp.asarray(RANDOM.integers(0, 3, 40)))


def python_loop(batch_size, steps, rate=0.1):
    params, rows = PARAMS, DATA[0].shape[0]
    step = jax.jit(lambda p, b: jax.tree.map(lambda x, g: x - rate * g, p, jax.grad(loss)(p, b)))
    for i in range(steps):
        taken = (i * batch_size + np.arange(batch_size)) % rows
        params = step(params, (DATA[0][taken], DATA[1][taken]))
    return params


@pytest.mark.parametrize("batch_size", [8, 40])
def test_fit_is_a_python_loop(batch_size):
    result = gdjax.fit(loss, PARAMS, DATA, gdjax.sgd(0.1), batch_size=None if batch_size == 40 else batch_size, steps=12, shuffle=False)
    for made, plain in zip(jax.tree.leaves(result.params), jax.tree.leaves(python_loop(batch_size, 12)), strict=True):
        np.testing.assert_allclose(made, plain, rtol=1e-3, atol=1e-5)


def test_a_finite_sum_in_blocks():
    example = lambda p, row: loss(p, (row[0][None], row[1][None]))  # noqa: E731
    objective = Objective(gdjax.finite_sum(example), chunk_size=8)
    program = jax.jit(lambda p, b: objective.value_and_grad(p, b).grads)
    for made, plain in zip(jax.tree.leaves(program(PARAMS, DATA)), jax.tree.leaves(jax.jit(jax.grad(loss))(PARAMS, DATA)), strict=True):
        np.testing.assert_allclose(made, plain, rtol=1e-3, atol=1e-5)
    assert_usual_order(program.lower(PARAMS, DATA))


def assert_usual_order(lowered):
    orders = re.findall(r"dim_numbers = (\[.*?\])x(\[.*?\])->(\[.*?\])", lowered.as_text())
    assert len(orders) >= 4
    assert set(orders) == {("[b, 0, 1, f]", "[0, 1, i, o]", "[b, 0, 1, f]")}


def test_what_the_loop_of_fit_gives_to_xla():
    run = lambda p: gdjax.fit(loss, p, DATA, gdjax.sgd(0.1), batch_size=8, steps=12, shuffle=False).params  # noqa: E731
    assert_usual_order(jax.jit(run).lower(PARAMS))


def test_lanes_and_hypergradients():
    value = lambda rate: gdjax.fit(loss, PARAMS, DATA, gdjax.sgd(rate), batch_size=8, steps=10, shuffle=False).value  # noqa: E731
    rates = jnp.array([0.05, 0.2])
    np.testing.assert_allclose(jax.jit(jax.vmap(value))(rates), [value(rate) for rate in rates], rtol=1e-4)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(0.1), (float(value(0.11)) - float(value(0.09))) / 0.02, rtol=0.05)
