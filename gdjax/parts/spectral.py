"""Steps from how the last two gradients differ: the formulas that Barzilai and Borwein's choose among, on scalars alone.

A step s = −a g₋ and the change y = g − g₋ it made give, with ρ = ‖y‖/‖g₋‖ and σ = −⟨y, g₋⟩/‖g₋‖²,

    a₁ = ⟨s, s⟩/⟨s, y⟩ = a/σ        long:  one over a mean of the curvatures, weighted by g₋²
    a₂ = ⟨s, y⟩/⟨y, y⟩ = a σ/ρ²     short: the same weighted by the curvatures too; a₂ ≤ a₁

On a quadratic with only two curvatures, trace T and determinant P, every such pair lies on the line 1/a₂ = T − P a₁. Two pairs, whatever the steps
were, give T and P, and with them both curvatures: ``shortest`` is one over the larger.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax.numpy as jnp

SpectralStep: TypeAlias = Literal["bb1", "bb2", "alternate", "abbmin", "bbq"]
STEPS = get_args(SpectralStep)
SHORTS = 9  # short steps remembered, of which "abbmin" takes the least: Frassoldati, Zanni, Zanghirati 2008
RATIO, DRIFT = 0.2, 1.02  # τ at first, and the factor by which it moves: Huang, Dai, Liu, Zhang 2021
GROWTH = 10.0  # of a step along which the curvature was not positive; 3 takes 5 % more evaluations on CUTEst problems
FURTHEST = 1e10  # a step is at most this many times the one before, and at least that part of it


class Pairs(NamedTuple):
    """What is remembered of steps along which the curvature was positive."""

    long: Any  # the last a₁, shape (); 0 where there is none yet
    shorts: Any  # the last a₂, newest first, shape (9,); 0 where there is none yet
    ratio: Any  # τ, shape ()


def no_pairs(dtype) -> Pairs:
    """Before the first step."""
    return Pairs(jnp.zeros((), dtype), jnp.zeros(SHORTS, dtype), jnp.full((), RATIO, dtype))


def spectral_step(name: str, pairs: Pairs, a, rho, sigma, count) -> tuple[Any, Any, Pairs]:
    """(the step to try, whether the curvature was positive, the new pairs) after a step a; where it was not positive, the step to try is 10 a.

    Args:
        name: one of ``STEPS``; static.
        pairs: of the steps before.
        a: the last step, shape (), > 0.
        rho: ρ, shape ().
        sigma: σ, shape ().
        count: int32, shape (): "alternate" is short where it is even.
    """
    convex = sigma > jnp.finfo(a.dtype).eps * rho
    sigma, rho = jnp.where(convex, sigma, 1), jnp.where(convex, rho, 1)
    long, short = a / sigma, a * (sigma / rho) / rho
    bends = short < pairs.ratio * long  # the last step met curvatures that differ
    new = Pairs(long, jnp.concatenate([short[None], pairs.shorts[:-1]]), pairs.ratio * jnp.where(bends, 1 / DRIFT, DRIFT))
    known = jnp.where(new.shorts > 0, new.shorts, jnp.inf)
    chosen = {
        "bb1": long,
        "bb2": short,
        "alternate": jnp.where(count % 2 == 0, short, long),
        "abbmin": jnp.where(bends, jnp.min(known), long),
        "bbq": jnp.where(bends, jnp.minimum(jnp.min(known[:2]), shortest(pairs, long, short)), long),
    }[name]
    chosen = jnp.clip(jnp.where(convex, chosen, GROWTH * a), a / FURTHEST, a * FURTHEST)
    return chosen.astype(a.dtype), convex, Pairs(*(jnp.where(convex, x, old).astype(old.dtype) for x, old in zip(new, pairs, strict=True)))


def shortest(pairs: Pairs, long, short):
    """2/(T + √(T² − 4P)), one over the larger of two curvatures, from the last two pairs; inf where they do not determine it.

    Differs from Huang et al. in: all is in units of the short step before, since products of steps leave the range of float32.
    """
    unit = jnp.where(pairs.shorts[0] > 0, pairs.shorts[0], 1)
    now, later, before = short / unit, long / unit, pairs.long / unit
    apart = (before > 0) & (before != later) & (now > 0)
    determinant = (1 - now) / jnp.where(apart, now * (before - later), 1)
    trace = determinant * before + 1
    square = trace**2 - 4 * determinant
    larger = trace + jnp.sqrt(jnp.where(square >= 0, square, 0))
    known = apart & (square >= 0) & (larger > 0) & jnp.isfinite(larger)
    return jnp.where(known, 2 * unit / jnp.where(known, larger, 1), jnp.inf)
