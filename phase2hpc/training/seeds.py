"""Seeds of an ensemble, and the names of its members. Imports no torch, for use on login nodes."""

from __future__ import annotations

import re

from phase2hpc.errors import InputError

# A larger array is more likely a typing error, and above many sites' MaxArraySize.
MAX_MEMBERS = 1000


def seed_label(seed: int) -> str:
    """A member's name within its ensemble."""
    return f"seed={seed}"


def seed_suffix(seed: int) -> str:
    """Suffix of a member's run id."""
    return f"-s{seed}"


def parse_seeds(text: str) -> list[int]:
    """``0-4``, ``1,3,7`` or ``0-2,5``. Raises InputError."""
    found: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part)
        if match is None:
            raise InputError(f"--seeds {text}: give them as 0-4 or 1,3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MAX_MEMBERS:
            raise InputError(f"--seeds {text}: '{part}' is no range of at most {MAX_MEMBERS}")
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        raise InputError(f"--seeds {text}: the same seed twice")
    return found
