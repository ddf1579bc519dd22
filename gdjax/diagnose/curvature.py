"""``smoothness``: the largest curvature of a loss, by which learning rates are bounded, from Hessian-vector products."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from gdjax import tree
from gdjax.arguments import short
from gdjax.brief import brief_repr
from gdjax.checks import check_count
from gdjax.contexts import promoting, undisturbed
from gdjax.diagnose.problem import Problem, checked, gradient, rows_of_batches, size_of
from gdjax.parts.held import per_loss
from gdjax.typing import Data, LossFn, ModelState, Params, Seed

RESOLUTION = 30  # in units of rounding of the largest curvature: below it a curvature cannot be told from 0
GOLDEN = 0.6180339887498949


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["largest", "largest_error", "smallest", "smallest_error", "along_gradient", "grad_norm", "value", "rounding"],
    meta_fields=["products"],
)
@dataclass(frozen=True)
class Smoothness:
    """The curvatures of a loss at some params: eigenvalues of its Hessian. Arrays of shape (), or (batches,) with ``batch_size``.

    Attributes:
        largest: L, the largest eigenvalue, from below.
        largest_error: an eigenvalue lies within this of it.
        smallest: the smallest eigenvalue, from above; negative where the loss is not convex there.
        smallest_error: likewise.
        along_gradient: gᵀHg/‖g‖², the curvature along the gradient: a step h lowers the loss, to second order, where h times it is below 2.
        grad_norm: ‖g‖₂.
        value: the loss.
        rounding: curvatures below this cannot be told from 0 in the dtype of the params.
        products: Hessian-vector products taken, per batch.
    """

    largest: Any
    largest_error: Any
    smallest: Any
    smallest_error: Any
    along_gradient: Any
    grad_norm: Any
    value: Any
    rounding: Any
    products: int = field(metadata={"static": True})

    __repr__ = brief_repr

    def stable_below(self, momentum: Any = 0.0, nesterov: bool = False) -> Any:
        """The learning rate from which on a constant one is unstable here: 2/L; 2(1 + β)/L with momentum β, 2(1 + β)/((1 + 2β)L) if Nesterov's.

        inf where no curvature is positive.
        """
        limit = 2 * (1 + momentum) / jnp.where(self.largest > self.rounding, self.largest, jnp.nan)
        limit = limit / (1 + 2 * momentum) if nesterov else limit
        return jnp.where(jnp.isnan(limit), jnp.inf, limit)

    @property
    def batch_sharpness(self) -> Any:
        """E[gᵀHg] / E[‖g‖²] over the batches, each with its own H and g. SGD with learning rate h settles where it is about 2/h; with momentum, 2(1 − β)/h."""
        weights = jnp.square(self.grad_norm)
        return jnp.sum(weights * self.along_gradient) / jnp.sum(weights)

    @property
    def condition_number(self) -> Any:
        """L / μ, from below; inf where the smallest curvature is not told from 0, or is negative."""
        return jnp.where(self.smallest > self.rounding, self.largest / jnp.where(self.smallest > self.rounding, self.smallest, 1), jnp.inf)

    def predicted_steps(self, accuracy: float = 1e-3, momentum: bool = False) -> Any:
        """Steps to bring the error to this share of itself on a quadratic of these curvatures, at the best constant learning rate, from below.

        log(accuracy) / log ρ with ρ = (κ − 1)/(κ + 1) at h = 2/(L + μ), or with the best momentum ρ = (√κ − 1)/(√κ + 1). inf where κ is.
        """
        if not 0 < accuracy < 1:
            raise ValueError(f"predicted_steps: accuracy is {short(accuracy)}; wanted a share between 0 and 1: type accuracy=1e-3.")
        root = jnp.sqrt(self.condition_number) if momentum else self.condition_number
        rate = jnp.log1p(2 / jnp.maximum(root - 1, 1e-30))  # −log ρ
        return jnp.where(jnp.isfinite(root), jnp.maximum(jnp.ceil(-math.log(accuracy) / jnp.maximum(rate, 1e-30)), 1), jnp.inf)

    def __str__(self):
        if np.ndim(self.largest):
            each = np.asarray(self.largest, np.float64)
            head = f"smoothness of {each.size} batches: L from {each.min():.4g} to {each.max():.4g}, mean {each.mean():.4g}"
            return f"{head}; a constant learning rate is stable on all of them below 2/L = {float(np.min(self.stable_below())):.4g}"
        if not float(self.largest) > float(self.rounding):
            return f"smoothness: no positive curvature here (largest {float(self.largest):.3g}): it bounds no learning rate"
        lines = [
            f"largest curvature L = {float(self.largest):.4g} ± {float(self.largest_error):.1g}, smallest met {float(self.smallest):.3g}",
            f"  a constant learning rate is stable below 2/L = {float(self.stable_below()):.4g}; with momentum 0.9 below {float(self.stable_below(0.9)):.4g}, "
            f"Nesterov's {float(self.stable_below(0.9, nesterov=True)):.4g}",
        ]
        kappa = float(self.condition_number)
        if math.isfinite(kappa):
            plain, with_momentum = (float(self.predicted_steps(1e-3, momentum=flag)) for flag in (False, True))
            lines.append(f"  condition number ≥ {kappa:.3g}: to a thousandth of the error ≥ {plain:.3g} steps, with momentum ≥ {with_momentum:.3g}")
        elif float(self.smallest) < -float(self.rounding):
            lines.append(f"  the loss is not convex here: a direction of curvature {float(self.smallest):.3g}")
        else:
            lines.append("  flat directions: some curvatures cannot be told from 0")
        return "\n".join(lines)


@undisturbed
@promoting  # params are widened here, which the loss did not ask for
def smoothness(
    loss_fn: LossFn, params: Params, data: Data | None = None, *, batch_size: int | None = None, batches: int = 8, key: Seed | None = None,
    iterations: int = 32, has_aux: bool = False, stochastic: bool = False, model_state: ModelState = None,
) -> Smoothness:  # fmt: skip
    """The largest and smallest curvature of a loss at ``params``, by Lanczos' method on Hessian-vector products; no Hessian is formed.

    With L = λ_max(∇²f), gradient descent with a constant learning rate h on a quadratic is stable where h < 2/L, and ‖∇f‖²/2L ≤ f − f⋆ where f is
    convex. The basis is kept and orthogonalised twice over, so eigenvalues do not come back as ghosts.

    Args:
        loss_fn: as in ``fit``; with ``data=None`` a function of the params alone, as in ``minimize``.
        params: where. Params of 16 bits are taken in 32.
        data: a pytree of arrays with a common leading axis.
        batch_size: None for the loss of all data; an int for the losses of random batches of so many examples, each by itself: the curvatures that SGD meets.
        batches: how many, with ``batch_size``.
        key: a seed or key, for the batches or a ``stochastic`` loss.
        iterations: Hessian-vector products, each worth about two gradients, at most; no more than there are params. So many vectors of the size of the params
            are kept. 32 give L to some digits where its eigenvalue stands apart; the smallest curvature of ill-conditioned losses takes more.
        has_aux: as in ``fit``.
        stochastic: as in ``fit``.
        model_state: as in ``fit``.

    Returns:
        A ``Smoothness``, with an axis of batches if there is a ``batch_size``. ``print`` it. Inside jit, vmap and grad it is traced.

    Raises:
        TypeError, ValueError: bad arguments, named with what is wanted; a curvature that is not finite (outside of traces).

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> found = gdjax.smoothness(lambda w: 0.5 * jnp.sum(jnp.array([1.0, 4.0, 10.0]) * w**2), jnp.ones(3))
        >>> print(f"{found.largest:.3f} {found.smallest:.3f} {found.stable_below():.3f} {found.condition_number:.2f}")
        10.000 1.000 0.200 10.00

    Reference:
        Lanczos 1950; error bounds: Parlett, The Symmetric Eigenvalue Problem, 1980, ch. 13. Stability with momentum: Cohen et al. 2021, arXiv:2103.00065; of
        batches: arXiv:2604.14108.
    """
    objective, problem, count = checked("smoothness", loss_fn, params, data, batch_size, key, has_aux, stochastic, model_state)
    check_count("iterations", iterations, 1)
    check_count("batches", batches, 1)
    size = min(int(iterations), size_of(problem.params))
    if batch_size is None:
        found = _of_all(objective, size, problem)
    else:
        found = _of_batches(objective, size, int(batches), int(batch_size), count, problem)
    if not tree.is_traced(found) and not np.all(np.isfinite(np.asarray(found.largest) + np.asarray(found.value))):
        raise ValueError(
            f"smoothness: the loss is {np.asarray(found.value)} and its curvature {np.asarray(found.largest)}; wanted finite ones: check params and data."
        )
    return found


@functools.partial(per_loss, static_argnums=(0, 1))
def _of_all(objective, size, problem: Problem) -> Smoothness:
    return _at(size, problem.params, gradient(objective, problem, problem.batch, problem.key))


@functools.partial(per_loss, static_argnums=(0, 1, 2, 3, 4))
def _of_batches(objective, size, batches, batch_size, count, problem: Problem) -> Smoothness:
    order, inner = jax.random.split(problem.key)

    def one(given):
        rows, key = given
        batch = jax.tree.map(lambda x: x[rows], problem.batch)
        return _at(size, problem.params, gradient(objective, problem, batch, key if objective.stochastic else None))

    return lax.map(one, (rows_of_batches(order, count, batch_size, batches), jax.random.split(inner, batches)))


def _at(size: int, params, value_and_grad) -> Smoothness:
    flat, unravel = ravel_pytree(params)
    slope = lambda x: ravel_pytree(value_and_grad(unravel(x))[1])[0]  # noqa: E731
    product = lambda v: jax.jvp(slope, (flat,), (v,))[1]  # noqa: E731
    value, grads = value_and_grad(params)
    g = ravel_pytree(grads)[0]
    norm = tree.norm(g)
    toward = g / jnp.where(norm > 0, norm, 1)
    diagonal, beside, last = _lanczos(product, flat, size)
    unit = jnp.maximum(jnp.max(jnp.abs(diagonal)), jnp.max(beside, initial=0))
    unit = jnp.where((unit > 0) & jnp.isfinite(unit), unit, 1)  # the solver squares what it is given
    values, vectors = jnp.linalg.eigh((jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)) / unit)
    values = unit * values
    rounding = RESOLUTION * float(jnp.finfo(flat.dtype).eps) * jnp.max(jnp.abs(values))
    errors = jnp.abs(last * vectors[-1]) + 4 * float(jnp.finfo(flat.dtype).eps) * jnp.max(jnp.abs(values))
    along = toward @ product(toward)
    return Smoothness(values[-1], errors[-1], values[0], errors[0], along, norm, value.astype(flat.dtype), rounding, size + 1)


def _lanczos(product, like, size: int):
    """(diagonal, what stands beside it, the next that would) of the tridiagonal matrix."""
    # A fixed direction with a component along every eigenvector in general: a sequence spread evenly over (−½, ½), the same in every run.
    start = jnp.mod(jnp.arange(1, like.size + 1, dtype=jnp.float32) * GOLDEN, 1.0).astype(like.dtype) - 0.5
    start = start / jnp.linalg.norm(start)

    def step(carry, index):
        basis, v, scale, first, over = carry
        basis = basis.at[index].set(v)
        w = product(v)
        diagonal = v @ w
        first = jnp.where(index == 0, diagonal, first)
        for _ in range(2):  # twice is enough
            w = w - basis.T @ (basis @ w)
        beside = tree.norm(w)
        scale = jnp.maximum(scale, jnp.maximum(jnp.abs(diagonal), beside))
        ends = over | ~(beside > 10 * jnp.finfo(like.dtype).eps * scale)
        # Where the space is exhausted, what is left of the matrix is the first Rayleigh quotient: it lies between the eigenvalues found.
        entry = (jnp.where(over, first, diagonal), jnp.where(ends, 0, beside))
        return (basis, jnp.where(ends, 0, w / jnp.where(ends, 1, beside)), scale, first, ends), entry

    zero = jnp.zeros((), like.dtype)
    carry = (jnp.zeros((size, like.size), like.dtype), start, zero, zero, jnp.asarray(False))
    _, (diagonal, beside) = lax.scan(step, carry, jnp.arange(size))
    return diagonal, beside[:-1], beside[-1]
