"""Every rule, every law: the table is cases.py, the laws are here.

What an algorithm computes is told by every row: convergence, transcription, twin, rescaling. Laws about the form of a rule (how it is
traced, mapped, differentiated, turned) hold by how its functions are written, which the rows of a rule share: they are tried on its first
row, and on the others under ``-m full``. Where a law has a side of its own (seven wrappers, three kinds of scalars) the rows take turns.
"""

import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from cases import CASES, ON_DATA
from problems import offered
from representatives import firsts, some

import gdjax
from gdjax.arguments import Factory
from gdjax.rule import as_rule

# In float64, in which searches and adaptive steps, which magnify rounding, have room: what these laws catch is never small.
exact = pytest.mark.usefixtures("x64")


def rows(holds):
    """The rows of which a law holds."""
    return pytest.mark.parametrize("case", [case for case in CASES if holds(case)], ids=str)


def rules(holds):
    """The first row of each rule of which a law holds; its other rows in the full run."""
    held = [case for case in CASES if holds(case)]
    return pytest.mark.parametrize("case", some(held, firsts(held, lambda case: case.name)), ids=str)


def in_turn(cases, others):
    """Pairs of rows and something else: row i with the i-th of the others and each fourth from there, and with all of them in the full run."""
    pairs = [(case, other) for case in cases for other in others]
    return some(pairs, lambda pair: (others.index(pair[1]) - CASES.index(pair[0])) % min(len(others), 4) == 0)


every = rows(lambda case: True)
every_rule = rules(lambda case: True)
numbered = rules(lambda case: case.number is not None)  # laws about the number of a rule

# Coupled, asymmetric, not centred at 0, curvatures in [0.34, 3.33]: a bowl at the origin sees no flipped sign.
HESSIAN = np.array([[2.0, 0.6, -0.3, 0.4], [0.6, 1.2, 0.5, -0.2], [-0.3, 0.5, 2.8, 0.7], [0.4, -0.2, 0.7, 0.9]])
CENTRE = np.array([1.5, -0.7, 0.4, 2.2])
START = np.array([-1.0, 2.0, 0.5, -3.0])
WAVES = 0.2  # height of a sine on top, which makes the gradient nonlinear


def flat(params):
    return jnp.concatenate([params["weights"], params["bias"][None]])


def quadratic(params):
    x = flat(params) - jnp.asarray(CENTRE, params["bias"].dtype)
    return x @ jnp.asarray(HESSIAN, x.dtype) @ x / 2


def wavy(params):
    return quadratic(params) + WAVES * jnp.sum(jnp.sin(flat(params)))


def level(params):
    return jnp.sum(flat(params)) * 0.0


class Oracle:
    """The same in NumPy, for the transcriptions: called it is the gradient."""

    def __call__(self, x):
        return HESSIAN @ (x - CENTRE) + WAVES * np.cos(x)

    def value(self, x):
        return (x - CENTRE) @ HESSIAN @ (x - CENTRE) / 2 + WAVES * np.sin(x).sum()


def start(dtype=None):
    return {"weights": jnp.asarray(START[:3], dtype), "bias": jnp.asarray(START[3], dtype)}


def step(rule, loss, state, params):
    """(updates, state) with all that drivers offer."""
    grads, extra = offered(loss, params)
    return rule.update(grads, state, params, **extra)


# Rules are arguments of a jitted function, so the laws about a rule share its compilation.
compiled_step = jax.jit(step, static_argnames="loss")


@functools.partial(jax.jit, static_argnames=("loss", "steps"))
def compiled_run(rule, loss, params, steps):
    """The final (params, state), and all points at which gradients were taken, stacked along a leading axis."""

    def body(carry, _):
        params, state = carry
        updates, state = step(rule, loss, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    final, stacked = jax.lax.scan(body, (params, rule.init(params)), length=steps)
    return final, jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), params, stacked)


def run(rule, loss, params, steps):
    """``compiled_run`` for any optax transformation."""
    return compiled_run(as_rule(rule), loss, params, steps)


def path(rule, loss, params, steps=20):
    """All points at which gradients were taken."""
    return run(rule, loss, params, steps)[1]


def flat_path(rule, loss, params, steps=20):
    return jax.vmap(flat)(path(rule, loss, params, steps))


def test_every_rule_has_its_row():
    rules = {name for name, made in vars(gdjax.rules).items() if isinstance(made, Factory)}
    rows = {case.name for case in CASES} | set(ON_DATA)
    assert rules == rows, f"add a row to tests/cases.py for {sorted(rules - rows)}; add a line to gdjax/rules/__init__.py for {sorted(rows - rules)}"
    files = {file.stem for file in Path(gdjax.rules.__path__[0]).glob("*.py")} - {"__init__"}
    exported = {getattr(gdjax.rules, name).__module__.rpartition(".")[2] for name in rules}
    assert files == exported, f"add a line to gdjax/rules/__init__.py for {sorted(files - exported)}"
    assert len({str(case) for case in CASES}) == len(CASES), "two rows of tests/cases.py have the same name and variant"


@pytest.mark.parametrize("name", sorted({case.name for case in CASES} | set(ON_DATA)))
def test_is_exported_and_says_what_it_guarantees(name):
    factory = getattr(gdjax.rules, name)
    assert getattr(gdjax, name) is factory, f"gdjax/__init__.py does not export {name}"
    parts = ("Args:", "Returns:", "Raises:", "Guarantee:", "When to use it:", "Example:", ">>>", "Reference:")
    missing = [part for part in parts if part not in factory.__doc__]
    assert not missing, f"the docstring of {name} lacks {missing}"


@every
def test_converges_on_a_strongly_convex_quadratic(case):
    rule = case.make()
    params, state = run(rule, quadratic, start(), case.steps)[0]
    final = flat(gdjax.eval_params(rule, state, params))
    minimum = np.linalg.solve(HESSIAN + case.regularization * np.eye(4), HESSIAN @ CENTRE)
    np.testing.assert_allclose(final, minimum, atol=case.accuracy)


@every
@pytest.mark.usefixtures("x64")
def test_equals_its_transcription_in_numpy(case):
    rule = case.make()
    ours = flat_path(rule, wavy, start(jnp.float64))
    theirs = getattr(reference, case.name)(Oracle(), START, 20, **rule.arguments)
    assert ours.dtype == np.float64
    tolerance = 1e-11 if case.functions else 1e-12  # line searches divide by differences of values
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", [case for case in CASES if case.twin], ids=str)
def test_equals_its_twin_in_optax(case):
    chex.assert_trees_all_close(path(case.make(), wavy, start()), path(case.twin(), wavy, start()), rtol=case.twin_rtol, atol=1e-6)


@pytest.mark.one_in(2)
@exact
@numbered
def test_one_trace_serves_all_numbers(case):
    traces = []

    @jax.jit
    def traced(rule):
        traces.append(rule)
        return flat_path(rule, wavy, start(), 3)

    first, second = traced(case.make()), traced(case.make(case.number / 2))
    assert len(traces) == 1
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_allclose(second, flat_path(case.make(case.number / 2), wavy, start(), 3), rtol=1e-5)


@pytest.mark.one_in(2)
@exact
@every_rule
def test_jit_changes_nothing(case):
    rule, params = case.make(), start()
    state = rule.init(params)
    for _ in range(2):
        eager, compiled = step(rule, wavy, state, params), compiled_step(rule, wavy, state, params)
        chex.assert_trees_all_close(eager, compiled, rtol=1e-9, atol=1e-10)
        updates, state = eager
        params = optax.apply_updates(params, updates)


@pytest.mark.one_in(2)
@exact
@numbered
def test_vmap_over_rules_is_a_loop_over_rules(case):
    rates = case.number * jnp.array([0.25, 0.5, 1.0])
    rules = jax.vmap(case.make)(rates)
    mapped = jax.vmap(lambda rule: flat_path(rule, wavy, start()))(rules)
    looped = [flat_path(case.make(rate), wavy, start()) for rate in rates]
    np.testing.assert_allclose(mapped, jnp.stack(looped), rtol=1e-8, atol=1e-9)


@pytest.mark.one_in(2)
@exact
@every_rule
def test_vmap_over_params_is_a_loop_over_params(case):
    starts = jax.tree.map(lambda x: jnp.stack([x, -2 * x, x + 1]), start())
    rule = case.make()
    mapped = jax.vmap(lambda params: flat_path(rule, wavy, params))(starts)
    looped = [flat_path(rule, wavy, jax.tree.map(lambda x, i=i: x[i], starts)) for i in range(3)]
    np.testing.assert_allclose(mapped, jnp.stack(looped), rtol=1e-7, atol=1e-8)


@pytest.mark.one_in(2)
@exact
@numbered
def test_differentiates_with_respect_to_its_numbers(case):
    def final(rate):
        return quadratic(jax.tree.map(lambda x: x[-1], path(case.make(rate), quadratic, start(), 5)))

    rate = jnp.asarray(case.number)
    slope = (final(rate * 1.01) - final(rate * 0.99)) / (0.02 * rate)
    derivative = jax.grad if case.backwards else jax.jacfwd
    np.testing.assert_allclose(derivative(final)(rate), slope, rtol=0.03, atol=0.02)


# The narrowest dtype, which every Python number and float32 promotes, and float32 where NumPy's numbers would be float64: the other three are between these.
@pytest.mark.one_in(2)
@every_rule
@pytest.mark.parametrize(
    ("dtype", "enabled"),
    some(
        [("float32", False), ("bfloat16", False), ("float32", True), ("bfloat16", True), ("float64", True)],
        [("bfloat16", False), ("float32", True)].__contains__,
    ),
)
def test_dtypes_shapes_and_structure_do_not_drift(case, dtype, enabled):
    with jax.enable_x64(enabled):
        rule, params = case.make(), start(dtype)
        state = first = rule.init(params)
        for _ in range(3):
            updates, state = compiled_step(rule, wavy, state, params)
            chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
            chex.assert_trees_all_equal_shapes_and_dtypes(state, first)
            params = optax.apply_updates(params, updates)
        chex.assert_tree_all_finite((updates, state))


@pytest.mark.one_in(2)
@every_rule
def test_mixed_dtypes_stay_what_they_are(case):
    rule = case.make()
    params = {"weights": jnp.asarray(START[:3], jnp.bfloat16), "bias": jnp.float32(START[3])}
    updates, state = compiled_step(rule, wavy, rule.init(params), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, rule.init(params))


@pytest.mark.one_in(2)
@every_rule
def test_strict_promotion_is_kept(case):
    def two_steps(rule, params):
        state = rule.init(params)
        for _ in range(2):
            updates, state = step(rule, loss, state, params)
            params = optax.apply_updates(params, updates)
        return gdjax.eval_params(rule, state, params)

    def loss(params):  # of the widest dtype, whatever the leaves have
        x = jnp.append(params["weights"].astype(params["bias"].dtype), params["bias"])
        return jnp.vdot(x, x) + jnp.sum(jnp.sin(x))

    for narrow, wide, enabled in (("float32", "float32", False), ("bfloat16", "bfloat16", False), ("bfloat16", "float32", True)):
        params = {"weights": jnp.asarray(START[:3], narrow), "bias": jnp.asarray(START[3], wide)}
        with jax.enable_x64(enabled), jax.numpy_dtype_promotion("strict"):
            jax.eval_shape(two_steps, case.make(), params)


WRAPPERS = {
    "chain": lambda rule: optax.chain(optax.identity(), rule),
    "gdjax.chain": lambda rule: gdjax.chain(optax.identity(), rule),
    "masked": lambda rule: optax.masked(rule, {"weights": True, "bias": True}),
    "partition": lambda rule: optax.partition({"all": rule}, {"weights": "all", "bias": "all"}),
    "MultiSteps": lambda rule: optax.GradientTransformationExtraArgs(optax.MultiSteps(rule, 1).init, optax.MultiSteps(rule, 1).update),
    "apply_if_finite": lambda rule: optax.apply_if_finite(rule, 3),
    "flatten": optax.flatten,
}


def survives(case, wrapper):
    """optax.flatten passes no functions on, and what it makes of leaves is for rules that do not look at them."""
    return wrapper != "flatten" or (case.elementwise and not case.functions and not case.searches)


@pytest.mark.one_in(4)
@exact
@pytest.mark.parametrize(("case", "wrapper"), [pair for pair in in_turn(CASES, [*WRAPPERS]) if survives(*getattr(pair, "values", pair))], ids=str)
def test_survives_the_wrappers_of_optax(case, wrapper):
    rule = case.make()
    wrapped = optax.with_extra_args_support(WRAPPERS[wrapper](rule))
    chex.assert_trees_all_close(path(wrapped, wavy, start()), path(rule, wavy, start()), rtol=1e-9, atol=1e-9)


@pytest.mark.one_in(2)
@every_rule
def test_ignores_extra_arguments_it_does_not_know(case):
    rule, params = case.make(), start()
    (grads, extra), state = offered(wavy, params), rule.init(params)
    more = dict(never_heard_of=object(), not_this="either")
    plain, with_more = jax.jit(lambda: (rule.update(grads, state, params, **extra), rule.update(grads, state, params, **extra, **more)))()
    chex.assert_trees_all_equal(plain, with_more)


@pytest.mark.one_in(2)
@every_rule
def test_params_are_optional_unless_it_needs_them(case):
    rule, params = case.make(), start()
    (grads, extra), state = offered(wavy, params), rule.init(params)
    if case.needs_params:
        with pytest.raises(ValueError, match="params"):
            rule.update(grads, state, **extra)
    else:
        without, with_params = jax.jit(lambda: (rule.update(grads, state, **extra), rule.update(grads, state, params, **extra)))()
        chex.assert_trees_all_equal(without, with_params)


@pytest.mark.one_in(2)
@every_rule
def test_says_which_function_of_the_drivers_it_lacks(case):
    rule, params = case.make(), start()
    grads, state = jax.grad(wavy)(params), rule.init(params)
    if case.functions:
        with pytest.raises(ValueError, match=f"{case.name}: .*(value|value_fn|value_and_grad_fn).*wanted"):
            rule.update(grads, state, params)
    else:
        rule.update(grads, state, params)


@pytest.mark.one_in(2)
@exact
@rules(lambda case: case.rotation)
def test_rotating_the_space_rotates_the_path(case):
    rotation = np.linalg.qr(np.vander([0.3, -1.1, 0.7, 1.9]))[0]

    def rotated(x):
        x = jnp.asarray(rotation) @ x
        return wavy({"weights": x[:3], "bias": x[3]})

    rule = case.make()
    turned = jax.vmap(lambda x: jnp.asarray(rotation) @ x)(path(rule, rotated, jnp.asarray(rotation.T @ START)))
    np.testing.assert_allclose(turned, flat_path(rule, wavy, start()), rtol=1e-7, atol=1e-7)


@pytest.mark.one_in(2)
@exact
@rules(lambda case: case.translation)
def test_moving_the_origin_moves_the_path(case):
    shift = {"weights": jnp.array([1.0, -2.0, 0.5]), "bias": jnp.array(3.0)}
    rule = case.make()
    moved = path(rule, lambda params: wavy(optax.tree.sub(params, shift)), optax.tree.add(start(), shift))
    back = jax.tree.map(lambda x, y: x - y[None], moved, shift)
    chex.assert_trees_all_close(back, path(rule, wavy, start()), rtol=1e-7, atol=1e-7)


@pytest.mark.one_in(2)
@exact
@rows(lambda case: case.rescaling is not None)
def test_rescaling_the_loss_rescales_the_number(case):
    scale = 8.0
    make = case.make if case.number is None else lambda: case.make(case.number / scale**case.rescaling)
    rescaled = path(make(), lambda params: scale * wavy(params), start())
    chex.assert_trees_all_close(rescaled, path(case.make(), wavy, start()), rtol=1e-8, atol=1e-8)


@pytest.mark.one_in(2)
@exact
@every_rule
def test_the_order_of_the_leaves_does_not_matter(case):
    rule, params = case.make(), start()
    renamed = {"a_weights": params["weights"], "z_bias": params["bias"]}  # "bias" sorts before "weights", "z_bias" after "a_weights"
    other = path(rule, lambda p: wavy({"weights": p["a_weights"], "bias": p["z_bias"]}), renamed)
    ours = path(rule, wavy, params)
    chex.assert_trees_all_close([other["a_weights"], other["z_bias"]], [ours["weights"], ours["bias"]], rtol=1e-9, atol=1e-9)


@pytest.mark.one_in(2)
@exact
@rules(lambda case: case.elementwise)
def test_splitting_leaves_does_not_matter(case):
    rule = case.make()
    split = path(rule, lambda p: wavy({"weights": jnp.stack(p[:3]), "bias": p[3]}), [jnp.asarray(x) for x in START])
    np.testing.assert_allclose(jnp.stack(split, axis=1), flat_path(rule, wavy, start()), rtol=1e-6, atol=1e-6)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("case", "params"), in_turn(CASES, [{}, (), {"a": {}, "b": None}]), ids=str)
def test_empty_trees_are_fine(case, params):
    rule = case.make()
    updates, state = step(rule, lambda params: jnp.float32(0), rule.init(params), params)
    assert updates == params
    chex.assert_trees_all_equal_structs(state, rule.init(params))


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("case", "number"), in_turn(CASES, [float, np.float32, jnp.float32]), ids=lambda x: getattr(x, "__name__", str(x)))
def test_scalars_of_every_kind_are_params(case, number):
    def loss(x):
        return jnp.sum((x - 2.0) ** 2)

    rule, params = case.make(), number(5.0)
    updates, _ = compiled_step(rule, loss, rule.init(params), params)
    expected, _ = compiled_step(rule, loss, rule.init(jnp.array([5.0])), jnp.array([5.0]))
    assert jnp.shape(updates) == ()
    assert updates.dtype == jnp.float32
    np.testing.assert_allclose(updates, expected[0], rtol=1e-7)


@pytest.mark.one_in(2)
@rules(lambda case: not case.regularization)  # whose own term has a gradient
def test_a_gradient_of_zero_moves_nothing_and_breaks_nothing(case):
    rule = case.make()
    params, _ = run(rule, level, start(), 3)[0]
    chex.assert_trees_all_equal(params, start())
