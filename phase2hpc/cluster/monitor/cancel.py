"""``cancel``: selection and cancellation of the active jobs of runs.

Slurm sends SIGTERM first, at which training saves its state. The batch script does not requeue a
job that is being cancelled; another job can resume the run.
"""

from __future__ import annotations

from dataclasses import dataclass

from phase2hpc.cluster.monitor.lookup import Selection
from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
from phase2hpc.cluster.monitor.status import epochs_cell
from phase2hpc.cluster.slurm import jobs as slurm
from phase2hpc.cluster.slurm.jobs import JobIdentity
from phase2hpc.cluster.submit.resume_command import resume_command
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.job_id import array_id
from phase2hpc.runs.state import RunStatus, run_statuses
from phase2hpc.utils import tables

HEADER = ("job", "state", "run", "epochs", "detail")


@dataclass(frozen=True)
class Cancellation:
    """``runs``: those whose newest job is cancelled. ``preparation``: a job and its state, which
    prepares a store, if that is cancelled. ``skipped``: one line for each run without a job."""

    runs: tuple[RunStatus, ...]
    preparation: tuple[JobIdentity, str] | None
    skipped: tuple[str, ...]

    @property
    def jobs(self) -> list[tuple[str, str]]:
        """The jobs to cancel, each with its cluster."""
        first = self.preparation[0] if self.preparation else None
        return (
            [(first.id, first.cluster)]
            if first
            else [
                (s.job_id, s.summary.manifest.cluster)
                for s in self.runs
                if s.job_id and s.summary.manifest
            ]
        )

    def text(self) -> str:
        """The jobs to cancel, as a table."""
        rows = [
            (s.job_id, s.job.state, s.summary.run.id, epochs_cell(s), s.detail)
            for s in self.runs
            if s.job_id and s.job
        ]
        if self.preparation:
            job, state = self.preparation[0].id, self.preparation[1]
            none = tables.ABSENT
            rows.append(
                (
                    job,
                    state,
                    none,
                    none,
                    "prepares a store; jobs that depend on it are cancelled too",
                )
            )
        return tables.aligned(HEADER, rows, left=len(HEADER))

    def execute(self) -> None:
        """Raises Phase2Error with Slurm's reason."""
        for cluster in sorted({cluster for _, cluster in self.jobs}):
            slurm.cancel([job for job, its in self.jobs if its == cluster], cluster)

    def resume_hints(self) -> list[str]:
        """Resume command of each run."""
        lines = []
        for s in self.runs:
            run, manifest = s.summary.run, s.summary.manifest
            assert manifest is not None
            how = "its job saves its state before it exits" if s.lease else "no progress is lost"
            lines.append(f"run {run.id}: {how}; resume: {resume_command(run, manifest)}")
        return lines


def plan(selection: Selection, name: str) -> Cancellation:
    """Raises Phase2Error if Slurm does not answer, and InputError for a run that is trained
    without it."""
    scheduler = SlurmScheduler()
    found = run_statuses(selection.runs, scheduler)
    if scheduler.problem:
        raise Phase2Error(f"nothing is cancelled: {scheduler.problem}")
    if selection.preparation is not None:
        job = selection.preparation.job
        state = scheduler.state(job)
        if state is not None and not state.over:
            return Cancellation((), (job, state.state), ())
        return Cancellation((), None, (f"job {job.id} has already ended",))
    runs, skipped = [], []
    for s in found:
        run = s.summary.run
        if s.job_id and s.job and not s.job.over and _is_selected(s.job_id, selection, name):
            runs.append(s)
        elif s.lease is not None and s.lease.job_id is None:
            raise InputError(
                f"run {run.id} has no job to cancel: {s.lease.owner} trains it, press Ctrl-C there"
            )
        else:
            detail = f" ({s.detail})" if s.detail else ""
            skipped.append(f"run {run.id} has no job to cancel, it is {s.state}{detail}")
    return Cancellation(tuple(runs), None, tuple(skipped))


def _is_selected(job_id: str, selection: Selection, name: str) -> bool:
    """If a job was named, a newer one of the same run is not selected."""
    return not selection.by_job or name in (job_id, array_id(job_id))
