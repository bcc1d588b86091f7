"""Errors of checkpoint files, and opening one without waiting or guessing."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ClassVar

from phase2hpc.utils.regular_file import NotRegularFile, open_regular

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


def open_checkpoint(path: Path) -> BinaryIO:
    """Open a checkpoint for reading; anything but a regular file is corrupt.

    Raises FileNotFoundError, CheckpointError, and any other OSError where the fault is not the
    file's.
    """
    with read_errors():
        try:
            return open_regular(path)
        except NotRegularFile as error:
            raise CorruptCheckpoint(error.reason) from None
        except FileNotFoundError:
            if path.is_symlink():
                raise CorruptCheckpoint("it is a link to nothing") from None
            raise


@contextmanager
def read_errors() -> Iterator[None]:
    """Raise UnreadableCheckpoint for an OSError that concerns the file itself."""
    try:
        yield
    except OSError as error:
        if error.errno in _UNREADABLE:
            raise UnreadableCheckpoint(f"cannot be read: {error.strerror}") from error
        raise
