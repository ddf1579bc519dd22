"""Outside of jit a step costs a few small operations: nothing in it is compiled again, which took up to half a second for each of its loops and choices."""

import jax
import jax.numpy as jnp
import pytest
from cases import CASES
from problems import offered
from representatives import firsts

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(lambda name, seconds, **_: COMPILED.append(name) if name.endswith("backend_compile_duration") else None)

# Searches call the loss in loops, which JAX compiles for each loss that it is given; outer_loop chooses between two rules of the user's.
SEARCHES = {"reduced_hessian", "accelerated", "barzilai_borwein", "armijo", "nonlinear_cg", "stochastic_line_search", "exact_line_search", "outer_loop"}


def loss(params):
    return jnp.sum((params["a"] - 1) ** 2) + jnp.sum(params["b"] ** 2)


@pytest.mark.parametrize("case", [case for case in filter(firsts(CASES, lambda case: case.name), CASES) if case.name not in SEARCHES], ids=str)
def test_nothing_is_compiled_again(case):
    rule, params = case.make(), {"a": jnp.full((3, 2), 3.0), "b": jnp.ones(2)}
    state = rule.init(params)
    for number in range(5):
        grads, extra = offered(loss, params)
        before = len(COMPILED)
        updates, state = rule.update(grads, state, params, **extra)
        assert number < 3 or len(COMPILED) == before, f"step {number}: {len(COMPILED) - before} compilations"
        params = jax.tree.map(jnp.add, params, updates)
