"""The acceptance test on a GPU: the same images as the engine's, and images per second compared with PyTorch.

    python3 onnx/gpu/measure.py                        # an NVIDIA GPU, Ho et al.'s network for CIFAR-10
    python3 onnx/gpu/measure.py --runtime DIR          # ONNX Runtime's CUDA build from DIR, also in parts (below)
    python3 onnx/gpu/measure.py --device cpu --quick   # all that can be tried without a GPU, in seconds

It needs the program (`cargo build --release`), Python with torch and numpy, and ONNX Runtime's CUDA build. On
a machine without network, DIR holds its libraries libonnxruntime.so*, libonnxruntime_providers_shared.so and
libonnxruntime_providers_cuda.so, or parts of their archive, made elsewhere by `tar -c LIBRARIES | xz | split
-b 55m -d - DIR/part.`. The CUDA libraries are those of torch's `nvidia` packages.

A markdown table goes to stdout, everything else to stderr. Exit status 1 if an image differs by more than
1e-3 with TF32 off.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

from unet import Unet, read_safetensors, write_safetensors

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = 1e-3
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

# Ho et al. (2020), appendix B, the network for CIFAR-10.
CIFAR10 = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
QUICK = {
    **CIFAR10,
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 2,
}
COMMON = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "add_attention": True,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "norm_eps": 1e-6,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "clip_sample": True,
    "timestep_spacing": "trailing",
}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:INDEX or cpu")
    parser.add_argument(
        "--quick", action="store_true", help="a tiny network and few steps, to try the script"
    )
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/performer-ddpm")
    parser.add_argument(
        "--runtime", type=pathlib.Path, help="ONNX Runtime's library, its folder, or a folder of parts"
    )
    parser.add_argument(
        "--model", type=pathlib.Path, help="a model folder [default: Ho et al.'s network, random weights]"
    )
    parser.add_argument("--batches", default="64,512", help="the batches to time")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps")
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


def random_model(folder, config):
    """A model folder with random weights, none zero."""
    config = {**COMMON, **config}
    torch.manual_seed(0)
    network = Unet(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    (folder / "unet/config.json").write_text(json.dumps(config))
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER))
    write_safetensors(folder / WEIGHTS, network.state_dict())
    return folder


def prepare_runtime(source, work):
    """The environment in which the program finds ONNX Runtime and the CUDA libraries."""
    environment = dict(os.environ)
    folders = []
    if source is not None:
        parts = sorted(source.glob("part.*")) if source.is_dir() else []
        if parts:
            library = work / "runtime"
            library.mkdir()
            unpack = f"cat {' '.join(str(part.resolve()) for part in parts)} | xz -dc | tar -x -C {library}"
            subprocess.run(["sh", "-c", unpack], check=True)
            source = library
        environment["ORT_DYLIB_PATH"] = str(source)
        folders.append(source if source.is_dir() else source.parent)
    packages = pathlib.Path(torch.__file__).parents[1]
    folders += sorted(packages.glob("nvidia/*/lib"))
    earlier = environment.get("LD_LIBRARY_PATH")
    environment["LD_LIBRARY_PATH"] = ":".join([*map(str, folders), *([earlier] if earlier else [])])
    return environment


class Program:
    """`performer-ddpm sample` of one model."""

    def __init__(self, args, model, environment, work):
        self.args, self.model, self.environment, self.work = args, model, environment, work

    def sample(self, *options, **named):
        """The figures that it prints, and the images."""
        npy = self.work / "images.npy"
        command = [self.args.binary, "sample", self.model, "--sampler", "ddim", "--json", "--quiet"]
        command += ["--npy", npy, "--out", self.work / "images.png", *options]
        for name, value in named.items():
            command += [f"--{name}" if len(name) > 1 else f"-{name}", value]
        outcome = subprocess.run(
            list(map(str, command)), env=self.environment, capture_output=True, text=True
        )
        if outcome.returncode:
            raise RuntimeError(outcome.stderr.strip())
        return json.loads(outcome.stdout), np.load(npy)

    def on_device(self, loop, tf32, **named):
        options = ["--backend", "ort", "--device", self.args.device, "--loop", loop] + ["--tf32"] * tf32
        return self.sample(*options, **named)


class Yardstick:
    """DDIM in PyTorch with the program's network, or the reason why there is none."""

    def __init__(self, model, device, steps, graph):
        config = json.loads((model / "unet/config.json").read_text())
        self.network = Unet(config).to(device).eval()
        self.network.load_state_dict(read_safetensors(model / WEIGHTS))
        self.device, self.graph = device, graph
        scheduler = json.loads((model / "scheduler/scheduler_config.json").read_text())
        total = scheduler["num_train_timesteps"]
        if scheduler["beta_schedule"] != "linear":
            raise SystemExit("the yardstick has the linear schedule only")
        alpha_bar = np.cumprod(1 - np.linspace(scheduler["beta_start"], scheduler["beta_end"], total))
        kept = np.rint(np.arange(1, steps + 1) * (total / steps)).astype(int) - 1
        before = np.concatenate([[1.0], alpha_bar[kept[:-1]]])
        self.clip = scheduler["clip_sample"]
        self.levels = list(zip(kept, alpha_bar[kept], before))[::-1]

    @torch.inference_mode()
    def sample(self, x, tf32):
        """Images from x_T."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        network = self.network
        t = torch.zeros(len(x), dtype=torch.int64, device=self.device)
        if self.graph:
            network = self.captured(x, t, tf32)
        for index, bar, prev in self.levels:
            t.fill_(int(index))
            eps = network(x, t)
            x0 = (x - (1 - bar) ** 0.5 * eps) / bar**0.5
            if self.clip:
                x0 = x0.clamp(-1, 1)
            x = prev**0.5 * x0 + (1 - prev) ** 0.5 * eps
        return x

    def captured(self, x, t, tf32):
        """The network as a CUDA graph for this batch."""
        key = (x.shape, tf32)
        if getattr(self, "key", None) != key:
            static_x, static_t = x.clone(), t.clone()
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.network(static_x, static_t)
            torch.cuda.current_stream().wait_stream(stream)
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded):
                static_eps = self.network(static_x, static_t)
            self.key, self.recorded = key, (recorded, static_x, static_t, static_eps)
        recorded, static_x, static_t, static_eps = self.recorded

        def replay(x, t):
            static_x.copy_(x)
            static_t.copy_(t)
            recorded.replay()
            return static_eps

        return replay

    def images_per_s(self, shape, tf32, runs):
        seconds = []
        for run in range(runs + 1):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(run))
            start = time.perf_counter()
            self.sample(x.to(self.device), tf32).cpu()
            seconds.append(time.perf_counter() - start)
        return shape[0] / statistics.median(seconds[1:])


def parity(program, loops, yardsticks, image, steps):
    """The largest difference to the engine's images for every way, from the same noise, TF32 off."""
    n = 3
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((steps + 1, n, *image), np.float32)
    file = program.work / "noise.npy"
    np.save(file, noise)
    named = {"n": n, "steps": steps, "noise": file, "batch": 2}
    _, engine = program.sample("--backend", "native", **named)
    differences = {}
    for loop in loops:
        _, images = program.on_device(loop, False, **named)
        differences[f"ONNX Runtime, {loop}"] = float(np.abs(images - engine).max())
    for name, yardstick in yardsticks.items():
        images = yardstick.sample(torch.from_numpy(noise[0]).to(yardstick.device), False).cpu().numpy()
        differences[name] = float(np.abs(images - engine).max())
    return differences


def main():
    args = arguments()
    steps, runs, batches = args.steps, 3, [int(batch) for batch in args.batches.split(",")]
    if args.quick:
        steps, runs, batches = 4, 1, [2, 3]
    cuda = args.device != "cpu"
    if cuda and not torch.cuda.is_available():
        raise SystemExit("no GPU that PyTorch can use; --device cpu --quick tries the script without one")
    loops = ["host", "device"] + ["cuda-graph"] * cuda + ["sampler"]
    precisions = [False, True] if cuda else [False]
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        environment = prepare_runtime(args.runtime, work)
        model = args.model or random_model(work / "model", QUICK if args.quick else CIFAR10)
        config = json.loads((model / "unet/config.json").read_text())
        side = config["sample_size"]
        image = (
            (config["in_channels"], side, side) if isinstance(side, int) else (config["in_channels"], *side)
        )
        program = Program(args, model, environment, work)
        yardsticks = {}
        try:
            few = 4 if args.quick else 10
            yardsticks["PyTorch, eager"] = Yardstick(model, args.device, few, False)
            if cuda:
                yardsticks["PyTorch, CUDA graph"] = Yardstick(model, args.device, few, True)
        except SystemExit as reason:
            say(f"PyTorch is left out: {reason}")
        differences = parity(program, loops, yardsticks, image, few)
        for name, difference in differences.items():
            say(f"{name}: largest difference to the engine's images {difference:.2e}")

        speeds = {name: {} for name in differences}
        about = None
        for batch in batches:
            for tf32 in precisions:
                for loop in loops:
                    name = f"ONNX Runtime, {loop}"
                    try:
                        figures, _ = program.on_device(
                            loop, tf32, n=batch * (runs + 1), batch=batch, steps=steps
                        )
                        speed = batch / statistics.median(figures["batch_seconds"][1:])
                        about = figures
                    except RuntimeError as error:
                        say(f"{name}, batch {batch}: {error}")
                        speed = None
                    speeds[name][batch, tf32] = speed
                for name in yardsticks:
                    yardstick = Yardstick(model, args.device, steps, yardsticks[name].graph)
                    speeds[name][batch, tf32] = yardstick.images_per_s((batch, *image), tf32, runs)
                say(f"batch {batch}, TF32 {'on' if tf32 else 'off'}: done")

    columns = [(batch, tf32) for batch in batches for tf32 in precisions]
    where = torch.cuda.get_device_name(args.device) if cuda else "the processor"
    runtime = f"ONNX Runtime {about['version']}" if about else "ONNX Runtime"
    print(f"Images per second in {steps} DDIM steps on {where}: {runtime}, PyTorch {torch.__version__}.\n")
    heads = [f"batch {batch}, {'TF32' if tf32 else 'fp32'}" for batch, tf32 in columns]
    print("| way | " + " | ".join(heads) + " | difference to the engine, fp32 |")
    print("|---|" + "---|" * (len(heads) + 1))
    for name, row in speeds.items():
        cells = ["failed" if row.get(column) is None else f"{row[column]:.1f}" for column in columns]
        print(f"| {name} | " + " | ".join(cells) + f" | {differences[name]:.1e} |")
    worst = max(differences.values())
    if not worst <= TOLERANCE:
        raise SystemExit(f"the images differ by {worst:.2e}, more than {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
