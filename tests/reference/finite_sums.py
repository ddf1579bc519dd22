"""Variance reduction for finite sums: Defazio et al. 2014, Schmidt et al. 2017, Johnson and Zhang 2013, Kovalev et al. 2020, Li et al. 2021.

Here a rule is ``name(example_grad, regularizer_grad, x, batches, n, learning_rate, ...) -> final x``: ``example_grad(i, x)`` is ∇ℓᵢ, ``batches`` a list
of lists of rows, in which a row of a batch with replacement may come twice.
"""

import numpy as np


def _mean(example_grad, rows, x):
    return np.mean([example_grad(i, x) for i in rows], axis=0)


def saga(example_grad, regularizer_grad, x, batches, n, learning_rate):
    table = np.zeros((n, x.size))
    for rows in batches:
        fresh = {i: example_grad(i, x) for i in rows}
        noise = np.mean([fresh[i] - table[i] for i in rows], axis=0)
        x = x - learning_rate * (noise + table.mean(0) + regularizer_grad(x))
        for i in fresh:
            table[i] = fresh[i]
    return x


def sag(example_grad, regularizer_grad, x, batches, n, learning_rate):
    table, drawn = np.zeros((n, x.size)), 0
    for rows in batches:
        for i in rows:
            table[i] = example_grad(i, x)
        drawn = min(n, drawn + len(rows))
        x = x - learning_rate * (table.sum(0) / drawn + regularizer_grad(x))
    return x


def svrg(example_grad, regularizer_grad, x, batches, n, learning_rate, period):
    for step, rows in enumerate(batches):
        if step % period == 0:
            snapshot, full = x, _mean(example_grad, range(n), x)
        x = x - learning_rate * (_mean(example_grad, rows, x) - _mean(example_grad, rows, snapshot) + full + regularizer_grad(x))
    return x


def loopless_svrg(example_grad, regularizer_grad, x, batches, n, learning_rate, heads):
    snapshot = x
    for step, rows in enumerate(batches):
        full = _mean(example_grad, range(n), snapshot)
        after = x - learning_rate * (_mean(example_grad, rows, x) - _mean(example_grad, rows, snapshot) + full + regularizer_grad(x))
        snapshot, x = (x if step in heads else snapshot), after
    return x


def page(example_grad, regularizer_grad, x, batches, n, learning_rate, heads):
    def grad(rows, x):
        return _mean(example_grad, rows, x) + regularizer_grad(x)

    estimate, before = np.zeros_like(x), x
    for step, rows in enumerate(batches):
        estimate = grad(range(n), x) if step == 0 or step in heads else estimate + grad(rows, x) - grad(rows, before)
        before, x = x, x - learning_rate * estimate
    return x
