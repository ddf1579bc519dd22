"""Something for each leaf of the params: masks and factors, as a user gives them."""

from __future__ import annotations

from typing import Any

import jax


def by_leaf(factory: str, name: str, given: Any, like: Any, default: Any) -> Any:
    """A tree of the structure of ``like``: ``default(leaf)`` where nothing is given, else what is given, or what it returns for ``like`` if callable."""
    if given is None:
        return jax.tree.map(default, like)
    made = given(like) if callable(given) else given
    if jax.tree.structure(made) != jax.tree.structure(like):
        was, wanted = jax.tree.structure(made), f"one entry for each leaf of the params, {jax.tree.structure(like)}, or a function that returns it"
        raise ValueError(f"{factory}: {name} is of structure {was}; wanted {wanted}.")
    return made


def check_all(factory: str, kinds: Any, others: Any) -> None:
    """Raise for leaves whose kind is false, unless there is a rule for these others."""
    left = [jax.tree_util.keystr(path) or "the params" for path, kind in jax.tree_util.tree_leaves_with_path(kinds) if not kind]
    if left and others is None:
        call = f"{factory}(0.02, others=gdjax.rule(optax.adam)(3e-4))"
        raise ValueError(f"{factory}: {', '.join(left[:3])} {'is no matrix' if len(left) == 1 else 'are no matrices'}; wanted a rule for them: type {call}.")


def about_some(extra: dict[str, Any]) -> dict[str, Any]:
    """Of what drivers offer, what a rule may have that sees some of the leaves: nothing of the shape of all params, and no functions of them."""
    return {name: what for name, what in extra.items() if name not in ("grad", "value_fn", "value_and_grad_fn", "full_value_and_grad_fn")}
