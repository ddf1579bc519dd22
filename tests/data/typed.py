"""What people write, for the type checker: a line that is an error says so, with words of the message. Checked by test_types.py, never run."""

from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gdjax
from gdjax.typing import Params

X = jnp.ones((100, 3))


def loss_fn(params, batch):
    return jnp.mean((batch @ params) ** 2)


def annotated(params: Params, batch: jax.Array) -> jax.Array:
    return jnp.mean((batch @ params) ** 2)


def told(report) -> bool:
    return report.value < 0.1


# The front doors, with rules of optax and ours.
result = gdjax.fit(loss_fn, jnp.zeros(3), X, optax.adam(1e-3), batch_size=32, epochs=1, key=0, callbacks=[told])
gdjax.fit(annotated, {"w": 0.0}, (X, np.ones(100)), gdjax.sgd(0.1), batch_size=None, steps=10, history=("value",), keep="best", callbacks=(told, print))
gdjax.fit(loss_fn, jnp.zeros(3), X, optax.chain(optax.clip(1.0), gdjax.sgd(0.1)), batch_size=8, epochs=1, key=jax.random.key(0), shuffle=False)
gdjax.fit(loss_fn, jnp.zeros(3), X, batch_size=8, epochs=1, key=np.int64(1), chunk_size="auto", checkpoint=lambda state: None, history=["value", "validation"])
gdjax.fit(gdjax.finite_sum(lambda w, x: jnp.sum(w * x)), jnp.zeros(3), X, batch_size=None, epochs=1, stop=gdjax.stop.target(0.1) | gdjax.stop.time_limit(60))
gdjax.minimize(lambda x: jnp.sum(x**2), jnp.ones(3), optax.lbfgs(), tol=np.float32(1e-3), history=["value", "update_norm"])
gdjax.minimize(lambda x, a: a * x**2, 1.0, gdjax.gd(0.1), args=(2.0,), differentiate="unroll", resume=result.state)
gdjax.descent(loss_fn, optax.adam(1e-3))
gdjax.evaluate(loss_fn, result.params, X)

# What comes back.
assert_type(result, gdjax.Result)
assert_type(result.status, gdjax.Status)
assert_type(result.converged, bool)
assert_type(result.message, str)
assert_type(result.status.advice, str)
assert_type(gdjax.sgd(0.1), gdjax.Rule)
assert_type(gdjax.rule(optax.adam)(1e-3), gdjax.Rule)
assert_type(gdjax.schedules.cosine(0.1, 100), gdjax.schedules.Schedule)

# Rules and schedules: numbers are floats, arrays or schedules; options are words.
gdjax.sgd(gdjax.schedules.cosine(0.1, 100), momentum=jnp.array(0.9), dampening=np.float32(0.1), nesterov=False)
gdjax.momo(gdjax.schedules.wsd(1.0, 100, 10, 20), momentum=jnp.array([0.5, 0.9]), lower_bound=None)
gdjax.prodigy(betas=(0.9, jnp.array(0.99)), eps=np.float32(1e-8))
gdjax.sps(growth=None, scaling=jnp.array(0.5))
gdjax.sam(gdjax.sgd(0.1), radius=jnp.array(0.05))
gdjax.sam(optax.sgd(0.1))
gdjax.chain(optax.clip(1.0), gdjax.sgd(0.1))
gdjax.rule(optax.nadam)(1e-3)
jax.vmap(gdjax.sgd)(jnp.array([0.1, 0.2]))
gdjax.grid(gdjax.sgd, learning_rate=[0.1, 0.2])


@gdjax.rule
def mine(learning_rate, power: float = 0.5):
    return optax.sgd(learning_rate * power)


assert_type(mine(0.1, power=0.3), gdjax.Rule)

# What is refused, and where.
gdjax.sgd(0.1, lr=0.1)  # error: No parameter named "lr"
gdjax.sgd(0.1, momentun=0.9)  # error: No parameter named "momentun"
gdjax.sgd()  # error: Argument missing for parameter "learning_rate"
gdjax.rule(optax.adam)(1e-3, beta1=0.9)  # error: No parameter named "beta1"
gdjax.schedules.cosine(0.1, 100, final=0.0)  # error: No parameter named "final"
gdjax.stop.grad_norm(tol=1e-5)  # error: No parameter named "tol"
gdjax.steepest(0.1, "l3")  # error: Literal['l3']
gdjax.average(gdjax.sgd(0.1), "mean")  # error: Literal['mean']
gdjax.momo("fast")  # error: Literal['fast']
mine(0.1, pow=0.3)  # error: No parameter named "pow"
gdjax.fit(loss_fn, jnp.zeros(3), X, gdjax.sgd, batch_size=8, epochs=1, key=0)  # error: parameter "rule"
gdjax.fit(loss_fn, jnp.zeros(3), X, batch_size=8, epochs=1, key=0, keep="bset")  # error: Literal['bset']
gdjax.fit(loss_fn, jnp.zeros(3), X, batch_size=8, epochs=1, key=0, shuffle=True)  # error: parameter "shuffle"
gdjax.fit(loss_fn, jnp.zeros(3), X, batch_size=8, epochs=1, key=0, history=("value", "loss"))  # error: parameter "history"
gdjax.fit(loss_fn, jnp.zeros(3), X, batch_size=8, epochs=1, key=0, callbacks=told)  # error: parameter "callbacks"
gdjax.minimize(lambda x: x**2, 1.0, 0.1)  # error: parameter "rule"
gdjax.minimize(lambda x: x**2, 1.0, differentiate="unrolled")  # error: Literal['unrolled']
gdjax.minimize(lambda x: x**2, 1.0, lr=0.1)  # error: No parameter named "lr"
print(result.stauts)  # error: Cannot access attribute "stauts"
print(gdjax.nonsense)  # error: "nonsense" is not a known attribute
