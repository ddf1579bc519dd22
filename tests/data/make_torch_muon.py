"""Writes torch_muon.json, the steps of ``torch.optim.Muon`` on matrices of given gradients. Needs PyTorch, which the tests do without.

python tests/data/make_torch_muon.py
"""

import json
from pathlib import Path

import numpy as np
import torch

RUNS = {
    "tall": ((5, 3), dict(lr=0.02, weight_decay=0.1)),
    "wide": ((4, 7), dict(lr=0.02, weight_decay=0.1)),
    "rms": ((6, 4), dict(lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")),
    "plain": ((4, 4), dict(lr=0.05, weight_decay=0.0, momentum=0.8, nesterov=False, ns_steps=3)),
}


def run(shape, arguments, steps=4):
    """The start, the gradients and the matrix after each step."""
    random = np.random.default_rng(0)
    start, grads = random.normal(size=shape).round(3), random.normal(size=(steps, *shape)).round(3)
    weights, path = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32)), []
    rule = torch.optim.Muon([weights], **arguments)
    for g in grads:
        weights.grad = torch.tensor(g, dtype=torch.float32)
        rule.step()
        path.append(weights.detach().double().numpy().tolist())
    return {"arguments": arguments, "start": start.tolist(), "grads": grads.tolist(), "path": path}


if __name__ == "__main__":
    runs = {name: run(*what) for name, what in RUNS.items()}
    file = Path(__file__).with_name("torch_muon.json")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(what)}" for name, what in runs.items())
    file.write_text(f'{{"torch": {json.dumps(torch.__version__)},\n{lines}}}\n')
