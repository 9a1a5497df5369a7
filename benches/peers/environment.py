"""The environment of the measurements: the peers' virtual environment, this repository's binaries, the
machine."""

import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "benches" / "peers"
WORK = ROOT / "target" / "peers"
PACKAGES = "torch numpy onnx onnxruntime diffusers safetensors performer-pytorch scipy".split()


def python(venv):
    """The interpreter of the peers' environment, which is made (about 5 GB, some minutes) where it is
    missing."""
    venv = pathlib.Path(venv) if venv else WORK / "venv"
    interpreter = venv / "bin" / "python"
    if not interpreter.exists():
        say(f"installing the peers into {venv}")
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(interpreter), "-m", "pip", "install", "-q", "--upgrade", "pip"], check=True)
        subprocess.run([str(interpreter), "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return str(interpreter)


def binaries():
    """This engine's command and its attention example, built with the profile that `cargo run` uses."""
    say("building this engine")
    build = [
        "cargo",
        "build",
        "-q",
        "-p",
        "performer-ddpm",
        "--bin",
        "performer-ddpm",
        "--example",
        "attention_speed",
    ]
    subprocess.run(build, cwd=ROOT, check=True)
    folder = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
    return folder / "performer-ddpm", folder / "examples" / "attention_speed"


def machine(interpreter):
    """The processor, the versions and the date, for the head of the results."""
    code = (
        "import json, torch, onnxruntime, diffusers; print(json.dumps({'pytorch': torch.__version__, 'onnxruntime': "
        "onnxruntime.__version__, 'diffusers': diffusers.__version__, 'isa': torch.backends.cpu.get_cpu_capability()}))"
    )
    versions = subprocess.run(
        [interpreter, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": json.loads(versions),
        "commit": commit(),
    }


def commit():
    """What was measured; the page that the results are written to is no part of it."""
    name = subprocess.run(
        ["git", "describe", "--always"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ".", ":!docs/performance.md"], cwd=ROOT)
    return name + "-dirty" if changed.returncode == 1 else name


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line}
    return f"{fields.get('model name', platform.machine())} (family {fields.get('cpu family')}, model {fields.get('model')})"


def say(text):
    print(text, file=sys.stderr, flush=True)
