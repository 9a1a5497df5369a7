"""Writes `objectives.safetensors`: the losses of other predictions, with weights and a learned variance, in
f64.

python3 tests/golden2/objectives.py [--check] DIR      with torch and safetensors

The linear schedule 1e-4 to 0.02 with T = 1000; gradients by automatic differentiation. The formulas are those
of Salimans & Ho (2022), Hang et al. (2023) and Nichol & Dhariwal (2021), written here a second time. Seed
310.
"""

import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "golden"))
from common import Files, arguments, generator, normal, tensors

BATCH, CHANNELS, SIDE = 6, 2, 5
GAMMA = 5.0


def cumulative(x):
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def mean_of_each(x):
    return x.flatten(1).mean(1)


def log_probability(x0, mean, log_sigma):
    """log p(x0) of Ho et al. (2020), equation 13: the normal density's mass over a pixel value's bin."""
    above = cumulative((x0 + 1 / 255 - mean) * torch.exp(-log_sigma))
    below = cumulative((x0 - 1 / 255 - mean) * torch.exp(-log_sigma))
    mass = torch.where(x0 < -0.999, above, torch.where(x0 > 0.999, 1 - below, above - below))
    return mass.clamp(min=1e-12).log()


def bound(eps, v, x0, x_t, t, betas):
    """The bound's term at t in bits per dimension, the mean without a gradient."""
    alpha_bar = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    posterior = betas * (1 - before) / (1 - alpha_bar)
    log_posterior = torch.cat([posterior[1:2], posterior[1:]]).log()
    at = lambda table: table[t].reshape(-1, 1, 1, 1)
    beta, bar, bar_before = at(betas), at(alpha_bar), at(before)

    def mean_given(x0):
        return (bar_before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - bar_before) * x_t) / (1 - bar)

    predicted = (x_t - (1 - bar).sqrt() * eps.detach()) / bar.sqrt()
    share = (v + 1) / 2
    log_sigma2 = share * beta.log() + (1 - share) * at(log_posterior)
    mean, true_mean, true_log = mean_given(predicted), mean_given(x0), at(log_posterior)
    divergence = 0.5 * (
        log_sigma2
        - true_log
        + torch.exp(true_log - log_sigma2)
        + (true_mean - mean) ** 2 * torch.exp(-log_sigma2)
        - 1
    )
    decoder = -log_probability(x0, mean, 0.5 * log_sigma2)
    return mean_of_each(torch.where(t.reshape(-1, 1, 1, 1) == 0, decoder, divergence)) / math.log(2)


if __name__ == "__main__":
    args = arguments(__doc__, __file__)
    files = Files(args.check)
    file = args.folder / "objectives.safetensors"
    given, draw = tensors(file), generator(310)
    shape = (BATCH, CHANNELS, SIDE, SIDE)
    inputs = {
        "x0": torch.randint(0, 256, shape, generator=draw).double() / 127.5 - 1,
        "eps": normal(draw, *shape, dtype=torch.float64),
        "t": torch.tensor([0, 1, 37, 250, 600, 999]),
        "out": normal(draw, *shape, dtype=torch.float64),
        "out2": normal(draw, BATCH, 2 * CHANNELS, SIDE, SIDE, dtype=torch.float64),
    }
    if given:
        inputs = {name: given[name] for name in inputs}
    x0, eps, t = inputs["x0"], inputs["eps"], inputs["t"]
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bar = torch.cumprod(1 - betas, 0)[t]
    each = bar.reshape(-1, 1, 1, 1)
    snr = bar / (1 - bar)
    outputs = {
        "xt": each.sqrt() * x0 + (1 - each).sqrt() * eps,
        "v": each.sqrt() * eps - (1 - each).sqrt() * x0,
        "snr": snr,
    }
    clipped = snr.clamp(max=GAMMA)
    targets = {
        "epsilon": (eps, clipped / snr),
        "v_prediction": (outputs["v"], clipped / (snr + 1)),
        "sample": (x0, clipped),
    }
    for name, (target, min_snr) in targets.items():
        for name, weight in ((name, torch.ones_like(snr)), (f"{name}.min_snr_5", min_snr)):
            out = inputs["out"].clone().requires_grad_(True)
            losses = weight * mean_of_each((out - target) ** 2)
            losses.mean().backward()
            outputs |= {f"{name}.per_sample": losses, f"{name}.d_out": out.grad}
    out2 = inputs["out2"].clone().requires_grad_(True)
    prediction, v = out2.chunk(2, 1)
    bits = bound(prediction, v, x0, outputs["xt"], t, betas)
    losses = mean_of_each((prediction - eps) ** 2) + 0.001 * 1000 * bits
    losses.mean().backward()
    outputs |= {
        "learned_range.vb_bits_per_dim": bits,
        "learned_range.hybrid.per_sample": losses,
        "learned_range.hybrid.d_out": out2.grad,
    }
    files.put(file, inputs, outputs, lambda name: (1e-9, "largest"))
    files.end()
