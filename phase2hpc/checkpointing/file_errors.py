"""Errors of checkpoint files, and opening one without waiting or guessing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ClassVar

# Errors of this one file, now and later; others (too many open files) pass.
_UNREADABLE = frozenset({errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP})


class CheckpointError(Exception):
    """A file gives no state; the message says why. suffix: appended to its name set aside."""

    suffix: ClassVar[str]


class CorruptCheckpoint(CheckpointError):
    """The file's bytes are not those that were written, or it is not a regular file."""

    suffix = "damaged"


class NewerVersion(CheckpointError):
    """A later phase2hpc wrote the file."""

    suffix = "newer-version"


class UnreadableCheckpoint(CheckpointError):
    """No permission to read the file, or the disk fails to."""

    suffix = "unreadable"


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; never blocks on a pipe or a device.

    Raises FileNotFoundError, CheckpointError, and any other OSError where the fault is not the
    file's.
    """
    with reading():
        try:
            kind = path.stat().st_mode
        except FileNotFoundError:
            if path.is_symlink():
                raise CorruptCheckpoint("it is a link to nothing") from None
            raise
        if stat.S_ISDIR(kind):
            raise CorruptCheckpoint("a folder is in its place")
        if not stat.S_ISREG(kind):
            raise CorruptCheckpoint("it is not a regular file")
        return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


@contextmanager
def reading() -> Iterator[None]:
    """Raise UnreadableCheckpoint for an OSError that concerns the file itself."""
    try:
        yield
    except OSError as error:
        if error.errno in _UNREADABLE:
            raise UnreadableCheckpoint(f"cannot be read: {error.strerror}") from error
        raise
