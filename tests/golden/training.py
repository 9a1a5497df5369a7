"""Writes `training_tiny`: ten training steps of a small network in f64.

python3 tests/golden/training.py [--check] [DIR]      with torch, diffusers and safetensors

Linear schedule 1e-4 to 0.02 with T = 1000, mean square error, clipping to a global norm of 1 (PyTorch's,
which divides by the norm + 1e-6), Adam with 2e-4, (0.9, 0.999) and 1e-8. Seed 40 for the weights, 41 for the
batches.
"""

import torch

from common import Files, arguments, generator, normal, tensors
from networks import config, network, widened

STEPS, BATCH = 10, 4

if __name__ == "__main__":
    args = arguments(__doc__, __file__)
    files = Files(args.check)
    folder = args.folder / "training_tiny"
    model = widened(network(folder, config(norm_num_groups=8), 40, args.check))
    file = folder / "training.safetensors"
    given, draw = tensors(file), generator(41)
    inputs = {}
    for i in range(STEPS):
        inputs[f"x0.{i}"] = torch.rand(BATCH, 3, 16, 16, generator=draw) * 2 - 1
        inputs[f"eps.{i}"] = normal(draw, BATCH, 3, 16, 16)
        inputs[f"t.{i}"] = torch.randint(0, 1000, (BATCH,), generator=draw)
    if given:
        inputs = {name: given[name] for name in inputs}

    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    adam = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.9, 0.999), eps=1e-8)
    losses, grad_norms, param_norms = [], [], []
    for i in range(STEPS):
        x0, eps, t = inputs[f"x0.{i}"].double(), inputs[f"eps.{i}"].double(), inputs[f"t.{i}"]
        level = alpha_bar[t].reshape(-1, 1, 1, 1)
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * eps
        loss = ((model(x_t, t).sample - eps) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        grad_norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        adam.step()
        losses.append(loss.detach())
        with torch.no_grad():
            param_norms.append(torch.stack([p.square().sum() for p in model.parameters()]).sum().sqrt())
    outputs = {
        "loss": torch.stack(losses),
        "grad_norm": torch.stack(grad_norms),
        "param_norm": torch.stack(param_norms),
    }
    outputs |= {f"final.{name}": parameter for name, parameter in model.named_parameters()}
    files.put(file, inputs, outputs, lambda name: (1e-9, "largest"))
    files.end()
