"""Arrays in the closure of a loss, of all sizes and used in all ways: a run must end in a result. XLA ended the process."""

import json
import os
import subprocess
import sys

import pytest

# XLA could end the process, so that a process of its own it is; all cases in one, since each start costs seconds.
CASES = """
import json
import jax, jax.numpy as jnp, numpy as np
import gdjax

rng = np.random.default_rng(0)
X = jnp.asarray(rng.normal(size=(2_000, 20)), jnp.float32)
exact = np.linspace(-1, 1, 20, dtype=np.float32)
y = X @ exact
flat, table, options = X.ravel(), np.asarray(X), dict(epochs=10, key=0)
rows = np.arange(2_000, dtype=np.int32)
square = lambda errors: jnp.mean(errors**2)
made = {
    "rows as data": gdjax.fit(lambda w, i: square(X[i] @ w - y[i]), jnp.zeros(20), rows, gdjax.sgd(0.05), batch_size=64, **options),
    "in order": gdjax.fit(lambda w, i: square(X[i] @ w - y[i]), jnp.zeros(20), rows, gdjax.sgd(0.05), batch_size=100, epochs=10, shuffle=False),
    "full batch": gdjax.minimize(lambda w: square(X[:400] @ w - y[:400]), jnp.zeros(20), gdjax.gd(0.3), max_steps=200),
    "NumPy's arrays": gdjax.fit(lambda w, i: square(jnp.asarray(table)[i] @ w - y[i]), jnp.zeros(20), rows, gdjax.sgd(0.05), batch_size=64, **options),
    "an array of no use": gdjax.fit(lambda w, i: square(X[i] @ w - y[i]) + 0 * flat[0], jnp.zeros(20), rows, gdjax.sgd(0.05), batch_size=64, **options),
    "one row of it": gdjax.fit(
        lambda w, i: (X[i[0]] @ w - y[i[0]]) ** 2, jnp.zeros(20), rows, gdjax.sgd(0.02), batch_size=1, epochs=3, key=0),
    "a finite sum": gdjax.fit(
        gdjax.finite_sum(lambda w, i: (X[i] @ w - y[i]) ** 2), jnp.zeros(20), rows, gdjax.sgd(0.05), batch_size=64, **options),
}
print(json.dumps({name: float(np.abs(np.asarray(result.params) - exact).max()) for name, result in made.items()}))
"""
NAMES = [line.strip().split('"')[1] for line in CASES.splitlines() if line.startswith('    "')]


@pytest.fixture(scope="module")
def errors():
    """By case, the largest error of the params, whose right values are known; of a process that must not be ended."""
    done = subprocess.run([sys.executable, "-c", CASES], capture_output=True, text=True, timeout=300, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", NAMES)
def test_arrays_in_the_closure(errors, case):
    assert errors[case] < 0.01
