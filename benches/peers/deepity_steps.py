#!/usr/bin/env python3
"""Compares steps of strict with training steps of Deepity, on the networks of its own benchmarks.

    cargo build --release
    peers/bin/pip install pydeepity
    peers/bin/python benches/peers/deepity_steps.py

Deepity clamps input and target, relaxes for T iterations and updates its weights; ours does a forward
pass, T iterations and the gradients. Deepity computes the prediction of the first layer anew in each
iteration, where ours knows it from the forward pass. Both take turns; of the medians of all rounds
the least counts. Beliefs and errors are not compared: its energy is another one.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file
from torch import nn

from harness import PAUSE, check_binary, machine, markdown, parser
from steps import median_seconds, run

# Features, the activation by its name here and there, batch and iterations.
CASES = [([784, 512, 512, 10], "sigmoid", "Sigmoid", 250, 20), ([784, 512, 256, 64, 10], "tanh", "TanH", 256, 157)]


def ours(directory: Path, features: list[int], activation: str, x: numpy.ndarray, y: numpy.ndarray) -> list[object]:
    """What the program is called with, but for method and threads."""
    hidden = "".join(
        f'[[layer]]\nops = [{{ type = "linear", out_features = {size} }}, {{ type = "{activation}" }}]\n'
        for size in features[1:-1]
    )
    top = f'[[layer]]\nops = [{{ type = "linear", out_features = {features[-1]} }}]\n'
    (directory / "model.toml").write_text(f'input = [{features[0]}]\nloss = "mse"\n{hidden}{top}')
    layers = [nn.Sequential(nn.Linear(*pair)) for pair in zip(features, features[1:])]
    save_file(nn.Sequential(*layers).state_dict(), directory / "weights.safetensors")
    save_file({"x": torch.tensor(x), "y": torch.tensor(y)}, directory / "batch.safetensors")
    files = {"--model": "model.toml", "--weights": "weights.safetensors", "--batch": "batch.safetensors"}
    return ["infer", *(part for option, file in files.items() for part in (option, directory / file))]


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    options.add_argument("--rounds", type=int, default=3, help="how often both take turns")
    options.add_argument("--min-time", type=float, default=1.0, help="seconds of each measurement")
    arguments = options.parse_args()
    check_binary(arguments.binary)
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)
    try:
        import deepity
    except ImportError:
        sys.exit("deepity is not installed; run pip install pydeepity")
    random, lines, peak, level = numpy.random.default_rng(1), [], 0.0, ""
    for features, activation, peers_name, batch, iterations in CASES:
        x = random.random((batch, features[0]), dtype=numpy.float32)
        y = numpy.eye(features[-1], dtype=numpy.float32)[random.integers(features[-1], size=batch)]
        layers = []
        for pair in zip(features, features[1:]):
            layers += [deepity.Linear(*pair), getattr(deepity, peers_name)()]
        net = deepity.SimplePCN(*layers[:-1], batch_size=batch)
        net.configure(learning_rate=1e-4, inference_rate=0.1, lmbda=0.0, optimizer="SGD")
        with tempfile.TemporaryDirectory() as directory:
            command = ours(Path(directory), features, activation, x, y)
            command += ["--method", "strict", "--eta", 0.1, "--iterations", iterations, "--threads", arguments.threads]
            results, peers = [], []
            for _ in range(arguments.rounds):
                time.sleep(PAUSE)
                results.append(run(arguments.binary, command, arguments.min_time))
                step = lambda: net.train_step(x, y, steps=iterations)
                peers.append(median_seconds(step, arguments.min_time))
        seconds, theirs = min(result["median_seconds"] for result in results), min(peers)
        peak, level = max(peak, *(result["peak_gflops"] for result in results)), results[0]["level"]
        name = "-".join(map(str, features))
        figures = [f"{1e3 * seconds:.4g}", f"{1e3 * theirs:.4g}", f"{theirs / seconds:.1f}"]
        lines.append([f"{name}, {activation}", str(batch), str(iterations), *figures])
    print(f"{machine(arguments.threads, level, peak)}\n")
    print(markdown(["network", "batch", "T", "ours ms", "Deepity ms", "ratio"], 3, lines))


if __name__ == "__main__":
    main()
