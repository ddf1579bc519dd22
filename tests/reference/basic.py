"""Gradient descent, momentum, and the plain schedules."""

import math

import numpy as np


def at(value, t):
    """A number, or a schedule at t."""
    return value(t) if callable(value) else value


def gd(grad_fn, x, steps, learning_rate):
    """Cauchy 1847: x_{t+1} = x_t − h ∇f(x_t)."""
    path = [np.array(x, np.float64)]
    for t in range(steps):
        path.append(path[-1] - at(learning_rate, t) * grad_fn(path[-1]))
    return np.stack(path)


def sgd(grad_fn, x, steps, learning_rate, momentum=None, dampening=None, weight_decay=None, nesterov=False, maximize=False, ema=False):
    """The algorithm box of the documentation of torch.optim.SGD, line by line; with ``ema`` the moving average from zero."""
    x = np.array(x, np.float64)
    path, b = [x], None
    for t in range(1, steps + 1):
        gamma, mu, tau, lam = (at(value, t - 1) for value in (learning_rate, momentum or 0.0, dampening or 0.0, weight_decay or 0.0))
        g = -grad_fn(x) if maximize else grad_fn(x)
        if lam != 0:
            g = g + lam * x
        if ema:
            b = mu * (np.zeros_like(x) if b is None else b) + (1 - mu) * g
            g = (1 - mu) * g + mu * b if nesterov else b
        elif mu != 0:
            b = mu * b + (1 - tau) * g if t > 1 else g
            g = g + mu * b if nesterov else b
        x = x - gamma * g
        path.append(x)
    return np.stack(path)


def constant(t, value):
    return value


def linear(t, init_value, end_value, steps):
    return init_value + (end_value - init_value) * t / steps if t < steps else end_value


def cosine(t, init_value, steps, end_value=0.0):
    return end_value + (init_value - end_value) * (1 + math.cos(math.pi * t / steps)) / 2 if t < steps else end_value


def exponential(t, init_value, decay_rate, steps, staircase=False):
    return init_value * decay_rate ** (t // steps if staircase else t / steps)


def inverse_sqrt(t, init_value, steps=1):
    return init_value / math.sqrt(1 + t / steps)


def polynomial(t, init_value, end_value, power, steps):
    return end_value + (init_value - end_value) * (1 - t / steps) ** power if t < steps else end_value


def warmup(t, schedule, steps, init_value=0.0):
    return init_value + (at(schedule, 0) - init_value) * t / steps if t < steps else at(schedule, t - steps)


def wsd(t, peak_value, steps, warmup_steps, decay_steps, end_value=0.0):
    if t < warmup_steps:
        return peak_value * t / warmup_steps
    if t <= steps - decay_steps and t < steps:
        return peak_value
    if t < steps:
        return peak_value + (end_value - peak_value) * (t - steps + decay_steps) / decay_steps
    return end_value


def join(t, schedules, boundaries):
    starts = [0, *boundaries]
    last = max(i for i, start in enumerate(starts) if start <= t)
    return at(schedules[last], t - starts[last])
