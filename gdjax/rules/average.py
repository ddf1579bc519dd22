"""Averages of the points of another rule."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_number, is_word, short
from gdjax.parts.averaging import widened
from gdjax.parts.two_points import check_params_given, moved, toward
from gdjax.rule import as_rule, rule
from gdjax.typing import Number, Params, RuleState

KINDS = {"uniform": (), "polynomial": ("power",), "ema": ("decay",)}  # and the number each of them takes


class AverageState(NamedTuple):
    """What ``average`` keeps between steps."""

    points: jax.Array  # t, the number of points seen, int32, shape ()
    mean: Params  # x̄, like params but in float32 at least: in bfloat16 an average of more than a few hundred points no longer moves
    inner: RuleState  # of the rule


@rule
def average(rule, kind: Literal["uniform", "polynomial", "ema"] = "polynomial", *, power=None, decay=None, start: Number = 0):
    """Reports an average of another rule's points, and leaves its path alone.

        x̄ ← x̄ + c (x − x̄),  n = t − start,  c = 1 while n ≤ 1,  then
        c = 1/n                         uniform: Polyak–Ruppert; with a start, of the tail
        c = (1 + γ)/(n + γ)             polynomial decay: weights that grow like n^γ
        c = (1 − β)/(1 − βⁿ)            ema: weights that shrink by β with age, bias corrected

    The points x are those after the steps 1, 2, ..., the ones that the rule reports where it reports others than it takes gradients at.
    ``gdjax.eval_params`` gives x̄, kept in float32 at least and cast to the dtypes of the params. Entries that are not finite are left out.

    Args:
        rule: the rule or optax transformation whose points are averaged.
        kind: "uniform", "polynomial" or "ema"; static.
        power: γ ≥ 0 of "polynomial", a number, shape (); None for 8, the choice of Ivgi, Hinder and Carmon; 0 is "uniform".
        decay: β in (0, 1) of "ema", a number, shape (); None for 0.999. The average reaches back about 1/(1 − β) steps.
        start: number of steps ≥ 0, shape (), before the first point that counts; until then the last point is reported. Half the steps of a run: the
            average of its second half (suffix averaging).

    Returns:
        Rule: ``update`` needs the params; updates are those of the rule, bit for bit.

    Raises:
        ValueError: an unknown kind; a number out of its range, or one that belongs to another kind.

    Guarantee:
        Uniform, N steps of SGD with a constant learning rate h on a quadratic, gradient noise of variance σ² along a curvature λ, hλ < 2: x̄_N has the
        variance σ²/(λN)² Σ_{j=1}^N (1 − (1 − hλ)^j)², at most σ²/(λ²N) where hλ ≤ 1, whatever h; the last point has hσ²/(λ(2 − hλ)) in the limit.
        Uniform, convex, ‖g‖ ≤ G, R = ‖x₀ − x⋆‖:  f(x̄_N) − f⋆ ≤ R²/(2hN) + hG²(N + 1)/(2N).

    When to use it: SGD with a constant learning rate, whose noise it averages away; with DoG and its like, which need it ("polynomial").

    Example:
        >>> import gdjax, jax
        >>> rule, w = gdjax.average(gdjax.sgd(0.9), "uniform"), 5.0
        >>> state = rule.init(w)
        >>> for step in range(3):
        ...     updates, state = rule.update(jax.grad(lambda w: (w - 2.0) ** 2)(w), state, w)
        ...     w = w + updates
        ...     print(f"{w:.3f} {gdjax.eval_params(rule, state, w):.3f}")
        -0.400 -0.400
        3.920 1.760
        0.464 1.328

    Reference:
        Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30, 1992.
        Rakhlin, Shamir, Sridharan, "Making gradient descent optimal for strongly convex stochastic optimization", ICML 2012 (suffix averaging).
        Shamir, Zhang, "Stochastic gradient descent for non-smooth optimization", ICML 2013 (polynomial decay).
        Ivgi, Hinder, Carmon, "DoG is SGD's best friend", ICML 2023, arXiv:2302.12022 (γ = 8).
    """
    if not is_word(kind, KINDS):
        raise ValueError(f"average: kind is {short(kind)}; wanted one of {', '.join(map(repr, KINDS))}: type average(gdjax.sgd(0.1), 'uniform').")
    for name, number in dict(power=power, decay=decay).items():
        if number is not None and name not in KINDS[kind]:
            raise ValueError(f"average: got {name}={short(number)} with kind={kind!r}, which has none; wanted another kind, or {name}=None: leave it out.")
    check_number("average", "power", power, low=0, open_high=True, wanted="power ≥ 0: type power=8.0, or leave it out")
    check_number("average", "decay", decay, low=0, high=1, open_low=True, open_high=True, wanted="0 < decay < 1: type decay=0.999, or leave it out")
    check_number("average", "start", start, low=0, open_high=True, required=True, wanted="a number of steps ≥ 0: type start=500")
    inner = as_rule(rule, "average: rule")

    def init(params, **offered):
        return AverageState(jnp.zeros((), jnp.int32), widened(params), inner.init(params, **offered))

    def share(points, dtype):
        n = jnp.maximum((points - start).astype(dtype), 1)
        if kind == "ema":
            beta = 0.999 if decay is None else decay
            # Near β = 1 the plain formula loses all figures of 1 − βⁿ.
            shrunk = jnp.expm1(n * jnp.log1p(jnp.asarray(beta, dtype) - 1))
            return jnp.where(n > 1, (jnp.asarray(beta, dtype) - 1) / shrunk, 1)
        gamma = 0 if kind == "uniform" else 8 if power is None else power
        return (1 + gamma) / (n + gamma)

    def update(grads, state, params=None, **extra):
        check_params_given("average", params)
        updates, after = inner.update(grads, state.inner, params, **extra)
        point, points = moved(params, updates), jnp.asarray(optax.safe_increment(state.points))
        point = point if inner.eval_params is None else inner.eval_params(after, point)
        # Entry by entry, which costs no pass over the params.
        point = tree.map(lambda x, mean: jnp.where(jnp.isfinite(x), x.astype(mean.dtype), mean), point, state.mean)
        return updates, AverageState(points, toward(state.mean, share(points, tree.dtype_of(params)), point), after)

    def eval_params(state, params):
        return tree.cast_like(state.mean, params)

    return init, update, eval_params
