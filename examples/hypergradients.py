"""The learning rate, its schedule and the momentum of a run, found by descent: the loss on other data is differentiated through all the steps.

The data are scikit-learn's digits, 8 × 8 pixels: 1024 to learn from, 384 to tune on, 389 to test. A run is softmax regression in one pass over the 1024.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import gdjax

BATCH_SIZE, STEPS, ORDERS = 32, 32, 8


class Digits(NamedTuple):
    pixels: Any  # float32, (rows, 64), in [0, 1]
    label: Any  # int32, (rows,)


def load():
    """Three parts: to learn from, to tune on and to test."""
    pixels, label = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(label))
    return [Digits(np.float32(pixels[rows] / 16), np.int32(label[rows])) for rows in np.split(order, [1024, 1408])]


def shuffled(digits, seed):
    """The digits in several orders: what is tuned on one order fits that one best."""
    rows = np.random.default_rng(seed).permuted(np.tile(np.arange(len(digits.label)), (ORDERS, 1)), axis=1)
    return Digits(digits.pixels[rows], digits.label[rows])


def loss_fn(params, digits):
    """The mean cross-entropy."""
    chances = jax.nn.log_softmax(digits.pixels @ params["weights"] + params["bias"])
    return -jnp.mean(jnp.take_along_axis(chances, digits.label[:, None], axis=1))


def loss_after(rule, orders, digits):
    """The loss on these digits after a run, in the mean over the orders."""
    start = {"weights": jnp.zeros((64, 10)), "bias": jnp.zeros((1, 10))}

    def one(order):
        return loss_fn(gdjax.fit(loss_fn, start, order, rule, batch_size=BATCH_SIZE, steps=STEPS, shuffle=False).params, digits)

    return jnp.mean(jax.vmap(one)(orders))


def rule_of(numbers):
    """A rule of numbers without bounds: rates are positive, the momentum is below 1, and the parts of the schedule make up the run."""
    rate, (warmup, _, decay) = jnp.exp(numbers["log rate"]), STEPS * jax.nn.softmax(numbers["parts"])
    schedule = gdjax.schedules.wsd(rate, STEPS, warmup, decay, rate * jax.nn.sigmoid(numbers["logit end"]))
    return gdjax.sgd(schedule, jax.nn.sigmoid(numbers["logit momentum"]))


def leaves(rule):
    """The numbers of such a rule, or the derivatives with respect to them, by name."""
    numbers = rule.arguments["learning_rate"].arguments | rule.arguments
    return {name: float(numbers[name]) for name in ("peak_value", "end_value", "warmup_steps", "decay_steps", "momentum")}


def grid():
    """What one would try: 16 learning rates, constant or down to 0 in a straight line, and 4 momenta."""
    for momentum in (0.0, 0.5, 0.9, 0.95):
        for decay in (0.0, float(STEPS)):
            for rate in np.geomspace(0.01, 30.0, 16):
                yield gdjax.sgd(gdjax.schedules.wsd(rate, STEPS, 0.0, decay, 0.0), momentum)


def main():
    learn, tune, test = load()
    orders, others, run, traces = shuffled(learn, 0), shuffled(learn, 1), jax.jit(loss_after), []

    def tuned(numbers, *data):
        traces.append(numbers)
        return loss_after(rule_of(numbers), *data)

    # A rule is a pytree, and so is the derivative with respect to it. The learning rate is far too small, on purpose: derivatives through a run that diverges
    # point nowhere. There are many minima: the 9 starts from rates of 0.01 to 0.1 and momenta of 0.5 to 0.9 ended between 0.232 and 0.251.
    start = {"log rate": jnp.float32(np.log(0.01)), "parts": jnp.zeros(3), "logit end": jnp.float32(0), "logit momentum": jnp.float32(0)}
    slopes = jax.jit(jax.grad(loss_after))(rule_of(start), orders, tune)
    result = gdjax.minimize(tuned, start, args=(orders, tune), max_steps=30)
    rules = {"before": rule_of(start), "after": rule_of(result.params), "best of grid": min(grid(), key=lambda rule: run(rule, orders, tune))}
    losses = {name: (float(run(rule, orders, tune)), float(run(rule, others, test))) for name, rule in rules.items()}

    print(f"{'':14} {'before':>8} {'d loss/d':>10} {'after':>8}")
    for name, slope in leaves(slopes).items():
        print(f"{name:14} {leaves(rules['before'])[name]:8.4f} {slope:10.4f} {leaves(rules['after'])[name]:8.4f}")
    print(f"\n{'loss':14} {'tuned on':>8} {'test':>10}")
    for name, (seen, unseen) in losses.items():
        print(f"{name:14} {seen:8.4f} {unseen:10.4f}")
    print(f"\n{int(result.evaluations)} gradients through {STEPS} steps in {ORDERS} orders, {len(traces)} compilation; {len(list(grid()))} rules in the grid,")
    print(f"of which the best is {rules['best of grid']}")
    return losses, leaves(slopes), len(traces)


if __name__ == "__main__":
    main()
