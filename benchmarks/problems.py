"""The problems of the benchmarks: losses in JAX and in PyTorch, starting points and data. NumPy makes all arrays, from fixed seeds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Problem(NamedTuple):
    """A loss ``loss_fn(params, batch)`` with the numbers of its rule; ``batch`` is all data, or nothing for a test function."""

    name: str
    loss_fn: Callable
    torch_loss_fn: Callable  # torch_loss_fn(torch, params, batch)
    params: Any  # a pytree of NumPy arrays
    data: Any  # a tuple of NumPy arrays, or None
    learning_rate: float
    momentum: float | None = None

    @property
    def args(self) -> tuple:
        """What follows params in a full-batch call of the loss, as JAX arrays."""
        return () if self.data is None else (jax.tree.map(jnp.asarray, self.data),)


def rosenbrock_loss(x):
    """Rosenbrock's function of any number of variables."""
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def _torch_rosenbrock(torch, x, batch):
    return torch.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def rosenbrock(dimension: int = 10) -> Problem:
    """Rosenbrock's function; the learning rate is small enough that no run ends before its last step."""
    start = np.resize([-1.2, 1.0, 0.8, -0.5, 0.3, 1.1, -0.7, 0.6, 0.9, 0.2], dimension).astype(np.float32)
    return Problem("rosenbrock", rosenbrock_loss, _torch_rosenbrock, start, None, 1e-5)


def logistic_loss(params, batch):
    """Mean logistic loss of labels -1 and 1."""
    inputs, labels = batch
    return jnp.mean(jax.nn.softplus(-labels * (inputs @ params["weights"] + params["bias"])))


def _torch_logistic(torch, params, batch):
    inputs, labels = batch
    return torch.nn.functional.softplus(-labels * (inputs @ params["weights"] + params["bias"])).mean()


def logistic(momentum: float | None = None) -> Problem:
    """Logistic regression on the breast cancer data, 569 x 30, standardised."""
    from sklearn.datasets import load_breast_cancer

    inputs, labels = load_breast_cancer(return_X_y=True)
    inputs = ((inputs - inputs.mean(0)) / inputs.std(0)).astype(np.float32)
    params = {"weights": np.zeros(inputs.shape[1], np.float32), "bias": np.zeros((), np.float32)}
    return Problem("logistic", logistic_loss, _torch_logistic, params, (inputs, (2 * labels - 1).astype(np.float32)), 0.05, momentum)


@functools.cache
def images(rows: int = 60_000, columns: int = 784, classes: int = 10):
    """Generated images and labels: one blurred prototype per class plus noise, values about those of scaled grey levels."""
    random = np.random.default_rng(20240611)
    prototypes = random.uniform(0.0, 0.6, (classes, columns)).astype(np.float32)
    labels = random.integers(0, classes, rows).astype(np.int32)
    noise = random.standard_normal((rows, columns), np.float32)
    return prototypes[labels] + 0.3 * noise, labels


def _cross_entropy(logits, labels):
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - chosen)


def softmax_loss(params, batch):
    """Mean cross-entropy of softmax regression."""
    inputs, labels = batch
    return _cross_entropy(inputs @ params["weights"] + params["bias"][None, :], labels)


def _torch_softmax(torch, params, batch):
    inputs, labels = batch
    return torch.nn.functional.cross_entropy(inputs @ params["weights"] + params["bias"], labels)


def softmax(rows: int = 60_000, columns: int = 784) -> Problem:
    """Softmax regression, 784 -> 10."""
    params = {"weights": np.zeros((columns, 10), np.float32), "bias": np.zeros(10, np.float32)}
    return Problem("softmax", softmax_loss, _torch_softmax, params, images(rows, columns), 0.01)


def binary(rows: int = 60_000, columns: int = 784) -> Problem:
    """Logistic regression on the same images: whether the class is one of the first half."""
    inputs, labels = images(rows, columns)
    params = {"weights": np.zeros(columns, np.float32), "bias": np.zeros((), np.float32)}
    return Problem("binary", logistic_loss, _torch_logistic, params, (inputs, np.where(labels < 5, 1, -1).astype(np.float32)), 0.001)


def mlp_loss(params, batch):
    """Mean cross-entropy of a network with one hidden layer."""
    inputs, labels = batch
    hidden = jax.nn.relu(inputs @ params["weights_1"] + params["bias_1"][None, :])
    return _cross_entropy(hidden @ params["weights_2"] + params["bias_2"][None, :], labels)


def _torch_mlp(torch, params, batch):
    inputs, labels = batch
    hidden = torch.relu(inputs @ params["weights_1"] + params["bias_1"])
    return torch.nn.functional.cross_entropy(hidden @ params["weights_2"] + params["bias_2"], labels)


def mlp(rows: int = 60_000, columns: int = 784, hidden: int = 128) -> Problem:
    """A network 784 -> 128 -> 10 with rectified linear units."""
    random = np.random.default_rng(7)
    params = {
        "weights_1": (random.standard_normal((columns, hidden)) / np.sqrt(columns)).astype(np.float32),
        "bias_1": np.zeros(hidden, np.float32),
        "weights_2": (random.standard_normal((hidden, 10)) / np.sqrt(hidden)).astype(np.float32),
        "bias_2": np.zeros(10, np.float32),
    }
    return Problem("mlp", mlp_loss, _torch_mlp, params, images(rows, columns), 0.01)


def _convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def convolutional_loss(params, batch):
    """Mean cross-entropy of a network with two convolutions of stride 2 and a linear layer."""
    inputs, labels = batch
    hidden = jax.nn.relu(_convolve(inputs.reshape(-1, 28, 28, 1), params["kernel_1"]))
    hidden = jax.nn.relu(_convolve(hidden, params["kernel_2"]))
    return _cross_entropy(hidden.reshape(inputs.shape[0], -1) @ params["weights"] + params["bias"][None, :], labels)


def _torch_convolutional(torch, params, batch):
    inputs, labels = batch
    hidden = inputs.reshape(-1, 1, 28, 28)
    for name in ("kernel_1", "kernel_2"):  # SAME padding of a stride of 2 lies below and to the right
        padded = torch.nn.functional.pad(hidden, (0, 1, 0, 1))
        hidden = torch.relu(torch.nn.functional.conv2d(padded, params[name].permute(3, 2, 0, 1), stride=2))
    flat = hidden.permute(0, 2, 3, 1).reshape(inputs.shape[0], -1)
    return torch.nn.functional.cross_entropy(flat @ params["weights"] + params["bias"], labels)


def convolutional(rows: int = 6_000) -> Problem:
    """A small convolutional network on images of 28 x 28."""
    random = np.random.default_rng(9)
    params = {
        "kernel_1": (random.standard_normal((3, 3, 1, 16)) / 3).astype(np.float32),
        "kernel_2": (random.standard_normal((3, 3, 16, 32)) / 12).astype(np.float32),
        "weights": (random.standard_normal((1568, 10)) / 40).astype(np.float32),
        "bias": np.zeros(10, np.float32),
    }
    return Problem("convolutional", convolutional_loss, _torch_convolutional, params, images(rows), 0.01)


def large_linear_loss(params, batch):
    """Mean squared error of a linear map: the params are large and everything else is small."""
    inputs, targets = batch
    return jnp.mean((inputs @ params - targets) ** 2)


def _torch_large_linear(torch, params, batch):
    inputs, targets = batch
    return torch.mean((inputs @ params - targets) ** 2)


def large_linear(side: int = 5000, rows: int = 64) -> Problem:
    """Linear regression with side x side params (25 million) on few rows, with momentum: what memory is measured on."""
    random = np.random.default_rng(3)
    data = tuple(random.standard_normal((rows, side), np.float32) for _ in range(2))
    return Problem("large", large_linear_loss, _torch_large_linear, np.zeros((side, side), np.float32), data, 1e-3, 0.9)
