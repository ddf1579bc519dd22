"""Arrays made in one context of JAX and used in another: right, or answered in our words."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

ROOT = Path(__file__).parents[2]


def bowl(w):
    return jnp.sum((w - 1) ** 2)


def made_wide():
    with jax.enable_x64(True):
        return jnp.zeros(3, jnp.float64), jnp.arange(6).reshape(6, 1).astype(jnp.int64)


@pytest.mark.parametrize(
    "door",
    [
        lambda w, _: gdjax.minimize(bowl, w),
        lambda w, _: jax.jit(lambda w: gdjax.minimize(bowl, w))(w),
        lambda w, _: gdjax.fit(lambda w, x: bowl(w) * jnp.mean(x), w, np.ones((6, 1), np.float32), gdjax.sgd(0.1), batch_size=2, epochs=1, key=0),
        lambda w, _: gdjax.evaluate(lambda w, x: bowl(w), w, np.ones((6, 1), np.float32)),
        lambda w, x: gdjax.evaluate(lambda w, x: bowl(w), np.zeros(3, np.float32), x),
        lambda w, x: gdjax.fit(lambda w, x: bowl(w), np.zeros(3, np.float32), x, gdjax.sgd(0.1), batch_size=2, epochs=1, key=0),
    ],
)
def test_arrays_of_64_bits_where_these_are_off(door):
    with pytest.raises(TypeError, match=r"is (float|int)64, made while jax_enable_x64 was on.*type jax.config.update"):
        door(*made_wide())
    with jax.enable_x64(True):
        door(*made_wide())


def test_a_width_switched_between_calls():
    narrow, (wide, _) = jnp.zeros(3, jnp.float32), made_wide()
    for _ in range(2):
        assert gdjax.minimize(bowl, narrow).params.dtype == jnp.float32
        with jax.enable_x64(True):
            assert gdjax.minimize(bowl, wide).params.dtype == jnp.float64
            assert gdjax.minimize(bowl, narrow).params.dtype == jnp.float32
    state = gdjax.minimize(bowl, narrow, gdjax.gd(0.1), max_steps=2).state
    with jax.enable_x64(True), pytest.raises(ValueError, match="resume is the state of another run"):
        gdjax.minimize(bowl, wide, gdjax.gd(0.1), max_steps=4, resume=state)


DEVICES = """
import jax, jax.numpy as jnp, numpy as np, gdjax
from jax.sharding import NamedSharding, PartitionSpec as P
random = np.random.default_rng(0)
X = random.normal(size=(40, 3)).astype(np.float32)
y = (X @ [1, 2, 3] + random.normal(size=40)).astype(np.float32)
loss = lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2)
mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
Xs, ys = jax.device_put((X, y), NamedSharding(mesh, P("data")))
of_all, halves = np.linalg.lstsq(X, y)[0], [np.linalg.lstsq(X[rows], y[rows])[0] for rows in (slice(20), slice(20, 40))]

def said(call):
    try:
        call()
    except (TypeError, ValueError) as error:
        return str(error)

seen = said(lambda: gdjax.minimize(lambda w: loss(w, (Xs, ys)), np.zeros(3, np.float32)))
assert "explicit axes came in through a closure" in seen, seen
step = lambda X, y: gdjax.fit(loss, jnp.zeros(3), (X, y), gdjax.sgd(0.1), batch_size=4, epochs=1, key=0)
assert "explicit axes came in through a closure" in said(lambda: jax.jit(step)(Xs, ys))
with jax.set_mesh(mesh):
    np.testing.assert_allclose(gdjax.minimize(lambda w: loss(w, (Xs, ys)), np.zeros(3, np.float32)).params, of_all, rtol=1e-3)

each = lambda X, y: gdjax.minimize(loss, jnp.zeros(3), args=((X, y),)).params[None]
apart = dict(mesh=mesh, in_specs=P("data"), out_specs=P("data"))
assert "check_vma=False" in said(lambda: jax.shard_map(each, **apart)(Xs, ys))
np.testing.assert_allclose(jax.shard_map(each, **apart, check_vma=False)(Xs, ys), halves, rtol=1e-3)
mean = lambda X, y: gdjax.minimize(lambda w: jax.lax.pmean(loss(w, (X, y)), "data"), jnp.zeros(3)).params
np.testing.assert_allclose(jax.shard_map(mean, mesh=mesh, in_specs=P("data"), out_specs=P())(Xs, ys), of_all, rtol=1e-3)
print("right")
"""


def test_arrays_of_a_mesh_that_come_in_unseen():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True, timeout=240, env=environment)
    assert done.stdout == "right\n", done.stderr[-3000:]
