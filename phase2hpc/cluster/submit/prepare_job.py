"""The job that prepares a store, on which the jobs of runs depend."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from phase2hpc.cluster.monitor.logs import log_file
from phase2hpc.cluster.slurm.jobs import JobIdentity
from phase2hpc.runs.registry import RunSummary

PREFIX = "prepare_"
# submitit's name of a batch script, after the job's id.
SCRIPT_SUFFIX = "_submission.sh"


@dataclass(frozen=True)
class Preparation:
    """Id of the job, and the folder of its script and logs, which is named after the runs;
    ``cluster`` as in their manifests."""

    job_id: str
    folder: Path
    cluster: str = ""

    @property
    def job(self) -> JobIdentity:
        return JobIdentity(self.job_id, self.folder.name, self.cluster)

    def log(self, *, err: bool) -> Path:
        return log_file(self.folder, self.job_id, err=err)

    @property
    def base(self) -> str:
        """Id of the run or ensemble that waits for it."""
        return self.folder.name.removeprefix(PREFIX)

    def prepares(self, summary: RunSummary) -> bool:
        manifest = summary.manifest
        return manifest is not None and self.base == (manifest.ensemble or summary.run.id)


def find_preparation(summary: RunSummary) -> Preparation | None:
    """The job that prepares or prepared the store of a run; None if there was none."""
    if summary.manifest is None:
        return None
    base = summary.manifest.ensemble or summary.run.id
    if Path(base).name != base:
        return None
    found = _in(summary.run.path.parent.parent / f"{PREFIX}{base}")
    return found and replace(found, cluster=summary.manifest.cluster)


def preparation_of_job(models_dir: Path, job_id: str) -> Preparation | None:
    """The preparation with this job id."""
    found = (_in(folder) for folder in sorted(models_dir.glob(f"{PREFIX}*"), reverse=True))
    return next((first for first in found if first and first.job_id == job_id), None)


def _in(folder: Path) -> Preparation | None:
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    ids = [
        name.removesuffix(SCRIPT_SUFFIX)
        for name in names
        if name.endswith(SCRIPT_SUFFIX) and name.removesuffix(SCRIPT_SUFFIX).isdecimal()
    ]
    return Preparation(max(ids, key=int), folder) if ids else None
