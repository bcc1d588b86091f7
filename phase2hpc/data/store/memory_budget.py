"""Memory budget of a store in this process."""

from __future__ import annotations

import os
import re
from pathlib import Path

from phase2hpc.errors import InputError

BUDGET_VARIABLE = "PHASE2HPC_STORE_BUDGET"
# The rest is for the model, its activations and the other ranks of the node.
SHARE_OF_FREE_MEMORY = 0.5


def store_budget() -> int:
    """Bytes that a store may take: PHASE2HPC_STORE_BUDGET, else half of the free memory.

    Raises InputError where the variable is not a valid size.
    """
    text = os.environ.get(BUDGET_VARIABLE)
    if text is None:
        return int(free_memory() * SHARE_OF_FREE_MEMORY)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(?:i?B)?", text.strip())
    if match is None:
        raise InputError(f"{BUDGET_VARIABLE}={text} is not a size: write bytes or, for example, 8G")
    return int(float(match[1]) * 1024 ** " kMGT".index(match[2] or " "))


def free_memory() -> int:
    """Bytes free for this process: of the machine, and of its control group (a job's limit)."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, group = line.split(":", 2)
        root, limit, used = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
        if "memory" in controllers.split(","):
            root, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        elif controllers:
            continue
        folder = root / group.strip("/")
        for place in (folder, *folder.parents):
            bound, taken = _lines(place / limit), _lines(place / used)
            if bound and taken and bound[0].isdigit():
                free = min(free, max(0, int(bound[0]) - int(taken[0])))
            if place == root:
                break
    return free


def _lines(path: Path) -> list[str]:
    try:
        return os.fsdecode(path.read_bytes()).splitlines()
    except OSError:
        return []
