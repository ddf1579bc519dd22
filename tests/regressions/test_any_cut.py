"""N steps and then M are N + M steps, bit for bit, for any rule and any cut: every step is a turn of the same loop, whatever the norms taken beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

RANDOM = np.random.default_rng(5)
X, Y = RANDOM.normal(size=(33, 3)).astype(np.float32), RANDOM.normal(size=33).astype(np.float32)


class Stream:
    """The rows in order, in batches of five."""

    def __iter__(self):
        return iter([(X[i : i + 5], Y[i : i + 5]) for i in range(0, 33, 5)])


def loss(w, b):
    return jnp.mean((b[0] @ w - b[1]) ** 2)


RULES = {
    "optax.adam": (optax.adam(0.02), 5),
    "dowg": (gdjax.dowg(), 5),
    "parameter_free_adam": (gdjax.parameter_free_adam(40.0), 5),
    "prodigy, single rows": (gdjax.prodigy(), 1),
    "prodigy, one kernel with norms": (gdjax.prodigy(), 9),
    "all at once, shuffled": (gdjax.parameter_free_sgd(), 33),
    "a stream": (optax.adam(0.02), None),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", RULES)
def test_any_cut(name):
    rule, size = RULES[name]
    data, key = (Stream(), None) if size is None else ((X, Y), 7)

    def run(steps, resume=None):
        return gdjax.fit(loss, jnp.ones(3), data, rule, batch_size=size, key=key, steps=steps, resume=resume)

    whole = run(40)
    for cut in (3, 10, 16, 20, 31, 39):
        parts = run(40, run(cut).state)
        for x, y in zip(*(jax.tree.leaves((made.params, made.value, made.grad_norm, made.history, made.state)) for made in (parts, whole)), strict=True):
            np.testing.assert_array_equal(x, y, err_msg=f"cut at {cut}")


@pytest.mark.parametrize("size", [5, 9])
def test_the_norm_recorded_is_that_of_the_batch(size):
    """However often it is taken."""
    init, step = gdjax.descent(loss, gdjax.sgd(0.02))
    made = gdjax.fit(loss, jnp.ones(3), (X, Y), gdjax.sgd(0.02), batch_size=size, shuffle=False, steps=6, record_every=1)
    state, norms, epoch = init(jnp.ones(3)), [], np.resize(np.arange(33), (-(-33 // size), size))
    for k in range(6):
        rows = epoch[k % len(epoch)]
        state, info = step(state, (X[rows], Y[rows]))
        norms.append(info.grad_norm)
    np.testing.assert_allclose(made.history["grad_norm"], norms, rtol=1e-5)
    assert int(made.evaluations) == 6
