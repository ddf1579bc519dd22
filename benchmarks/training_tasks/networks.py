"""Networks on the digits."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from benchmarks.training_tasks.task import Task, apply, cross_entropy, dense, digits, noisy


def layers(key, sizes, scale: float = 2.0) -> list[dict]:
    """Dense layers between these sizes, the last of scale 1."""
    keys, last = jax.random.split(key, len(sizes) - 1), len(sizes) - 2
    return [dense(k, sizes[i], sizes[i + 1], 1.0 if i == last else scale) for i, k in enumerate(keys)]


def through(activation, params, x):
    """Dense layers with an activation between them."""
    for layer in params[:-1]:
        x = activation(apply(layer, x))
    return apply(params[-1], x)


def classifies(network):
    """The cross entropy of a network's logits."""
    return lambda params, batch: cross_entropy(network(params, batch[0]), batch[1])


def patches(x):
    """The 3 × 3 patches of (batch, height, width, channels), padded with zeros: under vmap a convolution becomes a plain matrix product."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], -1)


def pool(x):
    """The maximum of 2 × 2 pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


def cnn_digits() -> Task:
    train, test = digits()
    train = (train[0].reshape(-1, 8, 8, 1), noisy(train[1], 0.2, 5))
    test = (test[0].reshape(-1, 8, 8, 1), test[1])

    def init(key):
        keys = jax.random.split(key, 3)
        return [dense(keys[0], 9, 8), dense(keys[1], 72, 16), dense(keys[2], 64, 10, 1.0)]

    def network(params, x):
        for layer in params[:2]:
            x = pool(jax.nn.relu(apply(layer, patches(x))))
        return apply(params[2], x.reshape(len(x), -1))

    note = "two 3 × 3 convolutions and a dense layer, digits, 20 % of the training labels random (test labels are clean)"
    return Task("cnn_digits", note, init, classifies(network), train, test, batch_size=32, steps=440, curve_examples=256)


def mlp_digits() -> Task:
    network = functools.partial(through, jax.nn.relu)
    init = lambda key: layers(key, (64, 48, 10))  # noqa: E731
    return Task("mlp_digits", "one hidden layer of 48, digits", init, classifies(network), *digits(1), batch_size=32, steps=600)


def mlp_large_start() -> Task:
    def init(key):
        first, *others = layers(key, (64, 32, 32, 10))
        return [{**first, "w": 5.0 * first["w"]}, *others]

    network = functools.partial(through, jax.nn.relu)
    note = "two hidden layers of 32, digits, the first layer started five times too large"
    return Task("mlp_large_start", note, init, classifies(network), *digits(2), batch_size=32, steps=600)


def deep_tanh() -> Task:
    network = functools.partial(through, jnp.tanh)
    init = lambda key: layers(key, (64, *[16] * 8, 10), scale=1.0)  # noqa: E731
    return Task("deep_tanh", "eight hidden layers of 16, tanh, digits", init, classifies(network), *digits(3), batch_size=32, steps=800, curve_examples=256)


def autoencoder_digits() -> Task:
    (images, _), (others, _) = digits(4)

    def loss(params, batch):
        return jnp.mean(jnp.sum((jax.nn.sigmoid(through(jnp.tanh, params, batch[0])) - batch[0]) ** 2, -1))

    init = lambda key: layers(key, (64, 32, 6, 32, 64), scale=1.0)  # noqa: E731
    return Task("autoencoder_digits", "digits through a code of 6 numbers", init, loss, (images,), (others,), batch_size=32, steps=800, curve_examples=256)


def residual_digits() -> Task:
    def init(key):
        keys = jax.random.split(key, 8)
        blocks = [{"in": dense(keys[2 * i], 32, 32), "out": dense(keys[2 * i + 1], 32, 32, 0.1), "scale": jnp.ones(32)} for i in range(3)]
        return {"first": dense(keys[6], 64, 32), "blocks": blocks, "last": dense(keys[7], 32, 10, 1.0)}

    def network(params, x):
        x = apply(params["first"], x)
        for block in params["blocks"]:
            x = x + apply(block["out"], jax.nn.gelu(apply(block["in"], block["scale"] * jax.nn.standardize(x, epsilon=1e-5))))
        return apply(params["last"], jax.nn.standardize(x, epsilon=1e-5))

    note = "three residual blocks of width 32 with layer norm, digits, 10 % of the training labels random"
    train, test = digits(5)
    return Task("residual_digits", note, init, classifies(network), (train[0], noisy(train[1], 0.1, 6)), test, batch_size=16, steps=600, curve_examples=256)


BUILDERS = (cnn_digits, mlp_digits, mlp_large_start, deep_tanh, autoencoder_digits, residual_digits)
