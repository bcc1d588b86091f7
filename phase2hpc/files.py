"""Files that appear whole or not at all, and the clearing away of what killed writers left."""

from __future__ import annotations

import fcntl
import glob
import os
import re
import secrets
import socket
from pathlib import Path


class PartialFile:
    """A temporary name beside ``target``, locked while its writer lives.

    ``commit`` makes it durable and renames it, ``discard`` removes it. Creating one clears away
    those that writers of the same target on this host left when they were killed: a lock that
    can be had means that nobody writes. Other hosts' are left alone, since not every shared
    file system tells their locks.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
        self._prefix = f".{target.name}.{host}."
        target.parent.mkdir(parents=True, exist_ok=True)
        self._clear_stale()
        self.path, self._lock = self._create()

    def commit(self) -> None:
        """Flush to disk, rename to the target, flush the folder."""
        os.fsync(self._lock)
        os.replace(self.path, self.target)
        self._release()
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Remove the temporary file; again does nothing."""
        if self._lock >= 0:
            self.path.unlink(missing_ok=True)
            self._release()

    def _release(self) -> None:
        os.close(self._lock)
        self._lock = -1

    def _create(self) -> tuple[Path, int]:
        while True:
            path = self.target.with_name(f"{self._prefix}{secrets.token_hex(6)}.partial")
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

    def _clear_stale(self) -> None:
        for path in self.target.parent.glob(f"{glob.escape(self._prefix)}*.partial"):
            try:
                lock = os.open(path, os.O_RDWR)
            except OSError:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            except OSError:
                continue
            finally:
                os.close(lock)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data`` so that a reader sees the old file or the new.

    Text is written as UTF-8; what UTF-8 cannot say (a surrogate in a file name) as an escape.

    Raises OSError (a full disk, say); then the old file is as it was and nothing else is left.
    """
    partial = PartialFile(path)
    try:
        partial.path.write_bytes(
            data.encode(errors="backslashreplace") if isinstance(data, str) else data
        )
        partial.commit()
    finally:
        partial.discard()
