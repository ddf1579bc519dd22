"""Rules that keep two points, and rules around rules. Inner rules are taken apart by their arguments: gradient descent and SGD with momentum only."""

import math

import numpy as np

from reference.basic import at


class Inner:
    """The steps of an inner rule, made from its arguments: −h v, v = μ v + g, with Nesterov momentum −h (g + μ v)."""

    def __init__(self, rule):
        given = dict(rule.arguments)
        self.h, self.mu, self.nesterov = given["learning_rate"], given.get("momentum") or 0.0, given.get("nesterov", False)
        self.v, self.t = 0.0, 0

    def step(self, g):
        h, self.v = at(self.h, self.t), self.mu * self.v + g
        self.t += 1
        return -h * (g + self.mu * self.v if self.nesterov else self.v)


def weights_of(kind, n, power=None, decay=None):
    """The weights of n points in an average, by their definitions: not those of the recursion."""
    if kind == "uniform":
        w = np.ones(n)
    elif kind == "ema":
        w = (0.999 if decay is None else decay) ** np.arange(n - 1, -1, -1.0)
    else:  # Shamir and Zhang: the share of the i-th, (1 + γ)/(i + γ), of what all later ones leave
        gamma = 8.0 if power is None else power
        shares = (1 + gamma) / (np.arange(1, n + 1) + gamma)
        w = np.array([shares[i] * np.prod(1 - shares[i + 1 :]) for i in range(n)])
    return w / w.sum()


def average(grad_fn, x, steps, rule, kind="polynomial", power=None, decay=None, start=0):
    """The path is that of the inner rule: averages change nothing."""
    inner, path = Inner(rule), [np.array(x, np.float64)]
    for _ in range(steps):
        path.append(path[-1] + inner.step(grad_fn(path[-1])))
    return np.stack(path)


def averages(path, kind, power=None, decay=None, start=0):
    """What is reported after each step, from all points at once."""
    return np.stack([weights_of(kind, t - start, power, decay) @ path[start + 1 : t + 1] if t > start else path[t] for t in range(1, len(path))])


def _schedule_free(grad_fn, x, steps, rate_at, move, momentum, step_power, rate_power, report=False):
    """The step of the reference implementation of schedule_free (facebookresearch), which keeps x, y and z."""
    x = y = z = np.array(x, np.float64)
    ys, xs, weight_sum, lr_max = [y], [x], 0.0, 0.0
    for k in range(steps):
        lr = rate_at(k, y, z)
        lr_max = max(lr, lr_max)
        weight = (k + 1) ** step_power * lr_max**rate_power
        weight_sum += weight
        ckp1 = weight / weight_sum if weight_sum else 0.0
        z = z + move(k, lr, y)
        x = (1 - ckp1) * x + ckp1 * z
        beta = at(momentum, k)
        y = beta * x + (1 - beta) * z
        ys.append(y)
        xs.append(x)
    return np.stack(xs if report else ys)


def schedule_free_sgd(grad_fn, x, steps, learning_rate=1.0, momentum=0.9, warmup_steps=0, weight_decay=None, step_power=0.0, rate_power=2.0, report=False):
    """SGDScheduleFreeReference of the authors."""

    def rate_at(k, y, z):
        return at(learning_rate, k) * ((k + 1) / warmup_steps if k < warmup_steps else 1.0)

    def move(k, lr, y):
        return -lr * (grad_fn(y) + (weight_decay or 0.0) * y)

    return _schedule_free(grad_fn, x, steps, rate_at, move, momentum, step_power, rate_power, report)


def schedule_free(grad_fn, x, steps, rule, momentum=0.9, learning_rate=None, step_power=0.0, rate_power=2.0, report=False):
    """ScheduleFreeWrapperReference of the authors, with the base rule's gradient at y."""
    inner = Inner(rule)

    def rate_at(k, y, z):
        return 1.0 if learning_rate is None else at(learning_rate, k)

    def move(k, lr, y):
        return inner.step(grad_fn(y))

    return _schedule_free(grad_fn, x, steps, rate_at, move, momentum, step_power, rate_power, report)


def schedule_free_polyak(grad_fn, x, steps, lower_bound=0.0, momentum=0.9, max_learning_rate=None, step_power=0.0, report=False):
    """arXiv:2511.07767: the Polyak step for schedule-free SGD."""

    def rate_at(k, y, z):
        g = grad_fn(y)
        gamma = max(grad_fn.value(y) + g @ (z - y) - lower_bound, 0.0) / (g @ g)
        return gamma if max_learning_rate is None else min(gamma, max_learning_rate)

    def move(k, lr, y):
        return -lr * grad_fn(y)

    return _schedule_free(grad_fn, x, steps, rate_at, move, momentum, step_power, 0.0, report)


def lookahead(grad_fn, x, steps, rule, period=6, step_size=0.5, reset_state=False):
    """Algorithm 1 of Zhang et al. 2019, as two loops; points after a meeting are the slow ones."""
    slow = np.array(x, np.float64)
    path, inner = [slow], Inner(rule)
    while len(path) <= steps:
        fast, inner = slow, Inner(rule) if reset_state else inner
        for _ in range(period):
            fast = fast + inner.step(grad_fn(fast))
            path.append(fast)
        slow = path[-1] = slow + step_size * (fast - slow)
    return np.stack(path[: steps + 1])


def outer_loop(grad_fn, x, steps, inner, outer=None, period=500, axis_name=None):
    """DiLoCo with one worker: algorithm 1 of Douillard et al. 2023. The outer rule for None is SGD, 0.7, with Nesterov momentum 0.9."""
    return local_sgd([grad_fn], x, steps, Inner(inner), outer, period)[0]


def local_sgd(grad_fns, x, steps, inner, outer, period):
    """Each worker its own gradient; all paths, shape (workers, steps + 1, n). The inner rule must be without momentum, if there are several workers."""
    anchor = np.array(x, np.float64)
    paths, chief = [[anchor] for _ in grad_fns], Inner(outer) if outer is not None else None
    v = np.zeros_like(anchor)
    for _ in range(math.ceil(steps / period)):
        ends = []
        for path, grad_fn in zip(paths, grad_fns, strict=True):
            for _ in range(period):
                path.append(path[-1] + inner.step(grad_fn(path[-1])))
            ends.append(path[-1])
        way = anchor - np.mean(ends, axis=0)
        if chief is None:
            v = 0.9 * v + way
            anchor = anchor - 0.7 * (way + 0.9 * v)
        else:
            anchor = anchor + chief.step(way)
        for path in paths:
            path[-1] = anchor
    return np.stack(paths)[:, : steps + 1]
