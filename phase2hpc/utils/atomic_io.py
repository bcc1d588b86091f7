"""Files that appear whole or not at all, and the clearing away of what killed writers left."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import socket
import stat
import time
from pathlib import Path

from phase2hpc.utils.os_errors import naming

_PARTIAL = re.compile(r"\.(?P<target>.+)\.(?P<host>[A-Za-z0-9-]*)\.[0-9a-f]{12}\.partial")
_ABANDONED_SECONDS = 24 * 3600
_CHUNK = 1 << 20


class PartialFile:
    """A temporary name beside ``target``, locked while its writer lives.

    ``commit`` makes it durable and renames it, ``discard`` removes it. Creating one clears away
    what killed writers of the same target left (``clear_partials``).
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_partials(target.parent, target.name)
        self.path, self._lock = self._create()
        self._durable = False

    def write(self, *parts: bytes | memoryview) -> None:
        """Write the whole content, flush it to disk and read it back from there.

        Raises OSError where there is no room, or what is read is not what was written.
        """
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(self._lock, view) :]
        os.fsync(self._lock)
        # The pages are clean now: without them the file comes from the disk or the file server.
        # Where there is none (a RAM disk) they stay, and the file is what they hold.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._lock, 0, 0, os.POSIX_FADV_DONTNEED)
        offset = 0
        for part in parts:
            view = memoryview(part)
            for begin in range(0, len(view), _CHUNK):
                expected = view[begin : begin + _CHUNK]
                if not _holds(self._lock, offset, expected):
                    raise OSError(errno.EIO, "reads back other than it was written")
                offset += len(expected)
        if os.fstat(self._lock).st_size != offset:
            raise OSError(errno.EIO, "reads back longer than it was written")
        self._durable = True

    def commit(self) -> None:
        """Flush to disk, rename to the target, flush the folder."""
        if not self._durable:
            os.fsync(self._lock)
        os.replace(self.path, self.target)
        self._release()
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            # Some file systems flush folders on their own and have no call for it.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Remove the temporary file; again does nothing."""
        if self._lock >= 0:
            try:
                self.path.unlink(missing_ok=True)
            finally:
                self._release()

    def _release(self) -> None:
        lock, self._lock = self._lock, -1
        os.close(lock)

    def _create(self) -> tuple[Path, int]:
        while True:
            name = f".{self.target.name}.{_host()}.{secrets.token_hex(6)}.partial"
            path = self.target.with_name(name)
            lock = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:
                # No locks on this file system: then nobody can take ours either.
                return path, lock
            # Between creation and lock another writer may have taken it for stale.
            if os.fstat(lock).st_nlink:
                return path, lock
            os.close(lock)


def clear_partials(folder: Path, target: str | None = None) -> None:
    """Remove temporary files in ``folder`` whose writers are dead, all or those of one target.

    Of this host: where the lock can be had, nobody writes. Of other hosts, whose locks not every
    shared file system tells: where it can be had and nothing was written for a day, far more than
    clocks differ. Should that writer yet live (its job was suspended), its rename fails and says
    so; what it would have replaced is as it was.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        match = _PARTIAL.fullmatch(name)
        if match and target in (None, match["target"]):
            _remove_if_abandoned(folder / name, match["host"] == _host())


def _remove_if_abandoned(path: Path, of_this_host: bool) -> None:
    try:
        lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return  # Gone, another user's, or no file: nothing a writer of ours left.
    try:
        status = os.fstat(lock)
        if not stat.S_ISREG(status.st_mode):
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unlocked = True
        except BlockingIOError:
            return
        except OSError:
            unlocked = False
        abandoned = time.time() - status.st_mtime > _ABANDONED_SECONDS
        if abandoned or (unlocked and of_this_host):
            path.unlink(missing_ok=True)
    except OSError:
        return  # It may stay: it is in nobody's way.
    finally:
        os.close(lock)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _holds(file: int, offset: int, expected: memoryview) -> bool:
    while expected:
        read = os.pread(file, len(expected), offset)
        if not read or read != bytes(expected[: len(read)]):
            return False
        offset, expected = offset + len(read), expected[len(read) :]
    return True


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data`` so that a reader sees the old file or the new.

    Text is written as UTF-8; what UTF-8 cannot say (a surrogate in a file name) as an escape.

    Raises OSError (a full disk, say); then the old file is as it was and nothing else is left.
    """
    with naming(path):
        partial = PartialFile(path)
        try:
            partial.write(data.encode(errors="backslashreplace") if isinstance(data, str) else data)
            partial.commit()
        finally:
            partial.discard()
