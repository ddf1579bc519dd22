"""Rules: optax gradient transformations whose numbers are pytree leaves."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdjax.arguments import Call, Factory, Given, make_factory, short
from gdjax.contexts import promoting, undisturbed
from gdjax.typing import Params, RuleState


class Functions(NamedTuple):
    """What a rule's factory returns, named: ``(init, update)`` or ``(init, update, eval_params)``."""

    init: Any
    update: Any
    eval_params: Any = None


@jax.tree_util.register_pytree_node_class
class Rule(Call, optax.GradientTransformationExtraArgs):
    """A gradient transformation that is also a pytree: the numbers it was made with are its leaves, the rest is static structure.

    Made by calling a factory under ``gdjax.rule``. It is an ``optax.GradientTransformationExtraArgs`` (``rule.init(params)``,
    ``rule.update(grads, state, params, **extra)``), so every optax wrapper takes it; and it passes through ``jax.jit``, ``vmap``, ``grad`` and
    ``jax.tree.map`` as an argument.

    Attributes:
        arguments: all arguments by name, for example ``rule.arguments["learning_rate"]``.
        leaves: the numbers, in order.

    Example:
        >>> import gdjax, jax
        >>> gdjax.sgd(0.1, momentum=0.9)
        sgd(learning_rate=0.1, momentum=0.9)
        >>> gdjax.sgd(0.1) == gdjax.sgd(0.1), gdjax.sgd(0.1) == gdjax.sgd(0.2)
        (True, False)
        >>> jax.tree.map(lambda number: number / 2, gdjax.sgd(0.1))
        sgd(learning_rate=0.05)
    """

    def __init__(self, *_):
        """All is done in ``__new__``, since this is a tuple."""

    def __new__(cls, factory, treedef, static, leaves):
        # The pair is built when it is used, not here: leaves may be tracers, None, masks or object().
        self = super().__new__(
            cls,
            lambda params, **offered: undisturbed(self.build().init)(params, **offered),  # states hold NaN for what is not known yet
            lambda updates, state, params=None, **extra: self.build().update(updates, state, params, **extra),
        )
        self._bind(factory, treedef, static, leaves)
        _show_flax(cls)
        return self

    def build(self) -> Functions:
        """The functions for these arguments; ``init`` and ``update`` take all that drivers offer and use what they name."""
        made = self._made()
        return made._replace(init=_taking_what_it_names(made.init), update=_taking_what_it_names(_offered_in_full(made.update)))

    @property
    def init_takes_more(self) -> bool:
        """Whether ``init`` names something beside the params, which ``fit`` offers: ``num_examples``, ``batch_size``, ``examples``, ``key``."""
        return len(inspect.signature(self._made().init).parameters) > 1

    def _made(self) -> Functions:
        made = super().build()
        if not isinstance(made, tuple) and hasattr(made, "init") and hasattr(made, "update"):
            made = optax.GradientTransformation(made.init, made.update)  # optax.MultiSteps
        if not isinstance(made, tuple) or not 2 <= len(made) <= 3:
            name, kind = self.factory.__name__, type(made).__name__
            raise TypeError(f"{name} returned a {kind}; wanted (init, update) or (init, update, eval_params): type return init, update.")
        if isinstance(made, Rule):
            return Functions(*made)._replace(eval_params=made.eval_params)
        # Optax's own functions mix integer counts with floats.
        return Functions(*map(promoting, made)) if isinstance(made, optax.GradientTransformation) else Functions(*made)

    @property
    def eval_params(self):
        """``eval_params(state, params)``, or None where the rule reports the point at which it takes gradients."""
        return self.build().eval_params


def _show_flax(kind: type) -> None:
    # flax.nnx, where it is loaded, wants to know which types hold arrays: nnx.Optimizer(model, gdjax.sgd(jnp.float32(0.1)), wrt=nnx.Param) is refused else.
    register = getattr(sys.modules.get("flax.nnx"), "register_data_type", None)
    if register is not None:
        register(kind)


def _taking_what_it_names(function):
    """The init or update with any extra arguments; those it does not name are dropped, if it has no ``**extra`` to take them."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return function
    named = {parameter.name for parameter in parameters}
    return lambda *given, **extra: function(*given, **{name: x for name, x in extra.items() if name in named})


def _offered_in_full(update):
    """The update of a rule that wants value and gradient of points together, where a client offers ``value_fn`` alone, as optax's convention is.

    As in optax, the functions take those of the further arguments that they name.
    """
    if "value_and_grad_fn" not in inspect.signature(update).parameters:
        return update

    def completed(updates, state, params=None, **extra):
        value_fn = extra.get("value_fn")
        if value_fn is not None and extra.get("value_and_grad_fn") is None:
            more = {name: extra[name] for name in inspect.signature(value_fn).parameters if name in extra}
            bound = functools.partial(value_fn, **more)
            extra |= {"value_fn": bound, "value_and_grad_fn": jax.value_and_grad(bound)}
        return update(updates, state, params, **extra)

    return completed


def rule(factory: Callable[Given, Any]) -> Factory[Given, Rule]:
    """Turns a factory of (init, update) into one of rules: transformations whose numbers are leaves.

    Works as a decorator for new rules and as a lift for any optax factory: ``adam = gdjax.rule(optax.adam)``. Float and array arguments become
    leaves of the result (one compilation for all learning rates, ``vmap`` over rules, ``grad`` through them); None, bool, int, str and callables stay
    static structure (NumPy integers as int), so ``if nesterov:`` and ``range(steps)`` work as ever.

    Args:
        factory: ``factory(*args, **kwargs)`` that returns ``(init, update)``, ``(init, update, eval_params)`` or an optax gradient transformation.
            See ``gdjax.typing`` for the protocols. It is run once at the user's call, so the checks it makes are made there.

    Returns:
        The factory, with the same signature and docstring, returning a ``Rule``.

    Raises:
        TypeError: what was given is not callable (a transformation that is already made: pass its factory instead).

    Example:
        >>> import gdjax, jax, jax.numpy as jnp, optax
        >>> adam = gdjax.rule(optax.adam)
        >>> final = jax.vmap(lambda rule: gdjax.minimize(lambda w: (w - 2.0) ** 2, 5.0, rule, max_steps=50).value)
        >>> print(*(f"{value:.3f}" for value in final(adam(jnp.array([0.01, 0.1, 1.0])))))
        6.304 0.029 0.001
    """
    if isinstance(factory, Factory):
        return factory
    if isinstance(factory, optax.GradientTransformation) or not callable(factory):
        raise TypeError(f"rule: got {type(factory).__name__}, wanted a factory. Type gdjax.rule(optax.adam)(1e-3), not gdjax.rule(optax.adam(1e-3)).")
    return make_factory(factory, Rule)


@rule
def fixed(transformation):
    """An optax transformation as it is, with nothing in it to trace: two of them are equal only if they are the same object."""
    return transformation


def as_rule(transformation, argument: str = "rule") -> Rule:
    """The door for rules: a Rule as it is, any other optax transformation as a static one, anything else an error."""
    if isinstance(transformation, Rule):
        return transformation
    if isinstance(transformation, optax.GradientTransformation):
        return fixed(transformation)
    name = getattr(transformation, "__name__", "sgd")
    hint = f"{name}(0.1)" if callable(transformation) else "gdjax.sgd(0.1) or optax.adam(1e-3)"
    raise TypeError(f"{argument} is {short(transformation, 300)}; wanted a gradient transformation (init, update): pass {hint}.")


def one_rule(transformation, argument: str = "rule") -> Rule:
    """The door for one run: a rule whose numbers are numbers. An array of learning rates would be one for each coordinate where the shapes happen to agree."""
    made = as_rule(transformation, argument)
    for each in (made, *_all_within(made)):
        room = (getattr(each.factory.function, "__module__", None) or "").split(".")[0]
        looked_at = each.arguments if room == "gdjax" else {"learning_rate": each.arguments.get("learning_rate")}
        for leaf in jax.tree.leaves(looked_at, is_leaf=lambda x: isinstance(x, Rule)):
            if not isinstance(leaf, Rule) and np.ndim(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                shape = np.shape(leaf)
                raise ValueError(f"{argument} is {each!r}, with numbers of shape {shape}; wanted one rule: to try several type gdjax.sweep(run, rules).")
    return made


def _all_within(rule: Rule) -> list[Rule]:
    return [x for inner in rules_within(rule) for x in (inner, *_all_within(inner))]


def rules_within(rule: Rule) -> list[Rule]:
    """The rules among a rule's arguments: of a chain or wrapper."""
    return [x for x in jax.tree.leaves(rule.arguments, is_leaf=lambda x: isinstance(x, Rule)) if isinstance(x, Rule)]


def argument_of(rule: Rule, name: str) -> Any:
    """An argument of a rule, or of the first rule within that has it; None where none has."""
    found = rule.arguments.get(name)
    return found if found is not None else next((x for x in (argument_of(inner, name) for inner in rules_within(rule)) if x is not None), None)


def hides_arguments(rule: Rule) -> bool:
    """Whether a rule is made of nothing but optax transformations that were made without ``gdjax.rule``, whose numbers nobody can see."""
    if rule.factory is fixed:
        return True
    is_made = lambda x: isinstance(x, optax.GradientTransformation)  # noqa: E731
    made = [x for x in jax.tree.leaves(rule.arguments, is_leaf=is_made) if is_made(x)]
    return bool(made) and all(hides_arguments(x) if isinstance(x, Rule) else True for x in made)


def needs_examples(rule: Rule) -> bool:
    """Whether a rule, or one within, corrects the gradient of a batch by what it knows of its examples: ``update`` names ``examples``."""
    return "examples" in inspect.signature(rule._made().update).parameters or any(map(needs_examples, rules_within(rule)))


def check_plain(factory: str, inner: Rule, but: str, call: str) -> None:
    """Raise for a rule (``saga``, ``svrg``, ...) that corrects gradients by those at other points, where a wrapper offers none that belong together."""
    if needs_examples(inner):
        what = "corrects the gradient of a batch by other gradients of the same examples"
        raise ValueError(f"{factory}: {inner!r} {what}, {but}; wanted a rule that needs none: type {call}, or {inner!r} by itself.")


@rule
def chain(*rules):
    """Applies rules one after the other: the updates of the first are the gradients of the second.

    Equal to ``optax.chain``, and a rule: the numbers of the members are its leaves, and ``gdjax.eval_params`` finds the member that has one.

    Args:
        rules: rules or optax transformations, in order.

    Example:
        >>> import gdjax, optax
        >>> gdjax.chain(gdjax.rule(optax.clip_by_global_norm)(1.0), gdjax.sgd(0.1))
        chain(clip_by_global_norm(max_norm=1), sgd(learning_rate=0.1))
    """
    if not rules:
        raise ValueError("chain: got no rules; wanted one at least: type gdjax.chain(optax.clip_by_global_norm(1.0), gdjax.sgd(0.1)).")
    members = [as_rule(member, "chain: a member") for member in rules]
    pair = optax.chain(*members)
    takes_more = any(member.init_takes_more for member in members)
    readers = [(index, member.eval_params) for index, member in enumerate(members) if member.eval_params is not None]

    def eval_params(state, params):
        for index, reader in readers:
            params = reader(state[index], params)
        return params

    def init(params, **offered):
        return tuple(member.init(params, **offered) for member in members)

    return init if takes_more else pair.init, pair.update, eval_params if readers else None


def eval_params(rule: Any, state: RuleState, params: Params) -> Params:
    """The params a rule reports: ``params`` themselves, except for rules that take gradients elsewhere (Nesterov, schedule-free, averaging).

    Args:
        rule: a rule or optax transformation, chains included.
        state: its state.
        params: the params its last step returned.

    Returns:
        Params at which to evaluate and which to keep.
    """
    reader = as_rule(rule).eval_params
    return params if reader is None else reader(state, params)
