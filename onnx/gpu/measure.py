"""The acceptance test on a GPU: the same images as the engine's, and images per second compared with PyTorch.

    python3 onnx/gpu/measure.py                        # an NVIDIA GPU, Ho et al.'s network for CIFAR-10
    python3 onnx/gpu/measure.py --runtime DIR          # ONNX Runtime's CUDA build from DIR, also in parts (below)
    python3 onnx/gpu/measure.py --device cpu --quick   # all that can be tried without a GPU, in seconds

It needs the program (`cargo build --release`), Python with torch and numpy, and ONNX Runtime's CUDA build. On
a machine without network, DIR holds its libraries libonnxruntime.so*, libonnxruntime_providers_shared.so and
libonnxruntime_providers_cuda.so, or parts of their archive, made elsewhere by `tar -c LIBRARIES | xz | split
-b 55m -d - DIR/part.`. The CUDA libraries are those of torch's `nvidia` packages.

Speeds are those of --model. Differences are those of the trained model that the repository carries: a network
with random weights multiplies rounding errors, its images differ from f64 by 2e-3 after ten steps in this
engine and by 7e-4 in PyTorch.

A part that fails is named and the others go on. With --results FILE every figure is kept in a file as soon as
it is there: a later call with the same file does only what it lacks, so that a machine's time can be used in
pieces (--ways, --seconds). A markdown table goes to stdout, everything else to stderr. Exit status 1 if an
image differs by more than 1e-3 with TF32 off, or a part failed.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback

import numpy as np
import torch

from unet import Unet, read_safetensors, write_safetensors

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = 1e-3
# The ways of taking the steps: this program's loops in ONNX Runtime, then PyTorch's.
LOOPS = {
    "cuda-graph": "ONNX Runtime, cuda-graph",
    "sampler": "ONNX Runtime, sampler",
    "device": "ONNX Runtime, device",
    "host": "ONNX Runtime, host",
}
YARDSTICKS = {
    "eager": "PyTorch, eager",
    "graph": "PyTorch, CUDA graph",
    "compiled": "PyTorch, compiled",
}
WAYS = {**LOOPS, **YARDSTICKS}
TRAINED = ROOT / "data/fashion-model"
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
    parser.add_argument("--precisions", default="fp32,tf32", help="fp32, tf32 or both")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps")
    parser.add_argument("--runs", type=int, default=3, help="timed batches, after one that is not")
    parser.add_argument("--ways", default=",".join(WAYS), help="which to time [default: all of them]")
    parser.add_argument("--seconds", type=float, help="begin nothing new after this many")
    parser.add_argument("--results", type=pathlib.Path, help="a JSON file to keep the figures in")
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
        """The figures that it prints, the images, and what it says meanwhile."""
        npy = self.work / "images.npy"
        command = [self.args.binary, "sample", self.model, "--sampler", "ddim", "--json"]
        command += ["--npy", npy, "--out", self.work / "images.png", *options]
        for name, value in named.items():
            command += [f"--{name}" if len(name) > 1 else f"-{name}", value]
        outcome = subprocess.run(
            list(map(str, command)), env=self.environment, capture_output=True, text=True
        )
        if outcome.returncode:
            raise RuntimeError(outcome.stderr.strip())
        return json.loads(outcome.stdout), np.load(npy), outcome.stderr

    def on_device(self, loop, tf32, *options, **named):
        options = ["--backend", "ort", "--device", self.args.device, "--loop", loop, *options]
        return self.sample(*options, *["--tf32"] * tf32, **named)

    def placement(self, loop):
        """How many nodes each provider runs, as ONNX Runtime reports it."""
        _, _, said = self.on_device(loop, False, "--verbose", n=2, steps=2)
        return re.findall(r"\[(\w+ExecutionProvider)\].*?(\d+)", said)


class Yardstick:
    """DDIM in PyTorch with the program's network."""

    def __init__(self, model, device, steps, way):
        config = json.loads((model / "unet/config.json").read_text())
        self.network = Unet(config).to(device).eval()
        self.network.load_state_dict(read_safetensors(model / WEIGHTS))
        self.device, self.way, self.captures = device, way, {}
        if way == "compiled":
            torch._dynamo.reset()
            self.network = torch.compile(self.network, mode="reduce-overhead", dynamic=False)
        scheduler = json.loads((model / "scheduler/scheduler_config.json").read_text())
        total = scheduler["num_train_timesteps"]
        if scheduler["beta_schedule"] != "linear":
            raise SystemExit("the yardstick has the linear schedule only")
        alpha_bar = np.cumprod(1 - np.linspace(scheduler["beta_start"], scheduler["beta_end"], total))
        kept = np.rint(np.arange(1, steps + 1) * (total / steps)).astype(int) - 1
        before = np.concatenate([[1.0], alpha_bar[kept[:-1]]])
        self.clip = scheduler.get("clip_sample", True)
        self.levels = list(zip(kept, alpha_bar[kept], before))[::-1]

    @torch.inference_mode()
    def sample(self, x, tf32):
        """Images from x_T."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        t = torch.zeros(len(x), dtype=torch.int64, device=self.device)
        network = self.captured(x, t, tf32) if self.way == "graph" else self.network
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
        if key not in self.captures:
            static_x, static_t = x.clone(), t.clone()
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.network(static_x, static_t)
            torch.cuda.current_stream().wait_stream(stream)
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded):
                static_eps = self.network(static_x, static_t)
            self.captures[key] = (recorded, static_x, static_t, static_eps)
        recorded, static_x, static_t, static_eps = self.captures[key]

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


class Results:
    """The figures by name, kept in a file, and what failed."""

    def __init__(self, file, seconds):
        self.file, self.failed = file, []
        self.deadline = time.monotonic() + (seconds or float("inf"))
        self.figures = json.loads(file.read_text()) if file and file.exists() else {}

    def add(self, name, measure):
        """Measures what is not there yet. What fails is said, and the others go on."""
        if name in self.figures:
            return
        if time.monotonic() > self.deadline:
            say(f"{name}: no time left")
            self.failed.append(name)
            return
        start = time.monotonic()
        try:
            self.figures[name] = measure()
        except (Exception, SystemExit) as error:
            say(f"{name}: {error}\n{traceback.format_exc(limit=-3)}")
            self.failed.append(name)
            return
        say(f"{name}: {self.figures[name]} ({time.monotonic() - start:.1f} s)")
        if self.file:
            self.file.write_text(json.dumps(self.figures, indent=1))


def measure(args, results, work):
    """Parity first, then speeds, the most important first."""
    cuda = args.device != "cpu"
    ways = [way for way in args.ways.split(",") if cuda or way in ("device", "host", "sampler", "eager")]
    precisions = [name == "tf32" for name in args.precisions.split(",")] if cuda else [False]
    batches = [2, 3] if args.quick else [int(batch) for batch in args.batches.split(",")]
    steps, runs, few = (4, 1, 4) if args.quick else (args.steps, args.runs, 10)
    environment = prepare_runtime(args.runtime, work)
    model = args.model or random_model(work / "model", QUICK if args.quick else CIFAR10)
    config = json.loads((model / "unet/config.json").read_text())
    side, channels = config["sample_size"], config["in_channels"]
    image = (channels, side, side) if isinstance(side, int) else (channels, *side)
    program, trained = (Program(args, folder, environment, work) for folder in (model, TRAINED))

    noise = np.random.default_rng(0).standard_normal((few + 1, 3, 1, 28, 28), np.float32)
    np.save(work / "noise.npy", noise)
    named = {"n": 3, "steps": few, "noise": work / "noise.npy", "batch": 2}
    engine = []

    def difference(way, tf32):
        """The largest difference to the engine's images, from the same noise."""
        if not engine:
            engine.append(trained.sample("--backend", "native", "--quiet", **named)[1])
        if way in LOOPS:
            images = trained.on_device(way, tf32, "--quiet", **named)[1]
        else:
            x = torch.from_numpy(noise[0]).to(args.device)
            images = Yardstick(TRAINED, args.device, few, way).sample(x, tf32).cpu().numpy()
        return float(np.abs(images - engine[0]).max())

    def speed(way, batch, tf32):
        if way in LOOPS:
            amounts = {"n": batch * (runs + 1), "batch": batch, "steps": steps}
            figures, _, _ = program.on_device(way, tf32, "--quiet", **amounts)
            results.figures["version"] = figures["version"]
            return batch / statistics.median(figures["batch_seconds"][1:])
        return Yardstick(model, args.device, steps, way).images_per_s((batch, *image), tf32, runs)

    if args.binary.exists():
        for tf32 in precisions:
            for way in [way for way in ways if way != "compiled"]:
                name = f"difference, {way}, {'tf32' if tf32 else 'fp32'}"
                results.add(name, lambda: difference(way, tf32))
        for way in [way for way in ways if way in LOOPS]:
            results.add(f"placement, {way}", lambda: program.placement(way))
    for batch in batches:
        for tf32 in precisions:
            for way in ways:
                name = f"speed, {way}, {batch}, {'tf32' if tf32 else 'fp32'}"
                results.add(name, lambda: speed(way, batch, tf32))
    where = torch.cuda.get_device_name(args.device) if cuda else "the processor"
    results.figures["device"], results.figures["steps"] = where, steps
    return [(batch, "tf32" if tf32 else "fp32") for batch in batches for tf32 in precisions]


def table(figures, columns):
    """The figures as markdown."""
    runtime = f"ONNX Runtime {figures.get('version', '(not run)')}"
    print(
        f"Images per second in {figures['steps']} DDIM steps on {figures['device']}: {runtime}, "
        f"PyTorch {torch.__version__}.\n"
    )
    heads = [f"batch {batch}, {precision}" for batch, precision in columns]
    heads += ["difference to the engine, fp32", "TF32"]
    print("| way | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads))
    for way, title in WAYS.items():
        speeds = [figures.get(f"speed, {way}, {batch}, {precision}") for batch, precision in columns]
        differences = [figures.get(f"difference, {way}, {precision}") for precision in ("fp32", "tf32")]
        if any(figure is not None for figure in speeds + differences):
            cells = ["" if speed is None else f"{speed:.1f}" for speed in speeds]
            cells += ["" if difference is None else f"{difference:.1e}" for difference in differences]
            print(f"| {title} | " + " | ".join(cells) + " |")


def main():
    args = arguments()
    if args.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("no GPU that PyTorch can use; --device cpu --quick tries the script without one")
    results = Results(args.results, args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        columns = measure(args, results, pathlib.Path(folder))
    table(results.figures, columns)
    exact = [name for name in results.figures if name.startswith("difference") and name.endswith("fp32")]
    worst = max((results.figures[name] for name in exact), default=0.0)
    if not worst <= TOLERANCE:
        raise SystemExit(f"the images differ by {worst:.2e}, more than {TOLERANCE:.0e}")
    if results.failed:
        raise SystemExit(f"failed: {'; '.join(results.failed)}")


if __name__ == "__main__":
    main()
