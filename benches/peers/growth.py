#!/usr/bin/env python3
"""How the time of a step grows with the batch and with the iterations: Markdown tables, and a figure with the floor.

    cargo build --release
    peers/bin/python benches/peers/growth.py --picture docs/growth

Steps of strict on one thread and on all. The floor is the time of all multiplications and additions of
the direct form at the FMA peak of the same run. A step of the time is where one sample more takes
over 10% longer, and more than its share; a tile is full there, or the table says that it is not.
All sizes are measured once in each round. The least time of all counts, as other programs on the
machine only add to it.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness import check_binary, machine, markdown, parser
from steps import NETWORKS, Case, run

# Neighbours of full tiles and others, to see steps at the former and none at the latter.
BATCHES = [1, 2, 4, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 40, 41, 48, 49, 63, 64, 65, 96, 97, 104, 105, 127, 128, 129]
BATCHES += [200, 201, 255, 256, 257, 384, 512, 513, 768, 1023, 1024]
ITERATIONS = [1, 2, 5, 10, 20, 50, 100, 200, 400]
# What is held while the other grows.
BATCH, ETA, COUNT = 64, 0.1, 20
LANES = {"avx512": 16, "avx2": 8, "portable": 4}
STEP = 1.1
# Steps of fewer operations are too short to be shared.
SHARED = 5e6


@dataclass
class Point:
    """A size, and what the program said about it in each round."""

    size: int
    results: list[dict]

    @property
    def seconds(self) -> float:
        return min(result["min_seconds"] for result in self.results)

    @property
    def flops(self) -> float:
        return self.results[0]["flops"]

    @property
    def peak(self) -> float:
        return max(result["peak_gflops"] for result in self.results)


Line = list[Point]


def measure(network: str, threads: int, arguments: argparse.Namespace, directory: Path) -> tuple[Line, Line]:
    """Over the batch, and over the iterations."""
    lines = [Point(size, []) for size in arguments.batch], [Point(n, []) for n in arguments.iterations]
    for _ in range(arguments.rounds):
        for axis, line in enumerate(lines):
            for point in line:
                batch, n = (point.size, COUNT) if axis == 0 else (BATCH, point.size)
                case = Case(network, batch, "strict", (ETA, n), directory)
                point.results.append(run(arguments.binary, case.ours(threads, [], case.timed), arguments.min_time))
        print(network, "threads:", threads, file=sys.stderr, flush=True)
    return lines


def steps_of(line: Line) -> str:
    """Where one sample more takes over 10% longer."""
    found = []
    for below, above in zip(line, line[1:]):
        growth = above.seconds / below.seconds
        if above.size == below.size + 1 and growth > max(STEP, above.size / below.size):
            full = below.size % LANES[below.results[0]["level"]] == 0
            found.append(f"{below.size} to {above.size}: {growth:.2f}{'' if full else ', inside of a tile'}")
    return "; ".join(found) or "none"


def linearity(line: Line) -> float:
    """How far the times are from the straight line that fits them best, by least squares of relative errors."""
    weights = [1 / point.seconds for point in line]
    a = sum(w * w for w in weights)
    b = sum(w * w * p.size for w, p in zip(weights, line))
    c = sum(w * w * p.size**2 for w, p in zip(weights, line))
    d, e = sum(weights), sum(w * p.size for w, p in zip(weights, line))
    slope = (a * e - b * d) / (a * c - b * b) if len(line) > 1 else 0.0
    start = (d - b * slope) / a
    return max(abs((start + slope * point.size) / point.seconds - 1) for point in line)


def draw(path: Path, lines: dict[tuple[str, int], tuple[Line, Line]], title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    networks = list(dict.fromkeys(network for network, _ in lines))
    figure, panels = pyplot.subplots(len(networks), 2, squeeze=False, layout="constrained")
    figure.set_size_inches(9, 0.6 + 2.7 * len(networks))
    for (network, threads), pair in lines.items():
        row = panels[networks.index(network)]
        color = "tab:blue" if threads == 1 else "tab:orange"
        label = f"{threads} thread{'s' * (threads > 1)}"
        for panel, line, axis in zip(row, pair, ["batch", "iterations"], strict=True):
            sizes = [point.size for point in line]
            panel.loglog(sizes, [1e3 * point.seconds for point in line], ".-", color=color, label=label, linewidth=1)
            floor = [1e-6 * point.flops / point.peak for point in line]
            panel.loglog(sizes, floor, "--", color=color, label=f"floor, {label}", linewidth=0.8)
            panel.set_xlabel(axis)
            held = f"{COUNT} iterations" if axis == "batch" else f"batch {BATCH}"
            panel.set_title(f"{network}, strict, {held}", size=9)
            panel.grid(color="0.9")
        row[0].set_ylabel("milliseconds")
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, size=9)
    for suffix in [".png", ".svg"]:
        figure.savefig(path.with_suffix(suffix), dpi=200)


def table(lines: dict[tuple[str, int], tuple[Line, Line]], axis: int) -> str:
    sizes = [point.size for point in next(iter(lines.values()))[axis]]
    shown = [size for size in sizes if size & (size - 1) == 0] if axis == 0 else sizes
    rows = []
    for (network, threads), pair in lines.items():
        figures = [f"{1e3 * point.seconds:.3g}" for point in pair[axis] if point.size in shown]
        rows.append([network, str(threads), *figures])
    return markdown(["network", "threads", *map(str, shown)], 1, rows)


def shared(one: tuple[Line, Line], all_threads: tuple[Line, Line]) -> list[str]:
    """The ratio of peaks, and how the ratio of times compares with it: the least share, and how many are at least 0.9."""
    peaks = max(p.peak for line in all_threads for p in line) / max(p.peak for line in one for p in line)
    pairs = [(a, b) for alone, together in zip(one, all_threads) for a, b in zip(alone, together) if a.flops > SHARED]
    shares = sorted(a.seconds / b.seconds / peaks for a, b in pairs)
    least = f"{shares[0]:.2f}" if shares else ""
    return [f"{peaks:.2f}", least, f"{sum(share >= 0.9 for share in shares)} of {len(shares)}"]


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--networks", choices=NETWORKS, nargs="+", default=["mnist", "mlp-sigmoid"])
    options.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    options.add_argument("--iterations", type=int, nargs="+", default=ITERATIONS)
    options.add_argument("--rounds", type=int, default=3, help="how often all sizes are measured")
    options.add_argument("--min-time", type=float, default=0.05, help="seconds of each measurement")
    options.add_argument("--picture", type=Path, help="where the figure goes, without .png and .svg")
    arguments = options.parse_args()
    check_binary(arguments.binary)
    threads = sorted({1, os.cpu_count() or 1})
    with tempfile.TemporaryDirectory() as directory:
        lines = {
            (network, count): measure(network, count, arguments, Path(directory))
            for network in arguments.networks
            for count in threads
        }
    every = [point for pair in lines.values() for line in pair for point in line]
    said = machine(threads[-1], every[0].results[0]["level"], max(point.peak for point in every))
    print(f"{said}. Milliseconds of a step of strict.\n\nOver the batch, {COUNT} iterations:\n")
    print(table(lines, 0))
    print(f"\nOver the iterations, batch {BATCH}:\n")
    print(table(lines, 1))
    print("\nFurthest from a straight line over the iterations, and steps over the batch:\n")
    rows = [[network, str(count), f"{linearity(pair[1]):.0%}", steps_of(pair[0])] for (network, count), pair in lines.items()]
    print(markdown(["network", "threads", "off the line", "one sample more takes over 10% longer"], 4, rows))
    if len(threads) > 1:
        print(f"\n{threads[-1]} threads as a share of the ratio of peaks, in cells above {SHARED * 1e-6:g} MFLOP:\n")
        rows = [[network, *shared(*(lines[network, count] for count in threads))] for network in arguments.networks]
        print(markdown(["network", "ratio of peaks", "least share", "at least 0.9"], 1, rows))
    if arguments.picture:
        draw(arguments.picture, lines, said)


if __name__ == "__main__":
    main()
