"""Writes `schedulers.safetensors`: betas and single steps of diffusers' schedulers, which keep their tables
in f32.

python3 tests/golden/schedulers.py [--check] [DIR]      with torch, diffusers and safetensors

Seed 50 for x, eps and z.
"""

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import scheduling_ddpm

from common import Files, arguments, generator, normal, tensors

SCHEDULES = ("linear", "squaredcos_cap_v2")


def bounds(name):
    """Those of `golden_schedulers.rs`: f32 tables, and at index 1 a difference of 1e-4 of two of them."""
    if name.startswith("betas"):
        return 6e-8, "one"
    if name.startswith("ddpm"):
        return (3e-4 if name.endswith(".1") else 1e-5), "one"
    return 3e-6, "one"


if __name__ == "__main__":
    args = arguments(__doc__, __file__)
    files = Files(args.check)
    file = args.folder / "schedulers.safetensors"
    given, draw = tensors(file), generator(50)
    inputs = {name: normal(draw, 2, 3, 8, 8, dtype=torch.float64) for name in ("x", "eps", "z")}
    if given:
        inputs = {name: given[name] for name in inputs}
    x, eps, z = inputs["x"], inputs["eps"], inputs["z"]
    # DDPMScheduler draws its noise itself.
    scheduling_ddpm.randn_tensor = lambda *_, **__: z

    outputs = {}
    for schedule in SCHEDULES:
        betas = DDPMScheduler(beta_schedule=schedule).betas
        outputs[f"betas.{schedule}"] = betas.double()
        for variance in ("fixed_small", "fixed_large"):
            for clip in (True, False):
                ddpm = DDPMScheduler(beta_schedule=schedule, variance_type=variance, clip_sample=clip)
                for t in (0, 1, 500, 999):
                    name = f"ddpm.{schedule}.{variance}.{'clip' if clip else 'noclip'}.{t}"
                    outputs[name] = ddpm.step(eps, t, x).prev_sample
        ddim = DDIMScheduler(beta_schedule=schedule, clip_sample=False)
        ddim.set_timesteps(50)
        outputs[f"ddim.{schedule}.timesteps"] = ddim.timesteps
        for eta in (0.0, 0.5, 1.0):
            for t in (0, 20, 500, 980):
                step = ddim.step(eps, t, x, eta=eta, variance_noise=z)
                outputs[f"ddim.{schedule}.eta{eta}.{t}"] = step.prev_sample
        solver = DPMSolverMultistepScheduler(beta_schedule=schedule)
        solver.set_timesteps(15)
        outputs[f"dpmpp2m.{schedule}.timesteps"] = solver.timesteps
        now = x
        for t in solver.timesteps:
            now = solver.step(0.3 * now + 0.1, t, now).prev_sample
        outputs[f"dpmpp2m.{schedule}.final"] = now
    files.put(file, inputs, outputs, bounds)
    files.end()
