"""The limited-memory reduced-Hessian method."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import tree
from gdjax.arguments import check_number, check_offered, short
from gdjax.linesearch import SUFFICIENT, Conditions, first_step, search
from gdjax.parts import subspace
from gdjax.rule import rule
from gdjax.typing import Grads, Number

MEMORY, MOST = 9, 30  # vectors kept; params that are few enough for one each


class ReducedHessianState(NamedTuple):
    """What ``reduced_hessian`` keeps between steps: m + 1 vectors like params, and scalars of the params' widest dtype."""

    value: jax.Array  # f at the params moved to, shape (); NaN at the start
    grad: Grads  # ∇f there, like params
    evaluations: jax.Array  # int32, shape (): of value and gradient, in all searches
    learning_rate: jax.Array  # the accepted step, shape (): in units of −g/‖g‖ after a restart, else of the quasi-Newton step
    model: subspace.Model  # basis of m vectors, m × m matrices
    weights: jax.Array  # the last direction in coordinates of the basis, shape (m,)
    before: jax.Array  # the gradient it began at, likewise
    steps: jax.Array  # int32, shape (): since the last restart; 0: the next step is a restart
    stuck: jax.Array  # bool, shape (): steepest descent found nothing here


@rule
def reduced_hessian(memory: int | None = None, *, sufficient: Number = SUFFICIENT, curvature=None):
    """Quasi-Newton descent in m + 1 vectors: BFGS on the span of the last directions and the gradient. The default of ``minimize``.

        p = −H Z g,  d = Zᵀp             Z: m orthonormal vectors, H: m × m
        x ← x + a d                      a: weak Wolfe, 1 tried first; along −g at the start, 1/‖g‖_∞ tried first
        y = g⁺ − g,  s = a d             both in the span of Z and g⁺, which joins Z with the curvature ⟨y, y⟩/⟨s, y⟩
        H ← BFGS(H/τ, s, y)              τ = min(1, ⟨s, y⟩/sᵀBs), B = H⁻¹; left as it is where ⟨s, y⟩ is not positive
        Z ← Z without its oldest direction, once there are more than m

    Args:
        memory: int ≥ 1, m. Vectors like params kept: m + 1, half of L-BFGS's for m pairs (s, y). None: one for each of up to 30 params, 9 for more.
        sufficient: c₁ in (0, 1), a number, shape ():  f(x + a d) ≤ f(x) + c₁ a gᵀd.
        curvature: c₂ in (c₁, 1), a number, shape ():  g⁺ᵀd ≥ c₂ gᵀd. None, as measured: 0.5 for at most m params, else 0.9.

    Returns:
        Rule: ``update`` needs the params, ``value`` and ``value_and_grad_fn``; one evaluation a step, more where 1 is not accepted.

    Raises:
        ValueError, TypeError: a number is out of its range; ``update`` without what it needs.

    Guarantee:
        f never rises beyond rounding. On a quadratic with an exact search the directions are conjugate, and n steps reach the minimum for any m ≥ 2.
        With more vectors than params (m ≥ n) it is BFGS: superlinear near a minimum with positive curvature, from any start where the loss is convex.
        With less no rate is proved for losses that are not quadratic, as for all limited-memory methods but restarted ones.
        Measured (``python -m benchmarks minimize``, m = 9), share of 59 CUTEst problems solved within 50/100/200/500/1000/2000 evaluations, in %:
        58/69/78/83/85/88; m = 3: 51/54/63/71/76/78; optax.lbfgs (m = 10) 44/53/69/80/83/86; SciPy L-BFGS-B 46/54/64/71/73/78.

    When to use it: smooth losses, full batch, without a learning rate. Losses over noisy batches break the differences it learns from.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> def valley(x):
        ...     return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
        >>> result = gdjax.minimize(valley, jnp.array([-1.2, 1.0]), gdjax.reduced_hessian())
        >>> print(result.status.name, *(f"{x:.3f}" for x in result.params))
        CONVERGED 1.000 1.000

    Reference:
        Gill, Leonard, "Limited-memory reduced-Hessian methods for large-scale unconstrained optimization", SIAM J. Optim. 14, 2003. Differs in: H and
        a reflection in place of triangular factors, the scaling, and the curvature new directions begin with.
        Al-Baali, "Numerical experience with a class of self-scaling quasi-Newton algorithms", J. Optim. Theory Appl. 96, 1998 (τ).
    """
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or memory < 1):
        raise ValueError(f"reduced_hessian: memory is {short(memory)}; wanted an int ≥ 1 or None: type reduced_hessian(9).")
    for name, number, wanted in (("sufficient", sufficient, 1e-4), ("curvature", curvature, 0.9)):
        check_number("reduced_hessian", name, number, low=0, high=1, open_low=True, open_high=True, wanted=f"0 < {name} < 1: type {name}={wanted}")

    def init(params):
        model = subspace.blank(params, MOST if memory is None and tree.size(params) <= MOST else memory or MEMORY)
        dtype, zeros = tree.dtype_of(params), jnp.zeros(model.inverse.shape[0], tree.dtype_of(params))
        nan = jnp.full((), jnp.nan, dtype)
        return ReducedHessianState(nan, tree.zeros_like(params), jnp.int32(0), nan, model, zeros, zeros, jnp.int32(0), jnp.bool_(False))

    def update(grads, state, params=None, *, value: Any = None, grad=None, value_and_grad_fn: Any = None, **extra):
        check_offered("reduced_hessian", params=params, value=value, value_and_grad_fn=value_and_grad_fn)
        fresh = state.steps == 0
        model, here = lax.cond(
            fresh,
            lambda: subspace.restart(state.model, grads),
            lambda: subspace.learn(state.model, state.learning_rate, state.weights, state.before, grads, state.steps == 1),
        )
        weights = -(model.inverse @ here)
        direction = tree.cast_like(subspace.combine(model.basis, weights), grads)
        initial = jnp.where(fresh, first_step(params, grads) * model.unit, 1)
        initial = jnp.where(state.stuck & (jnp.asarray(value, state.value.dtype) == state.value), 0, initial)
        flat = (0.5 if tree.size(params) <= len(weights) else 0.9) if curvature is None else curvature
        found = search(value_and_grad_fn, params, direction, value, grads if grad is None else grad, initial, conditions=Conditions(sufficient, flat))
        latest = weights / jnp.maximum(subspace.length(weights), jnp.finfo(weights.dtype).tiny)
        model = model._replace(
            history=model.history.at[:, jnp.maximum(model.rank - 1, 0)].set(latest),
            scale=jnp.where(fresh, found.step, model.scale),
        )
        return found.updates, ReducedHessianState(
            value=found.value,
            grad=tree.cast_like(found.grad, state.grad),
            evaluations=state.evaluations + found.evaluations,
            learning_rate=found.step,
            model=model,
            weights=weights,
            before=here,
            steps=jnp.where(found.accepted, state.steps + 1, 0).astype(jnp.int32),
            stuck=fresh & ~found.accepted,
        )

    return init, update
