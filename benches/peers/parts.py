"""The measurements, one function a part. In every round everyone runs in turn, so that a slower minute of the
machine hits all of them, and ratios are taken within a round.

A row is what was measured: `ours` and each of `peers` with one figure a round, in `unit`, and the `target` of
the ratio to the best peer, `None` where none is set. The ratio says how many times as fast ours is; for MiB,
ours over theirs.
"""

import json

from environment import HERE, ROOT, WORK, say
from programs import Busy, Peer, output

FASHION, CIFAR10, QUALITY = (str(HERE / f"{name}_unet.json") for name in ("fashion", "cifar10", "quality"))
# L and batch, and the targets of the forward pass, of forward and backward, and against softmax attention
# forward.
ATTENTION = [
    (64, 32, None, None, None),
    (256, 16, 4, 2.5, None),
    (512, 16, 4, 2.5, 1),
    (1024, 8, 4, 2.5, 1),
    (4096, 2, 5, 3, 12),
    (16384, 1, 5, 5, 1),
]
HEADS, DIM, FEATURES = 4, 32, 128
# A sampler's steps take equal times, so a tenth of the images' fifty is measured.
DDIM_STEPS, MEASURED_STEPS, SAMPLING_BATCH = 50, 5, 250


def row(work, unit, target):
    return {"work": work, "unit": unit, "target": target, "ours": [], "peers": {}}


def add(row, ours, **peers):
    row["ours"].append(ours)
    for name, figure in peers.items():
        row["peers"].setdefault(name.replace("_", " "), []).append(figure)


class Session:
    """The programs that are measured; peers start when they are first needed."""

    def __init__(self, interpreter, ours, rounds, threads):
        self.interpreter, self.ours, self.rounds, self.threads = interpreter, ours, rounds, threads
        self.running = {}

    def peer(self, script):
        if script not in self.running:
            self.running[script] = Peer(self.interpreter, script, self.threads)
        return self.running[script]

    @property
    def pytorch(self):
        return self.peer("pytorch_peer.py")

    @property
    def onnxruntime(self):
        return self.peer("onnxruntime_peer.py")

    def exported(self, config, batch):
        file = WORK / f"{config.split('/')[-1].removesuffix('.json')}_{batch}.onnx"
        self.pytorch.ask("export", config=config, batch=batch, file=str(file))
        return str(file)

    def close(self):
        for peer in self.running.values():
            peer.close()
        self.running = {}


def networks(session, training, forward):
    """Training steps and forward passes; `bench` measures both at once."""
    parts = {"training": [], "forward": []}
    for name, config, batch, runs, target in [
        ("fashion_unet", FASHION, 64, 3, 2.0),
        ("cifar10_unet", CIFAR10, 8, 1, 1.6),
    ]:
        train = row(f"training step, {name}, batch {batch}", "images/s", target)
        one = row(f"2 threads over 1, training, {name}, batch {batch}", "images/s", 1.9)
        wide = row(f"forward, {name}, batch {batch}", "images/s", 1.6)
        single = row(f"forward, {name}, batch 1", "images/s", 1.3)
        files = [session.exported(config, b) for b in (batch, 1)] if forward else None
        for _ in range(session.rounds):
            ours = session.ours.bench(config, batch, runs)
            if training:
                add(
                    train,
                    ours["train_images_per_s"],
                    PyTorch=session.pytorch.rate("train", batch, config=config, batch=batch, runs=runs),
                )
                if config == FASHION and session.threads == 2:
                    add(
                        one,
                        ours["train_images_per_s"],
                        ours_on_1_thread=session.ours.bench(config, batch, 1, threads=1)[
                            "train_images_per_s"
                        ],
                    )
            if forward:
                add(
                    wide,
                    ours["forward_images_per_s"],
                    PyTorch=session.pytorch.rate("forward", batch, config=config, batch=batch, runs=runs),
                    ONNX_Runtime=session.onnxruntime.rate("forward", batch, file=files[0], runs=runs),
                )
                add(
                    single,
                    session.ours.bench(config, 1, 5)["forward_images_per_s"],
                    PyTorch=session.pytorch.rate("forward", 1, config=config, batch=1, runs=5),
                    ONNX_Runtime=session.onnxruntime.rate("forward", 1, file=files[1], runs=5),
                )
        parts["training"] += [r for r in (train, one) if r["ours"]]
        parts["forward"] += [r for r in (wide, single) if r["ours"]]
    return parts


def attention(session):
    rows = {}
    for tokens, batch, forward, both, softmax in ATTENTION:
        what = f"L = {tokens}, batch {batch}"
        rows[tokens] = [
            row(f"FAVOR+ forward, {what}", "ms", forward),
            row(f"FAVOR+ forward and backward, {what}", "ms", both),
            row(f"FAVOR+ forward over fused softmax, {what}", "ms", softmax),
            row(f"FAVOR+ forward and backward over fused softmax, {what}", "ms", None),
        ]
    for number in range(session.rounds):
        ours = session.ours.attention(3)
        for tokens, batch, *_ in ATTENTION:
            long = tokens > 4096
            theirs = session.pytorch.ask(
                "attention",
                tokens=tokens,
                batch=batch,
                heads=HEADS,
                dim=DIM,
                features=FEATURES,
                runs=1 if long else 3,
                warm=0 if long and number > 0 else 1,
            )
            theirs = {name: sorted(times)[len(times) // 2] for name, times in theirs.items()}
            forward, both = ours[tokens]["favor_forward_ms"], ours[tokens]["favor_forward_backward_ms"]
            add(rows[tokens][0], forward, performer_pytorch=theirs["favor_forward_ms"])
            add(rows[tokens][1], both, performer_pytorch=theirs["favor_forward_backward_ms"])
            add(rows[tokens][2], forward, PyTorch_softmax=theirs["softmax_forward_ms"])
            add(rows[tokens][3], both, PyTorch_softmax=theirs["softmax_forward_backward_ms"])
    return {"attention": [r for kind in range(4) for r in (rows[tokens][kind] for tokens, *_ in ATTENTION)]}


def memory(session):
    """A separate process for each program that only trains."""
    memory = row("peak memory, training, fashion_unet, batch 64", "MiB", 0.4)
    fresh = Peer(session.interpreter, "pytorch_peer.py", session.threads)
    theirs = fresh.ask("train", config=FASHION, batch=64, runs=2)["peak_rss_mib"]
    fresh.close()
    add(memory, session.ours.bench(FASHION, 64, 1)["peak_rss_mib"], PyTorch=theirs)
    return {"memory": [memory]}


def busy(session):
    """Training while another process spins on one of the cores: no more than that core may be lost."""
    left = (session.threads - 1) / session.threads
    ours = row("training with a busy process on one core over without, ours", "images/s", left)
    theirs = row("the same, PyTorch", "images/s", None)
    for _ in range(min(session.rounds, 3)):
        quiet = session.ours.bench(FASHION, 64, 3)["train_images_per_s"]
        quiet_theirs = session.pytorch.rate("train", 64, config=FASHION, batch=64, runs=2)
        with Busy():
            add(ours, session.ours.bench(FASHION, 64, 3)["train_images_per_s"], without_it=quiet)
            add(
                theirs,
                session.pytorch.rate("train", 64, config=FASHION, batch=64, runs=1, warm=0),
                without_it=quiet_theirs,
            )
    return {"busy": [ours, theirs]}


def sampling(session):
    sampling = row(
        f"sampling, quality_unet, batch {SAMPLING_BATCH}, {DDIM_STEPS} DDIM steps", "images/s", 2.5
    )
    folder = WORK / "quality_model"
    session.pytorch.ask("save", config=QUALITY, folder=str(folder))
    images = SAMPLING_BATCH * MEASURED_STEPS / DDIM_STEPS
    for _ in range(session.rounds):
        ours = session.ours.sample(folder, SAMPLING_BATCH, MEASURED_STEPS, WORK / "samples.png")
        theirs = session.pytorch.ask(
            "sample", config=QUALITY, batch=SAMPLING_BATCH, steps=MEASURED_STEPS, total=DDIM_STEPS
        )
        add(sampling, images / ours, PyTorch=images / theirs["seconds"])
    return {"sampling": [sampling]}


def breakdown(session):
    """Where the time of a step goes, as `bench` reports it."""
    return {
        "breakdown": [
            {"network": name, **session.ours.bench(config, batch, runs)}
            for name, config, batch, runs in [
                ("fashion_unet", FASHION, 64, 5),
                ("cifar10_unet", CIFAR10, 8, 3),
            ]
        ]
    }


def block(session):
    """One residual block, compared with candle and burn; the first run builds them, which takes long."""
    file = WORK / "block.json"
    say("building candle and burn, if they are not")
    output(
        [
            "cargo",
            "run",
            "-q",
            "--release",
            "--",
            "--rounds",
            session.rounds,
            "--threads",
            session.threads,
            "--json",
            file,
        ],
        cwd=ROOT / "benches" / "rust_peers",
    )
    return {"block": json.loads(file.read_text())["figures"]}
