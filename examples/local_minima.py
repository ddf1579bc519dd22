"""Losses with many local minima: gradient descent stays in the first it meets, the noise of single examples leads out of it, and many starts find them all.

There are two. Rastrigin's function as a mean over data: every example is a bowl with ripples of its own, and those that the mean keeps are deep enough to be
stuck in. And a network with two hidden units that is to learn XOR. With matplotlib there is a picture too.
"""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gdjax

RIPPLES, EXAMPLES, HALF = 2.0, 64, 3.0  # starts are drawn between −3 and 3 in both coordinates
START = jnp.array([2.2, -1.8])
SMOOTHNESS = 2 + RIPPLES * (2 * np.pi) ** 2  # no example is more curved than this, and neither is the mean
RATES, RATE, STEPS, SEEDS = (0.002, 0.005, 0.01, 0.02, 0.05), 0.02, 10_000, 20
NEAR = 0.3  # of (0, 0): nearer to it than to any other minimum
STARTS = 400
CORNERS, XOR = jnp.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]), jnp.array([-1.0, 1.0, 1.0, -1.0])
DECAY = 1e-3  # of the params: without it some minima are at infinity


def load():
    """Where the examples have their ripples: from −1/3 to 1/3, evenly in both coordinates, so that the mean over all has its own around 0."""
    shifts = np.linspace(-1 / 3, 1 / 3, EXAMPLES, dtype=np.float32)
    return np.stack([shifts, np.random.default_rng(0).permutation(shifts)], axis=1)


@gdjax.finite_sum
def rastrigin(x, shift):
    """The loss of one example. The mean over all is the sum of x² + 2 − 0.8 cos 2πx over both coordinates, and least at 0."""
    return jnp.sum(x**2 + RIPPLES * (1 - jnp.cos(2 * jnp.pi * (x - shift))))


def draw_point(key):
    return jax.random.uniform(key, (2,), minval=-HALF, maxval=HALF)


def descend(start, data):
    """Gradient descent on the mean."""
    return gdjax.fit(rastrigin, start, data, gdjax.gd(1 / SMOOTHNESS), batch_size=None, epochs=1000, stop=gdjax.stop.grad_norm(1e-3))


@jax.jit
def mean_losses(points, data):
    """The mean over the data at points of shape (rows, columns, 2)."""
    return jax.vmap(jax.vmap(lambda x: gdjax.evaluate(rastrigin, x, data)))(points)


def falling(rate, end=0.0):
    """SGD with a learning rate that falls in a straight line. The noise falls with it, and leads out of ever shallower minima only."""
    return gdjax.sgd(gdjax.schedules.linear(rate, end, STEPS))


def wander(data):
    """SGD by single examples, from where gradient descent gets stuck: for each learning rate how many of the seeds end near (0, 0), and the mean loss."""
    rates, ends = jnp.array([*RATES, RATE]), jnp.array([0.0] * len(RATES) + [RATE])
    found = gdjax.sweep(lambda rule, key: gdjax.fit(rastrigin, START, data, rule, batch_size=1, steps=STEPS, key=key), falling(rates, ends), keys=range(SEEDS))
    losses = mean_losses(found.results.params, data)
    reached = np.sum(np.max(np.abs(found.results.params), axis=2) < NEAR, axis=1)
    labels = [*(f"{rate} to 0" for rate in RATES), f"{RATE}, constant"]
    return {label: (int(count), float(loss)) for label, count, loss in zip(labels, reached, np.mean(losses, axis=1), strict=True)}


def predict(params):
    """What the network says at the four corners."""
    return jnp.tanh(CORNERS @ params["weights"] + params["bias"]) @ params["out"] + params["mean"]


def xor(params):
    """The mean squared error, and a little of the squared params."""
    return jnp.mean((predict(params) - XOR) ** 2) + DECAY * sum(jnp.sum(x**2) for x in jax.tree.leaves(params))


def draw_network(key):
    shapes = {"weights": (2, 2), "bias": (1, 2), "out": (2,), "mean": ()}
    return {name: jax.random.normal(k, shape) for k, (name, shape) in zip(jax.random.split(key, 4), shapes.items(), strict=True)}


def said(minimum):
    """The predictions at a minimum, as text."""
    return "  ".join(f"{round(float(x), 2) + 0.0:5.2f}" for x in predict(minimum.params))  # −0.0 + 0.0 is 0.0


def path(rule, data, stops, **options):
    """The params after so many steps: each run goes on from the last."""
    seen, state = [START], None
    for steps in stops:
        result = gdjax.fit(rastrigin, START, data, rule, steps=steps, resume=state, **options)
        seen, state = [*seen, result.params], result.state
    return np.transpose(seen)


def plot_paths(ax, data, found, colours):
    """The mean loss, the ways of gradient descent and of SGD, and the starts in the colours of the losses they led to."""
    line = jnp.linspace(-HALF, HALF, 201)
    ax.contour(line, line, mean_losses(jnp.stack(jnp.meshgrid(line, line), axis=2), data), 16, colors="0.8", linewidths=0.7, zorder=0)
    starts = np.asarray(found.starts)
    for each, colour in zip(found.minima, colours, strict=True):
        ax.scatter(*starts[each.lanes].T, color=colour, s=16, label="_" if each is not found.minima[0] else "starts, coloured by the loss they led to")
    ax.plot(*np.transpose([each.params for each in found.minima]), "x", color="black", label="minima found")
    noisy = path(falling(RATE), data, [*range(8, 640, 8), *range(640, STEPS + 1, 64)], batch_size=1, key=0)
    ax.plot(*noisy, color="tab:green", linewidth=0.9, label="SGD, single examples, every 8th step, later every 64th")
    ax.plot(*path(gdjax.gd(1 / SMOOTHNESS), data, range(1, 50), batch_size=None), color="red", linewidth=3, label="gradient descent")
    ax.plot(*START, "s", color="red", markersize=9, markeredgecolor="black", label="where both started")
    ax.plot(0, 0, "*", color="gold", markersize=20, markeredgecolor="black", label="global minimum")
    ax.set(aspect="equal", title="Rastrigin's function, the mean over all examples", xlabel="x₁", ylabel="x₂")
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


def plot_losses(ax, found, colours, labels, title):
    """The final losses, sorted: a plateau is a minimum, or several with the same loss."""
    first, values = 1, np.asarray(found.results.value)
    for each, colour, label in zip(found.minima, colours, labels, strict=True):
        ax.plot(range(first, first + each.count), values[each.lanes], "o", markersize=4, color=colour, label=label)
        first += each.count
    ax.set(title=title, xlabel="starts, the best first", ylabel="final loss")
    ax.grid(alpha=0.3)


def plot(data, points, networks, out):
    """The picture as a PNG."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    panels = figure.subplot_mosaic([["paths", "points"], ["paths", "networks"]], width_ratios=[1.4, 1])
    losses, ranks = np.unique([round(each.value, 2) for each in points.minima], return_inverse=True)
    colours = colormaps["plasma"](0.9 * ranks / (len(losses) - 1))
    plot_paths(panels["paths"], data, points, colours)
    plot_losses(panels["points"], points, colours, ["_"] * len(points), f"Rastrigin: {STARTS} starts, {len(points)} minima")
    labels = [f"{said(each)}  from {each.count}" for each in networks.minima]
    plot_losses(panels["networks"], networks, [f"C{index}" for index in range(len(networks))], labels, f"XOR: {STARTS} starts, {len(networks)} minima")
    panels["networks"].legend(title="what the network says", loc="center left", frameon=False)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "local_minima.png", dpi=110)
    return out / "local_minima.png"


def main(out="gdjax-local-minima"):
    data = load()
    least, stuck = float(gdjax.evaluate(rastrigin, jnp.zeros(2), data)), descend(START, data)
    print(f"Rastrigin's function, the mean over {EXAMPLES} examples: {least:.4f} at (0, 0), its least.")
    print(f"Gradient descent from ({START[0]:.1f}, {START[1]:.1f}): {stuck.status.name} at ({stuck.params[0]:.3f}, {stuck.params[1]:.3f})", end=", ")
    print(f"loss {stuck.value:.4f}, gradient norm {stuck.grad_norm:.1e}.")

    reached = wander(data)
    print(f"\nSGD from there by single examples, {STEPS} steps\n{'learning rate':15} near (0, 0)  mean loss")
    for label, (count, loss) in reached.items():
        print(f"{label:15} {count:>5} of {SEEDS} {loss:10.4f}")

    points = gdjax.multistart(lambda x: descend(x, data), draw_point, STARTS, key=0)
    print(f"\nGradient descent on the mean from many points\n{points}")
    networks = gdjax.multistart(lambda params: gdjax.minimize(xor, params, tol=1e-4), draw_network, STARTS, key=0, compare=predict)
    print(f"\nXOR by two hidden units\n{networks}\n\n    loss  what it says at (−, −), (−, +), (+, −), (+, +)")
    for each in networks.minima:
        print(f"{each.value:8.4f}  {said(each)}")
    if importlib.util.find_spec("matplotlib") is None:
        print("\nno picture: matplotlib is not installed: pip install 'gdjax[plot]'")
    else:
        print(f"\nPicture in {plot(data, points, networks, Path(out))}")
    return least, stuck, reached, points, networks


if __name__ == "__main__":
    main(*sys.argv[1:])
