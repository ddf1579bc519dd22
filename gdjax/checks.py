"""Checks that more than one room needs. Each looks at the type first, since arrays compare entry by entry, and says what came, what is wanted and what
to type.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gdjax.arguments import short

MOST = np.iinfo(np.int32).max // 2  # steps are counted in int32


def check_callable(fun: Any, name: str) -> Any:
    """The loss, if it can be called and hashed."""
    if not callable(fun):
        raise TypeError(f"{name} is {short(fun)}; wanted a function of params that returns a scalar loss: type lambda w: jnp.sum(w**2), for example.")
    try:
        hash(fun)
    except TypeError:
        raise TypeError(f"{name} ({type(fun).__name__}) is not hashable, so its compilation cannot be kept; wrap it: lambda *a: {name}(*a).") from None
    return fun


def check_count(name: str, value: Any, low: int) -> int:
    """The integer, from ``low`` on; an error for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= MOST:
        limit = f" and <= {MOST}" if isinstance(value, (int, np.integer)) and value > MOST else ""
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
