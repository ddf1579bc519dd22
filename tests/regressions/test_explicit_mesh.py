"""Arrays on a mesh as ``jax.make_mesh`` makes it, with explicit axes, and arrays on different devices: in a process of its own, which has four."""

import os
import subprocess
import sys

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import gdjax

mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Explicit,))
weights = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
y, start = X @ weights, jnp.zeros(4)
loss = lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2)
example = gdjax.finite_sum(lambda w, row: (row[0] @ w - row[1]) ** 2)
data, spread = jax.device_put((X, y), NamedSharding(mesh, P("d"))), jax.device_put(start, NamedSharding(mesh, P("d")))
short, long = dict(batch_size=16, epochs=30, key=0), dict(batch_size=None, epochs=90)
found = {
    "mini-batches": gdjax.fit(loss, start, data, gdjax.sgd(0.1), **short).params,
    "whole": gdjax.fit(loss, spread, data, gdjax.gd(0.1), **long).params,
    "finite sum": gdjax.fit(example, start, data, gdjax.gd(0.1), **long).params,
    "minimize": gdjax.minimize(loss, spread, args=(data,)).params,
}
with jax.set_mesh(mesh):
    found["a mesh around"] = gdjax.fit(loss, start, data, gdjax.gd(0.1), **long).params
for name, params in found.items():
    np.testing.assert_allclose(params, weights, atol=0.01, err_msg=name)
assert found["whole"].sharding.mesh == mesh, "what came on the mesh goes back to it"
np.testing.assert_allclose(gdjax.evaluate(example, spread, data), np.mean(y**2), rtol=1e-5)
try:
    gdjax.fit(loss, jax.device_put(start, jax.devices()[1]), jax.device_put((X, y), jax.devices()[2]), gdjax.sgd(0.1), **short)
except ValueError as error:
    assert "different devices" in str(error), error
else:
    raise AssertionError("arrays on different devices were taken")
"""


def test_meshes_with_explicit_axes():
    environment = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
