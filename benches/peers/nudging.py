#!/usr/bin/env python3
"""How much of a nudged gradient is rounding: a figure of its error against float64, by the nudge beta.

    cargo build --release
    peers/bin/python benches/peers/nudging.py --picture docs/nudging

An MLP 64-48-32-10 with tanh on 32 samples of noise relaxes by strict, 400 iterations of 0.4, with the loss times beta.
Each gradient is compared with PyTorch's in float64 by the same formulas, and that with backpropagation's.
"""

import copy
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import torch_steps
from harness import call, check_binary, parser

BETAS = [10.0**-power for power in range(7)]
ETA, ITERATIONS = 0.4, 400
SIZES = [64, 48, 32, 10]
LAYER = '[[layer]]\nops = [{{ type = "linear", out_features = {} }}{}]\n'
TANH = ', { type = "tanh" }'
MODEL = 'input = [64]\nloss = "mse"\n' + "".join(LAYER.format(size, TANH * (size > 10)) for size in SIZES[1:])


def one_sided(model: nn.Sequential, x: Tensor, y: Tensor, beta: float) -> Tensor:
    def loss(output: Tensor, labels: Tensor) -> Tensor:
        return beta * torch_steps.mse(output, labels)

    _, gradients = torch_steps.strict(model, loss, x, y, ETA, ITERATIONS)
    return torch.cat([gradient.flatten() for gradient in gradients]) / beta


def by_torch(model: nn.Sequential, x: Tensor, y: Tensor, beta: float, centred: bool) -> Tensor:
    gradient = one_sided(model, x, y, beta)
    return (gradient + one_sided(model, x, y, -beta)) / 2 if centred else gradient


def ours(binary: Path, directory: Path, names: list[str], beta: float, centred: bool) -> Tensor:
    files = {"--model": "model.toml", "--weights": "weights.safetensors", "--batch": "batch.safetensors"}
    inputs = [argument for option, name in files.items() for argument in (option, directory / name)]
    method = ["--method", "strict", "--eta", ETA, "--iterations", ITERATIONS, "--nudge", beta]
    output = directory / "output.safetensors"
    call(binary, "infer", *inputs, *method, *["--centred"] * centred, "--output", output)
    tensors = load_file(output)
    return torch.cat([tensors[f"grad.{name}"].flatten() for name in names])


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def draw(path: Path, lines: dict[str, list[float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for (name, errors), mark in zip(lines.items(), ["o-", "s--", "o-", "s--", "o:", "s:"], strict=True):
        color = "tab:blue" if name.startswith("this") else "tab:orange" if name.startswith("PyTorch") else "tab:gray"
        axes.loglog(BETAS, errors, mark, label=name, color=color, markersize=4, linewidth=1.2)
    axes.set_xlabel("nudge beta")
    axes.set_ylabel("relative error of the gradient")
    axes.invert_xaxis()
    axes.grid(color="0.9")
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("MLP 64-48-32-10, tanh, strict (0.4, 400): rounding errors of nudged gradients", fontsize=10)
    for suffix in [".png", ".svg"]:
        figure.savefig(path.with_suffix(suffix), dpi=200)


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--picture", type=Path, help="where to draw, without a suffix")
    arguments = options.parse_args()
    check_binary(arguments.binary)
    torch.manual_seed(0)
    pairs = zip(SIZES, SIZES[1:])
    model = nn.Sequential(*(nn.Sequential(nn.Linear(i, o), *[nn.Tanh()] * (o > 10)) for i, o in pairs))
    x, y = torch.rand(32, 64), torch.randint(10, (32,))
    double = copy.deepcopy(model).double()
    names = [name for name, _ in model.named_parameters()]
    _, exact = torch_steps.backpropagation(double, torch_steps.mse, x.double(), y)
    exact = torch.cat([gradient.flatten() for gradient in exact])
    lines: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "model.toml").write_text(MODEL)
        save_file(model.state_dict(), directory / "weights.safetensors")
        save_file({"x": x, "y": y}, directory / "batch.safetensors")
        for centred in [False, True]:
            sides = "centred" if centred else "one-sided"
            for beta in BETAS:
                expected = by_torch(double, x.double(), y, beta, centred)
                found = {
                    f"this library, {sides}": error(ours(arguments.binary, directory, names, beta, centred), expected),
                    f"PyTorch in float32, {sides}": error(by_torch(model, x, y, beta, centred), expected),
                    f"distance to backpropagation, {sides}": error(expected, exact),
                }
                for line, value in found.items():
                    lines.setdefault(line, []).append(value)
    print("| | " + " | ".join(f"{beta:g}" for beta in BETAS) + " |")
    print("| --- |" + " ---: |" * len(BETAS))
    lines = dict(sorted(lines.items(), key=lambda line: ["this", "PyTo", "dist"].index(line[0][:4])))
    for line, errors in lines.items():
        print(f"| {line} | " + " | ".join(f"{value:.1e}" for value in errors) + " |")
    if arguments.picture:
        draw(arguments.picture, lines)


if __name__ == "__main__":
    main()
