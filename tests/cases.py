"""The table of rules: one row each, more where a flag changes the algorithm. A new rule adds its row, and test_contract.py holds it to every law."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import gdjax


@dataclasses.dataclass(frozen=True)
class Case:
    """A rule at sensible numbers, for a loss with curvatures in about [0.3, 4], and what is to be expected of it."""

    name: str  # of the rule, in gdjax.rules, and of its transcription in reference/, which takes the rule's arguments
    make: Callable[..., gdjax.Rule]  # make() is the rule; make(number) the same with another learning rate, smoothness, or what it mainly turns on
    variant: str = ""  # what tells two rows of a rule apart
    twin: Callable[[], optax.GradientTransformation] | None = None  # the same in optax
    twin_rtol: float = 1e-6
    number: float | None = 0.3  # the one in make(); None for rules that have none worth turning
    needs_params: bool = False  # update wants params
    functions: bool = False  # update wants the value or the functions that drivers offer
    searches: bool = False  # update does with the functions, where they are offered, what it does otherwise without
    backwards: bool = True  # reverse-mode derivatives go through it; rules that search, in loops of unknown length, have them forwards only
    elementwise: bool = True  # splitting leaves changes nothing
    rotation: bool = True  # rotating the space rotates the path
    translation: bool = True  # moving the origin moves the path
    rescaling: float | None = 1  # s × loss with number / s**rescaling has the same path: 1 for a learning rate, −1 for a smoothness, 0 for none; None: no power
    regularization: float = 0.0  # what the rule adds to the loss, times ‖x‖²/2
    steps: int = 400  # enough to converge to the accuracy
    accuracy: float = 1e-4  # of the params after these steps; larger only for rules that go on moving around the minimum

    def __str__(self):
        return f"{self.name}-{self.variant}" if self.variant else self.name


# Rules that need a data set, not the gradient of a function: rules/test_finite_sums.py holds them to the laws that make sense for them.
ON_DATA = ("loopless_svrg", "page", "sag", "saga", "svrg")


def _vectors(params):
    return jax.tree.map(lambda x: jnp.size(x) > 1, params)


def _armijo(reference, h=0.1):
    return gdjax.armijo(0.3, first_learning_rate=h, reference=reference)


CASES = [
    Case("gd", lambda h=0.3: gdjax.gd(h), twin=lambda: optax.sgd(0.3)),
    Case(
        "gd",
        lambda h=0.3: gdjax.gd(gdjax.schedules.exponential(h, 0.5, 1000)),
        "schedule",
        twin=lambda: optax.sgd(optax.exponential_decay(0.3, 1000, 0.5)),
        steps=600,
    ),
    Case("sgd", lambda h=0.3: gdjax.sgd(h), twin=lambda: optax.sgd(0.3)),
    Case("sgd", lambda h=0.1: gdjax.sgd(h, 0.8), "momentum", twin=lambda: optax.sgd(0.1, 0.8), number=0.1),
    Case("sgd", lambda h=0.1: gdjax.sgd(h, 0.8, nesterov=True), "nesterov", twin=lambda: optax.sgd(0.1, 0.8, nesterov=True), number=0.1),
    Case("sgd", lambda h=0.3: gdjax.sgd(h, 0.8, dampening=0.6), "dampening"),
    Case(
        "sgd",
        lambda h=0.3: gdjax.sgd(h, 0.8, ema=True),
        "average",
        twin=lambda: optax.chain(optax.ema(0.8, debias=False), optax.sgd(0.3)),
    ),
    Case(
        "sgd",
        lambda h=0.1: gdjax.sgd(gdjax.schedules.linear(h, h / 2, 50), 0.8, weight_decay=0.2, nesterov=True),
        "everything",
        twin=lambda: optax.chain(optax.add_decayed_weights(0.2), optax.sgd(optax.linear_schedule(0.1, 0.05, 50), 0.8, nesterov=True)),
        number=0.1,
        needs_params=True,
        translation=False,
        rescaling=None,
        regularization=0.2,
    ),
    Case("nesterov", lambda h=0.25: gdjax.nesterov(h), number=0.25, needs_params=True),
    Case("nesterov", lambda h=0.25: gdjax.nesterov(h, simplified=True), "simplified", number=0.25, needs_params=True),
    Case("nesterov", lambda h=0.25: gdjax.nesterov(h, 0.3), "strongly convex", number=0.25, needs_params=True, rescaling=None),
    Case("nesterov", lambda h=0.3: gdjax.nesterov(gdjax.schedules.linear(h, h / 2, 50)), "schedule", needs_params=True),
    Case("heavy_ball", lambda h=0.1: gdjax.heavy_ball(h, 0.8), twin=lambda: optax.sgd(0.1, 0.8), number=0.1),
    Case("heavy_ball", lambda h=0.1: gdjax.heavy_ball(gdjax.schedules.linear(h, h / 2, 50), gdjax.schedules.linear(0.5, 0.8, 50)), "schedules", number=0.1),
    Case("heavy_ball", lambda L=16.0: gdjax.heavy_ball(smoothness=L, strong_convexity=0.02 * L), "curvatures", number=16.0, rescaling=-1),
    Case("ogm", lambda h=0.25: gdjax.ogm(h, steps=10), number=0.25, needs_params=True),
    Case("ogm_g", lambda h=0.25: gdjax.ogm_g(h, steps=10), number=0.25, needs_params=True),
    Case("item", lambda L=16.0: gdjax.item(L), number=16.0, needs_params=True, rescaling=-1, steps=1000),
    Case("item", lambda L=16.0: gdjax.item(L, 0.02 * L), "strongly convex", number=16.0, needs_params=True, rescaling=-1),
    Case("triple_momentum", lambda L=16.0: gdjax.triple_momentum(L, 0.02 * L), number=16.0, needs_params=True, rescaling=-1),
    Case("chebyshev", lambda L=16.0: gdjax.chebyshev(L, 0.02 * L), number=16.0, rescaling=-1),
    Case("gd", lambda L=4.0: gdjax.gd(gdjax.schedules.silver(L)), "silver", number=4.0, rescaling=-1),
    Case(
        "polyak",
        lambda c=1.0: gdjax.polyak(scaling=c, max_learning_rate=0.5),
        twin=lambda: optax.polyak_sgd(0.5, eps=0.0),
        number=1.0,
        functions=True,
        rescaling=None,
    ),
    Case(
        "polyak",
        lambda: gdjax.polyak(None),
        "estimated",
        number=None,
        functions=True,
        needs_params=True,
        translation=False,
        rescaling=0,
        steps=3000,
    ),
    Case("adgd", lambda h=0.1: gdjax.adgd(h), number=0.1),
    Case("adgd", lambda h=0.1: gdjax.adgd(h, variant="adgd1"), "1", number=0.1),
    Case("adgd", lambda: gdjax.adgd(), "search", searches=True, number=None, needs_params=True, translation=False, rescaling=0),
    Case("adapgm", lambda h=0.1: gdjax.adapgm(h), number=0.1),
    Case("adapgm", lambda h=0.1: gdjax.adapgm(h, q=1.0, r=0.5), "2023", number=0.1),
    Case("adapgm", lambda: gdjax.adapgm(q=1.5, r=0.75), "search", searches=True, number=None, needs_params=True, translation=False, rescaling=0),
    # α = 1, since below it τ takes up the rounding of differences of losses; theorems/test_adaptive.py has the rest, and adgd of 2020.
    Case("ac_fgm", lambda h=0.1: gdjax.ac_fgm(h, alpha=1.0), number=0.1, needs_params=True, functions=True, steps=3000),
    Case("exact_line_search", lambda: gdjax.exact_line_search(1e-13), number=None, needs_params=True, functions=True, rescaling=0),
    Case("l0l1", lambda L=4.0: gdjax.l0l1(L, 0.5), number=4.0, rescaling=-1),
    Case("steepest", lambda h=0.3: gdjax.steepest(h), twin=lambda: optax.sgd(0.3)),
    Case("steepest", lambda h=0.08: gdjax.steepest(h, "linf"), "linf", number=0.08, rotation=False, steps=1000),
    Case("steepest", lambda h=0.3: gdjax.steepest(h, "l1"), "l1", rotation=False),
    Case("steepest", lambda h=0.15: gdjax.steepest(h, "spectral"), "spectral", number=0.15, rotation=False, elementwise=False),
    Case(
        "steepest",
        lambda h=0.3: gdjax.steepest(gdjax.schedules.exponential(h, 0.98, 1), "linf", scaled=False),
        "sign",
        twin=lambda: optax.sign_sgd(optax.exponential_decay(0.3, 1, 0.98)),
        rotation=False,
        rescaling=0,
        steps=600,
    ),
    Case("normalized", lambda h=0.3: gdjax.normalized(gdjax.schedules.exponential(h, 0.98, 1)), rescaling=0, steps=600),
    Case("clipped", lambda h=0.3: gdjax.clipped(h, 2.0), twin=lambda: optax.chain(optax.clip_by_global_norm(2.0), optax.sgd(0.3)), rescaling=None),
    Case("barzilai_borwein", lambda: gdjax.barzilai_borwein(), number=None, needs_params=True, functions=True, backwards=False, rotation=False, rescaling=0),
    Case(
        "barzilai_borwein",
        lambda h=0.1: gdjax.barzilai_borwein("bb1", first_learning_rate=h, reference="maximum"),
        "bb1",
        number=0.1,
        needs_params=True,
        functions=True,
        backwards=False,
    ),
    Case(
        "barzilai_borwein",
        lambda h=0.1: gdjax.barzilai_borwein("abbmin", first_learning_rate=h),
        "abbmin",
        number=0.1,
        needs_params=True,
        functions=True,
        backwards=False,
    ),
    Case("hypergradient", lambda h=0.1: gdjax.hypergradient(h), number=0.1, rescaling=None),
    Case("hypergradient", lambda h=0.1: gdjax.hypergradient(h, 0.02, relative=True), "relative", number=0.1),
    Case("osgm", lambda h=0.1: gdjax.osgm(h), number=0.1, needs_params=True, functions=True, rotation=False),
    Case(
        "osgm",
        lambda h=0.1: gdjax.osgm(h, hyper_learning_rate=1.0, momentum=None, diagonal=False),
        "scalar",
        number=0.1,
        needs_params=True,
        functions=True,
    ),
    Case("reduced_hessian", lambda: gdjax.reduced_hessian(), number=None, functions=True, needs_params=True, rotation=False, rescaling=0),
    Case("reduced_hessian", lambda: gdjax.reduced_hessian(2), "memory 2", number=None, functions=True, needs_params=True, rotation=False, rescaling=0),
    Case("nonlinear_cg", lambda: gdjax.nonlinear_cg(), number=None, functions=True, needs_params=True, backwards=False, rotation=False, rescaling=0),
    *(
        Case(
            "nonlinear_cg",
            functools.partial(gdjax.nonlinear_cg, beta, curvature=curvature),  # searches that interpolate often magnify rounding
            beta,
            number=None,
            functions=True,
            needs_params=True,
            backwards=False,
            rotation=False,
            rescaling=0,
        )
        for beta, curvature in (("polak_ribiere", 0.5), ("fletcher_reeves", 0.5), ("hestenes_stiefel", 0.6), ("dai_yuan", 0.4))
    ),
    Case("armijo", lambda: gdjax.armijo(), number=None, functions=True, needs_params=True, backwards=False, rotation=False, rescaling=0),
    *(
        Case("armijo", functools.partial(_armijo, reference), reference, number=0.1, functions=True, needs_params=True, backwards=False)
        for reference in ("last", "mean", "maximum")
    ),
    Case("accelerated", lambda: gdjax.accelerated(), number=None, functions=True, needs_params=True, backwards=False, rotation=False, rescaling=0),
    Case("accelerated", lambda h=0.1: gdjax.accelerated(h, restart="function"), "function", number=0.1, functions=True, needs_params=True, backwards=False),
    Case("accelerated", lambda h=0.1: gdjax.accelerated(h, restart=None), "no restart", number=0.1, functions=True, needs_params=True, backwards=False),
    # Not 1: at first the estimate is h times the distance, so that h = 1 is a kink of everything.
    Case("d_adaptation", lambda h=1.2: gdjax.d_adaptation(h, first_distance=0.2), number=1.2, needs_params=True, rescaling=0),
    Case(
        "d_adaptation",
        lambda h=1.0: gdjax.d_adaptation(h, 0.5, weight_decay=0.2, first_distance=0.1, growth_rate=1.1, coefficient=1.0),
        "everything",
        number=1.0,
        needs_params=True,
        translation=False,
        rescaling=None,
        regularization=0.2,
    ),
    Case(
        "prodigy",
        lambda h=1.0: gdjax.prodigy(gdjax.schedules.exponential(h, 0.98, 1), first_distance=0.1, eps=1e-20),
        number=1.0,
        needs_params=True,
        rotation=False,
        rescaling=0,
        steps=600,
    ),
    Case(
        "prodigy",
        lambda h=1.0: gdjax.prodigy(gdjax.schedules.exponential(h, 0.98, 1), bias_correction=True, first_distance=0.1, eps=1e-20),
        "bias correction",
        twin=lambda: optax.contrib.prodigy(optax.exponential_decay(1.0, 1, 0.98), estim_lr0=0.1, eps=1e-20),
        twin_rtol=1e-5,
        number=1.0,
        needs_params=True,
        rotation=False,
        rescaling=0,
        steps=600,
    ),
    Case(
        "parameter_free_adam",
        lambda h=0.8: gdjax.parameter_free_adam(400.0, learning_rate=h),
        number=0.8,
        needs_params=True,
        searches=True,
        rotation=False,
        rescaling=0,
    ),
    Case(
        "parameter_free_adam",
        lambda h=0.8: gdjax.parameter_free_adam(learning_rate=h, first_distance=0.1),
        "anytime",
        number=0.8,
        needs_params=True,
        rotation=False,
        rescaling=0,
        steps=3000,
        accuracy=0.01,
    ),
    Case("parameter_free_sgd", lambda h=0.8: gdjax.parameter_free_sgd(400.0, learning_rate=h), number=0.8, needs_params=True, searches=True, rescaling=0),
    Case(
        "mechanic",
        lambda h=0.3: gdjax.mechanic(gdjax.sgd(h), first_scale=0.01),
        needs_params=True,
        translation=False,
        steps=1000,
        accuracy=0.05,  # its scale is learnt without end
    ),
    Case("mechanic", lambda h=0.3: gdjax.mechanic(gdjax.sgd(h), first_scale=0.01, weight_decay=0.0), "no decay", needs_params=True, steps=1000, accuracy=0.05),
    Case("dog", lambda r=0.1: gdjax.dog(r), twin=lambda: optax.contrib.dog(init_step=("distance", 0.1), eps=0.0), number=0.1, needs_params=True, rescaling=0),
    Case("dog", lambda: gdjax.dog(), "default", number=None, needs_params=True, translation=False, rescaling=0, steps=2000),
    Case("l_dog", lambda r=0.1: gdjax.l_dog(r), number=0.1, needs_params=True, elementwise=False, rotation=False, rescaling=0),
    Case(
        "dowg",
        lambda r=0.1: gdjax.dowg(r),
        twin=lambda: optax.contrib.dowg(init_estim_sq_dist=0.01, eps=0.0),
        twin_rtol=1e-5,  # its sums of squares are taken in another order
        number=0.1,
        needs_params=True,
        rescaling=0,
    ),
    Case("sps", lambda h=0.1: gdjax.sps(first_learning_rate=h, steps_per_epoch=3), number=0.1, functions=True),
    Case("sps", lambda h=0.3: gdjax.sps(-1.0, scaling=2.0, max_learning_rate=h, growth=None), "no growth", functions=True, rescaling=None),
    Case("dec_sps", lambda h=0.6: gdjax.dec_sps(scaling=0.5, max_learning_rate=h), number=0.6, functions=True, steps=3000),
    Case("mom_sps", lambda h=0.3: gdjax.mom_sps(momentum=0.6, max_learning_rate=h), functions=True),
    Case("mom_sps", lambda h=0.1: gdjax.mom_sps(momentum=0.4, growth=1.5, first_learning_rate=h, steps_per_epoch=2), "growth", number=0.1, functions=True),
    Case("ngn", lambda h=0.3: gdjax.ngn(h, lower_bound=-1.0), functions=True, rescaling=None),
    Case("ngn", lambda h=0.3: gdjax.ngn(gdjax.schedules.linear(h, h / 2, 50)), "schedule", functions=True),
    Case("ali_g", lambda h=0.1: gdjax.ali_g(h, momentum=0.7), number=0.1, functions=True),
    Case("momo", lambda h=0.3: gdjax.momo(h), twin=lambda: optax.contrib.momo(0.3), functions=True, needs_params=True),
    Case(
        "momo",
        lambda h=0.1: gdjax.momo(h, momentum=0.5, lower_bound=None),
        "estimated",
        number=0.1,
        functions=True,
        needs_params=True,
        steps=1000,
    ),
    Case(
        "momo",
        lambda h=0.1: gdjax.momo(h, weight_decay=0.2),
        "weight decay",
        number=0.1,
        functions=True,
        needs_params=True,
        translation=False,
        rescaling=None,
        regularization=0.2,
    ),
    Case(
        "stochastic_line_search",
        lambda h=0.1: gdjax.stochastic_line_search(0.3, first_learning_rate=h, steps_per_epoch=3),
        number=0.1,
        functions=True,
        needs_params=True,
        backwards=False,
    ),
    Case("average", lambda h=0.3: gdjax.average(gdjax.sgd(h)), twin=lambda: optax.sgd(0.3), needs_params=True),
    Case("precise", lambda h=0.1: gdjax.precise(gdjax.sgd(h, 0.8)), twin=lambda: optax.sgd(0.1, 0.8), number=0.1, needs_params=True),
    Case("schedule_free_sgd", lambda h=1.0: gdjax.schedule_free_sgd(h, warmup_steps=5, step_power=2.0), number=1.0, needs_params=True),
    Case(
        "schedule_free",
        lambda h=0.3: gdjax.schedule_free(gdjax.sgd(h)),
        twin=lambda: optax.contrib.schedule_free(optax.sgd(0.3), 0.3),
        needs_params=True,
        steps=3000,
    ),
    Case(
        "schedule_free_polyak",
        lambda momentum=0.8: gdjax.schedule_free_polyak(momentum=momentum, max_learning_rate=0.5, step_power=4.0),
        number=0.8,
        needs_params=True,
        functions=True,
        rescaling=None,
        steps=1000,
    ),
    Case("lookahead", lambda h=0.1: gdjax.lookahead(gdjax.sgd(h, 0.8)), number=0.1, needs_params=True),
    Case("outer_loop", lambda h=0.1: gdjax.outer_loop(gdjax.sgd(h), period=5), number=0.1, needs_params=True, steps=1000),
    Case("musgd", lambda h=0.1: gdjax.musgd(h, 0.8), twin=lambda: optax.sgd(0.1, 0.8, nesterov=True), number=0.1, needs_params=True),
    Case("muon", lambda h=0.3: gdjax.muon(0.02, gdjax.sgd(h)), twin=lambda: optax.sgd(0.3)),
    Case("sam", lambda h=0.1: gdjax.sam(gdjax.sgd(h, 0.8), 1e-5), number=0.1, needs_params=True, functions=True),
    Case("asam", lambda h=0.1: gdjax.asam(gdjax.sgd(h, 0.8), 1e-5), number=0.1, needs_params=True, functions=True, rotation=False, translation=False),
    Case(
        "lars",
        lambda h=0.3: gdjax.lars(gdjax.schedules.exponential(h, 0.985, 1), 0.5, weight_decay=0.2, trust=0.5, nesterov=True, layers=_vectors),
        needs_params=True,
        elementwise=False,
        rotation=False,
        translation=False,
        rescaling=None,
        regularization=0.2,
        steps=600,
    ),
    Case("sign_error_feedback", lambda h=0.1: gdjax.sign_error_feedback(h), number=0.1, rotation=False, elementwise=False, steps=600),
    Case("ef21", lambda h=0.1: gdjax.ef21(gdjax.gd(h), 0.3), number=0.1, rotation=False, steps=1000),
    Case("ef21", lambda h=0.1: gdjax.ef21(gdjax.gd(h), 2), "2", number=0.1, rotation=False, steps=1000),
]
