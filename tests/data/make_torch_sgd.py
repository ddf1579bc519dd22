"""Makes torch_sgd.json: the paths of torch.optim.SGD in float64 over a grid of its arguments: python tests/data/make_torch_sgd.py (needs PyTorch).

The loss is logistic regression with a bias on six examples plus a wave, coupled and not centred at 0; tests/rules/test_sgd.py has the same in JAX.
"""

import itertools
import json
from pathlib import Path

import torch

INPUTS = [[0.5, -1.2, 2.0], [1.5, 0.3, -0.7], [-0.4, 2.2, 0.1], [0.9, -0.6, -1.8], [-2.1, 0.8, 0.6], [0.2, 1.1, -1.3]]
LABELS = [1.0, -1.0, 1.0, -1.0, -1.0, 1.0]
WEIGHTS, BIAS = [0.3, -0.8, 1.4], -0.5
STEPS = 6


def loss_fn(weights, bias):
    margins = torch.tensor(LABELS, dtype=torch.float64) * (torch.tensor(INPUTS, dtype=torch.float64) @ weights + bias)
    return torch.nn.functional.softplus(-margins).mean() + 0.3 * torch.sin(weights + 2 * bias).sum()


def path(**arguments):
    weights = torch.tensor(WEIGHTS, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(BIAS, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weights, bias], lr=0.15, **arguments)
    rows = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_fn(weights, bias).backward()
        optimizer.step()
        rows.append([*weights.tolist(), bias.item()])
    return rows


def main():
    grid = itertools.product([0.0, 0.5, 0.9], [0.0, 0.3], [0.0, 0.05], [False, True], [False, True])
    cases = []
    for momentum, dampening, weight_decay, nesterov, maximize in grid:
        if ((dampening or nesterov) and not momentum) or (dampening and nesterov):
            continue  # PyTorch raises, or ignores the dampening
        arguments = {"momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov, "maximize": maximize}
        cases.append({"arguments": arguments, "path": path(**arguments)})
    file = Path(__file__).with_name("torch_sgd.json")
    lines = ",\n  ".join(json.dumps(case) for case in cases)
    head = json.dumps({"torch": torch.__version__, "inputs": INPUTS, "labels": LABELS, "weights": WEIGHTS, "bias": BIAS, "learning_rate": 0.15})
    file.write_text(f'{head[:-1]}, "cases": [\n  {lines}\n]}}\n')


if __name__ == "__main__":
    main()
