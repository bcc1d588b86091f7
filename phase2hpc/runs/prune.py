"""Removal of old checkpoints, leftovers and failed runs: plan, show, remove.

Always kept: runs that a process holds or a job waits for, ``best.pt``, the newest checkpoint, and
the one before it of an unfinished run, in case the newest is not readable.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from phase2hpc.errors import InputError
from phase2hpc.runs import provenance
from phase2hpc.runs.ensemble import ENSEMBLE_PREFIX
from phase2hpc.runs.lease_record import find_holder
from phase2hpc.runs.registry import registry
from phase2hpc.runs.run_directory import PREFIX, RunDirectory
from phase2hpc.runs.state import RunStatus, Scheduler, run_statuses
from phase2hpc.utils import tables

# Longer than any pause between heartbeats and any clock skew.
MAX_SILENT_SECONDS = 24 * 3600.0
_REMOVING_PREFIX = ".pruned-"


@dataclass(frozen=True)
class Leftover:
    """Removable ``paths`` of a run (None: of runs that are gone), with their size in bytes.

    ``updated`` is the manifest's, by which a later change of the run is recognised.
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
    """Files to remove; ``kept`` has one line for each run that is not touched."""

    leftovers: tuple[Leftover, ...]
    kept: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(leftover.size for leftover in self.leftovers)

    def as_json(self) -> dict[str, Any]:
        """The fields of ``--json``: ``remove`` (run, state, what, paths, bytes) and ``kept``."""
        return {
            "remove": [
                {
                    "run": leftover.run.id if leftover.run else None,
                    "state": leftover.state,
                    "what": leftover.what,
                    "paths": [str(path) for path in leftover.paths],
                    "bytes": leftover.size,
                }
                for leftover in self.leftovers
            ],
            "kept": list(self.kept),
        }

    def text(self) -> str:
        rows = [
            (leftover.run.id if leftover.run else tables.ABSENT, leftover.state, leftover.what,
             str(len(leftover.paths)), format_size(leftover.size))
            for leftover in self.leftovers
        ]  # fmt: skip
        header = ("run", "state", "what", "number", "size")
        lines = [tables.aligned(header, rows, left=3)] if rows else []
        return "\n".join([*lines, *(f"kept: {line}" for line in self.kept)])


def plan(models_dir: Path, scheduler: Scheduler, failed: bool = False) -> Plan:
    """Removable files in ``models_dir``, with ``failed`` whole runs that failed or were
    interrupted too."""
    leftovers: list[Leftover] = []
    kept = []
    for status in run_statuses(registry(models_dir), scheduler):
        run, manifest, state = status.summary.run, status.summary.manifest, status.state
        if manifest is None:
            kept.append(f"run {run.id}: {status.detail}")
            continue
        if reason := _in_use(status, scheduler):
            kept.append(f"run {run.id}: {reason}")
        elif failed and state in ("failed", "interrupted") and not run.path.is_symlink():
            if scheduler.problem and scheduler.newest_job(status.summary):
                reason = f"it may have a waiting job ({scheduler.problem})"
                kept.append(f"run {run.id}: {reason}: prune where the scheduler answers")
            else:
                what = f"the whole run ({manifest.epoch} of {manifest.epochs} epochs)"
                leftovers.append(_leftover(run, state, what, (run.path,), manifest.updated))
        else:
            leftovers += _removable_files(run, state, manifest.updated)
    removed = {leftover.run.path for leftover in leftovers if leftover.run and leftover.whole_run}
    leftovers += _results_without_members(models_dir, removed)
    partly_removed = tuple(sorted(models_dir.glob(f"*/{_REMOVING_PREFIX}*")))
    if partly_removed:
        leftovers.append(_leftover(None, tables.ABSENT, "half-removed runs", partly_removed, None))
    return Plan(tuple(leftovers), tuple(kept))


def remove(chosen: Plan) -> tuple[int, list[str]]:
    """Carry out a plan: (bytes freed, one line for each item that was not removed).

    A run that was resumed or submitted since the plan was made is kept.
    """
    freed, problems = 0, []
    for leftover in chosen.leftovers:
        if leftover.run is not None and (change := _change(leftover.run, leftover.updated)):
            problems.append(f"run {leftover.run.id}: {change} since then, kept")
            continue
        for path in leftover.paths:
            if path.name.startswith(ENSEMBLE_PREFIX) and _has_members(path):
                problems.append(f"{path}: a run of the ensemble is still there, kept")
                continue
            size = _size(path)
            try:
                if leftover.whole_run:
                    path = _rename_for_removal(path)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                problems.append(f"{path}: cannot be removed ({error.strerror or error})")
            else:
                freed += size
    return freed, problems


def format_size(size: int) -> str:
    """A number of bytes with a binary unit."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1000 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.3g} {units[0]}"


def _in_use(status: RunStatus, scheduler: Scheduler) -> str | None:
    """Reason why a run must not be touched."""
    run, manifest = status.summary.run, status.summary.manifest
    assert manifest is not None
    if holder := _holder(run):
        return holder
    if job := scheduler.active_job(status.summary):
        return f"job {job[0]} is {job[1].state}"
    if not status.over:
        return f"{status.state} ({status.detail})"
    # Without a lease on another host: its node was lost, or the lease was removed by hand.
    age = time.time() - manifest.updated.timestamp()
    if manifest.state == "running" and age < MAX_SILENT_SECONDS:
        exited = provenance.process_is_gone(manifest.host, manifest.pid, manifest.process_start)
        return None if exited else f"recorded as running on {manifest.host} less than a day ago"
    return None


def _holder(run: RunDirectory) -> str | None:
    """The process that holds a run, for messages; None if there is none."""
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
    return f"held by {holder.owner}" if silent < MAX_SILENT_SECONDS else None


def _change(run: RunDirectory, updated: datetime | None) -> str | None:
    """Change of a run since it was listed; None for none."""
    if holder := _holder(run):
        return holder
    try:
        return None if run.read_manifest().updated == updated else "changed"
    except InputError as error:
        return str(error)


def _removable_files(run: RunDirectory, state: str, updated: datetime) -> Iterator[Leftover]:
    """Files that a run needs neither to resume nor to predict."""
    keep = (0 if state == "finished" else 1) + (0 if run.checkpoint.exists() else 1)
    older = [path for _, path in run.older_checkpoints()]
    # Without any valid checkpoint they are the only evidence that there was one.
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


def _results_without_members(models_dir: Path, removed: Container[Path]) -> Iterator[Leftover]:
    """Results of ensembles of which no run is left once the ``removed`` ones are."""
    found = [*models_dir.glob(f"{ENSEMBLE_PREFIX}*"), *models_dir.glob(f"*/{ENSEMBLE_PREFIX}*")]
    for path in sorted(found):
        if path.is_dir() and not path.is_symlink() and not _has_members(path, removed):
            what = f"results of ensemble {_ensemble_id(path)}, whose runs are gone"
            yield _leftover(None, tables.ABSENT, what, (path,), None)


def _has_members(results: Path, removed: Container[Path] = ()) -> bool:
    """True where a run is a member, or may be: one that cannot be read."""
    return any(
        summary.manifest is None or summary.manifest.ensemble == _ensemble_id(results)
        for summary in registry(results.parent)
        if summary.run.path not in removed
    )


def _ensemble_id(results: Path) -> str:
    return results.name.removeprefix(ENSEMBLE_PREFIX)


def _leftover(
    run: RunDirectory | None,
    state: str,
    what: str,
    paths: tuple[Path, ...],
    updated: datetime | None,
) -> Leftover:
    return Leftover(run, state, what, paths, sum(_size(path) for path in paths), updated)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > MAX_SILENT_SECONDS
    except OSError:
        return False


def _rename_for_removal(path: Path) -> Path:
    """Rename a run so that no command finds it partly removed.

    Raises OSError, and renames it back, if a process acquired it in that moment.
    """
    renamed = path.with_name(
        f"{_REMOVING_PREFIX}{path.name.removeprefix(PREFIX)}-{secrets.token_hex(3)}"
    )
    path.rename(renamed)
    if holder := _holder(RunDirectory(renamed)):
        renamed.rename(path)
        raise OSError(errno.EBUSY, holder)
    return renamed


def _size(path: Path) -> int:
    """Bytes that removing a file or folder frees; a file with a second hard link frees none."""
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
            continue  # removed meanwhile, or not readable: frees nothing
    return total
