"""A call whose numbers are leaves: what rules, schedules and stopping rules have in common.

A factory such as ``sgd(learning_rate, momentum=None)`` is called by the user; the call itself, factory and arguments, is then the object. Floats
and arrays among the arguments are leaves of it, so they can be traced, mapped over and differentiated; everything else (None, bool, int, str,
callables) is static structure. Which is which is decided once, at the user's call, and kept, because tree maps put booleans, None or object() in the
place of leaves.
"""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.brief import brief

Given = ParamSpec("Given")
Made = TypeVar("Made", bound="Call")

# What other libraries and papers call the arguments of rules, schedules and stopping rules; of several that fit, the first is meant.
SYNONYMS = {
    "learning_rate": "lr step_size stepsize rate eta alpha h init_lr base_lr max_lr peak_value",
    "first_learning_rate": "lr step_size stepsize rate eta alpha h init_lr lr0 initial_lr initial_learning_rate learning_rate",
    "max_learning_rate": "lr step_size stepsize rate eta alpha h max_lr max_stepsize learning_rate",
    "init_value": "lr step_size rate eta alpha h init_lr base_lr learning_rate peak_value start initial_value",
    "momentum": "beta beta1 b1 mu mass rho gamma decay",
    "betas": "beta beta1 beta2 b1 b2 b3 momentum",
    "decay": "beta gamma momentum ema_decay decay_rate",
    "weight_decay": "wd l2 lam lambda_ decay decay_rate reg regularization",
    "eps": "epsilon tol tolerance",
    "tolerance": "eps epsilon tol atol rtol",
    "atol": "tol tolerance eps epsilon gtol threshold",
    "rtol": "ftol xtol",
    "floor": "eps epsilon",
    "smoothness": "L lipschitz lipschitz_constant beta",
    "strong_convexity": "mu m sigma",
    "steps": "T N num_steps n_steps total_steps max_steps maxiter max_iter iterations transition_steps decay_steps T_max epochs",
    "min_value": "f_star fstar f_min minimum lower_bound",
    "lower_bound": "f_star fstar f_min minimum min_value",
    "sufficient": "c c1 armijo alpha",
    "curvature": "c2 wolfe beta",
    "scaling": "c scale alpha gamma",
    "max_norm": "clip clip_norm max_grad_norm threshold gamma",
    "first_distance": "d0 d init_distance initial_distance r_epsilon reps_rel eps epsilon",
    "memory": "m history history_size memory_size window",
    "radius": "rho eps epsilon",
    "step_size": "alpha lr slow_step_size",
    "period": "k sync_period H",
    "rule": "optimizer base_optimizer base inner tx transformation",
    "inner": "rule optimizer base_optimizer base tx transformation",
    "end_value": "final_value end min_value eta_min",
    "factor": "gamma decay decay_rate",
    "seconds": "time timeout limit",
}


def meant(given: str, known: list[str]) -> str | None:
    """The name that was probably meant by one that is not known: of the synonyms, or the nearest in spelling; None where nothing is near."""
    by_synonym = (name for name, others in SYNONYMS.items() if name in known and given in others.split())
    near = {name.lower(): name for name in known}
    spelt = difflib.get_close_matches(given.lower(), list(near), n=1)
    return next(by_synonym, near[spelt[0]] if spelt else None)


def is_number(x: Any) -> bool:
    """True for the arguments that become leaves: floats and arrays, concrete or traced."""
    if isinstance(x, (bool, int, str, np.bool_)) or callable(x):
        return False
    return isinstance(x, (float, complex, np.generic, np.ndarray, jax.Array)) or hasattr(x, "__jax_array__")


def is_whole(x: Any) -> bool:
    """True for a Python or NumPy integer; not for booleans, nor for durations, which NumPy counts among its integers."""
    return isinstance(x, (int, np.integer)) and not isinstance(x, (bool, np.timedelta64))


def is_word(x: Any, known: Any) -> bool:
    """Whether an argument is one of the words (or the None) that are known; arrays and the like are none, and are not compared."""
    return (x is None or isinstance(x, str)) and x in known


def is_real(x: Any) -> bool:
    """True for real numbers and arrays of them; also for tracers, whose values are not known yet, and for what JAX has to read."""
    if isinstance(x, int) or not is_number(x):
        return is_whole(x)
    if np.ma.is_masked(x):
        return False
    dtype = getattr(x, "dtype", None)
    if dtype is None or not isinstance(x, (np.ndarray, np.generic, jax.Array)):
        return not isinstance(x, complex)
    return getattr(dtype, "kind", "f") not in "mM" and (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))


def native(x: Any) -> Any:
    """NumPy's array or number in this machine's byte order and in 64 bits at most, as JAX takes it."""
    if not isinstance(x, (np.ndarray, np.generic)):
        return x
    kind, size = x.dtype.kind, x.dtype.itemsize
    if kind in "fc" and size > (8 if kind == "f" else 16):
        return x.astype(np.float64 if kind == "f" else np.complex128)
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def is_array(leaf: Any) -> bool:
    """Whether JAX takes this as an array: numbers, arrays and keys, but not arrays of strings or objects."""
    if isinstance(leaf, (int, float, complex, jax.Array)):
        return True
    dtype: Any = None if isinstance(leaf, type) else getattr(leaf, "dtype", None)
    return jnp.issubdtype(dtype, jax.dtypes.extended) if not isinstance(dtype, np.dtype) else dtype.kind not in "OSUmM" and dtype.names is None


def short(x: Any, most: int = 60) -> str:
    """``repr(x)`` on one line for an error, or where that is long (arrays, tables) the kind, shape and dtype."""
    try:
        if isinstance(getattr(x, "shape", None), tuple) and hasattr(x, "dtype") and math.prod(x.shape) > 8:
            return f"an array of shape {x.shape} and dtype {x.dtype}"
        text = repr(x)
    except Exception:  # a foreign object may not be able to show itself
        text = ""
    return text if 0 < len(text) < most and "\n" not in text else f"a {type(x).__name__}"


def is_concrete(x: Any) -> bool:
    """True for a number whose value can be looked at now."""
    return isinstance(x, (int, float, complex, np.generic, np.ndarray)) or (isinstance(x, jax.Array) and not isinstance(x, Tracer))


def check_number(
    factory: str, name: str, value: Any, *, low: float = -np.inf, high: float = np.inf, open_low=False, open_high=False, required=False, wanted: str
) -> None:
    """Raise for what is not a real number (TypeError), is NaN or out of range (ValueError); arrays entry by entry, tracers pass.

    None and schedules (any callables) pass too, unless the number is required.
    """
    if not required and (value is None or callable(value)):
        return
    if not is_real(value):
        raise TypeError(f"{factory}: {name} is {short(value)}; wanted {wanted}.")
    if not is_concrete(value):
        return
    number = np.asarray(value, np.float64)
    good = (number > low if open_low else number >= low) & (number < high if open_high else number <= high)
    if not np.all(good):  # NaN compares false
        raise ValueError(f"{factory}: {name} is {short(number) if number.ndim else float(number)}; wanted {wanted}.")


def check_steps(factory: str, name: str, value: Any, *, low: int, example: int) -> None:
    """The door for numbers of steps: whole, and at least ``low``."""
    wanted = f"a whole number of steps ≥ {low}: type {name}={example}"
    check_number(factory, name, value, low=low, open_high=True, required=True, wanted=wanted)
    if is_concrete(value) and np.any(np.asarray(value) % 1):
        raise ValueError(f"{factory}: {name} is {value}; wanted {wanted}.")


def check_axes(factory: str, name: str, chosen: Any, params: Any) -> None:
    """Raise for leaves chosen to be taken as matrices that have no axes."""
    flags = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(chosen), strict=True)
    wrong = [jax.tree_util.keystr(path) or "the params" for (path, leaf), flag in flags if flag and not np.ndim(leaf)]
    if wrong:
        raise ValueError(f"{factory}: {name} is true of {', '.join(wrong[:3])}, without axes; wanted matrices or kernels: put False there or leave {name} out.")


def check_offered(factory: str, **given: Any) -> None:
    """Raise for what a rule's update needs beside the gradient and did not get (None)."""
    for name, what in given.items():
        if what is None:
            call = "rule.update(grads, state, params" + "".join(f", {other}={other}" for other in given if other != "params") + ")"
            raise ValueError(f"{factory}: update got no {name}; wanted it: use gdjax.minimize or gdjax.fit, which offer it, or type {call}.")


class Factory(Generic[Given, Made]):
    """A factory whose calls are pytrees. Calling it checks the arguments, by running the factory once, and returns ``self.kind`` bound to them."""

    def __init__(self, function: Callable[Given, Any], kind: type[Made]):
        self.function, self.kind = function, kind
        self.__name__ = self.__qualname__ = type(function).__name__  # for callables without a name
        functools.update_wrapper(self, function)
        self.__signature__ = _without_annotations(function)  # those of types are for editors: in a terminal they hide the names

    def __call__(self, *args: Given.args, **kwargs: Given.kwargs) -> Made:
        signature = self.__signature__
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.__name__}: {_unexpected(signature, args, kwargs) or error}; wanted {self.__name__}{signature}.") from None
        try:
            leaves, treedef = jax.tree.flatten((given.args, given.kwargs), lambda x: isinstance(x, Iterator))  # sgd(0.1) is sgd(learning_rate=0.1)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self.__name__}: {error} wanted numbers, or dicts with keys of one kind: type {self.__name__}{signature}.") from None
        leaves = [int(x) if isinstance(x, np.integer) and is_whole(x) else native(x) for x in leaves]  # static, as other ints
        static = tuple(None if is_number(x) else (x,) for x in leaves)
        bound = self.kind(self, treedef, static, tuple(x for x in leaves if is_number(x)))
        if self._can_try(leaves):
            bound.build()
        return bound

    def _can_try(self, leaves) -> bool:
        # Foreign factories may compare their numbers, which arrays of numbers (a sweep) do not allow; ours check entry by entry.
        ours = (getattr(self.function, "__module__", None) or "").split(".")[0] == "gdjax"
        return ours or not any(np.ndim(x) or isinstance(x, Tracer) for x in leaves if is_number(x))

    def __eq__(self, other):
        return isinstance(other, Factory) and self.function == other.function and self.kind is other.kind

    def __hash__(self):
        return hash((Factory, self.function))

    def __repr__(self):
        return f"<{self.kind.__name__.lower()} factory {self.__name__}{self.__signature__}>"

    def __get__(self, instance, owner=None):
        return self

    def __reduce__(self):
        found: Any = sys.modules.get(self.__module__)
        for part in self.__qualname__.split("."):
            found = getattr(found, part, None)
        if found is self:
            return self.__qualname__
        return Factory, (self.function, self.kind)


def signature_of(function: Any) -> inspect.Signature:
    """What a function takes; an error for builtins that do not say."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        hint = "wrap it: type lambda learning_rate: ..."
        raise TypeError(f"{short(function)} does not say what it takes; wanted a function whose arguments have names: {hint}") from None


def _without_annotations(function) -> inspect.Signature:
    signature = signature_of(function)
    plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return signature.replace(parameters=plain, return_annotation=signature.empty)


def _unexpected(signature: inspect.Signature, args: tuple, kwargs: dict[str, Any]) -> str:
    """The names that a signature does not have, each with the one that was probably meant; empty where it has them all."""
    known = [name for name, each in signature.parameters.items() if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    free = [name for name in known[len(args) :] if name not in kwargs]
    likely = {name: meant(name, free) for name in kwargs if name not in known}
    named = [f"{name!r} (did you mean {right}?)" if right else repr(name) for name, right in likely.items()]
    return f"got an unexpected keyword argument {', '.join(named)}" if named else ""


def make_factory(function, kind) -> Any:
    """The Factory of a function; of a ``functools.partial`` (``optax.nadam`` is one), the same partial of the Factory."""
    if isinstance(function, functools.partial):
        return functools.partial(make_factory(function.func, kind), *function.args, **function.keywords)
    return function if isinstance(function, Factory) else Factory(function, kind)


class Call:
    """A factory bound to its arguments: a pytree whose leaves are the numbers among them. Equality, hash, repr, copy and pickle are by value."""

    factory: Factory
    treedef: Any
    static: tuple
    leaves: tuple

    def __init__(self, factory, treedef, static, leaves):
        self._bind(factory, treedef, static, leaves)

    def _bind(self, factory, treedef, static, leaves) -> None:
        self.factory, self.treedef, self.static, self.leaves = factory, treedef, static, tuple(leaves)

    def args_and_kwargs(self) -> tuple[tuple, dict]:
        """The arguments of the call, leaves in their places (whatever they are now: numbers, tracers, None, masks)."""
        numbers = iter(self.leaves)
        return jax.tree.unflatten(self.treedef, [next(numbers) if place is None else place[0] for place in self.static])

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments by name, defaults included."""
        args, kwargs = self.args_and_kwargs()
        bound = self.factory.__signature__.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def build(self):
        """What the factory makes of these arguments."""
        args, kwargs = self.args_and_kwargs()
        return self.factory.function(*args, **kwargs)

    def tree_flatten(self):
        return self.leaves, (self.factory, self.treedef, self.static)

    @classmethod
    def tree_unflatten(cls, aux, leaves):
        factory, treedef, static = aux
        return cls(factory, treedef, static, tuple(leaves))

    def __eq__(self, other):
        if type(self) is not type(other):
            return NotImplemented
        if (self.factory, self.treedef, self.static) != (other.factory, other.treedef, other.static):
            return False
        return all(map(_equal, self.leaves, other.leaves))

    def __ne__(self, other):  # tuple, a base of Rule, has its own
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __hash__(self):
        return hash((self.factory, self.treedef, self.static))

    def __repr__(self):
        args, kwargs = self.args_and_kwargs()
        try:
            bound = self.factory.__signature__.bind(*args, **kwargs).arguments
        except TypeError:
            bound = {str(i): x for i, x in enumerate(args)} | kwargs
        parts = []
        for name, value in bound.items():
            kind = self.factory.__signature__.parameters.get(name)
            if kind is not None and kind.kind is inspect.Parameter.VAR_POSITIONAL:
                parts += [brief(x) for x in value]
            elif kind is not None and kind.kind is inspect.Parameter.VAR_KEYWORD:
                parts += [f"{key}={brief(x)}" for key, x in value.items()]
            else:
                parts.append(f"{name}={brief(value)}")
        return f"{self.factory.__name__}({', '.join(parts)})"

    def __copy__(self):
        return type(self)(self.factory, self.treedef, self.static, self.leaves)

    def __deepcopy__(self, memo):
        return type(self)(self.factory, self.treedef, self.static, copy.deepcopy(self.leaves, memo))

    def __reduce__(self):
        args, kwargs = self.args_and_kwargs()
        return _rebuild, (self.factory, args, kwargs, tuple(place is None for place in self.static))


def _equal(x, y) -> bool:
    return x is y or (np.shape(x) == np.shape(y) and bool(np.all(np.asarray(x == y))))


def _rebuild(factory, args, kwargs, dynamic):
    # A treedef does not pickle; the arguments do, and which of them are leaves is kept beside them.
    leaves, treedef = jax.tree.flatten((args, kwargs))
    static = tuple(None if is_leaf else (x,) for x, is_leaf in zip(leaves, dynamic, strict=True))
    return factory.kind(factory, treedef, static, tuple(x for x, is_leaf in zip(leaves, dynamic, strict=True) if is_leaf))
