"""What a rule is: a value for Python, a pytree for JAX. That it is a gradient transformation too is in test_rule_in_optax.py."""

import copy
import pickle

import chex
import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import grad, loss, one_trace, path, start

import gdjax

# --- a value


RULES = [
    gdjax.gd(0.1),
    gdjax.gd(1),
    gdjax.sgd(0.1, momentum=0.9, nesterov=True),
    gdjax.sgd(gdjax.schedules.cosine(0.1, 100), 0.9),
    gdjax.sgd(jnp.array([0.1, 0.2])),
    gdjax.rule(optax.adam)(1e-3, b1=0.8),
    gdjax.chain(gdjax.rule(optax.clip_by_global_norm)(1.0), gdjax.sgd(0.1, 0.9)),
    gdjax.chain(gdjax.chain(gdjax.gd(0.5), gdjax.rule(optax.scale)(0.5)), gdjax.gd(0.1)),
    gdjax.rule(optax.masked)(gdjax.sgd(0.1), {"w": True, "b": False}),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda rule: pickle.loads(pickle.dumps(rule))], ids=["copy", "deepcopy", "pickle"])
def test_copies_are_equal_and_work(rule, again):
    other = again(rule)
    assert type(other) is gdjax.Rule
    assert other is not rule
    assert other == rule
    assert not other != rule
    assert hash(other) == hash(rule)
    assert repr(other) == repr(rule)
    assert jax.tree.structure(other) == jax.tree.structure(rule)
    if all(np.ndim(leaf) == 0 for leaf in rule.leaves):
        chex.assert_trees_all_equal(path(other), path(rule))


def test_rules_are_equal_by_value():
    assert gdjax.sgd(0.1) == gdjax.sgd(0.1) == gdjax.sgd(learning_rate=0.1)
    assert gdjax.sgd(0.1, 0.9) == gdjax.sgd(momentum=0.9, learning_rate=0.1)
    assert gdjax.sgd(0.5) == gdjax.sgd(jnp.float32(0.5))
    different = [gdjax.sgd(0.1), gdjax.sgd(0.2), gdjax.gd(0.1), gdjax.sgd(0.1, 0.9), gdjax.sgd(0.1, 0.9, nesterov=True), optax.sgd(0.1), 0.1, None]
    different += [gdjax.sgd(jnp.array([0.1, 0.2])), gdjax.sgd(jnp.array([0.1, 0.2, 0.3])), gdjax.chain(gdjax.sgd(0.1))]
    for i, one in enumerate(different):
        for j, other in enumerate(different):
            if i != j:
                assert one != other
                assert not one == other
    assert len({gdjax.sgd(0.1), gdjax.sgd(0.1), gdjax.sgd(0.2)}) == 2


def test_they_show_the_call_that_makes_them():
    assert repr(gdjax.sgd(0.1, momentum=0.9, nesterov=True)) == "sgd(learning_rate=0.1, momentum=0.9, nesterov=True)"
    assert repr(gdjax.sgd(jnp.geomspace(0.1, 1.0, 5))) == "sgd(learning_rate=<float32[5]>)"
    assert repr(gdjax.chain(gdjax.gd(0.5), gdjax.rule(optax.scale)(2.0))) == "chain(gd(learning_rate=0.5), scale(step_size=2))"
    arguments = "learning_rate, momentum=None, *, dampening=None, weight_decay=None, nesterov=False, maximize=False, ema=False"
    assert repr(gdjax.sgd) == f"<rule factory sgd({arguments})>"
    assert repr(gdjax.gd(jnp.bfloat16(0.5))) == repr(gdjax.gd(np.float64(0.5))) == "gd(learning_rate=0.5)"
    assert repr(gdjax.rule(optax.add_noise)(0.1, 0.5, jax.random.key(0))) == "add_noise(eta=0.1, gamma=0.5, key=<key<fry>[]>)"
    jax.jit(lambda rule: chex.assert_equal(repr(rule), "gd(learning_rate=<traced float32[]>)"))(gdjax.gd(0.1))
    assert gdjax.sgd.__name__ == "sgd"
    assert "Stochastic gradient descent" in gdjax.sgd.__doc__


def test_their_arguments_are_named():
    rule = gdjax.sgd(0.1, 0.9)
    others = {"dampening": None, "weight_decay": None, "nesterov": False, "maximize": False, "ema": False}
    assert rule.arguments == {"learning_rate": 0.1, "momentum": 0.9, **others}
    assert rule.leaves == (0.1, 0.9)


def test_wrong_calls_show_the_signature():
    with pytest.raises(TypeError, match=r"gd: missing a required argument: 'learning_rate'; wanted gd\(learning_rate\)"):
        gdjax.gd()
    with pytest.raises(TypeError, match=r"gd: got an unexpected keyword argument 'lr'; wanted gd\(learning_rate\)"):
        gdjax.gd(0.1, lr=0.1)


def test_local_factories_do_not_pickle_and_say_so():
    @gdjax.rule
    def local(learning_rate):
        return optax.sgd(learning_rate)

    with pytest.raises((AttributeError, pickle.PicklingError), match="local"):
        pickle.dumps(local(0.1))
    assert copy.deepcopy(local(0.1)) == local(0.1)


# --- a pytree


def test_numbers_are_leaves_and_the_rest_is_structure():
    assert jax.tree.leaves(gdjax.sgd(0.1, 0.9, nesterov=True)) == [0.1, 0.9]
    assert jax.tree.leaves(gdjax.sgd(1)) == []
    assert jax.tree.structure(gdjax.sgd(0.1)) == jax.tree.structure(gdjax.sgd(0.7))
    assert jax.tree.structure(gdjax.sgd(0.1)) != jax.tree.structure(gdjax.sgd(0.1, 0.9))
    assert jax.tree.map(lambda number: 2 * number, gdjax.sgd(0.1, 0.4)) == gdjax.sgd(0.2, 0.8)


@pytest.mark.parametrize(
    "fill", [None, True, False, object(), "text", 3, jax.ShapeDtypeStruct((), jnp.float32), jnp.ones(2)], ids=lambda fill: type(fill).__name__
)
def test_anything_can_stand_in_the_place_of_a_leaf(fill):
    rule = gdjax.chain(gdjax.sgd(gdjax.schedules.cosine(0.1, 10), 0.9), gdjax.gd(0.5))
    leaves, treedef = jax.tree.flatten(rule)
    filled = jax.tree.unflatten(treedef, [fill] * len(leaves))
    assert filled.leaves == (fill,) * 3 if not isinstance(fill, jax.Array) else len(filled.leaves) == 3
    assert isinstance(repr(filled), str)
    back = jax.tree.unflatten(jax.tree.structure(filled, is_leaf=lambda x: x is fill), leaves)
    assert back == rule


def test_through_jit_vmap_and_grad():
    def final(rule):
        return loss(path(rule)[0])

    make = gdjax.sgd
    np.testing.assert_allclose(one_trace(final, make(0.1, 0.9), make(0.2, 0.5)), [final(make(0.1, 0.9)), final(make(0.2, 0.5))], rtol=1e-5)
    rules = make(jnp.array([0.05, 0.1]), jnp.array([0.9, 0.5]))
    np.testing.assert_allclose(jax.vmap(final)(rules), [final(make(0.05, 0.9)), final(make(0.1, 0.5))], rtol=1e-5)
    slopes = jax.grad(final)(make(0.1, 0.5))
    assert isinstance(slopes, gdjax.Rule)
    numeric = (final(make(0.101, 0.5)) - final(make(0.099, 0.5))) / 0.002
    np.testing.assert_allclose(slopes.arguments["learning_rate"], numeric, rtol=0.02)
    assert jax.eval_shape(lambda rule: rule, make(0.1)).leaves[0].dtype == jnp.float32
    assert jax.jit(lambda rule: rule)(make(0.5)) == make(0.5)
    stacked = jax.lax.scan(lambda rule, _: (jax.tree.map(lambda x: x / 2, rule), rule), make(jnp.float32(1.0)), length=3)[1]
    np.testing.assert_array_equal(stacked.leaves[0], [1.0, 0.5, 0.25])


def test_equinox_partitions_and_combines_them():
    rule = gdjax.sgd(jnp.float32(0.1), 0.9)
    arrays, rest = eqx.partition(rule, eqx.is_array)
    assert (arrays.leaves, rest.leaves) == ((jnp.float32(0.1), None), (None, 0.9))
    assert eqx.combine(arrays, rest) == rule
    assert eqx.filter(rule, eqx.is_inexact_array_like) == rule
    assert eqx.tree_equal(rule, copy.deepcopy(rule))
    assert eqx.filter_jit(lambda rule: path(rule)[0])(rule)["b"] == pytest.approx(float(path(rule)[0]["b"]), rel=1e-5)


numbers = st.floats(-1e3, 1e3, width=32) | st.floats(-1e3, 1e3, width=32).map(jnp.float32) | st.just(np.arange(3.0))
constants = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.sampled_from([optax.global_norm, optax.squared_error])
arguments = st.recursive(
    numbers | constants,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.builds(gdjax.chain, st.just(gdjax.gd(0.3))),
    max_leaves=8,
)


@gdjax.rule
def takes_anything(*args, **kwargs):
    return optax.identity()


@hypothesis.given(st.lists(arguments, max_size=4), st.dictionaries(st.from_regex("[a-z]{1,4}", fullmatch=True), arguments, max_size=3))
def test_round_trips_for_arbitrary_arguments(args, kwargs):
    rule = takes_anything(*args, **kwargs)
    leaves, treedef = jax.tree.flatten(rule)
    assert jax.tree.unflatten(treedef, leaves) == rule
    again_args, again_kwargs = rule.args_and_kwargs()
    assert jax.tree.structure((list(again_args), again_kwargs)) == jax.tree.structure((args, kwargs))
    same = jax.tree.map(lambda x, y: x is y, (list(again_args), again_kwargs), (args, kwargs))
    assert all(jax.tree.leaves(same))
    assert all(isinstance(leaf, (float, np.ndarray, jax.Array)) for leaf in leaves)
    masked = jax.tree.map(lambda _: True, rule)
    assert masked.leaves == (True,) * len(leaves)
    assert jax.tree.structure(masked) == treedef
    assert pickle.loads(pickle.dumps(rule)) == rule == copy.deepcopy(rule)
    assert isinstance(repr(rule), str)


# --- the point a rule reports


@gdjax.rule
def averaging(learning_rate):
    """A toy: gradient descent that reports the mean of its points."""

    def init(params):
        return 0, params

    def update(grads, state, params, **extra):
        count, mean = state
        updates = jax.tree.map(lambda g: -learning_rate * g, grads)
        return updates, (count + 1, jax.tree.map(lambda m, p, u: m + (p + u - m) / (count + 1), mean, params, updates))

    def eval_params(state, params):
        return state[1]

    return init, update, eval_params


@pytest.mark.parametrize(
    "wrap",
    [
        lambda rule: rule,
        gdjax.chain,
        lambda rule: gdjax.chain(optax.identity(), rule),
        lambda rule: gdjax.chain(gdjax.rule(optax.scale)(1.0), gdjax.chain(optax.scale(1.0), rule)),
    ],
    ids=["bare", "chain", "second", "nested"],
)
def test_eval_params_is_found_in_chains(wrap):
    points, params, rule = [], start(), wrap(averaging(0.1))
    state = rule.init(params)
    for _ in range(4):
        updates, state = rule.update(grad(params), state, params)
        params = optax.apply_updates(params, updates)
        points.append(params)
    mean = jax.tree.map(lambda *rows: sum(rows) / 4, *points)
    chex.assert_trees_all_close(gdjax.eval_params(rule, state, params), mean, rtol=1e-5)
    chex.assert_trees_all_close(jax.jit(gdjax.eval_params)(rule, state, params), mean, rtol=1e-5)


@pytest.mark.parametrize("rule", [gdjax.sgd(0.1, 0.9), optax.adam(0.1), gdjax.chain(gdjax.gd(0.1))], ids=["sgd", "optax", "chain"])
def test_other_rules_report_the_params(rule):
    params = start()
    assert gdjax.eval_params(rule, rule.init(params), params) is params
    assert getattr(rule, "eval_params", None) is None


def test_eval_params_wants_a_rule():
    with pytest.raises(TypeError, match=r"rule is .*; wanted a gradient transformation \(init, update\): pass sgd\(0.1\)"):
        gdjax.eval_params(optax.sgd, (), start())
