"""Commands of the machine: output, and nothing where there is none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from phase2hpc.utils.command import output_of, run_command


def python(program: str) -> list[str]:
    return [sys.executable, "-S", "-c", program]


def test_output_and_exit_code() -> None:
    done = run_command(python("import sys; print(sys.stdin.read(), 7); sys.exit(3)"), 30)
    assert (done.returncode, done.stdout) == (3, " 7\n")
    assert output_of(python("print(' 7 ')"), 30) == "7"


def test_no_output() -> None:
    assert output_of(python("print(7); raise SystemExit(1)"), 30) is None
    assert output_of(["/no/such/command"], 30) is None
    assert output_of(python("import time; time.sleep(60)"), 0.2) is None
    with pytest.raises(subprocess.TimeoutExpired):
        run_command(python("import time; time.sleep(60)"), 0.2)


def test_bytes_that_are_no_text() -> None:
    assert output_of(python("import os; os.write(1, b'a\\xff')"), 30) == "a\ufffd"
