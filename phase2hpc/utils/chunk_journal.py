"""Journal of finished chunks of one long result, beside that result.

Each process appends lines to a file of its own, a whole chunk at a time. After an interruption a
chunk whose line is complete need not be made again, whichever process made it.
"""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

import phase2hpc
from phase2hpc.errors import InputError
from phase2hpc.utils.os_errors import write_error


class JournalWriter:
    """Appends chunks to one file of a journal, flushed to disk one by one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb")

    def append(self, number: int, content: Any) -> None:
        """Append a chunk; ``content`` is a JSON value. Raises Phase2Error on a full disk."""
        try:
            self._file.write(json.dumps([number, content]).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_error(error, f"cannot write {self.path}") from error

    def close(self) -> None:
        # What could not be written was reported when it was appended.
        with suppress(OSError):
            self._file.close()


class ChunkJournal:
    """``<target>.unfinished/<hash of what the chunks depend on>/``, locked while it is open.

    finished: numbers of the chunks that an interrupted process left. replaced: True if there
    were chunks that depended on something else; they are removed.
    """

    def __init__(self, target: Path, made_from: Mapping[str, Any]) -> None:
        """Open or make the journal of ``target``. made_from: JSON values.

        Raises InputError if another process has it open, Phase2Error if it cannot be written.
        """
        content = json.dumps([made_from, phase2hpc.__version__], sort_keys=True)
        self.root = target.with_name(f"{target.name}.unfinished")
        self.path = self.root / hashlib.sha256(content.encode()).hexdigest()[:12]
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.root, os.O_RDONLY)
        except OSError as error:
            raise write_error(error, f"cannot write {self.root}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise InputError(
                f"{target}: another process is writing it (wait for it, or give another --output)"
            ) from None
        except OSError:
            pass  # This file system has no locks.
        others = [path for path in self.root.iterdir() if path != self.path]
        for path in others:
            shutil.rmtree(path, ignore_errors=True)
        self.replaced = bool(others)
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(error, f"cannot write {self.path}") from error
        self.finished = frozenset(number for number, _ in self.chunks())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._lock)
        # Nothing is kept of a process that finished no chunk.
        with suppress(OSError):
            self.path.rmdir()
            self.root.rmdir()

    def new_parts(self, count: int) -> list[Path]:
        """Names for new files, one for each process that writes."""
        used = [int(path.stem) for path in self.path.glob("*.jsonl")]
        first = max(used, default=-1) + 1
        return [self.path / f"{first + i:06d}.jsonl" for i in range(count)]

    def chunks(self) -> Iterator[tuple[int, Any]]:
        """Number and content of every finished chunk, by number; one at a time in memory."""
        return heapq.merge(*map(_whole_lines, sorted(self.path.glob("*.jsonl"))), key=itemgetter(0))

    def remove(self) -> None:
        """Remove the journal; its result is complete."""
        shutil.rmtree(self.root, ignore_errors=True)


def _whole_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The chunks of one file up to its last whole line: a killed process may leave a part of one
    behind it."""
    with path.open("rb") as file:
        for line in file:
            try:
                number, content = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n"):
                return
            yield number, content
