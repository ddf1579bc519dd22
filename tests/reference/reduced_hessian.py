"""The reduced-Hessian method with the Hessian itself, orthonormal bases by QR, and a line search in plain ifs."""

import math

import numpy as np


def cubic_minimiser(a, b, rounding):
    """Of the cubic through two (step, value, slope); NaN if there is none. Of values that are equal but for rounding the parabola's with these slopes."""
    width = b[0] - a[0]
    b = (b[0], a[1] + width * (a[2] + b[2]) / 2, b[2]) if abs(b[1] - a[1]) <= rounding else b
    z = a[2] + b[2] - 3 * (b[1] - a[1]) / width
    if z * z < a[2] * b[2]:
        return math.nan
    root = math.sqrt(z * z - a[2] * b[2])
    bottom = b[2] - a[2] + 2 * root
    return b[0] - width * (b[2] + root - z) / bottom if bottom else math.nan


def weak_wolfe(oracle, x, d, a, sufficient, curvature):
    """The accepted step; 0 if there is none."""
    low, high = (0.0, oracle.value(x), oracle(x) @ d), None
    start = low
    for count in range(30):
        here = (a, oracle.value(x + a * d), oracle(x + a * d) @ d)
        rounding = 10 * np.finfo(np.float64).eps * abs(start[1])
        flat = here[1] <= start[1] + rounding and here[2] <= -0.8 * start[2]  # Hager and Zhang's approximate condition
        if np.isfinite(here[1]) and (here[1] - start[1] <= sufficient * a * start[2] or flat):
            if here[2] >= curvature * start[2]:
                return a
            before, low = low, here
        else:
            before, high = low, here
        if high is None:
            rise = here[2] - before[2]
            longer = a + (a - before[0]) * -here[2] / rise if rise > 0 else math.inf
            a = min(max(longer, 2 * a), 100 * a)
            continue
        width = high[0] - low[0]
        best = cubic_minimiser(low, high, rounding)
        best = best if np.isfinite(best) else low[0] + width / 2
        best = min(max(best, low[0] + 0.1 * width), low[0] + (0.9 if low[0] else 0.8) * width)
        a = low[0] + width / 2 if count >= 8 else best
    return 0.0


def reduced_hessian(oracle, x, steps, memory, sufficient, curvature):
    """Gill and Leonard 2003 with the self-scaling of Al-Baali 1998; the columns of Z are an orthonormal basis of the last directions and the gradient."""
    x, n = np.array(x, np.float64), len(x)
    memory = (30 if n <= 30 else 9) if memory is None else memory
    curvature = (0.5 if n <= memory else 0.9) if curvature is None else curvature
    g = oracle(x)
    Z, B, kept, path = (g / np.linalg.norm(g))[:, None], np.eye(1), [], [x]
    for k in range(steps):
        p = -np.linalg.solve(B, Z.T @ g)
        d = Z @ p
        a = weak_wolfe(oracle, x, d, 1.0 if k else 1 / np.abs(g).max(), sufficient, curvature)
        x, last, g = x + a * d, g, oracle(x + a * d)
        path.append(x)
        s, y = a * d, g - last
        if s @ y <= np.finfo(np.float64).eps * np.linalg.norm(s) * np.linalg.norm(y):
            return np.stack(path + [x] * (steps - k - 1))  # at the minimum
        sigma = (y @ y) / (s @ y)
        B = np.eye(1) * sigma if k == 0 else B
        rest = g - Z @ (Z.T @ g)
        rest -= Z @ (Z.T @ rest)
        if np.linalg.norm(rest) > 1e-12 * np.linalg.norm(g) and Z.shape[1] < n:
            Z, B = np.column_stack([Z, rest / np.linalg.norm(rest)]), np.pad(B, (0, 1))
            B[-1, -1] = sigma
        sz, yz = Z.T @ s, Z.T @ y
        B = B * min(1.0, (s @ y) / (sz @ B @ sz))
        B = B - np.outer(B @ sz, B @ sz) / (sz @ B @ sz) + np.outer(yz, yz) / (s @ y)
        kept = [*kept, d][-(memory - 1) :] if memory > 1 else []
        if Z.shape[1] > memory:
            Q = np.linalg.qr(Z.T @ np.column_stack([*kept, g]))[0]
            Z, B = Z @ Q, Q.T @ B @ Q
    return np.stack(path)
