"""Atomic file writes, and removal of the temporary files of killed writers."""

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

from phase2hpc.utils.os_errors import with_path

_PARTIAL = re.compile(r"\.(?P<target>.+)\.(?P<host>[A-Za-z0-9-]*)\.[0-9a-f]{12}\.partial")
_ABANDONED_SECONDS = 24 * 3600
_CHUNK = 1 << 20


class PartialFile:
    """A temporary file beside ``target``, locked while its writer is alive.

    ``commit`` flushes it to disk and renames it, ``discard`` removes it. Creating one first
    removes those that killed writers of the same target left (``clear_partials``).
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_partials(target.parent, target.name)
        self.path, self._lock = self._create()
        self._durable = False

    def write(self, *parts: bytes | memoryview) -> None:
        """Write the whole content, flush it to disk and compare it with what is read back.

        Raises OSError if the disk is full or the content differs.
        """
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(self._lock, view) :]
        os.fsync(self._lock)
        # Drop the clean pages from the cache, so that the file is read from the disk or server.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._lock, 0, 0, os.POSIX_FADV_DONTNEED)
        offset = 0
        for part in parts:
            view = memoryview(part)
            for begin in range(0, len(view), _CHUNK):
                expected = view[begin : begin + _CHUNK]
                if not _has_content(self._lock, offset, expected):
                    raise OSError(errno.EIO, "the content read back differs from what was written")
                offset += len(expected)
        if os.fstat(self._lock).st_size != offset:
            raise OSError(errno.EIO, "the file read back is longer than what was written")
        self._durable = True

    def commit(self) -> None:
        """Flush to disk, rename to the target and flush the folder."""
        if not self._durable:
            os.fsync(self._lock)
        os.replace(self.path, self.target)
        self._release()
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            # Some file systems do not support fsync of a folder.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Remove the temporary file; may be called more than once."""
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
                # Without locks on this file system no other process removes it early.
                return path, lock
            # Between creation and lock another writer may have removed it as stale.
            if os.fstat(lock).st_nlink:
                return path, lock
            os.close(lock)


def clear_partials(folder: Path, target: str | None = None) -> None:
    """Remove temporary files of dead writers in ``folder``, all or those of one target.

    A writer on this host is dead if its lock is free. Not every shared file system shows the
    locks of other hosts: their files must also be unchanged for a day. If such a writer is still
    alive (a suspended job), its rename fails with an error and the target is unchanged.
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
        return  # Removed meanwhile, another user's, or not a file.
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
        return  # It does no harm.
    finally:
        os.close(lock)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _has_content(file: int, offset: int, expected: memoryview) -> bool:
    while expected:
        read = os.pread(file, len(expected), offset)
        if not read or read != bytes(expected[: len(read)]):
            return False
        offset, expected = offset + len(read), expected[len(read) :]
    return True


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data``: a reader sees either the old or the new content.

    Text is written as UTF-8, surrogates (of undecodable file names) as backslash escapes.

    Raises OSError, for example on a full disk; the old file is then unchanged.
    """
    with with_path(path):
        partial = PartialFile(path)
        try:
            partial.write(data.encode(errors="backslashreplace") if isinstance(data, str) else data)
            partial.commit()
        finally:
            partial.discard()
