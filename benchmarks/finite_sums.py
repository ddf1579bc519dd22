"""Convex finite sums: gaps per pass over the data and time, beside scikit-learn's solvers, on a logistic regression like LIBSVM's a1a."""

from __future__ import annotations

import pathlib
import statistics
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from benchmarks import measure, register

RESULTS = pathlib.Path(__file__).parent / "results" / "finite_sums.json"
PASSES = 30
QUICK = ("saga()", "sag()")
COUNT = 1605
GROUPS = (5, 8, 5, 16, 7, 14, 6, 5, 2, 2, 2, 5, 41, 5)  # categories of the 14 attributes behind a1a's 123 binary features
PUBLISHED = {"saga": (2e-12, 1.6e-4), "sag": (9e-8, 3.2e-4), "svrg": (5e-6, 2.9e-3), "loopless_svrg": (5e-5, 4.5e-3)}  # on a1a itself, b = 1


def like_a1a(seed: int = 0):
    """(X, y): 1605 rows of 14 ones in 123 columns, with labels ±1 of a noisy linear model. a1a itself is not shipped."""
    draw = np.random.default_rng(seed)
    first, inputs = np.cumsum([0, *GROUPS]), np.zeros((COUNT, sum(GROUPS)))
    for start, size in zip(first, GROUPS, strict=False):
        inputs[np.arange(COUNT), start + draw.choice(size, COUNT, p=draw.dirichlet(np.ones(size) * 0.5))] = 1
    weights = draw.normal(size=inputs.shape[1])
    return inputs, np.where(inputs @ weights + draw.logistic(size=COUNT) > 0, 1.0, -1.0)


def example_loss(w, example):
    """The logistic loss of one row."""
    return jax.nn.softplus(-example[1] * jnp.dot(example[0], w))


class Problem:
    """A regularised logistic regression and its minimum."""

    def __init__(self, inputs, labels, share: float):
        largest = 0.25 * np.max(np.sum(inputs**2, 1))
        self.data, self.regularization = (jnp.asarray(inputs), jnp.asarray(labels)), largest / len(labels) * share
        self.largest = largest + self.regularization
        self.loss = gdjax.finite_sum(example_loss, lambda w: self.regularization / 2 * jnp.vdot(w, w))
        self.start = jnp.zeros(inputs.shape[1])
        self.minimum = self._newton()

    def _newton(self):
        value, hessian = jax.jit(jax.value_and_grad(self.value)), jax.jit(jax.hessian(self.value))
        w = self.start
        for _ in range(30):
            w = w - jnp.linalg.solve(hessian(w), value(w)[1])
        return float(value(w)[0])

    def value(self, w):
        """The loss over all data."""
        return self.loss(w, self.data)

    def gap(self, w) -> float:
        """The loss above its minimum; at rounding level this may be 0."""
        return abs(float(self.value(jnp.asarray(w))) - self.minimum)


def ours(problem: Problem, rule, batch_size: int, cost: float, shuffle, repeats: int):
    """(gap, passes, compile seconds, seconds) of a rule that takes ``cost`` passes per epoch, for about 30 passes in all."""
    steps = max(int(PASSES / cost * len(problem.data[1]) / batch_size), 1)

    def run():
        start = time.perf_counter()
        result = gdjax.fit(problem.loss, problem.start, problem.data, rule, batch_size=batch_size, steps=steps, key=0, shuffle=shuffle, history=())
        jax.block_until_ready(result.params)
        return result, time.perf_counter() - start

    result, first = run()
    warm = [run()[1] for _ in range(repeats)]
    return problem.gap(result.params), int(result.evaluations) * batch_size / len(problem.data[1]), first - min(warm), statistics.median(warm), min(warm)


def theirs(problem: Problem, solver: str, inputs, repeats: int):
    """The same of a solver of scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    labels, seconds = np.asarray(problem.data[1]), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 30 passes were not enough
        for _ in range(repeats + 1):
            model = LogisticRegression(
                C=1 / (problem.regularization * len(labels)), solver=solver, fit_intercept=False, tol=0.0, max_iter=PASSES, random_state=0
            )
            start = time.perf_counter()
            model.fit(inputs, labels)
            seconds.append(time.perf_counter() - start)
    return problem.gap(model.coef_[0]), float(PASSES), 0.0, statistics.median(seconds[1:]), min(seconds[1:])


def contenders(problem: Problem):
    """(name, rule, batch size, passes per epoch, order of the rows)."""
    steps, L = PASSES * COUNT, problem.largest
    decay = gdjax.sgd(gdjax.schedules.linear(1 / L, 0.0, steps))
    return [
        ("saga()", gdjax.saga(), 1, 34 / 30, "epoch"),
        ("saga(1/(3L))", gdjax.saga(1 / (3 * L)), 1, 1, "epoch"),
        ("saga(), independent rows", gdjax.saga(), 1, 34 / 30, "replacement"),
        ("saga(), b = 8", gdjax.saga(), 8, 36 / 30, "epoch"),
        ("sag()", gdjax.sag(), 1, 34 / 30, "replacement"),
        ("sag(), b = 8", gdjax.sag(), 8, 36 / 30, "replacement"),
        ("svrg()", gdjax.svrg(), 1, 2.7, "epoch"),
        ("loopless_svrg()", gdjax.loopless_svrg(), 1, 3.2, "epoch"),
        ("page(), b = 40", gdjax.page(), 40, 3.2, "epoch"),
        ("sgd, linear decay", decay, 1, 1, "epoch"),
        ("sgd, linear decay, indep.", decay, 1, 1, "replacement"),
        ("sgd, constant 1/(2L)", gdjax.sgd(1 / (2 * L)), 1, 1, "epoch"),
    ]


COLUMNS = ("gap", "passes", "ns/example", "warm s", "fastest s", "compile s")


def measure_problem(problem: Problem, title: str, inputs, repeats: int, quick: bool = False) -> dict:
    """What every contender came to on a problem."""
    import scipy.sparse

    rows = [(name, ours(problem, *rest, repeats)) for name, *rest in contenders(problem) if name in QUICK or not quick]
    rows += [(f"scikit-learn {solver}", theirs(problem, solver, inputs, repeats)) for solver in ("saga", "sag")]
    sparse = scipy.sparse.csr_matrix(inputs)
    rows += [(f"scikit-learn {solver}, sparse rows", theirs(problem, solver, sparse, repeats)) for solver in ("saga", "sag")]
    found = {}
    for name, (gap, passes, compiling, warm, fastest) in rows:
        found[name] = dict(zip(COLUMNS, (gap, passes, fastest / passes / COUNT * 1e9, warm, fastest, compiling), strict=True))
    return {"problem": title, "minimum": problem.minimum, "rows": found}


def table(found: dict, markdown: bool = False) -> str:
    """A problem's contenders."""
    forms = dict(zip(COLUMNS, (".1e", ".1f", ".0f", ".4f", ".4f", ".2f"), strict=True))
    rows = [[name, *(format(row[column], form) for column, form in forms.items())] for name, row in found["rows"].items()]
    head = f"{found['problem']}: {COUNT} rows, {sum(GROUPS)} columns, minimum {found['minimum']:.12f}, float64."
    return f"{head}\n\n{measure.table(['', *COLUMNS], rows, markdown)}"


CRITERION = (
    "Gap: the loss after about 30 passes above its minimum. Passes count all that was evaluated. Time: the fastest warm run, per example evaluated. "
    "On a1a itself, from the literature table in use, gap at 30 passes: "
) + ", ".join(f"{name} {first:.0e} and {second:.0e}" for name, (first, second) in PUBLISHED.items())


def as_markdown(report: dict) -> str:
    """The report as a Markdown page."""
    return "\n\n".join([measure.heading("Finite sums", report, f"{CRITERION}."), *(table(found, markdown=True) for found in report["problems"])])


def add_arguments(parser) -> None:
    """Options of the subcommand."""
    parser.add_argument("--quick", action="store_true", help=f"one problem, and of gdjax only {' and '.join(QUICK)}")
    parser.add_argument("--repeats", type=int, default=5, help="warm runs of which the median and the fastest are shown")
    measure.add_json_argument(parser, RESULTS)


@register("finite_sums", add_arguments)
def main(arguments) -> int:
    """Variance reduction on finite sums: the gap after 30 passes and the time, beside scikit-learn's sag and saga."""
    inputs, labels = like_a1a()
    report = {"benchmark": "finite_sums", "machine": measure.machine(), "problems": []}
    print(CRITERION)
    with jax.enable_x64(True):
        for share, title in ((1.0, "λ = L_max/n"), (0.1, "λ = L_max/(10 n)"))[: 1 if arguments.quick else 2]:
            report["problems"].append(measure_problem(Problem(inputs, labels, share), title, inputs, arguments.repeats, arguments.quick))
            print(f"\n{table(report['problems'][-1])}")
    if arguments.json:
        measure.save(report, as_markdown(report), arguments.json)
    return 0
