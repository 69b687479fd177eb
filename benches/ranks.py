"""Times steps of training in one process and on several ranks, one after the other and again, and prints medians in milliseconds.

Usage: ranks.py DATA [CASE ...] [--ranks 2,4] [--repeat N] [--tcp] [--no-overlap] [--traffic]

DATA has the folders mnist and cifar10. Without --tcp, ranks of one machine share memory. With --no-overlap, each number of
ranks is also timed without it. The programs must have been built with `cargo build --release -p predictive-coding-cli -p
predictive-coding-mpi`. All runs of a case must end with the same weights.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "target" / "release"
METHODS = {
    "exact": ["exact"],
    "fixed": ["fixed-prediction", "--eta", "0.1", "--iterations", "20"],
    "strict": ["strict", "--eta", "0.1", "--iterations", "20"],
}
# Data set, batch, and for each method the steps of an epoch and the epochs.
SETS = {
    "mnist": (300, {"exact": (20, 20), "fixed": (20, 20), "strict": (20, 2)}),
    "cifar10": (256, {"exact": (8, 1), "fixed": (8, 1), "strict": (2, 1)}),
}


def command(case, data):
    name, method = case.split("-")
    batch, steps = SETS[name]
    per_epoch, epochs = steps[method]
    return [
        "train", "--dataset", name, "--data", str(data / name), "--batch", str(batch), "--limit", str(batch * per_epoch),
        "--epochs", str(epochs), "--overwrite", "--method", *METHODS[method],
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
    parser.add_argument("cases", nargs="*", default=[f"{name}-{method}" for name in SETS for method in METHODS])
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
        with tempfile.TemporaryDirectory() as out:
            for _ in range(given.repeat):
                for name, ranks, threads, options in settings:
                    options = options + (["--traffic"] if given.traffic and ranks else [])
                    seconds, found, told = run(command(case, given.data), ranks, threads, pathlib.Path(out), given.tcp, options)
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
