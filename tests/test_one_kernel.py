"""Small loops as one kernel: the same numbers, only where the kernel can hold the step, and never an end of the process."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gdjax
from gdjax.loop import full_batch, mini_batch, one_kernel
from gdjax.parts import xla
from gdjax.result import Status

if not xla.KERNELS:
    pytest.skip("this XLA makes no kernels: GDJAX_XLA=0, or a jaxlib with which they were not tried", allow_module_level=True)

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = X @ np.float32([1.0, -2.0, 0.5])


def loss(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def turn(step):
    """Seven turns of a loop, by XLA and by us, and whether ours is marked."""
    condition, body = (lambda carry: carry[1] < 7), (lambda carry: (step(carry[0], carry[1]), carry[1] + 1))
    start = (jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), jnp.int32(0))
    ours = jax.jit(lambda start: one_kernel.while_loop(condition, body, start))
    marked = "xla_cpu_small_call" in ours.lower(start).as_text()
    return lax.while_loop(condition, body, start), ours(start) if marked else None, marked


SMALL = {
    "arithmetic": lambda x, k: jnp.sin(x) * 0.9 + k,
    "reductions": lambda x, k: x - x.mean(0, keepdims=True) + jnp.max(x) * jnp.argmin(x),
    "matrix times vector": lambda x, k: x - 0.1 * (x @ jnp.ones(3))[:, None],
    "outer product": lambda x, k: x + jnp.outer(x[:, 0], x[0]) * 1e-3,
    "random numbers": lambda x, k: x + jax.random.normal(jax.random.fold_in(jax.random.key(3), k), x.shape),
    "a table written in place": lambda x, k: lax.dynamic_update_slice(x, x[:1] * 2, (lax.rem(k, 4), 0)),
    "a branch": lambda x, k: lax.cond(k == 3, lambda x: x * 2, lambda x: x, x),
    "a loop within": lambda x, k: lax.fori_loop(0, 3, lambda i, x: x * 0.9 + i, x),
    "a scan within": lambda x, k: lax.scan(lambda x, y: (x + y, None), x, jnp.arange(3.0))[0],
    "a derivative": lambda x, k: x - 0.1 * jax.grad(lambda x: jnp.sum(jax.nn.softplus(x) * jnp.tanh(x)))(x),
    "an input of no use": lambda x, k: jnp.where(k < 100, x[jnp.zeros((1,), jnp.int32)[0]], x),
}
LARGE = {
    "a product of matrices": lambda x, k: x - 0.1 * x @ (x.T @ x),
    "sorting": lambda x, k: jnp.sort(x, 0) * 0.9,
    "a factorisation": lambda x, k: x + jnp.linalg.cholesky(x.T @ x + jnp.eye(3))[:1] * 0.1,
    "a scatter": lambda x, k: x.at[jnp.array([0, 2])].add(1.0),
    "a host callback": lambda x, k: jax.pure_callback(lambda x: np.asarray(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x),
    "many numbers": lambda x, k: x + jnp.sum(jnp.sin(jnp.arange(20_000.0) * k)),
    "an array without entries": lambda x, k: x + jnp.sum(jnp.zeros((0, 3)) * k),
    "complex numbers": lambda x, k: x + jnp.abs(lax.complex(x, x)) * 0.1,
}


@pytest.mark.parametrize("name", SMALL)
def test_small_loops_are_one_kernel_and_come_to_the_same(name):
    theirs, ours, marked = turn(SMALL[name])
    assert marked
    for x, y in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(y, x, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", LARGE)
def test_other_loops_are_left_alone(name):
    assert not turn(LARGE[name])[2]


def programs(monkeypatch, module):
    """The texts of the segments that are compiled from now on."""
    texts, segment = [], module._segment

    def spied(*args, **kwargs):
        texts.append(segment.lower(*args, **kwargs).as_text())
        return segment(*args, **kwargs)

    monkeypatch.setattr(module, "_segment", spied)
    return texts


@pytest.mark.parametrize("size", [1, 8, None])
@pytest.mark.parametrize("features", [3, 3000])
def test_fit_uses_them_where_the_step_is_small(monkeypatch, size, features):
    texts = programs(monkeypatch, mini_batch if size else full_batch)
    data = np.resize(X, (80, features)), np.resize(Y, 80)
    gdjax.fit(loss, jnp.zeros(features), data, gdjax.sgd(1e-5), batch_size=size, steps=20, key=0)
    assert ("xla_cpu_small_call" in texts[0]) == (features == 3)


def test_nothing_changes_but_the_speed(monkeypatch):
    def run():
        options = dict(batch_size=8, steps=37, key=0, record_every=5)
        made = gdjax.fit(loss, jnp.zeros(3), (X, Y), gdjax.sgd(gdjax.schedules.cosine(0.1, 37), 0.5), **options)
        full = gdjax.minimize(lambda w: loss(w, (X, Y)), jnp.zeros(3), gdjax.nesterov(0.2), max_steps=300)
        return made.params, made.history, full.params, full.history, full.steps, full.status

    compact = run()
    monkeypatch.setattr(one_kernel, "possible", lambda *trees: False)
    for x, y in zip(jax.tree.leaves(compact), jax.tree.leaves(run()), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", [gdjax.saga(), gdjax.sgd(0.01)], ids=["saga", "sgd"])
def test_data_of_no_use_to_the_loss_do_no_harm(rule):
    example_loss = gdjax.finite_sum(lambda w, row: (row[0] @ w - row[1]) ** 2)
    rows = (X, Y, np.zeros(40, np.float32), np.zeros((40, 0), np.float32))
    made = gdjax.fit(example_loss, jnp.zeros(3), rows, rule, batch_size=1, epochs=20, key=0)
    assert made.status is Status.MAX_STEPS
    np.testing.assert_allclose(made.params, [1.0, -2.0, 0.5], atol=0.1)


@pytest.mark.parametrize("size", [8, None])
def test_what_a_kernel_cannot_hold_after_all_is_compiled_as_usual(monkeypatch, size):
    texts = programs(monkeypatch, mini_batch if size else full_batch)
    monkeypatch.setattr(one_kernel, "is_small", lambda closed, least: True)  # as if sorting were thought possible
    made = gdjax.fit(lambda w, b: loss(jnp.sort(w), b), jnp.zeros(3), (X, Y), gdjax.sgd(0.05), batch_size=size, steps=5, key=0)
    assert int(made.steps) == 5
    assert "xla_cpu_small_call" in texts[0]
    assert "xla_cpu_small_call" not in texts[1]
    assert np.isfinite(made.params).all()


@pytest.mark.parametrize("size", [8, None])
@pytest.mark.parametrize(("features", "plain"), [(3, True), (30_000, False)])
def test_small_programs_are_compiled_plainly(monkeypatch, size, features, plain):
    module, asked = mini_batch if size else full_batch, []
    segment = module._segment
    monkeypatch.setattr(module, "_segment", lambda *args, plain: (asked.append(plain), segment(*args, plain=plain))[1])
    gdjax.fit(loss, jnp.zeros(features), (np.resize(X, (40, features)), Y), gdjax.sgd(1e-6), batch_size=size, steps=3, key=0)
    assert set(asked) == {plain}


def test_another_version_of_xla_compiles_as_usual(monkeypatch):
    monkeypatch.setattr(xla, "KERNELS", False)
    texts = programs(monkeypatch, mini_batch)
    made = gdjax.fit(loss, jnp.zeros(3), (X, Y), gdjax.sgd(0.05), batch_size=8, steps=5, key=0)
    assert "xla_cpu_small_call" not in texts[0]
    assert int(made.steps) == 5
    both = one_kernel.Compiled(jnp.sin)
    assert both._of(plain=True) is both.usual


def test_random_loops():
    """A share of tests/fuzz, which is run whole for every version of jaxlib that may make kernels."""
    fuzz = Path(__file__).parent / "fuzz" / "fuzz_one_kernel.py"
    done = subprocess.run([sys.executable, fuzz, "--count", "20", "--runs", "4", "--first", "900000"], capture_output=True, text=True, timeout=600)
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, found
    assert (found["loops"], found["runs"]) == (20, 4)
    assert found["kernels"] > 10
