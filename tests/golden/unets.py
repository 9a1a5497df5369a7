"""Writes the folders `unet_*`: small networks with random weights, their output and every gradient.

python3 tests/golden/unets.py [--check] [DIR]      with torch, diffusers and safetensors

Seeds 10, 20 and 30 for the weights, each plus one for x and eps.
"""

from common import Files, arguments
from networks import config, golden

NETWORKS = {
    "unet_tiny": config(norm_num_groups=8),
    "unet_grey28": config(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 16, 32),
        attention_head_dim=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ),
    "unet_ho_small": config(
        layers_per_block=2,
        block_out_channels=(16, 32, 32),
        attention_head_dim=None,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ),
}

if __name__ == "__main__":
    args = arguments(__doc__, __file__)
    files = Files(args.check)
    for number, (name, settings) in enumerate(NETWORKS.items(), 1):
        golden(args.folder / name, settings, 10 * number, files)
    files.end()
