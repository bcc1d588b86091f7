"""Cache of verified stores, by path, size, modification time and content hash.

A small file in the user's cache folder. A lost file or entry (two processes writing at once) only
means that a store is verified again.
"""

from __future__ import annotations

import contextlib
import json
import os

from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.package_files import cache_dir

FILE = "verified_stores.json"
MAX_ENTRIES = 200


def state_of(path: str | os.PathLike[str]) -> dict[str, str | int]:
    """Real path, size in bytes and modification time (ns) of a file.

    Raises OSError if it does not exist.
    """
    real = os.path.realpath(path)
    found = os.stat(real)
    return {"path": real, "size": found.st_size, "mtime_ns": found.st_mtime_ns}


def remember(state: dict[str, str | int], content_hash: str) -> None:
    """Record that the file in this state is valid; errors of the cache file are ignored."""
    entry = {**state, "content_hash": content_hash}
    others = [other for other in _entries() if other.get("path") != state["path"]]
    kept = [*others, entry][-MAX_ENTRIES:]
    with contextlib.suppress(OSError, RuntimeError):
        write_atomically(cache_dir() / FILE, json.dumps(kept, indent=0))


def remembered(state: dict[str, str | int]) -> str | None:
    """Content hash recorded for this state, or None."""
    for entry in _entries():
        if {**state, "content_hash": entry.get("content_hash")} == entry:
            return str(entry["content_hash"])
    return None


def _entries() -> list[dict[str, str | int]]:
    try:
        entries = json.loads((cache_dir() / FILE).read_bytes())
    # RuntimeError: a user without a home.
    except (OSError, ValueError, RuntimeError):
        return []
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict)]
