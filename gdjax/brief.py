"""Values in few words: what a terminal or a notebook shows of a result, where ``print`` shows the report."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

MOST, LONGEST = 4, 60  # entries of a container, letters of anything else


def brief(x: Any) -> str:
    """One line for anything: numbers to six digits, arrays by dtype and shape, containers by their first entries."""
    if isinstance(x, Tracer):
        return f"<traced {x.aval.str_short()}>"
    if isinstance(x, (jax.Array, np.ndarray, np.generic)):
        return _array(x)
    if isinstance(x, float):
        return f"{x:.6g}"
    if isinstance(x, tuple) and hasattr(x, "_fields") and not hasattr(x, "tree_flatten"):
        return f"<{type(x).__name__}>"  # states within states; optax transformations, whose functions say nothing
    if isinstance(x, dict):
        return f"{{{_entries([f'{key!r}: {brief(value)}' for key, value in list(x.items())[: MOST + 1]], len(x))}}}"
    if isinstance(x, (list, tuple)) and type(x) in (list, tuple):
        inside = _entries([brief(value) for value in x[: MOST + 1]], len(x))
        return f"[{inside}]" if isinstance(x, list) else f"({inside},)" if len(x) == 1 else f"({inside})"
    if callable(x) and hasattr(x, "__name__"):
        return x.__name__
    return _cut(repr(x)) if isinstance(x, (str, bytes)) else repr(x)


def brief_repr(self: Any) -> str:
    """``__repr__`` for NamedTuples and dataclasses: the name and every field in short."""
    names = getattr(self, "_fields", None) or [name for name in self.__dataclass_fields__ if not name.startswith("_")]
    return f"{type(self).__name__}({', '.join(f'{name}={brief(getattr(self, name))}' for name in names)})"


def known_repr(self: Any) -> str:
    """The same without the fields that are not known: NaN, or −1 where integers are counted from 0."""
    known = {name: short for name in self._fields if (short := brief(getattr(self, name))) not in ("nan", "-1")}
    return f"{type(self).__name__}({', '.join(f'{name}={short}' for name, short in known.items())})"


def _array(x: Any) -> str:
    real = jnp.issubdtype(x.dtype, np.floating) or jnp.issubdtype(x.dtype, np.integer) or x.dtype == bool
    held = not isinstance(x, jax.Array) or (x.is_fully_addressable and not x.is_deleted())
    if np.ndim(x) or not real or not held:
        return f"<{x.dtype}{list(np.shape(x))}>"
    return str(bool(x)) if x.dtype == bool else f"{x.item():.6g}"


def _entries(shown: list[str], count: int) -> str:
    return ", ".join(shown[:MOST]) + (f", … {count - MOST} more" if count > MOST else "")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…{text[-1]}"
