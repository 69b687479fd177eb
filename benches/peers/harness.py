"""What the comparisons share: calling the program, fair memory, the machine in words, tables."""

import argparse
import ctypes
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

BINARY = Path(__file__).resolve().parents[2] / "target/release/predictive-coding"

# Threads of a peer may wait actively for a while; ours should not compete with them.
PAUSE = 0.1

# Parameters of glibc's mallopt.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all comparisons have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--binary", type=Path, default=BINARY, help="the program, built for release")
    parser.add_argument("--fresh-memory", action="store_true", help="leave the C library's allocation at its default")
    return parser


def check_binary(binary: Path) -> None:
    if not binary.exists():
        sys.exit(f"{binary} does not exist; run cargo build --release, or name it with --binary")


def call(binary: Path, *arguments: object) -> str:
    """What the program prints; ends this one if it fails. Its warnings are passed on."""
    command = [str(binary), *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"{' '.join(command)}: {finished.stderr.strip()}")
    sys.stderr.write(finished.stderr)
    return finished.stdout


def call_json(binary: Path, *arguments: object) -> dict:
    return json.loads(call(binary, *arguments, "--json"))


def settle_memory(arguments: argparse.Namespace) -> str:
    """Has the C library keep what is freed, unless the options say no, and says which it is.

    What PyTorch allocates is large enough for the C library to get it from the system and give it
    back each time, and the page faults can take several times as long as the work. So all is cut
    from one piece that is not given back.
    """
    if arguments.fresh_memory:
        return "memory allocated as by default"
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        sys.exit("this C library has no mallopt; use --fresh-memory, and read PyTorch's figures with care")
    if not all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, 2**31 - 1), mallopt(M_TOP_PAD, 2**28)]):
        sys.exit("mallopt failed; use --fresh-memory, and read PyTorch's figures with care")
    return "memory kept from call to call"


def machine(threads: int, level: str, peak: float) -> str:
    return f"{cpu()}, {threads} thread{'s' * (threads > 1)}, level {level}, FMA peak {peak:.0f} GFLOP/s"


def cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    return re.search(r"model name\s*:\s*(.*)", text + "model name: " + platform.machine()).group(1)


def markdown(header: list[str], labels: int, lines: list[list[str]]) -> str:
    """A table whose first `labels` columns are text, and the others figures."""
    rule = ["---"] * labels + ["---:"] * (len(header) - labels)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])
