"""Times an exported denoiser and sampler in ONNX Runtime beside the same network exported by PyTorch's own
exporters.

    python3 onnx/compare_with_torch.py CONFIG.json [--program PROGRAM] [--batch 64] [--threads 2]

CONFIG.json is the configuration of a diffusers UNet2DModel. Its randomly initialised weights go through a
model folder, so that all files hold the same network; outputs are compared before anything is timed. Runs
alternate, and medians are printed, one JSON object a line. Needs torch, diffusers, onnx, onnxscript (for the
newer exporter), onnxruntime and numpy.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime
import torch
from diffusers import UNet2DModel


class Denoiser(torch.nn.Module):
    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, x, t):
        return self.unet(x, t).sample


def torch_exports(unet, x, t, folder):
    """The files of both exporters; one that fails is reported and left out."""
    files = {}
    batch = torch.export.Dim.DYNAMIC
    for name, options in {
        "torch_legacy": {
            "dynamo": False,
            "opset_version": 17,
            "dynamic_axes": {"x": {0: "N"}, "t": {0: "N"}},
        },
        "torch_dynamo": {
            "dynamo": True,
            "verbose": False,
            "dynamic_shapes": {"x": {0: batch}, "t": {0: batch}},
        },
    }.items():
        path = folder / f"{name}.onnx"
        try:
            with torch.no_grad():
                inputs = {"input_names": ["x", "t"], "output_names": ["eps"]}
                torch.onnx.export(Denoiser(unet).eval(), (x, t), str(path), **inputs, **options)
            files[name] = path
        except Exception as error:  # an exporter may lack a package or an operator
            print(json.dumps({"skipped": name, "reason": str(error).splitlines()[0][:200]}), flush=True)
    return files


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def alternate(tasks, runs):
    """The median seconds of each task, run in turn."""
    times = {name: [] for name in tasks}
    for i in range(runs + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if i > 0:
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--program", default="target/debug/performer-ddpm")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="of the sampler graph")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    config = json.loads(pathlib.Path(args.config).read_text())
    unet = UNet2DModel.from_config(config).eval()
    rng = np.random.default_rng(0)
    side = config["sample_size"]
    height, width = (side, side) if isinstance(side, int) else side
    x = rng.standard_normal((args.batch, config["in_channels"], height, width), np.float32)
    t = rng.integers(0, 1000, args.batch)
    feeds = {"x": x, "t": t}

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        unet.save_pretrained(folder / "model")
        files = {}
        for graph in ["denoiser", "sampler"]:
            path = folder / f"{graph}.onnx"
            steps = ["--steps", str(args.steps)] if graph == "sampler" else []
            command = [
                args.program,
                "export",
                path,
                "--model",
                folder / "model",
                "--graph",
                graph,
                "--check",
                "none",
            ]
            subprocess.run([*command, *steps, "--quiet"], check=True, stdout=subprocess.DEVNULL)
            files[graph] = path
        with torch.no_grad():
            outputs = {"torch": unet(torch.from_numpy(x), torch.from_numpy(t)).sample.numpy()}
        files |= torch_exports(unet, torch.from_numpy(x), torch.from_numpy(t), folder)
        sessions = {name: session(path, args.threads) for name, path in files.items()}

        want = sessions["denoiser"].run(None, feeds)[0]
        outputs |= {name: s.run(None, feeds)[0] for name, s in sessions.items() if name.startswith("torch_")}
        for name, got in outputs.items():
            difference = float(np.abs(got - want).max() / np.abs(want).max())
            print(json.dumps({"denoiser_against": name, "relative_difference": difference}), flush=True)
            assert difference < 1e-4

        denoisers = {n: s for n, s in sessions.items() if n != "sampler"}
        seconds = alternate({n: lambda s=s: s.run(None, feeds) for n, s in denoisers.items()}, args.runs)
        for name, median in seconds.items():
            print(
                json.dumps({"graph": name, "batch": args.batch, "images_per_s": args.batch / median}),
                flush=True,
            )

        sampler = sessions["sampler"]
        entries = sampler.get_modelmeta().custom_metadata_map
        timesteps = json.loads(entries["performer_ddpm.timesteps"])
        noise = np.zeros((args.steps, *x.shape), np.float32)
        loop_feeds = [{"x": x, "t": np.full(args.batch, index)} for index in timesteps]

        def host_loop():
            # The network alone: a host's update can only add to it.
            for each in loop_feeds:
                sessions["denoiser"].run(None, each)

        tasks = {"host_loop": host_loop, "sampler": lambda: sampler.run(None, {"x_T": x, "noise": noise})}
        for name, median in alternate(tasks, max(args.runs // 2, 3)).items():
            figures = {"chain": name, "steps": args.steps, "batch": args.batch, "seconds": median}
            print(json.dumps(figures), flush=True)


main()
