"""What the operating system refuses (a full disk, a folder without permission), in one line."""

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
    errno.ENFILE: "wait until others have closed files of this machine",
    errno.EIO: "the disk or file server failed: wait until it works",
    errno.ESTALE: "the file server forgot the file: wait until it works",
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.ENOENT: "put back what was removed or name another place",
    errno.ENOTDIR: "name another place, a file is in the way of a folder",
    errno.EISDIR: "name another place, a folder is in the way of a file",
    errno.EEXIST: "name another place, a file is in the way of a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}
# In a container its user may be another than the folder's, and its own root read-only.
_ANOTHER_USER = (
    'let this container\'s user {user} write there (docker --user "$(id -u):$(id -g)", podman '
    "--user 0) or name another place"
)
_REMEDIES_INSIDE = {
    errno.EACCES: _ANOTHER_USER,
    errno.EPERM: _ANOTHER_USER,
    errno.EROFS: "name a folder that is mounted into this container",
}
_OF_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
# What a user who names a place may have wrong; all else is the machine's.
_ABOUT_THE_PLACE = frozenset(
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


def refused(
    error: OSError, what: object = None, *, then: str = "run it again", note: str = ""
) -> Phase2Error:
    """The error to raise for a failure in the middle of work: file, reason, remedy, in one line.

    what: the file, the one that ``error`` names if left out. then: how to go on. note: what is
    left of the work.
    """
    return Phase2Error(_line(error, what, then, note))


def refused_place(error: OSError, what: object, *, note: str = "") -> Phase2Error:
    """As ``refused`` for a place that the user named: an InputError where another name, or another
    right to it, is what helps."""
    kind = InputError if error.errno in _ABOUT_THE_PLACE else Phase2Error
    return kind(_line(error, what, "run it again", note))


def _line(error: OSError, what: object, then: str, note: str) -> str:
    where = what or (os.fsdecode(error.filename) if error.filename else None)
    if where is None and error.errno in _OF_WRITING:
        # Files are named (``naming``), so this is a standard stream.
        where = "the output cannot be written"
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    remedy = _remedy(error.errno or 0)
    text = f"{reason[:1].lower()}{reason[1:]}: {f'{remedy}, then ' if remedy else ''}{then}"
    return (f"{where}: {text}" if where else text) + (f"; {note}" if note else "")


def _remedy(number: int) -> str | None:
    if number in _REMEDIES_INSIDE and this_image() is not None:
        return _REMEDIES_INSIDE[number].format(user=f"{os.getuid()}:{os.getgid()}")
    return _REMEDIES.get(number)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError from inside names ``path``, not a temporary file and not nothing at all."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
