"""Mount point and file system type of a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Contents are lost with the machine or the container.
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_MOUNTS = Path("/proc/self/mounts")


@dataclass(frozen=True)
class Mount:
    """Mount point of a file system, and its type as the kernel names it."""

    point: Path
    kind: str


def mount_of(folder: Path, mounts: Path = _MOUNTS) -> Mount | None:
    """The mount of a resolved path; None if unknown."""
    try:
        # Names as os.fsdecode gives them, in any locale.
        lines = os.fsdecode(mounts.read_bytes()).splitlines()
    except OSError:
        return None
    # A space in a mount point is written as \040.
    known = [
        Mount(Path(point.replace("\\040", " ")), kind)
        for _, point, kind, *_ in (line.split() for line in lines)
    ]
    below = [mount for mount in known if folder.is_relative_to(mount.point)]
    # Of several mounts at one point the last is visible.
    return max(reversed(below), key=lambda mount: len(mount.point.parts), default=None)


def file_system(folder: Path) -> str | None:
    """File system type of a resolved path; None if unknown."""
    mount = mount_of(folder)
    return None if mount is None else mount.kind


def nearest_folder(path: Path) -> Path:
    """The path if it is a folder, else the nearest existing parent folder; resolved."""
    place = path.expanduser().resolve()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place
