"""A rule of your own in fifteen lines: normalised gradient descent with momentum, compiled once for every learning rate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import gdjax
from gdjax import tree


class NormalizedState(NamedTuple):
    velocity: gdjax.typing.Params  # like params: a running mean of the gradients' directions


@gdjax.rule
def normalized(learning_rate, momentum=0.9):
    """Normalised gradient descent: v ← μ v + (1 − μ) g / ‖g‖, x ← x − h v. Steps are at most h long, however steep the loss."""

    def init(params):
        return NormalizedState(tree.zeros_like(params))

    def update(grads, state, params=None, **extra):
        norm = jnp.maximum(tree.norm(grads), 1e-12)
        velocity = tree.add_scaled(tree.scale(momentum, state.velocity), (1 - momentum) / norm, grads)
        return tree.scale(-learning_rate, velocity), NormalizedState(velocity)

    return init, update


def loss_fn(params):
    """Rosenbrock's valley, with its minimum, 0, at (1, 1); from (-1, 2) on its slopes are steep."""
    x, y = params
    return (1.0 - x) ** 2 + 100.0 * (y - x**2) ** 2


def main():
    traces = []

    @jax.jit
    def run(rule):
        traces.append(rule)
        return gdjax.minimize(loss_fn, jnp.array([-1.0, 2.0]), rule, max_steps=5000)

    print(f"{normalized(0.01)} is a rule: {isinstance(normalized(0.01), gdjax.Rule)}\n")
    for learning_rate in (0.1, 0.01, 0.001):
        result = run(normalized(learning_rate))
        print(f"learning rate {learning_rate:<6} loss {result.value:.2e} at ({result.params[0]:.3f}, {result.params[1]:.3f}) after {result.steps} steps")
    count = len(traces)
    print(f"\nnumber of times it was traced and compiled for these 3 learning rates: {count}")

    # The numbers are leaves, so a sweep is a vmap over rules.
    learning_rates = jnp.geomspace(1e-4, 1.0, 9)
    sweep = jax.vmap(run)(normalized(learning_rates))
    best = jnp.argmin(sweep.value)
    print(f"the best of 9 at once: learning rate {learning_rates[best]:.3g}, loss {sweep.value[best]:.2e}")
    return result, sweep, count


if __name__ == "__main__":
    main()
