"""Limits that a child process sets itself before it reads what may have been made to harm it."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def limit_memory(more: int) -> None:
    """From here on this process may take ``more`` bytes beyond what it has; then MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limit(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE") + more)


def limit_seconds(more: float) -> None:
    """From here on this process may compute so long; then the kernel ends it (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + more) + 1)


def die_quietly() -> None:
    """No core file, and nothing of the C library's last words on the user's terminal."""
    _limit(resource.RLIMIT_CORE, 0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (value if hard < 0 else min(value, hard), hard))
