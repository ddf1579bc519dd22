"""Short floats that keep count of small steps."""

import numpy as np

from reference.basic import sgd as plain_sgd


def precise(oracle, x, steps, rule, how, key):
    """In float64 there is nothing to do: the path is that of plain SGD."""
    return plain_sgd(oracle, x, steps, **rule.arguments)


def kahan(x, updates, dtype):
    """Kahan 1965, as used by Zamirai et al. 2020: the sums x and compensations c after each update, in a dtype of NumPy's or ml_dtypes'.

    Differs in that sums are taken in float32 and then rounded, and in the sign of c. What is added to x has the dtype too, so that anyone may add it.
    """
    x, c, path = np.array(x, dtype), np.zeros(np.shape(x), dtype), []
    for u in np.float32(updates):
        y = c.astype(np.float32) + u
        aim = (x.astype(np.float32) + y).astype(dtype)
        step = (aim.astype(np.float32) - x.astype(np.float32)).astype(dtype)
        moved = (x.astype(np.float32) + step.astype(np.float32)).astype(dtype)
        rest = (y - (moved.astype(np.float32) - x.astype(np.float32))).astype(dtype)
        x, c = np.where(u == 0, x, moved), np.where(u == 0, c, rest)
        path.append((x, c))
    return [np.stack(which) for which in zip(*path, strict=True)]
