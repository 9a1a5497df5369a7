"""Writes `favor.safetensors`: FAVOR+ by performer-pytorch and exact attention by PyTorch, with gradients, in
f64.

python3 tests/golden/favor.py [--check] [DIR]      with torch, performer-pytorch and safetensors

The softmax features without the small constant that performer-pytorch adds to them, the ReLU features with
theirs (1e-3). Seed 60 for q, k, v and d_out, and for PyTorch's global generator, which draws the projections.
"""

import torch
from performer_pytorch.performer_pytorch import (
    gaussian_orthogonal_random_matrix,
    generalized_kernel,
    linear_attention,
    softmax_kernel,
)

from common import Files, arguments, generator, normal, tensors

# n, heads, L, d, m.
SIZES = ((1, 1, 100, 16, 44), (2, 2, 33, 8, 20))


def attention(kind, q, k, v, w):
    if kind == "exact":
        return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v
    if kind == "softmax":
        features = [softmax_kernel(x, projection_matrix=w, is_query=x is q, eps=0.0) for x in (q, k)]
    else:
        features = [generalized_kernel(x, projection_matrix=w) for x in (q, k)]
    return linear_attention(*features, v)


if __name__ == "__main__":
    args = arguments(__doc__, __file__)
    files = Files(args.check)
    file = args.folder / "favor.safetensors"
    given, draw = tensors(file), generator(60)
    torch.manual_seed(60)
    inputs, outputs = {}, {}
    for n, heads, tokens, dim, features in SIZES:
        size = f"{n}x{heads}x{tokens}x{dim}x{features}"
        case = {x: normal(draw, n, heads, tokens, dim, dtype=torch.float64) for x in ("q", "k", "v", "d_out")}
        case["w"] = gaussian_orthogonal_random_matrix(features, dim).double()
        if given:
            case = {name: given[f"{size}.{name}"] for name in case}
        inputs |= {f"{size}.{name}": tensor for name, tensor in case.items()}
        for kind in ("softmax", "relu", "exact"):
            q, k, v = (case[x].clone().requires_grad_(True) for x in ("q", "k", "v"))
            out = attention(kind, q, k, v, case["w"])
            out.backward(case["d_out"])
            found = {"out": out, "d_q": q.grad, "d_k": k.grad, "d_v": v.grad}
            outputs |= {f"{size}.{kind}.{name}": tensor for name, tensor in found.items()}
    files.put(file, inputs, outputs, lambda name: (1e-10, "largest"))
    files.end()
