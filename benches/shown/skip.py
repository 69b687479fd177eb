"""What a skip costs in an iteration. python benches/shown/skip.py

Two networks of four convolutions of 32 channels at 32 x 32, 64 images: in one of them, each of the last three layers also adds the
layer before. Prints milliseconds of an iteration of strict and of a step of exact, and their ratios, as medians of runs
in turns. Needs numpy and safetensors. The program is `--binary`.
"""
import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CHANNELS, LAYERS, BATCH = 32, 4, 64
CONVOLUTION = f'{{ type = "conv2d", out_channels = {CHANNELS}, kernel_size = 3, padding = 1 }}'


def model(skips):
    text = f'input = [{CHANNELS}, 32, 32]\nloss = {{ type = "mse", reduction = "sum", weight = 0.5 }}\n'
    for layer in range(LAYERS):
        if skips and layer > 0:
            branches = f'[ {{}}, {{ ops = [ {CONVOLUTION}, {{ type = "tanh" }} ] }} ]'
            text += f'[[layer]]\nbranches = {branches}\nops = []\n'
        else:
            text += f'[[layer]]\nops = [ {CONVOLUTION}, {{ type = "tanh" }} ]\n'
    return text + '[[layer]]\nops = [ { type = "adaptive_avg_pool2d", output_size = 1 }, { type = "flatten" } ]\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/predictive-coding")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    draw = np.random.default_rng(0)
    numbers = lambda *shape: draw.standard_normal(shape).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        save_file({"x": numbers(BATCH, CHANNELS, 32, 32), "y": numbers(BATCH, CHANNELS)}, folder / "batch")
        for name, skips in (("chain", False), ("skips", True)):
            (folder / f"{name}.toml").write_text(model(skips))
            inside = lambda l: f"{l}.branches.1.0" if skips and l > 0 else f"{l}.0"
            weights = {f"{inside(l)}.weight": numbers(CHANNELS, CHANNELS, 3, 3) / 17 for l in range(LAYERS)}
            save_file(weights | {f"{inside(l)}.bias": numbers(CHANNELS) for l in range(LAYERS)}, folder / name)

        def seconds(name, *method):
            command = [args.binary, "infer", "--model", folder / f"{name}.toml", "--weights", folder / name]
            command += ["--batch", folder / "batch", "--json", "--repeat", 5, "--method", *method]
            return json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True).stdout)["median_seconds"]

        strict = lambda n: ("strict", "--eta", 0.05, "--iterations", n)
        found = {(name, what): [] for what in ("iteration of strict", "step of exact") for name in ("chain", "skips")}
        for _ in range(args.rounds):
            for name in ("chain", "skips"):
                found[name, "iteration of strict"].append((seconds(name, *strict(30)) - seconds(name, *strict(10))) / 20)
                found[name, "step of exact"].append(seconds(name, "exact"))
        for what in ("iteration of strict", "step of exact"):
            chain, skips = (1e3 * statistics.median(found[name, what]) for name in ("chain", "skips"))
            print(f"{what}: chain {chain:.2f} ms, skips {skips:.2f} ms, ratio {skips / chain:.3f}")


main()
