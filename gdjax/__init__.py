"""gdjax: gradient descent in JAX, from a loss to a minimum."""

from gdjax import schedules as schedules
from gdjax.rule import Rule as Rule, chain as chain, eval_params as eval_params, rule as rule
from gdjax.rules import gd as gd, sgd as sgd
from gdjax._minimize import minimize as minimize
from gdjax.loop import Descent as Descent, descent as descent
from gdjax.objective import finite_sum as finite_sum
from gdjax.result import Result as Result, Status as Status
from gdjax import stop as stop
