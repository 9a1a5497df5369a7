"""Samples images from an ONNX file that `performer-ddpm export` wrote: a denoiser, a step or a sampler graph.

Needs onnxruntime (or onnxruntime-gpu) and numpy, nothing else:

    python3 sample.py model.onnx -n 16 --steps 50 --out grid.png
    python3 sample.py model.onnx --device cuda --npy images.npy

With --noise FILE.npy, f32 [K+1, N, C, H, W] (x_T, then the noise of each step), the images are those of
`performer-ddpm sample --noise FILE.npy`.

A denoiser or a step graph is sampled as the scheduler in its metadata says, or by --sampler over the trailing
timesteps; a sampler graph has its own sampler. Of what schedulers know, dynamic thresholding and learned
variances are left to step graphs that have them and to sampler graphs. Files of networks with classes take
--classes, those with guidance --guidance too.
"""

import argparse
import json
import math
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
        "--sampler",
        choices=["ddim", "ddpm", "dpm++", "unipc"],
        help="of a denoiser or step graph [default: as the file has it]",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="of a denoiser or step graph [default: 50 for ddim, all for ddpm, 15 for the others]",
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


METHODS = {"ddim": "ddim", "ddpm": "ddpm", "dpm++": "dpm_solver", "unipc": "uni_pc"}

# What a method has where another sampler than the file's is asked for.
USUAL = {
    "ddim": {"eta": 0.0, "rederive_eps": False, "set_alpha_to_one": True},
    "ddpm": {"variance": "fixed_small", "noise_at_last": True},
    "dpm_solver": {
        "order": 2,
        "second_order": "midpoint",
        "sde": False,
        "karras": False,
        "final_sigma_zero": True,
        "euler_at_final": False,
        "lower_order_final": True,
    },
    "uni_pc": {
        "order": 2,
        "b": "bh2",
        "karras": False,
        "sigma_min": None,
        "sigma_max": None,
        "final_sigma_zero": True,
        "lower_order_final": True,
        "corrector_off": [],
    },
}


def scheduler(session, args):
    """The method and its choices, the spacing and offset of its timesteps, and the bound of x0 or None."""
    clips = json.loads(metadata(session, "clip_x0"))
    file = json.loads(metadata(session, "scheduler", "null"))
    if file is None:
        # A file of an earlier version.
        file = {"spacing": "trailing", "steps_offset": 0, "limit": {"clip": {"range": 1.0}} if clips else "off"}
        file["method"] = {"ddim": USUAL["ddim"]}
    ((method, choices),) = file["method"].items()
    asked = METHODS[args.sampler or ("ddim" if args.eta else None) or by_name(method)]
    limit = file["limit"]
    spacing, offset = file["spacing"], file["steps_offset"]
    if asked != method:
        choices = dict(USUAL[asked])
        if asked == "ddpm":
            choices["variance"] = metadata(session, "variance")
        # Solvers do not clip, unless their own file says so; the others do where the model's process does.
        one_step = ("ddim", "ddpm")
        if method in one_step and asked not in one_step and "threshold" not in limit:
            limit = "off"
        elif method not in one_step and asked in one_step and limit == "off" and clips:
            limit = {"clip": {"range": 1.0}}
    if args.eta:
        choices = choices | {"eta": args.eta}
    if "threshold" in limit and metadata(session, "graph") == "denoiser":
        raise SystemExit("dynamic thresholding is in the step and sampler graphs, not in a denoiser")
    bound = limit["clip"]["range"] if "clip" in limit else None
    return asked, choices, spacing, offset, bound


def by_name(method):
    return next(name for name, known in METHODS.items() if known == method)


def process(session, args):
    """The steps in the order of sampling: the index t - 1 and the numbers, by name, of

    x0 = clip(a_x x + a_m m, low, high);  base = c_x x + c_base base + c_x0 x0 + c_x0_1 x0' + ..
    x_next = b_x0 x0 + b_x base + b_m m + b_x0_1 x0' + .. + sigma z

    for the network's output m and the x0', x0'' of the steps before; base is x where no c is named.
    """
    betas = np.array(json.loads(metadata(session, "betas")))
    alpha_bar = np.array(json.loads(metadata(session, "alpha_bars", json.dumps(list(np.cumprod(1 - betas))))))
    method, choices, spacing, offset, bound = scheduler(session, args)
    total = len(betas)
    usual = {"ddim": 50, "ddpm": total}.get(method, 15)
    steps = args.steps or min(usual, total if spacing == "trailing" or usual > 15 else total - 1)
    if method in ("ddim", "ddpm"):
        rows = one_step(session, alpha_bar, method, choices, (spacing, offset), steps, bound)
    else:
        rows = multistep(session, alpha_bar, method, choices, (spacing, offset), steps)
    if bound is None:
        bound = float(np.finfo(np.float32).max)
    limits = {"low": -bound, "high": bound}
    return [(int(i), {name: np.float32(number) for name, number in (limits | row).items()}) for i, row in rows]


def predicted(session, signal, noise):
    """x0 and the noise in x, from x and the network's output."""
    return {
        "eps": lambda: ((1 / signal, -noise / signal), (0.0, 1.0)),
        "x0": lambda: ((0.0, 1.0), (1 / noise, -signal / noise)),
        "v": lambda: ((signal, -noise), (noise, signal)),
    }[metadata(session, "parameterisation")]()


def one_step(session, alpha_bar, method, choices, timesteps, steps, bound):
    """Algorithm 2 and DDIM."""
    total, (spacing, offset) = len(alpha_bar), timesteps
    kept = {
        "trailing": lambda: np.rint(np.arange(1, steps + 1) * (total / steps)).astype(int) - 1,
        "leading": lambda: np.arange(steps) * (total // steps) + offset,
        "linspace": lambda: np.rint(np.linspace(0, total - 1, steps)).astype(int),
    }[spacing]()
    before = np.concatenate([[1.0], alpha_bar[kept[:-1]]])
    if method == "ddim":
        # A step of DDIM leads down by floor(T/K), as diffusers has it, which trailing timesteps may not.
        last = 1.0 if choices["set_alpha_to_one"] else alpha_bar[0]
        down = kept - total // steps
        is_text = choices["set_alpha_to_one"] and metadata(session, "parameterisation") == "eps"
        if not (is_text and offset == 0 and alpha_bar[-1] > 0 and bound in (None, 1.0)):
            before = np.where(down < 0, last, alpha_bar[np.maximum(down, 0)])
    rows = []
    for index, bar, prev in list(zip(kept, alpha_bar[kept], before))[::-1]:
        alpha, signal, noise = bar / prev, np.sqrt(bar), np.sqrt(1 - bar)
        (a_x, a_m), (e_x, e_m) = predicted(session, signal, noise)
        posterior = (1 - prev) / (1 - bar) * (1 - alpha)
        if method == "ddim":
            variance = choices["eta"] ** 2 * posterior
            direction = np.sqrt(max(0.0, 1 - prev - variance))
            if choices["rederive_eps"] and bound is not None:
                # The noise is what is left of x where x0 was clipped.
                e_x, e_m, of_x0 = 1 / noise, 0.0, -signal / noise
            else:
                of_x0 = 0.0
            b_x0, b_x, b_m = np.sqrt(prev) + direction * of_x0, direction * e_x, direction * e_m
        else:
            if choices["variance"] not in ("fixed_small", "fixed_large"):
                raise SystemExit("a learned variance: sample from a sampler graph, or by --sampler ddim")
            variance = posterior if choices["variance"] == "fixed_small" else 1 - alpha
            variance = variance if prev < 1 or (choices["noise_at_last"] and index > 0) else 0.0
            b_x0, b_x, b_m = (
                np.sqrt(prev) * (1 - alpha) / (1 - bar),
                np.sqrt(alpha) * (1 - prev) / (1 - bar),
                0.0,
            )
        if bound is None:
            # Without clipping the step is linear in x and m. The terms are collected, because a_x may be
            # large.
            b_x, b_m, b_x0, a_x, a_m = b_x + b_x0 * a_x, b_m + b_x0 * a_m, 0.0, 0.0, 0.0
        row = {"a_x": a_x, "a_m": a_m, "b_x0": b_x0, "b_x": b_x, "b_m": b_m, "sigma": np.sqrt(variance)}
        rows.append((index, row))
    return rows


def ladder(alpha_bar, method, choices, timesteps, steps):
    """The indices that a multistep solver visits, and its noise levels with the one behind the last step."""
    total, (spacing, offset) = len(alpha_bar), timesteps
    # Zero terminal SNR would be an infinite level; this is diffusers' stand-in for it.
    bars = np.where(alpha_bar == 0, 2.0**-24, alpha_bar)
    table = np.sqrt((1 - bars) / bars)
    kept = int(np.sum(-np.log(table) >= choices.get("lambda_min", -math.inf)))
    if spacing == "linspace":
        indices = np.rint(np.arange(1, steps + 1) * ((kept - 1) / steps)).astype(int)[::-1]
    elif spacing == "leading":
        indices = (np.arange(1, steps + 1) * (kept // (steps + 1)) + offset)[::-1]
    else:
        places = np.rint(kept - np.arange(steps) * (total / steps)).astype(int)
        indices = places[places >= 1] - 1
    levels, end = table[indices], table[0]
    if choices["karras"]:
        low, high = choices.get("sigma_min") or table[0], choices.get("sigma_max") or table[-1]
        share = np.arange(steps) / max(steps - 1, 1)
        levels = (high ** (1 / 7) + share * (low ** (1 / 7) - high ** (1 / 7))) ** 7
        indices = np.rint(np.interp(np.log(levels), np.log(table), np.arange(total))).astype(int)
        end = levels[-1] if method == "uni_pc" else table[0]
    return indices, np.append(levels, 0.0 if choices["final_sigma_zero"] else end)


def multistep(session, alpha_bar, method, choices, timesteps, steps):
    """DPM-Solver++ and UniPC, whose steps look back at the x0 of those before."""
    indices, levels = ladder(alpha_bar, method, choices, timesteps, steps)
    alphas = 1 / np.sqrt(1 + levels**2)
    count, most = len(indices), choices["order"]
    rows = []
    for i, index in enumerate(indices):
        (a_x, a_m), _ = predicted(session, alphas[i], levels[i] * alphas[i])
        row = {"a_x": a_x, "a_m": a_m, "b_m": 0.0, "sigma": 0.0}
        if method == "dpm_solver":
            last, short = i + 1 == count, choices["lower_order_final"] and count < 15
            order = min(most, i + 1)
            if last and (choices["euler_at_final"] or short or choices["final_sigma_zero"]):
                order = 1
            elif i + 2 == count and short:
                order = min(order, 2)
            row |= dpm_step(levels, alphas, i, order, choices)
        else:

            def order_at(i):
                left = count - i if choices["lower_order_final"] else most
                return min(most, i + 1, left)

            row |= unipc_predictor(levels, alphas, i, order_at(i), choices)
            if i > 0 and i - 1 not in choices["corrector_off"]:
                row |= unipc_corrector(levels, alphas, i - 1, order_at(i - 1), choices)
            else:
                row |= {"c_x": 1.0}
        rows.append((index, row))
    return rows


def of_x0(prefix, numbers):
    """The numbers of x0, x0', x0'' by name."""
    return {f"{prefix}_x0" + (f"_{k}" if k else ""): number for k, number in enumerate(numbers)}


def dpm_step(levels, alphas, i, order, choices):
    """DPM-Solver++ (Lu et al. 2022), first to third order, as diffusers has it."""
    if levels[i + 1] == levels[i]:
        return {"b_x": 1.0, "b_x0": 0.0}
    alpha, sigma, shrink = alphas[i + 1], levels[i + 1] * alphas[i + 1], levels[i + 1] / levels[i]
    h = math.log(levels[i]) - math.log(levels[i + 1]) if levels[i + 1] > 0 else math.inf
    base, twice = sigma / (levels[i] * alphas[i]), h
    if choices["sde"]:
        base, twice = base * shrink, 2 * h
    e = math.expm1(-twice)
    x0 = [-alpha * e, 0.0, 0.0]
    step = lambda later, earlier: (math.log(levels[earlier]) - math.log(levels[later])) / h
    if order == 2:
        r = step(i, i - 1)
        d = -0.5 * alpha * e if choices["second_order"] == "midpoint" else alpha * (e / twice + 1)
        x0 = [x0[0] + d / r, -d / r, 0.0]
    elif order == 3:
        r_0, r_1 = step(i, i - 1), step(i - 1, i - 2)
        d_1 = alpha * (e / twice + 1)
        d_2 = alpha * ((-e - twice) / twice**2 - 0.5) if choices["sde"] else -alpha * ((e + twice) / twice**2 - 0.5)
        difference = (d_1 * r_0 + d_2) / (r_0 + r_1)
        d_10, d_11 = d_1 + difference, -difference
        x0 = [x0[0] + d_10 / r_0, d_11 / r_1 - d_10 / r_0, -d_11 / r_1]
    # Karras' last two levels are the same but for a rounding.
    noise = sigma * math.sqrt(max(-e, 0.0)) if choices["sde"] else 0.0
    return {"b_x": base, "sigma": noise} | of_x0("b", x0)


def expansion(levels, alphas, i, order, kind):
    """UniPC's (Zhao et al. 2023) B(h), places r and right-hand side b of the step from level i."""
    h = lambda start, end: math.log(levels[start]) - math.log(levels[end])
    hh = -h(i, i + 1)
    first = math.expm1(hh)
    b_h = hh if kind == "bh1" else first
    phi, factorial, b = first / hh - 1, 1.0, []
    for k in range(1, order + 1):
        b.append(phi * factorial / b_h)
        factorial *= k + 1
        phi = phi / hh - 1 / factorial
    r = [h(i, i - k) / -hh for k in range(1, order)]
    scale = levels[i + 1] * alphas[i + 1] / (levels[i] * alphas[i])
    return scale, alphas[i + 1] * first, alphas[i + 1] * b_h, r, b


def solved(places, b):
    """a with sum_k r_k^(j-1) a_k = b_j for the places r."""
    return np.linalg.solve([[r**j for r in places] for j in range(len(places))], b[: len(places)])


def unipc_predictor(levels, alphas, i, order, choices):
    if levels[i + 1] == 0:
        return {"b_x": 0.0, "b_x0": 1.0}
    if levels[i + 1] == levels[i]:
        return {"b_x": 1.0, "b_x0": 0.0}
    scale, first, weight, r, b = expansion(levels, alphas, i, order, choices["b"])
    a = [0.5] if order == 2 else solved(r, b) if r else []
    parts = [weight * a_k / r_k for a_k, r_k in zip(a, r)]
    return {"b_x": scale} | of_x0("b", [-first + sum(parts), *(-part for part in parts)])


def unipc_corrector(levels, alphas, i, order, choices):
    scale, first, weight, r, b = expansion(levels, alphas, i, order, choices["b"])
    a = [0.5] if order == 1 else solved([*r, 1.0], b)
    parts = [weight * a_k / r_k for a_k, r_k in zip(a, r)]
    newest = weight * a[order - 1]
    numbers = [-newest, -first + newest + sum(parts), *(-part for part in parts)]
    return {"c_x": 0.0, "c_base": scale} | of_x0("c", numbers)


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
    earlier, base = [np.zeros_like(x)] * 3, np.zeros_like(x)
    for (index, c), z in zip(steps, noise):
        (m,) = session.run(None, {"x": x, "t": np.full(len(x), index, np.int64), **feeds})
        # The channels after an image's are what the network says of the variance.
        m = m[:, : x.shape[1]]
        x0 = np.clip(c["a_x"] * x + c["a_m"] * m, c["low"], c["high"])
        looked_at = [x0, *earlier]
        past = lambda prefix: sum(c.get(name, 0) * x0 for name, x0 in of_x0(prefix, looked_at).items())
        corrected = c["c_x"] * x + c.get("c_base", 0) * base + past("c") if "c_x" in c else x
        x = past("b") + c["b_x"] * corrected + c["b_m"] * m + c["sigma"] * z
        earlier, base = looked_at[:3], corrected
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
    # What a step does not name it has no use for; its base is then x.
    others = dict.fromkeys(names, 0.0) | ({"c_x": 1.0} if "c_x" in names else {})
    unknown = {name for _, c in steps for name, number in c.items() if name not in names and number != 0}
    unknown -= {"c_x"} if all(c.get("c_x", 1) == 1 for _, c in steps) else set()
    if unknown:
        raise SystemExit(
            f"--sampler: the step graph carries {carried or 'nothing'}, and a step of this sampler has a "
            f"{min(unknown)}: export the graph with --sampler"
        )
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
