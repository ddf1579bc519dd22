"""Losses, held as ``jax.jit`` holds functions: weakly. What was compiled for a loss, and the arrays it closes over, are given back when the user lets it go."""

from __future__ import annotations

import functools
import types
import weakref
from typing import Any

import jax

BY_VALUE = 16  # losses that compare by value and so are kept, the last ones; such objects hold no arrays, which have no hash


class Held:
    """A function by weak references, called as the function is; ``remembered`` is what was made for it, and goes when it goes."""

    def __init__(self, make, references):
        self._make, self._references = make, references
        self.remembered: dict[Any, Any] = {}

    @property
    def __wrapped__(self) -> Any:
        """The function."""
        return self._make(*(reference() for reference in self._references))

    @property
    def owners(self) -> tuple[Any, ...]:
        """What lives for as long as this can be called, those beside it included."""
        return tuple(reference() for reference in self.remembered.get("references", ())) or (self.__wrapped__,)

    @property
    def __name__(self) -> str:
        return getattr(self.__wrapped__, "__name__", "loss_fn")

    def __call__(self, *args, **kwargs):
        return self.__wrapped__(*args, **kwargs)


_KNOWN: dict[tuple[int, ...], Held] = {}


def hold(function, *beside) -> Held:
    """The function held weakly, the same object every time; what is remembered of it also goes where one of those beside it goes.

    A bound method, which is made anew wherever it is named, goes with its object. An object that compares by value is kept for as long as it is among the last
    that were used. Whoever calls this keeps the function for as long as it is to be called.
    """
    if isinstance(function, Held):
        return function
    if isinstance(function, types.MethodType) or type(function).__eq__ is object.__eq__:
        make, owners = _taken_apart(function)
        if all(map(_weakly, owners)):
            others = (owner for other in beside for owner in _taken_apart(other)[1])
            return _known(make, len(owners), (*owners, *filter(_weakly, others)))
    try:
        return _by_value(function)
    except TypeError:  # it has no hash
        return Held(lambda: function, ())


def _weakly(owner) -> bool:
    try:
        weakref.ref(owner)
    except TypeError:  # an object without room for weak references
        return False
    return True


def _taken_apart(function):
    """(a function of owners that makes it, its owners)."""
    if isinstance(function, types.MethodType):
        return (lambda owner, named: types.MethodType(named, owner)), (function.__self__, function.__func__)
    return (lambda function: function), (function,)


@functools.lru_cache(maxsize=BY_VALUE)
def _by_value(function) -> Held:
    return Held(lambda: function, ())


def _known(make, count: int, owners) -> Held:
    place = (count, *map(id, owners))  # of objects that live: an entry goes before its numbers can be another's
    if place not in _KNOWN:
        gone = functools.partial(_forget, place)
        references = tuple(weakref.ref(owner, gone) for owner in owners)
        _KNOWN[place] = held = Held(make, references[:count])
        held.remembered["references"] = references  # these tell of the end of those beside
    return _KNOWN[place]


def _forget(place, _) -> None:
    held = _KNOWN.pop(place, None)
    if held is not None:
        held.remembered.clear()


def remembered(held: Any, key: Any, make) -> Any:
    """What ``make()`` made the first time, for as long as the function lives; anew each time for one that is not held."""
    if not isinstance(held, Held):
        return make()
    if key not in held.remembered:
        held.remembered[key] = make()
    return held.remembered[key]


class per_loss:
    """``jax.jit`` of a function whose first argument is static and knows a loss: itself, or as ``held``, or by its objective; programs go with the loss."""

    def __init__(self, function, **options):
        functools.update_wrapper(self, function)
        self.function, self.shared = function, jax.jit(function, **options)
        self._jitted = lambda: jax.jit(functools.wraps(function)(lambda *args, **kwargs: function(*args, **kwargs)), **options)

    def __call__(self, first, *args, **kwargs):
        return self.of(first)(first, *args, **kwargs)

    def lower(self, first, *args, **kwargs):
        """As of a jitted function."""
        return self.of(first).lower(first, *args, **kwargs)

    def of(self, first):
        """The jitted function of this loss alone. JAX drops what it knows of a function with it, so that each loss has one of its own."""
        held = getattr(getattr(first, "objective", first), "held", first)
        return remembered(held, self, self._jitted) if isinstance(held, Held) else self.shared
