"""Muon: momentum, orthogonalised."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.arguments import check_axes, check_number, short
from gdjax.parts.leaves import about_some, by_leaf, check_all
from gdjax.parts.newton_schulz import DTYPES, QUINTIC, SCALES, Layout, WorkingDtype, as_kernel, as_matrix, check_layout, mix, newton_schulz, polynomials
from gdjax.rule import as_rule, check_plain, rule
from gdjax.schedules import check_learning_rate, value_at
from gdjax.typing import Params, Scheduled


class MuonState(NamedTuple):
    """What ``muon`` keeps between steps."""

    step: jax.Array | None  # number of steps taken, int32, shape (); None without a schedule
    mean: Params  # m, like params; None in place of leaves that are no matrices
    others: Any  # the state of the rule for these leaves


@rule
def muon(
    learning_rate, others=None, *, momentum: Scheduled = 0.95, nesterov=True, weight_decay=None, steps=None, coefficients: Any = QUINTIC,
    scale: Literal["original", "rms"] = "original", layout: Layout = "in_out", matrices=None, dtype: WorkingDtype = "bfloat16",
):  # fmt: skip
    """Muon: momentum with all singular values set to about one, steepest descent of weight matrices in the spectral norm.

        m ← β m + (1 − β) g;  x ← (1 − h λ) x − h s NS(u);  u = β m + (1 − β) g,  or m without Nesterov momentum

    NS, of ``gdjax.parts.newton_schulz``, is near U Vᵀ of u = U S Vᵀ, a matrix of outputs by inputs; the window of a convolution counts as inputs.

    Args:
        learning_rate: h ≥ 0, a number or a schedule, shape (); in units of params, whatever the scale of the loss. 0.02 with scale="original".
        others: a rule for leaves that are no matrices, such as biases; mostly Adam: ``gdjax.rule(optax.adam)(3e-4)``. Without one, such leaves are an error.
        momentum: β in [0, 1), a number or a schedule, shape ().
        nesterov: bool.
        weight_decay: λ ≥ 0, a number or a schedule, shape (), of the matrices. ``update`` then needs the params.
        steps: int ≥ 1, of NS. None: 5, or one for each triple of coefficients.
        coefficients: (a, b, c) of the polynomial aσ + bσ³ + cσ⁵ that each step applies to the singular values σ, or one such triple for each step.
        scale: str; "original": s = √max{1, outputs/inputs}; "rms": s = 0.2 √max{outputs, inputs}, for learning rates and weight decays as of AdamW.
        layout: str, of kernels: "in_out", the last axis is the outputs (Flax, HWIO), or "out_in", the first is (PyTorch, OIHW).
        matrices: which leaves are: bools like params, or a function from params to these. None: of two axes and more. Best without embeddings and heads.
        dtype: str, that NS works in: "bfloat16", "float32" or "float64".

    Returns:
        Rule: ``torch.optim.Muon`` for matrices; ``optax.contrib.muon`` divides m by 1 − βᵗ, which alters the mix with g in the first steps.

    Raises:
        ValueError: a number out of its range or NaN; steps other than the triples of coefficients; an unknown scale, layout or dtype; leaves for ``others``.

    Guarantee:
        Five steps of the default coefficients send every singular value in [10⁻³, 1] of u/‖u‖ into [0.470, 1.203], in exact arithmetic; bfloat16 has room for
        those above some 10⁻². So with β = λ = 0 and L the smoothness in the spectral norm, f falls by h s (0.47 Σσ(g) − 0.73 h s L) if no σ is smaller.

    When to use it: the hidden weight matrices of networks that train with Adam.

    Example:
        >>> import gdjax, jax, jax.numpy as jnp
        >>> rule, w = gdjax.muon(0.1, dtype="float32"), jnp.diag(jnp.array([3.0, 0.5]))
        >>> updates, _ = rule.update(w, rule.init(w))
        >>> print(*(f"{x:.2f}" for x in jnp.diag(w + updates)))
        2.93 0.40

    Reference:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", kellerjordan.github.io/posts/muon, 2024.
        Liu et al., "Muon is scalable for LLM training", arXiv:2502.16982, 2025 ("rms").
    """
    check_learning_rate("muon", learning_rate)
    check_number("muon", "momentum", momentum, low=0, high=1, open_high=True, required=not callable(momentum), wanted="0 ≤ momentum < 1: type momentum=0.95")
    check_number("muon", "weight_decay", weight_decay, low=0, wanted="weight_decay ≥ 0 or None: type weight_decay=0.1")
    check_layout("muon", layout)
    for name, given, known in (("scale", scale, [*SCALES]), ("dtype", dtype, [*DTYPES])):
        if not isinstance(given, str) or given not in known:
            raise ValueError(f'muon: {name} is {short(given)}; wanted one of {known}: type {name}="{known[0]}".')
    iterations, inner = polynomials("muon", coefficients, steps), as_rule(optax.identity() if others is None else others, "muon: others")
    check_plain("muon", inner, "and muon hands on those of some leaves only", "gdjax.muon(0.02, others=gdjax.rule(optax.adam)(3e-4))")

    def kinds(like):
        return by_leaf("muon", "matrices", matrices, like, lambda x: jnp.ndim(x) >= 2)

    def rest(like):
        check_all("muon", kinds(like), others)
        return optax.masked(inner, lambda tree: jax.tree.map(lambda kind: not kind, kinds(tree)))

    def init(params):
        check_axes("muon", "matrices", kinds(params), params)
        step = jnp.zeros((), jnp.int32) if any(map(callable, (learning_rate, momentum, weight_decay))) else None
        return MuonState(step, tree.map(lambda x, kind: jnp.zeros_like(x) if kind else None, params, kinds(params)), rest(params).init(params))

    def polar(u):
        matrix = as_matrix(u, layout)
        return SCALES[scale](*matrix.shape), as_kernel(newton_schulz(matrix, iterations, jnp.dtype(dtype)).astype(u.dtype), u, layout)

    def update(grads, state, params=None, **extra):
        if weight_decay is not None and params is None:
            raise ValueError("muon: update got params=None; weight_decay wants the params: type rule.update(grads, state, params).")
        h, beta, decay = (value_at(x, state.step) for x in (learning_rate, momentum, weight_decay))
        mean = tree.map(lambda g, m: None if m is None else mix(beta, m, g), grads, state.mean)
        made, left = rest(grads).update(grads, state.others, params, **about_some(extra))

        def leaf(g, update, m, x):
            if m is None:
                return update
            size, unit = polar(mix(beta, m, g) if nesterov else m)
            step = jnp.asarray(-h * size, g.dtype) * unit
            return step if decay is None else step - jnp.asarray(h * decay, g.dtype) * x

        updates = tree.map(leaf, grads, made, mean, grads if params is None else params)
        return updates, MuonState(None if state.step is None else jnp.asarray(optax.safe_increment(state.step)), mean, left)

    return init, update
