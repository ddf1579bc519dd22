"""Rules are gradient transformations: lifted from optax, under the wrappers of optax, over its rules, and in those who take them."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pytest
from flax import nnx
from problems import CENTRE, grad, loss, one_trace, path, start

import gdjax

LIFTED = {
    "adabelief": (optax.adabelief, {}),
    "adadelta": (optax.adadelta, {}),
    "adafactor": (optax.adafactor, {}),
    "adagrad": (optax.adagrad, {}),
    "adam": (optax.adam, {"b1": 0.8}),
    "adamax": (optax.adamax, {}),
    "adamaxw": (optax.adamaxw, {"weight_decay": 0.01}),
    "adamw": (optax.adamw, {"weight_decay": 0.01}),
    "adan": (optax.adan, {}),
    "amsgrad": (optax.amsgrad, {}),
    "fromage": (optax.fromage, {}),
    "lamb": (optax.lamb, {}),
    "lars": (optax.lars, {}),
    "lion": (optax.lion, {}),
    "nadam": (optax.nadam, {}),
    "nadamw": (optax.nadamw, {}),
    "noisy_sgd": (optax.noisy_sgd, {"key": jax.random.key(3)}),
    "novograd": (optax.novograd, {}),
    "optimistic_gradient_descent": (optax.optimistic_gradient_descent, {}),
    "radam": (optax.radam, {}),
    "rmsprop": (optax.rmsprop, {"momentum": 0.9}),
    "rprop": (optax.rprop, {}),
    "sgd": (optax.sgd, {"momentum": 0.9, "nesterov": True}),
    "sign_sgd": (optax.sign_sgd, {}),
    "yogi": (optax.yogi, {}),
    "muon": (optax.contrib.muon, {}),
    "dadapt": (optax.contrib.dadapt_adamw, {"estim_lr0": 1e-2}),
    "schedule_free_sgd": (optax.contrib.schedule_free_sgd, {}),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", LIFTED)
def test_lifts_the_factories_of_optax_with_one_trace_for_two_learning_rates(name):
    factory, arguments = LIFTED[name]
    lifted = gdjax.rule(factory)
    first, second = lifted(0.1, **arguments), lifted(0.02, **arguments)
    assert isinstance(first, optax.GradientTransformationExtraArgs)
    assert repr(first).startswith(getattr(factory, "__name__", "adam"))  # nadam is a partial of adam
    results = one_trace(lambda rule: path(rule, steps=3)[0], first, second)
    for result, rate in zip(results, (0.1, 0.02), strict=True):
        expected = jax.jit(lambda rate=rate: path(factory(rate, **arguments), steps=3)[0])()
        chex.assert_trees_all_close(result, expected, rtol=2e-4, atol=1e-5)
    assert np.abs(results[0]["w"] - results[1]["w"]).max() > 1e-4


def test_partial_factories_are_calls_of_the_whole():
    nadam = gdjax.rule(functools.partial(optax.adam, nesterov=True, b1=0.8))
    assert nadam(0.1) == gdjax.rule(optax.adam)(0.1, nesterov=True, b1=0.8)
    assert nadam(0.1).leaves == (0.1, 0.8)
    assert pickle.loads(pickle.dumps(nadam(0.1))) == nadam(0.1)


def test_lifting_is_for_factories():
    assert gdjax.rule(gdjax.sgd) is gdjax.sgd
    for given in (optax.adam(1e-3), gdjax.sgd(0.1), 0.1, None):
        with pytest.raises(TypeError, match=r"^rule: got .*, wanted a factory. Type gdjax.rule\(optax.adam\)\(1e-3\)"):
            gdjax.rule(given)
    with pytest.raises(TypeError, match=r"returned a float; wanted \(init, update\) or .*: type return init, update"):
        gdjax.rule(lambda number: number)(0.1)


def test_checks_of_foreign_factories_are_made_at_the_call():
    @gdjax.rule
    def picky(learning_rate):
        if learning_rate < 0:
            raise ValueError("picky")
        return optax.sgd(learning_rate)

    with pytest.raises(ValueError, match="picky"):
        picky(-0.1)
    picky(jnp.array([0.1, -0.1]))  # a comparison of an array has no truth value: not tried


# --- a gradient transformation: under the wrappers of optax, and over its rules


WRAPPERS = {
    "chain": lambda inner: optax.chain(optax.clip_by_global_norm(1.5), inner),
    "named_chain": lambda inner: optax.named_chain(("clip", optax.clip(0.5)), ("inner", inner)),
    "partition": lambda inner: optax.partition({"slow": inner, "fast": optax.sgd(0.2)}, {"w": "slow", "b": "fast"}),
    "masked": lambda inner: optax.masked(inner, {"w": True, "b": False}),
    "MultiSteps": lambda inner: optax.MultiSteps(inner, 2),
    "apply_if_finite": lambda inner: optax.apply_if_finite(inner, 2),
    "maybe_update": lambda inner: optax.conditionally_mask(inner, lambda step: step % 2 == 0),
    "freeze": lambda inner: optax.chain(inner, optax.freeze({"w": False, "b": True})),
    "flatten": optax.flatten,
    "schedule_free": lambda inner: optax.contrib.schedule_free(inner, 0.1),
}
TWINS = {
    "sgd": (gdjax.sgd(0.1, 0.9, nesterov=True), optax.sgd(0.1, 0.9, nesterov=True)),
    "schedule": (gdjax.gd(gdjax.schedules.cosine(0.1, 4)), optax.sgd(optax.cosine_decay_schedule(0.1, 4))),
    "adam": (gdjax.rule(optax.adam)(0.1), optax.adam(0.1)),
    "chain": (gdjax.chain(gdjax.rule(optax.clip)(1.0), gdjax.sgd(0.1)), optax.chain(optax.clip(1.0), optax.sgd(0.1))),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("twins", TWINS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_of_optax_take_our_rules(wrapper, twins):
    ours, theirs = TWINS[twins]
    chex.assert_trees_all_close(path(WRAPPERS[wrapper](ours))[0], path(WRAPPERS[wrapper](theirs))[0], rtol=1e-5, atol=1e-6)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_lifted_wrappers_take_our_rules_and_those_of_optax_and_keep_the_leaves(wrapper):
    lifted = gdjax.rule(WRAPPERS[wrapper])
    expected = path(WRAPPERS[wrapper](optax.sgd(0.1, 0.9)))[0]
    ours, theirs = lifted(gdjax.sgd(0.1, 0.9)), lifted(optax.sgd(0.1, 0.9))
    assert ours.leaves == (0.1, 0.9)
    assert theirs.leaves == ()
    chex.assert_trees_all_close(path(ours)[0], expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(path(theirs)[0], expected, rtol=1e-5, atol=1e-6)
    first, second = one_trace(lambda rule: path(rule)[0], ours, lifted(gdjax.sgd(0.05, 0.9)))
    chex.assert_trees_all_close(first, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(second["w"] - first["w"]).max() > 1e-4


def test_our_chain_is_the_chain_of_optax():
    ours = gdjax.chain(optax.clip_by_global_norm(1.5), gdjax.sgd(0.1, 0.9), optax.scale(0.5))
    theirs = optax.chain(optax.clip_by_global_norm(1.5), optax.sgd(0.1, 0.9), optax.scale(0.5))
    chex.assert_trees_all_close(path(ours)[0], path(theirs)[0], rtol=1e-6)
    assert ours.leaves == (0.1, 0.9)
    one_trace(lambda rule: path(rule)[0], ours, jax.tree.map(lambda x: x / 2, ours))


@pytest.mark.parametrize("member", [optax.sgd, gdjax.sgd, 0.1, None], ids=["optax.sgd", "gdjax.sgd", "0.1", "None"])
def test_chains_hold_transformations_alone(member):
    with pytest.raises(TypeError, match=r"^chain: a member is .*; wanted a gradient transformation \(init, update\): pass"):
        gdjax.chain(gdjax.sgd(0.1), member)


def test_multi_steps_takes_the_mean_of_the_gradients():
    rule = gdjax.rule(optax.MultiSteps)(gdjax.sgd(0.5), 2)
    state = rule.init(jnp.zeros(2))
    updates, state = rule.update(jnp.array([1.0, -2.0]), state, jnp.zeros(2))
    np.testing.assert_array_equal(updates, [0.0, 0.0])
    updates, state = rule.update(jnp.array([3.0, 4.0]), state, jnp.zeros(2))
    np.testing.assert_array_equal(updates, [-1.0, -0.5])


def test_inject_hyperparams_takes_our_factories():
    rule = optax.inject_hyperparams(gdjax.sgd)(learning_rate=optax.linear_schedule(0.1, 0.0, 10), momentum=0.9)
    twin = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(0.1, 0.0, 10), momentum=0.9)
    (ours, state), (theirs, _) = path(rule), path(twin)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(state.hyperparams["learning_rate"], 0.05, rtol=1e-5)
    assert set(state.hyperparams) == {"learning_rate", "momentum"}


def test_lookahead_takes_our_rules():
    def final(inner):
        rule = optax.lookahead(inner, sync_period=2, slow_step_size=0.5)
        params = optax.LookaheadParams.init_synced(start())
        state = rule.init(params)
        for _ in range(5):
            updates, state = rule.update(grad(params.fast), state, params)
            params = optax.apply_updates(params, updates)
        return params.slow

    chex.assert_trees_all_close(final(gdjax.sgd(0.1, 0.9)), final(optax.sgd(0.1, 0.9)), rtol=1e-6)


def test_tree_map_params_finds_what_is_like_params():
    rule = gdjax.chain(gdjax.sgd(gdjax.schedules.cosine(0.1, 10), 0.9), gdjax.rule(optax.adam)(0.1))
    state = rule.init(start())
    marked = optax.tree.map_params(rule, lambda _: "like params", state, transform_non_params=lambda _: "else")
    assert jax.tree.leaves(marked[0].velocity) == ["like params"] * 2
    assert marked[0].step == "else"
    assert jax.tree.leaves(marked[1][0].nu) == ["like params"] * 2


def test_apply_if_finite_skips_what_is_not():
    rule = optax.apply_if_finite(gdjax.sgd(0.1, 0.9), 3)
    params, state = start(), rule.init(start())
    updates, after = rule.update(jax.tree.map(lambda x: x * jnp.nan, params), state, params)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)


def test_flax_optimizers_take_our_rules():
    def final(rule):
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)
        inputs = jnp.array([[1.0, -0.5, 2.0], [0.3, 1.5, -1.0]])

        @nnx.jit
        def step(model, optimizer):
            optimizer.update(model, nnx.grad(lambda model: jnp.mean((model(inputs) - jnp.array([[1.0, -2.0]])) ** 2))(model))

        for _ in range(4):
            step(model, optimizer)
        return nnx.to_pure_dict(nnx.state(model))

    chex.assert_trees_all_close(final(gdjax.sgd(0.1, 0.9)), final(optax.sgd(0.1, 0.9)), rtol=1e-5)
    chex.assert_trees_all_close(final(gdjax.rule(optax.adam)(0.1)), final(optax.adam(0.1)), rtol=1e-5)


def test_optimistix_takes_our_rules():
    def solve(rule):
        solver = optimistix.OptaxMinimiser(rule, rtol=1e-5, atol=1e-5)
        return optimistix.minimise(lambda params, _: loss(params), solver, start(), max_steps=500)

    solution = solve(gdjax.sgd(0.1, 0.5))
    chex.assert_trees_all_close(solution.value, CENTRE, atol=1e-3)
    assert solution.stats["num_steps"] == solve(optax.sgd(0.1, 0.5)).stats["num_steps"]
