"""JAX's compilation cache on disk: a second process compiles nothing that the first has."""

import json
import os
import subprocess
import sys

RUN = """
import json
import jax, jax.monitoring
counted = {"hits": 0, "misses": 0}
jax.monitoring.register_event_listener(lambda event, **_: counted.update(
    hits=counted["hits"] + (event == "/jax/compilation_cache/cache_hits"), misses=counted["misses"] + (event == "/jax/compilation_cache/cache_misses")))
import jax.numpy as jnp, numpy as np
import gdjax
x = np.linspace(-1, 1, 64, dtype=np.float32)
loss = lambda w, batch: jnp.mean((w[0] + w[1] * batch[0] - batch[1]) ** 2)
made = [
    gdjax.fit(loss, jnp.zeros(2), (x, 1 + 2 * x), gdjax.sgd(0.1), batch_size=8, epochs=3, key=0),
    gdjax.fit(loss, jnp.zeros(2), (x, 1 + 2 * x), gdjax.gd(0.1), batch_size=None, steps=20),
    gdjax.minimize(lambda w: jnp.sum((w - 2) ** 2), jnp.zeros(3)),
]
print(json.dumps(counted | {"params": [np.asarray(result.params).tolist() for result in made]}))
"""


def run(cache):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_second_process_compiles_nothing(tmp_path):
    first, second = run(tmp_path), run(tmp_path)
    assert first["misses"] > 3
    assert second["misses"] == 0
    assert second["hits"] >= first["misses"]
    assert first["params"] == second["params"]
