"""Nonlinear conjugate gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number, check_offered, is_word, short
from gdjax.linesearch import SUFFICIENT, Conditions, first_step, search
from gdjax.parts.conjugate import BETAS, Beta, over
from gdjax.rule import rule
from gdjax.tree import vdot
from gdjax.typing import Grads, Number, Updates

SLACK = 1e-6  # ε of Hager and Zhang's approximate Wolfe conditions
SECANT, RATIO = 10.0, 4.0  # how far the secant and the ratio of slopes are believed: factors


class NonlinearCGState(NamedTuple):
    """What ``nonlinear_cg`` keeps between steps: two vectors like params, and scalars of the params' widest dtype."""

    value: jax.Array  # f at the params moved to, shape (); NaN at the start
    grad: Grads  # ∇f there, like params
    evaluations: jax.Array  # int32, shape (): of value and gradient, in all searches
    learning_rate: jax.Array  # the accepted step, shape (); 0 at the start and where a search found nothing
    momentum: Updates  # β d, what the next direction adds to −g, like params
    secant: jax.Array  # aₘ, the minimiser along the last direction by the secant of slopes, shape (); 0 where the next step starts afresh
    slope: jax.Array  # ⟨g₋, d₋⟩, shape ()
    stuck: jax.Array  # bool, shape (): a fresh start found nothing here


@rule
def nonlinear_cg(beta: Beta = "hager_zhang", *, curvature: Number = 0.2, sufficient: Number = SUFFICIENT, strong=None):
    """Nonlinear conjugate gradients, by default those of Hager and Zhang.

        x ← x + a d,  d₊ = −g₊ + β d,  y = g₊ − g

        "hager_zhang"       β = max{⟨y − 2d‖y‖²/⟨d, y⟩, g₊⟩/⟨d, y⟩, 0.4⟨d, g⟩/‖d‖²}
        "polak_ribiere"     β = max{⟨g₊, y⟩/‖g‖², 0}            "fletcher_reeves"   β = ‖g₊‖²/‖g‖²
        "hestenes_stiefel"  β = max{⟨g₊, y⟩/⟨d, y⟩, 0}          "dai_yuan"          β = ‖g₊‖²/⟨d, y⟩

    The step satisfies f(x₊) ≤ f + c₁ a⟨g, d⟩ (or Hager and Zhang's approximate form) and ⟨g₊, d⟩ ≥ c₂⟨g, d⟩, with ``strong`` |⟨g₊, d⟩| ≤ c₂|⟨g, d⟩|.
    First trial: aₘ⟨g₋, d₋⟩/⟨g, d⟩, aₘ the minimiser along d₋ by the secant of slopes. Where d does not descend, or ⟨d, y⟩ ≤ 0: d = −g, a = 1/‖g‖_∞.
    For "fletcher_reeves" and "dai_yuan" β = 0 where |⟨g, g₊⟩| ≥ ‖g₊‖²/5 (Powell's restart, without which they jam).

    Args:
        beta: str, one of the five; the state is of the same form for all.
        curvature: c₂ in (0, 1), a number, shape (); 0.2: measured. Below 1/2 for "fletcher_reeves".
        sufficient: c₁ in (0, c₂), a number, shape ().
        strong: bool. None: what the theory of β wants, False for "hager_zhang", else True.

    Returns:
        Rule: ``update`` needs the params, ``value`` and ``value_and_grad_fn``; 1.5 to 2 evaluations a step.

    Raises:
        ValueError: an unknown β, a number out of its range; ``update`` without what it needs.

    Guarantee:
        "hager_zhang": ⟨g, d⟩ ≤ −(7/8)‖g‖² at every step, however poor the search.
        "fletcher_reeves", strong, c₂ < 1/2: −‖g‖²/(1 − c₂) ≤ ⟨g, d⟩ ≤ −(1 − 2c₂)/(1 − c₂) ‖g‖², and lim inf ‖g‖ = 0; "dai_yuan" with any c₂ too.
        Quadratics with curvatures in (0, L], exact search (``strong``, c₂ → 0): linear conjugate gradients for every β, so done in n steps, and
        f(x_N) − f⋆ ≤ L R²/(2θ_N²), θ_N of ``ogm``, R = ‖x₀ − x⋆‖;  f(x_N) − f⋆ ≤ 4((√κ − 1)/(√κ + 1))^{2N} (f(x₀) − f⋆).

    When to use it: smooth losses whose params leave room for two vectors more; with room for more ``reduced_hessian`` needs fewer evaluations.
    Of 59 CUTEst problems 44/53/64/75/78/81 % are solved within 50/100/200/500/1000/2000 evaluations, with SciPy's CG 37/47/51/63/68/69 %.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> result = gdjax.minimize(lambda w: jnp.sum((w**2 - 2.0) ** 2), jnp.array([3.0, 5.0]), gdjax.nonlinear_cg(), max_steps=30)
        >>> print(*(f"{abs(w):.3f}" for w in result.params))
        1.414 1.414

    Reference:
        Hager, Zhang, "A new conjugate gradient method with guaranteed descent and an efficient line search", SIAM J. Optim. 16, 2005;
        "The limited memory conjugate gradient method", SIAM J. Optim. 23, 2013 (truncation).
        Al-Baali, IMA J. Numer. Anal. 5, 1985 ("fletcher_reeves"). Dai, Yuan, SIAM J. Optim. 10, 1999 ("dai_yuan").
    """
    if not is_word(beta, BETAS):
        raise ValueError(f'nonlinear_cg: beta is {short(beta)}; wanted one of {sorted(BETAS)}: type nonlinear_cg("hager_zhang").')
    for name, number, wanted in (("curvature", curvature, "0 < c₂ < 1: type curvature=0.2"), ("sufficient", sufficient, "0 < c₁ < 1: type sufficient=1e-4")):
        check_number("nonlinear_cg", name, number, low=0, high=1, open_low=True, open_high=True, required=True, wanted=wanted)
    conditions = Conditions(sufficient, curvature, beta != "hager_zhang" if strong is None else strong, SLACK)

    def init(params):
        zero, zeros = jnp.zeros((), tree.dtype_of(params)), tree.zeros_like(params)
        return NonlinearCGState(zero + jnp.nan, zeros, jnp.int32(0), zero, zeros, zero, zero, jnp.bool_(False))

    def update(grads, state, params=None, *, value: Any = None, grad=None, value_and_grad_fn: Any = None, **extra):
        check_offered("nonlinear_cg", value_and_grad_fn=value_and_grad_fn, value=value, params=params)
        true, f = grads if grad is None else grad, jnp.asarray(value, state.value.dtype)
        ahead = tree.subtract(state.momentum, grads)
        fresh = (state.secant == 0) | ~(vdot(true, ahead) < 0)
        d = tree.where(fresh, tree.scale(-1, grads), ahead)
        slope = vdot(true, d)
        initial = jnp.where(fresh, first_step(params, grads), state.secant * jnp.clip(over(state.slope, slope), 1 / RATIO, RATIO))
        initial = jnp.where(state.stuck & (f == state.value), 0, initial)
        found = search(value_and_grad_fn, params, d, value, true, initial, conditions=conditions)
        new, bend = tree.cast_like(found.grad, state.grad), found.slope - slope
        goes_on = found.accepted & (bend > 0)
        momentum = tree.scale(jnp.where(goes_on, BETAS[beta](d, true, new, tree.subtract(new, true), jnp.where(goes_on, bend, 1)), 0), d)
        secant = jnp.where(goes_on, found.step * jnp.clip(over(-slope, bend), 1 / SECANT, SECANT), 0)
        accepted = found.value, new, state.evaluations + found.evaluations, found.step
        return found.updates, NonlinearCGState(*accepted, momentum, secant, slope, fresh & ~found.accepted)

    return init, update
