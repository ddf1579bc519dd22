"""Linear models: convex, smooth and not, well and badly scaled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.training_tasks.task import Task, apply, cross_entropy, digits, in_32_bits, split, standardised, zeros


def softmax_digits() -> Task:
    return Task(
        "softmax_digits",
        "softmax regression, digits",
        zeros(64, 10),
        lambda params, batch: cross_entropy(apply(params, batch[0]), batch[1]),
        *digits(),
        batch_size=32,
        steps=880,
    )


def poisson_digits() -> Task:
    from sklearn import datasets

    images = datasets.load_digits().data

    def loss(params, batch):
        log_rate = apply(params, batch[0])
        return jnp.mean(jnp.exp(log_rate) - batch[1] * log_rate)

    return Task(
        "poisson_digits",
        "Poisson regression: ink in a row of pixels from the raw (0 to 16) top half; the least loss is negative",
        zeros(32),
        loss,
        *split(in_32_bits(images[:, :32], images[:, 40:48].sum(1)), 360),
        batch_size=32,
        steps=1200,
    )


def logistic_cancer() -> Task:
    from sklearn import datasets

    data = datasets.load_breast_cancer()
    return Task(
        "logistic_cancer",
        "logistic regression, breast cancer, features as they come, between 1e-3 and 4e3",
        zeros(30),
        lambda params, batch: jnp.mean(jax.nn.softplus(-batch[1] * apply(params, batch[0]))),
        *split(in_32_bits(data.data, 2.0 * data.target - 1.0), 114),
        batch_size=16,
        steps=800,
    )


def least_squares_diabetes() -> Task:
    from sklearn import datasets

    data = datasets.load_diabetes()
    return Task(
        "least_squares_diabetes",
        "least squares, diabetes: features of size 0.05, targets about 150, an intercept whose curvature is 400 times theirs",
        zeros(10),
        lambda params, batch: jnp.mean((apply(params, batch[0]) - batch[1]) ** 2) / 2,
        *split(in_32_bits(data.data, data.target.astype(float)), 88),
        batch_size=16,
        steps=600,
    )


def badly_scaled_regression() -> Task:
    generator = np.random.default_rng(21)
    scales = np.logspace(-1, 1, 40)
    features = generator.normal(size=(2000, 40)) * scales
    targets = features @ (generator.normal(size=40) / scales) + 0.1 * generator.normal(size=2000)
    return Task(
        "badly_scaled_regression",
        "least squares, 40 features of scales 0.1 to 10 that matter equally: condition 1e4",
        zeros(40),
        lambda params, batch: jnp.mean((apply(params, batch[0]) - batch[1]) ** 2) / 2,
        *split(in_32_bits(features, targets), 400),
        batch_size=16,
        steps=1200,
    )


def pinball_diabetes() -> Task:
    from sklearn import datasets

    data = datasets.load_diabetes()

    def loss(params, batch):
        error = batch[1] - apply(params, batch[0])
        return jnp.mean(jnp.maximum(0.9 * error, -0.1 * error))

    return Task(
        "pinball_diabetes",
        "0.9-quantile regression (pinball loss, not smooth), diabetes, standardised features, targets about 150",
        zeros(10),
        loss,
        *split(in_32_bits(standardised(data.data), data.target.astype(float)), 88),
        batch_size=16,
        steps=800,
    )


def hinge_digits() -> Task:
    def loss(params, batch):
        scores, labels = apply(params, batch[0]), batch[1]
        own = jnp.take_along_axis(scores, labels[:, None], -1)
        margins = scores - own + (jnp.arange(10) != labels[:, None])
        return jnp.mean(jnp.max(margins, -1)) + 0.5e-3 * jnp.sum(params["w"] ** 2)

    return Task(
        "hinge_digits",
        "support vector machine of ten classes (not smooth), digits, pixels 0 to 1",
        zeros(64, 10),
        loss,
        *digits(),
        batch_size=16,
        steps=1000,
    )


def heavy_tails() -> Task:
    generator = np.random.default_rng(23)
    features = generator.standard_t(3, size=(2000, 20))
    targets = features @ generator.normal(size=20) + generator.standard_t(1.5, size=2000)
    return Task(
        "heavy_tails",
        "regression with the pseudo-Huber loss, features of three and noise of 1.5 degrees of freedom",
        zeros(20),
        lambda params, batch: jnp.mean(jnp.sqrt(1.0 + (apply(params, batch[0]) - batch[1]) ** 2) - 1.0),
        *split(in_32_bits(features, targets), 400),
        batch_size=16,
        steps=800,
    )


BUILDERS = (
    softmax_digits,
    poisson_digits,
    logistic_cancer,
    least_squares_diabetes,
    badly_scaled_regression,
    pinball_diabetes,
    hinge_digits,
    heavy_tails,
)
