"""Writes frechet.safetensors: features of two sets and their Frechet distance by scipy.

python3 tests/golden/frechet.py      with numpy, scipy and safetensors
"""
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.linalg import sqrtm

rng = np.random.default_rng(0)


def features(count, scale, shift):
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    return (rng.standard_normal((count, 6)) * scale) @ turn + shift


a = features(40, np.logspace(0, -2, 6), 0.0)
b = features(50, np.logspace(0.3, -2.2, 6), 0.1)
cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
distance = apart + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
save_file({"a": a, "b": b, "distance": np.array([distance])}, Path(__file__).with_suffix(".safetensors"))
print(distance, np.linalg.cond(cov_a), np.linalg.cond(cov_b))
