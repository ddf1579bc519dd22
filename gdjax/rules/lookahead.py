"""Lookahead: k steps forward, one step back."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.arguments import check_number, check_steps
from gdjax.parts.averaging import widened
from gdjax.parts.two_points import check_params_given, check_two_points, moved, toward, updates_to
from gdjax.rule import as_rule, check_plain, rule
from gdjax.typing import Number, Params, RuleState


class LookaheadState(NamedTuple):
    """What ``lookahead`` keeps between steps."""

    since: jax.Array  # steps since fast and slow params were last one, int32, shape ()
    slow: Params  # s, like params but in float32 at least: what is reported
    inner: RuleState  # of the rule


@rule
def lookahead(rule, period: Number = 6, step_size: Number = 0.5, *, reset_state=False):
    """Lookahead: after every k steps of another rule, back to a point between where they began and where they led.

        x ← x + u,  u the updates of the rule
        s ← s + α (x − s),  x ← s       every k steps

    The params of the loop are the fast ones, x, where gradients are taken; ``gdjax.eval_params`` gives the slow ones, s. Between two meetings s stays
    where it is, so a run should end at a multiple of k.

    Args:
        rule: the rule or optax transformation that takes the steps.
        period: k ≥ 1, a whole number of steps, shape (). No more than the run's steps: in a shorter one s stays at the start.
        step_size: α in (0, 1], a number, shape (); 1 is the rule alone.
        reset_state: bool; begin the rule's state anew after each meeting.

    Returns:
        Rule: the path of ``optax.lookahead``, with params that stay of their own type. ``update`` needs the params.

    Raises:
        ValueError: a number is out of its range or NaN; a rule that keeps two points itself, or of ``saga``'s kind to reset; ``update`` without params.

    Guarantee:
        Gradient descent with learning rate h inside, a quadratic, curvature λ, q = (1 − hλ)^k: the error of s along λ shrinks by 1 − α + αq a round.
        So it converges while −(2 − α)/α < q < 1: with α < 1 and odd k beyond h = 2/λ too.
        Gradient noise of variance σ² along λ, 0 < hλ < 2: s has the variance α²(1 − q²)/(1 − (1 − α + αq)²) V in the limit, where V = hσ²/(λ(2 − hλ)) is that
        of gradient descent alone; less than V for α < 1 and even k, or hλ ≤ 1.

    When to use it: a rule that oscillates or is noisy, at the cost of one more copy of the params.

    Example:
        >>> import gdjax, jax
        >>> rule, w = gdjax.lookahead(gdjax.sgd(0.9), period=2), 5.0
        >>> state = rule.init(w)
        >>> for step in range(4):
        ...     updates, state = rule.update(jax.grad(lambda w: (w - 2.0) ** 2)(w), state, w)
        ...     w = w + updates
        ...     print(f"{w:.3f} {gdjax.eval_params(rule, state, w):.3f}")
        -0.400 5.000
        4.460 4.460
        0.032 4.460
        4.017 4.017

    Reference:
        Zhang, Lucas, Hinton, Ba, "Lookahead optimizer: k steps forward, 1 step back", NeurIPS 2019, arXiv:1907.08610.
    """
    check_steps("lookahead", "period", period, low=1, example=6)
    check_number("lookahead", "step_size", step_size, low=0, high=1, open_low=True, required=True, wanted="0 < step_size ≤ 1: type step_size=0.5")
    inner = as_rule(rule, "lookahead: rule")
    check_two_points("lookahead", inner, rule)
    if reset_state:
        check_plain("lookahead", inner, "so it cannot begin anew without all the data, as reset_state=True wants", f"lookahead({inner!r}, reset_state=False)")

    def init(params, **offered):
        return LookaheadState(jnp.zeros((), jnp.int32), widened(params), inner.init(params, **offered))

    def update(grads, state, params=None, **extra):
        check_params_given("lookahead", params)
        updates, after = inner.update(grads, state.inner, params, **extra)
        meets = state.since + 1 >= period
        slow = tree.where(meets, toward(state.slow, step_size, moved(params, updates)), state.slow)
        updates = tree.where(meets, updates_to(slow, params), updates)
        if reset_state:
            offered = {name: extra[name] for name in ("num_examples", "batch_size") if name in extra}
            after = tree.where(meets, inner.init(tree.cast_like(slow, params), **offered), after)
        return updates, LookaheadState(jnp.where(meets, 0, state.since + 1), slow, after)

    def eval_params(state, params):
        return tree.cast_like(state.slow, params)

    return init, update, eval_params
