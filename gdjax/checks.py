"""Checks that more than one room needs. Each looks at the type first, since arrays compare entry by entry, and says what came, what is wanted and what
to type.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax.arguments import is_array, is_whole, short
from gdjax.data.arrays import as_arrays
from gdjax.typing import Params

MOST = np.iinfo(np.int32).max // 2  # steps are counted in int32


def check_callable(fun: Any, name: str) -> Any:
    """The loss, if it can be called and hashed."""
    if not callable(fun):
        raise TypeError(f"{name} is {short(fun)}; wanted a function of params that returns a scalar loss: type lambda w: jnp.sum(w**2), for example.")
    try:
        hash(fun)
    except TypeError:
        raise TypeError(f"{name} ({type(fun).__name__}) is not hashable, so its program is not kept; wanted a function: type lambda *a: {name}(*a).") from None
    return fun


def check_takes(function: Any, given: list[str], name: str) -> None:
    """An error where a function cannot be called with so many arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # it does not say
    try:
        signature.bind(*given)
    except TypeError as error:
        wanted, few = ", ".join(given), "missing" in str(error)
        data = next((each for each in given if each in ("batch", "example")), None)
        unpack = f": type def {name}({wanted}): X, y = {data}, since data come as one; or pass stochastic=True if the last is a key" if few and data else ""
        more = ": what else it takes goes into args=(...)" if few and not data and name == "fun" else ""
        raise TypeError(f"{name} takes {signature} ({error}); wanted a function that is called as {name}({wanted}){unpack}{more}.") from None


def check_count(name: str, value: Any, low: int) -> int:
    """The integer, from ``low`` on; an error for anything else."""
    if not is_whole(value) or not low <= value <= MOST:
        limit = f" and <= {MOST}" if is_whole(value) and value > MOST else ""
        raise ValueError(f"{name} is {short(value)}; wanted an integer >= {low}{limit}: type {name}={max(low, 100)}.")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """True or False; an error for anything else."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {short(value)}; wanted True or False: type {name}=True.")
    return bool(value)


def check_choice(name: str, value: Any, options: tuple, example: str) -> Any:
    """One of the options, which are words or booleans; an error for anything else."""
    kinds = (str,) if isinstance(value, str) else (bool,) if isinstance(value, (bool, np.bool_)) else ()
    if not any(isinstance(option, kinds) and value == option for option in options):
        words = [f'"{option}"' if isinstance(option, str) else str(option) for option in options]
        listed = " or ".join([", ".join(words[:-1]), words[-1]])
        raise ValueError(f'{name} is {short(value)}; wanted {listed}: type {name}="{example}".')
    return value


def check_names(name: str, given: Any, known: tuple[str, ...], example: str) -> None:
    """An error for anything but a tuple of names that are known."""
    wrong = [each for each in given if not isinstance(each, str) or each not in known] if isinstance(given, (tuple, list)) else [given]
    if wrong:
        raise ValueError(f"{name} names {short(wrong[0])}; wanted a tuple of {', '.join(known)}: type {example}.")


def check_share(door: str, name: str, value: Any, example: str) -> float:
    """A number between 0 and 1, both excluded; an error for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < 1:
        raise ValueError(f"{door}: {name} is {short(value)}; wanted a share between 0 and 1: type {name}={example}.")
    return float(value)


def check_arrays(argument: str, given: Any) -> Any:
    """The pytree as arrays; an error for a leaf that is none, named with its place."""
    given = as_arrays(given, argument)
    for path, leaf in jax.tree_util.tree_leaves_with_path(given):
        if not is_array(leaf):
            what = f"{argument}{jax.tree_util.keystr(path)} is {short(leaf)} ({type(leaf).__name__})"
            raise TypeError(f"{what}; wanted arrays: keep all else in the function, by functools.partial or a closure.")
    return given


def check_model_state(given: Any) -> Any:
    """The model state as arrays of the dtypes it keeps."""
    return jax.tree.map(lambda x: x if hasattr(x, "dtype") else jnp.asarray(x, jnp.result_type(x)), check_arrays("model_state", given))


def check_params(params: Params, argument: str = "params") -> Params:
    """The params as arrays of their own, if they are a non-empty pytree of real floating arrays; otherwise an error that names the leaf."""
    params = as_arrays(params, argument)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if all(is_array(leaf) and jnp.size(leaf) == 0 for _, leaf in leaves):
        raise ValueError(f"{argument} is {short(params)}, a pytree without numbers; wanted at least one floating array: pass jnp.zeros(3), for example.")
    for path, leaf in leaves:
        _check_param(f"{argument}{jax.tree_util.keystr(path)}", leaf)
    return jax.tree.map(_own, params)


def _own(x):
    # NumPy's arrays are copied: JAX would read some of them where they are, and see what their owner writes there later.
    return x if isinstance(x, jax.Array) else lax.convert_element_type(np.array(x) if isinstance(x, np.ndarray) else x, jnp.result_type(x))


def _check_param(where: str, leaf: Any) -> None:
    if not is_array(leaf):
        raise TypeError(
            f"{where} is {short(leaf)} ({type(leaf).__name__}); wanted a floating array. Keep what is not an array out of params: "
            "params, static = equinox.partition(model, equinox.is_inexact_array), and equinox.combine(params, static) inside the loss."
        )
    dtype = jnp.result_type(leaf)
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(f"{where} is a key ({dtype}); wanted a real floating array: pass keys as data, or as key= with stochastic=True.")
    if not jnp.issubdtype(dtype, jnp.floating):
        kind = "a complex" if jnp.issubdtype(dtype, jnp.complexfloating) else "a boolean" if dtype == jnp.bool_ else "an integer"
        hint = "split it into real and imaginary parts" if kind == "a complex" else "write 5.0 instead of 5, or convert it: jnp.asarray(x, jnp.float32)"
        raise TypeError(f"{where} is {kind} array ({dtype}); wanted a real floating array, since gradients are taken of it: {hint}.")
    if dtype.itemsize < 2:
        raise TypeError(f"{where} has dtype {dtype}, in which steps are lost; wanted 16 bits at least: type x.astype(jnp.bfloat16), and round in the loss.")
