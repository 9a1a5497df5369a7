"""Writes `pipelines/NAME`: pipeline folders with one chain of samples each, by diffusers' schedulers.

python3 tests/golden2/pipelines.py [--check] DIR      with torch, diffusers and safetensors

The network runs in f64; the schedulers keep their tables, and the solvers their samples, in f32. Seeds 210,
220, .. for the weights, each plus one for x_T and the noise.
"""

import json
import sys
from pathlib import Path

import diffusers
import torch
from diffusers.schedulers import scheduling_ddpm

sys.path.insert(0, str(Path(__file__).parent.parent / "golden"))
from common import Files, arguments, generator, normal, tensors
from networks import config, network, widened

DDPM, DDIM = "DDPMScheduler", "DDIMScheduler"
SOLVER, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
ZERO_SNR = {
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
    "clip_sample": False,
}
# The scheduler, its settings, the steps, and what `step` is given.
PIPELINES = {
    "ddim_not_one_offset_eta": (
        DDIM,
        {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
        10,
        {"eta": 0.6},
    ),
    "ddim_v_zero_snr": (DDIM, ZERO_SNR, 8, {}),
    "ddpm_learned_range": (DDPM, {"variance_type": "learned_range"}, 10, {}),
    "ddpm_sample_linspace": (
        DDPM,
        {"prediction_type": "sample", "timestep_spacing": "linspace", "variance_type": "fixed_large"},
        9,
        {},
    ),
    "ddpm_threshold_offset": (
        DDPM,
        {
            "beta_schedule": "squaredcos_cap_v2",
            "thresholding": True,
            "dynamic_thresholding_ratio": 0.9,
            "sample_max_value": 1.5,
            "steps_offset": 1,
        },
        7,
        {},
    ),
    "ddpm_v_trailing_zero_snr": (DDPM, ZERO_SNR, 8, {}),
    "dpmpp_2m": (SOLVER, {"beta_end": 0.02}, 12, {}),
    "dpmpp_2m_sde_heun": (
        SOLVER,
        {
            "algorithm_type": "sde-dpmsolver++",
            "solver_type": "heun",
            "beta_schedule": "squaredcos_cap_v2",
            "timestep_spacing": "trailing",
        },
        10,
        {},
    ),
    "dpmpp_3m_karras_euler_final": (
        SOLVER,
        {"solver_order": 3, "use_karras_sigmas": True, "euler_at_final": True},
        12,
        {},
    ),
    "unipc_2_v": (UNIPC, {"prediction_type": "v_prediction"}, 10, {}),
}
SIDE = 8


def write_folder(folder, scheduler, steps, step_arguments):
    """The files of the pipeline but the network's and the chain."""
    kind = type(scheduler).__name__
    scheduler.save_config(folder / "scheduler")
    index = {
        "_class_name": "DDIMPipeline" if kind == DDIM else "DDPMPipeline",
        "_diffusers_version": diffusers.__version__,
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", kind],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    (folder / "chain.json").write_text(json.dumps({"steps": steps, "step_arguments": step_arguments}))


def step(scheduler, prediction, t, x, noise, given):
    """One step of any of the schedulers with this noise."""
    if isinstance(scheduler, diffusers.DDPMScheduler):
        # It takes no noise: it draws its own.
        scheduling_ddpm.randn_tensor = lambda *_, **__: noise
    elif not isinstance(scheduler, diffusers.UniPCMultistepScheduler):
        given = given | {"variance_noise": noise}
    return scheduler.step(prediction, t, x, **given).prev_sample


def chain(folder, kind, settings, steps, step_arguments, seed, files):
    """The folder's `chain.safetensors`, and the folder where it is not there."""
    known = folder / "scheduler" / "scheduler_config.json"
    scheduler = getattr(diffusers, kind).from_config(
        json.loads(known.read_text()) if known.exists() else settings
    )
    if known.exists():
        said = json.loads((folder / "chain.json").read_text())
        steps, step_arguments = said["steps"], said["step_arguments"]
    elif not files.check:
        write_folder(folder, scheduler, steps, step_arguments)
    learned = scheduler.config.get("variance_type") in ("learned", "learned_range")
    small = config(sample_size=SIDE, in_channels=1, out_channels=1 + learned, block_out_channels=(8, 16))
    model = widened(network(folder / "unet", small, seed, files.check))
    scheduler.set_timesteps(steps)

    file = folder / "chain.safetensors"
    given, draw = tensors(file), generator(seed + 1)
    evaluations = len(scheduler.timesteps)
    inputs = {"x_T": normal(draw, 2, 1, SIDE, SIDE), "noise": normal(draw, evaluations, 2, 1, SIDE, SIDE)}
    if given:
        inputs = {name: given[name] for name in inputs}
    x = inputs["x_T"].double()
    with torch.no_grad():
        for t, noise in zip(scheduler.timesteps, inputs["noise"].double(), strict=True):
            x = step(scheduler, model(x, t).sample, t, x, noise, step_arguments)
    outputs = {"timesteps": scheduler.timesteps, "images": x.double()}
    files.put(file, inputs, outputs, lambda name: (0.0 if name == "timesteps" else 1e-5, "largest"))


if __name__ == "__main__":
    args = arguments(__doc__, __file__)
    files = Files(args.check)
    for number, (name, (kind, settings, steps, given)) in enumerate(PIPELINES.items(), 21):
        chain(args.folder / "pipelines" / name, kind, settings, steps, given, 10 * number, files)
    files.end()
