"""File object for h5py that defers I/O errors.

After a failed write HDF5 cannot close its file, and the process ends in a segmentation fault.
Therefore the first error is stored and raised by ``check``; later writes go to memory, which stay
small because the writer aborts at the next ``check``.
"""

from __future__ import annotations

import os
from pathlib import Path


class DeferredErrorFile:
    """File object of an existing file, with the methods that h5py calls."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR)
        self._position = self._size = 0
        self._failure: OSError | None = None
        self._in_memory: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise OSError if a write or read has failed so far."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Sync to disk and close; idempotent. Raises OSError."""
        if self._file < 0:
            return
        try:
            if self._failure is None:
                os.fsync(self._file)
        finally:
            file, self._file = self._file, -1
            os.close(file)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = begin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        if self._failure is None:
            try:
                self._write(view)
            except OSError as error:
                self._failure = error
        if self._failure is not None:
            self._in_memory.append((self._position, bytes(view)))
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = self._read(len(view)).ljust(len(view), b"\0")
        for begin, data in self._in_memory:
            low = max(begin, self._position)
            high = min(begin + len(data), self._position + len(view))
            if low < high:
                view[low - self._position : high - self._position] = data[
                    low - begin : high - begin
                ]
        self._position += len(view)
        return len(view)

    def truncate(self, size: int) -> int:
        self._size = size
        if self._failure is None:
            try:
                os.ftruncate(self._file, size)
            except OSError as error:
                self._failure = error
        return size

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

    def _write(self, view: memoryview) -> None:
        position = self._position
        while view:
            written = os.pwrite(self._file, view, position)
            view, position = view[written:], position + written

    def _read(self, count: int) -> bytes:
        parts, position = [], self._position
        try:
            while count and (part := os.pread(self._file, count, position)):
                parts.append(part)
                count, position = count - len(part), position + len(part)
        except OSError as error:
            self._failure = self._failure or error
        return b"".join(parts)
