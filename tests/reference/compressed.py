"""Rules whose gradients are compressed."""

import numpy as np

from reference.basic import at


def sign_error_feedback(oracle, x, steps, learning_rate):
    """Karimireddy et al. 2019, Algorithm 1 (EF-signSGD), of two leaves: three weights and one."""
    path, e = [np.array(x, np.float64)], np.zeros(len(x))
    for t in range(steps):
        p = at(learning_rate, t) * oracle(path[-1]) + e
        delta = np.concatenate([np.abs(q).sum() / len(q) * np.sign(q) for q in (p[:3], p[3:])])
        path.append(path[-1] - delta)
        e = p - delta
    return np.stack(path)


def top(v, k):
    """The k largest entries, zeros for the rest."""
    chosen = np.argsort(-np.abs(v), kind="stable")[:k]
    return np.where(np.isin(np.arange(len(v)), chosen), v, 0.0)


def ef21(oracle, x, steps, rule, kept):
    """Richtárik et al. 2021, Algorithm 1, one worker, w⁰ = C(∇f(x⁰)), around gradient descent."""
    k = kept if isinstance(kept, int) else max(round(float(kept) * len(x)), 1)
    path = [np.array(x, np.float64)]
    w = top(oracle(path[0]), k)
    for t in range(steps):
        path.append(path[-1] - at(rule.arguments["learning_rate"], t) * w)
        w = w + top(oracle(path[-1]) - w, k)
    return np.stack(path)
