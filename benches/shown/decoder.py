"""Digits from latents, and digits whose lower half is completed. python benches/shown/decoder.py --data DIR --out FOLDER

Two decoders are trained on MNIST by strict with a free input: the latents start at 0 and relax until the network predicts
the image. Test digits without their lower half are completed by relaxing the latents to the upper half alone. DIR holds
MNIST's four files. Needs numpy, safetensors and matplotlib. The program is `--binary`.
"""
import argparse
import gzip
import subprocess
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import load_file, save_file

LATENTS = 10
MODELS = {"10-64-784": "decoder.toml", "convolutional": "decoder_conv.toml"}


def images(folder, part):
    path = next(folder.glob(f"{part}-images*"))
    data = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    return np.frombuffer(data, np.uint8, offset=16).reshape(-1, 784).astype(np.float32) / 255


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/predictive-coding")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--eta", type=float, default=0.02)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--inference", type=int, default=400)
    parser.add_argument("--input-precision", type=float, default=0.2)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    call = lambda *words: subprocess.run([args.binary, *map(str, words)], check=True, capture_output=True, text=True).stdout
    train, test = images(args.data, "train"), images(args.data, "t10k")[:1000]
    mean = train.mean(0)
    lower = np.zeros(784, bool)
    lower[392:] = True
    error = lambda found: float(((found - test)[:, lower] ** 2).mean())
    relaxing = ["--free-input", "--input-precision", args.input_precision, "--eta", args.eta]
    draw = np.random.default_rng(0)
    rows = [("digits", test[:10]), ("upper half", np.where(lower, 0.0, test[:10]))]
    print(f"mean image: error of the lower half {error(np.broadcast_to(mean, test.shape)):.4f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        zeros = lambda n: np.zeros((n, LATENTS), np.float32)
        np.savez(folder / "digits.npz", x=zeros(len(train)), y=train, x_test=zeros(len(test)), y_test=test)
        clamped = np.broadcast_to(np.where(lower, 0, 1).astype(np.float32), test.shape)
        save_file({"x": zeros(len(test)), "y": test, "mask": np.ascontiguousarray(clamped)}, folder / "half.safetensors")
        save_file({"x": zeros(1000), "y": train[:1000]}, folder / "whole.safetensors")
        for name, file in MODELS.items():
            model, run = Path(__file__).parent / "models" / file, folder / name
            begin = time.perf_counter()
            call(
                "train", "--dataset", folder / "digits.npz", "--model", model, "--method", "strict", *relaxing,
                "--iterations", args.iterations, "--epochs", args.epochs, "--batch", 100, "--lr", args.lr,
                "--schedule", "cosine", "--out", run,
            )
            seconds = time.perf_counter() - begin
            predict = ["predict", "--model", model, "--weights", run / "weights.safetensors", "--output"]
            infer = [*relaxing, "--iterations", args.inference]
            result = folder / "result.safetensors"
            call(*predict, result, "--input", folder / "half.safetensors", "--as", "logits", *infer)
            completed = load_file(result)["logits"]
            call(*predict, result, "--input", folder / "whole.safetensors", "--as", "inputs", *infer)
            latents = load_file(result)["inputs"]
            drawn = draw.multivariate_normal(latents.mean(0), np.cov(latents.T), 10).astype(np.float32)
            save_file({"x": drawn}, folder / "drawn.safetensors")
            call(*predict, result, "--input", folder / "drawn.safetensors", "--as", "logits")
            rows += [(f"{name}: completed", completed[:10]), (f"{name}: drawn", load_file(result)["logits"])]
            print(f"{name}: error of the lower half {error(completed):.4f}, trained in {seconds:.0f} s", flush=True)
    rows.insert(2, ("mean image", np.where(lower, mean, test[:10])))
    figure, axes = plt.subplots(len(rows), 10, figsize=(8, 0.8 * len(rows)), layout="constrained")
    for line, (name, shown) in zip(axes, rows):
        for place, image in zip(line, shown):
            place.imshow(image.reshape(28, 28).clip(0, 1), cmap="gray_r", vmin=0, vmax=1)
            place.set(xticks=[], yticks=[])
        line[0].set_ylabel(name.replace(": ", "\n"), rotation=0, ha="right", va="center", fontsize=8)
    args.out.mkdir(parents=True, exist_ok=True)
    for ending in ("png", "svg"):
        figure.savefig(args.out / f"decoder.{ending}", dpi=150)


main()
