"""What does not depend on the units of the loss in theory does not in float32 either, where squares of gradients leave its range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

RULES = {
    "reduced_hessian": (gdjax.reduced_hessian(), 30),
    "nonlinear_cg": (gdjax.nonlinear_cg(), 30),
    "barzilai_borwein": (gdjax.barzilai_borwein(), 30),
    "armijo": (gdjax.armijo(), 60),
    "accelerated": (gdjax.accelerated(), 60),
    "prodigy": (gdjax.prodigy(eps=0.0), 400),
    "parameter_free_sgd": (gdjax.parameter_free_sgd(400.0), 400),
    "parameter_free_adam": (gdjax.parameter_free_adam(400.0), 400),
}
CENTRE, CURVATURES = jnp.array([1.0, -2.0, 0.5]), jnp.array([1.0, 3.0, 10.0])


@pytest.mark.parametrize("name", RULES)
def test_full_batches(name):
    rule, steps = RULES[name]

    @jax.jit
    def end(unit):
        init, step = gdjax.descent(lambda x, _: unit * jnp.sum(CURVATURES * (x - CENTRE) ** 2), rule)
        return jax.lax.scan(lambda state, _: (step(state, 0)[0], None), init(jnp.zeros(3)), length=steps)[0].params

    for exponent in (-30, -20, -10, 0, 10, 20, 30):
        np.testing.assert_allclose(end(jnp.float32(10.0**exponent)), CENTRE, atol=1e-2, err_msg=f"loss times 1e{exponent}")


@pytest.mark.parametrize("rule", [None, gdjax.saga()], ids=["default", "saga"])
def test_batches(rule):
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(64, 3)).astype(np.float32)
    data = inputs, inputs @ np.asarray(CENTRE)
    for exponent in (-20, 20):
        loss = gdjax.finite_sum(lambda w, row, exponent=exponent: np.float32(10.0**exponent) * (row[0] @ w - row[1]) ** 2)
        result = gdjax.fit(loss, jnp.zeros(3), data, rule, batch_size=8, epochs=20, key=0)
        np.testing.assert_allclose(result.params, CENTRE, atol=0.1, err_msg=f"loss times 1e{exponent}")
