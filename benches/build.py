#!/usr/bin/env python3
"""What the kernels cost to build: seconds of CPU, the size of the library, and the largest stack frames.

    python benches/build.py

Builds predictive-coding-kernels with its dependencies in an empty directory, optimised and not. Stack frames are those
of the functions of the kernels in a program that uses them, tests/downstream, as `objdump` shows them.
"""

import re
import resource
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOWNSTREAM = ROOT / "tests/downstream"
FRAMES = 3
# How a function takes its frame from the stack, in one step or page by page.
FRAME = re.compile(r"sub\s+\$0x([0-9a-f]+),%rsp|lea\s+-0x([0-9a-f]+)\(%rsp\),%r11")


def build(directory: Path, *arguments: str, cwd: Path = ROOT) -> float:
    """Runs cargo with an empty target directory; the seconds of CPU that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["cargo", "build", "--quiet", "--target-dir", str(directory), *arguments]
    subprocess.run(command, check=True, cwd=cwd)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def frames(binary: Path) -> list[tuple[int, str]]:
    """The functions of the kernels by the bytes that they take from the stack, the largest first."""
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(binary)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found, function = [], ""
    for line in listing.splitlines():
        if header := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
            function = header[1]
        elif "predictive_coding_kernels" in function and (size := FRAME.search(line)):
            found.append((int(size[1] or size[2], 16), function))
    return sorted(found, reverse=True)


def main() -> None:
    for profile in (["--release"], []):
        name = "release" if profile else "debug"
        with tempfile.TemporaryDirectory() as target:
            seconds = build(Path(target), "-p", "predictive-coding-kernels", *profile)
            (library,) = Path(target, name).glob("libpredictive_coding_kernels.rlib")
            print(f"{name}: {seconds:.0f} seconds of CPU, a library of {library.stat().st_size / 1e6:.1f} MB")
        with tempfile.TemporaryDirectory() as target:
            build(Path(target), *profile, cwd=DOWNSTREAM)
            for size, function in frames(Path(target, name, "downstream"))[:FRAMES]:
                print(f"    a stack frame of {size} bytes: {function}")


if __name__ == "__main__":
    main()
