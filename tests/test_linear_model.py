"""The linear model in a loss is found where it is, and the gradient made through it is the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.parts import linear_model

pytestmark = pytest.mark.usefixtures("x64")
DRAW = np.random.default_rng(7)
X = DRAW.normal(size=5)


def normal(*shape):
    return DRAW.normal(size=shape)


def logistic(w, example):
    return jax.nn.softplus(-example[1] * jnp.dot(example[0], w))


def with_bias(params, example):
    return jax.nn.softplus(-example[1] * (jnp.dot(example[0], params["weights"]) + params["bias"]))


def softmax(params, example):
    return -jax.nn.log_softmax(example[0] @ params["weights"] + params["bias"])[example[1]]


def poisson(w, example):
    z = jnp.sum(w * example[0])
    return jnp.exp(z) - example[1] * z


def squares(w, example):
    return 0.5 * (example[0] @ w - example[1]) ** 2


def through_jit(w, example):
    return jax.jit(lambda z: jax.jit(jnp.square)(z - example[1]))(jax.jit(jnp.dot)(w, example[0]))


def reshaped(w, example):
    z = jnp.transpose(w.reshape(5, 2)) @ example[0]
    return jnp.sum(jnp.tanh(z / example[1] + 1.0)[::-1] ** 2)


def chosen(w, example):
    z = jnp.where(example[1] > 0, example[0] @ w, -(example[0] @ w))
    return jnp.where(z > 0, z, z**2)


def embedded(table, example):
    return jax.nn.logsumexp(table[example[1]])


def scaled_link(params, example):  # affine after all: the scale is a prediction of its own
    return jax.nn.softplus(params["scale"] * (example[0] @ params["weights"]))


def convolved(kernel, example):
    return jnp.sum(jnp.sin(jnp.convolve(example[0], kernel, mode="valid")))


def nested(params, example):  # the first layer alone is affine: predictions of 4, and the second layer as it is
    return jnp.sum(jnp.tanh(params["second"] @ jnp.tanh(params["first"] @ example[0])))


LABELLED = (X, 1.0)
FOUND = [
    (logistic, normal(5), LABELLED, 1),
    (with_bias, {"weights": normal(5), "bias": 0.3}, LABELLED, 1),
    (softmax, {"weights": normal(5, 3), "bias": normal(3)}, (X, 2), 3),
    (poisson, normal(5), LABELLED, 1),
    (squares, normal(5), LABELLED, 1),
    (through_jit, normal(5), LABELLED, 1),
    (reshaped, normal(10), LABELLED, 2),
    (chosen, normal(5), LABELLED, 1),
    (embedded, normal(7, 3), (X, 4), 3),
    (scaled_link, {"weights": normal(5), "scale": 0.7}, LABELLED, 2),
    (nested, {"first": normal(4, 5), "second": normal(2, 4)}, LABELLED, 12),
]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("loss", "params", "example", "size"), FOUND, ids=lambda x: getattr(x, "__name__", ""))
def test_is_found_and_gives_the_loss_and_its_gradient(loss, params, example, size):
    params = jax.tree.map(jnp.asarray, params)
    model = linear_model.find(loss, params, example)
    assert model is not None
    assert model.size == size
    predictions, pull = jax.vjp(lambda params: model.predict(params, example), params)
    value, slopes = jax.value_and_grad(model.loss)(predictions, example)
    np.testing.assert_allclose(value, loss(params, example), rtol=1e-15)
    ours, theirs = pull(slopes)[0], jax.grad(loss)(params, example)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-13, atol=1e-15), ours, theirs)
    middle = model.predict(jax.tree.map(lambda x: 2 * x, params), example)  # affine: halfway between is halfway between
    start = model.predict(jax.tree.map(jnp.zeros_like, params), example)
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose(2 * a, b + c, rtol=1e-12, atol=1e-12), predictions, middle, start)


def twice(w, example):
    return jnp.tanh(example[0] @ w) + jnp.sum(jnp.sin(w))


def bent(w, example):
    return jnp.sum(example[0] * w**2)


def looped(w, example):
    return jax.lax.fori_loop(0, 3, lambda _, w: w + example[0], w) @ w


def scalar(w, example):  # as many predictions as params: nothing is gained
    return (w * example[0][0] - example[1]) ** 2


@pytest.mark.parametrize(
    ("loss", "params"),
    [(twice, normal(5)), (bent, normal(5)), (looped, normal(5)), (scalar, 0.5), (convolved, normal(2))],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_is_not_found_where_it_would_save_nothing(loss, params):
    assert linear_model.find(loss, jax.tree.map(jnp.asarray, params), LABELLED) is None


def test_works_on_shapes_and_under_vmap_jit_and_grad():
    shapes = jax.ShapeDtypeStruct((5,), jnp.float64), (jax.ShapeDtypeStruct((5,), jnp.float64), jax.ShapeDtypeStruct((), jnp.float64))
    model = linear_model.find(poisson, *shapes)
    assert model is not None
    w, data = jnp.asarray(normal(5)), (jnp.asarray(normal(8, 5)), jnp.arange(8.0))

    @jax.jit
    def gradient(w):
        predictions, pull = jax.vjp(lambda w: jax.vmap(model.predict, (None, 0))(w, data), w)
        return pull(jax.vmap(jax.grad(model.loss))(predictions, data))[0]

    theirs = jax.grad(lambda w: jnp.sum(jax.vmap(poisson, (None, 0))(w, data)))
    np.testing.assert_allclose(gradient(w), theirs(w), rtol=1e-13)
    np.testing.assert_allclose(jax.jacobian(gradient)(w), jax.hessian(lambda w: jnp.sum(jax.vmap(poisson, (None, 0))(w, data)))(w), rtol=1e-12)


def test_params_of_another_structure_are_an_error():
    model = linear_model.find(logistic, jnp.zeros(5), LABELLED)
    assert model is not None
    with pytest.raises(ValueError, match="wanted params and an example as in the trace"):
        model.predict({"weights": jnp.zeros(5)}, LABELLED)
