#!/usr/bin/env python3
"""Runs whole steps of predictive coding through this library and PyTorch, and prints Markdown tables.

    cargo build --release
    python -m venv peers && peers/bin/pip install -r benches/peers/requirements.txt
    peers/bin/python benches/peers/steps.py

This needs Python 3.11 or later. A step is a forward pass, n iterations and the gradients of all
parameters, of the networks in `cli/models` and `models` with the mean-squared loss, on one batch of noise. Every case
alternates between `predictive-coding infer` and the peers; of the medians of all rounds the least
counts, for every side, and a first step that takes ten times as long as --min-time counts itself. The floor is
the multiplications and additions that the method needs, divided by the FMA peak of the same run on the
same threads.

PyTorch's steps are in torch_steps.py. Nothing is timed before ours and they, in float64, have agreed
on the loss and on all gradients of another, usually smaller batch; what float32 makes of the gradients
of that batch is a table of its own. Memory is settled as in compare.py; with --memory the peaks of
processes that take one step each are shown instead of times.
"""

import argparse
import copy
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import torch_steps
from harness import PAUSE, call, call_json, check_binary, machine, markdown, parser, settle_memory

# The models of the program, and those of other networks that the field uses.
MODELS = Path(__file__).resolve().parents[2] / "cli/models"
OTHERS = Path(__file__).resolve().parent / "models"

# Relative: ours in float32 against PyTorch in float64.
TOLERANCE = 1e-4
# A step that takes so many times as long as is measured is very long: its first time counts.
LONG = 10

# Samples to choose each from that results are compared on.
CANDIDATES = 16


@dataclass(frozen=True)
class Network:
    model: Path
    batch: int
    # The most samples on which results are compared: PyTorch takes its time for float64.
    compared: int
    rounds: int


NETWORKS = {
    "mnist": Network(MODELS / "mnist.toml", batch=300, compared=300, rounds=3),
    "cifar": Network(MODELS / "cifar10.toml", batch=256, compared=4, rounds=1),
    "mlp-sigmoid": Network(OTHERS / "mlp_sigmoid.toml", batch=64, compared=64, rounds=3),
    "mlp-relu": Network(OTHERS / "mlp_relu.toml", batch=64, compared=64, rounds=3),
    "mlp-gelu": Network(OTHERS / "mlp_gelu.toml", batch=64, compared=64, rounds=3),
    "vgg5": Network(OTHERS / "vgg5.toml", batch=64, compared=4, rounds=1),
    "lenet5": Network(OTHERS / "lenet5.toml", batch=64, compared=64, rounds=3),
}
# Those of the paper.
PAPER = ["mnist", "cifar"]

# Rows of each method: what they are called, and what ours is asked for besides method, eta and
# iterations. A row whose options the program does not know is left out.
OURS = {
    "exact": {"exact": []},
    "fixed-prediction": {"fixed-prediction": [], "fixed-prediction, literal": ["--literal"]},
    "strict": {"strict": []},
}

# Columns, with PyTorch's layout of images; Torch2PC leaves that alone. Each method's step by column.
COLUMNS = {
    "PyTorch NCHW": torch.contiguous_format,
    "PyTorch channels-last": torch.channels_last,
    "as Torch2PC": torch.contiguous_format,
}
*PYTORCH, TORCH2PC = COLUMNS
PEERS = {
    "exact": dict.fromkeys(PYTORCH, torch_steps.backpropagation),
    "fixed-prediction": dict.fromkeys(PYTORCH, torch_steps.fixed_prediction)
    | {TORCH2PC: torch_steps.torch2pc_fixed_prediction},
    "strict": dict.fromkeys(PYTORCH, torch_steps.strict) | {TORCH2PC: torch_steps.torch2pc_strict},
}

# Eta and n of each method; None is the number of layers.
SETTINGS = {"exact": [()], "fixed-prediction": [(0.1, 20), (1.0, None)], "strict": [(0.1, 20)]}

OPERATIONS = {
    "conv2d": nn.LazyConv2d,
    "linear": nn.LazyLinear,
    "avg_pool2d": nn.AvgPool2d,
    "max_pool2d": nn.MaxPool2d,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "flatten": nn.Flatten,
}


def build(description: dict) -> nn.Sequential:
    """PyTorch's model of a model file."""

    def operation(type: str, **options: int) -> nn.Module:
        return OPERATIONS[type](**options)

    layers = [nn.Sequential(*(operation(**op) for op in layer["ops"])) for layer in description["layer"]]
    model = nn.Sequential(*layers)
    # A first sample settles the shapes.
    model(torch.zeros(1, *description["input"]))
    return model


def clear_of_kinks(model: nn.Sequential, x: Tensor, count: int) -> Tensor:
    """The samples of `x` that are furthest from where a derivative jumps.

    A unit of a ReLU near 0, or the first two of a pooling window near each other, can end on different
    sides in float32 and float64. Wide networks have hundreds of thousands of them per sample, and a
    single one moves gradients by more than float32 does elsewhere.
    """
    margins, values = [], x
    with torch.no_grad():
        for operation in (operation for layer in model for operation in layer):
            if isinstance(operation, nn.ReLU):
                margins.append(values.abs().flatten(1).amin(1))
            if isinstance(operation, nn.MaxPool2d):
                size = operation.kernel_size
                first, second = values.unfold(2, size, size).unfold(3, size, size).flatten(4).topk(2).values.unbind(-1)
                # Where all are 0, none has a derivative.
                margins.append((first - second).masked_fill(first == 0, math.inf).flatten(1).amin(1))
            values = operation(values)
    return x[torch.stack(margins).amin(0).topk(count).indices]


@dataclass(frozen=True)
class Batch:
    """Samples with labels, in memory and in a file for ours."""

    x: Tensor
    y: Tensor
    path: Path

    def __post_init__(self) -> None:
        save_file({"x": self.x, "y": self.y}, self.path)

    def __len__(self) -> int:
        return len(self.y)


class Case:
    """A network with a method, its settings, and batches of noise to be timed and to be compared on."""

    def __init__(self, network: str, batch: int | None, method: str, setting: tuple, directory: Path) -> None:
        self.name, self.network, self.method, self.directory = network, NETWORKS[network], method, directory
        text = re.sub('(?m)^loss = ".*"', 'loss = "mse"', self.network.model.read_text())
        description = tomllib.loads(text)
        self.setting = tuple(value or len(description["layer"]) for value in setting)
        torch.manual_seed(1)
        self.model = build(description)
        self.input = description["input"]
        self.timed = self.noise(batch or self.network.batch, "timed")
        (directory / "model.toml").write_text(text)
        save_file(self.model.state_dict(), directory / "weights.safetensors")

    def noise(self, samples: int, name: str, candidates: int = 1) -> Batch:
        """Of so many times as many samples, those that are clear of kinks."""
        x = torch.rand(candidates * samples, *self.input)
        if candidates > 1:
            x = clear_of_kinks(self.model, x, samples)
        (classes,) = self.model[-1][-1].bias.shape
        return Batch(x, torch.randint(classes, (samples,)), self.directory / f"{name}.safetensors")

    @cached_property
    def compared(self) -> Batch:
        return self.noise(min(self.network.compared, len(self.timed)), "compared", CANDIDATES)

    def label(self, row: str, batch: Batch) -> list[str]:
        settings = ", ".join(f"{value:g}" for value in self.setting)
        return [self.name, str(len(batch)), f"{row} {settings}".strip()]

    def ours(self, threads: int, options: list[str], batch: Batch) -> list[object]:
        """What the program is called with."""
        values = {
            "--model": self.directory / "model.toml",
            "--weights": self.directory / "weights.safetensors",
            "--batch": batch.path,
            "--method": self.method,
            "--threads": threads,
        } | dict(zip(("--eta", "--iterations"), self.setting))
        return ["infer", *(argument for pair in values.items() for argument in pair), *options]

    def peer(self, column: str, batch: Batch, dtype: torch.dtype = torch.float32) -> Callable[[], torch_steps.Step]:
        layout = {"dtype": dtype, "memory_format": COLUMNS[column]}
        x, model = batch.x.to(**layout), copy.deepcopy(self.model).to(**layout)
        return partial(PEERS[self.method][column], model, torch_steps.mse, x, batch.y, *self.setting)


@dataclass
class Timing:
    """A row: what the program said in each round, and the peers' seconds."""

    label: list[str]
    ours: list[dict]
    peers: dict[str, float]

    @property
    def peak(self) -> float:
        return max(result["peak_gflops"] for result in self.ours)

    def line(self, peak: float) -> list[str]:
        """With the floor at this FMA peak, in GFLOP/s."""
        seconds, flops = min(result["median_seconds"] for result in self.ours), self.ours[0]["flops"]
        floor = flops * 1e-9 / peak
        figures = [(1e3 * seconds, ".4g"), (flops * 1e-9 / seconds, ".0f")]
        figures += [(1e3 * floor, ".4g"), (seconds / floor, ".2f")]
        figures += [(1e3 * self.peers[peer], ".4g") for peer in PYTORCH]
        figures += [(min(self.peers[peer] for peer in PYTORCH) / seconds, ".1f")]
        if TORCH2PC in self.peers:
            figures += [(1e3 * self.peers[TORCH2PC], ".4g"), (self.peers[TORCH2PC] / seconds, ".1f")]
        else:
            figures += [(None, "")] * 2
        return self.label + [cell(*figure) for figure in figures]


@dataclass
class Comparison:
    """A case with rows of ours, by the options that they take."""

    case: Case
    rows: dict[str, list[str]]
    binary: Path
    threads: int

    @property
    def peers(self) -> list[str]:
        return list(PEERS[self.case.method])

    def errors(self) -> list[list[str]]:
        """Lines that say how far off float32 is. Ends the program unless ours and PyTorch in float64 agree."""
        case, batch = self.case, self.case.compared
        truth = case.peer(PYTORCH[0], batch, torch.float64)()
        errors = {peer: distance(case.peer(peer, batch)(), truth) for peer in self.peers}
        for peer in self.peers[1:]:
            self.insist(f"{peer} in float64", distance(case.peer(peer, batch, torch.float64)(), truth))
        lines = []
        for row, options in self.rows.items():
            output = case.directory / "output.safetensors"
            call(self.binary, *case.ours(self.threads, options, batch), "--output", output)
            tensors = load_file(output)
            gradients = [tensors[f"grad.{name}"] for name, _ in case.model.named_parameters()]
            error = distance((tensors["loss"][0], gradients), truth)
            self.insist(f"ours, {row},", error)
            figures = [error, *map(errors.get, COLUMNS)]
            lines.append(case.label(row, batch) + [cell(figure, ".1e") for figure in figures])
        return lines

    def insist(self, what: str, error: float) -> None:
        if not error <= TOLERANCE:
            sys.exit(f"{self.case.name}: {what} is {error:.1e} away from PyTorch in float64; nothing is timed")

    def times(self, rounds: int, seconds: float) -> list[Timing]:
        case = self.case
        steps = {peer: case.peer(peer, case.timed) for peer in self.peers}
        ours: dict[str, list[dict]] = {row: [] for row in self.rows}
        peers: dict[str, list[float]] = {peer: [] for peer in self.peers}
        for _ in range(rounds):
            time.sleep(PAUSE)
            for row, options in self.rows.items():
                ours[row].append(run(self.binary, case.ours(self.threads, options, case.timed), seconds))
            for peer, step in steps.items():
                peers[peer].append(median_seconds(step, seconds))
        least = {peer: min(measured) for peer, measured in peers.items()}
        return [Timing(case.label(row, case.timed), results, least) for row, results in ours.items()]

    def memory(self) -> list[list[str]]:
        """Lines with the most that a process with a single step takes, in megabytes."""
        case = self.case
        script = [sys.executable, __file__, "--networks", case.name, "--methods", case.method]
        script += ["--batch", len(case.timed), "--threads", self.threads, "--binary", self.binary, "--alone"]
        peers = {peer: peak_megabytes([*script, peer]) for peer in self.peers}
        lines = []
        for row, options in self.rows.items():
            ours = peak_megabytes([self.binary, *case.ours(self.threads, options, case.timed)])
            figures = [ours, *map(peers.get, COLUMNS)]
            lines.append(case.label(row, case.timed) + [cell(figure, ".0f") for figure in figures])
        return lines


def cell(figure: float | None, form: str) -> str:
    return "" if figure is None else format(figure, form)


def distance(result: torch_steps.Step, truth: torch_steps.Step) -> float:
    """Of the loss or the gradient that is furthest off, relative to its norm."""

    def relative(a: Tensor, b: Tensor) -> float:
        return (torch.linalg.vector_norm(a.double() - b) / torch.linalg.vector_norm(b)).item()

    (loss, gradients), (true_loss, true_gradients) = result, truth
    return max(relative(a, b) for a, b in zip([loss, *gradients], [true_loss, *true_gradients], strict=True))


def repetitions(first: float, seconds: float) -> int:
    """How often a step whose first time took so long is repeated: a long one once, a very long one not at all."""
    if first >= seconds:
        return 1 if first < LONG * seconds else 0
    return max(3, math.ceil(seconds / first))


def run(binary: Path, arguments: list[object], seconds: float) -> dict:
    """What the program says about a step, with its time after `seconds` of them."""
    result = call_json(binary, *arguments)
    repeat = repetitions(result["median_seconds"], seconds)
    return call_json(binary, *arguments, "--repeat", repeat) if repeat else result


def median_seconds(step: Callable[[], object], seconds: float) -> float:
    def measure() -> float:
        started = time.perf_counter()
        step()
        return time.perf_counter() - started

    first = measure()
    return statistics.median([measure() for _ in range(repetitions(first, seconds))] or [first])


def peak_megabytes(command: list[object]) -> float:
    """Peak resident memory of a command.

    A process inherits the peak of the one that it was forked from: a small one is put in between.
    """
    between = (
        "import resource, subprocess, sys; status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(status)"
    )
    finished = subprocess.run([sys.executable, "-c", between, *map(str, command)], stdout=subprocess.PIPE, text=True)
    if finished.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed")
    # Kibibytes, but bytes on macOS.
    return int(finished.stdout) * (1 if sys.platform == "darwin" else 1024) * 1e-6


def known_rows(method: str, help_text: str) -> dict[str, list[str]]:
    rows = OURS[method].items()
    return {row: options for row, options in rows if all(option in help_text for option in options if option[0] == "-")}


def compare(arguments: argparse.Namespace, cases: Iterator[Case]) -> None:
    memory = settle_memory(arguments)
    labels = ["network", "batch", "method"]
    timings, errors = [], []
    for comparison in comparisons(arguments, cases):
        errors += comparison.errors()
        rounds = arguments.rounds or comparison.case.network.rounds
        timings += comparison.times(rounds, arguments.min_time)
    peak, level = max(timing.peak for timing in timings), timings[0].ours[0]["level"]
    print(
        f"{machine(arguments.threads, level, peak)}; PyTorch {torch.__version__}, {memory}. "
        f"Ratios to the faster of PyTorch's layouts and to Torch2PC's way.\n"
    )
    times = ["ours ms", "GFLOP/s", "floor ms", "ours / floor", *(f"{peer} ms" for peer in PYTORCH), "ratio"]
    times += [f"{TORCH2PC} ms", "ratio"]
    print(markdown(labels + times, len(labels), [timing.line(peak) for timing in timings]))
    print("\nRelative error of the loss or gradient that is furthest off, all in float32:\n")
    print(markdown([*labels, "ours", *COLUMNS], len(labels), errors))


def compare_memory(arguments: argparse.Namespace, cases: Iterator[Case]) -> None:
    labels = ["network", "batch", "method"]
    lines = [line for comparison in comparisons(arguments, cases) for line in comparison.memory()]
    print("Peak resident memory of a process with one step, in MB:\n")
    print(markdown([*labels, "ours", *COLUMNS], len(labels), lines))


def comparisons(arguments: argparse.Namespace, cases: Iterator[Case]) -> Iterator[Comparison]:
    help_text = call(arguments.binary, "infer", "--help")
    for case in cases:
        print(*case.label(case.method, case.timed), file=sys.stderr, flush=True)
        yield Comparison(case, known_rows(case.method, help_text), arguments.binary, arguments.threads)


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--networks", choices=NETWORKS, nargs="+", default=PAPER)
    options.add_argument("--methods", choices=OURS, nargs="+", default=list(OURS))
    options.add_argument("--batch", type=int, nargs="+", default=[None], help="default: 300 for mnist, 256 for cifar, 64 for others")
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    options.add_argument("--rounds", type=int, help="how often ours and the peers take turns, default: 3, 1 for cifar")
    options.add_argument("--min-time", type=float, default=1.0, help="seconds of each measurement")
    options.add_argument("--memory", action="store_true", help="peak resident memory instead of times")
    options.add_argument("--alone", choices=COLUMNS, help="one step of this peer for the first case, and nothing else")
    arguments = options.parse_args()
    check_binary(arguments.binary)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as directory:
        cases = (
            Case(network, batch, method, setting, Path(directory))
            for network in arguments.networks
            for batch in arguments.batch
            for method in arguments.methods
            # How often an iteration is done makes no difference to memory.
            for setting in SETTINGS[method][: 1 if arguments.memory else None]
        )
        if arguments.alone:
            case = next(cases)
            case.peer(arguments.alone, case.timed)()
        elif arguments.memory:
            compare_memory(arguments, cases)
        else:
            compare(arguments, cases)


if __name__ == "__main__":
    main()
