"""The rules and schedules once more, in float64 NumPy, straight from the equations of the papers and without a look at gdjax.

A rule here is ``name(oracle, x, steps, **arguments) -> path``: all points at which gradients are taken, shape (steps + 1, n). ``oracle(x)`` is the gradient,
``oracle.value(x)`` the loss. A schedule is ``name(t, ...) -> float``.
"""

from reference.accelerated import *  # noqa: F403
from reference.adaptive import *  # noqa: F403
from reference.basic import *  # noqa: F403
from reference.compressed import *  # noqa: F403
from reference.distances import *  # noqa: F403
from reference.finite_sums import *  # noqa: F403
from reference.last_iterate import *  # noqa: F403
from reference.learned import *  # noqa: F403
from reference.matrices import *  # noqa: F403
from reference.norms import *  # noqa: F403
from reference.parameter_free import *  # noqa: F403
from reference.precise import *  # noqa: F403
from reference.reduced_hessian import *  # noqa: F403
from reference.searches import *  # noqa: F403
from reference.sharpness import *  # noqa: F403
from reference.spectral import *  # noqa: F403
from reference.two_points import *  # noqa: F403
from reference.value_steps import *  # noqa: F403
