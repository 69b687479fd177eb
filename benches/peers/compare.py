#!/usr/bin/env python3
"""Runs the benchmark's shapes through numpy and PyTorch too, and prints Markdown tables.

    cargo build --release
    python -m venv peers && peers/bin/pip install -r benches/peers/requirements.txt
    peers/bin/python benches/peers/compare.py --threads 1 2

Every case alternates between `predictive-coding bench` and the peers, so that what else the machine
does hits all alike; of the medians of all rounds the least counts, for every side. GFLOP/s count
2 m k n, or 2 B O Ho Wo C / groups kh kw for every pass of a convolution.

Ours and the products write to memory that is there. PyTorch's convolutions allocate their results, and
where these are large the C library by default gets them from the system and gives them back each
time: the page faults can take several times as long as the convolution. So that kernels are compared
with kernels, the memory is kept from call to call; with --fresh-memory everything stays at the default.
"""

import argparse
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# A processor type that somebody forced on OpenBLAS would hold the peer back. It is read on loading.
for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)

import numpy
import threadpoolctl
import torch

from harness import PAUSE, call_json, check_binary, machine, markdown, parser, settle_memory

GEMM = [
    "64x64x64",
    "128x128x128",
    "512x512x512",
    "1024x1024x1024",
    "300x605x50",
    "300x50x605",
    "256x16384x256",
    "128x576x1024",
    "5x90x1936",
    "10x9x10816",
    "64x27x1024",
]
CONV = [
    "b300_c1_28x28_o10_k3_s1_p0",
    "b300_c10_13x13_o5_k3_s1_p0",
    "b256_c3_32x32_o64_k3_s1_p1",
    "b256_c64_32x32_o128_k3_s1_p1",
    "b256_c128_16x16_o256_k3_s1_p1",
    "b2_c64_224x224_o64_k3_s1_p1",
    "b2_c512_14x14_o512_k3_s1_p1",
    "b8_c512_7x7_o512_k3_s1_p1",
    "b64_c32_28x28_o32_k1_s1_p0",
    "b1_c256_56x56_o64_k1_s1_p0",
    "b8_c256_56x56_o64_k1_s1_p0",
    "b8_c256_56x56_o64_k1_s2_p0",
    "b1_c3_224x224_o64_k7_s2_p3",
    "b8_c3_224x224_o64_k7_s2_p3",
    "b8_c64_28x28_o128_k5_s2_p2",
]
KINDS = ["conv", "conv-channels", "conv-nchw"]
PASSES = ["forward", "backward-data", "backward-weights"]
LANES = 16


@dataclass
class Row:
    """What is compared: our cases and the peers that do the same work, by the name of a column."""

    label: list[str]
    ours: dict[str, str]
    peers: dict[str, Callable[[], object]]
    gflops: dict[str, float] = field(default_factory=dict)
    of_peak: dict[str, float] = field(default_factory=dict)

    def note(self, column: str, gflops: float) -> None:
        self.gflops[column] = max(gflops, self.gflops.get(column, 0.0))

    def measure(self, binary: Path, threads: int, rounds: int, seconds: float) -> None:
        for _ in range(rounds):
            time.sleep(PAUSE)
            for column, case in self.ours.items():
                result = bench(binary, case, threads, seconds)
                self.note(column, result["gflops"])
                self.of_peak[column] = max(result["fraction_of_peak"], self.of_peak.get(column, 0.0))
            for column, call in self.peers.items():
                # All of ours in a row do the same operations.
                self.note(column, result["flops"] * 1e-9 / median_seconds(call, seconds))

    def ratio(self, column: str) -> float:
        """How many times as fast as the fastest peer."""
        return self.gflops[column] / max(self.gflops[peer] for peer in self.peers)


def bench(binary: Path, case: str, threads: int, seconds: float) -> dict:
    return call_json(binary, "bench", "--case", case, "--threads", threads, "--min-time", seconds)


def median_seconds(call: Callable[[], object], seconds: float) -> float:
    """As the benchmark does it: at least three times, and calls below 10 microseconds several at once."""
    call()

    def measure(calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - started

    calls = math.ceil(10e-6 / max(measure(1), 1e-9))
    measured, started = [], time.perf_counter()
    while len(measured) < 3 or time.perf_counter() - started < seconds:
        measured.append(measure(calls) / calls)
    return statistics.median(measured)


def gemm(name: str) -> Row:
    sizes, *options = name.split("/")
    m, k, n = (int(size) for size in sizes.split("x"))
    generator = numpy.random.default_rng(1)

    def matrix(rows: int, columns: int, transposed: bool) -> numpy.ndarray:
        stored = (columns, rows) if transposed else (rows, columns)
        values = generator.uniform(-1, 1, stored).astype(numpy.float32)
        return values.T if transposed else values

    a, b, c = matrix(m, k, "ta" in options), matrix(k, n, "tb" in options), numpy.empty((m, n), numpy.float32)
    # The same memory, seen by PyTorch.
    a_torch, b_torch, c_torch = torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(c)
    return Row(
        [name],
        {"ours": f"gemm/{name}"},
        {
            "numpy": lambda: numpy.matmul(a, b, out=c),
            "PyTorch": lambda: torch.mm(a_torch, b_torch, out=c_torch),
        },
    )


def parse_shape(shape: str) -> tuple[dict[str, int], dict[str, list[int]]]:
    pattern = r"b(\d+)_c(\d+)_(\d+x\d+)_o(\d+)_k([\dx]+)_s([\dx]+)_p([\dx]+)(?:_d([\dx]+)(?:_g(\d+))?)?"
    match = re.fullmatch(pattern, shape) or sys.exit(f"{shape!r} is no shape, expected one as in {CONV[0]}")
    batch, c, size, o, *windows, groups = match.groups()
    pairs = [[int(n) for n in text.split("x")] for text in (size, *(text or "1" for text in windows))]
    names = ("size", "kernel", "stride", "padding", "dilation")
    return (
        {"batch": int(batch), "c": int(c), "o": int(o), "groups": int(groups or 1)},
        {name: pair * (2 // len(pair)) for name, pair in zip(names, pairs)},
    )


def conv(name: str, kinds: list[str]) -> Row:
    """`name` is PASS/SHAPE; `kinds` are those of ours that run it."""
    which, shape = name.split("/")
    counts, pairs = parse_shape(shape)
    geometry = [pairs["stride"], pairs["padding"], pairs["dilation"], False, [0, 0], counts["groups"]]
    x = torch.rand(counts["batch"], counts["c"], *pairs["size"]) * 2 - 1
    weight = torch.rand(counts["o"], counts["c"] // counts["groups"], *pairs["kernel"]) * 2 - 1
    y = torch.ops.aten.convolution(x, weight, None, *geometry)
    e = torch.rand_like(y) * 2 - 1

    def call(memory_format: torch.memory_format) -> Callable[[], object]:
        x_, weight_, e_ = (tensor.contiguous(memory_format=memory_format) for tensor in (x, weight, e))
        if which == "forward":
            return lambda: torch.ops.aten.convolution(x_, weight_, None, *geometry)
        wanted = [which == "backward-data", which == "backward-weights", False]
        return lambda: torch.ops.aten.convolution_backward(e_, x_, weight_, None, *geometry, wanted)

    return Row(
        [shape, which],
        {column: f"{column}/{name}" for column in kinds},
        {"PyTorch NCHW": call(torch.contiguous_format), "PyTorch channels-last": call(torch.channels_last)},
    )


def rows_of(arguments: argparse.Namespace) -> tuple[list[Callable[[], Row]], list[Callable[[], Row]]]:
    """Rows of products and of convolutions; each is made when it is its turn, for the memory it takes."""
    suite = arguments.suite or (None if arguments.case else "all")
    products = GEMM if suite in ("gemm", "all") else []
    convolutions = {}
    for shape in CONV if suite in ("conv", "all") else []:
        # Images across lanes make sense if there are as many as lanes.
        kinds = ["conv", "conv-nchw"] if parse_shape(shape)[0]["batch"] >= LANES else ["conv-nchw"]
        convolutions |= {f"{which}/{shape}": kinds for which in PASSES}
    for case in arguments.case:
        kind, _, name = case.partition("/")
        which, _, shape = name.partition("/")
        if kind == "gemm" and re.fullmatch(r"\d+x\d+x\d+(/ta|/tb|/packed)*", name):
            products = products + [name]
        elif kind in KINDS and which in PASSES and parse_shape(shape):
            kinds = convolutions.setdefault(name, [])
            convolutions[name] = kinds + [kind] * (kind not in kinds)
        else:
            sys.exit(f"{case!r} is no case, expected gemm/MxKxN with /ta, /tb, /packed behind, or {', '.join(KINDS)} with /PASS/SHAPE")
    return (
        [lambda name=name: gemm(name) for name in products],
        [lambda name=name, kinds=kinds: conv(name, kinds) for name, kinds in convolutions.items()],
    )


def table(title: list[str], ours: list[str], peers: list[str], rows: list[Row]) -> str:
    header = title + [cell for column in ours for cell in (column, "of peak", "ratio")] + peers
    lines = []
    for row in rows:
        cells = list(row.label)
        for column in ours:
            if column in row.ours:
                cells += [f"{row.gflops[column]:.1f}", f"{row.of_peak[column]:.0%}", f"{row.ratio(column):.2f}"]
            else:
                cells += [""] * 3
        lines.append(cells + [f"{row.gflops[peer]:.1f}" for peer in peers])
    means = ["geometric mean"] + [""] * (len(title) - 1)
    for column in ours:
        ratios = [row.ratio(column) for row in rows if column in row.ours]
        means += ["", "", f"{statistics.geometric_mean(ratios):.2f}" if ratios else ""]
    lines.append(means + [""] * len(peers))
    return markdown(header, len(title), lines)


def describe(binary: Path, threads: int, seconds: float, memory: str) -> str:
    """The machine, the versions, and what a call costs at the least."""
    result = bench(binary, "gemm/1x1x1", threads, seconds)
    peak = result["gflops"] / result["fraction_of_peak"]
    blas = {pool.get("version") for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "openblas"}
    calls = {peer: 1e6 * median_seconds(call, seconds) for peer, call in gemm("1x1x1").peers.items()}
    least = ", ".join(f"{peer} {micros:.1f}" for peer, micros in calls.items())
    return (
        f"{machine(threads, result['level'], peak)}; "
        f"numpy {numpy.__version__} with OpenBLAS {', '.join(sorted(map(str, blas)))}, PyTorch {torch.__version__}, {memory}. "
        f"GFLOP/s; ratios to the fastest peer of the row. A product of 1x1x1, in microseconds: "
        f"ours {1e6 * result['median_seconds']:.1f}, {least}."
    )


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--case", action="append", default=[], help="as of predictive-coding bench")
    options.add_argument("--suite", choices=["gemm", "conv", "all"], help="default: all, if no case is named")
    options.add_argument("--threads", type=int, nargs="+", default=[1], help="one set of tables for each number")
    options.add_argument("--min-time", type=float, default=0.3, help="seconds of each measurement")
    options.add_argument("--rounds", type=int, default=2, help="how often ours and the peers take turns")
    arguments = options.parse_args()
    check_binary(arguments.binary)
    products, convolutions = rows_of(arguments)
    memory = settle_memory(arguments)
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        with threadpoolctl.threadpool_limits(threads), torch.inference_mode():
            print(f"{describe(arguments.binary, threads, arguments.min_time, memory)}\n", flush=True)
            for makers, title, ours in (
                (products, ["GEMM m x k x n"], ["ours"]),
                (convolutions, ["convolution", "pass"], KINDS),
            ):
                rows = []
                for make in makers:
                    row = make()
                    print(" ".join(row.label), file=sys.stderr, flush=True)
                    row.measure(arguments.binary, threads, arguments.rounds, arguments.min_time)
                    peers = list(row.peers)
                    # The operands go, the figures stay.
                    row.peers = dict.fromkeys(row.peers)
                    rows.append(row)
                if rows:
                    print(table(title, ours, peers, rows) + "\n", flush=True)


if __name__ == "__main__":
    main()
