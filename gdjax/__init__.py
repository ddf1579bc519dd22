"""gdjax: gradient descent in JAX, from a loss to a minimum.

``minimize`` takes a function down by full gradients; ``fit`` fits params to data, with full batches or mini-batches; ``descent`` is their step, for loops of
your own. Each takes a rule, made by a factory such as ``sgd(0.1, momentum=0.9)``, or any optax transformation, and returns a ``Result`` that says how it went:
``print`` it. Rules are in ``gdjax.rules`` (and here), learning rates that change in ``gdjax.schedules``, stopping rules in ``gdjax.stop``, pictures in
``gdjax.plot``. ``smoothness``, ``range_test`` and ``suggest`` find a learning rate, ``sweep`` and ``multistart`` make many runs side by side.

Example:
    >>> import gdjax
    >>> result = gdjax.minimize(lambda w: (w - 2.0) ** 2, 5.0, gdjax.gd(0.1))
    >>> print(result.status, f"{result.params:.3f}")
    CONVERGED 2.000
"""

from gdjax import (
    _fit as _fit_module,
    _minimize as _minimize_module,
    plot as plot,
    rules as rules,
    sampling as sampling,
    schedules as schedules,
    stop as stop,
    typing as typing,
)
from gdjax._fit import evaluate as evaluate, fit as fit
from gdjax._minimize import minimize as minimize
from gdjax._sweep import multistart as multistart, sweep as sweep
from gdjax.diagnose import range_test as range_test, smoothness as smoothness, suggest as suggest
from gdjax.loop import Descent as Descent, descent as descent
from gdjax.objective import finite_sum as finite_sum
from gdjax.result import Result as Result, Status as Status
from gdjax.rule import Rule as Rule, chain as chain, eval_params as eval_params, rule as rule
from gdjax.rules import *  # noqa: F403 (every rule: its line in rules/__init__.py is its export)
from gdjax.sampling import grid as grid, sample as sample

__version__ = "0.1.0"
__all__ = [  # pyright: ignore[reportUnsupportedDunderAll] (the rules are listed in one place alone)
    *("minimize", "fit", "evaluate", "descent", "finite_sum"),
    *("sweep", "multistart", "grid", "sample", "smoothness", "range_test", "suggest"),
    *("Result", "Status", "Rule", "Descent", "rule", "chain", "eval_params"),
    *("rules", "schedules", "stop", "sampling", "plot", "typing"),
    *(name for name in vars(rules) if not name.startswith("_")),
]


def __dir__():
    """The library, not its rooms."""
    return [*__all__, "__doc__", "__file__", "__name__", "__path__", "__spec__", "__version__"]


def _parameter_free(steps):
    return rules.parameter_free_adam(None if steps is None else float(max(steps, 1)))


# What rule=None means, bound here because drivers know no rule by name. Neither needs a learning rate.
_minimize_module.default_rule = _fit_module.default_full_batch_rule = rules.reduced_hessian
_fit_module.default_rule = _parameter_free
