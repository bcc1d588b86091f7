"""Resource limits of a process that reads untrusted files."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def limit_memory(more: int) -> None:
    """Limit this process to ``more`` bytes of memory beyond what it has; then MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limit(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE") + more)


def limit_seconds(more: float) -> None:
    """Limit this process to ``more`` seconds of CPU time; then the kernel ends it (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + more) + 1)


def silence_crashes() -> None:
    """Write no core file, and nothing to stderr, for example from a C library that aborts."""
    _limit(resource.RLIMIT_CORE, 0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (value if hard < 0 else min(value, hard), hard))
