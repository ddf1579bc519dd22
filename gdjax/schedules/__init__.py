"""Schedules: functions of the step whose numbers are pytree leaves.

``schedule(step)`` is a scalar, float32 at least; the first step is 0. A rule takes a schedule, or any function of the step, in place of a number.
Like a rule it is its factory and its arguments: floats and arrays are leaves (one compilation, ``vmap`` and ``grad``), the rest is static.
"""

from gdjax.schedules.anytime import anytime as anytime
from gdjax.schedules.basic import (
    Schedule as Schedule,
    check_learning_rate as check_learning_rate,
    constant as constant,
    cosine as cosine,
    exponential as exponential,
    inverse_sqrt as inverse_sqrt,
    join as join,
    linear as linear,
    polynomial as polynomial,
    schedule as schedule,
    value_at as value_at,
    warmup as warmup,
    wsd as wsd,
)
from gdjax.schedules.chebyshev import chebyshev as chebyshev
from gdjax.schedules.curvature import (
    as_index as as_index,
    as_table as as_table,
    check_curvatures as check_curvatures,
    check_horizon as check_horizon,
    check_smoothness as check_smoothness,
)
from gdjax.schedules.last_iterate import bound as bound, minimax as minimax
from gdjax.schedules.long_steps import long_steps as long_steps
from gdjax.schedules.silver import silver as silver
