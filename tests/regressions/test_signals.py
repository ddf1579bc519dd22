"""Ctrl-C and SIGTERM lose nothing: in runs, while they compile, under vmap, in sweeps, starts and suggestions; handlers of the user's own are left alone."""

import os
import subprocess
import sys
from pathlib import Path

import gdjax

SCRIPT = """
import os, signal
import jax, jax.numpy as jnp, numpy as np
import gdjax
from gdjax.loop.host import Watch

jax.config.update("jax_platforms", "cpu")
INT, TERM, X = signal.SIGINT, signal.SIGTERM, jnp.ones((40, 3))
before, left, sent = [signal.getsignal(s) for s in (INT, TERM)], [0], [INT]
saw = Watch.saw


def looked(self, *given):
    saw(self, *given)
    count()


Watch.saw = looked  # a signal comes while a segment runs, and Python hears of it when that is over


def after(looks, number):
    left[0], sent[0] = looks, number


def count():
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), sent[0])


def quartic(w):
    return jnp.sum(w**4)


def squares(w, batch):
    return jnp.mean((batch @ w - 1) ** 2)


def endless(start, rule, steps=10**7):
    return gdjax.minimize(quartic, start, rule, tol=0.0, max_steps=steps)


def batches(rule, key):
    count()
    return gdjax.fit(squares, jnp.zeros(3), X, rule, batch_size=8, steps=20, key=key)


def says(name, function):
    try:
        found = function()
        caught = "returned"
    except KeyboardInterrupt as error:
        found, caught = getattr(error, "summary", None) or error.result.status.name, "attached"
    now = [signal.getsignal(s) for s in (INT, TERM)]
    print(name, caught, found, "as before" if now == before else now, flush=True)


one = lambda made: f"{made.status.name} {int(made.steps) > 0} {abs(float(made.value) - float(jnp.sum(made.params**4))) < 1e-3}"
start, rates = jnp.ones(3), jnp.array([1e-4, 1e-3])
after(3, TERM)
says("minimize", lambda: one(endless(start, gdjax.gd(1e-4))))
after(3, TERM)
says("fit", lambda: gdjax.fit(squares, jnp.zeros(3), X, gdjax.sgd(1e-6), batch_size=8, epochs=10**6, key=0).status.name)


def while_tracing(w, sent=[]):
    if not sent:
        sent.append(os.kill(os.getpid(), INT))
    return jnp.sum(w**4)


says("compiling", lambda: one(gdjax.minimize(while_tracing, start, gdjax.gd(1e-4), tol=0.0, max_steps=10**7)))
after(3, INT)
mapped = jax.vmap(lambda rate: endless(start, gdjax.gd(rate)))
says("vmap", lambda: (lambda made: (made.code.tolist(), bool(jnp.allclose(made.value, jnp.sum(made.params**4, 1)))))(mapped(rates)))
after(3, INT)


def short(found):
    print("  ", type(found).__name__, 0 < len(found) < 3, np.isfinite(found.scores).all(), found.keys is None or 0 < len(found.keys) <= 3, end=": ")
    return {gdjax.Status(int(code)).name for code in np.ravel(found.results.code)}


def sweep(run, rules, **options):
    try:
        return short(gdjax.sweep(run, rules, **options))
    except KeyboardInterrupt as error:
        error.summary = short(error.result)
        raise


says("sweep", lambda: sweep(lambda rule: endless(start, rule), gdjax.gd(rates)))
after(3, TERM)
says("sweep, seeds", lambda: sweep(batches, gdjax.sgd(rates), keys=range(3)))


def multistart():
    gdjax.multistart(lambda w: endless(w, gdjax.gd(1e-3)), lambda key: jax.random.normal(key, (3,)), 2, key=0)


after(3, INT)
try:
    multistart()
except KeyboardInterrupt as error:
    print("multistart", type(error.result).__name__, len(error.result.results.code))
after(1, INT)
says("the end of a run", lambda: one(endless(start, gdjax.gd(1e-4), 0)))

calls = []
signal.signal(INT, lambda *_: calls.append(1))
after(1, INT)
print("own handler", one(endless(start, gdjax.gd(1e-4), 50)), calls)
signal.signal(INT, signal.SIG_IGN)
after(1, INT)
print("ignored", one(endless(start, gdjax.gd(1e-4), 50)), signal.getsignal(INT) is signal.SIG_IGN)


def raising(*_):
    raise ArithmeticError


signal.signal(INT, raising)
after(3, INT)
try:
    endless(start, gdjax.gd(1e-4))
except ArithmeticError as error:
    print("raising handler", one(error.result))
print("end", flush=True)
after(1, TERM)
endless(start, gdjax.gd(1e-4), 0)
print("not reached")
"""

SAID = """
minimize returned INTERRUPTED True True as before
fit returned INTERRUPTED as before
compiling returned INTERRUPTED True True as before
vmap returned ([7, 7], True) as before
   Sweep True True True: sweep attached {'INTERRUPTED'} as before
   Sweep True True True: sweep, seeds attached {'MAX_STEPS'} as before
multistart Multistart 2
the end of a run attached MAX_STEPS as before
own handler MAX_STEPS True True [1]
ignored MAX_STEPS True True True
raising handler INTERRUPTED True True
end
"""


def test_signals():
    code, root = [sys.executable, "-c", SCRIPT], str(Path(gdjax.__file__).parents[1])
    done = subprocess.run(code, capture_output=True, text=True, timeout=240, env=os.environ | {"PYTHONPATH": root})
    assert done.stdout.splitlines() == SAID.strip().splitlines(), done.stderr
    assert done.returncode == -15, "SIGTERM at the end of a run ends the process, as it would anywhere else"
