"""The folder of the parts that several processes make of one result, beside that result.

Each part appears whole or not at all, under a name that says what it was made from: a part that
is there need not be made again.
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
from phase2hpc.utils.os_errors import refused

# More files than this a process may not have open on many machines.
MAX_SHARDS = 500


@dataclass(frozen=True)
class ShardFolder:
    """``<target>.shards/<hash of what the parts are made from>/`` with so many parts."""

    path: Path
    count: int

    @classmethod
    def beside(cls, target: Path, count: int, made_from: Mapping[str, Any]) -> ShardFolder:
        """made_from: all that the parts depend on, as JSON knows it."""
        content = json.dumps([made_from, count, phase2hpc.__version__], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        return cls(target.with_name(f"{target.name}.shards") / digest, count)

    def part(self, shard: int) -> Path:
        """JSON lines; it is there when all of the shard is."""
        return self.path / f"{shard:04d}.jsonl"

    def store(self, shard: int) -> Path:
        """The graphs of a shard."""
        return self.path / f"{shard:04d}.h5"

    @property
    def jobs(self) -> Path:
        """Which jobs make the parts."""
        return self.path / "jobs.json"

    def missing(self) -> list[int]:
        """Shards that are still to be made."""
        return [shard for shard in range(self.count) if not self.part(shard).exists()]

    def require_all(self) -> None:
        """Raises Phase2Error naming the shards that are not there."""
        if missing := self.missing():
            named = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            raise Phase2Error(
                f"{len(missing)} of {self.count} shards are not there ({named}): their logs say "
                "why; the same command again makes only them"
            )

    def remove(self) -> None:
        """With all that is in it; the other shards of the same result are left."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            self.path.parent.rmdir()


def fingerprint(source: str) -> list[Any]:
    """What changes when a source does, found without reading it: names, sizes, times of change.

    Seconds only, since machines that share a file system may differ in the rest of them.
    """
    path = Path(source)
    if not path.exists():  # a name that no file has, as jarvis:dft_3d
        return [source]
    with suppress(NotADirectoryError), os.scandir(path) as entries:
        files = [entry for entry in entries if not entry.name.startswith(".")]
        return [source, str(path.resolve()), sorted(map(_state, files))]
    return [source, str(path.resolve()), _state(path)]


def fingerprints(sources: Sequence[str | Path]) -> list[Any]:
    """The same of each."""
    return [fingerprint(str(source)) for source in sources]


def _state(file: os.DirEntry[str] | Path) -> list[Any]:
    try:
        found = file.stat()
    except OSError:  # a link that leads nowhere: to be told with its place in the result
        return [file.name]
    return [file.name, found.st_size, int(found.st_mtime)]


@contextmanager
def writing(path: Path) -> Iterator[TextIOWrapper]:
    """A text file that appears, durable, when the block has ended without an exception.

    Raises Phase2Error where the disk is full and the like.
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
        raise refused(error, f"cannot write {path}") from error


def write_line(file: TextIOWrapper, value: Any) -> None:
    """One value of JSON on a line of its own."""
    file.write(json.dumps(value) + "\n")


def read_lines(path: Path) -> Iterator[Any]:
    """The values of a part. Raises Phase2Error for one that is damaged."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise Phase2Error(
            f"{path}: damaged or not there ({error}): remove it, and give the same command again"
        ) from None
