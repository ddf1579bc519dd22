"""``minimize``: full-batch descent on a function, compiled whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gdjax.checks import check_arrays, check_params
from gdjax.contexts import undisturbed
from gdjax.data import as_examples
from gdjax.loop import full_batch, host, traced
from gdjax.loop.options import check_no_host, check_options, check_resume, stopping_rule
from gdjax.loop.step import check_rate
from gdjax.objective import FiniteSum, declared
from gdjax.result import Result
from gdjax.rule import one_rule
from gdjax.stop import Stop
from gdjax.typing import Differentiate, Number, Params, Recorded, Transformation

default_rule: Any = None  # a function that returns it, bound by gdjax/__init__.py: drivers know no rule by name


@undisturbed
def minimize(
    fun: Callable[..., Any], params: Params, rule: Transformation | None = None, *, args: tuple = (), tol: Number | None = None, stop: Stop | None = None,
    max_steps: int = 1000, history: Sequence[Recorded] = ("value", "grad_norm"), record_every: int = 1, has_aux: bool = False,
    differentiate: Differentiate = "implicit",
    progress: bool | None = None, resume: Any = None,
) -> Result:  # fmt: skip
    """Minimises ``fun(params, *args)`` by gradient descent, compiled whole, and says how it went.

    Each step evaluates fₖ = fun(xₖ) and gₖ = ∇fun(xₖ), judges them, and moves: x_{k+1} ← xₖ + u, where the rule makes u of gₖ. The returned ``value`` and
    ``grad_norm`` belong to the returned ``params``.

    Args:
        fun: ``fun(params, *args) -> loss`` (or ``(loss, aux)`` with ``has_aux``), a real scalar that ``jax.grad`` can differentiate. Keep one function object
            and pass what varies in ``args``: a new lambda is a new compilation.
        params: where to start: a pytree of real floating arrays. They are not modified or donated.
        rule: a rule such as ``gdjax.gd(0.1)`` or any optax transformation, line searches included. None takes
            ``gdjax.reduced_hessian()``, which needs no learning rate; its docstring has the measurements.
        args: further arguments of ``fun``, pytrees of arrays; derivatives are taken with respect to these.
        tol: stop with CONVERGED when ‖∇f‖₂ ≤ tol: short for ``stop=gdjax.stop.grad_norm(tol)``. Default:
            ``stop.stationary``, which looks closer at the point and knows no units: CONVERGED where the minimum is within 1e-8 of the params (relative) in
            float64, 1e-5 in float32, 1e-2 in bfloat16 and float16, or all of the gradient is rounding. 0 runs on until no progress is possible.
        stop: a stopping rule from ``gdjax.stop``, joined with ``|``, instead of ``tol``; with both, either stops.
        max_steps: updates at most, in the whole run (those before ``resume`` included).
        history: what to record: any of "value", "grad_norm", "update_norm", "learning_rate", "evaluations".
        record_every: record steps 0, k, 2k, …, and the last.
        has_aux: ``fun`` returns (loss, aux); ``result.aux`` is that of the returned params.
        differentiate: how derivatives of a traced run are taken. "implicit": those of ``params`` and ``value`` with respect to ``args``, by the implicit
            function theorem, where the run converged or a step of Newton's moves its end by a thousandth of the params at most, else NaN; what comes of the
            way, such as the history, has NaN too. "unroll": of everything with respect to everything, rule and start included, by going through all
            ``max_steps`` steps backwards; where a run ended NONFINITE they can be NaN, of the last finite params too.
        progress: True or False, or None for a bar on a terminal once the run has taken two seconds. Needs the extra ``progress``.
        resume: ``result.state`` of an earlier run of the same function and rule, to continue it bit for bit.

    Returns:
        A ``Result``. Inside jit, vmap or grad it is traced: its history has a fixed length, padded with NaN. The lanes of a ``vmap`` that is not itself inside
        ``jit`` are looked at every few hundred steps, and packed together when half of them have finished.

    The first Ctrl-C or SIGTERM ends a run INTERRUPTED, with the result so far, within a quarter of a second or a step; the second is obeyed at once; handlers
    of your own are left alone. An exception that ends a run, in a callback for example, has the result so far as its attribute ``result``.

    Raises:
        TypeError, ValueError: bad arguments, named with what is wanted, before anything is computed; a loss that is not a real scalar; a loss or gradient that
            is not finite at the start (inside a trace: NONFINITE with 0 steps).

    Example:
        >>> import gdjax
        >>> result = gdjax.minimize(lambda w: (w - 2.0) ** 2, 5.0, gdjax.gd(0.1))
        >>> print(result.status.name, f"{result.params:.3f}", result.history["value"][:2])
        CONVERGED 2.000 [9.   5.76]
    """
    rule = default_rule() if rule is None else one_rule(rule)
    check_options(history, record_every, max_steps, differentiate)
    params = check_params(params)
    if not isinstance(args, tuple):
        raise TypeError(f"args is {type(args).__name__}; wanted a tuple of the further arguments of fun: type args=(X, y), or args=(X,) for one.")
    objective = declared(fun, has_aux, False, None, "auto", None if isinstance(fun, FiniteSum) else len(args), "fun")
    if not objective.splat and len(args) != 1:
        raise ValueError(f"args has {len(args)} entries and fun is a finite_sum, which takes one, its data; wanted that alone: type args=((X, y),).")
    args = check_arrays("args", args) if objective.splat else (as_examples(args[0], "args[0]"),)
    stop = stopping_rule(tol, stop, params)
    check_rate(history, rule, params)
    resume = check_resume(resume, full_batch.Resumable, params, rule, stop)
    run: dict[str, Any] = dict(
        objective=objective,
        rule=rule,
        params=params,
        batch=args if objective.splat else args[0],
        stop=stop,
        max_steps=int(max_steps),
        names=tuple(history),
        record_every=int(record_every),
        resume=resume,
    )
    if host.under_trace(fun, params, rule, args, stop, resume):
        check_no_host(stop, progress, "minimize")
        return traced.run(**run, differentiate=differentiate)
    return full_batch.on_host(**run, progress=progress)
