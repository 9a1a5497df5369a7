#!/usr/bin/env python3
"""Measures what a network learns in a time: recipes are trained for as long, in turn, and their samples'
distances compared.

    python3 benches/learning/run.py --minutes 10 --seeds 3           every recipe, three times each
    python3 benches/learning/run.py base,min-snr,v --minutes 1,3     some, for two lengths of time
    python3 benches/learning/run.py base --steps 2000                the same number of steps on any machine
    python3 benches/learning/run.py narrow+min-snr                   what both change
    python3 benches/learning/run.py --table                          the table and the plot of what is there

A recipe is a file in `recipes/`: what it changes of a preset's `config.toml`, what it is `without`, and, under
`[sample]`, the options of `sample` for its images. Runs and results stay in target/learning; what is there is not done
again. Distances are Frechet's under data/fashion_features.onnx, of 2,000 samples to the images for training:
recipes are chosen by these, and `--final` adds those to the test images and the bits per dimension, which
nothing is chosen by. The machine has to be quiet, since a busy one takes fewer steps in a minute.
"""

import argparse
import copy
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "target" / "learning"
FEATURES = ["--features", ROOT / "data/fashion_features.onnx", "--features-output", "features"]


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = sorted(file.stem for file in (HERE / "recipes").glob("*.toml"))
    parser.add_argument("recipes", nargs="?", default=",".join(known), help="which [all]")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", default="10", help="minutes of each run, one or several [10]")
    length.add_argument("--steps", help="steps of each run, in place of minutes")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each recipe [2]")
    parser.add_argument("--final", action="store_true", help="also by the test images")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--threads", help="threads of every run")
    parser.add_argument(
        "--binary", type=pathlib.Path, default=ROOT / "target/release/performer-ddpm", help="the program"
    )
    chosen = parser.parse_args()
    chosen.recipes = chosen.recipes.split(",")
    if unknown := {part for recipe in chosen.recipes for part in recipe.split("+")} - set(known):
        parser.error(f"no recipe is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    kind = "steps" if chosen.steps else "minutes"
    chosen.lengths = [(kind, length) for length in (chosen.steps or chosen.minutes).split(",")]
    return chosen


def say(text):
    print(text, file=sys.stderr, flush=True)


def program(chosen, *options):
    """What the program prints with --json, or nothing."""
    command = [str(option) for option in (chosen.binary, *options)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout) if "--json" in options else None


def merged(base, changes):
    """`base` with the changes of a recipe, table by table. A table with a `kind` replaces the other."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        inner = isinstance(value, dict) and isinstance(result.get(key), dict) and "kind" not in value
        result[key] = merged(result[key], value) if inner else value
    return result


def written(table, name=""):
    """A table as TOML: its numbers and texts first, then the tables in it."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"[{name}]"] if name and plain else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += ["", written(value, f"{name}.{key}" if name else key)]
    return "\n".join(lines)


def preset(chosen, name):
    """The whole configuration of a preset, which a run of one step writes."""
    folder = WORK / "presets" / name
    if not folder.exists():
        program(chosen, "train", "--preset", name, "--steps", 1, "--out", folder, "--quiet")
    config = tomllib.loads((folder / "config.toml").read_text())
    for made in ("steps", "minutes", "plan"):
        config["train"].pop(made, None)
    return config


def measure(chosen, recipe, length, seed):
    """One run and its figures; those that are there are read."""
    kind, amount = length
    folder = WORK / f"{recipe}-{amount}-{kind}-{seed}"
    results = folder / "learning.json"
    figures = json.loads(results.read_text()) if results.exists() else {}
    if chosen.table or (figures and not (chosen.final and "final" not in figures)):
        return figures
    told, flags, without = {}, [], []
    for part in recipe.split("+"):
        changes = tomllib.loads((HERE / "recipes" / f"{part}.toml").read_text())
        flags += changes.pop("flags", [])
        without += changes.pop("without", [])
        told = merged(told, changes)
    sample = [part for key, value in told.pop("sample", {}).items() for part in (f"--{key}", value)]
    base = preset(chosen, told.pop("preset", "fashion"))
    told.pop("about")
    for table, key in without:
        del base[table][key]
    if not figures:
        config = WORK / f"{recipe}.toml"
        told.setdefault("train", {})[kind] = int(amount) if kind == "steps" else float(amount)
        config.write_text(written(merged(base, told)) + "\n")
        threads = ["--threads", chosen.threads] if chosen.threads else []
        say(f"{recipe}, {amount} {kind}, seed {seed}")
        # A run that was cut off goes on; one that is complete takes no further step.
        begun = ["--resume", folder]
        anew = ["--config", config, f"--{kind}", amount, "--seed", seed, "--out", folder, *flags]
        program(chosen, "train", *(begun if folder.exists() else anew), "--quiet", *threads)
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        batch = tomllib.loads((folder / "config.toml").read_text())["train"]["batch"]
        figures = {"steps": last["step"], "images": last["step"] * batch, "seconds": last["seconds"]}
        figures["train"] = program(chosen, "evaluate", folder, *FEATURES, *sample, "--json", "--quiet")
    if chosen.final:
        against = ["--against", "test", "--json", "--quiet"]
        figures["final"] = program(chosen, "evaluate", folder, *FEATURES, *sample, *against)
        figures["nll"] = program(chosen, "evaluate", folder, "--nll", "-n", 500, "--json", "--quiet")
    results.write_text(json.dumps(figures, indent=1))
    return figures


def spread(values):
    """Mean and standard error of some runs' figures."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.2f}"
    if len(values) < 2:
        return mean
    return f"{mean} +- {statistics.stdev(values) / math.sqrt(len(values)):.2f}"


def distance(figures, against="train"):
    return figures[against]["features"]["frechet_distance"]


def table(found):
    """The runs of each recipe and length in a row, the best distance first."""
    lines = [
        "| recipe | length | runs | distance to the training images | precision | recall | steps | images | s |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows = []
    for (recipe, length), runs in found.items():
        of = [run["train"]["features"] for run in runs]
        mean = [statistics.mean(run[key] for run in runs) for key in ("steps", "images", "seconds")]
        rows.append((
            statistics.mean(one["frechet_distance"] for one in of),
            f"| {recipe} | {length[1]} {length[0]} | {len(runs)} "
            f"| {spread([one['frechet_distance'] for one in of])} "
            f"| {spread([one['precision'] for one in of])} | {spread([one['recall'] for one in of])} "
            f"| {mean[0]:.0f} | {mean[1]:.0f} | {mean[2]:.0f} |",
        ))
    return "\n".join(lines + [row for _, row in sorted(rows)])


def plot(found, file):
    """Distances over the seconds of training as SVG, a line for each recipe."""
    lines = {}
    for (recipe, _), runs in found.items():
        seconds = statistics.mean(run["seconds"] for run in runs)
        lines.setdefault(recipe, []).append((seconds, statistics.mean(distance(run) for run in runs)))
    points = [point for line in lines.values() for point in line]
    if not points:
        return
    (left, right), (low, high) = [(min(axis), max(axis)) for axis in zip(*points)]

    def place(seconds, value):
        across = 0.5 if left == right else math.log(seconds / left) / math.log(right / left)
        up = 0.5 if low == high else math.log(value / low) / math.log(high / low)
        return 60 + 480 * across, 340 - 300 * up

    drawn = []
    for i, (recipe, line) in enumerate(sorted(lines.items())):
        colour = f"hsl({360 * i / len(lines):.0f} 60% 40%)"
        places = [place(*point) for point in sorted(line)]
        path = " ".join(f"{x:.0f},{y:.0f}" for x, y in places)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        drawn += [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="{colour}"/>' for x, y in places]
        x, y = places[-1]
        drawn.append(f'<text x="{x + 6:.0f}" y="{y + 4:.0f}" fill="{colour}">{recipe}</text>')
    axes = [
        f'<text x="60" y="370">{left:.0f} s</text><text x="520" y="370">{right:.0f} s</text>',
        f'<text x="4" y="344">{low:.1f}</text><text x="4" y="44">{high:.1f}</text>',
        '<text x="60" y="20">Frechet distance to the training images over training time, logarithmic</text>',
    ]
    style = '<style>text{font:12px sans-serif}</style><rect width="720" height="380" fill="white"/>'
    body = "\n".join([style, *axes, *drawn])
    file.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="380">{body}</svg>\n')


def main():
    chosen = arguments()
    WORK.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("RUST_BACKTRACE", "0")
    found = {}
    # All recipes with one seed before the next, so that an hour of a busy machine is no recipe's alone.
    for length in chosen.lengths:
        for seed in range(chosen.seeds):
            for recipe in chosen.recipes:
                if figures := measure(chosen, recipe, length, seed):
                    found.setdefault((recipe, length), []).append(figures)
    print(table(found))
    results = {f"{recipe}, {length[1]} {length[0]}": runs for (recipe, length), runs in found.items()}
    (WORK / "results.json").write_text(json.dumps(results, indent=1))
    plot(found, WORK / "distances.svg")
    say(f"{WORK / 'results.json'}, {WORK / 'distances.svg'}")


if __name__ == "__main__":
    main()
