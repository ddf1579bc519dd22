"""The parameter-free rules: Prodigy's bound of the distance, with means of the gradients as sums over all steps."""

import math

import numpy as np


def parameter_free(oracle, x, steps_taken, dual_norm, steepest, size, longer, settings):
    x = np.array(x, np.float64)
    N, rate, (beta1, beta2, beta3) = settings["steps"], settings["learning_rate"], settings["betas"]
    path, past, d = [x], [], settings["first_distance"]
    if d is None:
        g, u, best, last = oracle(x), steepest(oracle(x)), 0.0, oracle.value(x)
        for trial in range(14):
            seen = oracle.value(x - 1e-6 * 10.0**trial * u)
            if not seen <= last:
                break
            best, last = max(best, oracle.value(x) - seen), seen
        d = max(1e-6, np.finfo(float).eps * np.abs(x).mean() * longer(x), 0.01 * best / dual_norm(g))
    for k in range(steps_taken):
        g, h = oracle(path[-1]), rate * (1 / math.sqrt(1 + k / 100) if N is None else max(1 - k / N, 0))
        past.append([d, h * d**2, g, g @ (x - path[-1])])  # the bound gives this gradient the weight from before
        old = [beta3 ** (k - i) * e[1] for i, e in enumerate(past)]
        p, s = sum(w * e[3] for w, e in zip(old, past, strict=True)), sum(w * e[2] for w, e in zip(old, past, strict=True))
        past[-1][0] = d = max(d, p / dual_norm(s))  # and the means the new one
        first = [(1 - beta1) * beta1 ** (k - i) * e[0] for i, e in enumerate(past)]
        second = [(1 - beta2) * beta2 ** (k - i) * e[0] ** 2 for i, e in enumerate(past)]
        ahead = [beta1 * w for w in first]
        ahead[-1] += (1 - beta1) * d
        n = sum(w * e[2] for w, e in zip(ahead, past, strict=True)) / sum(ahead)
        v = sum(w * size(e[2]) for w, e in zip(second, past, strict=True)) / sum(second)
        path.append(path[-1] - h * d * (n / np.sqrt(v) + (settings["weight_decay"] or 0.0) * path[-1]))
    return np.stack(path)


def parameter_free_adam(oracle, x, steps_taken, /, **settings):
    return parameter_free(oracle, x, steps_taken, lambda s: np.abs(s).sum(), np.sign, np.square, lambda x: 1.0, settings)


def parameter_free_sgd(oracle, x, steps_taken, /, **settings):
    norm = np.linalg.norm
    return parameter_free(oracle, x, steps_taken, norm, lambda g: g / norm(g), lambda g: g @ g, lambda x: np.sqrt(x.size), settings)
