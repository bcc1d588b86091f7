"""Lookup of runs by the name of a run or ensemble, or by a job, array or array element id."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from phase2hpc.cluster.submit.prepare_job import Preparation, preparation_of_job
from phase2hpc.errors import InputError
from phase2hpc.runs.ensemble import find_ensemble
from phase2hpc.runs.job_id import array_id, is_slurm_job_id
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.registry import RunSummary, find_run, registry
from phase2hpc.runs.run_directory import PREFIX


@dataclass(frozen=True)
class Selection:
    """Runs selected by a name, the oldest first; all members for an ensemble.

    ``preparation``: the selected job, if that is one that prepares their store. ``by_job``:
    whether a job was named, so that other jobs of the runs are not selected.
    """

    runs: tuple[RunSummary, ...]
    preparation: Preparation | None = None
    by_job: bool = False

    def reread(self) -> Selection:
        """The same runs, their manifests read again."""
        return replace(self, runs=tuple(RunSummary.read(summary.run) for summary in self.runs))


def select(models_dir: Path, name: str) -> Selection:
    """Raises InputError for an unknown name, as ``find_run``."""
    known = registry(models_dir)
    bare = name.removeprefix(PREFIX)
    if not any(summary.run.id == bare for summary in known):
        if ensemble := find_ensemble(models_dir, name):
            return Selection(tuple(map(RunSummary.read, ensemble.members)))
        if runs := find_jobs(known, name):
            return Selection(tuple(runs), by_job=True)
        if is_slurm_job_id(name) and (first := preparation_of_job(models_dir, name)):
            runs = [s for s in known if first.prepares(s)]
            clusters = [s.manifest.cluster for s in runs if s.manifest]
            first = replace(first, cluster=next(iter(clusters), ""))
            return Selection(tuple(runs), first, by_job=True)
        if is_slurm_job_id(name) and not any(s.run.id.startswith(bare) for s in known):
            raise InputError(
                f"job {name}: no run in {models_dir} has it: give the folder by --models-dir, or "
                "list all your jobs by squeue --me"
            )
    return Selection((RunSummary.read(find_run(models_dir, name)),))


def find_jobs(known: Iterable[RunSummary], name: str) -> list[RunSummary]:
    """The runs that have this job, array or array element."""
    return [s for s in known if s.manifest and name and _has_job(s.manifest, name)]


def _has_job(manifest: Manifest, name: str) -> bool:
    return any(name in (job, array_id(job)) for job in manifest.job_ids)
