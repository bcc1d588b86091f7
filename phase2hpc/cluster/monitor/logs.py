"""Where a job's output is, and reading it.

Every process of a job has two files, which all lives of the job append to; what the batch script
itself says is in those of rank 0. Nothing here trusts a manifest: the folder that it names must
lie beside the run, and only a plain file is opened.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from pathlib import Path

from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import Manifest, RunDirectory
from phase2hpc.utils.regular_file import open_regular

# So much of a log's end is looked at for the reason of a job's end.
END_BYTES = 1 << 16
# Of a job of many processes, the logs of so many.
MAX_RANKS = 16
_BLOCK = 1 << 20
_JOB = re.compile(r"(\d+|local-[0-9a-f]{1,32})(_\d+)?")
# All but tab and line ends: a log must not steer the terminal that shows it.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def job_folder(run: RunDirectory, manifest: Manifest) -> Path | None:
    """The folder of the newest job's scripts and logs, None where there was no job.

    Raises InputError where the manifest names one outside of the run's family.
    """
    if not manifest.job_ids or manifest.job_folder is None:
        return None
    here = run.path.resolve()
    folder = (here / manifest.job_folder).resolve()
    if not folder.is_relative_to(here.parent) or folder == here.parent:
        raise InputError(
            f"{run.manifest}: 'job_folder': {folder} is not in {here.parent}: not looked at"
        )
    return folder


def log_file(folder: Path, job: str, rank: int = 0, *, err: bool = False) -> Path:
    """One process's file. Raises InputError for what is no job's id."""
    if not _JOB.fullmatch(job):
        raise InputError(f"{folder}: '{job}' is not the id of a job")
    return folder / f"{job}_{rank}_log.{'err' if err else 'out'}"


def ranks(folder: Path, job: str) -> list[int]:
    """The processes that have written, the first of them."""
    written = (
        re.fullmatch(rf"{re.escape(job)}_(\d+)_log\.(out|err)", name) for name in _in(folder)
    )
    return sorted({int(match[1]) for match in written if match})[:MAX_RANKS]


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log that are not empty, from its last END_BYTES; [] where it is not
    there, or is no plain file."""
    try:
        with open_regular(path, follow_symlinks=False) as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - END_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return []
    # Progress that was drawn over itself counts as drawn last.
    lines = (line.rstrip().rpartition("\r")[2] for line in text.split("\n"))
    return [plain(line) for line in lines if line.strip()][-count:]


class LogReader:
    """A log that grows: each ``read`` gives what came since the one before.

    last: begin with so many lines from the end, None for the whole.
    """

    def __init__(self, path: Path, last: int | None = None) -> None:
        self.path = path
        self._position = 0 if last is None else _begin_of_last(path, last)
        # A letter may be half-written.
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def read(self) -> Iterator[str]:
        """Nothing where the file is not there yet. Raises InputError where it cannot be read."""
        try:
            with open_regular(self.path, follow_symlinks=False) as log:
                # Shorter than before: somebody has emptied it.
                if log.seek(0, os.SEEK_END) < self._position:
                    self._position = 0
                log.seek(self._position)
                while block := log.read(_BLOCK):
                    self._position += len(block)
                    yield plain(self._decode(block))
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from None


def _begin_of_last(path: Path, count: int) -> int:
    """Where the last ``count`` lines begin; 0 where the file is not there yet."""
    try:
        with open_regular(path, follow_symlinks=False) as log:
            begin = end = log.seek(0, os.SEEK_END)
            found = b""
            # The last line end is the last line's own.
            while begin and found.count(b"\n") <= count:
                begin = max(0, begin - _BLOCK)
                log.seek(begin)
                found = log.read(end - begin)
    except OSError:
        return 0
    lines = found.splitlines(keepends=True)
    return end - sum(map(len, lines[len(lines) - min(count, len(lines)) :]))


def plain(text: str) -> str:
    """Text of a log without what would steer a terminal."""
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
