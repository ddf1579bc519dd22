"""Rules that learn the distance to the minimum: DoG, L-DoG, DoWG, D-Adaptation, Prodigy, Mechanic."""

import math

import numpy as np

norm = np.linalg.norm


def first(x, first_distance):
    return 1e-6 * (1 + norm(x)) if first_distance is None else first_distance


def dog(oracle, x, steps, first_distance, averaging):
    """Ivgi, Hinder, Carmon 2023, (DoG). The average has no part in the points where gradients are taken."""
    x = np.array(x, np.float64)
    path, far, total = [x], first(x, first_distance), 0.0
    for _ in range(steps):
        g = oracle(path[-1])
        far, total = max(far, norm(path[-1] - x)), total + g @ g
        path.append(path[-1] - far / math.sqrt(total) * g)
    return np.stack(path)


def l_dog(oracle, x, steps, first_distance, averaging, blocks=(slice(0, 3), slice(3, 4))):
    """The same for each block of the params by itself."""
    x = np.array(x, np.float64)
    path, far, total = [x], [first(x[b], first_distance) for b in blocks], [0.0 for _ in blocks]
    for _ in range(steps):
        g, new = oracle(path[-1]), path[-1].copy()
        for i, b in enumerate(blocks):
            far[i], total[i] = max(far[i], norm(path[-1][b] - x[b])), total[i] + g[b] @ g[b]
            new[b] -= far[i] / math.sqrt(total[i]) * g[b]
        path.append(new)
    return np.stack(path)


def dowg(oracle, x, steps, first_distance, averaging):
    """Khaled, Mishchenko, Jin 2023, Algorithm 1."""
    x = np.array(x, np.float64)
    path, far, total = [x], first(x, first_distance), 0.0
    for _ in range(steps):
        g = oracle(path[-1])
        far = max(far, norm(path[-1] - x))
        total += far**2 * (g @ g)
        path.append(path[-1] - far**2 / math.sqrt(total) * g)
    return np.stack(path)


def value(number, step):
    return number(step) if callable(number) else number


def d_adaptation(oracle, x, steps, learning_rate, momentum, weight_decay, first_distance, growth_rate, coefficient):
    """Defazio and Mishchenko 2023, DAdaptSGD, its estimate from the norm of s, as in their first version: 2 Σ a⟨g, s⟩ = ‖s‖² − Σ a²‖g‖²."""
    x = np.array(x, np.float64)
    path, s, squares, d, unit = [x], np.zeros_like(x), 0.0, first_distance, None
    for k in range(steps):
        g = oracle(path[-1]) + (weight_decay or 0.0) * path[-1]
        unit = norm(g) if unit is None else unit
        a = d * float(value(learning_rate, k)) / unit
        s, squares = s + a * g, squares + a**2 * (g @ g)
        estimate = coefficient / 2 * (s @ s - squares) / norm(s)
        d = max(d, min(estimate, d * (growth_rate or math.inf)))
        path.append(momentum * path[-1] + (1 - momentum) * (x - s))
    return np.stack(path)


def prodigy(oracle, x, steps, learning_rate, betas, beta3, first_distance, growth_rate, **kept):
    """Mishchenko and Defazio 2023, as in the code of its authors, with sums in place of running averages."""
    x, (beta1, beta2), eps = np.array(x, np.float64), betas, kept["eps"]
    b3 = math.sqrt(beta2) if beta3 is None else beta3
    path, history, d, largest = [x], [], first_distance, first_distance
    for k in range(steps):
        g = oracle(path[-1])
        a = d * float(value(learning_rate, k))
        a *= math.sqrt(1 - beta2 ** (k + 1)) / (1 - beta1 ** (k + 1)) if kept["bias_correction"] else 1.0
        history.append((d * g, d * a * (g @ (x - path[-1])), (d * d if kept["safeguard_warmup"] else d * a) * g))
        m = (1 - beta1) * sum(beta1 ** (k - i) * dg for i, (dg, _, _) in enumerate(history))
        v = (1 - beta2) * sum(beta2 ** (k - i) * dg**2 for i, (dg, _, _) in enumerate(history))
        p = sum(b3 ** (k - i) * product for i, (_, product, _) in enumerate(history))
        s = sum(b3 ** (k - i) * weighted for i, (_, _, weighted) in enumerate(history))
        estimate = kept["coefficient"] * p / np.abs(s).sum()
        if d == first_distance:
            d = max(d, estimate)
        largest = max(largest, estimate)
        d = min(largest, d * (growth_rate or math.inf))
        path.append(path[-1] - a * m / (np.sqrt(v) + d * eps) - a * (kept["weight_decay"] or 0.0) * path[-1])
    return np.stack(path)


def mechanic(oracle, x, steps, rule, first_scale, weight_decay):
    """Cutkosky, Defazio, Mehta 2023, Algorithm 1, around gradient descent; the first scale is the least, as h = 0 says nothing."""
    x, h_rule = np.array(x, np.float64), rule.arguments["learning_rate"]
    path, offset, betas = [x], np.zeros_like(x), 1 - 10.0 ** -np.arange(1, 7)
    m, v, r, s = np.zeros(6), np.zeros(6), np.zeros(6), np.full(6, first_scale / 6)
    for k in range(steps):
        g = oracle(path[-1])
        h = offset @ (g + weight_decay * s.sum() * norm(g) * path[-1] / norm(path[-1]))
        offset = offset - h_rule * g
        if k > 0:
            m, v, r = np.maximum(betas * m, abs(h)), betas**2 * v + h**2, np.maximum(0, betas * r - s * h)
            s = (first_scale / 6 * m + r) / np.sqrt(v)
        path.append(x + s.sum() * offset)
    return np.stack(path)
