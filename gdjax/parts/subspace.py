"""A quadratic model on a small moving subspace: what is left of a quasi-Newton method when it may keep m vectors, and no more.

The vectors are an orthonormal basis Z of the span of the last directions and of the gradient; curvature is kept in its coordinates, as an m × m matrix H, an
approximation of the inverse Hessian within the span. A step s = Zᵀp and the change of gradient y = g⁺ − g lie in the span once g⁺ has been added to it,
so one vector per step tells what limited-memory BFGS keeps two for.

Reference:
    Fenelon, "Preconditioned conjugate-gradient-type methods for large-scale unconstrained optimization", PhD thesis, Stanford, 1981.
    Gill, Leonard, "Reduced-Hessian quasi-Newton methods for unconstrained optimization", SIAM J. Optim. 12, 2001.
    Gill, Leonard, "Limited-memory reduced-Hessian methods for large-scale unconstrained optimization", SIAM J. Optim. 14, 2003.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import tree
from gdjax.typing import Grads, Params, Updates

NEAR = 0.5  # a residual shorter than this share of its vector is made orthogonal once more: "twice is enough" (Kahan; Parlett 1980)


class Model(NamedTuple):
    """Of m coordinates the first ``rank`` are in use; the others have basis vectors of 0 and are unit vectors in both matrices."""

    basis: Params  # Z: leaves (m, *leaf.shape), orthonormal rows, float32 at least
    inverse: Any  # H, (m, m), symmetric positive definite
    history: Any  # (m, m): column j has the coordinates of a direction, of length 1, the oldest first, and that of the gradient last
    rank: Any  # int32, shape ()
    scale: Any  # 1/σ, shape (): the inverse curvature that new coordinates begin with
    unit: Any  # ‖g‖ at the last restart, shape (): gradients are taken in units of it, so that no square overflows


def blank(params: Params, memory: int) -> Model:
    """No coordinate in use."""
    dtype, rows = tree.dtype_of(params), max(1, min(memory, tree.size(params)))
    basis = tree.map(lambda x: jnp.zeros((rows, *jnp.shape(x)), tree.dtype_of(x)), params)
    eye = jnp.eye(rows, dtype=dtype)
    return Model(basis, eye, eye, jnp.int32(0), jnp.ones((), dtype), jnp.ones((), dtype))


def coordinates(basis: Params, vector: Any) -> jax.Array:
    """Z v, shape (m,)."""
    dtype = tree.dtype_of(basis)
    products = tree.map(lambda rows, x: rows.reshape(rows.shape[0], -1) @ jnp.asarray(x, rows.dtype).reshape(-1), basis, vector)
    rows = [product.astype(dtype) for product in tree.leaves(products)]
    return sum(rows) if rows else jnp.zeros(1, dtype)  # pyright: ignore[reportReturnType]


def combine(basis: Params, weights: jax.Array) -> Updates:
    """Zᵀ p, float32 at least."""
    return tree.map(lambda rows: jnp.tensordot(weights.astype(rows.dtype), rows, 1), basis)


def length(weights: jax.Array) -> jax.Array:
    """‖p‖₂, whatever its order of magnitude: params may be of any size."""
    largest = jnp.maximum(jnp.max(jnp.abs(weights)), jnp.finfo(weights.dtype).tiny)
    return largest * jnp.sqrt(jnp.sum((weights / largest) ** 2))


def restart(model: Model, grads: Grads) -> tuple[Model, jax.Array]:
    """(a model that knows the gradient's direction alone, with H = 1; its coordinates: 1 and zeros)."""
    norm = tree.norm(grads)
    safe = jnp.where(norm > 0, norm, 1).astype(model.unit.dtype)
    basis = tree.map(lambda rows, g: jnp.zeros_like(rows).at[0].set(jnp.asarray(g, rows.dtype) / safe.astype(rows.dtype)), model.basis, grads)
    eye = jnp.eye(model.inverse.shape[0], dtype=model.inverse.dtype)
    return Model(basis, eye, eye, jnp.int32(1), jnp.ones_like(model.scale), safe), jnp.where(norm > 0, eye[0], 0)


def learn(model: Model, step, weights: jax.Array, before: jax.Array, grads: Grads, first) -> tuple[Model, jax.Array]:
    """Takes in the last step and the gradient it led to: (model, coordinates of the gradient).

    A self-scaling BFGS update, H ← H/τ with τ = min(1, sᵀy/sᵀBs) before the rest (Al-Baali 1998), where sᵀy > 0 beyond rounding; then the oldest direction
    leaves, if there are now more than m.

    Args:
        model: of the step before.
        step: a of the last step s = a p, shape ().
        weights: p in the model's coordinates, shape (m,).
        before: the gradient the step began at, likewise: p was −H ``before``, so that B s = −a ``before``.
        grads: the gradient now.
        first: bool, shape (): this is the first step since a restart, and H is known but for its scale.
    """
    dtype, m = model.inverse.dtype, model.inverse.shape[0]
    along, new, rest, norm = _split(model.basis, grads, model.unit)
    grown = (rest > jnp.finfo(dtype).eps ** 0.75 * norm) & (model.rank < tree.size(grads))
    rest = jnp.where(grown, rest, 0)
    here = jnp.append(along, rest)
    s, y = jnp.append(step * weights, 0), here - jnp.append(before, 0)
    sy, yy = jnp.vdot(s, y), jnp.vdot(y, y)
    sound = sy > jnp.finfo(dtype).eps * length(s) * length(y)
    scale = jnp.where(sound, sy / jnp.where(yy > 0, yy, 1), model.scale)
    inverse = jnp.where(first, scale * jnp.eye(m, dtype=dtype), model.inverse)
    inverse = _enlarged(inverse, scale)
    bent = jnp.where(first, jnp.vdot(s, s / scale), -step * (step * jnp.vdot(weights, before)))
    inverse = jnp.where(sound, _update(inverse, s, y, jnp.where(sound, sy, 1), bent), inverse)
    history = _enlarged(model.history, 1).at[:, m].set(here / jnp.where(norm > 0, norm, 1))
    full = grown & (model.rank == m)
    leaving, columns = _leaving(history, model.rank, grown, full)
    mirror = _mirror(leaving)
    across = inverse @ leaving
    kept = inverse - jnp.outer(across, across / (leaving @ across)) + jnp.outer(leaving, leaving)  # set apart: coordinates not in use stay unit vectors
    rows = Model(
        basis=_reflected(model.basis, new, grown, mirror),
        inverse=(mirror @ kept @ mirror)[:m, :m],
        history=(mirror @ history)[:m, columns],
        rank=model.rank + jnp.where(grown & ~full, 1, 0).astype(jnp.int32),
        scale=scale,
        unit=model.unit,
    )
    return rows, (mirror @ here)[:m]


def _split(basis, grads, unit):
    """(Z g, the rest as a vector of length 1, its length, ‖g‖), lengths in units of ``unit``."""
    norm = tree.norm(grads)
    along = coordinates(basis, grads)
    rest = tree.map(lambda g, part: jnp.asarray(g, part.dtype) - part, grads, combine(basis, along))

    def again(along, rest):
        more = coordinates(basis, rest)
        return along + more, tree.subtract(rest, combine(basis, more))

    along, rest = lax.cond(tree.norm(rest) < NEAR * norm, again, lambda along, rest: (along, rest), along, rest)
    length = tree.norm(rest)
    along, long, norm = (x.astype(along.dtype) / unit for x in (along, length, norm))
    return along, tree.scale(1 / jnp.where(length > 0, length, 1), rest), long, norm


def _enlarged(matrix, corner):
    """With one coordinate more."""
    return jnp.pad(matrix, (0, 1)).at[-1, -1].set(corner)


def _update(inverse, s, y, sy, bent):
    """Self-scaling BFGS of an inverse; ``bent`` is sᵀBs."""
    inverse = inverse / jnp.clip(sy / jnp.where(bent > 0, bent, sy), jnp.finfo(sy.dtype).eps, 1)
    turned = inverse @ y
    updated = inverse + jnp.outer(s / sy * (1 + y @ turned / sy), s) - jnp.outer(turned, s / sy) - jnp.outer(s / sy, turned)
    return (updated + updated.T) / 2


def _leaving(history, rank, grown, full):
    """(the unit vector whose direction leaves, where the columns of the history come from).

    If the basis is full, what is orthogonal to all but the oldest direction; else a coordinate not in use.
    """
    m = history.shape[0] - 1
    unused = jax.nn.one_hot(jnp.where(grown, rank, m), m + 1, dtype=history.dtype)
    oldest = lax.cond(full, lambda: jnp.linalg.solve(history.T, jnp.eye(m + 1, dtype=history.dtype)[0]), lambda: unused)
    # Directions that have become dependent: anything orthogonal to the gradient will do.
    here = history[:, m]
    spare = jnp.eye(m + 1, dtype=history.dtype)[0] - here[0] * here
    oldest = jnp.where(jnp.all(jnp.isfinite(oldest)), oldest, spare)
    leaving = jnp.where(full, oldest, unused)
    leaving = leaving / jnp.sqrt(jnp.vdot(leaving, leaving))
    index = jnp.arange(m, dtype=jnp.int32)
    shifted = jnp.where(index < rank - 1, index + 1, jnp.where(index == rank - 1, m, index))
    placed = jnp.where(index == rank, m, index)
    return leaving, jnp.where(grown & ~full, placed, shifted)


def _mirror(leaving):
    """The reflection that makes ``leaving`` the last coordinate."""
    v = leaving.at[-1].add(jnp.where(leaving[-1] < 0, -1, 1))
    return jnp.eye(len(v), dtype=v.dtype) - 2 * jnp.outer(v, v) / jnp.vdot(v, v)


def _reflected(basis, unit, grown, mirror):
    """The first m rows of the reflected basis with the new vector below; each row its own mirror image plus a multiple of one vector."""
    m = mirror.shape[0] - 1

    def leaf(rows, new):
        new = jnp.where(grown, new, 0)
        old, last = mirror[:m, :m].astype(rows.dtype), mirror[:m, m].astype(rows.dtype)
        return jnp.tensordot(old, rows, 1) + last.reshape(m, *(1,) * new.ndim) * new[None]

    return tree.map(leaf, basis, unit)
