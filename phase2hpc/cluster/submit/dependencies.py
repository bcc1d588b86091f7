"""Jobs that a submission starts after (``--after``), judged before sbatch sees them.

Slurm's own answer to the id of a job that it has forgotten depends on its version: 22.05 starts the
dependent job at once, later ones refuse it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from phase2hpc.cluster.monitor.exit_reason import reason_of_slurm
from phase2hpc.cluster.monitor.lookup import find_jobs, select
from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
from phase2hpc.cluster.slurm import jobs as slurm
from phase2hpc.cluster.slurm.clusters import chosen_cluster
from phase2hpc.cluster.submit.resume_command import resume_command
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.job_id import is_slurm_job_id
from phase2hpc.runs.registry import RunSummary, registry
from phase2hpc.runs.state import RunStatus, run_statuses


def dependency_ids(after: str | None, models_dir: Path) -> list[str]:
    """Ids of the jobs to wait for; those that have succeeded already are left out, which is said.

    after: a comma list of jobs, runs and ensembles. A job that trains a run of ``models_dir``
    stands for that run. Raises InputError for one that has failed or is unknown, and Phase2Error
    where Slurm gives no answer.
    """
    ids: list[str] = []
    for name in filter(None, (part.strip() for part in (after or "").split(","))):
        runs = find_jobs(registry(models_dir), name) if is_slurm_job_id(name) else []
        if is_slurm_job_id(name) and not runs:
            waiting = _unfinished_job(name)
        else:
            waiting = _unfinished_runs(runs or select(models_dir, name).runs, name)
        if not waiting:
            print(f"--after {name}: has succeeded, nothing to wait for", file=sys.stderr)
        ids += waiting
    return list(dict.fromkeys(ids))


def _unfinished_runs(runs: tuple[RunSummary, ...] | list[RunSummary], name: str) -> list[str]:
    """The newest jobs of the runs that have not finished."""
    scheduler = SlurmScheduler()
    ids = []
    for status in run_statuses(runs, scheduler):
        if status.state == "finished":
            continue
        if status.over:
            raise _refusal(status, name)
        if scheduler.problem is not None:
            raise Phase2Error(f"--after {name}: {scheduler.problem}")
        manifest = status.summary.manifest
        if status.job_id is None or status.job is None or manifest is None:
            raise InputError(
                f"--after {name}: run {status.summary.run.id} is {status.state} without a job of "
                "Slurm's: there is nothing to wait for"
            )
        if manifest.cluster != chosen_cluster():
            raise InputError(
                f"--after {name}: job {status.job_id} is on another cluster "
                f"({manifest.cluster or 'that of this machine'}), which Slurm cannot wait for"
            )
        ids.append(status.job_id)
    return ids


def _refusal(status: RunStatus, name: str) -> InputError:
    run, manifest = status.summary.run, status.summary.manifest
    detail = f" ({status.detail})" if status.detail else ""
    first = f", or resume that one first: {resume_command(run, manifest)}" if manifest else ""
    return InputError(
        f"--after {name}: run {run.id} is {status.state}{detail}: a job after it would never "
        f"start; leave --after out{first}"
    )


def _unfinished_job(job_id: str) -> list[str]:
    """The job, if it has not ended, by Slurm's records alone; an array by those of its elements."""
    if not slurm.slurm_available():
        raise Phase2Error(f"--after {job_id}: no Slurm on this machine to ask about it")
    queued = slurm.queue_states([job_id])
    if job_id in queued and not queued[job_id].over:
        return [job_id]  # one job: accounting, which may be down, has nothing to add
    # Elements of an array leave the queue one by one.
    ended = slurm.accounting_states([job_id])
    found = {job: state for job, state in ended.items() if state.over} | queued
    if not found:
        raise InputError(
            f"--after {job_id}: Slurm has no record of this job (any more), and no run names it: "
            "check the number, or leave --after out if it has succeeded"
        )
    for job, state in found.items():
        if state.over and state.state != "COMPLETED":
            raise InputError(
                f"--after {job_id}: job {job} has ended ({reason_of_slurm(state)}): a job after it "
                "would never start; leave --after out, or name another"
            )
    return [] if all(state.over for state in found.values()) else [job_id]
