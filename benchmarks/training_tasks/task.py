"""What a training task is, the batches that every method gets, and what the tasks are made of."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A loss, data and how long to train. Data and splits are fixed; a seed changes only the first params and the order of the batches."""

    name: str
    note: str
    init: Callable[[Any], Any]  # key -> params
    loss: Callable[[Any, tuple], Any]  # (params, batch) -> mean over the batch, shape ()
    train: tuple  # of arrays, the leading axis the example
    test: tuple
    batch_size: int
    steps: int
    curve_examples: int = 512  # of train, for the curve; the final loss is that of all

    @property
    def examples(self) -> int:
        """How many there are to train on."""
        return len(self.train[0])

    @property
    def fingerprint(self) -> str:
        """Twelve digits that change with the data, the sizes, the first params and the first loss."""
        digest = hashlib.sha256()
        for array in (*self.train, *self.test):
            digest.update(np.ascontiguousarray(np.asarray(array)).tobytes())
        digest.update(repr((self.batch_size, self.steps)).encode())
        key = jax.random.PRNGKey(0)
        digest.update(repr(jax.tree.map(jnp.shape, jax.eval_shape(self.init, key))).encode())
        first = jax.jit(lambda key, batch: self.loss(self.init(key), batch))(key, tuple(array[:64] for array in self.train))
        digest.update(f"{float(first):.3e}".encode())
        return digest.hexdigest()[:12]


def batches(task: Task, seed: int) -> np.ndarray:
    """Rows, int32 of shape (steps, batch_size): epochs without replacement, the same for every method; what is left over of an epoch is dropped."""
    generator = np.random.default_rng([seed, int(hashlib.sha256(task.name.encode()).hexdigest()[:8], 16)])
    per_epoch, rows = task.examples // task.batch_size, []
    while len(rows) < task.steps:
        rows.extend(generator.permutation(task.examples)[: per_epoch * task.batch_size].reshape(per_epoch, -1))
    return np.stack(rows[: task.steps]).astype(np.int32)


def in_32_bits(*arrays) -> tuple[np.ndarray, ...]:
    """Integers as int32, everything else as float32."""
    return tuple(np.asarray(x, np.int32 if np.issubdtype(np.asarray(x).dtype, np.integer) else np.float32) for x in arrays)


def split(arrays, count: int, seed: int = 0) -> tuple[tuple, tuple]:
    """(train, test), with ``count`` examples drawn for the test."""
    order = np.random.default_rng(seed).permutation(len(arrays[0]))
    return tuple(x[order[count:]] for x in arrays), tuple(x[order[:count]] for x in arrays)


def standardised(features) -> np.ndarray:
    """Columns of mean 0 and standard deviation 1."""
    return (features - features.mean(0)) / features.std(0)


def cross_entropy(logits, labels):
    """Mean over all leading axes."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1))


def dense(key, inputs: int, outputs: int, scale: float = 2.0) -> dict:
    """Weights of variance scale / inputs, biases 0."""
    return {"w": jax.random.normal(key, (inputs, outputs)) * np.sqrt(scale / inputs), "b": jnp.zeros(outputs)}


def apply(layer: dict, x):
    """A dense layer."""
    return x @ layer["w"] + layer["b"]


def zeros(inputs: int, *outputs: int) -> Callable[[Any], dict]:
    """An ``init`` of a linear model that starts at 0, whatever the key."""
    return lambda key: {"w": jnp.zeros((inputs, *outputs)), "b": jnp.zeros(outputs)}


def digits(seed: int = 0) -> tuple[tuple, tuple]:
    """The 1797 digits of 8 × 8 pixels in [0, 1] and their labels, 360 of them for the test."""
    from sklearn import datasets

    data = datasets.load_digits()
    return split(in_32_bits(data.data / 16.0, data.target), 360, seed)


def noisy(labels, share: float, seed: int) -> np.ndarray:
    """Labels of ten classes, a share of them drawn at random."""
    generator = np.random.default_rng(seed)
    drawn = generator.random(len(labels)) < share
    return np.where(drawn, generator.integers(0, 10, len(labels)), labels).astype(np.int32)
