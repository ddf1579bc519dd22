"""Arrays as people have them: NumPy's of any byte order, PyTorch tensors, pandas tables. Each becomes an array that JAX takes, or an error.

Nothing here imports PyTorch, pandas or SciPy: who passes their objects has imported them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from gdjax.arguments import is_array, native, short
from gdjax.typing import Data


def as_arrays(given: Any, argument: str) -> Any:
    """The pytree with its leaves as arrays where they can be; other leaves as they are, for the caller to refuse."""
    paths, structure = flattened(given, argument)
    return jax.tree.unflatten(structure, [as_array(leaf, f"{argument}{jax.tree_util.keystr(path)}") for path, leaf in paths])


def as_examples(given: Any, argument: str = "data") -> Any:
    """The data as arrays with a common leading axis of examples; an error for what has none."""
    paths, _ = flattened(given, argument, _is_jax_sparse)
    for path, leaf in paths:
        if _is_jax_sparse(leaf):
            raise _sparse(leaf, f"{argument}{jax.tree_util.keystr(path)}", "X.todense()")
    given = as_arrays(given, argument)
    check_data(given, argument)
    return given


def flattened(given: Any, argument: str, is_leaf=None) -> tuple[list[tuple[Any, Any]], Any]:
    """The leaves with their paths, and the structure; an error for dicts whose keys JAX cannot sort."""
    try:
        return jax.tree_util.tree_flatten_with_path(given, lambda x: isinstance(x, Iterator) or (is_leaf is not None and is_leaf(x)))
    except (TypeError, ValueError) as error:
        raise TypeError(f'{argument} cannot be taken apart: {error} wanted dicts with keys of one kind, all text: type {{"a": x, "b": y}}.') from None


def as_array(leaf: Any, where: str) -> Any:
    """One leaf as an array, if it is one or can become one; an error for arrays that hold other things than numbers or have no rows to take."""
    if isinstance(leaf, jax.Array):
        return _of_a_known_width(leaf, where)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise TypeError(f"{where} is a shape, {leaf}; wanted an array with numbers in it: type jnp.zeros({leaf.shape}, {str(leaf.dtype)!r}), for example.")
    if isinstance(leaf, Iterator):  # JAX warns when it meets one in a tree
        raise TypeError(f"{where} is an iterator ({type(leaf).__name__}); wanted an array: type np.stack(list(rows)).")
    if _is_a(leaf, "scipy.sparse", "sparray", "spmatrix"):
        raise _sparse(leaf, where, "X.toarray()")
    if _is_a(leaf, "torch", "Tensor"):
        leaf = _of_torch(leaf, where)
    elif _is_a(leaf, "pandas", "DataFrame"):
        leaf = _of_table(leaf, where)
    elif _is_a(leaf, "pandas", "Series"):
        leaf = _of_table(leaf.to_frame(), where)[:, 0]
    elif _makes_an_array(leaf):
        leaf = np.asarray(leaf)
    return _of_numpy(leaf, where) if isinstance(leaf, (np.ndarray, np.generic)) else _of_int(leaf, where)


def _of_a_known_width(leaf: Any, where: str) -> Any:
    # JAX computes with such an array in 32 bits, but calls it one of 64: its own checks of types then fail, or warn at every turn.
    if isinstance(leaf.dtype, np.dtype) and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
        narrow = jax.dtypes.canonicalize_dtype(leaf.dtype)
        raise TypeError(
            f"{where} is {leaf.dtype}, made while jax_enable_x64 was on, and now it is off; wanted {narrow}, or the setting back: type "
            f'jax.config.update("jax_enable_x64", True), or np.asarray(x).astype("{narrow}").'
        )
    return leaf


def copied(given: Any) -> Any:
    """The pytree with NumPy's arrays copied. JAX reads some of them where they are, so what their owner writes there later would be seen."""
    return jax.tree.map(lambda x: np.array(x) if isinstance(x, np.ndarray) else x, given)


def _is_a(leaf: Any, module: str, *names: str) -> bool:
    kinds = [getattr(sys.modules.get(module), name, None) for name in names]
    return isinstance(leaf, tuple(kind for kind in kinds if isinstance(kind, type)))


def _is_jax_sparse(leaf: Any) -> bool:
    return _is_a(leaf, "jax.experimental.sparse", "JAXSparse")


def _sparse(leaf: Any, where: str, dense: str) -> TypeError:
    return TypeError(
        f"{where} is a sparse matrix ({type(leaf).__name__}, shape {tuple(leaf.shape)}), whose rows cannot be taken; wanted a dense array: type {dense}, or, "
        "where that is too large, pass a stream that makes each batch dense. For all data at every step minimize takes a jax.experimental.sparse.BCOO: "
        "type gdjax.minimize(loss, params, args=(jax.experimental.sparse.BCOO.from_scipy_sparse(X), y))."
    )


def _makes_an_array(leaf: Any) -> bool:
    # Tables and arrays of other libraries. JAX's own kinds (keys, references, wrappers such as nnx.Param) are JAX's to read.
    return hasattr(leaf, "__array__") and hasattr(leaf, "shape") and not isinstance(leaf, (np.ndarray, np.generic)) and not hasattr(leaf, "__jax_array__")


def _of_torch(tensor: Any, where: str) -> np.ndarray:
    """On the host, without its history; bfloat16, which PyTorch does not give to NumPy, by its bits."""
    torch: Any = sys.modules["torch"]
    try:
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(jax.numpy.bfloat16)
        return tensor.numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        kind = f"{tensor.layout}, {tensor.dtype}"
        raise TypeError(f"{where} is a tensor ({kind}) that NumPy cannot read; wanted a dense tensor of numbers: type X.to_dense().float().") from error


def _of_table(table: Any, where: str) -> np.ndarray:
    """All columns in their common dtype; an error that names the column that holds no numbers, or has gaps."""
    for name, dtype, column in zip(table.columns, table.dtypes, (table.iloc[:, i] for i in range(table.shape[1])), strict=True):
        if getattr(dtype, "kind", "O") not in "biufc" or getattr(dtype, "name", "") == "category":
            hint = f"leave it out, X.drop(columns=[{name!r}]), or encode it, pandas.get_dummies(X, columns=[{name!r}], dtype=float)"
            raise TypeError(f"{where}: column {name!r} has dtype {dtype}; wanted numbers: {hint}.")
        if not isinstance(dtype, np.dtype) and column.isna().any():
            raise TypeError(f"{where}: column {name!r} has missing values; wanted numbers: fill them, X.fillna(0), or drop the rows, X.dropna().")
    if not table.shape[1]:
        return np.zeros(table.shape, np.float32)
    return table.to_numpy(dtype=np.result_type(*[np.dtype(getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", dtype))) for dtype in table.dtypes]))


def _of_numpy(array: Any, where: str) -> Any:
    if np.ma.isMaskedArray(array):
        if np.ma.is_masked(array):
            hint = "fill them, X.filled(0.0), or keep the rows without them, X[~X.mask.any(axis=1)].data"
            raise TypeError(f"{where} is a masked array with {np.ma.count_masked(array)} entries masked; wanted numbers in all places: {hint}.")
        array = np.ma.getdata(array)
    dtype = array.dtype
    if dtype.names is not None:
        hint = "numpy.lib.recfunctions.structured_to_unstructured(X)"
        raise TypeError(f"{where} is a structured array with fields {', '.join(dtype.names)}; wanted plain numbers: type {hint}.")
    if dtype.kind in "mM":
        hint = "(t - t.min()) / np.timedelta64(1, 's')" if dtype.kind == "M" else "t / np.timedelta64(1, 's')"
        raise TypeError(f"{where} has dtype {dtype}, times; wanted numbers: type {hint}, for example.")
    array = native(array)
    _check_range(array, where)
    return array if type(array) is np.ndarray or isinstance(array, np.generic) else np.asarray(array)


def _check_range(array: Any, where: str) -> None:
    """An error for numbers of 64 bits that JAX, keeping 32, would wrap around or make infinite."""
    here = jax.dtypes.canonicalize_dtype(array.dtype)
    if array.dtype.kind not in "iuf" or here == array.dtype or not array.size:
        return
    limits = np.iinfo(here) if array.dtype.kind in "iu" else np.finfo(here)
    lowest, highest, least, most = (x.item() for x in (np.array(limits.min), np.array(limits.max), array.min(), array.max()))
    worst = most if most > highest else least  # NaN, or infinite, where the data are: that is for others to find
    if math.isfinite(worst) and not lowest <= worst <= highest:
        wanted = _SMALLER if array.dtype.kind in "iu" else _IN_ANOTHER_UNIT
        raise TypeError(f"{where} is {array.dtype} and holds {worst}, which {here} cannot; wanted {wanted}")


def _of_int(leaf: Any, where: str) -> Any:
    if type(leaf) is int and not np.iinfo(here := jax.dtypes.canonicalize_dtype(np.int64)).min <= leaf <= np.iinfo(here).max:
        raise TypeError(f"{where} is {leaf}, which {here} cannot hold; wanted {_SMALLER}")
    return leaf


_SMALLER = 'smaller numbers, or 64 bits: type x.astype(float), take a constant off, or jax.config.update("jax_enable_x64", True).'
_IN_ANOTHER_UNIT = 'smaller numbers, or 64 bits: type x / np.abs(x).max(), or jax.config.update("jax_enable_x64", True).'


def check_data(data: Data, argument: str = "data") -> int:
    """The number of examples, if data is a pytree of arrays with a common leading axis; otherwise an error that names the leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(data)
    if not leaves:
        raise ValueError(f"{argument} is {short(data)}, a pytree without arrays; wanted arrays with a common leading axis: pass (X, y), for example.")
    for path, leaf in leaves:
        where = f"{argument}{jax.tree_util.keystr(path)}"
        if not hasattr(leaf, "dtype") or not isinstance(getattr(leaf, "shape", None), tuple) or not leaf.shape:
            raise TypeError(f"{where} is {short(leaf)}; wanted an array whose leading axis counts the examples: pass np.asarray(rows), shape (n, ...).")
        if not is_array(leaf):
            raise TypeError(f"{where} has dtype {leaf.dtype}; wanted numbers: convert it, rows.astype(np.float32), or encode labels as integers.")
    lengths = {f"{argument}{jax.tree_util.keystr(path)}": leaf.shape[0] for path, leaf in leaves}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"the arrays in {argument} differ in length: {listed}; wanted the same number of examples in each: check how they were split.")
    count = next(iter(lengths.values()))
    if count == 0:
        raise ValueError(f"{argument} has 0 examples; wanted at least one: check the filter or path that made it.")
    return count
