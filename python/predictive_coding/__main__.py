"""The command line: `python -m predictive_coding --help`."""

import signal
import sys

from ._native import run


def main() -> None:
    """Runs the program with the arguments of this process, and ends it with the program's exit status."""
    # The program listens for Ctrl-C itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(run(["predictive-coding", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
