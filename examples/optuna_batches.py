"""Optuna proposes trials by the batch, one compiled program runs each batch; the same trials one at a time, for comparison.

The task: ridge regression of the sign of 569 tumours on their 30 measurements, by mini-batches, scored on those held out. To be found: the learning rate, the
momentum and the l2 penalty. Needs the extras ``examples`` and ``search``.
"""

import statistics
import time
from collections import Counter
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import gdjax

DISTRIBUTIONS = {
    "learning_rate": FloatDistribution(1e-5, 1.0, log=True),  # the upper third diverges
    "momentum": FloatDistribution(0.0, 0.99),
    "l2": FloatDistribution(1e-6, 1.0, log=True),
}
TRIALS, BATCH = 240, 64  # the last batch has 48


def evaluate_batches(study, distributions, evaluate, trials, batch):
    """Asks ``study`` for ``trials`` trials, ``batch`` at a time, scores each batch by one call of ``evaluate``, and tells the study.

    ``evaluate`` takes arrays of length ``batch`` by the names of the distributions and returns as many scores. A last batch that is smaller is filled up with
    copies of its last trial, so that a compiled ``evaluate`` compiles once. Trials whose score is not finite are told as failed.
    """
    for start in range(0, trials, batch):
        asked = [study.ask(distributions) for _ in range(min(batch, trials - start))]
        lanes = asked + asked[-1:] * (batch - len(asked))
        scores = np.asarray(evaluate(**{name: np.array([trial.params[name] for trial in lanes]) for name in distributions}))
        for trial, score in zip(asked, scores, strict=False):
            if np.isfinite(score):
                study.tell(trial, float(score))
            else:
                study.tell(trial, state=TrialState.FAIL)


def load():
    """Features, standardised as the training part is, with a constant for the intercept, and ±1: of 398 tumours to train on and of 171 held out."""
    features, label = load_breast_cancer(return_X_y=True)
    parts = train_test_split(features, 2.0 * label - 1.0, test_size=0.3, random_state=0, stratify=label)
    mean, scale = parts[0].mean(axis=0), parts[0].std(axis=0)
    train, held_out = (np.float32(np.column_stack([(part - mean) / scale, np.ones(len(part))])) for part in parts[:2])
    return (train, np.float32(parts[2])), (held_out, np.float32(parts[3]))


def squared_error(weights, batch):
    features, target = batch
    return jnp.mean((features @ weights - target) ** 2)


def make_run(train, held_out, traces):
    """A trial as a function of its numbers: the loss on the tumours held out, NaN if the run diverged. It notes the name of each program it is traced for."""

    def run(name, rule, l2):
        traces.append(name)

        def loss_fn(weights, batch):
            return squared_error(weights, batch) + l2 * jnp.sum(weights**2)

        result = gdjax.fit(loss_fn, jnp.zeros(31), train, rule, batch_size=8, epochs=60, key=0)
        return jnp.where(result.status == gdjax.Status.MAX_STEPS, squared_error(result.params, held_out), jnp.nan)

    return run


def search(many):
    """A study, and the batches it proposed as ``many`` took them: a rule of arrays, whose numbers are leaves, and the penalties."""
    batches = []

    def evaluate(learning_rate, momentum, l2):
        batches.append((gdjax.sgd(learning_rate, momentum), l2))
        return many(*batches[-1])

    # The trials of a batch are proposed before any of its scores is known: the constant liar keeps them apart.
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(constant_liar=True, seed=0))
    evaluate_batches(study, DISTRIBUTIONS, evaluate, TRIALS, BATCH)
    return study, batches


def seconds(work, rounds=3):
    """How long it takes: the median."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def report(study, times, whole):
    print(f"{'':14} {'trials':>6} {'seconds':>8} {'trials per second':>18} {'ratio':>6}")
    for name, took in times.items():
        print(f"{name:14} {TRIALS:6} {took:8.2f} {TRIALS / took:18.0f} {times['one at a time'] / took:6.1f}")
    print(f"\nthe study in batches takes {whole:.2f} seconds, with the time Optuna needs to propose")
    failed = sum(trial.state is TrialState.FAIL for trial in study.trials)
    best = ", ".join(f"{name} {number:.2g}" for name, number in study.best_params.items())
    print(f"{failed} of {TRIALS} trials diverged; the best: {study.best_value:.4f} with {best}")


def main():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    traces = []
    run = make_run(*load(), traces)
    one = jax.jit(partial(run, "one at a time"))
    many = jax.jit(jax.vmap(partial(run, "in batches")))

    study, batches = search(many)
    trials = [jax.tree.map(itemgetter(lane), batch) for batch in batches for lane in range(BATCH)][:TRIALS]
    work = {"one at a time": lambda: [np.asarray(one(*trial)) for trial in trials], "in batches": lambda: [np.asarray(many(*batch)) for batch in batches]}
    scores = {name: np.hstack(score())[:TRIALS] for name, score in work.items()}  # now both are compiled
    report(study, {name: seconds(score) for name, score in work.items()}, seconds(lambda: search(many)))
    return study, scores, Counter(traces)


if __name__ == "__main__":
    main()
