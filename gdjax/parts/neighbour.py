"""The loss seen from a point nearby: what rules that take gradients off the params hand on to the rule within."""

from __future__ import annotations

import functools
from typing import Any

from gdjax import tree
from gdjax.typing import Grads, Params, Updates


def shifted(offset: Updates, params: Params, value_and_grad_fn: Any, extra: dict[str, Any]) -> tuple[Grads, dict[str, Any]]:
    """The gradient at params + offset, by one evaluation, and all that drivers offer, of the loss x ↦ f(x + offset) in place of f."""
    value, grads = value_and_grad_fn(tree.add(params, offset))
    grads = tree.cast_like(grads, params)

    def moved(function):
        return functools.wraps(function)(lambda x, **more: function(tree.add(x, offset), **more))  # optax looks at the names of its arguments

    functions = {name: moved(what) for name, what in extra.items() if name in ("value_fn", "full_value_and_grad_fn") and what is not None}
    return grads, {**extra, **functions, "value": value, "grad": grads, "value_and_grad_fn": moved(value_and_grad_fn)}
