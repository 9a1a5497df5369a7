#!/usr/bin/env python3
"""What a training step takes in R ranks, computed: docs/cluster.md explains the model.

    benches/scaling.py                     the tables of docs/cluster.md
    benches/scaling.py --bandwidth 1.25e9 --latency 30e-6 --seconds-per-image 0.0028 --preset fashion

Seconds per image are one rank's, with all its threads: `bench` gives images per second, of which this is the
inverse. Bandwidth is in bytes per second and direction, latency in seconds per message."""

import argparse
from dataclasses import dataclass
from math import ceil, log2

SHARD = 4  # samples; the engine's, for batches of 8 and more
NUMBER = 4  # bytes


@dataclass
class Preset:
    parameters: int
    largest: int  # parameters of the largest tensor, which one rank owns whole
    batch: int
    seconds_per_image: float  # of a rank with two cores
    seconds_per_parameter: float = 1.2e-9  # Adam, the average, the weights' other layout


PRESETS = {
    "fashion": Preset(1_125_665, 73_728, 16, 1 / 362),
    "cifar10": Preset(35_746_307, 1_179_648, 128, 1 / 8.9),
}
NETWORKS = {
    "1 Gbit/s Ethernet": (0.118e9, 50e-6),
    "10 Gbit/s Ethernet": (1.18e9, 30e-6),
    "100 Gbit/s InfiniBand": (11.5e9, 2e-6),
}


def roots(shards: range, of: int) -> int:
    """Into how many subtrees a rank adds its shards up: so often it sends the whole gradient."""
    nodes = []
    for shard in shards:
        level, index = 0, shard
        while True:
            if index % 2 == 0 and index > 0 and (index << level) + (1 << level) >= of:
                level, index = level + 1, index // 2
            elif nodes and nodes[-1] == (level, index ^ 1):
                nodes.pop()
                level, index = level + 1, index // 2
            else:
                break
        nodes.append((level, index))
    return len(nodes)


def step(preset: Preset, batch: int, ranks: int, bandwidth: float, latency: float) -> dict:
    """Seconds and bytes of a step."""
    shards = ceil(batch / SHARD)
    if ranks > shards:
        raise ValueError(f"at most {shards} ranks share a batch of {batch}")
    cuts = [rank * shards // ranks for rank in range(ranks + 1)]
    own = [range(*cut) for cut in zip(cuts, cuts[1:], strict=False)]
    most = max(len(part) for part in own)
    computing = preset.seconds_per_image * min(batch, SHARD * most)
    fixed = preset.seconds_per_parameter * preset.parameters
    if ranks == 1:
        return {"seconds": computing + fixed, "computing": computing + fixed, "bytes": 0, "communication": 0.0}
    sums = [roots(part, shards) for part in own]
    part = max(preset.parameters / ranks, preset.largest)
    sent = max(sums) * preset.parameters * (ranks - 1) / ranks
    received = (sum(sums) - min(sums)) * part
    gathered = preset.parameters * (ranks - 1) / ranks
    volume = NUMBER * (max(sent, received) + gathered)
    messages = (max(sums) + 1) * (ranks - 1) + 4 * ceil(log2(ranks))
    communication = volume / bandwidth + messages * latency
    return {
        "seconds": computing + fixed + communication,
        "computing": computing + fixed,
        "bytes": volume,
        "communication": communication,
    }


def table(preset: Preset, networks: dict, batch_of) -> None:
    print("| ranks | batch | MB a step | " + " | ".join(f"{name}: s, images/s, share" for name in networks) + " |")
    print("|---:|---:|---:|" + "---:|" * len(networks))
    for ranks in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        batch = batch_of(ranks)
        if batch is None:
            continue
        cells = []
        for bandwidth, latency in networks.values():
            took = step(preset, batch, ranks, bandwidth, latency)
            rate = batch / took["seconds"]
            share = rate / ranks * preset.seconds_per_image
            cells.append(f"{took['seconds']:.3g}, {rate:.0f}, {100 * share:.0f} %")
        print(f"| {ranks} | {batch} | {took['bytes'] / 1e6:.1f} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS)
    parser.add_argument("--bandwidth", type=float)
    parser.add_argument("--latency", type=float, default=30e-6)
    parser.add_argument("--seconds-per-image", type=float)
    parser.add_argument("--batch", type=int)
    args = parser.parse_args()
    networks = NETWORKS
    if args.bandwidth:
        networks = {f"{args.bandwidth:g} B/s": (args.bandwidth, args.latency)}
    for name, preset in PRESETS.items():
        if args.preset not in (None, name):
            continue
        if args.seconds_per_image:
            preset.seconds_per_image = args.seconds_per_image
        batch = args.batch or preset.batch
        print(f"\n{name}, a batch of {batch} shared out:\n")
        table(preset, networks, lambda ranks, batch=batch: batch if ranks * SHARD <= batch else None)
        print(f"\n{name}, 32 images a rank:\n")
        table(preset, networks, lambda ranks: 32 * ranks)


if __name__ == "__main__":
    main()
