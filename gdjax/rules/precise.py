"""Steps below the spacing of bfloat16 and float16 params."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import is_word, short
from gdjax.parts.rounding import compensated, drawn, in_float32, is_low, key_of, offered_wide, straight
from gdjax.parts.two_points import check_params_given
from gdjax.rule import as_rule, rule
from gdjax.typing import Params, RuleState


def _check(how, key):
    if not is_word(how, ("kahan", "stochastic")):
        raise ValueError(f"precise: how is {short(how)}; wanted 'kahan' or 'stochastic': type precise(gdjax.sgd(0.1), 'kahan').")
    if how == "kahan" and key is not None:
        raise ValueError(f"precise: got key={short(key)} with how='kahan', which draws nothing; wanted key=None: leave it out.")
    if how == "stochastic" and key is None:
        raise ValueError("precise: key is None, but rounding is drawn from it; wanted a seed or a key: type precise(gdjax.sgd(0.1), 'stochastic', key=0).")
    if key is not None:
        key_of(key)


class PreciseState(NamedTuple):
    """What ``precise`` keeps between steps."""

    steps: jax.Array  # made so far, int32, shape (): folded into the key of "stochastic"
    lost: Params  # c of "kahan", like the bfloat16 and float16 leaves of params, in their dtypes; None for other leaves and with "stochastic"
    inner: RuleState  # of the rule, made for params in float32


@rule
def precise(rule, how: Literal["kahan", "stochastic"] = "kahan", *, key=None):
    """Params in bfloat16 or float16 that keep count of steps smaller than their spacing: any rule, by Kahan's sum or stochastic rounding.

        u = rule(x + c, g) in float32
        x₊ = round(x + c + u),  c ← (x + c + u) − x₊, rounded          kahan
        x₊ = below or above x + u, of mean x + u;  c = 0               stochastic

    The rule is made for float32: its state, gradients, and params x + c, at which a decoupled weight decay acts. The loss is evaluated at params in their own
    dtypes. Updates are of these too, chosen so that params + updates is x₊. Where x shrinks by more than half or changes its sign, the dtype may have no such
    update: then x₊ is the nearest that can be reached, or one of two around x + u. Leaves of float32 and float64 are left to the rule.
    Bytes a param: 2, beside them 2 for c and 4 for each float32 that the rule keeps. So 4 with plain SGD, 12 with Adam, "stochastic" 2 and 10; all of it in
    float32 is 4 and 12, and what is saved then are casts, gradients and activations.

    Args:
        rule: a rule or optax transformation, whole: nothing may change the updates after it.
        how: "kahan" or "stochastic"; static.
        key: a seed or JAX key of "stochastic"; the same key draws the same steps.

    Returns:
        Rule: ``update`` needs the params.

    Raises:
        ValueError: an unknown ``how``; a key missing, or given to "kahan"; ``update`` without params.
        TypeError: a key that is none, a rule that is none.

    Guarantee:
        N steps with |u| ≤ |x|/3, X = max |x|, ε = 2⁻⁸ in bfloat16, 2⁻¹¹ in float16, where 2⁻²⁵ is to be added to εX and ε²X. u = 0 changes nothing.
        kahan:  |x_N + c_N − (x₀ + Σu)| ≤ N (ε²X + 2⁻²⁴(εX + max |u|)) and |c_N| ≤ εX, where the plain sum may lose εX in every step. Once c has grown to εX,
        a step below ε²X/2 is lost: 1e-5 of x in bfloat16.
        stochastic:  E x_N = x₀ + Σu and E (x_N − E x_N)² ≤ 2εX Σ|u| for given u, to 2⁻²¹εX a step. No step is too small, and no draw overflows.
        NaN and infinities end where the plain sum has them; c stays finite.

    When to use it: training with all params in bfloat16. "kahan" is the more exact; "stochastic" keeps nothing, or for steps below 1e-5 of the params.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> plain = gdjax.sgd(1e-3)
        >>> for rule in (plain, gdjax.precise(plain), gdjax.precise(plain, "stochastic", key=1)):
        ...     result = gdjax.minimize(lambda w: -w, jnp.bfloat16(1.0), rule, max_steps=1000)
        ...     print(f"{result.params:.2f}")
        1.00
        2.00
        2.00

    Reference:
        Kahan, "Further remarks on reducing truncation errors", Comm. ACM 8, 1965. Gupta, Agrawal, Gopalakrishnan, Narayanan, "Deep learning with limited
        numerical precision", ICML 2015. Zamirai, Zhang, Aberger, De Sa, "Revisiting BFloat16 training", 2020, arXiv:2010.06192 (both, for training).
    """
    _check(how, key)
    inner = as_rule(rule, "precise: rule")

    def view(params, state):
        return jax.tree.map(lambda x, c: in_float32(x) if c is None else in_float32(x) + in_float32(c), params, state.lost)

    def init(params, **offered):
        lost = jax.tree.map(lambda x: jnp.zeros_like(x) if how == "kahan" and is_low(x) else None, params)
        return PreciseState(jnp.int32(0), lost, inner.init(jax.tree.map(in_float32, params), **offered))

    def step(number, x, c, u, key):
        if not is_low(x):
            return u, None
        dtype, u = jnp.result_type(x), jnp.asarray(u).astype(jnp.float32)
        x, c, plain = jax.lax.stop_gradient((in_float32(x), c, u))
        if c is None:
            return straight(drawn(x, plain, jax.random.fold_in(key, number), dtype), u).astype(dtype), None
        update, c = compensated(x, in_float32(c), plain, dtype)
        return straight(update, u).astype(dtype), c.astype(dtype)

    def update(grads, state, params: Any = None, **extra):
        check_params_given("precise", params)
        moves, after = inner.update(jax.tree.map(in_float32, grads), state.inner, view(params, state), **offered_wide(extra, params))
        leaves, structure = jax.tree.flatten(params)
        base = None if how == "kahan" else jax.random.fold_in(key_of(key), state.steps)
        zipped = zip(leaves, structure.flatten_up_to(state.lost), structure.flatten_up_to(moves), strict=True)
        made = [step(number, x, c, u, base) for number, (x, c, u) in enumerate(zipped)]
        updates, lost = (structure.unflatten([pair[side] for pair in made]) for side in (0, 1))
        return updates, PreciseState(jnp.asarray(optax.safe_increment(state.steps)), lost, after)

    def eval_params(state, params):
        return tree.cast_like(inner.eval_params(state.inner, view(params, state)), params)

    return (init, update) if inner.eval_params is None else (init, update, eval_params)
