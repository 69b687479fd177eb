"""The speed of training on many nodes by a model of computing, latency and bandwidth; draws docs/scaling.svg and .png.

Usage: scaling.py [--table | --check SECONDS]. The constants are measured; docs/scaling.md explains the terms. --check prints
the milliseconds of a step of CIFAR-10 by exact in all, on 2 and 4 ranks of one machine that share a link of 1 Gbit/s, from
the seconds that they take without messages.
"""

import math
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
NODES = [2**n for n in range(11)]
LATENCY = 20e-6
GBITS = [10, 100]
BYTES = 4
# Seconds of a step of 256 samples with the CIFAR-10 network: the fastest of exact, and eleven times that.
EXACT_STRICT = dict(exact=0.56, strict=6.2)
# Small exchanges of numbers in a step: outcomes, correct answers, descents, wishes to end.
NUMBERS = 4
# Values of an exchange, and the most slices that those are cut into before more are exchanged.
BUCKET, SLICES = 2**18, 64

# Per network: values of convolutions' gradients (with biases), of matrices' gradients, of a sample's row of operands,
# samples and groups of a node, seconds of a step of one node by each method.
NETWORKS = {
    "CIFAR-10, 256 samples a node": dict(
        partial=371_338, matrices=4_262_400, row=17_424, batch=256, groups=8, seconds=EXACT_STRICT
    ),
    # By the operations of a sample, at the speed of the CIFAR-10 network: 118 and 0.94 GFLOP for exact.
    "VGG-19, 32 samples a node": dict(
        partial=20_024_384 + 5_504 + 9_192, matrices=123_633_664, row=42_472, batch=32, groups=8,
        seconds={method: seconds / 256 * 118 / 0.942 * 32 for method, seconds in EXACT_STRICT.items()},
    ),
}


def cost(network, ranks, batch, any_order):
    """Exchanges of a step of `batch` samples in all, and the bytes that a rank receives while others are computed and
    afterwards."""
    partial, matrices, row = (network[key] for key in ("partial", "matrices", "row"))
    others = (ranks - 1) / ranks
    sliced = BUCKET * math.ceil(ranks / SLICES)
    buckets, products = math.ceil(partial / sliced), math.ceil(matrices / (4 * sliced))
    if any_order:
        return buckets + products, 0, BYTES * 2 * (partial + matrices) * others
    rounds = math.ceil(network["batch"] * row / BUCKET)
    rows = batch * row * others * (1 - 1 / network["groups"])
    last = batch * row * others / network["groups"]
    return rounds + 2 * buckets + products, BYTES * rows, BYTES * (last + (2 * partial + matrices) * others)


def seconds(network, method, ranks, gbits, any_order):
    return step(network, network["seconds"][method], ranks, ranks * network["batch"], gbits, any_order)


def step(network, computed, ranks, batch, gbits, any_order=False, overlap=True):
    exchanges, early, late = cost(network, ranks, batch, any_order)
    bandwidth = gbits * 1e9 / 8
    hidden = computed * (1 - 1 / network["groups"]) if overlap else 0
    latency = (exchanges + NUMBERS) * (ranks - 1) * LATENCY
    return computed + latency + max(0, early / bandwidth - hidden) + late / bandwidth


def check(computed):
    """The groups of one batch are shared out, and each rank has its part of the link."""
    network = next(iter(NETWORKS.values()))
    for ranks in (2, 4):
        shared = dict(network, groups=network["groups"] // ranks)
        steps = [step(shared, computed, ranks, shared["batch"], 1 / ranks, overlap=overlap) for overlap in (True, False)]
        print(f"{ranks} ranks: {1000 * steps[0]:.0f} ms, without overlap {1000 * steps[1]:.0f} ms")


def table():
    print("| network | method | Gbit/s | sums | " + " | ".join(str(n) for n in NODES[1::3]) + " |")
    print("| --- | --- | ---: | --- |" + " ---: |" * len(NODES[1::3]))
    for name, network in NETWORKS.items():
        for method in ("exact", "strict"):
            for gbits in GBITS:
                for any_order in (False, True):
                    shares = [network["seconds"][method] / seconds(network, method, n, gbits, any_order) for n in NODES[1::3]]
                    told = " | ".join(f"{100 * share:.0f}%" for share in shares)
                    print(f"| {name} | {method} | {gbits} | {'any order' if any_order else 'fixed order'} | {told} |")


def draw():
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "scaling", "svg.fonttype": "path", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), sharex=True, sharey=True, layout="constrained")
    for row, (name, network) in zip(axes, NETWORKS.items()):
        for axis, method in zip(row, ("exact", "strict")):
            for gbits, colour in zip(GBITS, ("#d55e00", "#0072b2")):
                for any_order, line in ((False, "-"), (True, "--")):
                    ys = [network["seconds"][method] / seconds(network, method, n, gbits, any_order) for n in NODES]
                    label = f"{gbits} Gbit/s, {'any order' if any_order else 'fixed order'}"
                    axis.plot(NODES, ys, line, color=colour, label=label)
            axis.set_xscale("log", base=2)
            axis.set_title(f"{method}, {name}", fontsize=9)
            axis.set_ylim(0, 1.05)
            axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("speed of a node, alone = 1")
    for axis in axes[1]:
        axis.set_xlabel("nodes")
    axes[0, 0].legend(fontsize=8)
    for suffix in ("svg", "png"):
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(ROOT / "docs" / f"scaling.{suffix}", dpi=110, metadata=metadata)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--table"]:
            table()
        case ["--check", computed]:
            check(float(computed))
        case _:
            draw()
