#!/usr/bin/env python3
"""Kills the program at random times, with SIGKILL, and looks at what it leaves.

    python3 tests/kills.py target/release/performer-ddpm --kills 1000

A life is a training run that is killed again and again, resumed each time, until it is at its end; it has to
end with the weights of a run that nobody disturbed; so does `compare`, with the findings. In between,
`sample`, `export` and `edit` are killed over files that are there: each file is then the old one or the new
one, never a part. So is `import`, whose files are the whole ones or not there, and `evaluate`, whose figures
are whole. Prints the figures; exit status 1 where one case was wrong.
"""

import argparse
import hashlib
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

STEPS = 60
FINAL = ["unet/diffusion_pytorch_model.safetensors", "unet/raw_weights.safetensors"]
# A comparison keeps its number of threads, which its times depend on.
COMPARE = [
    "compare",
    "--config",
    "small.toml",
    "--steps",
    "9",
    "--variants",
    "softmax,favor",
    "--only",
    "runs",
    "--threads",
    "2",
    "-q",
]
IMPORT = ["import", "straight"]
EVALUATE = ["evaluate", "straight", "--nll", "--against", "train", "-n", "2", "--out", "evaluation", "-q"]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights(run):
    return [digest(run / name) for name in FINAL]


def run(program, arguments, folder, kill_after=None):
    """Runs the program; the status, and whether it was killed, `kill_after` seconds from its start."""
    process = subprocess.Popen(
        [program, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, told = process.communicate(timeout=kill_after)
        return process.returncode, False, told
    except subprocess.TimeoutExpired:
        process.kill()
        _, told = process.communicate()
        return process.returncode, process.returncode == -9, told


def picture(path, side, number):
    """A grey PNG."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(bytes([0, *((number * 40 + x * y * 7) % 256 for x in range(side))]) for y in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def configure(program, folder):
    """A small run of a second or so with many checkpoints and grids."""
    (folder / "pictures").mkdir()
    for number in range(12):
        picture(folder / f"pictures/{number}.png", 8, number)
    base = ["train", "--preset", "tiny", "--data", "pictures", "--steps", "1", "--out", "base", "-q"]
    status, _, told = run(program, base, folder)
    assert status == 0, told
    text = (folder / "base/config.toml").read_text()
    for key, value in [("checkpoint_every", 3), ("grids", 3), ("timesteps", 3), ("batch", 4)]:
        lines = [f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in text.splitlines()]
        text = "\n".join(lines) + "\n"
    (folder / "small.toml").write_text(text)


def until_it_ends(program, folder, rng, typical, command):
    """What `command` says, killed at random times until it ends; the number of kills."""
    kills = 0
    while True:
        arguments = command()
        status, killed, told = run(program, arguments, folder, rng.uniform(0, typical))
        if killed:
            kills += 1
        elif status == 0:
            return kills
        else:
            raise AssertionError(f"{arguments[0]} ended with {status}: {told}")


def life(program, folder, rng, typical):
    """One run, killed and resumed until it ends; the number of kills."""
    shutil.rmtree(folder / "life", ignore_errors=True)
    fresh = ["train", "--config", "small.toml", "--steps", str(STEPS), "--out", "life", "-q"]
    again = ["train", "--resume", "life", "--steps", str(STEPS), "-q"]
    begun = folder / "life/config.toml"
    threads = lambda: ["--threads", str(rng.choice([1, 2, 3]))]
    return until_it_ends(
        program, folder, rng, typical, lambda: (again if begun.exists() else fresh) + threads()
    )


def findings(folder):
    """What a comparison has found, without what the clock and the system's memory decide."""

    def timeless(value):
        if isinstance(value, dict):
            return {key: timeless(value[key]) for key in value if not key.endswith(("seconds", "peak_mib"))}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    return timeless(json.loads((folder / "comparison.json").read_text()))


def comparison(program, folder, rng, typical):
    """One comparison, killed and gone on with until it ends; the number of kills."""
    shutil.rmtree(folder / "comparison", ignore_errors=True)
    return until_it_ends(program, folder, rng, typical, lambda: [*COMPARE, "--out", "comparison"])


def imported(program, folder, rng, typical):
    """An import, killed: its files are those of the whole one, or not there."""
    shutil.rmtree(folder / "import", ignore_errors=True)
    status, killed, told = run(program, [*IMPORT, "--out", "import", "-q"], folder, rng.uniform(0, typical))
    assert killed or status == 0, f"import ended with {status}: {told}"
    for file in (folder / "import").rglob("*"):
        if file.is_file() and not file.name.startswith("."):
            whole = folder / "imported" / file.relative_to(folder / "import")
            assert digest(file) == digest(whole), f"import: a part of {file.name}"
    return killed


def evaluated(program, folder, rng, typical):
    """An evaluation, killed: its figures are whole."""
    status, killed, told = run(program, EVALUATE, folder, rng.uniform(0, typical))
    assert killed or status == 0, f"evaluate ended with {status}: {told}"
    assert "nll" in json.loads((folder / "evaluation/evaluation.json").read_text()), "evaluate: other figures"
    return killed


def output(program, folder, rng, name, arguments, files, typical):
    """One command over files that are there, killed at a random time: each is the old or the new one."""
    old = {file: digest(folder / file) for file in files}
    status, killed, told = run(program, arguments, folder, rng.uniform(0, typical))
    for file, before in old.items():
        if digest(folder / file) not in (before, NEW[file]):
            raise AssertionError(f"{name}: {file} is neither the old file nor the new one")
    if not killed and status != 0:
        raise AssertionError(f"{name} ended with {status}: {told}")
    return killed


NEW = {}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", type=Path)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many, too")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    program, rng = str(arguments.program.resolve()), random.Random(arguments.seed)
    others = "kills of sample, export, edit, import, evaluate"
    figures = {"kills of train": 0, "kills of compare": 0, "lives": 0, others: 0, "ended before the kill": 0}
    start, wrong = time.monotonic(), []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        configure(program, folder)
        straight = ["train", "--config", "small.toml", "--steps", str(STEPS), "--out", "straight", "-q"]
        begun = time.monotonic()
        assert run(program, straight, folder)[0] == 0
        typical = 0.6 * (time.monotonic() - begun)
        want = weights(folder / "straight")
        commands = {
            "sample": (
                ["sample", "straight", "-n", "9", "--out", "a.png", "--npy", "a.npy", "-q"],
                ["a.png", "a.npy"],
            ),
            "export": (["export", "a.onnx", "--model", "straight", "--check", "none", "-q"], ["a.onnx"]),
            "edit": (
                ["edit", "vary", "in.png", "--model", "straight", "-n", "4", "--out", "e.png", "-q"],
                ["e.png"],
            ),
        }
        run(program, ["sample", "straight", "-n", "1", "--out", "in.png", "-q"], folder)
        times = {}
        for name, (command, files) in commands.items():
            begun = time.monotonic()
            status, _, told = run(program, command, folder)
            assert status == 0, told
            times[name] = 1.2 * (time.monotonic() - begun)
            NEW.update({file: digest(folder / file) for file in files})
        for name, command in {
            "compare": [*COMPARE, "--out", "compared"],
            "import": [*IMPORT, "--out", "imported", "-q"],
            "evaluate": EVALUATE,
        }.items():
            begun = time.monotonic()
            status, _, told = run(program, command, folder)
            assert status == 0, told
            times[name] = 1.2 * (time.monotonic() - begun)
        found = findings(folder / "compared")
        killed = lambda: sum(figures[name] for name in figures if name.startswith("kills of"))
        while killed() < arguments.kills and time.monotonic() - start < arguments.seconds:
            try:
                figures["kills of train"] += life(program, folder, rng, typical)
                figures["lives"] += 1
                if weights(folder / "life") != want:
                    wrong.append("a life ended with other weights")
                figures["kills of compare"] += comparison(program, folder, rng, 0.6 * times["compare"])
                if findings(folder / "comparison") != found:
                    wrong.append("a comparison ended with other findings")
                left = [path for path in (folder / "life").rglob("*") if path.name.endswith(".tmp")]
                checkpoints = list((folder / "life/checkpoints").glob("step-*"))
                if len(checkpoints) > 2:
                    wrong.append(f"{len(checkpoints)} checkpoints are left")
                figures["temporary files left"] = figures.get("temporary files left", 0) + len(left)
                for name, (command, files) in commands.items():
                    for file in files:
                        (folder / file).write_bytes(b"old " * 1000)
                    killed_it = output(program, folder, rng, name, command, files, times[name])
                    figures[others if killed_it else "ended before the kill"] += 1
                for name, attempt in {"import": imported, "evaluate": evaluated}.items():
                    killed_it = attempt(program, folder, rng, times[name])
                    figures[others if killed_it else "ended before the kill"] += 1
            except AssertionError as error:
                wrong.append(str(error))
    figures |= {"kills": killed(), "wrong": wrong, "seconds": round(time.monotonic() - start)}
    print(json.dumps(figures, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
