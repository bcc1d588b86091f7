"""Running a command of this machine for its output."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_command(
    words: Sequence[str],
    timeout: float,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """The finished command with its output as text, whatever its exit code; nothing to read.

    timeout: seconds. environment: the whole of it, None for this process's. Raises OSError where it
    cannot be started and subprocess.TimeoutExpired.
    """
    return subprocess.run(
        list(words),
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )


def output_of(
    words: Sequence[str],
    timeout: float,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str | None:
    """The output of a command, stripped; None where it cannot be started, hangs or fails."""
    try:
        done = run_command(words, timeout, environment, cwd)
    except (OSError, subprocess.SubprocessError):
        return None
    return None if done.returncode else done.stdout.strip()
