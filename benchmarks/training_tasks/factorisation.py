"""Factorisations, a mixture and a curved valley: not convex, with saddles or sparse gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.training_tasks.task import Task, in_32_bits, split


def factors(rows: int, columns: int, rank: int, size: float):
    """An ``init`` of two factors with normal entries of this size."""

    def init(key):
        one, other = jax.random.split(key)
        return {"u": size * jax.random.normal(one, (rows, rank)), "v": size * jax.random.normal(other, (columns, rank))}

    return init


def products(params, batch):
    """The entries of the product at the rows and columns of a batch."""
    return jnp.sum(params["u"][batch[0]] * params["v"][batch[1]], -1)


def matrix_factorisation() -> Task:
    generator = np.random.default_rng(11)
    full = generator.normal(size=(120, 4)) @ generator.normal(size=(4, 100)) + 0.3 * generator.normal(size=(120, 100))
    i, j = np.unravel_index(generator.permutation(full.size)[:5000], full.shape)
    return Task(
        "matrix_factorisation",
        "rank 6 for a 120 × 100 matrix of rank 4 with noise, 40 % observed; small first factors, near a saddle",
        factors(120, 100, 6, 0.1),
        lambda params, batch: jnp.mean((products(params, batch) - batch[2]) ** 2),
        *split(in_32_bits(i, j, full[i, j]), 1000),
        batch_size=128,
        steps=1520,
        curve_examples=4000,
    )


def binary_factorisation() -> Task:
    from sklearn import datasets

    pixels = datasets.load_digits().data[:120] > 7
    i, j = np.unravel_index(np.arange(pixels.size), pixels.shape)
    return Task(
        "binary_factorisation",
        "logistic factors of rank 5 for the black and white pixels of 120 digits, a fifth of them left out",
        factors(120, 64, 5, 0.2),
        lambda params, batch: jnp.mean(jax.nn.softplus(-(2.0 * batch[2] - 1.0) * products(params, batch))),
        *split(in_32_bits(i, j, pixels[i, j].astype(float)), pixels.size // 5),
        batch_size=64,
        steps=1200,
        curve_examples=4000,
    )


def mixture_iris() -> Task:
    from sklearn import datasets

    def init(key):
        return {"mean": 3.0 + jax.random.normal(key, (3, 4)), "log_scale": jnp.zeros((3, 4)), "logit": jnp.zeros(3)}

    def loss(params, batch):
        variance = 0.01 + jnp.exp(2.0 * params["log_scale"])  # at least that of rounding to millimetres, or the likelihood has no bound
        distance = (batch[0][:, None] - params["mean"]) ** 2 / variance
        log_density = -0.5 * jnp.sum(distance + jnp.log(variance), -1) + jax.nn.log_softmax(params["logit"])
        return -jnp.mean(jax.nn.logsumexp(log_density, -1))

    note = "three normal distributions with diagonal covariances, iris in centimetres"
    train, test = split(in_32_bits(datasets.load_iris().data), 30)
    return Task("mixture_iris", note, init, loss, train, test, batch_size=10, steps=1000)


def noisy_valley() -> Task:
    generator = np.random.default_rng(29)
    centres = 1.0 + 0.5 * generator.normal(size=(1000, 6))

    def loss(params, batch):
        bend = 20.0 * (params[1:] - params[:-1] ** 2) ** 2
        return jnp.mean(jnp.sum((params - batch[0]) ** 2, -1)) + jnp.sum(bend)

    def init(key):
        return jnp.array([-1.2, 1.0, -1.2, 1.0, -1.2, 1.0]) + 0.1 * jax.random.normal(key, (6,))

    note = "Rosenbrock's chain in six dimensions, each example pulling to another point"
    return Task("noisy_valley", note, init, loss, *split(in_32_bits(centres), 200), batch_size=10, steps=1200)


BUILDERS = (matrix_factorisation, binary_factorisation, mixture_iris, noisy_valley)
