"""A phase2hpc command in its own process, paused wherever it calls a chosen function.

The test decides what happens at that point (a signal, a killed worker), however fast or slow the
machine is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

_PROGRAM = """
import importlib, operator, sys
module, _, path = sys.argv.pop(1).partition(":")
parent, _, name = path.rpartition(".")
owner = importlib.import_module(module)
owner = operator.attrgetter(parent)(owner) if parent else owner
function = getattr(owner, name)

def paused(*args, **options):
    print("paused", flush=True)
    sys.stdin.readline()
    return function(*args, **options)

setattr(owner, name, paused)
from phase2hpc.cli.main import main
main()
"""


class PausedCommand:
    """``phase2hpc *arguments``, paused at each call of ``function`` (``module:attribute.path``).

    A context manager that kills the process and its group at the end.
    """

    def __init__(self, function: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, function, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell starts background jobs with SIGINT ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def wait_for_call(self, number: int = 1) -> None:
        """Until it is paused for the ``number``-th time from now on."""
        assert self.process.stdin is not None and self.process.stdout is not None
        for _ in range(number - 1):
            self.wait_for_call()
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if line != "paused\n":
            out, err = self.process.communicate()
            raise AssertionError(f"it ended before that call: {line}{out}{err}")

    def finish(self, timeout: float = 300.0) -> tuple[int, str]:
        """Let it run to its end; its exit code and stderr (its workers' too)."""
        _, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, err

    def workers(self) -> list[int]:
        """Process ids of its children."""
        pid = self.process.pid
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    """Whether this process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class PausePoint:
    """The ``number``-th call of ``function`` (``module:attribute.path``) in a process that gets
    ``environment``, or in a child of it: there it waits for a signal.
    """

    def __init__(self, paused: Path, function: str, number: int) -> None:
        self._paused = paused
        self.environment = {
            "PYTHONPATH": str(Path(__file__).with_name("pausing")),
            "PAUSE_AT": f"{function}#{number}",
            "PAUSED": str(paused),
        }

    def wait(self, process: subprocess.Popen[str], seconds: float = 300.0) -> None:
        """Until it is reached; ``process`` is the one that leads there."""
        deadline = time.monotonic() + seconds
        while not self._paused.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise AssertionError(f"not reached: {process.communicate()}")
            time.sleep(0.01)
