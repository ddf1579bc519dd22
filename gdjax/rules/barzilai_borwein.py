"""Gradient descent with Barzilai-Borwein steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number, check_offered, is_word, short
from gdjax.linesearch import SUFFICIENT, Conditions, first_step, search
from gdjax.parts.first_step import bend, check_first_learning_rate
from gdjax.parts.past_values import REFERENCES, PastValues, Reference, height, no_past, remember
from gdjax.parts.spectral import STEPS, Pairs, SpectralStep, no_pairs, spectral_step
from gdjax.rule import rule
from gdjax.typing import Grads, Number

FLAT = 0.9  # c₂ of the search after a step of no positive curvature


class BarzilaiBorweinState(NamedTuple):
    """What ``barzilai_borwein`` keeps between steps: two vectors like params, and scalars of the params' widest dtype."""

    value: jax.Array  # f at the params moved to, shape (); NaN at the start
    grad: Grads  # ∇f there, like params
    evaluations: jax.Array  # int32, shape (): of value and gradient, in all searches
    learning_rate: jax.Array  # the accepted step, shape (); 0 at the start and where a search found nothing
    step: jax.Array  # int32, shape (): updates made
    last_grads: Grads  # g₋, where the last step began, like params
    pairs: Pairs  # a₁ and a₂ of the steps before
    past: PastValues  # the losses so far: two scalars and a ring of ten
    stuck: jax.Array  # bool, shape (): a fresh start found nothing here


@rule
def barzilai_borwein(
    step: SpectralStep = "bbq", *, first_learning_rate=None, reference: Reference = "mean", memory: Number = 0.85,
    sufficient: Number = SUFFICIENT,
):  # fmt: skip
    """Gradient descent with Barzilai-Borwein steps: one over a curvature just met, which need not take the loss down at once.

        x ← x − a g,  s = x − x₋,  y = g − g₋,  long a₁ = ⟨s, s⟩/⟨s, y⟩,  short a₂ = ⟨s, y⟩/⟨y, y⟩

        "bb1", "bb2", "alternate": a₁, a₂, either in turn;  "abbmin": the least of the last nine a₂ where a₂ < τ a₁, else a₁
        "bbq": the least of the last two a₂ and 2/(T + √(T² − 4P)) where a₂ < τ a₁, else a₁;  T − P a₁ = 1/a₂ at the last two pairs

    τ is 0.2 at first, and falls by the factor 1.02 where it says short, else rises by it. The step is shortened until f(x₊) ≤ r − c a ‖g‖². Where
    ⟨s, y⟩ ≤ 0 the first trial is 10 a₋, and it is lengthened while the slope has not risen to 0.9 of where it began. First of all: 1/‖g‖_∞.

    Args:
        step: str, how a is chosen: "bb1", "bb2", "alternate", "abbmin" or "bbq".
        first_learning_rate: the first a > 0, a number, shape (), in units of params² per unit of loss. None: 1/‖g‖_∞.
        reference: str, r: "mean", Zhang and Hager's weighted mean of all losses so far; "maximum" of the last ten; "last", so f never rises.
        memory: η in [0, 1], a number, shape (): how slowly the mean forgets; 0.85 by Zhang and Hager.
        sufficient: c in (0, 1), a number, shape ().

    Returns:
        Rule: ``update`` needs the params, ``value`` and ``value_and_grad_fn``; 1 evaluation a step, more where it is shortened.

    Raises:
        ValueError: a number out of its range; an unknown step or reference; ``update`` without what it needs.

    Guarantee:
        f bounded below, L-smooth, η < 1: ‖g‖ → 0; with curvature at least μ > 0 R-linear: f − f⋆ ≤ C θ^N, θ < 1.
        Quadratics: with "bb1" and "bb2" R-linear for any κ without shortening; superlinear in two dimensions. There "bbq" steps by 1/λ_max.
        Measured: percent of 59 CUTEst problems, on which the defaults were chosen too, brought to 1e-6 of f₀ − f⋆ within 50/100/200/500/1000/2000
        evaluations: this 41/51/58/69/75/78, SciPy's CG 37/47/51/63/68/69, optax's L-BFGS 44/53/69/80/83/86. A prototype in NumPy, from 4 starts each:
        "bbq" 41/50/56/70/76/81, "alternate" 41/47/56/64/72/77, "abbmin" 39/49/51/64/73/78, "bb2" 39/44/52/69/75/79, "bb1" 37/44/47/54/60/63.

    When to use it: smooth losses whose params leave room for two vectors more; with room for more ``reduced_hessian`` needs fewer evaluations.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> loss = lambda w: (w[0] ** 2 + 100 * w[1] ** 2) / 2
        >>> for rule in gdjax.gd(0.01), gdjax.barzilai_borwein():
        ...     print(f"{gdjax.minimize(loss, jnp.array([10.0, 1.0]), rule, max_steps=10).value:.6f}")
        40.895344
        0.000000

    Reference:
        Barzilai, Borwein, "Two-point step size gradient methods", IMA J. Numer. Anal. 8, 1988. Dai, Liao, the same 22, 2002 (R-linear).
        Raydan, "The Barzilai and Borwein gradient method for the large scale unconstrained minimization problem", SIAM J. Optim. 7, 1997 ("maximum").
        Frassoldati, Zanni, Zanghirati, "New adaptive stepsize selections in gradient methods", J. Ind. Manag. Optim. 4, 2008 ("abbmin").
        Huang, Dai, Liu, Zhang, "Equipping the Barzilai-Borwein method with the two dimensional quadratic termination property", SIAM J. Optim. 31, 2021.
    """
    check_first_learning_rate("barzilai_borwein", first_learning_rate)
    check_number("barzilai_borwein", "memory", memory, low=0, high=1, required=True, wanted="0 ≤ memory ≤ 1: type memory=0.85")
    wanted = "0 < sufficient < 1: type sufficient=1e-4"
    check_number("barzilai_borwein", "sufficient", sufficient, low=0, high=1, open_low=True, open_high=True, required=True, wanted=wanted)
    for name, given, known in (("step", step, STEPS), ("reference", reference, REFERENCES)):
        if not is_word(given, known):
            raise ValueError(f'barzilai_borwein: {name} is {short(given)}; wanted one of {known}: type barzilai_borwein({name}="{known[-1]}").')

    def init(params):
        zero, zeros, nothing = jnp.zeros((), tree.dtype_of(params)), tree.zeros_like(params), jnp.int32(0)
        return BarzilaiBorweinState(zero + jnp.nan, zeros, nothing, zero, nothing, zeros, *blank(zero.dtype), stuck=jnp.bool_(False))

    def blank(dtype):
        return no_pairs(dtype), no_past(dtype)

    def update(grads, state, params=None, *, value: Any = None, grad=None, value_and_grad_fn: Any = None, **extra):
        check_offered("barzilai_borwein", value_and_grad_fn=value_and_grad_fn, value=value, params=params)
        last, f, met = state.learning_rate, jnp.asarray(value, state.value.dtype), bend(grads, state.last_grads)
        fresh = last == 0
        a, convex, pairs = spectral_step(step, state.pairs, last, met.rho, met.sigma, state.step)
        first = first_step(params, grads) if first_learning_rate is None else jnp.asarray(first_learning_rate, f.dtype)
        initial = jnp.where(state.stuck & (f == state.value), 0, jnp.where(fresh, first, a))
        past = remember(state.past, f, state.step, memory)
        conditions = Conditions(sufficient, jnp.where(fresh | convex, jnp.inf, FLAT))
        minus, slope = tree.scale(-1, grads), grads if grad is None else grad
        found = search(value_and_grad_fn, params, minus, value, slope, initial, reference=height(past, f, reference), conditions=conditions)
        pairs, past = tree.where(found.accepted, (tree.where(fresh, state.pairs, pairs), past), blank(f.dtype))
        evaluations, count, stuck = state.evaluations + found.evaluations, jnp.asarray(optax.safe_increment(state.step)), fresh & ~found.accepted
        new = BarzilaiBorweinState(found.value, found.grad, evaluations, found.step, count, grads, pairs, past, stuck)
        return found.updates, new

    return init, update
