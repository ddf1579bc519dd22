"""Params in bfloat16 and float16 that keep count of steps below their spacing."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from representatives import paired

import gdjax
from gdjax import tree
from gdjax.parts.rounding import drawn, in_float32, rounded

LOW = [jnp.bfloat16, jnp.float16]
low = pytest.mark.parametrize("dtype", LOW, ids=["bfloat16", "float16"])
HOWS = {"kahan": dict(how="kahan"), "stochastic": dict(how="stochastic", key=0)}
both = pytest.mark.parametrize("how", HOWS)


def precise(rule, how):
    return gdjax.precise(rule, **HOWS[how])


def given():
    """A rule whose updates are its gradients: what is added is chosen by the test."""
    return gdjax.rule(optax.scale)(1.0)


def unit(dtype):
    """(ε, a): half the spacing at 1, and half the smallest number."""
    return float(jnp.finfo(dtype).eps) / 2, float(jnp.finfo(dtype).smallest_subnormal) / 2 if dtype == jnp.float16 else 0.0


def exact(x):
    return np.asarray(x).astype(np.float64)


def pairs(dtype, n, furthest, seed=0):
    """Points x of a dtype over many binades, and steps |u| ≤ furthest |x| in float32, most of them far smaller."""
    random = np.random.default_rng(seed)
    x = (random.normal(size=n) * 2.0 ** random.integers(-10, 10, n)).astype(np.float32).astype(dtype)
    u = random.uniform(-1, 1, n) * furthest * 2.0 ** -random.integers(0, 20, n) * exact(x)
    return jnp.asarray(x), jnp.asarray(u, jnp.float32)


def mixed():
    """Params of all kinds, in and outside float32."""
    return {"a": jnp.asarray([1.0, -2.5, 3e-3], jnp.bfloat16), "b": [jnp.float16(0.7), jnp.asarray([[1.0, 2.0]])], "c": {}, "d": None, "e": jnp.bfloat16(-4.0)}


def slope(params):
    """Gradients of another size in every entry."""
    return jax.tree.map(lambda x: (0.01 * x + 1e-3 * jnp.sin(7 * jnp.asarray(x, jnp.float32))).astype(x.dtype), params)


def steps(rule, params, count, advance=None):
    advance = advance or (lambda state, params: rule.update(slope(params), state, params))
    state = rule.init(params)
    for _ in range(count):
        updates, state = advance(state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@low
@pytest.mark.parametrize("compiled", [False, True])
def test_both_loops_land_on_the_rounded_sum(dtype, compiled):
    x, u = pairs(dtype, 200_000, 1 / 3)
    epsilon, a = unit(dtype)
    c = rounded(jnp.asarray(np.random.default_rng(1).uniform(-1, 1, x.size) * epsilon / 2 * exact(x), jnp.float32), dtype).astype(dtype)
    rule = gdjax.precise(given())

    def step(x, c, u):
        updates, state = rule.update(u, rule.init(x)._replace(lost=c), x)
        return updates, tree.add(x, updates), optax.apply_updates(x, updates), state.lost

    updates, ours, theirs, lost = (jax.jit(step) if compiled else step)(x, c, u)
    assert updates.dtype == ours.dtype == lost.dtype == dtype
    total = exact(x) + exact(c) + exact(u)
    aim = total.astype(np.float32).astype(dtype)
    np.testing.assert_array_equal(np.asarray(ours), aim)
    np.testing.assert_array_equal(np.asarray(theirs), aim)
    error = np.abs(exact(ours) + exact(lost) - total)
    assert (error <= epsilon**2 * np.abs(exact(ours)) + a + 2.0**-24 * np.abs(exact(c) + exact(u))).all(), "what is lost is not what was left out"


@low
def test_kahan_equals_its_transcription_bit_for_bit(dtype):
    """Over steps of all sizes, through 0 and past it, with some of none."""
    random = np.random.default_rng(2)
    x = jnp.asarray(random.normal(size=500), dtype)
    updates = (random.normal(size=(300, 500)) * 2.0 ** random.integers(-16, 1, (300, 500)) * (random.uniform(size=(300, 500)) > 0.1)).astype(np.float32)
    rule = gdjax.precise(given())

    def body(carry, u):
        x, state = carry
        moves, state = rule.update(u, state, x)
        x = optax.apply_updates(x, moves)
        return (x, state), (x, state.lost)

    ours = jax.jit(lambda x, updates: jax.lax.scan(body, (x, rule.init(x)), updates)[1])(x, updates)
    for mine, theirs in zip(ours, reference.kahan(np.asarray(x), updates, dtype), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), theirs)


@pytest.mark.parametrize(("dtype", "size"), [(jnp.bfloat16, 4e-5), (jnp.float16, 4e-6)], ids=["bfloat16", "float16"])
def test_a_hundred_thousand_tiny_steps_add_up(dtype, size):
    """Where the plain sum stands still. Roundings of c within ε²X each, as good as independent under random steps: six of their standard deviations."""
    updates = np.float32(np.random.default_rng(3).uniform(0, size, (100_000, 8)))
    start = jnp.ones(8, dtype)

    def total(rule):
        def body(carry, u):
            x, state = carry
            moves, state = rule.update(u, state, x)
            return (optax.apply_updates(x, moves), state), None

        return jax.jit(lambda updates: jax.lax.scan(body, (start, rule.init(start)), updates)[0])(updates)

    wanted, (epsilon, a) = 1 + exact(updates).sum(0), unit(dtype)
    assert (total(given())[0] == start).all()
    x, state = total(gdjax.precise(given()))
    largest = wanted.max()
    bound = len(updates) * (epsilon**2 * largest + a + 2.0**-24 * (epsilon * largest + size))
    error = np.abs(exact(x) + exact(state.lost) - wanted).max()
    assert error <= bound
    assert error <= 6 * (epsilon**2 * largest + a) * np.sqrt(len(updates) / 3)
    x, _ = total(gdjax.precise(given(), "stochastic", key=4))
    spread = np.sqrt(2 * epsilon * largest * (wanted - 1).max())
    assert (np.abs(exact(x) - wanted) < 5 * spread).all()


@low
@pytest.mark.parametrize("ratio", [1e-4, -0.003, 0.3, -0.999, -1.7, 40.0, -3e-6, 1.0])
def test_stochastic_rounding_is_unbiased(dtype, ratio):
    """Near and far, where the dtype has no update to some points. The mean of n draws between two points g apart is within 5 √(p(1 − p)/n) g."""
    n, x = 200_000, np.asarray(0.713, dtype)
    u = np.float32(ratio * exact(x))
    draw = jax.jit(lambda key: x + drawn(in_float32(jnp.full(n, x)), jnp.full(n, u), key, dtype).astype(dtype))
    landed = exact(draw(jax.random.key(5)))
    points, wanted = np.unique(landed), exact(x) + exact(u)
    assert len(points) <= 2
    assert points[0] <= wanted <= points[-1]
    gap = points[-1] - points[0]
    assert gap <= 2.5 * unit(dtype)[0] * 2 * max(abs(exact(x)), abs(exact(u)), abs(wanted))
    variance = (wanted - points[0]) * (points[-1] - wanted)
    assert variance <= 2.5 * gap * abs(exact(u))
    assert abs(landed.mean() - wanted) <= 5 * np.sqrt(variance / n) + 2.0**-23 * gap


@pytest.mark.one_in(2)
@both
@low
def test_what_is_not_finite_passes_and_poisons_nothing(how, dtype):
    top, nan, inf = float(jnp.finfo(dtype).max), jnp.nan, jnp.inf
    x = jnp.asarray([nan, inf, -inf, 1.0, 1.0, 1.0, inf, top, -top], dtype)
    u = jnp.asarray([0.1, 0.1, 0.0, nan, inf, -inf, -inf, top, -top], jnp.float32)
    rule = precise(given(), how)
    updates, state = rule.update(u, rule.init(x), x)
    np.testing.assert_array_equal(exact(optax.apply_updates(x, updates)), [nan, inf, -inf, nan, inf, -inf, nan, inf, -inf])
    chex.assert_tree_all_finite(state)


@low
def test_no_draw_overflows(dtype):
    """From the largest number, and from below it by a step that reaches almost beyond."""
    top, spacing = float(jnp.finfo(dtype).max), float(jnp.finfo(dtype).max) * unit(dtype)[0]
    x, u = jnp.full(10_000, top, dtype), jnp.full(10_000, 0.49 * spacing, jnp.float32)
    assert jnp.isfinite(x + drawn(in_float32(x), u, jax.random.key(0), dtype).astype(dtype)).all()
    x = -x
    far = drawn(in_float32(x), jnp.full(10_000, 1.9 * top if dtype == jnp.float16 else top, jnp.float32), jax.random.key(0), dtype).astype(dtype)
    assert jnp.isfinite(far).all()
    assert jnp.isfinite(x + far).all()


@low
@both
def test_subnormal_numbers_are_numbers(dtype, how):
    """In float16, where they begin at 6e-5; those of bfloat16 count as 0 on most machines and break nothing."""
    x = jnp.asarray([3e-5, -6e-8, 0.0, 1e-3, 6.11e-5], dtype) if dtype == jnp.float16 else jnp.asarray([1e-39, -1e-40, 0.0, 2e-38, 1.2e-38], dtype)
    scale = 1.0 if dtype == jnp.float16 else 1e-33
    u = jnp.asarray([6e-8, 1.2e-7, 1e-5, -3e-8, -2e-7], jnp.float32) * scale
    rule = precise(given(), how)
    updates, state = rule.update(u, rule.init(x), x)
    landed = optax.apply_updates(x, updates)
    chex.assert_tree_all_finite((landed, state))
    if dtype == jnp.float16:
        spacing = np.spacing(np.abs(np.asarray(x)).astype(np.float16)).astype(np.float64) if how == "stochastic" else 2.0**-25 + 2.0**-11 * np.abs(exact(x))
        assert (np.abs(exact(landed) - exact(x) - exact(u)) <= np.maximum(spacing, 2.0**-24)).all()


@both
@low
def test_no_step_changes_nothing(how, dtype):
    """Bit for bit, c included, even where c is half of the spacing."""
    x, _ = pairs(dtype, 1000, 0.0)
    c = jnp.asarray(exact(x) * unit(dtype)[0], dtype)
    rule = precise(given(), how)
    state = rule.init(x)
    state = state if how == "stochastic" else state._replace(lost=c)
    updates, after = rule.update(jnp.zeros(1000), state, x)
    np.testing.assert_array_equal(updates, 0)
    chex.assert_trees_all_equal(after.lost, state.lost)


@pytest.mark.parametrize(("how", "size"), paired(HOWS, [0.01, 1.3]))
def test_jit_changes_nothing_and_neither_does_unrolling(how, size):
    """Compilers keep more figures of a bfloat16 sum that is widened at once; these may not show, also where it is not exact."""
    rule, params = precise(given(), how), {**mixed(), "f": pairs(jnp.bfloat16, 1000, 0.0)[0], "g": pairs(jnp.float16, 1000, 0.0)[0]}
    moves = [jax.tree.map(lambda x, s=s: -s * jnp.asarray(x, jnp.float32) - size / 8, params) for s in (size, -0.7 * size, 0.3 * size, 1.1 * size)]

    def run(params, moves, update):
        state, seen = rule.init(params), []
        for u in moves:
            updates, state = update(u, state, params)
            params = optax.apply_updates(params, updates)
            seen.append((params, state))
        return seen

    stepwise = run(params, moves, rule.update)
    chex.assert_trees_all_equal(run(params, moves, jax.jit(rule.update)), stepwise)
    chex.assert_trees_all_equal(jax.jit(functools.partial(run, update=rule.update))(params, moves), stepwise)


@both
def test_dtypes_stay_and_other_leaves_are_left_alone(how):
    rule, params = precise(gdjax.sgd(0.1, 0.9), how), mixed()
    after, state = steps(rule, params, 3)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, rule.init(params))
    plain, _ = steps(gdjax.sgd(0.1, 0.9), params, 3)
    np.testing.assert_array_equal(after["b"][1], plain["b"][1])
    assert {x.dtype for x in jax.tree.leaves(state.inner)} == {jnp.dtype(jnp.float32)}
    kept = [x.dtype.name for x in jax.tree.leaves(state.lost)]
    assert kept == (["bfloat16", "float16", "bfloat16"] if how == "kahan" else [])


@pytest.mark.parametrize(("how", "inner", "wanted"), [("kahan", 0, 4), ("kahan", 2, 12), ("stochastic", 0, 2), ("stochastic", 2, 10)])
def test_bytes_a_param_are_those_promised(how, inner, wanted):
    params = jnp.zeros(1000, jnp.bfloat16)
    rule = precise(optax.adam(0.1) if inner else optax.sgd(0.1), how)
    assert tree.bytes_of((params, rule.init(params))) // 1000 == wanted  # and counters


def test_draws_depend_on_key_step_and_leaf_alone():
    params = {"a": jnp.ones(1000, jnp.bfloat16), "b": jnp.ones(1000, jnp.bfloat16)}
    half = jax.tree.map(lambda x: jnp.full(1000, 2.0**-8, jnp.float32), params)

    def draws(key):
        rule = gdjax.precise(given(), "stochastic", key=key)
        first, state = rule.update(half, rule.init(params), params)
        return first["a"], first["b"], rule.update(half, state, params)[0]["a"]

    chex.assert_trees_all_equal(draws(7), draws(jax.random.key(7)), draws(jnp.int32(7)), draws(jax.random.key_data(jax.random.key(7))))
    seen = [*draws(7), draws(8)[0]]
    for i, one in enumerate(seen):
        assert abs(float((one > 0).mean()) - 0.5) < 5 * 0.5 / np.sqrt(1000)
        for other in seen[:i]:  # the share of equal draws of two fair coins
            assert abs(float((one == other).mean()) - 0.5) < 5 * 0.5 / np.sqrt(1000)


def test_vmap_over_keys_and_params_is_a_loop():
    keys, starts = jax.random.split(jax.random.key(1), 3), jnp.asarray([[1.0, 2.0], [3.0, 5.0], [-1.0, 0.1]], jnp.bfloat16)

    def final(key, x, how="stochastic"):
        return steps(gdjax.precise(gdjax.sgd(0.1), how, key=key), x, 3)[0]

    mapped = jax.vmap(final)(keys, starts)
    chex.assert_trees_all_equal(mapped, jnp.stack([final(key, x) for key, x in zip(keys, starts, strict=True)]))
    kahan = functools.partial(final, None, how="kahan")
    chex.assert_trees_all_equal(jax.vmap(kahan)(starts), jnp.stack([kahan(x) for x in starts]))
    rules = gdjax.precise(gdjax.sgd(jnp.array([0.1, 0.2, 0.3])), "stochastic", key=keys)
    run = lambda rule, x: gdjax.minimize(lambda w: jnp.sum(w**2), x, rule, max_steps=3).params  # noqa: E731
    assert jax.vmap(run)(rules, starts).shape == (3, 2)


@pytest.mark.one_in(2)
@both
def test_derivatives_pass_the_rounding_as_if_it_were_not_there(how):
    def final(rate, dtype):
        rule = gdjax.sgd(rate, 0.5)
        rule = rule if dtype == jnp.float32 else precise(rule, how)
        x = jnp.asarray([1.0, 0.3, -2.0], dtype)
        return steps(rule, x, 10, lambda state, x: rule.update(jnp.asarray(x, jnp.float32) - 3, state, x))[0].astype(jnp.float32).sum()

    for derivative in (jax.grad, jax.jacfwd):
        exactly = derivative(functools.partial(final, dtype=jnp.float32))(0.05)
        for dtype in LOW:
            np.testing.assert_allclose(derivative(functools.partial(final, dtype=dtype))(0.05), exactly, rtol=0.03)


@both
def test_buffers_may_be_donated(how):
    rule, params = precise(gdjax.sgd(0.1, 0.9), how), mixed()
    step = jax.jit(lambda state, params: (lambda u, s: (s, optax.apply_updates(params, u)))(*rule.update(slope(params), state, params)), donate_argnums=(0, 1))
    state, params = step(rule.init(params), params)
    state, params = step(state, params)
    chex.assert_trees_all_equal(params, steps(rule, mixed(), 2, jax.jit(lambda s, p: rule.update(slope(p), s, p)))[0])


def test_the_rule_within_sees_float32_and_what_was_lost():
    seen = {}

    @gdjax.rule
    def spy():
        def update(grads, state, params=None, *, value, value_fn, value_and_grad_fn, **extra):
            seen.update(grads=grads, params=params, value=value, there=value_fn(params), both=value_and_grad_fn(params))
            return jax.tree.map(lambda g: 0 * g, grads), state

        return lambda params: seen.update(init=params) or (), update

    def loss(w):
        assert w.dtype == jnp.bfloat16, "the loss is evaluated in the dtype of the params"
        return w**2

    x, c = jnp.bfloat16(3.0), jnp.bfloat16(0.003)
    value, grad = jax.value_and_grad(loss)(x)
    rule = gdjax.precise(spy())
    state = rule.init(x)._replace(lost=c)
    rule.update(grad, state, x, value=value, grad=grad, value_fn=loss, value_and_grad_fn=jax.value_and_grad(loss))
    assert {leaf.dtype for leaf in jax.tree.leaves(seen)} == {jnp.dtype(jnp.float32)}
    assert seen["params"] == jnp.float32(3.0) + jnp.float32(c)
    assert seen["there"] == seen["both"][0] == 9.0


def test_weight_decay_shrinks_what_is_below_the_spacing_too():
    rule, w = gdjax.precise(optax.adamw(1e-3, weight_decay=0.1)), jnp.asarray([1.0, -3.0], jnp.bfloat16)
    state = rule.init(w)
    update = jax.jit(rule.update)
    for _ in range(1000):
        updates, state = update(jnp.zeros(2, jnp.bfloat16), state, w)
        w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(exact(w) + exact(state.lost), 0.9999**1000 * np.array([1.0, -3.0]), rtol=5e-3)  # and not 1, where bfloat16 alone stays


@both
def test_a_rule_that_reports_another_point_reports_it_in_the_dtype_of_the_params(how):
    rule = precise(gdjax.average(gdjax.sgd(0.1), "uniform"), how)
    params, state = steps(rule, mixed(), 5)
    reported = gdjax.eval_params(rule, state, params)
    chex.assert_trees_all_equal(reported, tree.cast_like(state.inner.mean, params))
    assert precise(gdjax.sgd(0.1), how).eval_params is None


def bowl(dtype):
    """A loss whose steps end far below the spacing of bfloat16, with random inputs."""
    X = jax.random.normal(jax.random.key(0), (64, 4))
    return lambda w, batch: jnp.mean((batch[0] @ w.astype(jnp.float32) - batch[1]) ** 2), jnp.zeros(4, dtype), (X, X @ jnp.array([1.0, -2.0, 3.0, 0.5]))


@pytest.mark.one_in(2)
@both
@low
def test_works_under_fit_and_in_chains(how, dtype):
    loss, params, data = bowl(dtype)
    for inner in (gdjax.parameter_free_adam(400.0), gdjax.chain(gdjax.rule(optax.clip_by_global_norm)(1.0), gdjax.rule(optax.adam)(0.03))):
        result = gdjax.fit(loss, params, data, precise(inner, how), batch_size=16, steps=400, key=0)
        assert result.params.dtype == dtype
        assert gdjax.evaluate(loss, result.params, data) < 0.02
    last = optax.chain(optax.clip_by_global_norm(1.0), precise(optax.adam(0.03), how))
    assert gdjax.fit(loss, params, data, last, batch_size=16, steps=400, key=0).params.dtype == dtype


@pytest.mark.one_in(2)
@both
@pytest.mark.parametrize(
    "make",
    [gdjax.armijo, gdjax.reduced_hessian, lambda: gdjax.sam(gdjax.sgd(0.1)), gdjax.accelerated, optax.lbfgs],
    ids=["armijo", "reduced_hessian", "sam", "accelerated", "optax.lbfgs"],
)
def test_rules_that_evaluate_the_loss_are_given_it(how, make):
    loss, params, data = bowl(jnp.bfloat16)
    result = gdjax.minimize(loss, params, precise(make(), how), args=(data,), max_steps=50)
    assert result.params.dtype == jnp.bfloat16
    assert result.value < 0.02


def test_runs_resume_bit_for_bit():
    loss, params, data = bowl(jnp.bfloat16)
    rule = gdjax.precise(gdjax.sgd(0.01, 0.5), "stochastic", key=3)
    fit = functools.partial(gdjax.fit, loss, params, data, rule, batch_size=16, key=0)
    chex.assert_trees_all_equal(fit(steps=30, resume=fit(steps=12).state).params, fit(steps=30).params)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (dict(rule=0.1), TypeError, "precise: rule is"),
        (dict(how="random"), ValueError, "wanted 'kahan' or 'stochastic'"),
        (dict(how="stochastic"), ValueError, "key is None"),
        (dict(how="kahan", key=0), ValueError, "leave it out"),
        (dict(how="stochastic", key=0.5), TypeError, "wanted a seed or a key"),
        (dict(how="stochastic", key=True), TypeError, "wanted a seed or a key"),
        (dict(how="stochastic", key="zero"), TypeError, "wanted a seed or a key"),
    ],
)
def test_bad_arguments_are_errors_at_the_call(arguments, error, text):
    with pytest.raises(error, match=text):
        gdjax.precise(**{"rule": gdjax.sgd(0.1), **arguments})
