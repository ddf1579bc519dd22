"""Arguments by the names that other libraries give them, or misspelt, are refused with the right one."""

import optax
import pytest

import gdjax
from gdjax import schedules, stop

SLIPS = [
    (gdjax.sgd, {"lr": 0.1}, {"lr": "learning_rate"}),
    (gdjax.sgd, {"learning_rate": 0.1, "beta": 0.9}, {"beta": "momentum"}),
    (gdjax.sgd, {"learning_rate": 0.1, "momentun": 0.9}, {"momentun": "momentum"}),
    (gdjax.sgd, {"learning_rate": 0.1, "wd": 1e-4}, {"wd": "weight_decay"}),
    (gdjax.nesterov, {"alpha": 0.1, "mu": 0.1}, {"alpha": "learning_rate", "mu": "strong_convexity"}),
    (gdjax.adgd, {"lr": 0.1}, {"lr": "first_learning_rate"}),
    (gdjax.prodigy, {"epsilon": 1e-8}, {"epsilon": "eps"}),
    (gdjax.triple_momentum, {"L": 1.0, "mu": 0.1}, {"L": "smoothness", "mu": "strong_convexity"}),
    (gdjax.heavy_ball, {"stepsize": 0.1, "Momentum": 0.9}, {"stepsize": "learning_rate", "Momentum": "momentum"}),
    (gdjax.sam, {"rule": gdjax.sgd(0.1), "rho": 0.05}, {"rho": "radius"}),
    (gdjax.polyak, {"f_star": 0.0}, {"f_star": "min_value"}),
    (gdjax.rule(optax.adam), {"lr": 1e-3, "gamma": 0.9}, {"lr": "learning_rate", "gamma": None}),
    (schedules.cosine, {"lr": 0.1, "T_max": 10}, {"lr": "init_value", "T_max": "steps"}),
    (schedules.exponential, {"init_value": 0.1, "decay_rte": 0.9, "steps": 3}, {"decay_rte": "decay_rate"}),
    (stop.grad_norm, {"tol": 1e-5}, {"tol": "atol"}),
    (stop.time_limit, {"secs": 60}, {"secs": "seconds"}),
    (gdjax.sgd, {"learning_rate": 0.1, "zebra": 1}, {"zebra": None}),
]


@pytest.mark.parametrize(("factory", "given", "meant"), SLIPS, ids=lambda x: getattr(x, "__name__", None) or "-".join(x))
def test_a_slip_is_answered_with_what_was_meant(factory, given, meant):
    with pytest.raises(TypeError) as refused:
        factory(**given)
    message = str(refused.value)
    assert message.startswith(f"{factory.__name__}: got an unexpected keyword argument ")
    assert f"; wanted {factory.__name__}(" in message
    for wrong, right in meant.items():
        assert (f"{wrong!r} (did you mean {right}?)" if right else f"{wrong!r}") in message
    assert message.count("did you mean") == sum(right is not None for right in meant.values())


def test_what_is_given_already_is_not_what_was_meant():
    with pytest.raises(TypeError, match="'lr'; wanted sgd"):
        gdjax.sgd(0.1, lr=0.2)


def test_what_is_missing_is_named():
    with pytest.raises(TypeError, match=r"sgd: missing a required argument: 'learning_rate'; wanted sgd\(learning_rate, momentum=None"):
        gdjax.sgd()


def test_the_types_of_arguments_do_not_hide_their_names():
    assert repr(gdjax.momo) == "<rule factory momo(learning_rate=1.0, *, momentum=0.9, lower_bound=0.0, weight_decay=None)>"
    with pytest.raises(TypeError, match=r"wanted adam\(learning_rate, b1=0.9, b2=0.999, eps=1e-08, "):
        gdjax.rule(optax.adam)(lr=1e-3)
