"""What kind of file system a folder lies on, as the kernel names it."""

from __future__ import annotations

from pathlib import Path

# In memory: gone with the machine, or with the container.
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")


def file_system(folder: Path) -> str | None:
    """The type of the mount that a resolved path lies on; None where nobody tells."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return None
    # A blank in a mount point is written as \040.
    below = [
        (len(point), kind)
        for _, point, kind, *_ in mounts
        if folder.is_relative_to(point.replace("\\040", " "))
    ]
    # The last of those mounted at the same place is the one that is seen.
    return max(reversed(below), key=lambda found: found[0])[1] if below else None


def nearest_folder(path: Path) -> Path:
    """The folder, or the nearest above it that is there; resolved."""
    place = path.expanduser().resolve()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place
