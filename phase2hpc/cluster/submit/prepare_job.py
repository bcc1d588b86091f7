"""The job that prepares a store before the runs that wait for it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from phase2hpc.cluster.monitor.logs import log_file
from phase2hpc.cluster.slurm.jobs import NamedJob
from phase2hpc.runs.registry import RunSummary

PREFIX = "prepare_"


@dataclass(frozen=True)
class Preparation:
    """The job's id, and the folder of its script and logs, which is named after the runs."""

    job_id: str
    folder: Path

    @property
    def job(self) -> NamedJob:
        return NamedJob(self.job_id, self.folder.name)

    def log(self, *, err: bool) -> Path:
        return log_file(self.folder, self.job_id, err=err)

    @property
    def base(self) -> str:
        """The id of the run, or of the ensemble, that waits."""
        return self.folder.name.removeprefix(PREFIX)

    def is_for(self, summary: RunSummary) -> bool:
        manifest = summary.manifest
        return manifest is not None and self.base == (manifest.ensemble or summary.run.id)


def find_preparation(summary: RunSummary) -> Preparation | None:
    """The job that made, or makes, the store for a run, where there was one."""
    if summary.manifest is None:
        return None
    base = summary.manifest.ensemble or summary.run.id
    if Path(base).name != base:
        return None
    return _in(summary.run.path.parent.parent / f"{PREFIX}{base}")


def preparation_of_job(models_dir: Path, job_id: str) -> Preparation | None:
    """The preparation whose job has this id."""
    found = (_in(folder) for folder in sorted(models_dir.glob(f"{PREFIX}*"), reverse=True))
    return next((first for first in found if first and first.job_id == job_id), None)


def _in(folder: Path) -> Preparation | None:
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    ids = [match[1] for name in names if (match := re.fullmatch(r"(\d+)_submission\.sh", name))]
    return Preparation(max(ids, key=int), folder) if ids else None
