"""`UNet2DModel`s with random weights everywhere, and their values and gradients in f64."""

import json

import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

from common import generator, normal, tensors

WEIGHTS = "diffusion_pytorch_model.safetensors"


class TimeEmbedding(torch.nn.Module):
    """diffusers' sinusoidal embedding with the angle in f64, where the original computes it in f32."""

    def __init__(self, stock):
        super().__init__()
        self.stock = stock

    def forward(self, timesteps):
        half = self.stock.num_channels // 2
        exponent = torch.arange(half, dtype=torch.float64) / (half - self.stock.downscale_freq_shift)
        angle = timesteps[:, None].double() * 10000.0 ** -exponent[None, :]
        parts = [angle.sin(), angle.cos()]
        return torch.cat(parts[::-1] if self.stock.flip_sin_to_cos else parts, dim=-1)


def draw_weights(model, draw):
    """Gives every parameter numbers that no initialisation has: no scale is 1 and no bias is 0.

    Matrices and kernels are normal with variance 1 / fan_in; scales 1 and biases 0, plus 0.2 times a normal
    number.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            numbers = normal(draw, *parameter.shape)
            if parameter.dim() > 1:
                parameter.copy_(numbers / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.2 * numbers + ("norm" in name and name.endswith("weight")))


def network(folder, config, seed, check):
    """The network of a folder, with its numbers; drawn and written where the folder has none."""
    known = folder / "config.json"
    model = UNet2DModel.from_config(json.loads(known.read_text()) if known.exists() else config)
    weights = tensors(folder / WEIGHTS)
    if weights:
        model.load_state_dict(weights)
    elif check:
        raise SystemExit(f"{folder / WEIGHTS}: no such file to check")
    else:
        draw_weights(model, generator(seed))
        folder.mkdir(parents=True, exist_ok=True)
        model.save_config(folder)
        save_file(model.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})
    return model.eval()


def widened(model):
    """The same network in f64, the time embedding too."""
    wide = UNet2DModel.from_config(model.config).double().eval()
    wide.load_state_dict(model.state_dict())
    wide.time_proj = TimeEmbedding(wide.time_proj)
    return wide


def golden(folder, config, seed, files):
    """The folder's `golden.safetensors`: output, loss and every gradient of the loss."""
    stock = network(folder, config, seed, files.check)
    file = folder / "golden.safetensors"
    given, draw = tensors(file), generator(seed + 1)
    channels, side = stock.config.in_channels, stock.config.sample_size
    inputs = {
        "x": normal(draw, 3, channels, side, side, dtype=torch.float64),
        "t": torch.tensor([0, 417, 999]),
        "eps": normal(draw, 3, stock.config.out_channels, side, side, dtype=torch.float64),
    }
    classes = stock.config.num_class_embeds
    if classes:
        inputs["class_labels"] = torch.randint(0, classes, (3,), generator=draw)
    if given:
        inputs = {name: given[name] for name in inputs}
    labels = {"class_labels": inputs["class_labels"]} if classes else {}

    with torch.no_grad():
        outputs = {"y_f32": stock(inputs["x"].float(), inputs["t"], **labels).sample}
    wide = widened(stock)
    x = inputs["x"].double().clone().requires_grad_(True)
    y = wide(x, inputs["t"], **labels).sample
    loss = ((y - inputs["eps"].double()) ** 2).mean()
    loss.backward()
    outputs |= {"y": y, "loss": loss.reshape(1), "d_x": x.grad}
    outputs |= {f"d.{name}": parameter.grad for name, parameter in wide.named_parameters()}

    # Some gradients are zero in theory, so each may also be off by 1e-12 of the largest of all.
    largest = max(tensor.abs().max().item() for name, tensor in outputs.items() if name.startswith("d"))

    def bounds(name):
        if name == "y_f32":
            return 1e-4, "largest"
        if name.startswith("d"):
            return 1e-9, max(outputs[name].abs().max().item(), 1e-3 * largest)
        return 1e-9, "largest"

    files.put(file, inputs, outputs, bounds)


def config(**changes):
    """A small network's configuration, changed."""
    small = {
        "sample_size": 16,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        "norm_num_groups": 4,
        "norm_eps": 1e-6,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    }
    return small | changes
