"""The Newton–Schulz iteration that Muon and MuSGD share: nearly the orthogonal factor U Vᵀ of a matrix U S Vᵀ, by products of matrices alone."""

from __future__ import annotations

import functools
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax import tree
from gdjax.arguments import check_number, is_whole, is_word, short

QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at 0, so that small singular values grow fast; five times it sends [1e-3, 1] into [0.470, 1.203]
FLOOR = 1e-7  # added to the Frobenius norm
Layout: TypeAlias = Literal["in_out", "out_in"]
WorkingDtype: TypeAlias = Literal["bfloat16", "float32", "float64"]
LAYOUTS = get_args(Layout)
DTYPES = get_args(WorkingDtype)
SCALES = {"original": lambda rows, columns: max(1, rows / max(columns, 1)) ** 0.5, "rms": lambda rows, columns: 0.2 * max(rows, columns) ** 0.5}


def check_layout(factory: str, layout: Any) -> None:
    """The door for layouts of kernels."""
    if not is_word(layout, LAYOUTS):
        wanted = '"in_out" (Flax, Haiku; HWIO) or "out_in" (PyTorch, Equinox; OIHW): type layout="in_out"'
        raise ValueError(f"{factory}: layout is {short(layout)}; wanted {wanted}.")


def polynomials(factory: str, coefficients: Any, steps: Any) -> tuple:
    """One triple per step, from three numbers used at each of ``steps`` (None: five), or from one triple per step, of which there must be ``steps``."""
    wanted = "an int ≥ 1: type steps=5, or leave it out"
    if steps is not None and (not is_whole(steps) or steps < 1):
        raise ValueError(f"{factory}: steps is {short(steps)}; wanted {wanted}.")
    shape = np.shape(coefficients)
    if len(shape) not in (1, 2) or shape[-1] != 3 or shape[0] < 1:
        wanted = "three numbers, or three for each step: type coefficients=(3.4445, -4.775, 2.0315)"
        raise ValueError(f"{factory}: coefficients are of shape {shape}; wanted {wanted}.")
    for number in jax.tree.leaves(coefficients):
        check_number(factory, "coefficients", number, required=True, wanted="numbers: type coefficients=(3.4445, -4.775, 2.0315)")
    if len(shape) == 1:
        return (coefficients,) * (5 if steps is None else int(steps))
    if steps is not None and steps != shape[0]:
        raise ValueError(f"{factory}: got coefficients for {shape[0]} steps with steps={steps}; wanted as many as steps: leave steps out.")
    return tuple(coefficients)


def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """x in a dtype, rounded to it also where a compiler would carry excess precision over: a program gives the same bits in one piece and in many."""
    limits = jnp.finfo(dtype)
    return lax.reduce_precision(x, limits.nexp, limits.nmant).astype(dtype) if limits.bits < jnp.finfo(x.dtype).bits else x.astype(dtype)


@functools.partial(jax.jit, static_argnames="dtype", inline=True)  # outside of jit the loop would be compiled at every call
def newton_schulz(matrix: jax.Array, polynomials: Any = (QUINTIC,) * 5, dtype: Any = "bfloat16") -> jax.Array:
    """X ← X/(‖X‖_F + 10⁻⁷), then X ← a X + (b A + c A²) X with A = X Xᵀ for each (a, b, c); of a tall matrix, of its transpose.

    A singular value σ of the matrix over its norm becomes p(σ) with the odd polynomial p(σ) = aσ + bσ³ + cσ⁵, iterated; 0 stays 0.

    Args:
        matrix: shape (rows, columns).
        polynomials: a triple (a, b, c) for each step.
        dtype: what X and A are kept in. Products are summed in float32 at least, and rounded once with what is added to them.

    Returns:
        The matrix of shape (rows, columns), in that dtype.
    """
    wide = tree.dtype_of(jax.ShapeDtypeStruct((), dtype))
    tall = matrix.shape[0] > matrix.shape[1]

    def multiply(a, b, transposed=False):
        axes = (((1,), (1 if transposed else 0,)), ((), ()))
        return lax.dot_general(a, b, axes, precision=lax.Precision.HIGHEST, preferred_element_type=wide)

    def iterate(x, polynomial):
        a, b, c = polynomial
        gram = rounded(multiply(x, x, transposed=True), dtype)
        both = rounded(b * gram.astype(wide) + c * multiply(gram, gram), dtype)
        return rounded(a * x.astype(wide) + multiply(both, x), dtype), None

    x = rounded(matrix.T if tall else matrix, dtype)
    norm = rounded(rounded(tree.norm(x).astype(wide), dtype).astype(wide) + jnp.asarray(FLOOR, wide), dtype)
    x = rounded(x.astype(wide) / norm.astype(wide), dtype)
    x = lax.scan(iterate, x, jnp.asarray(polynomials, wide))[0]  # a loop, since a network has hundreds of kernels to compile this for
    return x.T if tall else x


def as_matrix(leaf: jax.Array, layout: str) -> jax.Array:
    """A kernel as (outputs, inputs), whatever its layout; the axes of a convolution's window count as inputs."""
    return leaf.reshape(-1, leaf.shape[-1]).T if layout == "in_out" else leaf.reshape(leaf.shape[0], -1)


def as_kernel(matrix: jax.Array, like: jax.Array, layout: str) -> jax.Array:
    """The way back."""
    return (matrix.T if layout == "in_out" else matrix).reshape(like.shape)


def mix(share: Any, mean: jax.Array, g: jax.Array) -> jax.Array:
    """The mean and a gradient, in shares that sum to 1 in their dtype."""
    share = jnp.asarray(share, g.dtype)
    return share * mean + (1 - share) * g
