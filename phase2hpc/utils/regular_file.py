"""Open files of unknown origin for reading, regular files only."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFLNK: "symbolic link",
}


class NotRegularFile(OSError):
    """A folder, named pipe, socket or device; ``reason`` says which."""

    def __init__(self, path: Path, mode: int) -> None:
        kind = _KINDS.get(stat.S_IFMT(mode), "device")
        self.reason = f"not a file: it is a {kind}"
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        super().__init__(number, self.reason, str(path))


def open_regular(path: Path, *, follow_symlinks: bool = True) -> BinaryIO:
    """Open a regular file for reading, in binary.

    A plain ``open`` waits forever for the other end of a named pipe, and opening a device may
    act on it. Raises NotRegularFile, or another OSError.
    """
    _require_regular(path, os.stat(path, follow_symlinks=follow_symlinks).st_mode)
    flags = os.O_RDONLY | os.O_CLOEXEC | (0 if follow_symlinks else os.O_NOFOLLOW)
    # It may have been replaced since: O_NONBLOCK, and a second look.
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotRegularFile(path, mode)
