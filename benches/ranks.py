"""Times steps of training in one process and on several ranks, one after the other and again, and prints medians in milliseconds.

Usage: ranks.py DATA [CASE ...] [--ranks 2,4] [--repeat N] [--tcp] [--no-overlap] [--traffic]

DATA has the folders mnist and cifar10; the images of VGG-19, 224 x 224, are random. Without --tcp, ranks of one machine share
memory. With --no-overlap, each number of ranks is also timed without it. The programs must have been built with `cargo build
--release -p predictive-coding-cli -p predictive-coding-mpi`. All runs of a case must end with the same weights. Needs numpy.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

import numpy

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "target" / "release"
METHODS = {
    "exact": ["exact"],
    "fixed": ["fixed-prediction", "--eta", "0.1", "--iterations", "20"],
    "strict": ["strict", "--eta", "0.1", "--iterations", "20"],
    "incremental": ["incremental", "--eta", "0.1", "--iterations", "20"],
}
# Data set, batch, and for each method the steps of an epoch and the epochs.
SETS = {
    "mnist": (300, {"exact": (20, 20), "fixed": (20, 20), "strict": (20, 2), "incremental": (20, 2)}),
    "cifar10": (256, {"exact": (8, 1), "fixed": (8, 1), "strict": (2, 1), "incremental": (2, 1)}),
    "vgg19": (8, {"exact": (1, 6)}),
}


def vgg19(folder):
    """Options of train for VGG-19 and random images; writes both files to the folder."""
    layers, convolution = [], '{{ type = "conv2d", out_channels = {}, kernel_size = 3, padding = 1 }}'
    for count, channels in ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)):
        layers += [[convolution.format(channels), '{ type = "relu" }'] for _ in range(count)]
        layers[-1].append('{ type = "max_pool2d", kernel_size = 2 }')
    layers[-1].append('{ type = "flatten" }')
    layers += [['{ type = "linear", out_features = 4096 }', '{ type = "relu" }']] * 2
    layers.append(['{ type = "linear", out_features = 1000 }'])
    model = 'input = [3, 224, 224]\nloss = "cross_entropy"\n'
    (folder / "vgg19.toml").write_text(model + "".join(f"[[layer]]\nops = [{', '.join(ops)}]\n" for ops in layers))
    random = numpy.random.default_rng(1)
    x, y = random.integers(0, 256, (8, 3, 224, 224), numpy.uint8), random.integers(0, 1000, 8)
    numpy.savez(folder / "vgg19.npz", x=x, y=y)
    # Without groups, a network of so many weights is not shared.
    return ["--dataset", folder / "vgg19.npz", "--model", folder / "vgg19.toml", "--groups", "2"]


def command(case, data, folder):
    name, method = case.split("-")
    batch, steps = SETS[name]
    per_epoch, epochs = steps[method]
    source = vgg19(folder) if name == "vgg19" else ["--dataset", name, "--data", data / name]
    return [
        "train", *map(str, source), "--batch", str(batch), "--limit", str(batch * per_epoch), "--epochs", str(epochs),
        "--overwrite", "--method", *METHODS[method],
    ]


def run(arguments, ranks, threads, out, tcp, options):
    arguments = [*arguments, "--threads", str(threads), "--out", str(out)]
    if ranks == 0:
        line = [PROGRAMS / "predictive-coding", *arguments]
    else:
        bound = "core" if ranks <= os.cpu_count() else "none"
        line = ["mpirun", "--quiet", "--oversubscribe", "--allow-run-as-root", "--bind-to", bound, "-n", str(ranks)]
        line += ["--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"] if tcp else []
        line += [PROGRAMS / "predictive-coding-mpi", *arguments, *options]
    told = subprocess.run(line, check=True, capture_output=True, text=True).stderr
    described = json.loads((out / "run.json").read_text())
    return described["seconds"] / described["steps"], (out / "weights.safetensors").read_bytes(), told


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("cases", nargs="*", default=[f"{name}-{method}" for name in SETS for method in SETS[name][1]])
    parser.add_argument("--ranks", default="2")
    parser.add_argument("--repeat", type=int, default=3)
    for option in ("--tcp", "--no-overlap", "--traffic"):
        parser.add_argument(option, action="store_true")
    given = parser.parse_args()
    settings = [("1 process", 0, os.cpu_count(), [])]
    for ranks in map(int, given.ranks.split(",")):
        settings.append((f"{ranks} ranks", ranks, 1, []))
        if given.no_overlap:
            settings.append((f"{ranks} ranks without overlap", ranks, 1, ["--no-overlap"]))
    for case in given.cases:
        times, weights, traffic = {name: [] for name, *_ in settings}, set(), {}
        with tempfile.TemporaryDirectory() as folder:
            arguments = command(case, given.data, pathlib.Path(folder))
            for _ in range(given.repeat):
                for name, ranks, threads, options in settings:
                    options = options + (["--traffic"] if given.traffic and ranks else [])
                    seconds, found, told = run(arguments, ranks, threads, pathlib.Path(folder), given.tcp, options)
                    times[name].append(1000 * seconds)
                    weights.add(found)
                    traffic[name] = [line for line in told.splitlines() if " exchanges, " in line]
        assert len(weights) == 1, f"{case}: {len(weights)} different weights"
        first = statistics.median(times["1 process"])
        for name, found in times.items():
            median = statistics.median(found)
            print(f"{case:16} {name:24} {median:9.2f} ms  {first / median:5.2f} of the speed  {['%.2f' % t for t in found]}", flush=True)
            print(*("    " + line for line in traffic[name]), sep="\n", end="\n" if traffic[name] else "")


if __name__ == "__main__":
    main()
