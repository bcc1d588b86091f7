"""Small files that are replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

from phase2hpc.data.partial import PartialFile

__all__ = ["PartialFile", "write_atomically"]


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data`` (text as UTF-8) so that a reader sees the old file or the new.

    Raises OSError (a full disk, say); then the old file is as it was and nothing else is left.
    """
    partial = PartialFile(path)
    try:
        partial.path.write_bytes(data.encode() if isinstance(data, str) else data)
        partial.commit()
    finally:
        partial.discard()
