"""Training speed on a GPU beside PyTorch: images per second and the peak of the device's memory.

    python3 onnx/gpu/train.py MODEL:BATCH...           # model folders, such as data/fashion-model:64
    python3 onnx/gpu/train.py cifar10:128              # Ho et al.'s network with random weights

PyTorch takes the steps that the program takes: x_t from x_0, the mean square of the error, gradients clipped
to norm 1, Adam, the weights' average; eager and compiled, fp32 and TF32. The data are noise. With --results
FILE the figures are kept as `measure.py` keeps its own, and what is there is not measured again.
"""

import argparse
import json
import pathlib
import tempfile
import time

import torch

from measure import CIFAR10, WEIGHTS, Results, random_model
from unet import Unet, read_safetensors


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="FOLDER:BATCH, or cifar10:BATCH")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--ways", default="eager,compiled")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--seconds", type=float, help="begin nothing new after this many")
    parser.add_argument("--results", type=pathlib.Path, help="a JSON file to keep the figures in")
    return parser.parse_args()


def train(folder, batch, device, way, tf32, steps):
    """Images per second and the peak of memory in MiB."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    config = json.loads((folder / "unet/config.json").read_text())
    network = Unet(config).to(device)
    network.load_state_dict(read_safetensors(folder / WEIGHTS))
    parameters = list(network.parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    cuda = device != "cpu"
    adam = torch.optim.Adam(parameters, lr=2e-4, fused=cuda)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float().to(device)
    side = config["sample_size"]
    x_0 = torch.randn(batch, config["in_channels"], *([side, side] if isinstance(side, int) else side))
    x_0 = x_0.to(device)

    def loss_of(x_0):
        t = torch.randint(0, 1000, (batch,), device=device)
        eps = torch.randn_like(x_0)
        bar = alpha_bar[t][:, None, None, None]
        return ((network(bar.sqrt() * x_0 + (1 - bar).sqrt() * eps, t) - eps) ** 2).mean()

    if way == "compiled":
        torch._dynamo.reset()
        loss_of = torch.compile(loss_of, dynamic=False)

    def step():
        loss = loss_of(x_0)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1e-3)
        return loss

    for _ in range(4):
        step()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(steps):
        loss = step()
    loss = float(loss.detach())
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0
    return {"images_per_s": batch * steps / seconds, "peak_mib": peak, "loss": loss}


def main():
    args = arguments()
    results = Results(args.results, args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        work, made = pathlib.Path(folder), None
        for way in args.ways.split(","):
            for model in args.models:
                name, batch = model.rsplit(":", 1)
                if name == "cifar10":
                    made = made or random_model(work / "cifar10", CIFAR10)
                source = made if name == "cifar10" else pathlib.Path(name)
                for tf32 in (False, True):
                    key = f"train, {way}, {name}, {batch}, {'tf32' if tf32 else 'fp32'}"
                    results.add(
                        key, lambda: train(source, int(batch), args.device, way, tf32, args.steps)
                    )
    print(json.dumps(results.figures, indent=1))


if __name__ == "__main__":
    main()
