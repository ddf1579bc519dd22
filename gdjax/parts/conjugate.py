"""How much of the last direction nonlinear conjugate gradients keep: β, in five ways."""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax.numpy as jnp

from gdjax.tree import vdot

TRUNCATION = 0.4  # η of Hager and Zhang 2013: how far β may be below 0
POWELL = 0.2  # the share of ‖g₊‖² that ⟨g, g₊⟩ may have


def over(a, b):
    """a/b, 0 where b is 0."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def unless_jammed(g, new):
    """‖g₊‖², or 0 by Powell's test: without it Fletcher-Reeves and Dai-Yuan go on with tiny steps once they have made one.

    Reference:
        Powell, "Restart procedures for the conjugate gradient method", Math. Program. 12, 1977.
    """
    square = vdot(new, new)
    return jnp.where(jnp.abs(vdot(g, new)) < POWELL * square, square, 0)


def hager_zhang(d, g, new, y, bend):
    """Never below 0.4⟨d, g⟩/‖d‖²; ⟨g₊, −g₊ + β d⟩ ≤ −(7/8)‖g₊‖² all the same."""
    return jnp.maximum((vdot(y, new) - 2 * vdot(y, y) * vdot(d, new) / bend) / bend, TRUNCATION * over(vdot(d, g), vdot(d, d)))


Beta: TypeAlias = Literal["hager_zhang", "polak_ribiere", "fletcher_reeves", "hestenes_stiefel", "dai_yuan"]
# Of the direction d, the gradients g before and g₊ (new) after a step along it, y = g₊ − g, and bend = ⟨d, y⟩ > 0.
BETAS = {
    "hager_zhang": hager_zhang,
    "polak_ribiere": lambda d, g, new, y, bend: jnp.maximum(over(vdot(new, y), vdot(g, g)), 0),
    "fletcher_reeves": lambda d, g, new, y, bend: over(unless_jammed(g, new), vdot(g, g)),
    "hestenes_stiefel": lambda d, g, new, y, bend: jnp.maximum(vdot(new, y) / bend, 0),
    "dai_yuan": lambda d, g, new, y, bend: unless_jammed(g, new) / bend,
}
