"""On what a folder lies: where its file system is mounted, and of what kind it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# In memory: gone with the machine, or with the container.
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_MOUNTS = Path("/proc/self/mounts")


@dataclass(frozen=True)
class Mount:
    """Where a file system is seen, and its type as the kernel names it."""

    point: Path
    kind: str


def mount_of(folder: Path, mounts: Path = _MOUNTS) -> Mount | None:
    """The mount that a resolved path lies on; None where nobody tells."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    # A blank in a mount point is written as \040.
    known = [
        Mount(Path(point.replace("\\040", " ")), kind)
        for _, point, kind, *_ in (line.split() for line in lines)
    ]
    below = [mount for mount in known if folder.is_relative_to(mount.point)]
    # The last of those mounted at the same place is the one that is seen.
    return max(reversed(below), key=lambda mount: len(mount.point.parts), default=None)


def file_system(folder: Path) -> str | None:
    """The type of the file system of a resolved path; None where nobody tells."""
    mount = mount_of(folder)
    return None if mount is None else mount.kind


def nearest_folder(path: Path) -> Path:
    """The folder, or the nearest above it that is there; resolved."""
    place = path.expanduser().resolve()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place
