"""diffusers' UNet2DModel in plain PyTorch, with softmax attention and with FAVOR+ of positive features: the
yardstick that `measure.py` and `train.py` time.

The same network and parameter names as the program's own, so that both load the same weights. Needs torch
only.
"""

import json
import math
import struct

import torch
import torch.nn.functional as F
from torch import nn


class Resnet(nn.Module):
    def __init__(self, config, c_in, c_out):
        super().__init__()
        groups, eps = config["norm_num_groups"], config["norm_eps"]
        self.norm1 = nn.GroupNorm(groups, c_in, eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * config["block_out_channels"][0], c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, time):
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(time)[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


def favor(q, k, v, projection):
    """FAVOR+ with the positive features of (25), stabilised as the program's: keys less their feature's
    maximum, queries less theirs, which cancels in (26)."""
    scale = q.shape[-1] ** -0.25
    u_q, u_k = (x * scale @ projection.T for x in (q, k))
    e = u_k - 0.5 * scale**2 * (k * k).sum(-1, keepdim=True)
    c = e.amax(-2, keepdim=True)
    keys = torch.exp(e - c)
    shifted = u_q + c
    queries = torch.exp(shifted - shifted.amax(-1, keepdim=True))
    return queries @ (keys.transpose(-1, -2) @ v) / (queries @ keys.sum(-2).unsqueeze(-1))


class Attention(nn.Module):
    def __init__(self, config, c, is_favor=False):
        super().__init__()
        self.heads = c // (config["attention_head_dim"] or c)
        if is_favor:
            self.register_buffer("projection", torch.randn(config["favor"]["features"], c // self.heads))
        self.group_norm = nn.GroupNorm(config["norm_num_groups"], c, config["norm_eps"])
        self.to_q, self.to_k, self.to_v = nn.Linear(c, c), nn.Linear(c, c), nn.Linear(c, c)
        self.to_out = nn.ModuleList([nn.Linear(c, c)])

    def forward(self, x):
        n, c, h, w = x.shape
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            project(tokens).view(n, h * w, self.heads, -1).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        if hasattr(self, "projection"):
            out = favor(q, k, v, self.projection)
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        out = out.transpose(1, 2).reshape(n, h * w, c)
        return x + self.to_out[0](out).transpose(1, 2).reshape(n, c, h, w)


class Sampler(nn.Module):
    """The convolution that halves or doubles the resolution."""

    def __init__(self, c, stride):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(c, c, 3, stride=stride, padding=0 if stride == 2 else 1)

    def forward(self, x):
        if self.stride == 2:
            return self.conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Block(nn.Module):
    """Residual blocks of one level, each followed by attention where the level attends."""

    def __init__(self, config, channels, kind):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(config, c_in, c_out) for c_in, c_out in channels])
        if "Attn" in kind:
            is_favor = kind.startswith("Favor")
            self.attentions = nn.ModuleList([Attention(config, c_out, is_favor) for _, c_out in channels])


class Unet(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        expected = {
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "mid_block_scale_factor": 1,
        }
        for key, value in expected.items():
            if config[key] != value:
                raise SystemExit(f"{key}: the yardstick has {value} only, got {config[key]}")
        known = {"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D", "UNetMidBlock2D"}
        if config.get("favor", {}).get("map") == "positive":
            known |= {"FavorAttnDownBlock2D", "FavorAttnUpBlock2D"}
        kinds = {*config["down_block_types"], *config["up_block_types"], config["mid_block_type"]}
        if kinds - known:
            raise SystemExit(f"the yardstick has softmax and positive FAVOR+ only, got {kinds - known}")
        widths, layers = config["block_out_channels"], config["layers_per_block"]
        first, last = widths[0], widths[-1]
        self.conv_in = nn.Conv2d(config["in_channels"], first, 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(first, 4 * first), "linear_2": nn.Linear(4 * first, 4 * first)}
        )
        skips, c = [first], first
        self.down_blocks = nn.ModuleList()
        for i, (width, kind) in enumerate(zip(widths, config["down_block_types"])):
            block = Block(config, [(c, width)] + [(width, width)] * (layers - 1), kind)
            skips += [width] * layers
            if i + 1 < len(widths):
                block.downsamplers = nn.ModuleList([Sampler(width, 2)])
                skips.append(width)
            self.down_blocks.append(block)
            c = width
        self.mid_block = Block(config, [(last, last)] * 2, "")
        if config["add_attention"]:
            self.mid_block.attentions = nn.ModuleList([Attention(config, last)])
        self.up_blocks = nn.ModuleList()
        for i, (width, kind) in enumerate(zip(widths[::-1], config["up_block_types"])):
            channels = []
            for _ in range(layers + 1):
                channels.append((c + skips.pop(), width))
                c = width
            block = Block(config, channels, kind)
            if i + 1 < len(widths):
                block.upsamplers = nn.ModuleList([Sampler(width, 1)])
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(config["norm_num_groups"], first, config["norm_eps"])
        self.conv_out = nn.Conv2d(first, config["out_channels"], 3, padding=1)
        half = first // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x, t):
        """eps of x [N, C, H, W] at the indices t [N]."""
        angle = t[:, None].double() * self.frequencies
        time = torch.cat([angle.sin(), angle.cos()], 1).to(x.dtype)
        time = F.silu(self.time_embedding["linear_1"](time))
        time = F.silu(self.time_embedding["linear_2"](time))
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for i, resnet in enumerate(block.resnets):
                x = resnet(x, time)
                if hasattr(block, "attentions"):
                    x = block.attentions[i](x)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block.resnets[0](x, time)
        if hasattr(self.mid_block, "attentions"):
            x = self.mid_block.attentions[0](x)
        x = self.mid_block.resnets[1](x, time)
        for block in self.up_blocks:
            for i, resnet in enumerate(block.resnets):
                x = resnet(torch.cat([x, skips.pop()], 1), time)
                if hasattr(block, "attentions"):
                    x = block.attentions[i](x)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def write_safetensors(path, tensors):
    """Writes f32 tensors by name in the safetensors format: the header's length, the header, the numbers."""
    header, blobs, end = {}, [], 0
    for name, tensor in sorted(tensors.items()):
        blob = tensor.detach().cpu().float().contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + len(blob)]}
        blobs.append(blob)
        end += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(blobs)


def read_safetensors(path):
    """The tensors of a safetensors file by name, as f32."""
    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if entry["dtype"] not in types:
            raise SystemExit(f"{path}: {name} is {entry['dtype']}, expected one of {', '.join(types)}")
        tensor = torch.frombuffer(data[begin:end], dtype=types[entry["dtype"]])
        tensors[name] = tensor.reshape(entry["shape"]).float()
    return tensors
