"""What the generators share: files of tensors, and the comparison of what is computed with what is there.

A generator writes files for the project's tests: `python3 GENERATOR.py [--check] [DIR]`. DIR is the
generator's own folder unless it is given. Where a file is there already, its inputs (weights, images, noise,
timesteps) are kept and every output is computed again from them; where it is not, the inputs are drawn from
the seed that the generator states. With --check nothing is written: the outputs are compared with those in
the files, under the bounds of the tests that read them, and the exit status is 1 if one is further off.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def arguments(what, generator):
    """The command line: the folder, and whether to check instead of to write."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(generator).parent)
    return parser.parse_args()


def tensors(file):
    """A file's tensors by name; none where there is no file."""
    return load_file(file) if file.exists() else {}


class Files:
    """The files of one generator, written or compared."""

    def __init__(self, check):
        self.check = check
        self.wrong = 0

    def put(self, file, inputs, outputs, bounds):
        """Writes inputs and outputs, or compares the outputs with the file's.

        `bounds` maps the name of an output to the largest error allowed and what it is relative to:
        "largest", the largest size of a number of that tensor; "one", the same but at least 1; or a number.
        """
        if not self.check:
            file.parent.mkdir(parents=True, exist_ok=True)
            everything = {**inputs, **outputs}
            save_file({name: tensor.detach().contiguous() for name, tensor in everything.items()}, file)
            print(f"{file}: {len(everything)} tensors written")
            return
        there = tensors(file)
        missing = set(there) ^ (set(inputs) | set(outputs))
        fine, worst, of = not missing, 0.0, "none is off at all"
        for name, got in outputs.items():
            if name in missing:
                continue
            want = there[name]
            bound, relative_to = bounds(name)
            largest = want.double().abs().max().item()
            scale = {"largest": largest, "one": max(1.0, largest)}.get(relative_to, relative_to)
            error = (
                (got.double() - want.double()).abs().max().item() if got.shape == want.shape else float("inf")
            )
            allowed = bound * scale
            share = error / allowed if allowed else error and float("inf")
            # Where one of them is NaN, so is the error.
            share = float("inf") if share != share else share
            fine = fine and share <= 1
            if share > worst:
                worst, of = share, f"the worst: {name}, off by {error:.1e} with {allowed:.1e} allowed"
        self.wrong += not fine
        print(
            f"{file}: {'agrees' if fine else 'DIFFERS'}; {len(outputs)} outputs; {of}"
            + (f"; not in both: {sorted(missing)}" if missing else "")
        )

    def end(self):
        """The exit status."""
        sys.exit(1 if self.wrong else 0)


def generator(seed):
    """A source of random numbers of its own."""
    return torch.Generator().manual_seed(seed)


def normal(draw, *shape, dtype=torch.float32):
    """Normal numbers, drawn in f32 so that every precision reads the same."""
    return torch.randn(*shape, generator=draw).to(dtype)
