"""The line search in plain Python, and rules on it: nonlinear conjugate gradients, Armijo, accelerated descent with backtracking."""

import math

import numpy as np

EPSILON = 2.0**-52


def search(oracle, x, d, f, g, trial, reference=None, sufficient=1e-4, curvature=None, strong=False, slack=0.0, expansion=100.0, most=30):
    """(a, f, gradient) at an acceptable a, or None; float64 numbers only. The last item is the number of evaluations."""
    slope, reference, slack = g @ d, f if reference is None else reference, max(slack, 10 * EPSILON) * abs(f)
    low, high, fallback, count = (0.0, f, slope), None, False, 0
    if not (slope < 0 and trial > 0):
        return None, 0
    while True:
        value, there, count, before = oracle.value(x + trial * d), oracle(x + trial * d), count + 1, low
        rise = there @ d
        decreased = np.isfinite(value) and np.isfinite(rise)
        decreased = decreased and (value - reference <= sufficient * trial * slope or (value <= f + slack and rise <= -0.8 * slope))
        wanted = decreased and (curvature is None or (rise >= curvature * slope and (not strong or rise <= -curvature * slope)))
        if wanted or fallback:
            return (trial, value, there), count
        now = (trial, value, rise)
        low, high = (now, high) if decreased and rise < 0 else (low, now)
        if high is None:
            ahead = trial + (trial - before[0]) * -rise / (rise - before[2]) if rise > before[2] else math.inf
            ahead = min(max(ahead, 2 * trial), expansion * trial)
        else:
            ahead = between(low, high, count, slack)
        if count == most or (high is not None and high[0] - low[0] <= 4 * EPSILON * high[0]) or not ahead > 0:
            if low[0] == 0:
                return None, count
            if low[0] == trial:
                return (trial, value, there), count
            ahead, fallback = low[0], True
        elif np.array_equal(x + trial * d, x):
            return None, count
        trial = ahead


def between(low, high, count, slack):
    """The minimiser of the cubic, else of the parabola, else the middle; by the slopes alone where the values are equal but for rounding."""
    (a, f, s), (b, fb, sb) = low, high
    w = b - a
    fb = f + w * (s + sb) / 2 if abs(fb - f) <= slack else fb
    if not (np.isfinite(fb) and np.isfinite(sb)):
        return a + (0.1 if a == 0 else 0.5) * w
    z = s + sb - 3 * (fb - f) / w
    square, lift = z**2 - s * sb, 2 * (fb - f - s * w)
    best = a - s * w**2 / lift if lift > 0 else a + w / 2
    if square >= 0 and sb - s + 2 * math.sqrt(square) != 0:
        best = b - w * (sb + math.sqrt(square) - z) / (sb - s + 2 * math.sqrt(square))
    best = min(max(best, a + 0.1 * w), a + (0.8 if a == 0 else 0.9) * w)
    return best if count <= 8 else min(best, w / 2) if a == 0 else a + w / 2


def nonlinear_cg(oracle, x, steps, beta, curvature, sufficient, strong):
    """β as in Hager and Zhang's survey of 2006, table 1.1; the truncation of 2013, (3.8)."""
    path, d, last, strong = [np.array(x, np.float64)], None, None, beta != "hager_zhang" if strong is None else strong
    for _ in range(steps):
        x = path[-1]
        f, g = oracle.value(x), oracle(x)
        d = -g if d is None or not g @ d < 0 else d
        trial = 1 / abs(g).max() if last is None else last[0] * min(max(last[1] / (g @ d), 0.25), 4)
        found, _ = search(oracle, x, d, f, g, trial, None, sufficient, curvature, strong, 1e-6)
        if found is None:
            path, d, last = [*path, x], None, None
            continue
        a, _, new = found
        y, slope = new - g, g @ d
        betas = {
            "fletcher_reeves": new @ new / (g @ g),
            "polak_ribiere": max(new @ y / (g @ g), 0),
            "hestenes_stiefel": max(new @ y / (d @ y), 0),
            "dai_yuan": new @ new / (d @ y),
            "hager_zhang": max((y - 2 * d * (y @ y) / (d @ y)) @ new / (d @ y), 0.4 * (d @ g) / (d @ d)),
        }
        if beta in ("fletcher_reeves", "dai_yuan") and abs(g @ new) >= 0.2 * (new @ new):
            betas[beta] = 0.0  # Powell 1977, (restarts)
        last = (a * min(max(-slope / (d @ y), 0.1), 10), slope)
        path, d = [*path, x + a * d], -new + betas[beta] * d
    return np.stack(path)


def armijo(oracle, x, steps, sufficient, expansion, first_learning_rate, reference, memory):
    """Armijo 1966; with Grippo, Lampariello and Lucidi's maximum of 1986, or Zhang and Hager's mean C of 2004, (2.1)."""
    path, a, losses, mean, weight = [np.array(x, np.float64)], None, [], 0.0, 0.0
    for _ in range(steps):
        x = path[-1]
        f, g = oracle.value(x), oracle(x)
        losses.append(f)
        mean, weight = (memory * weight * mean + f) / (memory * weight + 1), memory * weight + 1
        highest = {"last": f, "maximum": max(losses[-10:]), "mean": max(mean, f)}[reference]
        first = 1 / abs(g).max() if first_learning_rate is None else first_learning_rate
        found, _ = search(oracle, x, -g, f, g, first if a is None else expansion * a, highest, sufficient)
        if found is None:
            path, a, losses, weight = [*path, x], None, [], 0.0
            continue
        a = found[0]
        path.append(x - a * g)
    return np.stack(path)


def accelerated(oracle, x, steps, first_learning_rate, restart, growth):
    """Scheinberg, Goldfarb and Bai 2014, algorithm 3 (y and θ anew after each failure), with O'Donoghue and Candès' restarts; the path of y."""
    x = y = np.array(x, np.float64)
    path, lowest, h, theta = [y], math.inf, None, 1.0
    for _ in range(steps):
        f, g = oracle.value(y), oracle(y)
        if h is None:
            first = 1 / abs(g).max() if first_learning_rate is None else first_learning_rate
            h = search(oracle, y, -g, f, g, first, sufficient=0.5, curvature=0.6)[0][0]
        energy, ahead = h * theta * (theta - 1), y - h * g  # energy = h₋ θ₋²
        while not oracle.value(ahead) - f <= 10 * EPSILON * abs(f) - h * (g @ g) / 2:
            estimate = 2 * (oracle.value(ahead) - f + h * (g @ g)) / (h**2 * (g @ g))  # of L
            h, old = min(max(1 / estimate, h / 10), 0.8 * h), theta
            theta = (1 + math.sqrt(1 + 4 * energy / h)) / 2
            y = x + old / theta * (y - x)
            f, g = oracle.value(y), oracle(y)
            ahead = y - h * g
        last, new, uphill = h, oracle.value(ahead), False
        h = growth * h if h * (g @ g) / 2 > 10 * EPSILON * abs(f) else h
        if restart is not None:
            uphill = new > lowest if restart == "function" else g @ (ahead - x) > 0
        if restart == "function" and uphill:
            ahead, new = x, lowest
        following = 1.0 if uphill else (1 + math.sqrt(1 + 4 * last * theta**2 / h)) / 2
        y = ahead + (0.0 if uphill else (theta - 1) / following) * (ahead - x)
        x, lowest, theta = ahead, new, following
        path.append(y)
    return np.stack(path)
