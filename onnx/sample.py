"""Samples images from an ONNX file that `performer-ddpm export` wrote: a denoiser, a step or a sampler graph.

Needs onnxruntime (or onnxruntime-gpu) and numpy, nothing else:

    python3 sample.py model.onnx -n 16 --steps 50 --out grid.png
    python3 sample.py model.onnx --device cuda --npy images.npy

With --noise FILE.npy, f32 [K+1, N, C, H, W] (x_T, then the noise of each step), the images are those of
`performer-ddpm sample --noise FILE.npy`.
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


def metadata(session, key):
    entries = session.get_modelmeta().custom_metadata_map
    try:
        return entries[f"performer_ddpm.{key}"]
    except KeyError:
        raise SystemExit(
            f"the file has no metadata performer_ddpm.{key}: was it written by `performer-ddpm export`?"
        )


def process(session, args):
    """The steps in the order of sampling: the index t - 1 and [a_x, a_eps, low, high, b_x0, b_x, b_eps,
    sigma] of

    x0 = clip(a_x x + a_eps eps, low, high);  x_next = b_x0 x0 + b_x x + b_eps eps + sigma z.
    """
    betas = np.array(json.loads(metadata(session, "betas")))
    clip = json.loads(metadata(session, "clip_x0"))
    alpha_bar, total = np.cumprod(1 - betas), len(betas)
    steps = args.steps or (min(50, total) if args.sampler == "ddim" else total)
    kept = np.rint(np.arange(1, steps + 1) * (total / steps)).astype(int) - 1
    before = np.concatenate([[1.0], alpha_bar[kept[:-1]]])
    rows = []
    for index, bar, prev in list(zip(kept, alpha_bar[kept], before))[::-1]:
        alpha = bar / prev
        posterior = (1 - prev) / (1 - bar) * (1 - alpha)
        if args.sampler == "ddim":
            variance = args.eta**2 * posterior
            b_x0, b_x, b_eps = np.sqrt(prev), 0.0, np.sqrt(max(0.0, 1 - prev - variance))
        else:
            variance = posterior if metadata(session, "variance") == "fixed_small" else 1 - alpha
            variance = variance if prev < 1 else 0.0
            b_x0, b_x, b_eps = (
                np.sqrt(prev) * (1 - alpha) / (1 - bar),
                np.sqrt(alpha) * (1 - prev) / (1 - bar),
                0.0,
            )
        a_x, a_eps, bound = 1 / np.sqrt(bar), -np.sqrt((1 - bar) / bar), 1.0
        if not clip:
            # Without clipping the step is linear in x and eps. The terms are collected, because a_x may be
            # large.
            b_x, b_eps, b_x0, a_x, a_eps = b_x + b_x0 * a_x, b_eps + b_x0 * a_eps, 0.0, 0.0, 0.0
            bound = np.finfo(np.float32).max
        row = [a_x, a_eps, -bound, bound, b_x0, b_x, b_eps, np.sqrt(variance)]
        rows.append((int(index), np.array(row, np.float32)))
    return rows


def by_denoiser(session, steps, x, noise):
    """The graph predicts the noise; numpy takes the steps."""
    for (index, c), z in zip(steps, noise):
        (eps,) = session.run(["eps"], {"x": x, "t": np.full(len(x), index, np.int64)})
        x0 = np.clip(c[0] * x + c[1] * eps, c[2], c[3])
        x = c[4] * x0 + c[5] * x + c[6] * eps + c[7] * z
    return x


def by_steps(session, steps, x, noise, device):
    """The graph takes the steps; x stays on the device."""
    binding = session.io_binding()
    x = onnxruntime.OrtValue.ortvalue_from_numpy(x, device, 0)
    for (index, c), z in zip(steps, noise):
        binding.bind_ortvalue_input("x", x)
        binding.bind_cpu_input("t", np.full(x.shape()[0], index, np.int64))
        binding.bind_cpu_input("coefficients", c)
        binding.bind_cpu_input("z", z)
        binding.bind_output("x_next", device)
        session.run_with_iobinding(binding)
        x = binding.get_outputs()[0]
    return x.numpy()


def by_sampler(session, x, noise):
    """The graph takes all steps in one run, or in runs of as many as its noise input holds."""
    per_run = session.get_inputs()[1].shape[0]
    for first in range(0, len(noise), per_run):
        z = noise[first : first + per_run]
        feeds = {
            "x_T": x,
            "noise": np.concatenate([z, np.zeros((per_run - len(z), *z.shape[1:]), np.float32)]),
        }
        if per_run < len(noise):
            feeds["first"] = np.array([first])
        (x,) = session.run(["images"], feeds)
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
    if graph == "sampler":
        return by_sampler(session, x, noise)
    if graph == "step":
        return by_steps(session, steps, x, noise, args.device)
    return by_denoiser(session, steps, x, noise)


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
