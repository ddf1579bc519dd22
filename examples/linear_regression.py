"""Least squares three ways, full batch, mini-batches and single examples, against the closed form.

The data are scikit-learn's diabetes table: 442 patients, 10 measurements each, and how the disease went on after a year.
"""

import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

import gdjax


def load():
    """Features and target, standardised."""
    features, target = load_diabetes(return_X_y=True)
    features, target = features - features.mean(axis=0), target - target.mean()
    return np.float32(features / features.std(axis=0)), np.float32(target / target.std())


def example_loss_fn(weights, example):
    """Half the squared error of one patient; ``fit`` takes the mean over patients."""
    features, target = example
    return 0.5 * (features @ weights - target) ** 2


def curvatures(features):
    """The largest and the smallest curvature of the loss: the ends of the spectrum of XᵀX/n."""
    spectrum = np.linalg.eigvalsh(np.float64(features).T @ np.float64(features) / len(features))
    return spectrum[-1], spectrum[0]


def descend(features, target):
    loss_fn, start = gdjax.finite_sum(example_loss_fn), jnp.zeros(features.shape[1])
    largest, smallest = curvatures(features)

    def run(rule, batch_size, **options):
        return gdjax.fit(loss_fn, start, (features, target), rule, batch_size=batch_size, **options)

    # Full batch: 2/(L + μ) is the best constant learning rate there is for gradient descent, and the gradient goes to 0.
    full = run(gdjax.gd(2 / (largest + smallest)), None, epochs=5000, stop=gdjax.stop.grad_norm(1e-5))

    # Batches: the gradients are noisy, and stay so at the minimum; a learning rate that decays to 0 averages the noise out.
    def decayed(learning_rate, batch_size, epochs):
        steps = epochs * -(-len(target) // batch_size)
        return run(gdjax.sgd(gdjax.schedules.linear(learning_rate, 0.0, steps)), batch_size, epochs=epochs, key=0)

    return {"full batch": full, "batches of 32": decayed(0.1, 32, 300), "single examples": decayed(0.01, 1, 100)}


def main():
    features, target = load()
    exact = np.linalg.lstsq(np.float64(features), np.float64(target), rcond=None)[0]
    largest, smallest = curvatures(features)
    print(f"442 patients, 10 features; curvatures from {smallest:.4f} to {largest:.4f}: a condition number of {largest / smallest:.0f}\n")

    def loss(weights):
        return 0.5 * np.mean((np.float64(features) @ np.float64(weights) - target) ** 2)

    results, excess = descend(features, target), {}
    print(f"{'':16} {'steps':>6} {'loss':>9} {'above minimum':>14}  verdict")
    print(f"{'closed form':16} {'':>6} {loss(exact):9.6f} {0:14.1e}")
    for name, result in results.items():
        excess[name] = loss(result.params) - loss(exact)
        print(f"{name:16} {int(result.steps):>6} {loss(result.params):9.6f} {excess[name]:14.1e}  {result.status.name}: {result.status.sentence}")
    return results, excess


if __name__ == "__main__":
    main()
