"""Rules for weight matrices: MuSGD, Muon, LARS."""

import ml_dtypes
import numpy as np

from reference.basic import at, sgd as plain_sgd

QUINTIC = (3.4445, -4.7750, 2.0315)


def bfloat16(x):
    """Rounded to bfloat16, to the nearest and to even, as float64."""
    return np.asarray(x, np.float64).astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


def newton_schulz(matrix, steps=5, rounding=bfloat16, sums=None):
    """Jordan et al. 2024, zeropower_via_newtonschulz5, in float64 with the given rounding.

    Every result that is rounded, with what the sums it is made of have in absolute value, is appended to ``sums``.
    """

    def rounded(value, size):
        if sums is not None:
            sums.append((value, size))
        return rounding(value)

    x = rounding(np.asarray(matrix, np.float64))
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    norm = rounded(np.sqrt(np.sum(x**2)), np.sqrt(np.sum(x**2)))
    x = rounding(x / rounding(norm + 1e-7))
    a, b, c = (float(np.float32(number)) if rounding is bfloat16 else number for number in QUINTIC)
    for _ in range(steps):
        gram = rounded(x @ x.T, abs(x) @ abs(x.T))
        both = rounded(b * gram + c * (gram @ gram), abs(b * gram) + c * (abs(gram) @ abs(gram)))
        x = rounded(a * x + both @ x, abs(a * x) + abs(both) @ abs(x))
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def musgd_step(g, x, m, b, learning_rate, momentum, muon, sgd, nesterov, weight_decay, orthogonal, sums=None):
    """One step for one tensor in PyTorch's layout and float32, operation by operation: the update and the two buffers."""
    one, (h, mu, w, v) = np.float32(1), map(np.float32, (learning_rate, momentum, muon, sgd))
    moved = np.zeros_like(x)
    if orthogonal:
        m = mu * m + (one - mu) * g
        u = mu * m + (one - mu) * g if nesterov else m
        size = np.float32(max(1, u.shape[-2] / u.shape[-1]) ** 0.5)
        moved = -h * w * size * newton_schulz(u.reshape(len(u), -1), sums=sums).astype(np.float32).reshape(u.shape)
    if weight_decay is not None:
        g = g + np.float32(weight_decay) * (x + moved)
    b = mu * b + g
    step = -h * (v if orthogonal else one) * (g + mu * b if nesterov else b)
    return (moved + step if orthogonal else step), m, b


def musgd(oracle, x, steps, learning_rate, momentum, muon, sgd, nesterov, weight_decay, orthogonal, decayed, factors, layout):
    """Ultralytics 8.4, MuSGD: of vectors, which are neither orthogonalised nor decayed, plain SGD. tests/rules/test_musgd.py has the matrices."""
    return plain_sgd(oracle, x, steps, learning_rate, momentum, nesterov=nesterov)


def muon_step(g, x, m, learning_rate, momentum, nesterov=True, weight_decay=0.0, scale="original", orthogonalize=newton_schulz):
    """Jordan et al. 2024 and, for decay and scale, Liu et al. 2025: one step for one matrix of outputs by inputs; the new matrix and its buffer."""
    m = momentum * m + (1 - momentum) * g
    u = momentum * m + (1 - momentum) * g if nesterov else m
    rows, columns = u.shape
    size = max(1, rows / columns) ** 0.5 if scale == "original" else 0.2 * max(rows, columns) ** 0.5
    return x - learning_rate * weight_decay * x - learning_rate * size * orthogonalize(u), m


def muon(oracle, x, count, learning_rate, others, **arguments):
    """Leaves that are no matrices follow the other rule; tests/theorems/test_matrices.py has the matrices."""
    return plain_sgd(oracle, x, count, **others.arguments)


def lars(oracle, x, steps, learning_rate, momentum, weight_decay, trust, nesterov, layers):
    """You, Gitman and Ginsburg 2017, Algorithm 1, of two leaves: three weights, and one without a rate of its own."""
    path, v = [np.array(x, np.float64)], np.zeros(len(x))
    for t in range(steps):
        x, g, moves = path[-1], oracle(path[-1]), []
        for part in (slice(0, 3), slice(3, 4)):
            beta = weight_decay or 0.0
            local = trust * np.linalg.norm(x[part]) / (np.linalg.norm(g[part]) + beta * np.linalg.norm(x[part])) if part.start == 0 else 1.0
            moves.append(at(learning_rate, t) * local * (g[part] + beta * x[part]))
        v = momentum * v + np.concatenate(moves)
        path.append(x - (momentum * v + np.concatenate(moves) if nesterov else v))
    return np.stack(path)
