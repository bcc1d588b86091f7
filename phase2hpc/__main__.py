"""Entry point of the command ``phase2hpc`` and of ``python -m phase2hpc``.

Signals are handled before the command line is loaded: a scheduler may warn a job in its first
second, and ``train`` then still starts, saves its state at the first step and exits with 75.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

from phase2hpc.training.stop_request import StopRequest


def main() -> None:
    """Run ``phase2hpc``."""
    try:
        with StopRequest() if sys.argv[1:2] == ["train"] else nullcontext():
            from phase2hpc.cli.main import main as command_line

            command_line()
    except KeyboardInterrupt:  # while the command line was being loaded
        print("phase2hpc: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
