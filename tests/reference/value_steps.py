"""Rules whose step comes from the value of the loss; on full batches, so that an epoch has one step unless ``steps_per_epoch`` says otherwise."""

import math

import numpy as np

from reference.basic import at


def polyak_stepsize(oracle, x, lower_bound):
    g = oracle(x)
    return max(oracle.value(x) - lower_bound, 0.0) / (g @ g)


def sps(oracle, x, steps, lower_bound=0.0, scaling=0.5, max_learning_rate=None, growth=2.0, first_learning_rate=1.0, steps_per_epoch=None):
    """Loizou et al. 2021, eq. 3, and the smoothing of their section 4."""
    path, eta = [np.array(x, np.float64)], first_learning_rate
    for _ in range(steps):
        bound = math.inf if growth is None else growth ** (1 / (steps_per_epoch or 1)) * eta
        eta = min(polyak_stepsize(oracle, path[-1], lower_bound) / scaling, bound, max_learning_rate or math.inf)
        path.append(path[-1] - eta * oracle(path[-1]))
    return np.stack(path)


def dec_sps(oracle, x, steps, lower_bound=0.0, scaling=1.0, max_learning_rate=10.0):
    """Orvieto et al. 2022: γ_k = (1/c_k) min{(f − l)/‖g‖², c_{k−1} γ_{k−1}}, c_k = c₀√(k+1), c_{−1} = c₀, γ_{−1} = γ_b."""
    path, c, gamma = [np.array(x, np.float64)], scaling, max_learning_rate
    for k in range(steps):
        before, c = c, scaling * math.sqrt(k + 1)
        gamma = min(polyak_stepsize(oracle, path[-1], lower_bound), before * gamma) / c
        path.append(path[-1] - gamma * oracle(path[-1]))
    return np.stack(path)


def mom_sps(oracle, x, steps, lower_bound=0.0, momentum=0.9, scaling=1.0, max_learning_rate=10.0, growth=None, first_learning_rate=10.0, steps_per_epoch=None):
    """Oikonomou, Loizou 2025: x_{t+1} = x_t − γ_t g_t + β(x_t − x_{t−1}), γ_t = (1 − β) min{(f − l)/(c‖g‖²), γ_b}; smoothed as in their code."""
    path, gamma = [np.array(x, np.float64)] * 2, (1 - momentum) * first_learning_rate
    for _ in range(steps):
        bound = math.inf if growth is None else growth ** (1 / (steps_per_epoch or 1)) * gamma
        capped = min(polyak_stepsize(oracle, path[-1], lower_bound) / scaling, max_learning_rate or math.inf)
        gamma = min((1 - momentum) * capped, bound)
        path.append(path[-1] - gamma * oracle(path[-1]) + momentum * (path[-1] - path[-2]))
    return np.stack(path[1:])


def ngn(oracle, x, steps, learning_rate=1.0, lower_bound=0.0):
    """Orvieto, Xiao 2024: γ_k = σ/(1 + σ‖g‖²/(2f))."""
    path = [np.array(x, np.float64)]
    for k in range(steps):
        sigma, g, f = at(learning_rate, k), oracle(path[-1]), max(oracle.value(path[-1]) - lower_bound, 0.0)
        path.append(path[-1] - (sigma / (1 + sigma * (g @ g) / (2 * f)) if f > 0 else 0.0) * g)
    return np.stack(path)


def ali_g(oracle, x, steps, max_learning_rate, momentum=None, max_norm=None, lower_bound=0.0):
    """Berrada et al. 2020, algorithm 1, with the momentum of their appendix and no constant in the denominator."""
    path, v, mu = [np.array(x, np.float64)], np.zeros(np.shape(x)), momentum or 0.0
    for _ in range(steps):
        gamma = min(polyak_stepsize(oracle, path[-1], lower_bound), max_learning_rate)
        v = mu * v - gamma * oracle(path[-1])
        ahead = path[-1] - gamma * oracle(path[-1]) + mu * v
        path.append(ahead if max_norm is None else ahead * min(1.0, max_norm / np.linalg.norm(ahead)))
    return np.stack(path)


def momo(oracle, x, steps, learning_rate=1.0, momentum=0.9, lower_bound=0.0, weight_decay=None):
    """Schaipp et al. 2024, algorithms 1 and 3: sums over all tangents so far, weighted as the moving average weighs them. The estimate has gdjax's margin."""
    path, lam, online = [np.array(x, np.float64)], weight_decay or 0.0, lower_bound is None
    bound, values, grads = 0.0 if online else lower_bound, [], []
    for k in range(steps):
        x, alpha = path[-1], at(learning_rate, k)
        values.append(oracle.value(x))
        grads.append(oracle(x))
        weights = [(1 - momentum if j else 1.0) * momentum ** (k - j) for j in range(k + 1)]
        d = sum(w * g for w, g in zip(weights, grads, strict=True))
        tangents = sum(w * (f - g @ y) for w, f, g, y in zip(weights, values, grads, path, strict=True))  # at 0
        scale = 1 + alpha * lam
        height = tangents + d @ x / scale
        if online and height - bound < 0.01 * abs(height):
            bound = max(height / 2, 0.0)
        tau = min(alpha, max(scale * (tangents - bound) + d @ x, 0.0) / (d @ d))
        if online:
            bound = max(tangents + d @ x - tau * (d @ d) / 2, 0.0)
        path.append((x - tau * d) / scale)
    return np.stack(path)


def stochastic_line_search(oracle, x, steps, sufficient=0.1, shrink=0.9, growth=2.0, first_learning_rate=1.0, max_learning_rate=None, steps_per_epoch=None):
    """Vaswani et al. 2019, algorithms 1 and 2 with reset option 2: the last step times γ^{b/n}."""
    path, eta = [np.array(x, np.float64)], first_learning_rate
    for _ in range(steps):
        x, g = path[-1], oracle(path[-1])
        eta = min(eta * growth ** (1 / (steps_per_epoch or 1)), max_learning_rate or math.inf)
        while oracle.value(x - eta * g) > oracle.value(x) - sufficient * eta * (g @ g):
            eta *= shrink
        path.append(x - eta * g)
    return np.stack(path)
