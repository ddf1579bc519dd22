"""Value and gradient that a rule hands on are those at the params as they are rounded: in bfloat16 a point between two numbers is up to 0.4 % from both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

RULES = {
    "default": gdjax.reduced_hessian(),
    "nonlinear_cg": gdjax.nonlinear_cg(),
    "barzilai_borwein": gdjax.barzilai_borwein(),
    "armijo": gdjax.armijo(),
    "exact_line_search": gdjax.exact_line_search(),
    "accelerated": gdjax.accelerated(),
    "osgm": gdjax.osgm(0.1),
}


@jax.jit
def loss(w):
    return jnp.sum((w.astype(jnp.float32) - jnp.array([1.0, 3.0, 0.3])) ** 2 * jnp.array([1.0, 20.0, 5.0])) + 0.1


@pytest.mark.one_in(2)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", RULES)
def test_what_is_handed_on_is_of_the_rounded_params(name, dtype):
    init, step = gdjax.descent(lambda w, _: loss(w), RULES[name])
    state, run = init(jnp.array([3.7, -2.3, 1.1], dtype)), jax.jit(step)
    for _ in range(8):
        state, _ = run(state, 0)
        value, grad = jax.value_and_grad(loss)(state.params)
        np.testing.assert_allclose(state.rule_state.value, value, rtol=1e-6)
        np.testing.assert_allclose(state.rule_state.grad.astype(np.float32), grad.astype(np.float32), rtol=1e-2, atol=1e-2)
