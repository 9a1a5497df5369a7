"""The programs that are measured: this engine's command, and the peers behind a line of JSON each way."""

import json
import os
import re
import statistics
import subprocess

from environment import HERE


class Peer:
    """A peer's process; it waits, and takes no core, while others are measured."""

    def __init__(self, interpreter, script, threads):
        command = [interpreter, str(HERE / script), str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, do, **request):
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args} ended at {do} {request}; run it by hand to see why")
        return json.loads(answer)

    def rate(self, do, images, **request):
        """Images per second for runs of this many images: the median of the runs."""
        return images / statistics.median(self.ask(do, **request)["seconds"])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Ours:
    """This engine's command and its attention example."""

    def __init__(self, binaries, threads):
        self.command, self.attention_example = binaries
        self.threads = threads

    def bench(self, config, batch, runs, threads=None):
        command = [
            self.command,
            "bench",
            config,
            "--batch",
            batch,
            "--runs",
            runs,
            "--threads",
            threads or self.threads,
            "--json",
        ]
        return json.loads(output(command))

    def attention(self, runs):
        """Milliseconds by the number of tokens."""
        lines = output(
            [self.attention_example, "--threads", self.threads, "--runs", runs, "--kinds", "favor"]
        ).splitlines()
        return {figures["L"]: figures for figures in map(json.loads, lines)}

    def sample(self, folder, batch, steps, out):
        """The seconds that DDIM steps of one batch take, as the command reports them."""
        command = [
            self.command,
            "sample",
            folder,
            "-n",
            batch,
            "--batch",
            batch,
            "--sampler",
            "ddim",
            "--steps",
            steps,
            "--threads",
            self.threads,
            "--out",
            out,
        ]
        process = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
        return batch / float(re.search(r"([\d.]+) images/s", process.stderr).group(1))


def output(command, **options):
    return subprocess.run(
        [str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True, **options
    ).stdout


class Busy:
    """Another process that spins on the last core for as long as the block runs."""

    def __enter__(self):
        core = os.cpu_count() - 1
        code = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
        self.process = subprocess.Popen(["python3", "-c", code])

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
