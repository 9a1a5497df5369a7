"""Writes the folders `unet_*` of the second set: what `UNet2DModel` has beyond the first.

python3 tests/golden2/unets.py [--check] DIR      with torch, diffusers and safetensors

Seeds 110, 120, .. for the weights, each plus one for x, eps and the classes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "golden"))
from common import Files, arguments
from networks import config, golden

GREY = {"in_channels": 1, "out_channels": 1}
NETWORKS = {
    # 10 classes and one more for "none of them".
    "unet_classes": config(**GREY, num_class_embeds=11),
    "unet_gelu": config(**GREY, sample_size=12, act_fn="gelu", attention_head_dim=16),
    "unet_learned_variance": config(in_channels=1, out_channels=2, sample_size=12, attention_head_dim=16),
    "unet_resnet_samplers": config(
        block_out_channels=(16, 32, 32),
        downsample_type="resnet",
        upsample_type="resnet",
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ),
    "unet_scale_shift": config(resnet_time_scale_shift="scale_shift"),
}

if __name__ == "__main__":
    args = arguments(__doc__, __file__)
    files = Files(args.check)
    for number, (name, settings) in enumerate(NETWORKS.items(), 11):
        golden(args.folder / name, settings, 10 * number, files)
    files.end()
