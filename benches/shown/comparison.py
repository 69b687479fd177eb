"""Accuracy and seconds of every rule on MNIST; each row is one command. python benches/shown/comparison.py --data DIR

Prints a row of a Markdown table after each rule. The program is `--binary`.
"""
import argparse
import json
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

MODEL = Path(__file__).resolve().parent / "models" / "mlp.toml"
USUAL = "--batch 128 --optimizer adamw --lr 1e-3 --schedule cosine --warmup 469"
RULES = {
    "exact": "exact",
    "fixed-prediction": "fixed-prediction --eta 0.5 --iterations 8",
    "strict, momentum": "strict --eta 0.05 --belief-momentum 0.5 --iterations 10",
    "error-based": "error-based --eta 0.02 --iterations 10",
    "nudged, 0.1": "strict --eta 0.1 --iterations 10 --nudge 0.1",
    "nudged, -0.1": "strict --eta 0.1 --iterations 10 --nudge -0.1",
    "nudged, centred": "strict --eta 0.1 --iterations 10 --nudge 0.1 --centred",
    "incremental": "incremental --eta 0.1 --iterations 8 --lr 3e-4",
}


def run(args, common, method, seed):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [args.binary, "train", "--dataset", "mnist", "--data", args.data, "--seed", str(seed), "--out", str(out)]
        # What a rule is given takes the place of what all are given.
        shared = re.findall(r"(--\S+) (\S+)", common)
        command += [word for pair in shared if pair[0] not in method for word in pair]
        command += ["--model", str(MODEL), "--method", *method.split()]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
        result = json.loads((out / "run.json").read_text())
        return 100 * result["test"]["accuracy"], result["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/predictive-coding")
    parser.add_argument("--data", required=True)
    parser.add_argument("--rule", nargs="+", choices=RULES, default=list(RULES), metavar="RULE", help="only these rows")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()
    common = f"{USUAL} --epochs {args.epochs}"
    print(f"`train --dataset mnist {common}`\n\n| rule | options | test accuracy | seconds |\n|---|---|---|---|")
    for name in args.rule:
        found = [run(args, common, RULES[name], seed) for seed in args.seeds]
        wrong = [line for line in found if isinstance(line, str)]
        accuracies = ", ".join(f"{accuracy:.2f}%" for accuracy, _ in found) if not wrong else wrong[0]
        seconds = "" if wrong else f"{statistics.median(seconds for _, seconds in found):.0f}"
        print(f"| {name} | `--method {RULES[name]}` | {accuracies} | {seconds} |", flush=True)


main()
