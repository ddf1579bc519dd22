"""MuSGD, the rule of YOLO26."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_axes, check_number
from gdjax.parts.leaves import by_leaf
from gdjax.parts.newton_schulz import LAYOUTS, Layout, as_kernel, as_matrix, check_layout, newton_schulz
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Number, Params, Scheduled


class MuSGDState(NamedTuple):
    """What ``musgd`` keeps between steps."""

    step: jax.Array | None  # number of steps taken, int32, shape (); None without a schedule
    velocity: Params  # b of the SGD part, like params
    mean: Params  # m of the Muon part, like params; None in place of leaves without that part


@rule
def musgd(
    learning_rate, momentum: Scheduled = 0.9, *, muon: Number = 0.2, sgd: Number = 1.0, nesterov=True,
    weight_decay: Scheduled | None = 5e-4, orthogonal=None, decayed=None, factors=None, layout: Layout = "in_out",
):  # fmt: skip
    """Muon and SGD with momentum, both at every step: the rule that YOLO26 is trained with.

        m ← μ m + (1 − μ) g;  u = μ m + (1 − μ) g,  or m without Nesterov momentum
        x ← x − h w √max{1, s} NS(u)
        g ← g + λ x;  b ← μ b + g
        x ← x − h v (g + μ b),  or x − h v b without Nesterov momentum

    NS is ``gdjax.parts.newton_schulz`` in bfloat16, of u as a matrix of outputs by inputs, a convolution's window counted as inputs. s is outputs/inputs
    for a leaf of two axes and height/width of the window, hence mostly 1, for one of four: odd, but so the models were trained. Leaves without a Muon part
    do the last two lines alone, with v = 1.

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (). YOLO26: 0.01, down to a hundredth of it along a line.
        momentum: μ in [0, 1), a number or a schedule, shape (); of both parts.
        muon: w ≥ 0, a number, shape (): the share of the Muon part. Its updates have root mean square h w/√max{inputs, outputs}, whatever the loss's scale.
        sgd: v ≥ 0, a number, shape (): the share of the SGD part.
        nesterov: bool.
        weight_decay: λ ≥ 0, a number or a schedule, shape (). None for none; else ``update`` needs the params.
        orthogonal: which leaves have a Muon part: bools like params, or a function from params to these. None: those of two or four axes.
        decayed: which leaves decay, likewise. None: those of two axes and more; so biases and the scales of norms do not.
        factors: multiples of h by leaf, numbers like params, or a function from params to these. None: 1. YOLO26: 3 in the classification heads.
        layout: str, of kernels: "in_out", the last axis is the outputs (Flax, HWIO), or "out_in", the first is (PyTorch, OIHW).

    Returns:
        Rule: ``ultralytics.optim.MuSGD`` with the groups of its trainer, up to the order of sums and the rounding of x, since both parts move it at once.

    Raises:
        ValueError: a number out of its range or NaN; an unknown layout; masks or factors unlike the params; ``update`` without params it needs.

    Guarantee:
        None is known. Where g = 0 and m = b = 0 nothing moves but by weight decay. With muon = 0 it is ``sgd`` with its guarantees.

    When to use it: vision models with many convolutions, as its defaults come from them; ``muon`` for those of matrices alone.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> rule, w = gdjax.musgd(0.1, weight_decay=None), jnp.diag(jnp.array([3.0, 0.5]))
        >>> state = rule.init(w)
        >>> updates, state = rule.update(w, state)
        >>> print(*(f"{x:.2f}" for x in jnp.diag(w + updates)))
        2.42 0.38

    Reference:
        Jocher, Qiu, "Ultralytics YOLO26", 2025-2026, github.com/ultralytics/ultralytics: ultralytics/optim/muon.py (the equations, done anew here).
    """
    check_learning_rate("musgd", learning_rate)
    check_number("musgd", "momentum", momentum, low=0, high=1, open_high=True, required=not callable(momentum), wanted="0 ≤ momentum < 1: type momentum=0.9")
    check_number("musgd", "muon", muon, low=0, required=True, wanted="a number ≥ 0: type muon=0.2")
    check_number("musgd", "sgd", sgd, low=0, required=True, wanted="a number ≥ 0: type sgd=1.0")
    check_number("musgd", "weight_decay", weight_decay, low=0, wanted="weight_decay ≥ 0 or None: type weight_decay=5e-4")
    check_layout("musgd", layout)

    def init(params):
        kinds = by_leaf("musgd", "orthogonal", orthogonal, params, lambda x: jnp.ndim(x) in (2, 4))
        check_axes("musgd", "orthogonal", kinds, params)
        step = jnp.zeros((), jnp.int32) if any(map(callable, (learning_rate, momentum, weight_decay))) else None
        return MuSGDState(step, tree.zeros_like(params), tree.map(lambda x, muon: jnp.zeros_like(x) if muon else None, params, kinds))

    def polar(u):
        matrix = as_matrix(u, layout)
        rows, columns = matrix.shape if jnp.ndim(u) != 4 else u.shape[:2] if layout == LAYOUTS[0] else u.shape[2:]
        return max(1, rows / max(columns, 1)) ** 0.5, as_kernel(newton_schulz(matrix).astype(u.dtype), u, layout)

    def update(grads, state, params=None, **extra):
        if weight_decay is not None and params is None:
            raise ValueError("musgd: update got params=None; weight_decay wants the params: type rule.update(grads, state, params).")
        wide = tree.dtype_of(grads)
        h, mu, decay = (jnp.asarray(value_at(0.0 if x is None else x, state.step), wide) for x in (learning_rate, momentum, weight_decay))

        def leaf(g, x, mean, velocity, decays, factor):
            rate, moved, share, number = h * factor, None, 1, lambda s: jnp.asarray(s).astype(jnp.result_type(g))
            if mean is not None:
                mean = number(mu) * mean + number(1 - mu) * g
                size, unit = polar(number(mu) * mean + number(1 - mu) * g if nesterov else mean)
                share, moved = sgd, number(-rate * muon * size) * unit
            if weight_decay is not None and decays:
                g = g + number(decay) * (x if moved is None else x + moved)
            velocity = number(mu) * velocity + g
            step = number(-rate * share) * (g + number(mu) * velocity if nesterov else velocity)
            return step if moved is None else moved + step, velocity, mean

        decays = by_leaf("musgd", "decayed", decayed, grads, lambda g: jnp.ndim(g) >= 2)
        rates = by_leaf("musgd", "factors", factors, grads, lambda g: 1)
        leaves = tree.map(leaf, grads, grads if params is None else params, state.mean, state.velocity, decays, rates)
        updates, velocity, mean = (tree.map(lambda _, made, i=i: made[i], grads, leaves) for i in range(3))
        return updates, MuSGDState(None if state.step is None else jnp.asarray(optax.safe_increment(state.step)), velocity, mean)

    return init, update
