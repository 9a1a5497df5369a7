"""Writes the folders `unet_*` of the second set: what `UNet2DModel` has beyond the first.

python3 tests/golden2/unets.py [--check] DIR      with torch, diffusers and safetensors

Seeds 110, 120, .. for the weights, each plus one for x, eps and the classes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "golden"))
from common import Files, arguments
from networks import config, golden

SMALL = {"block_out_channels": (8, 16), "sample_size": 8, "in_channels": 1, "out_channels": 1}
NETWORKS = {
    # 10 classes and one more for "none of them".
    "unet_classes": config(**SMALL, num_class_embeds=11),
    "unet_gelu": config(**SMALL, act_fn="gelu", attention_head_dim=16),
    "unet_learned_variance": config(**SMALL | {"out_channels": 2}, attention_head_dim=16),
    "unet_resnet_samplers": config(
        **SMALL | {"block_out_channels": (8, 16, 16)},
        downsample_type="resnet",
        upsample_type="resnet",
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ),
    "unet_scale_shift": config(**SMALL | {"in_channels": 3, "out_channels": 3}, resnet_time_scale_shift="scale_shift"),
    # Much at once: levels that change the resolution in different ways, classes, a scaled middle block.
    "unet_mish_mixture": config(
        **SMALL | {"block_out_channels": (8, 16, 16), "out_channels": 2},
        act_fn="mish",
        resnet_time_scale_shift="scale_shift",
        attn_norm_num_groups=2,
        mid_block_scale_factor=1.4,
        downsample_type="resnet",
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D"),
        num_class_embeds=5,
        center_input_sample=True,
    ),
    "unet_relu_everywhere": config(
        **SMALL,
        act_fn="relu",
        layers_per_block=2,
        down_block_types=("AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D"),
        upsample_type="resnet",
        add_attention=False,
        center_input_sample=True,
    ),
}

if __name__ == "__main__":
    args = arguments(__doc__, __file__)
    files = Files(args.check)
    for number, (name, settings) in enumerate(NETWORKS.items(), 11):
        golden(args.folder / name, settings, 10 * number, files)
    files.end()
