"""minimize against closed forms, finite differences and loops by hand; one trace; N + M steps; what is counted and what is recorded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.result import Status

SCALES = np.array([1.0, 3.0, 0.5])
CENTRE = np.array([1.5, -0.7, 2.2])
START = np.array([-1.0, 2.0, 0.3])


def wavy(w, centre):
    """Not quadratic, not symmetric, its minimum not at 0, all curvatures in [0.4, 3.1]."""
    x = w - centre
    return jnp.sum(jnp.asarray(SCALES, x.dtype) * x**2) / 2 + 0.1 * jnp.sum(jnp.sin(x)) + 0.05 * x[0] * x[1]


def wavy_grad(x):
    x = x - CENTRE
    return SCALES * x + 0.1 * np.cos(x) + 0.05 * np.array([x[1], x[0], 0.0])


def centre(dtype=jnp.float32):
    return (jnp.asarray(CENTRE, dtype),)


def start(dtype=jnp.float32):
    return jnp.asarray(START, dtype)


def words(x):
    """An array as plain NumPy, keys by their data."""
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def assert_same(a, b):
    """Bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert jnp.result_type(x) == jnp.result_type(y), jax.tree_util.keystr(path)
        np.testing.assert_array_equal(words(jnp.asarray(x)), words(jnp.asarray(y)), err_msg=jax.tree_util.keystr(path))


def counting(loss):
    """The loss, and how often Python has run it."""
    calls = []

    def counted(*args):
        calls.append(None)
        return loss(*args)

    return counted, calls


def executions(loss):
    """The loss, and a function that tells how often the device has run it since it was last asked."""
    seen = []

    def watched(*args):
        jax.debug.callback(lambda: seen.append(None))
        return loss(*args)

    def so_far():
        jax.effects_barrier()
        count = len(seen)
        seen.clear()
        return count

    return watched, so_far


SEARCH = functools.partial(optax.scale_by_backtracking_linesearch, max_backtracking_steps=15)
RULES = {
    "gd": gdjax.gd(0.2),
    "momentum": gdjax.sgd(0.1, momentum=0.6),
    "schedule": gdjax.sgd(gdjax.schedules.cosine(0.3, 600)),
    "adam": optax.adam(0.1),
    "lifted adam": gdjax.rule(optax.adam)(0.1),
    "lbfgs": optax.lbfgs(),
    "backtracking": optax.chain(optax.sgd(1.0), SEARCH()),
    "backtracking, gradient kept": optax.chain(optax.sgd(1.0), SEARCH(store_grad=True)),
    "multi steps": optax.MultiSteps(optax.sgd(0.2), 2).gradient_transformation(),
    "apply if finite": optax.apply_if_finite(optax.sgd(0.2), 3),
}


@pytest.mark.usefixtures("x64")
def test_the_path_is_that_of_numpy():
    result = gdjax.minimize(wavy, START, gdjax.gd(0.2), args=(CENTRE,), max_steps=30, tol=0.0)
    x = START.copy()
    for step in range(31):
        value = (SCALES * (x - CENTRE) ** 2).sum() / 2 + 0.1 * np.sin(x - CENTRE).sum() + 0.05 * (x - CENTRE)[0] * (x - CENTRE)[1]
        np.testing.assert_allclose(result.history["value"][step], value, rtol=1e-12)
        np.testing.assert_allclose(result.history["grad_norm"][step], np.linalg.norm(wavy_grad(x)), rtol=1e-11)
        last, x = x, x - 0.2 * wavy_grad(x)
    np.testing.assert_allclose(result.params, last, rtol=1e-12)
    assert result.params.dtype == result.value.dtype == jnp.float64


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", RULES)
def test_every_rule_reaches_the_minimum_traced_once_and_the_numbers_belong_to_the_params(name):
    loss, calls = counting(wavy)
    result = gdjax.minimize(loss, start(), RULES[name], args=centre(), max_steps=400, tol=1e-4)
    assert len(calls) == 1
    assert result.status is Status.CONVERGED
    value, gradient = jax.value_and_grad(wavy)(result.params, *centre())
    assert float(result.grad_norm) <= 1e-4
    np.testing.assert_allclose(result.value, value, rtol=1e-5)
    np.testing.assert_allclose(result.grad_norm, jnp.linalg.norm(gradient), rtol=1e-2, atol=1e-6)
    np.testing.assert_allclose(wavy_grad(np.asarray(result.params, np.float64)), 0, atol=2e-4)
    assert float(result.history["value"][-1]) == float(result.value)


def test_other_numbers_do_not_trace_again():
    loss, calls = counting(wavy)
    run = functools.partial(gdjax.minimize, loss)
    run(start(), gdjax.gd(0.1), args=centre(), max_steps=10, tol=1e-3)
    run(start() + 1, gdjax.gd(0.2), args=(CENTRE.astype(np.float32) * 2,), max_steps=27, tol=1e-2)
    run(start(), gdjax.gd(jnp.float32(0.3)), args=centre(), max_steps=200, tol=0.0, record_every=7)
    run(START.astype(np.float32), gdjax.gd(0.3), args=centre(), max_steps=0, tol=1e-5)
    assert len(calls) == 1


def test_scalars_of_all_kinds_are_one_shape():
    loss, calls = counting(lambda w: (w - 2.0) ** 2)
    for params in (5.0, np.float32(5.0), jnp.float32(5.0)):
        result = gdjax.minimize(loss, params, gdjax.gd(0.1), max_steps=5)
        assert result.params.dtype == jnp.float32
        assert result.params.shape == ()
    assert len(calls) == 1
    weak = gdjax.minimize(loss, jnp.asarray(5.0), gdjax.gd(0.1), max_steps=5)
    assert float(weak.params) == float(result.params)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", [name for name in RULES if name != "lifted adam"])
def test_the_steps_add_up(name):
    run = functools.partial(gdjax.minimize, wavy, start(), RULES[name], args=centre(), tol=0.0)
    whole = run(max_steps=30)
    for cuts in ((0,), (1,), (11,), (29,), (30,), (0, 7, 8, 23)):
        part = None
        for steps in (*cuts, 30):
            part = run(max_steps=steps, resume=None if part is None else part.state)
        assert_same(part, whole)


def through_a_file(state):
    """As a checkpoint would keep it: plain NumPy, keys by their words."""
    leaves, treedef = jax.tree.flatten(jax.device_get(state))
    return jax.tree.unflatten(treedef, [np.array(leaf) for leaf in leaves])


@pytest.mark.parametrize("every", [1, 7])
def test_a_state_may_go_through_numpy(every):
    run = functools.partial(gdjax.minimize, wavy, start(), RULES["momentum"], args=centre(), tol=0.0, record_every=every)
    assert_same(run(max_steps=30, resume=through_a_file(run(max_steps=12).state)), run(max_steps=30))


def test_a_run_that_has_converged_stays_so():
    run = functools.partial(gdjax.minimize, wavy, start(), RULES["gd"], args=centre(), tol=1e-3)
    done = run(max_steps=300)
    assert done.status is Status.CONVERGED
    assert_same(run(max_steps=500, resume=done.state), done)


@pytest.mark.parametrize("every", [1, 7, 30, 31])
def test_what_is_recorded(every):
    names = ("value", "grad_norm", "update_norm", "learning_rate", "evaluations")
    run = functools.partial(gdjax.minimize, wavy, start(), RULES["schedule"], args=centre(), tol=0.0, max_steps=30, history=names)
    full, result = run(), run(record_every=every)
    wanted = sorted({*range(0, 31, every), 30})
    assert result.history["step"].tolist() == wanted
    assert set(result.history) == {"step", *names}
    for name in names:
        np.testing.assert_array_equal(result.history[name], full.history[name][wanted], err_msg=name)
    assert float(result.value) == float(result.history["value"][-1])
    assert float(result.grad_norm) == float(result.history["grad_norm"][-1])


def test_history_says_how_each_point_was_reached():
    result = gdjax.minimize(wavy, start(), RULES["schedule"], args=centre(), tol=0.0, max_steps=9, history=("learning_rate", "update_norm", "evaluations"))
    rates = [np.nan, *(0.15 * (1 + np.cos(np.pi * k / 600)) for k in range(9))]
    np.testing.assert_allclose(result.history["learning_rate"], rates, rtol=1e-5)
    x, norms = START.copy(), [np.inf]
    for rate in rates[1:]:
        step = rate * wavy_grad(x)
        x, norms = x - step, [*norms, np.linalg.norm(step)]
    np.testing.assert_allclose(result.history["update_norm"], norms, rtol=1e-4)
    assert gdjax.minimize(wavy, start(), RULES["gd"], args=centre(), history=(), max_steps=2).history["step"].tolist() == [0, 1, 2]


def test_an_early_end_is_recorded_too():
    result = gdjax.minimize(wavy, start(), RULES["gd"], args=centre(), tol=1e-2, record_every=7)
    last = int(result.steps)
    assert last % 7, "this test wants an end between two records"
    assert result.history["step"].tolist() == [*range(0, last, 7), last]


@pytest.mark.parametrize("every", [1, 7])
def test_inside_jit_the_history_is_padded(every):
    run = functools.partial(gdjax.minimize, wavy, rule=RULES["gd"], args=centre(), tol=1e-2, max_steps=60, record_every=every)
    outside, inside = run(start()), jax.jit(run)(start())
    count = len(outside.history["step"])
    assert len(inside.history["step"]) == len(range(0, 61, every)) + (60 % every > 0)
    assert inside.history["step"][:count].tolist() == outside.history["step"].tolist()
    np.testing.assert_allclose(inside.history["value"][:count], outside.history["value"], rtol=1e-5)
    assert (inside.history["step"][count:] == -1).all()
    assert np.isnan(inside.history["value"][count:]).all()
    np.testing.assert_allclose(inside.params, outside.params, rtol=1e-5)
    assert (int(inside.code), int(inside.steps), int(inside.evaluations)) == (outside.status, int(outside.steps), int(outside.evaluations))


def test_a_traced_run_can_be_resumed_and_resumes():
    run = functools.partial(gdjax.minimize, wavy, start(), RULES["momentum"], args=centre(), tol=0.0)
    whole, part = run(max_steps=30), jax.jit(lambda: run(max_steps=11))()
    np.testing.assert_allclose(run(max_steps=30, resume=part.state).params, whole.params, rtol=1e-6)
    again = jax.jit(lambda state: run(max_steps=30, resume=state))(run(max_steps=11).state)
    np.testing.assert_allclose(again.params, whole.params, rtol=1e-6)
    assert int(again.steps) == 30


def test_vmap_is_a_loop():
    run = lambda rule, w, c: gdjax.minimize(wavy, w, rule, args=(c,), max_steps=40, tol=1e-2)  # noqa: E731
    rates, starts = jnp.asarray([0.01, 0.1, 0.3]), jnp.stack([start(), start() + 1, start() - 2])
    centres = jnp.stack([centre()[0] * k for k in (1, 2, 3)])
    for axes, args in {(0, None, None): (gdjax.gd(rates), starts[0], centres[0]), (0, 0, 0): (gdjax.gd(rates), starts, centres)}.items():
        many = jax.vmap(run, axes)(*args)
        for i in range(3):
            one = run(gdjax.gd(rates[i]), starts[i if axes[1] == 0 else 0], centres[i if axes[2] == 0 else 0])
            np.testing.assert_allclose(many.params[i], one.params, rtol=1e-5, atol=1e-6)
            assert (int(many.code[i]), int(many.steps[i]), int(many.evaluations[i])) == (one.status, int(one.steps), int(one.evaluations))


def test_the_arrays_of_the_user_survive():
    params, args = start(), centre()
    first = gdjax.minimize(wavy, params, RULES["momentum"], args=args, max_steps=9)
    again = gdjax.minimize(wavy, params, RULES["momentum"], args=args, max_steps=20, resume=first.state)
    np.testing.assert_array_equal(params, START.astype(np.float32))
    np.testing.assert_array_equal(args[0], CENTRE.astype(np.float32))
    assert int(first.state.progress.state.step) == 9
    assert int(again.steps) == 20


@pytest.mark.parametrize("name", RULES)
def test_evaluations_are_those_the_device_made(name):
    loss, so_far = executions(wavy)
    result = gdjax.minimize(loss, start(), RULES[name], args=centre(), max_steps=12, tol=0.0)
    assert int(result.evaluations) == so_far()
    if "backtracking" not in name and name != "lbfgs":
        assert int(result.evaluations) == 13


@pytest.mark.parametrize("follow", [optax.scale(0.5), optax.add_decayed_weights(0.1)], ids=["scale", "decay"])
def test_a_value_kept_by_a_search_is_not_believed_elsewhere(follow):
    # The search keeps value and gradient of the point it moves to; what follows it in the chain moves elsewhere.
    result = gdjax.minimize(wavy, start(), optax.chain(optax.lbfgs(), follow), args=centre(), max_steps=3)
    value, gradient = jax.value_and_grad(wavy)(result.params, *centre())
    np.testing.assert_allclose(result.value, value, rtol=1e-5)
    np.testing.assert_allclose(result.grad_norm, jnp.linalg.norm(gradient), rtol=1e-4)


def test_aux_belongs_to_the_params():
    loss = lambda w, c: (wavy(w, c), {"twice": 2 * w})  # noqa: E731
    for max_steps in (0, 5):
        result = gdjax.minimize(loss, start(), RULES["gd"], args=centre(), has_aux=True, max_steps=max_steps)
        np.testing.assert_array_equal(result.aux["twice"], 2 * result.params)
    inside = jax.jit(lambda w: gdjax.minimize(loss, w, RULES["gd"], args=centre(), has_aux=True, max_steps=5))(start())
    np.testing.assert_allclose(inside.aux["twice"], result.aux["twice"], rtol=1e-6)
    searched = gdjax.minimize(loss, start(), optax.lbfgs(), args=centre(), has_aux=True, max_steps=5)
    np.testing.assert_allclose(searched.aux["twice"], 2 * searched.params, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["momentum", "lbfgs"])
def test_low_precision_stays_low(name, dtype):
    result = gdjax.minimize(wavy, start(dtype), RULES[name], args=centre(dtype), max_steps=60, tol=0.1)
    assert result.params.dtype == dtype
    assert result.value.dtype == jnp.float32
    assert result.status is Status.CONVERGED
    np.testing.assert_allclose(wavy_grad(np.asarray(result.params, np.float64)), 0, atol=0.3)


def test_descent_by_hand_is_minimize():
    init, step = gdjax.descent(lambda w, args: wavy(w, *args), RULES["momentum"])
    step, state, values = jax.jit(step), init(start()), []
    for _ in range(12):
        state, info = step(state, centre())
        values.append(float(info.value))
    result = gdjax.minimize(wavy, start(), RULES["momentum"], args=centre(), max_steps=12, tol=0.0)
    np.testing.assert_allclose(result.params, state.params, rtol=1e-6)
    np.testing.assert_allclose(result.history["value"][:12], values, rtol=1e-6)
    assert int(state.step) == int(state.evaluations) == 12
    np.testing.assert_allclose(info.learning_rate, 0.1, rtol=1e-6)


# ---- derivatives

DESIGN = np.random.default_rng(0).normal(size=(12, 3))
TARGETS = np.random.default_rng(1).normal(size=12) + 1


def ridge(w, penalty, targets):
    return jnp.mean((jnp.asarray(DESIGN) @ w - targets["y"]) ** 2) / 2 + penalty * jnp.vdot(w, w) / 2


def ridge_truth(penalty):
    """(solution, its derivative in the penalty, its Jacobian in the targets, the minimum's first two derivatives in the penalty)."""
    hessian = DESIGN.T @ DESIGN / 12 + penalty * np.eye(3)
    w = np.linalg.solve(hessian, DESIGN.T @ TARGETS / 12)
    slope = -np.linalg.solve(hessian, w)
    return w, slope, np.linalg.solve(hessian, DESIGN.T / 12), w @ w / 2, w @ slope


def solved(penalty, y, rule=None, **options):
    options = dict(tol=1e-11, max_steps=2000, history=()) | options
    return gdjax.minimize(ridge, jnp.zeros(3), rule or gdjax.gd(0.5), args=(penalty, {"y": y}), **options)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev], ids=["forward", "reverse"])
def test_implicit_derivatives_equal_the_closed_form(mode):
    w, slope, jacobian, *_ = ridge_truth(0.3)
    solution = jax.jit(mode(lambda p, y: solved(p, y).params, argnums=(0, 1)))
    by_penalty, by_targets = solution(0.3, jnp.asarray(TARGETS))
    np.testing.assert_allclose(solved(0.3, jnp.asarray(TARGETS)).params, w, rtol=1e-9)
    np.testing.assert_allclose(by_penalty, slope, rtol=1e-8)
    np.testing.assert_allclose(by_targets, jacobian, rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_derivatives_of_the_minimum():
    *_, first, second = ridge_truth(0.3)
    value = lambda p: solved(p, jnp.asarray(TARGETS)).value  # noqa: E731
    np.testing.assert_allclose(jax.jit(jax.grad(value))(0.3), first, rtol=1e-8)
    np.testing.assert_allclose(jax.jit(jax.hessian(value))(0.3), second, rtol=1e-7)


@pytest.mark.usefixtures("x64")
def test_implicit_derivatives_of_what_the_loss_has_captured():
    _, slope, *_ = ridge_truth(0.3)

    def captured(penalty):
        return gdjax.minimize(lambda w: ridge(w, penalty, {"y": jnp.asarray(TARGETS)}), jnp.zeros(3), gdjax.gd(0.5), tol=1e-11, max_steps=2000).params

    np.testing.assert_allclose(jax.jacrev(captured)(0.3), slope, rtol=1e-8)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(captured))(0.3), slope, rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_implicit_derivatives_under_vmap_and_with_the_default_rule():
    penalties = jnp.asarray([0.1, 0.3, 1.0])
    found = jax.jit(jax.vmap(jax.jacrev(lambda p: solved(p, jnp.asarray(TARGETS), gdjax.rule(optax.lbfgs)()).params)))(penalties)
    np.testing.assert_allclose(found, [ridge_truth(float(p))[1] for p in penalties], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_without_convergence_there_is_no_derivative():
    short = lambda p: solved(p, jnp.asarray(TARGETS), max_steps=2).params  # noqa: E731
    assert np.isnan(jax.jit(jax.jacrev(short))(0.3)).all()
    assert np.isnan(jax.jit(jax.jacfwd(short))(0.3)).all()


def test_implicit_has_no_derivative_in_the_rule():
    with pytest.raises(ValueError, match="differentiate='unroll'"):
        jax.grad(lambda rate: gdjax.minimize(wavy, start(), gdjax.gd(rate), args=centre(), max_steps=3).value)(0.1)


def rolled(rule, w, c, steps=15, history=("value",)):
    return gdjax.minimize(wavy, w, rule, args=(c,), tol=0.0, max_steps=steps, differentiate="unroll", history=history)


@pytest.mark.usefixtures("x64")
def test_unrolled_derivatives_equal_finite_differences():
    def final(numbers):
        return rolled(gdjax.sgd(numbers[0], momentum=numbers[1]), numbers[2:5], numbers[5:]).value

    numbers, width = np.concatenate([[0.1, 0.5], START, CENTRE]), 1e-6
    many = jax.jit(jax.vmap(final))
    shifts = width * np.eye(len(numbers))
    differences = (many(numbers + shifts) - many(numbers - shifts)) / (2 * width)
    for mode in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(jax.jit(mode(final))(jnp.asarray(numbers)), differences, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("history", [(), ("value", "grad_norm", "update_norm", "learning_rate")], ids=["bare", "recorded"])
def test_the_hypergradient_at_rate_zero(history):
    # x never moves, so d value / d rate = −steps ‖∇f(x₀)‖²: finite, although every update is 0.
    slope = jax.jit(jax.grad(lambda rate: rolled(gdjax.gd(rate), START, CENTRE, 5, history).value))(0.0)
    np.testing.assert_allclose(slope, -5 * (wavy_grad(START) ** 2).sum(), rtol=1e-9)


def test_unrolled_derivatives_beyond_the_last_bit():
    # (w − 2)² with rate 1/2 arrives in one step, exactly; the steps that are left must not poison the derivative.
    final = lambda rate, w: gdjax.minimize(lambda w: (w - 2.0) ** 2, w, gdjax.gd(rate), tol=0.0, max_steps=150, differentiate="unroll").params  # noqa: E731
    assert float(jax.grad(final, argnums=1)(0.5, 5.0)) == 0.0
    by_rate = jax.vmap(jax.grad(final), (0, None))(jnp.asarray([0.5, 0.4, 0.001]), 5.0)
    np.testing.assert_allclose(by_rate, [-6.0, 0.0, -150 * 2 * 3 * 0.998**149], rtol=1e-3, atol=1e-4)


def test_a_start_that_is_not_finite():
    with pytest.raises(ValueError, match="At the params given, the loss is"):
        gdjax.minimize(lambda w: jnp.log(w), -1.0, gdjax.gd(0.1))
    inside = jax.jit(lambda w: gdjax.minimize(lambda w: jnp.log(w), w, gdjax.gd(0.1)))(-1.0)
    assert (inside.status, int(inside.steps)) == (Status.NONFINITE, 0)


def test_the_last_finite_params_are_returned_inside_and_out():
    # √w from 1 with rate 0.7: 0.65, 0.2159, then below 0, where it is NaN.
    run = lambda w: gdjax.minimize(lambda w: jnp.sqrt(w), w, gdjax.gd(0.7), max_steps=50)  # noqa: E731
    outside, inside = run(1.0), jax.jit(run)(1.0)
    for result in (outside, inside):
        assert result.status is Status.NONFINITE
        np.testing.assert_allclose(result.params, 0.65 - 0.35 / 0.65**0.5, rtol=1e-5)
        np.testing.assert_allclose(result.value, float(result.params) ** 0.5, rtol=1e-5)
        assert (int(result.steps), int(result.evaluations)) == (2, 4)
        assert [int(step) for step in result.history["step"] if step >= 0] == [0, 1, 2]
    with pytest.raises(ValueError, match="finite"):
        gdjax.minimize(lambda w: jnp.sqrt(w), outside.params - 1, gdjax.gd(0.7), max_steps=50)
