"""Writes `frechet.safetensors`: features of two sets of images and their Frechet distance by scipy.

python3 tests/golden/frechet.py [--check] [DIR]      with torch, numpy, scipy and safetensors

Seed 0 of numpy's default generator. The covariances have condition numbers of 1e4 and 8e4.
"""

import numpy as np
import torch
from scipy.linalg import sqrtm

from common import Files, arguments, tensors

rng = np.random.default_rng(0)


def features(count, scale, shift):
    rotation, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    return torch.from_numpy((rng.standard_normal((count, 6)) * scale) @ rotation + shift)


if __name__ == "__main__":
    args = arguments(__doc__, __file__)
    files = Files(args.check)
    file = args.folder / "frechet.safetensors"
    given = tensors(file)
    inputs = {
        "a": features(40, np.logspace(0, -2, 6), 0.0),
        "b": features(50, np.logspace(0.3, -2.2, 6), 0.1),
    }
    if given:
        inputs = {name: given[name] for name in inputs}
    a, b = inputs["a"].numpy(), inputs["b"].numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    distance = apart + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    files.put(file, inputs, {"distance": torch.tensor([distance])}, lambda name: (1e-6, "largest"))
    files.end()
