"""Online scaled gradient methods: a scaling of the gradient that learns."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number, check_offered
from gdjax.parts import two_points
from gdjax.rule import rule
from gdjax.typing import Grads, Number, Params, Updates

MOST = 0.9995  # β at most: Chu, Gao, Ye, Udell 2025
SHRINK, PATIENCE = 0.1, 6  # of P, at the sixth null step in a row


class Learned(NamedTuple):
    """What AdaGrad moves."""

    number: Any
    squares: Any  # sum of the squares of its derivatives, like it


class OSGMState(NamedTuple):
    """What ``osgm`` keeps between steps."""

    value: jax.Array  # f at the params moved to, shape (), of the params' widest dtype; NaN at the start
    grad: Grads  # ∇f there, like params
    evaluations: jax.Array  # of value and gradient, one an update, int32, shape ()
    nulls: jax.Array  # null steps in a row, int32, shape ()
    scaling: Learned  # P, like params, or with diagonal=False of shape ()
    momentum: Learned | None  # β, shape (); None without
    moved: Updates | None  # x − x₋, like params; None without momentum


@rule
def osgm(learning_rate, *, hyper_learning_rate: Number = 10.0, momentum: Number | None = 0.95, diagonal=True):
    """Online scaled gradient method, hypergradient descent at its best: every entry of the gradient learns its own learning rate.

        z = x − P ∘ g + β (x − x₋)              trial
        x ← z if f(z) < f(x), else x            "null step"
        P ← P + bh ∇f(z) ∘ g/‖g‖² / √G          downhill on (f(z) − f(x))/‖g‖² as a function of P, by AdaGrad; likewise β in [0, 0.9995]

    Args:
        learning_rate: h > 0, a number, shape (): P at first, in units of params² per unit of loss. 1/L for curvatures up to L, or a tenth or ten times that.
        hyper_learning_rate: b ≥ 0, a number, shape (): P first changes by b h. Our choice, on quadratics and logistic losses; 1 takes up to 4 times the steps.
        momentum: β at first, a number, shape (), in [0, 0.9995]. None: no momentum.
        diagonal: bool. False: one scaling for all entries, P of shape (), and the product in its rule ⟨∇f(z), g⟩.

    Returns:
        Rule: ``update`` needs the params, ``value`` and ``value_and_grad_fn``, and evaluates the trial: 1 evaluation an update, null steps included.

    Raises:
        ValueError: a number out of its range; ``update`` without what it needs.

    Guarantee:
        f never rises. Convex, without momentum, as long as no six null steps come in a row, with h_k(P) = (f(x_k − P∘g_k) − f(x_k))/‖g_k‖²:
        Σ h_k(P_k) ≤ Σ h_k(Q) + Σᵢ (Dᵢ²/(2bh) + bh) √Gᵢ for every fixed Q, D the largest |P_k − Q|: in the long run no worse than the best fixed
        learning rate of each entry. The sixth and further null steps shrink |P| and β instead, and so does a trial that is not finite.

    When to use it: badly scaled params and an estimate of 1/L; ``reduced_hessian`` in general needs fewer evaluations.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> loss = lambda w: (w[0] ** 2 + 1e-4 * w[1] ** 2) / 2
        >>> for rule in gdjax.gd(1.0), gdjax.osgm(1.0):
        ...     print(f"{gdjax.minimize(loss, jnp.array([1.0, 100.0]), rule, max_steps=100).value:.3f}")
        0.490
        0.000

    Reference:
        Gao, Chu, Ye, Udell, "Gradient methods with online scaling", arXiv:2411.01803, 2024.
        Chu, Gao, Ye, Udell, "Provable and practical online learning rate adaptation with hypergradient descent", arXiv:2502.11229, 2025 (HDM-Best).
    """
    check_number("osgm", "learning_rate", learning_rate, low=0, open_low=True, required=True, wanted="a number > 0: type osgm(1.0)")
    check_number("osgm", "hyper_learning_rate", hyper_learning_rate, low=0, required=True, wanted="a number ≥ 0: type hyper_learning_rate=10.0")
    check_number("osgm", "momentum", momentum, low=0, high=MOST, wanted=f"0 ≤ momentum ≤ {MOST}, or None: type momentum=0.95")

    def init(params):
        zero, zeros, nothing = jnp.zeros((), tree.dtype_of(params)), tree.zeros_like(params), jnp.int32(0)
        p = tree.map(lambda x: x + jnp.asarray(learning_rate, x.dtype), zeros if diagonal else zero)
        beta = None if momentum is None else Learned(zero + jnp.asarray(momentum, zero.dtype), zero)
        return OSGMState(zero + jnp.nan, zeros, nothing, nothing, Learned(p, tree.zeros_like(p)), beta, None if momentum is None else tree.zeros_like(params))

    def update(grads, state, params: Params = None, *, value: Any = None, value_and_grad_fn: Any = None, **extra):
        check_offered("osgm", value_and_grad_fn=value_and_grad_fn, value=value, params=params)
        f, norm, p = jnp.asarray(value, state.value.dtype), tree.norm(grads), state.scaling.number
        trial = tree.map(lambda p, g: -p * g, p, grads) if diagonal else tree.scale(-p, grads)
        trial = trial if momentum is None else tree.add_scaled(trial, state.momentum.number, state.moved)
        trial = tree.stored(trial)
        ahead = two_points.moved(params, trial)
        there, slopes = value_and_grad_fn(ahead)
        there = jnp.asarray(there, f.dtype)
        finite, inverse = jnp.isfinite(there) & tree.all_finite((ahead, slopes)), 1 / jnp.where(norm > 0, norm, 1)
        better = finite & (there < f)
        nulls = jnp.where(better, 0, jnp.minimum(state.nulls + 1, PATIENCE)).astype(jnp.int32)
        learns, unit, turned = finite & (nulls < PATIENCE), tree.scale(inverse, grads), tree.scale(inverse, slopes)
        gain = tree.map(jnp.multiply, turned, unit) if diagonal else tree.vdot(turned, unit)
        back = state.scaling._replace(number=tree.map(lambda p: jnp.abs(p) * jnp.asarray(SHRINK, p.dtype), p))
        beta = state.momentum
        if beta is not None:
            new, less = learn(beta, -tree.vdot(turned, tree.scale(inverse, state.moved)), 1.0), beta._replace(number=SHRINK**2 * beta.number)
            beta = tree.where(learns, new._replace(number=jnp.clip(new.number, 0, MOST)), less)
        scaling = tree.where(learns, learn(state.scaling, gain, hyper_learning_rate * learning_rate), back)
        moved = None if beta is None else tree.where(better, trial, state.moved)
        kept = jnp.where(better, there, f).astype(f.dtype), tree.where(better, tree.cast_like(slopes, state.grad), grads)
        return tree.where(better, trial, tree.zeros_like(grads)), OSGMState(*kept, state.evaluations + 1, nulls, scaling, beta, moved)

    def learn(learned, gain, rate):
        """AdaGrad uphill."""
        squares = tree.map(lambda total, x: (total + x**2).astype(total.dtype), learned.squares, gain)
        step = tree.map(lambda total, x: jnp.where(total > 0, x / jnp.sqrt(jnp.where(total > 0, total, 1)), 0), squares, gain)
        return Learned(tree.add_scaled(learned.number, rate, step), squares)

    return init, update
