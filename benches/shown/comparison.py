"""Accuracy and seconds of every rule on MNIST; each row is one command. python benches/shown/comparison.py --data DIR

Prints a Markdown table for each network, row by row. The program is `--binary`.
"""
import argparse
import json
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# For each network, the options of all rows and those of each rule, which take the place of what all are given.
NETWORKS = {
    "784-128-128-128-10": (
        "--model benches/shown/models/mlp.toml --batch 128 --epochs 25 --optimizer adamw --lr 1e-3 --schedule cosine --warmup 469",
        {
            "exact": "--method exact",
            "fixed-prediction": "--method fixed-prediction --eta 0.5 --iterations 8",
            "strict, momentum": "--method strict --eta 0.05 --belief-momentum 0.5 --iterations 10",
            "error-based": "--method error-based --eta 0.02 --iterations 10",
            "nudged, 0.1": "--method strict --eta 0.1 --iterations 10 --nudge 0.1",
            "nudged, -0.1": "--method strict --eta 0.1 --iterations 10 --nudge -0.1",
            "nudged, centred": "--method strict --eta 0.1 --iterations 10 --nudge 0.1 --centred",
            "incremental": "--method incremental --eta 0.5 --iterations 8 --lr 5e-4 --weight-decay 0.0325 "
            "--model benches/shown/models/mlp_sum.toml",
        },
    ),
    "784-512-512-10": (
        "--model benches/peers/models/mlp_sigmoid.toml --batch 250 --epochs 100 --optimizer adam --lr 1e-3",
        {
            "exact": "--method exact",
            "fixed-prediction": "--method fixed-prediction --eta 0.1 --iterations 20",
            "strict": "--method strict --eta 0.1 --iterations 20",
            "error-based": "--method error-based --eta 0.05 --iterations 20",
        },
    ),
    "the paper's": (
        "--batch 300 --epochs 10 --optimizer adam --lr 2e-3",
        {
            "exact": "--method exact",
            "fixed-prediction": "--method fixed-prediction --eta 0.1 --iterations 20",
            "strict": "--method strict --eta auto --iterations 20",
            "strict, sweeps": "--method strict --solver sweeps --iterations 5",
            "error-based": "--method error-based --eta auto --iterations 20",
            "nudged, 0.1": "--method strict --eta auto --iterations 20 --nudge 0.1",
            "nudged, -0.1": "--method strict --eta auto --iterations 20 --nudge -0.1",
            "nudged, centred": "--method strict --eta auto --iterations 20 --nudge 0.1 --centred",
        },
    ),
}


def run(args, common, own, seed):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [args.binary, "train", "--dataset", "mnist", "--data", args.data, "--seed", str(seed), "--out", str(out)]
        shared = re.findall(r"(--\S+) (\S+)", common)
        command += [word for pair in shared if pair[0] not in own for word in pair]
        command += own.split()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
        result = json.loads((out / "run.json").read_text())
        return 100 * result["test"]["accuracy"], result["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "predictive-coding")
    parser.add_argument("--data", type=lambda path: Path(path).resolve(), required=True)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--rule", nargs="+", metavar="RULE", help="only these rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()
    for network in args.network:
        common, rules = NETWORKS[network]
        print(f"`train --dataset mnist {common}`\n\n| rule | options | test accuracy | seconds |\n|---|---|---|---|", flush=True)
        for name in args.rule or rules:
            found = [run(args, common, rules[name], seed) for seed in args.seeds]
            wrong = [line for line in found if isinstance(line, str)]
            accuracies = ", ".join(f"{accuracy:.2f}%" for accuracy, _ in found) if not wrong else wrong[0]
            seconds = "" if wrong else f"{statistics.median(seconds for _, seconds in found):.0f}"
            print(f"| {name} | `{rules[name]}` | {accuracies} | {seconds} |", flush=True)


main()
