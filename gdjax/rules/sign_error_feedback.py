"""Sign descent with error feedback."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.rule import rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Params


class SignErrorFeedbackState(NamedTuple):
    """What ``sign_error_feedback`` keeps between steps."""

    step: jax.Array | None  # number of steps taken, int32, shape (); None for a constant learning rate
    error: Params  # e, like params: what of the gradient steps has not been made yet


@rule
def sign_error_feedback(learning_rate):
    """Sign descent that remembers: what the sign leaves out of a step is added to the next.

        p = h g + e;  d = (‖p‖₁/n) sign(p);  x ← x − d;  e ← p − d

    leaf by leaf, n entries each: an update is a bit an entry and one number, which is what workers would send.

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (): that of gradient descent, not of sign descent.

    Returns:
        Rule.

    Raises:
        ValueError: the learning rate is negative or NaN.

    Guarantee:
        ‖p − d‖² ≤ (1 − δ)‖p‖², with δ = ‖p‖₁²/(n ‖p‖²) ≥ 1/n of the worst leaf. E‖g‖² ≤ G²:  E‖e‖² ≤ 4 (1 − δ) h² G²/δ² for the least δ met, and if f
        is L-smooth the mean over N steps of E‖∇f‖² is at most 2(f(x₀) − f⋆)/(hN) + hLG² + 4(1 − δ)h²L²G²/δ²: the compression costs in h² only, where
        sign descent need not converge at all.

    When to use it: updates are sent over a slow wire, or signs are wanted with the guarantees of SGD. One machine with room gains nothing by it.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> rule, x = gdjax.sign_error_feedback(0.1), jnp.array([4.0, 1.0])
        >>> state = rule.init(x)
        >>> for step in range(3):
        ...     updates, state = rule.update(x, state)
        ...     x = x + updates
        ...     print(" ".join(f"{entry:.3f}" for entry in x), " ".join(f"{entry:.3f}" for entry in state.error))
        3.750 0.750 0.150 -0.150
        3.450 1.050 0.225 0.225
        3.000 0.600 0.120 -0.120

    Reference:
        Karimireddy, Rebjock, Stich, Jaggi, "Error feedback fixes SignSGD and other gradient compression schemes", ICML 2019, arXiv:1901.09847.
    """
    check_learning_rate("sign_error_feedback", learning_rate)

    def init(params):
        return SignErrorFeedbackState(jnp.zeros((), jnp.int32) if callable(learning_rate) else None, tree.zeros_like(params))

    def compressed(p):
        mean = tree.vdot(jnp.sign(p), p) / max(jnp.size(p), 1)
        return tree.scale(mean, jnp.sign(p))

    def update(grads, state, params=None, **extra):
        wanted = tree.add_scaled(state.error, value_at(learning_rate, state.step), grads)
        made = tree.map(compressed, wanted)
        step = None if state.step is None else jnp.asarray(optax.safe_increment(state.step))
        return tree.scale(-1, made), SignErrorFeedbackState(step, tree.subtract(wanted, made))

    return init, update
