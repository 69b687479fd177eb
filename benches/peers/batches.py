#!/usr/bin/env python3
"""Compares whole steps with PyTorch over networks and batches: Markdown tables, and a heat map.

    cargo build --release
    peers/bin/python benches/peers/batches.py --picture docs/batches

A cell is the time of the fastest of PyTorch's steps in steps.py, by layout, divided by ours: above 1
this library is faster. Both take turns; of the medians of all rounds the least counts. PyTorch's
memory is kept from call to call as in compare.py, or with --fresh-memory as it comes.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from harness import PAUSE, check_binary, machine, markdown, parser, settle_memory
from steps import NETWORKS, PYTORCH, Case, cell, median_seconds, run

BATCHES = [1, 2, 4, 8, 15, 16, 17, 33, 64, 128, 250, 256, 1000]
SETTINGS = {"exact": (), "strict": (0.1, 20)}


def ratio(case: Case, arguments: argparse.Namespace) -> tuple[float, dict]:
    """How many times as long PyTorch takes as we do, and what the program said."""
    layouts = PYTORCH if len(case.input) == 3 else PYTORCH[:1]
    peers = [case.peer(layout, case.timed) for layout in layouts]
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        time.sleep(PAUSE)
        ours.append(run(arguments.binary, case.ours(arguments.threads, [], case.timed), arguments.min_time))
        theirs += [median_seconds(peer, arguments.min_time) for peer in peers]
    return min(theirs) / min(result["median_seconds"] for result in ours), ours[0]


def geometric_mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def draw(path: Path, ratios: dict[str, list[list[float]]], networks: list[str], batches: list[int], title: str) -> None:
    """A heat map for each method, as PNG and SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colors, pyplot

    figure, panels = pyplot.subplots(len(ratios), squeeze=False, layout="constrained")
    figure.set_size_inches(1.5 + 0.62 * len(batches), len(ratios) * (1.0 + 0.38 * len(networks)))
    # Slower is red and faster blue, also for the colour-blind; the lightest is as fast.
    norm = colors.TwoSlopeNorm(0.0, vmin=-1.0, vmax=4.0)
    for panel, (method, table) in zip(panels[:, 0], ratios.items(), strict=True):
        logarithms = [[math.log2(value) for value in line] for line in table]
        image = panel.imshow(logarithms, cmap="RdBu", norm=norm, aspect="auto")
        for y, line in enumerate(table):
            for x, value in enumerate(line):
                color = "black" if 0.67 < value < 5 else "white"
                label = f"{value:.2f}" if value < 9.95 else f"{value:.0f}"
                panel.text(x, y, label, ha="center", va="center", size=8, color=color)
        panel.set_xticks(range(len(batches)), batches)
        panel.set_yticks(range(len(networks)), networks)
        panel.set_xlabel("batch")
        settings = ", ".join(f"{value:g}" for value in SETTINGS[method])
        panel.set_title(f"{method} {settings}".strip())
        bar = figure.colorbar(image, ax=panel, ticks=range(-1, 5))
        bar.ax.set_yticklabels([f"{2.0**power:g}x" for power in range(-1, 5)])
        bar.set_label("PyTorch's time / ours")
    figure.suptitle(title, size=9)
    for suffix in [".png", ".svg"]:
        figure.savefig(path.with_suffix(suffix), dpi=200)


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--networks", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    options.add_argument("--methods", choices=SETTINGS, nargs="+", default=list(SETTINGS))
    options.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    options.add_argument("--rounds", type=int, default=2, help="how often ours and PyTorch take turns")
    options.add_argument("--min-time", type=float, default=0.2, help="seconds of each measurement")
    options.add_argument("--picture", type=Path, help="where the heat map goes, without .png and .svg")
    arguments = options.parse_args()
    check_binary(arguments.binary)
    torch.set_num_threads(arguments.threads)
    memory = settle_memory(arguments)
    ratios: dict[str, list[list[float]]] = {}
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for method in arguments.methods:
            table = ratios.setdefault(method, [])
            for network in arguments.networks:
                table.append([])
                for batch in arguments.batch:
                    case = Case(network, batch, method, SETTINGS[method], Path(directory))
                    value, result = ratio(case, arguments)
                    print(*case.label(method, case.timed), f"{value:.2f}", file=sys.stderr, flush=True)
                    table[-1].append(value)
                    results.append(result)
    peak = max(result["peak_gflops"] for result in results)
    said = f"{machine(arguments.threads, results[0]['level'], peak)}; PyTorch {torch.__version__}, {memory}"
    print(f"{said}. Times of the faster of PyTorch's layouts, divided by ours.")
    for method, table in ratios.items():
        lines = [[name, *(cell(value, ".2f") for value in line)] for name, line in zip(arguments.networks, table)]
        every = [value for line in table for value in line]
        print(f"\n{method}: least {min(every):.2f}, geometric mean {geometric_mean(every):.2f}\n")
        print(markdown(["network", *map(str, arguments.batch)], 1, lines))
    if arguments.picture:
        draw(arguments.picture, ratios, arguments.networks, arguments.batch, said)


if __name__ == "__main__":
    main()
