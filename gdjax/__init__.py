"""gdjax: gradient descent in JAX, from a loss to a minimum."""

from gdjax import _fit as _fit_module, _minimize as _minimize_module, plot as plot, sampling as sampling, schedules as schedules, stop as stop
from gdjax._fit import evaluate as evaluate, fit as fit
from gdjax._minimize import minimize as minimize
from gdjax._sweep import multistart as multistart, sweep as sweep
from gdjax.diagnose import range_test as range_test, smoothness as smoothness, suggest as suggest
from gdjax.loop import Descent as Descent, descent as descent
from gdjax.objective import finite_sum as finite_sum
from gdjax.result import Result as Result, Status as Status
from gdjax.rule import Rule as Rule, chain as chain, eval_params as eval_params, rule as rule
from gdjax.rules import (
    ac_fgm as ac_fgm,
    accelerated as accelerated,
    adapgm as adapgm,
    adgd as adgd,
    ali_g as ali_g,
    armijo as armijo,
    asam as asam,
    average as average,
    barzilai_borwein as barzilai_borwein,
    chebyshev as chebyshev,
    clipped as clipped,
    d_adaptation as d_adaptation,
    dec_sps as dec_sps,
    dog as dog,
    dowg as dowg,
    ef21 as ef21,
    exact_line_search as exact_line_search,
    gd as gd,
    heavy_ball as heavy_ball,
    hypergradient as hypergradient,
    item as item,
    l0l1 as l0l1,
    l_dog as l_dog,
    lars as lars,
    lookahead as lookahead,
    loopless_svrg as loopless_svrg,
    mechanic as mechanic,
    mom_sps as mom_sps,
    momo as momo,
    muon as muon,
    musgd as musgd,
    nesterov as nesterov,
    ngn as ngn,
    nonlinear_cg as nonlinear_cg,
    normalized as normalized,
    ogm as ogm,
    ogm_g as ogm_g,
    osgm as osgm,
    outer_loop as outer_loop,
    page as page,
    parameter_free_adam as parameter_free_adam,
    parameter_free_sgd as parameter_free_sgd,
    polyak as polyak,
    precise as precise,
    prodigy as prodigy,
    reduced_hessian as reduced_hessian,
    sag as sag,
    saga as saga,
    sam as sam,
    schedule_free as schedule_free,
    schedule_free_polyak as schedule_free_polyak,
    schedule_free_sgd as schedule_free_sgd,
    sgd as sgd,
    sign_error_feedback as sign_error_feedback,
    sps as sps,
    steepest as steepest,
    stochastic_line_search as stochastic_line_search,
    svrg as svrg,
    triple_momentum as triple_momentum,
)
from gdjax.sampling import grid as grid, sample as sample

__version__ = "0.1.0"


def _parameter_free(steps):
    return parameter_free_adam(None if steps is None else float(max(steps, 1)))


# What rule=None means, bound here because drivers know no rule by name. Neither needs a learning rate.
_minimize_module.default_rule = _fit_module.default_full_batch_rule = reduced_hessian
_fit_module.default_rule = _parameter_free
