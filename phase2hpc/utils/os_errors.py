"""One-line messages with a remedy for errors of the operating system, such as a full disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.utils.container_image import this_image

_WRITABLE = "make it writable or name another place"
_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or ask for a larger quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "wait until other processes of this machine have closed files",
    errno.EIO: "the disk or file server failed: wait until it works again",
    errno.ESTALE: "the file server lost the file: wait until it works again",
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.ENOENT: "restore what was removed or name another place",
    errno.ENOTDIR: "name another place, a part of this path is a file",
    errno.EISDIR: "name another place, this is a folder",
    errno.EEXIST: "name another place, a file has this name",
    errno.ENAMETOOLONG: "choose a shorter name",
}
# A container may run as another user than the owner of the folder, with a read-only root.
_ANOTHER_USER = (
    'let this container\'s user {user} write there (docker --user "$(id -u):$(id -g)", podman '
    "--user 0) or name another place"
)
_CONTAINER_REMEDIES = {
    errno.EACCES: _ANOTHER_USER,
    errno.EPERM: _ANOTHER_USER,
    errno.EROFS: "name a folder that is mounted into this container",
}
_WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
# Errors that another path, or other permissions, would avoid; the others are the machine's.
_PATH_ERRORS = frozenset(
    {
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EINVAL,
    }
)


def write_error(
    error: OSError, what: object = None, *, then: str = "run it again", note: str = ""
) -> Phase2Error:
    """The error to raise for a failure during work: file, reason and remedy in one line.

    what: the file, by default the one that ``error`` names. then: what to do after the remedy.
    note: the state of the work so far.
    """
    return Phase2Error(_line(error, what, then, note))


def path_error(error: OSError, what: object, *, note: str = "") -> Phase2Error:
    """As ``write_error``, for a path from the user.

    It is an InputError if another path or other permissions would help.
    """
    kind = InputError if error.errno in _PATH_ERRORS else Phase2Error
    return kind(_line(error, what, "run it again", note))


def _line(error: OSError, what: object, then: str, note: str) -> str:
    where = what or (os.fsdecode(error.filename) if error.filename else None)
    if where is None and error.errno in _WRITE_ERRORS:
        # Errors of files carry a name (``with_path``), so this is a standard stream.
        where = "the output cannot be written"
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    remedy = _remedy(error.errno or 0)
    text = f"{reason[:1].lower()}{reason[1:]}: {f'{remedy}, then ' if remedy else ''}{then}"
    return (f"{where}: {text}" if where else text) + (f"; {note}" if note else "")


def _remedy(number: int) -> str | None:
    if number in _CONTAINER_REMEDIES and this_image() is not None:
        return _CONTAINER_REMEDIES[number].format(user=f"{os.getuid()}:{os.getgid()}")
    return _REMEDIES.get(number)


@contextmanager
def with_path(path: Path) -> Iterator[None]:
    """Set ``path`` as the file name of an OSError, instead of a temporary file or none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
