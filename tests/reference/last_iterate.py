"""Schedules for the last iterate of subgradient methods, and what is proved about them."""

import numpy as np


def minimax(t, distance, lipschitz, steps):
    """Zamani and Glineur 2023, Theorem 2.3: h_k = R (N + 1 − k)/(B √((N + 1)³)), k = 1, ..., N."""
    k = t + 1
    return distance * (steps + 1 - k) / (lipschitz * np.sqrt((steps + 1) ** 3)) if k <= steps else 0.0


def suffix_bound(h, distance=1.0, lipschitz=1.0):
    """Schaipp et al. 2025, Theorem 3.1: of the last of len(h) points, hence after len(h) − 1 steps; the last entry only weighs."""
    sums, squares = np.cumsum(h[::-1])[::-1], lipschitz**2 * np.cumsum(h[::-1] ** 2)[::-1]
    return (distance**2 + squares[0]) / (2 * sums[0]) + np.sum(h[:-1] / sums[1:] / sums[:-1] * squares[:-1]) / 2


def weighted_bound(h, distance=1.0, lipschitz=1.0, last=1.0):
    """Zamani and Glineur 2023, Theorem 2.1, with the weights that leave nothing but the last point; ``last`` is the step never taken, times its weight."""
    h = np.append(h, 1.0)
    v, tail = np.zeros(len(h) + 1), np.zeros(len(h) + 1)  # v[k + 1] weighs step k; tail[k] = Σ_{i ≥ k} h_i v_i
    v[-1] = last
    for k in reversed(range(len(h))):
        tail[k] = tail[k + 1] + h[k] * v[k + 1]
        v[k] = v[k + 1] * (tail[k + 1] / tail[k] if k < len(h) - 1 else 1 / last**2)
    left = h * v[1:] ** 2 - np.diff(v) * tail[:-1]  # the weights of f(x_k) − f⋆
    np.testing.assert_allclose(left[:-1], 0, atol=1e-12 * left[-1])
    return (v[0] ** 2 * distance**2 + lipschitz**2 * np.sum(h**2 * v[1:] ** 2)) / (2 * left[-1])
