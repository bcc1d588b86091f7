"""Provenance of a run: package versions, git commit, host and process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from phase2hpc.utils.command import output_of


def git_commit() -> str | None:
    """Commit of the checkout that contains this package, with ``-dirty`` if files differ; None in
    an installed wheel, or without git."""
    checkout = Path(__file__).resolve().parent.parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return output_of(command, 10, {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}, checkout) or None


def host() -> str:
    return socket.gethostname()


def process_start(pid: int) -> str | None:
    """Start of a process of this machine as ``boot id:PID namespace:clock tick``; None if it is
    dead, or without /proc.

    Process ids are reused, in containers soon, and each namespace has its own: an id alone does
    not identify a process.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        # The name before the last parenthesis may contain spaces and parentheses.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else f"{boot}:{namespace}:{fields[18]}"


def process_is_gone(on_host: str, pid: int, started: str | None) -> bool:
    """True if that process ran on this host and has exited; False if it is alive or elsewhere,
    such as in another container of this host.

    ``started`` is the value of ``process_start`` while it ran.
    """
    if on_host != host():
        return False
    if started is not None:
        here, there = (process_start(os.getpid()) or "").split(":"), started.split(":")
        same_boot = len(there) == 3 and there[0] == here[0]
        unseen = same_boot and there[1] != here[1]
        return not unseen and process_start(pid) != started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
