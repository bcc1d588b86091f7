"""What of the runs only takes room: found first, shown, and removed when the user says so.

Never taken: a run that a process holds or a job waits for, ``best.pt``, the newest checkpoint,
and of an unfinished run the one before it, should the newest not be readable.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from phase2hpc.cluster.slurm import jobs as slurm
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.lease_record import find_holder
from phase2hpc.runs.registry import RunSummary, registry
from phase2hpc.runs.run_directory import PREFIX, RunDirectory
from phase2hpc.utils import tables

# Nothing that lives is silent for so long, and no two clocks are so far apart.
SILENT_SECONDS = 24 * 3600.0
_DOOMED = ".pruned-"


@dataclass(frozen=True)
class Leftover:
    """Something to take: ``paths`` of a run (None: of no run any more), and the bytes in them.

    ``updated``: the manifest's, by which a run shows that it has changed since.
    """

    run: RunDirectory | None
    state: str
    what: str
    paths: tuple[Path, ...]
    size: int
    updated: datetime | None

    @property
    def whole_run(self) -> bool:
        return self.run is not None and self.paths == (self.run.path,)


@dataclass(frozen=True)
class Plan:
    """What would be taken, and in a line each what is left alone that one might expect here."""

    leftovers: tuple[Leftover, ...]
    spared: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(leftover.size for leftover in self.leftovers)

    def text(self) -> str:
        rows = [
            (leftover.run.id if leftover.run else tables.ABSENT, leftover.state, leftover.what,
             str(len(leftover.paths)), readable(leftover.size))
            for leftover in self.leftovers
        ]  # fmt: skip
        header = ("run", "state", "what", "number", "size")
        lines = [tables.aligned(header, rows, left=3)] if rows else []
        return "\n".join([*lines, *(f"left alone: {line}" for line in self.spared)])


def plan(models_dir: Path, failed: bool = False) -> Plan:
    """What can go from ``models_dir``; with ``failed`` whole runs that failed or were interrupted.

    Jobs are looked up in Slurm where runs name them.
    """
    summaries = registry(models_dir)
    jobs = _Jobs(summaries)
    leftovers: list[Leftover] = []
    spared = []
    for summary in summaries:
        run, manifest = summary.run, summary.manifest
        if manifest is None:
            spared.append(f"run {run.id}: {summary.problem}")
            continue
        state, busy = _standing(summary, jobs)
        if busy:
            spared.append(f"run {run.id}: {busy}")
        elif failed and state in ("failed", "interrupted") and not run.path.is_symlink():
            if unknown := jobs.unknown(summary):
                spared.append(f"run {run.id}: {unknown}")
            else:
                what = f"the whole run ({manifest.epoch} of {manifest.epochs} epochs)"
                leftovers.append(_leftover(run, state, what, (run.path,), manifest.updated))
        else:
            leftovers += _beside(run, state, manifest.updated)
    halves = tuple(sorted(models_dir.glob(f"*/{_DOOMED}*")))
    if halves:
        leftovers.append(_leftover(None, tables.ABSENT, "half-removed runs", halves, None))
    return Plan(tuple(leftovers), tuple(spared))


def remove(chosen: Plan) -> tuple[int, list[str]]:
    """Take what the plan says: (bytes freed, a line for each thing that had to stay).

    A run that is trained again, or was submitted again, meanwhile is left alone.
    """
    freed, problems = 0, []
    for leftover in chosen.leftovers:
        if leftover.run is not None and (change := _change(leftover.run, leftover.updated)):
            problems.append(f"run {leftover.run.id}: {change} by now, left alone")
            continue
        for path in leftover.paths:
            size = _room(path)
            try:
                if leftover.whole_run:
                    path = _doom(path)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                problems.append(f"{path}: cannot be removed ({error.strerror or error})")
            else:
                freed += size
    return freed, problems


def readable(size: int) -> str:
    """Bytes in the largest unit that leaves a digit before the point."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1000 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.3g} {units[0]}"


class _Jobs:
    """What Slurm says of the jobs of runs; asked once."""

    def __init__(self, summaries: list[RunSummary]) -> None:
        self._states: Mapping[str, slurm.JobState] = {}
        self._problem: str | None = None
        ids = [job for summary in summaries for job in _slurm_jobs(summary)]
        if not ids:
            return
        if not slurm.slurm_available():
            self._problem = "no Slurm on this machine"
            return
        try:
            self._states = slurm.queue_states(ids)
        except Phase2Error as error:
            self._problem = str(error)

    def waiting(self, summary: RunSummary) -> str | None:
        """The job that will train the run, or does."""
        for job in _slurm_jobs(summary):
            if job in self._states and not self._states[job].over:
                return f"job {job} is {self._states[job].state}"
        return None

    def unknown(self, summary: RunSummary) -> str | None:
        """Why nothing can be said of its jobs."""
        if self._problem is None or not _slurm_jobs(summary):
            return None
        return f"a job of it may wait ({self._problem}): prune where Slurm answers"


def _slurm_jobs(summary: RunSummary) -> list[str]:
    """Its jobs but for those that ran without Slurm."""
    return (
        [job for job in summary.manifest.job_ids if slurm.is_job_id(job)]
        if summary.manifest
        else []
    )


def _standing(summary: RunSummary, jobs: _Jobs) -> tuple[str, str | None]:
    """The run's state, and why it must not be touched."""
    assert summary.manifest is not None
    busy = _holder(summary.run) or jobs.waiting(summary)
    state = summary.state
    if busy is None and state == "submitted":
        busy = "submitted, and its job has not begun"
    if busy is None and state == "running":
        # On another host, and without a lease: an older version's, or its node was lost.
        silent = time.time() - summary.manifest.updated.timestamp()
        if silent < SILENT_SECONDS:
            busy = f"running on {summary.manifest.host}"
        state = "interrupted"
    return state, busy


def _holder(run: RunDirectory) -> str | None:
    """Who holds a run, in words; None where nobody does."""
    try:
        holder = find_holder(run)
    except OSError as error:
        return f"its lease cannot be read ({error.strerror})"
    if holder is None:
        return None
    if holder.record is None:
        silent = time.time() - holder.path.stat().st_mtime
    elif holder.record.process == "gone":
        return None
    else:
        silent = holder.record.age if holder.record.process == "unseen" else 0.0
    return f"held by {holder.who}" if silent < SILENT_SECONDS else None


def _change(run: RunDirectory, updated: datetime | None) -> str | None:
    """What became of a run since it was looked at; None where it is as it was."""
    if holder := _holder(run):
        return holder
    try:
        return None if run.read_manifest().updated == updated else "changed"
    except InputError as error:
        return str(error)


def _beside(run: RunDirectory, state: str, updated: datetime) -> Iterator[Leftover]:
    """Files of a run that it does not need to go on, nor to predict."""
    keep = (0 if state == "finished" else 1) + (0 if run.checkpoint.exists() else 1)
    older = [path for _, path in run.older_checkpoints()]
    # Without any valid state they are all that tells that there was one.
    damaged = [
        path
        for path in run.damaged_checkpoints()
        if re.search(r"\.damaged(-\d+)?$", path.name) and (older or run.checkpoint.exists())
    ]
    abandoned = [path for path in run.path.glob(".*.partial") if _is_old(path)]
    for what, paths in (
        ("old checkpoints", older[keep:]),
        ("damaged checkpoints", damaged),
        ("temporary files", abandoned),
    ):
        if paths:
            yield _leftover(run, state, what, tuple(paths), updated)


def _leftover(
    run: RunDirectory | None,
    state: str,
    what: str,
    paths: tuple[Path, ...],
    updated: datetime | None,
) -> Leftover:
    return Leftover(run, state, what, paths, sum(_room(path) for path in paths), updated)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > SILENT_SECONDS
    except OSError:
        return False


def _doom(path: Path) -> Path:
    """Rename a run so that no command finds it half removed.

    Raises OSError, the run being where it was, if somebody took it in that very moment.
    """
    doomed = path.with_name(f"{_DOOMED}{path.name.removeprefix(PREFIX)}-{secrets.token_hex(3)}")
    path.rename(doomed)
    if holder := _holder(RunDirectory(doomed)):
        doomed.rename(path)
        raise OSError(errno.EBUSY, holder)
    return doomed


def _room(path: Path) -> int:
    """Bytes that removing a file or folder frees; a file with a second name frees none."""
    total = 0
    pending = [path]
    while pending:
        current = pending.pop()
        try:
            status = current.lstat()
            if current.is_dir() and not current.is_symlink():
                pending += [current / name for name in os.listdir(current)]
            elif status.st_nlink == 1:
                total += status.st_size
        except OSError:
            continue  # gone, or another user's: it frees nothing
    return total
