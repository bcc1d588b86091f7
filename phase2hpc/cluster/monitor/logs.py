"""Log files of a job: paths and reading.

Every process of a job has two files, to which all its restarts append; output of the batch script
is in those of rank 0. Manifests are not trusted: the folder that one names must lie beside the
run, and only regular files are opened.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from pathlib import Path

from phase2hpc.errors import InputError
from phase2hpc.runs.job_id import is_job_id
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.absolute_path import absolute_path
from phase2hpc.utils.regular_file import open_regular

# Size of a log's end that is searched for the exit reason.
END_BYTES = 1 << 16
MAX_RANKS = 16
_BLOCK = 1 << 20
# All but tab and newline: a log must not control the terminal that shows it.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def job_folder(run: RunDirectory, manifest: Manifest) -> Path | None:
    """Folder of the newest job's scripts and logs; None if there was no job.

    Raises InputError if the manifest names one outside of the run's family.
    """
    if not manifest.job_ids or manifest.job_folder is None:
        return None
    here = run.path.resolve()
    folder = (here / manifest.job_folder).resolve()
    if not folder.is_relative_to(here.parent) or folder == here.parent:
        raise InputError(
            f"{run.manifest}: 'job_folder': {folder} is not in {here.parent}: not read"
        )
    return absolute_path(run.path / manifest.job_folder)


def log_file(folder: Path, job: str, rank: int = 0, *, err: bool = False) -> Path:
    """The log file of one process. Raises InputError for a malformed job id."""
    if not is_job_id(job):
        raise InputError(f"{folder}: '{job}' is not a job id")
    return folder / f"{job}_{rank}_log.{'err' if err else 'out'}"


def ranks(folder: Path, job: str) -> list[int]:
    """Ranks that have log files, the first MAX_RANKS of them."""
    written = (
        re.fullmatch(rf"{re.escape(job)}_(\d+)_log\.(out|err)", name) for name in _names(folder)
    )
    return sorted({int(match[1]) for match in written if match})[:MAX_RANKS]


def last_lines(path: Path, count: int) -> list[str]:
    """The last non-empty lines of a log's last END_BYTES; [] if it is no readable regular file."""
    try:
        with open_regular(path, follow_symlinks=False) as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - END_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return []
    # Of a progress line that was overwritten, only the last text counts.
    lines = (line.rstrip().rpartition("\r")[2] for line in text.split("\n"))
    return [escape_controls(line) for line in lines if line.strip()][-count:]


class LogReader:
    """Reader of a growing log: each ``read`` yields what was appended since the last one.

    last: start with this many lines from the end; None for the whole log.
    """

    def __init__(self, path: Path, last: int | None = None) -> None:
        self.path = path
        self._position = 0 if last is None else _offset_of_last(path, last)
        # The last character may be incomplete.
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def read(self) -> Iterator[str]:
        """Yields nothing if the file is missing. Raises InputError if it cannot be read."""
        try:
            with open_regular(self.path, follow_symlinks=False) as log:
                # Truncated since the last read.
                if log.seek(0, os.SEEK_END) < self._position:
                    self._position = 0
                log.seek(self._position)
                while block := log.read(_BLOCK):
                    self._position += len(block)
                    yield escape_controls(self._decode(block))
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from None


def _offset_of_last(path: Path, count: int) -> int:
    """Offset of the last ``count`` lines; 0 if the file is missing."""
    try:
        with open_regular(path, follow_symlinks=False) as log:
            begin = end = log.seek(0, os.SEEK_END)
            found = b""
            # The final newline belongs to the last line.
            while begin and found.count(b"\n") <= count:
                begin = max(0, begin - _BLOCK)
                log.seek(begin)
                found = log.read(end - begin)
    except OSError:
        return 0
    lines = found.splitlines(keepends=True)
    return end - sum(map(len, lines[len(lines) - min(count, len(lines)) :]))


def escape_controls(text: str) -> str:
    """Text with terminal control characters escaped."""
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
