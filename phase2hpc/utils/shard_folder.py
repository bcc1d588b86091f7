"""Folder of the shards that several processes make of one result, beside that result.

A shard is written atomically, into a folder that is named by a hash of its inputs: a shard that
exists is complete and need not be made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import phase2hpc
from phase2hpc.errors import Phase2Error
from phase2hpc.utils.atomic_io import PartialFile
from phase2hpc.utils.os_errors import write_error

# The usual limit on open files is 1024.
MAX_SHARDS = 500


@dataclass(frozen=True)
class ShardFolder:
    """``<target>.shards/<hash of the inputs>/`` with ``count`` shards."""

    path: Path
    count: int

    @classmethod
    def beside(cls, target: Path, count: int, made_from: Mapping[str, Any]) -> ShardFolder:
        """made_from: everything that the shards depend on; JSON values."""
        content = json.dumps([made_from, count, phase2hpc.__version__], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        return cls(target.with_name(f"{target.name}.shards") / digest, count)

    def part(self, shard: int) -> Path:
        """Results of a shard as JSON lines; written last."""
        return self.path / f"{shard:04d}.jsonl"

    def store(self, shard: int) -> Path:
        """Graphs of a shard."""
        return self.path / f"{shard:04d}.h5"

    @property
    def jobs(self) -> Path:
        """Ids of the jobs that make the shards."""
        return self.path / "jobs.json"

    def missing(self) -> list[int]:
        """Numbers of the shards that are not made yet."""
        return [shard for shard in range(self.count) if not self.part(shard).exists()]

    def require_all(self) -> None:
        """Raise Phase2Error with the numbers of missing shards."""
        if missing := self.missing():
            named = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            raise Phase2Error(
                f"{len(missing)} of {self.count} shards are missing ({named}): see their logs; the "
                "same command again makes only these"
            )

    def remove(self) -> None:
        """Remove this folder, and its parent unless there are shards of other inputs."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            self.path.parent.rmdir()


def fingerprint(source: str) -> list[Any]:
    """Names, sizes and modification times of a source, to detect changes without reading it.

    Whole seconds, since machines that share a file system may differ in the fraction.
    """
    path = Path(source)
    if not path.exists():  # not a file, as jarvis:dft_3d
        return [source]
    with suppress(NotADirectoryError), os.scandir(path) as entries:
        files = [entry for entry in entries if not entry.name.startswith(".")]
        return [source, str(path.resolve()), sorted(map(_state, files))]
    return [source, str(path.resolve()), _state(path)]


def fingerprints(sources: Sequence[str | Path]) -> list[Any]:
    """``fingerprint`` of each source."""
    return [fingerprint(str(source)) for source in sources]


def _state(file: os.DirEntry[str] | Path) -> list[Any]:
    try:
        found = file.stat()
    except OSError:  # a dangling link: reported later, in the result
        return [file.name]
    return [file.name, found.st_size, int(found.st_mtime)]


@contextmanager
def atomic_text(path: Path) -> Iterator[TextIOWrapper]:
    """Open a text file that appears, flushed to disk, once the block ends without exception.

    Raises Phase2Error for an OSError, such as a full disk.
    """
    try:
        partial = PartialFile(path)
        try:
            with partial.path.open("w", encoding="utf-8", errors="backslashreplace") as file:
                yield file
            partial.commit()
        finally:
            partial.discard()
    except OSError as error:
        raise write_error(error, f"cannot write {path}") from error


def write_line(file: TextIOWrapper, value: Any) -> None:
    """Write a value as one line of JSON."""
    file.write(json.dumps(value) + "\n")


def read_lines(path: Path) -> Iterator[Any]:
    """Values of a JSON lines file. Raises Phase2Error if it is missing or damaged."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise Phase2Error(
            f"{path}: missing or damaged ({error}): remove it and give the same command again"
        ) from None
