"""Ratios, and the results as markdown."""

import statistics

UNITS = {"images/s": "{:.1f}", "ms": "{:.2f}", "MiB": "{:.0f}"}


def ratios(row, peer):
    """Ours to a peer's, round by round: how many times as fast, or our share of the memory."""
    pairs = zip(row["ours"], row["peers"][peer])
    return [theirs / ours if row["unit"] == "ms" else ours / theirs for ours, theirs in pairs]


def summary(row):
    """The median of each, the ratio to the best peer with its least and greatest round, and whether the
    target is met."""
    fewer = row["unit"] == "MiB"
    median = statistics.median
    best = (max if fewer else min)(row["peers"], key=lambda peer: median(ratios(row, peer)))
    rounds = ratios(row, best)
    ratio, target = median(rounds), row["target"]
    met = None if target is None else ratio <= target if fewer else ratio >= target
    return {
        "ours": median(row["ours"]),
        "peers": {name: median(figures) for name, figures in row["peers"].items()},
        "ratio": ratio,
        "least": min(rounds),
        "greatest": max(rounds),
        "best_peer": best,
        "met": met,
    }


def comparison(rows):
    lines = [
        "| work | unit | ours | peers | ratio to the best | rounds | target | |",
        "|---|---|---:|---|---:|---:|---:|---|",
    ]
    for row in rows:
        found, number = summary(row), UNITS[row["unit"]].format
        peers = ", ".join(f"{name} {number(figure)}" for name, figure in found["peers"].items())
        target = (
            ""
            if row["target"] is None
            else f"{'at most' if row['unit'] == 'MiB' else 'at least'} {row['target']:g}"
        )
        met = {None: "", True: "met", False: "**not met**"}[found["met"]]
        lines.append(
            f"| {row['work']} | {row['unit']} | {number(found['ours'])} | {peers} | {found['ratio']:.2f} "
            f"| {found['least']:.2f} to {found['greatest']:.2f} | {target} | {met} |"
        )
    return lines


def breakdown(rows):
    """Times by kind of work, where this engine's `bench` reports them: shares of the steps that were timed
    operation by operation, and the median of the other steps."""
    lines = []
    for bench in rows:
        if "clocked_milliseconds" not in bench.get("train", {}):
            continue
        lines += [
            f"{bench['network']}, batch {bench['batch']}, {bench['threads']} threads, {bench['isa']}, "
            f"measured peak {bench['peak_gflops']:.0f} GFLOP/s:",
            "",
            "| kind of work | training step, ms | share | forward, ms | share |",
            "|---|---:|---:|---:|---:|",
        ]
        both = [bench["train"], bench["forward"]]
        kinds = sorted(both[0]["milliseconds_by_work"], key=both[0]["milliseconds_by_work"].get, reverse=True)
        steps = [speed["clocked_milliseconds"] for speed in both]
        times = {kind: [speed["milliseconds_by_work"].get(kind, 0.0) for speed in both] for kind in kinds}
        times["waiting and the rest"] = [
            step - sum(parts) for step, parts in zip(steps, zip(*times.values()))
        ]
        times["a step with the clock"] = steps
        for kind, cells in times.items():
            lines.append(
                f"| {kind} | "
                + " | ".join(f"{time:.1f} | {time / step:.0%}" for time, step in zip(cells, steps))
                + " |"
            )
        lines.append(
            "| **median step** | "
            + " | ".join(
                f"{s['milliseconds']:.1f} | {s['gflops']:.0f} GFLOP/s, {s['share_of_peak']:.0%} of peak"
                for s in both
            )
            + " |"
        )
        lines.append("")
    return lines


def block(rows):
    """The residual block: one line for a size and a pass, everyone's milliseconds and the ratio to ours."""
    names = list(dict.fromkeys(figure["who"] for figure in rows))
    lines = [
        "| block | batch | pass | "
        + " | ".join(f"{name}, ms" for name in names)
        + " | best of theirs over ours |",
        "|---|---:|---|" + "---:|" * (len(names) + 1),
    ]
    cells = {}
    for figure in rows:
        size = f"{figure['c_in']} to {figure['c_out']} channels, {figure['side']}x{figure['side']}"
        cells.setdefault((size, figure["batch"], figure["pass"]), []).append(figure)
    for (size, batch, what), figures in cells.items():
        times = " | ".join(f"{figure['ms']:.2f}" for figure in figures)
        best = min(figure["times_ours"] for figure in figures[1:])
        lines.append(f"| {size} | {batch} | {what} | {times} | {best:.1f} |")
    return lines


TABLES = {"breakdown": breakdown, "block": block}


def markdown(results):
    """Every part's table under a line that says where and when it was measured."""
    lines = []
    for part, measured in results.items():
        machine = measured["machine"]
        versions = ", ".join(
            f"{name} {version}" for name, version in machine["versions"].items() if name != "isa"
        )
        lines += [
            f"**{part}**: {machine['processor']}, {machine['cores']} cores, {machine['versions']['isa']}; {versions}; "
            f"engine at {machine['commit']}; {machine['date']}; {measured['rounds']} rounds",
            "",
            *TABLES.get(part, comparison)(measured["rows"]),
            "",
        ]
    return "\n".join(lines)
