"""Models of a text: characters and words of Python's own help."""

from __future__ import annotations

import contextlib
import functools
import io
import re

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.training_tasks.task import Task, apply, cross_entropy, dense, in_32_bits, split


@functools.cache
def text() -> str:
    """The Zen of Python and the first topics of its help, 60,000 characters in lower case. Another version of Python has another text."""
    import pydoc_data.topics

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        import this
    # A module prints once; its text, in ROT13, stays.
    zen = printed.getvalue() or "".join(this.d.get(c, c) for c in this.s) + "\n"
    topics = pydoc_data.topics.topics
    return re.sub(r"[^\x20-\x7e\n]", "", zen + "".join(topics[name] for name in sorted(topics)[:60]))[:60000].lower()


def windows(length: int, train: int, test: int):
    """(train, test, size of the alphabet): pieces of the text as int32."""
    characters = text()
    alphabet = sorted(set(characters))
    numbers = np.array([alphabet.index(c) for c in characters], np.int32)
    pieces = numbers[: len(numbers) // length * length].reshape(-1, length)
    order = np.random.default_rng(1).permutation(len(pieces))
    return (pieces[order[test : test + train]],), (pieces[order[:test]],), len(alphabet)


def predicts(logits):
    """The cross entropy of the next character."""
    return lambda params, batch: cross_entropy(logits(params, batch[0][:, :-1]), batch[0][:, 1:])


def gru_charlm() -> Task:
    width = 32
    train, test, size = windows(21, 900, 200)

    def init(key):
        keys = jax.random.split(key, 4)
        return {
            "emb": 0.3 * jax.random.normal(keys[0], (size, width)),
            "x": dense(keys[1], width, 3 * width, 1.0),
            "h": {"w": jax.random.normal(keys[2], (width, 3 * width)) / np.sqrt(width)},
            "head": dense(keys[3], width, size, 1.0),
        }

    def logits(params, characters):
        def cell(hidden, x):
            (hr, hz, hn), (xr, xz, xn) = jnp.split(hidden @ params["h"]["w"], 3, -1), jnp.split(x, 3, -1)
            gate = jax.nn.sigmoid(xz + hz)
            hidden = (1 - gate) * jnp.tanh(xn + jax.nn.sigmoid(xr + hr) * hn) + gate * hidden
            return hidden, hidden

        inputs = apply(params["x"], params["emb"][characters]).swapaxes(0, 1)
        _, hidden = jax.lax.scan(cell, jnp.zeros((len(characters), width)), inputs)
        return apply(params["head"], hidden.swapaxes(0, 1))

    note = "gated recurrent network of width 32, characters of Python's help, back-propagated through 20 steps"
    return Task("gru_charlm", note, init, predicts(logits), train, test, batch_size=8, steps=400, curve_examples=96)


def _attention(block, x):
    queries, keys, values = jnp.split((x @ block["qkv"]).reshape(*x.shape[:2], 2, -1), 3, -1)  # two heads
    scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys) / np.sqrt(queries.shape[-1])
    seen = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(seen, scores, -1e9)), values)
    return mixed.reshape(x.shape) @ block["out"]


def transformer_charlm() -> Task:
    width, length = 32, 17
    train, test, size = windows(length, 1200, 200)

    def init(key):
        keys = jax.random.split(key, 7)
        normal = jax.random.normal
        return {
            "characters": 0.3 * normal(keys[0], (size, width)),
            "places": 0.1 * normal(keys[1], (length - 1, width)),
            "qkv": normal(keys[2], (width, 3 * width)) / np.sqrt(width),
            "out": normal(keys[3], (width, width)) / np.sqrt(width),
            "up": dense(keys[4], width, 2 * width),
            "down": dense(keys[5], 2 * width, width, 1.0),
            "scales": jnp.ones((3, width)),
            "head": dense(keys[6], width, size, 1.0),
        }

    def logits(params, characters):
        normal = lambda x, i: params["scales"][i] * jax.nn.standardize(x, epsilon=1e-5)  # noqa: E731
        x = params["characters"][characters] + params["places"]
        x = x + _attention(params, normal(x, 0))
        x = x + apply(params["down"], jax.nn.gelu(apply(params["up"], normal(x, 1))))
        return apply(params["head"], normal(x, 2))

    note = "transformer of one layer, two heads and width 32, characters of Python's help, 16 at a time"
    return Task("transformer_charlm", note, init, predicts(logits), train, test, batch_size=16, steps=400, curve_examples=96)


def word_vectors() -> Task:
    words = re.findall(r"[a-z]+", text())
    known, counts = np.unique(words, return_counts=True)
    known, counts = known[counts >= 5], counts[counts >= 5]
    place = {word: index for index, word in enumerate(known)}
    kept = np.array([place[word] for word in words if word in place])
    pairs = [(kept[i], kept[i + step]) for step in (1, 2) for i in range(len(kept) - step)]
    generator = np.random.default_rng(31)
    negatives = generator.choice(len(known), (len(pairs), 4), p=counts**0.75 / np.sum(counts**0.75))

    def init(key):
        return {"word": jax.random.uniform(key, (len(known), 8), minval=-1.0, maxval=1.0) / 8, "context": jnp.zeros((len(known), 8))}

    def loss(params, batch):
        word, context = params["word"][batch[0][:, 0]], params["context"][batch[0][:, 1:]]
        scores = jnp.einsum("bd,bkd->bk", word, context)
        return jnp.mean(jnp.sum(jax.nn.softplus(scores * jnp.array([-1.0, 1.0, 1.0, 1.0, 1.0])), -1))

    note = "skip-grams with four negative words, vectors of 8 for the words of Python's help: sparse gradients, a saddle at the start"
    train, test = split(in_32_bits(np.column_stack([np.array(pairs), negatives])), 2000)
    return Task("word_vectors", note, init, loss, train, test, batch_size=64, steps=800)


BUILDERS = (gru_charlm, transformer_charlm, word_vectors)
