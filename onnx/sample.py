"""Samples images from an ONNX file that `performer-ddpm export` wrote: a denoiser, a step or a sampler graph.

Needs onnxruntime (or onnxruntime-gpu) and numpy, nothing else:

    python3 sample.py model.onnx -n 16 --steps 50 --out grid.png
    python3 sample.py model.onnx --device cuda --npy images.npy

With --noise FILE.npy, f32 [K+1, N, C, H, W] (x_T, then the noise of each step), the images are those of
`performer-ddpm sample --noise FILE.npy`.

A denoiser or a step graph is sampled by DDIM or Algorithm 2, over the trailing timesteps; a sampler graph has
its own sampler, of whatever kind. Files of networks with classes take --classes, those with guidance
--guidance too.
"""

import argparse
import json
import struct
import zlib

import numpy as np
import onnxruntime


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the ONNX file")
    parser.add_argument("-n", type=int, default=16, help="images")
    parser.add_argument(
        "--sampler", choices=["ddim", "ddpm"], default="ddim", help="of a denoiser or step graph"
    )
    parser.add_argument(
        "--steps", type=int, help="of a denoiser or step graph [default: 50 for ddim, all for ddpm]"
    )
    parser.add_argument("--eta", type=float, default=0.0, help="ddim's noise")
    parser.add_argument(
        "--classes", type=int, nargs="+", help="the images' classes in turn [default: all, but that for none]"
    )
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="its weight, 1 for the prediction for the class"
    )
    parser.add_argument("--rescale", type=float, default=0.0, help="of guidance (Lin et al. 2024), 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", help="x_T and the steps' noises, f32 [K+1, N, C, H, W]")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tf32", action="store_true", help="let a GPU compute products in TF32")
    parser.add_argument("--npy", help="the images, f32 [N, C, H, W] in [-1, 1]")
    parser.add_argument("--out", help="a PNG grid of the images")
    return parser.parse_args()


def load(path, device, tf32):
    """A session on the device, or an error: never on another device instead."""
    if device == "cuda":
        onnxruntime.preload_dlls()
        providers = [("CUDAExecutionProvider", {"use_tf32": int(tf32)})]
    else:
        providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, providers=providers)
    if device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise SystemExit(
            "the GPU cannot be used: see the messages above, and install onnxruntime-gpu[cuda,cudnn]"
        )
    return session


def metadata(session, key, default=None):
    entries = session.get_modelmeta().custom_metadata_map
    if default is not None:
        return entries.get(f"performer_ddpm.{key}", default)
    try:
        return entries[f"performer_ddpm.{key}"]
    except KeyError:
        raise SystemExit(
            f"the file has no metadata performer_ddpm.{key}: was it written by `performer-ddpm export`?"
        )


def process(session, args):
    """The steps in the order of sampling: the index t - 1 and the numbers, by name, of

    x0 = clip(a_x x + a_m m, low, high);  x_next = b_x0 x0 + b_x x + b_m m + sigma z

    for the network's output m.
    """
    betas = np.array(json.loads(metadata(session, "betas")))
    alpha_bar = np.array(json.loads(metadata(session, "alpha_bars", json.dumps(list(np.cumprod(1 - betas))))))
    clip, total = json.loads(metadata(session, "clip_x0")), len(betas)
    predicts = metadata(session, "parameterisation")
    steps = args.steps or (min(50, total) if args.sampler == "ddim" else total)
    kept = np.rint(np.arange(1, steps + 1) * (total / steps)).astype(int) - 1
    before = np.concatenate([[1.0], alpha_bar[kept[:-1]]])
    rows = []
    for index, bar, prev in list(zip(kept, alpha_bar[kept], before))[::-1]:
        alpha, signal, noise = bar / prev, np.sqrt(bar), np.sqrt(1 - bar)
        # x0 and the noise in x, from x and m.
        (a_x, a_m), (e_x, e_m) = {
            "eps": lambda: ((1 / signal, -noise / signal), (0.0, 1.0)),
            "x0": lambda: ((0.0, 1.0), (1 / noise, -signal / noise)),
            "v": lambda: ((signal, -noise), (noise, signal)),
        }[predicts]()
        posterior = (1 - prev) / (1 - bar) * (1 - alpha)
        if args.sampler == "ddim":
            variance = args.eta**2 * posterior
            direction = np.sqrt(max(0.0, 1 - prev - variance))
            b_x0, b_x, b_m = np.sqrt(prev), direction * e_x, direction * e_m
        else:
            variance = posterior if metadata(session, "variance") == "fixed_small" else 1 - alpha
            variance = variance if prev < 1 else 0.0
            b_x0, b_x, b_m = (
                np.sqrt(prev) * (1 - alpha) / (1 - bar),
                np.sqrt(alpha) * (1 - prev) / (1 - bar),
                0.0,
            )
        bound = 1.0
        if not clip:
            # Without clipping the step is linear in x and m. The terms are collected, because a_x may be
            # large.
            b_x, b_m, b_x0, a_x, a_m = b_x + b_x0 * a_x, b_m + b_x0 * a_m, 0.0, 0.0, 0.0
            bound = np.finfo(np.float32).max
        row = {"a_x": a_x, "a_m": a_m, "low": -bound, "high": bound}
        row |= {"b_x0": b_x0, "b_x": b_x, "b_m": b_m, "sigma": np.sqrt(variance)}
        rows.append((int(index), {name: np.float32(number) for name, number in row.items()}))
    return rows


def conditions(session, args, n):
    """The inputs of the classes and of guidance, for n images and one step."""
    feeds, names = {}, [port.name for port in session.get_inputs()]
    if "y" in names:
        count = int(metadata(session, "classes"))
        null = int(metadata(session, "null_class", count))
        classes = args.classes or [index for index in range(count) if index != null]
        feeds["y"] = np.resize(np.array(classes, np.int64), n)
    elif args.classes:
        raise SystemExit("--classes: the file's network takes no classes")
    if "guidance" in names:
        feeds["guidance"] = np.array([args.guidance, args.rescale], np.float32)
    elif args.guidance != 1.0:
        raise SystemExit("--guidance: the file's graph has none; export it with --guidance")
    return feeds


def by_denoiser(session, steps, x, noise, feeds):
    """The graph predicts; numpy takes the steps."""
    for (index, c), z in zip(steps, noise):
        (m,) = session.run(None, {"x": x, "t": np.full(len(x), index, np.int64), **feeds})
        # The channels after an image's are what the network says of the variance.
        m = m[:, : x.shape[1]]
        x0 = np.clip(c["a_x"] * x + c["a_m"] * m, c["low"], c["high"])
        x = c["b_x0"] * x0 + c["b_x"] * x + c["b_m"] * m + c["sigma"] * z
    return x


def by_steps(session, steps, x, noise, device, feeds):
    """The graph takes the steps; x, and what else it carries, stays on the device."""
    names = json.loads(metadata(session, "coefficients", json.dumps(list(steps[0][1]))))
    carried = json.loads(metadata(session, "carried", "[]"))
    binding = session.io_binding()
    n, zeros = len(x), np.zeros_like(x)
    states = {name: onnxruntime.OrtValue.ortvalue_from_numpy(zeros, device, 0) for name in carried}
    states = {"x": onnxruntime.OrtValue.ortvalue_from_numpy(x, device, 0)} | states
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    # Samplers of one step use nothing of what others carry; their base is x.
    others = dict.fromkeys(names, 0.0) | ({"c_x": 1.0} if "c_x" in names else {})
    for (index, c), z in zip(steps, noise):
        for name, state in states.items():
            binding.bind_ortvalue_input(name, state)
        binding.bind_cpu_input("t", np.full(n, index, np.int64))
        row = others | c
        binding.bind_cpu_input("coefficients", np.array([row[name] for name in names], np.float32))
        binding.bind_cpu_input("z", z)
        for name in states:
            binding.bind_output(f"{name}_next", device)
        session.run_with_iobinding(binding)
        states = dict(zip(states, binding.get_outputs()))
    return states["x"].numpy()


def by_sampler(session, x, noise, feeds):
    """The graph takes all steps in one run, or in runs of as many as its noise input holds."""
    per_run = session.get_inputs()[1].shape[0]
    outputs = [port.name for port in session.get_outputs()]
    carried = {name.removesuffix("_next"): np.zeros_like(x) for name in outputs[1:]}
    if "guidance" in feeds:
        feeds = feeds | {"guidance": np.tile(feeds["guidance"], (per_run, 1))}
    for first in range(0, len(noise), per_run):
        z = noise[first : first + per_run]
        z = np.concatenate([z, np.zeros((per_run - len(z), *z.shape[1:]), np.float32)])
        place = {"first": np.array([first])} if per_run < len(noise) else {}
        x, *kept = session.run(None, {"x_T": x, "noise": z, **place, **carried, **feeds})
        carried = dict(zip(carried, kept))
    return x


def sample(args):
    session = load(args.model, args.device, args.tf32)
    graph = metadata(session, "graph")
    if graph == "sampler":
        count, steps = int(metadata(session, "steps")), None
    else:
        steps = process(session, args)
        count = len(steps)
    image = session.get_inputs()[0].shape[1:]
    if args.noise:
        noise = np.load(args.noise)
        if noise.shape[:1] + noise.shape[2:] != (count + 1, *image):
            raise SystemExit(f"--noise: expected [{count + 1}, N, {image}], got {noise.shape}")
    else:
        noise = np.random.default_rng(args.seed).standard_normal((count + 1, args.n, *image), np.float32)
    x, noise = noise[0], noise[1:]
    feeds = conditions(session, args, len(x))
    if graph == "sampler":
        return by_sampler(session, x, noise, feeds)
    if graph == "step":
        return by_steps(session, steps, x, noise, args.device, feeds)
    return by_denoiser(session, steps, x, noise, feeds)


def write_png(path, images):
    """A square grid; images are f32 [N, C, H, W] in [-1, 1], C = 1 or 3."""
    n, c, h, w = images.shape
    side = int(np.ceil(np.sqrt(n)))
    pixels = np.zeros((side * side, h, w, c), np.uint8)
    pixels[:n] = np.clip(np.rint(images.transpose(0, 2, 3, 1) * 127.5 + 127.5), 0, 255)
    rows = pixels.reshape(side, side, h, w, c).swapaxes(1, 2).reshape(side * h, side * w * c)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side * w, side * h, 8, 2 if c == 3 else 0, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(raw))
            + chunk(b"IEND", b"")
        )


def main():
    args = arguments()
    images = sample(args)
    print(
        f"{len(images)} images {images.shape[1:]}, mean {images.mean():.4f}, from {images.min():.3f} to {images.max():.3f}"
    )
    if args.npy:
        np.save(args.npy, images)
    if args.out:
        write_png(args.out, images)


if __name__ == "__main__":
    main()
