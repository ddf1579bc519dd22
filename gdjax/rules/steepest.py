"""Steepest descent in a norm."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import is_word, short
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at


class SteepestState(NamedTuple):
    """What ``steepest`` keeps between steps."""

    step: jax.Array | None  # number of steps taken, int32, shape (); None for a constant learning rate


def _l2(grads):
    norm = tree.norm(grads)
    return tree.scale(1 / jnp.where(norm > 0, norm, 1), grads), norm


def _linf(grads):
    return tree.map(jnp.sign, grads), tree.vdot(tree.map(jnp.sign, grads), grads)


def _l1(grads):
    leaves, treedef = jax.tree.flatten(grads)
    tops = [jnp.max(jnp.abs(g), initial=0).astype(tree.dtype_of(grads)) for g in leaves]
    top = jnp.max(jnp.stack(tops), initial=0) if tops else jnp.float32(0)
    left, directions = top > 0, []  # of the entries that tie the first is taken
    for g, largest in zip(leaves, tops, strict=True):
        here = jnp.arange(jnp.size(g)) == jnp.argmax(jnp.append(jnp.abs(g), -1))
        directions.append(jnp.where(here.reshape(jnp.shape(g)) & left & (largest == top), jnp.sign(g), jnp.zeros_like(g)))
        left = left & (largest < top)
    return jax.tree.unflatten(treedef, directions), top


def _spectral(grads):
    leaves, treedef = jax.tree.flatten(grads)
    pairs = [_polar(g) if jnp.ndim(g) >= 2 and jnp.size(g) else _l2(g) for g in leaves]
    return jax.tree.unflatten(treedef, [d for d, _ in pairs]), sum((norm for _, norm in pairs), jnp.zeros((), tree.dtype_of(grads)))


def _polar(g):
    wide = jnp.asarray(g, tree.dtype_of(g)).reshape(g.shape[0], -1)
    u, s, v = jnp.linalg.svd(wide, full_matrices=False)
    kept = s > jnp.max(s) * max(wide.shape) * jnp.finfo(wide.dtype).eps  # none of the zero matrix
    return ((u * kept[None]) @ v).reshape(g.shape).astype(g.dtype), jnp.sum(s)


DIRECTIONS = {"l2": _l2, "linf": _linf, "l1": _l1, "spectral": _spectral}  # grads -> (steepest direction, dual norm)


@rule
def steepest(learning_rate, norm: Literal["l2", "linf", "l1", "spectral"] = "l2", *, scaled=True):
    """Steepest descent in a norm: along the direction of length 1 in which the loss falls fastest.

        x ← x − h ‖g‖⁎ d,  or x − h d unscaled;  ‖d‖ = 1,  ⟨g, d⟩ = ‖g‖⁎
        norm         of all leaves together                           d                         ‖g‖⁎
        "l2"         √Σx²                                             g/‖g‖₂                    ‖g‖₂
        "linf"       max |x|                                          sign(g)                   Σ|g|
        "l1"         Σ|x|                                             the largest entry's sign  max |g|
        "spectral"   max over leaves: σ_max of a matrix, else l2      U Vᵀ of g = U S Vᵀ        Σ tr S

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (): scaled, 1/L with L the smoothness in that norm; unscaled, the length of the step.
        norm: str, "l2", "linf", "l1" or "spectral". Leaves of more than two axes are matrices of their first axis by the others.
        scaled: bool; by the dual norm. False with "linf" is sign descent, with "l2" ``normalized``, with "spectral" the direction of Muon, exactly.

    Returns:
        Rule: for "l2" equal to ``gd(learning_rate)``, for "linf" unscaled to ``optax.sign_sgd``.

    Raises:
        ValueError: the learning rate is negative or NaN, or the norm unknown.

    Guarantee:
        ‖∇f(x) − ∇f(y)‖⁎ ≤ L‖x − y‖, scaled, h = 1/L, convex or not:  f(x₊) ≤ f(x) − ‖g‖⁎²/(2L); over N steps min ‖g‖⁎² ≤ 2L(f(x₀) − f⋆)/N.
        Unscaled:  f(x₊) ≤ f(x) − h‖g‖⁎ + L h²/2. For a quadratic L is Σ|H| at most in "linf", the largest entry of the diagonal of H in "l1".

    When to use it: the geometry is known: sparse gradients "l1", dense ones with a diagonal Hessian "linf", weight matrices "spectral".

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> g = jnp.array([3.0, -4.0])
        >>> for norm in ("l2", "linf", "l1"):
        ...     rule = gdjax.steepest(0.5, norm)
        ...     print(rule.update(g, rule.init(g))[0])
        [-1.5  2. ]
        [-3.5  3.5]
        [-0.  2.]

    Reference:
        Boyd, Vandenberghe, "Convex optimization", Cambridge, 2004, section 9.4.
        Carlson, Cevher, Carin, "Stochastic spectral descent for restricted Boltzmann machines", AISTATS 2015.
        Bernstein, Newhouse, "Old optimizer, new norm: an anthology", arXiv:2409.20325, 2024.
    """
    check_learning_rate("steepest", learning_rate)
    if not is_word(norm, DIRECTIONS):
        raise ValueError(f'steepest: norm is {short(norm)}; wanted one of {sorted(DIRECTIONS)}: type steepest(0.1, "linf").')

    def init(params):
        return SteepestState(jnp.zeros((), jnp.int32) if callable(learning_rate) else None)

    def update(grads, state, params=None, **extra):
        direction, dual = DIRECTIONS[norm](grads)
        length = value_at(learning_rate, state.step) * (dual if scaled else 1)
        return tree.scale(-length, direction), SteepestState(None if state.step is None else jnp.asarray(optax.safe_increment(state.step)))

    return init, update
