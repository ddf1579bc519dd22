"""The textbook case: down the parabola (w - 2)², from w = 5, with a learning rate of 0.1."""

import jax
import jax.numpy as jnp

import gdjax


def loss_fn(w):
    return (w - 2.0) ** 2


def main():
    # One step by hand: the gradient at 5 is 2 (5 - 2) = 6, so w becomes 5 - 0.1 * 6 = 4.4.
    rule = gdjax.gd(0.1)
    updates, _ = rule.update(jax.grad(loss_fn)(5.0), rule.init(5.0))
    print(f"one step:       w = {5.0 + updates:.3f}")

    # All the steps, compiled into one program, until the gradient is small.
    result = gdjax.minimize(loss_fn, 5.0, rule, tol=1e-5)
    print(f"until it stops: w = {result.params:.3f}\n\n{result}\n")

    # A rule is a pytree, its numbers are leaves: a sweep over learning rates is a vmap over rules.
    learning_rates = jnp.array([0.001, 0.01, 0.1, 0.5, 0.9, 1.1])
    sweep = jax.vmap(lambda rule: gdjax.minimize(loss_fn, 5.0, rule, tol=1e-5, max_steps=200))(gdjax.gd(learning_rates))
    for learning_rate, w, code, steps in zip(learning_rates, sweep.params, sweep.status, sweep.steps, strict=True):
        print(f"learning rate {learning_rate:<6.3g} w = {w:<12.5g} {gdjax.Status(int(code)).name.lower().replace('_', ' ')} at step {steps}")
    return result, sweep


if __name__ == "__main__":
    main()
