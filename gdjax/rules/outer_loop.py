"""Local SGD and DiLoCo: an outer rule for the way that an inner one has gone."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gdjax import tree
from gdjax.arguments import check_steps, short
from gdjax.parts.averaging import widened
from gdjax.parts.two_points import check_params_given, check_two_points, moved, updates_to
from gdjax.rule import as_rule, check_plain, rule
from gdjax.typing import Number, Params, RuleState


class OuterLoopState(NamedTuple):
    """What ``outer_loop`` keeps between steps."""

    since: jax.Array  # inner steps since the last outer one, int32, shape ()
    anchor: Params  # a, where the inner steps began, like params but in float32 at least; the same for all workers
    inner: RuleState  # of the inner rule, each worker's own
    outer: RuleState  # of the outer rule, the same for all workers


@rule
def outer_loop(inner, outer=None, period: Number = 500, *, axis_name=None):
    """Local SGD and DiLoCo: workers take k steps each on their own batches, then an outer rule a step along the mean of the ways they went.

        x ← x + u,  u the updates of the inner rule
        d = mean of a − x over the workers,  a ← a + the updates of the outer rule for the gradient d,  x ← a       every k steps

    The params of the loop are x; ``gdjax.eval_params`` gives a. Under ``jax.vmap`` or ``jax.shard_map`` over workers, each with its own params, state and
    batch, ``axis_name`` is the name of their axis: workers communicate every k steps and not between. Without it there is one worker.

    Between two outer steps a stays where it is. So a run should end at a multiple of k, and one of fewer than k steps returns the params it began with,
    whatever its loss at x.

    Args:
        inner: the rule or optax transformation of the workers; its state is kept from round to round.
        outer: the rule or optax transformation for a. None: SGD with learning rate 0.7 and Nesterov momentum 0.9, as in DiLoCo; ``sgd(1.0)`` averages the
            workers (local SGD, FedAvg), and with one worker ``sgd(α)`` is ``lookahead``.
        period: k ≥ 1, a whole number of steps, shape (); 500 as in DiLoCo, whose runs take tens of thousands. No more than the steps of yours.
        axis_name: str or None: the axis of the workers.

    Returns:
        Rule: ``update`` needs the params.

    Raises:
        ValueError: a number is out of its range or NaN; an inner rule that keeps two points itself; ``update`` without params.

    Guarantee:
        Outer sgd(1.0), inner sgd(h): for k = 1 the steps of SGD with the mean of the workers' gradients; on a quadratic, each worker the same curvature λ and
        its own minimum x⋆ᵢ, the error from the mean of the x⋆ᵢ shrinks by (1 − hλ)^k a round. Where curvatures differ too, a tends to the mean of the x⋆ᵢ
        weighted by 1 − (1 − hλᵢ)^k, which for k > 1 is not the minimum of the mean loss: the bias of local steps.

    When to use it: workers between which communication is slow, as over the Internet; k is the factor by which there is less of it.

    Example:
        >>> import functools, gdjax, jax, jax.numpy as jnp
        >>> rule = gdjax.outer_loop(gdjax.sgd(0.1), gdjax.sgd(1.0), period=5, axis_name="workers")
        >>> @functools.partial(jax.vmap, axis_name="workers")
        ... def worker(targets):
        ...     w, state = jnp.zeros(()), rule.init(jnp.zeros(()))
        ...     for target in targets:
        ...         updates, state = rule.update(w - target, state, w)
        ...         w = w + updates
        ...     return w
        >>> print(*(f"{w:.3f}" for w in worker(jnp.array([[1.0] * 10, [3.0] * 10]))))
        1.303 1.303

    Reference:
        McMahan, Moore, Ramage, Hampson, y Arcas, "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017.
        Stich, "Local SGD converges fast and communicates little", ICLR 2019, arXiv:1805.09767.
        Douillard et al., "DiLoCo: distributed low-communication training of language models", arXiv:2311.08105, 2023.
    """
    check_steps("outer_loop", "period", period, low=1, example=500)
    if axis_name is not None and not isinstance(axis_name, (str, tuple)):
        raise TypeError(f"outer_loop: axis_name is {short(axis_name)}; wanted the name of the workers' axis or None: type axis_name='workers'.")
    worker, chief = as_rule(inner, "outer_loop: inner"), optax.sgd(0.7, momentum=0.9, nesterov=True) if outer is None else outer
    chief = as_rule(chief, "outer_loop: outer")
    check_two_points("outer_loop", worker, inner)
    check_plain("outer_loop", chief, "and the ways of workers are of none", "gdjax.outer_loop(inner, gdjax.sgd(1.0))")

    def init(params, **offered):
        anchor = widened(params)
        return OuterLoopState(jnp.zeros((), jnp.int32), anchor, worker.init(params, **offered), chief.init(anchor))

    def update(grads, state, params=None, **extra):
        check_params_given("outer_loop", params)
        updates, after = worker.update(grads, state.inner, params, **extra)
        point = moved(params, updates)

        def meet():
            way = tree.subtract(state.anchor, point)
            way = way if axis_name is None else lax.pmean(way, axis_name)
            moves, outer_state = chief.update(way, state.outer, state.anchor)
            return tree.add(state.anchor, moves), tree.cast_like(outer_state, state.outer)

        meets = state.since + 1 >= period
        anchor, outer_state = lax.cond(meets, meet, lambda: (state.anchor, state.outer))
        updates = tree.where(meets, updates_to(anchor, params), updates)
        return updates, OuterLoopState(jnp.where(meets, 0, state.since + 1), anchor, after, outer_state)

    def eval_params(state, params):
        anchor = state.anchor if chief.eval_params is None else chief.eval_params(state.outer, state.anchor)
        return tree.cast_like(anchor, params)

    return init, update, eval_params
