"""Rules that search work where a client offers value, gradient and ``value_fn`` alone, as to ``optax.lbfgs``, and where rules hold arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

CENTRE, CURVATURES = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 4.0, 9.0])
RULES = {
    "reduced_hessian": gdjax.reduced_hessian(),
    "nonlinear_cg": gdjax.nonlinear_cg(),
    "armijo": gdjax.armijo(),
    "barzilai_borwein": gdjax.barzilai_borwein(),
    "accelerated": gdjax.accelerated(),
    "ac_fgm": gdjax.ac_fgm(),
    "exact_line_search": gdjax.exact_line_search(),
    "osgm": gdjax.osgm(0.1),
    "sam": gdjax.sam(gdjax.sgd(0.05), radius=1e-4),
    "asam": gdjax.asam(gdjax.sgd(0.05), radius=1e-4),
    "adgd": gdjax.adgd(),
    "adapgm": gdjax.adapgm(),
    "in a chain": gdjax.chain(gdjax.armijo()),
    "in optax's chain": optax.chain(gdjax.armijo()),
}


def loss(x, scale=1.0):
    return scale * jnp.sum(CURVATURES * (x - CENTRE) ** 2)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", RULES)
def test_the_convention_of_optax(name):
    rule = RULES[name]

    def step(carry, _):
        x, state = carry
        value, grad = jax.value_and_grad(loss)(x)
        updates, state = rule.update(grad, state, x, value=value, grad=grad, value_fn=loss)
        return (optax.apply_updates(x, updates), state), None

    x = jnp.zeros(3)
    (x, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, length=120))((x, rule.init(x)))
    np.testing.assert_allclose(x, CENTRE, atol=1e-2)


def test_value_fn_takes_what_it_names():
    """As ``optax.scale_by_backtracking_linesearch`` has it: ``update(..., value_fn=f, scale=2.0)`` for f(params, scale)."""
    rule, x = gdjax.armijo(first_learning_rate=1e-3), jnp.zeros(3)
    bare = lambda x, scale: loss(x, scale)  # noqa: E731
    value, grad = jax.value_and_grad(bare)(x, 2.0)
    _, state = rule.update(grad, rule.init(x), x, value=value, value_fn=bare, scale=2.0)
    np.testing.assert_allclose(state.value, 2 * loss(x - 1e-3 * grad), rtol=1e-6)


def test_without_functions_the_error_says_what_is_wanted():
    rule, x = gdjax.armijo(), jnp.zeros(3)
    with pytest.raises(ValueError, match="update got no value_and_grad_fn"):
        rule.update(x, rule.init(x), x, value=loss(x))


def test_flax_takes_rules_that_hold_arrays():
    nnx = pytest.importorskip("flax.nnx")
    for rule in gdjax.sgd(jnp.float32(0.1)), gdjax.sgd(0.1), gdjax.chain(gdjax.sgd(jnp.float32(0.1))):
        model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)
        before = model.kernel[...]

        @nnx.jit
        def step(model, optimizer):
            optimizer.update(model, nnx.grad(lambda model: jnp.sum(model(jnp.ones(2))))(model))

        step(model, optimizer)
        np.testing.assert_allclose(model.kernel[...], before - 0.1, rtol=1e-5)
        assert optimizer.tx == rule


def test_optimistix_takes_rules_that_search():
    optimistix = pytest.importorskip("optimistix")
    solver = optimistix.OptaxMinimiser(gdjax.reduced_hessian(), rtol=1e-6, atol=1e-6)
    found = optimistix.minimise(lambda x, _: loss(x), solver, jnp.zeros(3), max_steps=100, throw=False)
    np.testing.assert_allclose(found.value, CENTRE, atol=1e-3)
