"""Accuracy over depth, with and without the scales of muPC. python benches/shown/depth.py --data DIR --out FOLDER

Residual networks of 128 ReLU units on MNIST, one epoch of batches of 64, Adam at its default rate, strict relaxations of as
many iterations as there are layers. Needs matplotlib. The program is `--binary`.
"""
import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

WIDTH = 128


def model(depth, mupc):
    """`depth` maps: one to the hidden layers, `depth` - 2 residual ones, one to the classes."""
    linear = lambda outputs: f'{{ type = "linear", out_features = {outputs}, bias = false }}'
    layers = [f'name = "h0"\nops = [ {{ type = "flatten" }}, {linear(WIDTH)} ]']
    for l in range(1, depth - 1):
        layers.append(
            f'name = "h{l}"\nbranches = [ {{ from = "h{l - 1}" }}, '
            f'{{ from = "h{l - 1}", ops = [ {{ type = "relu" }}, {linear(WIDTH)} ] }} ]'
        )
    layers.append(f'ops = [ {{ type = "relu" }}, {linear(10)} ]')
    head = 'input = [1, 28, 28]\nloss = { type = "mse", reduction = "sum", weight = 0.5 }\n'
    head += 'scaling = "mupc"\n' if mupc else ""
    return head + "".join(f"\n[[layer]]\n{layer}\n" for layer in layers)


def run(args, depth, mupc):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.toml"
        file.write_text(model(depth, mupc))
        command = [args.binary, "train", "--dataset", "mnist", "--data", args.data, "--model", file, "--method", "strict"]
        command += ["--eta", args.eta, "--iterations", depth, "--epochs", 1, "--batch", 64, "--seed", args.seed]
        command += ["--lr", args.mupc_lr if mupc else args.lr, "--on-divergence", "skip", "--out", Path(folder) / "run"]
        begin = time.perf_counter()
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        seconds = time.perf_counter() - begin
        if done.returncode:
            return None, seconds, done.stderr.strip().splitlines()[-1:]
        return json.loads((Path(folder) / "run" / "run.json").read_text())["test"]["accuracy"], seconds, None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/predictive-coding")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 16, 30, 64, 128])
    parser.add_argument("--eta", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--mupc-lr", type=float, default=1e-1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    found = {}
    for mupc in (True, False):
        for depth in args.depths:
            accuracy, seconds, wrong = run(args, depth, mupc)
            found.setdefault("with muPC" if mupc else "PyTorch's default", []).append(accuracy)
            print(json.dumps({"depth": depth, "mupc": mupc, "accuracy": accuracy, "seconds": seconds, "wrong": wrong}), flush=True)
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for (name, accuracies), marker in zip(found.items(), "os"):
        known = [(depth, 100 * accuracy) for depth, accuracy in zip(args.depths, accuracies) if accuracy is not None]
        axes.plot(*zip(*known), marker=marker, label=name)
    axes.set(xscale="log", xticks=args.depths, xticklabels=args.depths, xlabel="layers", ylabel="test accuracy (%)", ylim=(0, 100))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(title="scales and weights")
    args.out.mkdir(parents=True, exist_ok=True)
    for ending in ("png", "svg"):
        figure.savefig(args.out / f"depth.{ending}", dpi=150)


main()
