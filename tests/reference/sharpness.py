"""Sharpness-aware minimisation."""

import numpy as np

from reference.basic import sgd as plain_sgd


class Moved:
    """The gradient at the point nearby, for the transcription of the rule within."""

    def __init__(self, oracle, offset):
        self.oracle, self.offset = oracle, offset

    def __call__(self, x):
        return self.oracle(x + self.offset(x, self.oracle(x)))


def sam(oracle, x, steps, rule, radius):
    """Foret et al. 2021, Algorithm 1, around plain SGD."""
    return plain_sgd(Moved(oracle, lambda x, g: radius * g / np.linalg.norm(g)), x, steps, **rule.arguments)


def asam(oracle, x, steps, rule, radius, floor):
    """Kwon et al. 2021, Algorithm 1, around plain SGD."""

    def offset(x, g):
        t = np.abs(x) + floor
        return radius * t**2 * g / np.linalg.norm(t * g)

    return plain_sgd(Moved(oracle, offset), x, steps, **rule.arguments)
