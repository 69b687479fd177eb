"""A ResNet of three stages on CIFAR-10 by exact and by error-based inference. python benches/shown/resnet.py --data DIR

Prints a row of a Markdown table for each method.
"""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
METHODS = {"exact": "--method exact", "error-based": "--method error-based --eta 0.5 --iterations 4"}


def convolution(channels, kernel, stride):
    padding = (kernel - 1) // 2
    sizes = f"out_channels = {channels}, kernel_size = {kernel}, stride = {stride}, padding = {padding}"
    return f'{{ type = "conv2d", {sizes}, bias = false }}, {{ type = "group_norm", num_groups = 4 }}'


def model(blocks, widths=(16, 32, 64)):
    """He et al. (arXiv 1512.03385) with group norms: each convolution with its norm and ReLU is a layer."""
    relu = '{ type = "relu" }'
    layers = [f'name = "stem"\nops = [ {convolution(widths[0], 3, 1)}, {relu} ]']
    before, channels = "stem", widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            name = f"{stage}-{block}"
            skip = f'{{ from = "{before}" }}'
            if (stride, width) != (1, channels):
                skip = f'{{ from = "{before}", ops = [ {convolution(width, 1, stride)} ] }}'
            layers.append(f'name = "{name}-inner"\nops = [ {convolution(width, 3, stride)}, {relu} ]')
            inner = f"{{ ops = [ {convolution(width, 3, 1)} ] }}"
            layers.append(f'name = "{name}"\nbranches = [ {inner}, {skip} ]\nops = [ {relu} ]')
            before, channels = name, width
    pooled = '{ type = "adaptive_avg_pool2d", output_size = 1 }, { type = "flatten" }'
    layers.append(f'ops = [ {pooled}, {{ type = "linear", out_features = 10 }} ]')
    return 'input = [3, 32, 32]\nloss = "cross_entropy"\n' + "".join(f"\n[[layer]]\n{layer}\n" for layer in layers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=ROOT / "target" / "release" / "predictive-coding")
    parser.add_argument("--data", required=True, help="CIFAR-10's directory")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=1, help="blocks of each stage")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    print("| method | test accuracy | seconds |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "resnet.toml", Path(folder) / "run"
        file.write_text(model(args.blocks))
        for name in args.method:
            command = [args.binary, "train", "--dataset", "cifar10", "--data", args.data, "--model", file]
            command += ["--out", out, "--overwrite"]
            command += f"--batch 128 --epochs {args.epochs} --optimizer adamw --lr 3e-3 --schedule cosine".split()
            done = subprocess.run([*command, *METHODS[name].split()], capture_output=True, text=True)
            if done.returncode:
                print(f"| `{METHODS[name]}` | {done.stderr.strip().splitlines()[-1]} | |", flush=True)
                continue
            result = json.loads((out / "run.json").read_text())
            print(f"| `{METHODS[name]}` | {100 * result['test']['accuracy']:.1f}% | {result['seconds']:.0f} |", flush=True)


main()
