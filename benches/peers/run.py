#!/usr/bin/env python3
"""Measures this engine beside PyTorch, ONNX Runtime and performer-pytorch on the same work, and prints the
ratios.

    python3 benches/peers/run.py                               every part, about ten minutes on two cores
    python3 benches/peers/run.py --only attention --rounds 3   one part; the others' earlier results are kept
    python3 benches/peers/run.py --only block                  one residual block (slow to build)
    python3 benches/peers/run.py --only none --document        kept results into docs/performance.md

The peers are installed once into target/peers/venv, or wherever --venv or PERFORMER_DDPM_PEERS says. The
machine has to be quiet: PyTorch's threads wait for each other, and lose up to ten times when anything else
takes a core.
"""

import argparse
import json
import os
import pathlib

import environment
import parts
import report
from programs import Ours

PARTS = ["training", "forward", "attention", "memory", "busy", "sampling", "breakdown", "block"]


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        metavar="PARTS",
        default=",".join(PARTS[:-1]),
        help=f"which parts, of {', '.join(PARTS)}, or none [all but block]",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="rounds of everyone in turn; medians count [5]"
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="everyone's threads [2]")
    parser.add_argument(
        "--venv", default=os.environ.get("PERFORMER_DDPM_PEERS"), help="the peers' environment"
    )
    parser.add_argument(
        "--json",
        type=pathlib.Path,
        default=environment.WORK / "results.json",
        metavar="FILE",
        help="results, read and written [target/peers/results.json]",
    )
    parser.add_argument("--document", action="store_true", help="put the tables into docs/performance.md")
    chosen = parser.parse_args()
    chosen.only = [] if chosen.only == "none" else chosen.only.split(",")
    if unknown := set(chosen.only) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if chosen.rounds < 1:
        parser.error("--rounds has to be at least 1")
    return chosen


def measure(chosen):
    """The chosen parts with their results, each as soon as it is finished, so that a part that fails does not
    lose the earlier ones."""
    environment.WORK.mkdir(parents=True, exist_ok=True)
    interpreter = environment.python(chosen.venv)
    machine = environment.machine(interpreter)
    session = parts.Session(
        interpreter, Ours(environment.binaries(), chosen.threads), chosen.rounds, chosen.threads
    )

    def of(found):
        return [
            (part, {"machine": machine, "rounds": chosen.rounds, "rows": rows})
            for part, rows in found.items()
            if rows
        ]

    try:
        wanted = [part in chosen.only for part in ("training", "forward")]
        if any(wanted):
            environment.say(" and ".join(part for part in ("training", "forward") if part in chosen.only))
            yield from of(parts.networks(session, *wanted))
        for part in PARTS[2:]:
            if part in chosen.only:
                environment.say(part)
                yield from of(getattr(parts, part)(session))
    finally:
        session.close()


def document(results):
    """Replaces the text between the markers of docs/performance.md."""
    file = environment.ROOT / "docs" / "performance.md"
    begin, end = "<!-- measured: begin -->\n", "<!-- measured: end -->"
    before, rest = file.read_text().split(begin)
    file.write_text(before + begin + "\n" + report.markdown(results) + "\n" + end + rest.split(end)[1])


def main():
    chosen = arguments()
    results = json.loads(chosen.json.read_text()) if chosen.json.exists() else {}
    if chosen.only:
        for part, measured in measure(chosen):
            for row in measured["rows"]:
                if "peers" in row:
                    row["summary"] = report.summary(row)
            results[part] = measured
            results = {part: results[part] for part in PARTS if part in results}
            chosen.json.write_text(json.dumps(results, indent=1) + "\n")
            print(report.markdown({part: measured}), flush=True)
    if chosen.document:
        document(results)


if __name__ == "__main__":
    main()
