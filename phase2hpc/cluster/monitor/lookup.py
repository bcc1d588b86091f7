"""What a name on the command line means: a run, an ensemble, a job, an array or its element."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from phase2hpc.cluster.monitor.job_states import SlurmJobStates
from phase2hpc.cluster.monitor.run_state import RunStatus, reread, run_status
from phase2hpc.cluster.slurm.jobs import is_job_id
from phase2hpc.cluster.submit.prepare_job import Preparation, preparation_of_job
from phase2hpc.errors import InputError
from phase2hpc.runs.registry import RunSummary, find_run, registry
from phase2hpc.runs.run_directory import PREFIX, Manifest


@dataclass(frozen=True)
class Named:
    """The runs that a name means, the oldest first; all of an ensemble where it names one.

    ``preparation``: the job that was named, if that is one that makes their store. ``by_job``:
    whether the name is a job's, so that only this job of each run is meant.
    """

    runs: tuple[RunSummary, ...]
    preparation: Preparation | None = None
    by_job: bool = False

    def again(self) -> Named:
        """The same runs, their manifests read anew."""
        return replace(self, runs=tuple(map(reread, self.runs)))


def find(models_dir: Path, name: str) -> Named:
    """Raises InputError for a name that means nothing, as ``find_run``."""
    known = registry(models_dir)
    bare = name.removeprefix(PREFIX)
    if not any(summary.run.id == bare for summary in known):
        if members := [s for s in known if s.manifest and s.manifest.ensemble == name]:
            return Named(tuple(members))
        if runs := [s for s in known if s.manifest and _has_job(s.manifest, name)]:
            return Named(tuple(runs), by_job=True)
        if is_job_id(name) and (first := preparation_of_job(models_dir, name)):
            return Named(tuple(s for s in known if first.is_for(s)), first, by_job=True)
        if is_job_id(name) and not any(s.run.id.startswith(bare) for s in known):
            raise InputError(
                f"job {name}: no run in {models_dir} has it: name the folder by --models-dir, or "
                "look among all your jobs by squeue --me"
            )
    return Named((reread(RunSummary(find_run(models_dir, name), None)),))


def run_statuses(summaries: tuple[RunSummary, ...], view: SlurmJobStates) -> list[RunStatus]:
    """Where each of them stands; Slurm is asked once for all."""
    view.ask(summaries)
    return [run_status(summary, view) for summary in summaries]


def _has_job(manifest: Manifest, name: str) -> bool:
    return any(name and name in (job, job.rpartition("_")[0]) for job in manifest.job_ids)
