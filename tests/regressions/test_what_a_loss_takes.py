"""A loss that takes something else than it is called with is answered in our words, before anything is computed, at every door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

X, Y = np.ones((8, 3), np.float32), np.ones(8, np.float32)
W = np.zeros(3, np.float32)
SEPARATE = lambda w, x, y: jnp.mean((x @ w - y) ** 2)  # noqa: E731
DOORS = {
    "fit": lambda f: gdjax.fit(f, W, (X, Y), gdjax.sgd(0.1), batch_size=4, epochs=1, key=0),
    "evaluate": lambda f: gdjax.evaluate(f, W, (X, Y)),
    "descent": lambda f: gdjax.descent(f, gdjax.sgd(0.1)).step(gdjax.descent(lambda w, b: w.sum(), gdjax.sgd(0.1)).init(W), (X, Y)),
}


@pytest.mark.parametrize("door", DOORS)
def test_data_come_as_one(door):
    with pytest.raises(TypeError, match=r"loss_fn takes \(w, x, y\).*wanted a function that is called as loss_fn\(params, batch\).*X, y = batch"):
        DOORS[door](SEPARATE)
    with pytest.raises(TypeError, match=r"called as example_loss_fn\(params, example\).*X, y = example"):
        DOORS[door](gdjax.finite_sum(SEPARATE))
    with pytest.raises(TypeError, match=r"regularizer takes \(w, x\).*called as regularizer\(params\)"):
        DOORS[door](gdjax.finite_sum(lambda w, b: jnp.mean((b[0] @ w - b[1]) ** 2), lambda w, x: 0.0))
    with pytest.raises(TypeError, match=r"too many positional arguments.*called as loss_fn\(params, batch\)\.$"):
        DOORS[door](lambda w: w.sum())


def test_further_arguments_of_minimize():
    with pytest.raises(TypeError, match=r"fun takes \(w, b\).*called as fun\(params\): what else it takes goes into args"):
        gdjax.minimize(lambda w, b: w.sum() * b, W)
    with pytest.raises(TypeError, match=r"fun takes \(w\).*called as fun\(params, args\[0\]\)\.$"):
        gdjax.minimize(lambda w: (w**2).sum(), W, args=(X,))


def test_functions_that_do_not_say_what_they_take_are_called():
    class Loss:
        def __call__(self, *everything):
            return jnp.sum((everything[0] - 1) ** 2)

    for loss in (Loss(), jax.jit(lambda w, scale=1.0: jnp.sum((w - scale) ** 2)), lambda *w: jnp.sum((w[0] - 1) ** 2)):
        assert gdjax.minimize(loss, W).status == gdjax.Status.CONVERGED


def test_runs_of_sweeps_and_of_many_starts():
    square = lambda w: jnp.sum((w - 1) ** 2)  # noqa: E731
    rules = gdjax.grid(gdjax.gd, learning_rate=[0.1, 0.2])
    with pytest.raises(TypeError, match=r"run takes \(rule\).*called as run\(rule, key\)"):
        gdjax.sweep(lambda rule: gdjax.minimize(square, W, rule), rules, keys=range(2))
    with pytest.raises(TypeError, match=r"run takes \(rule, key\).*called as run\(rule\)"):
        gdjax.sweep(lambda rule, key: gdjax.minimize(square, W, rule), rules)
    with pytest.raises(TypeError, match=r"params_sampler takes \(\).*called as params_sampler\(key\)"):
        gdjax.multistart(lambda x: gdjax.minimize(square, x), lambda: W, 4, key=0)
