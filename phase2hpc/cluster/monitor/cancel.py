"""``cancel``: which jobs of the named runs live, and their end.

Slurm ends a job with SIGTERM first, at which training saves its state. The batch script does not
requeue a job that is being cancelled, so it stays so, and another job can go on with the run.
"""

from __future__ import annotations

from dataclasses import dataclass

from phase2hpc.cluster.monitor.job_states import SlurmJobStates
from phase2hpc.cluster.monitor.lookup import Named, run_statuses
from phase2hpc.cluster.monitor.run_state import RunStatus
from phase2hpc.cluster.monitor.status import epochs_cell
from phase2hpc.cluster.slurm import jobs as slurm
from phase2hpc.cluster.submit.resume_command import resume_command
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.utils import tables

HEADER = ("job", "state", "run", "epochs", "about")


@dataclass(frozen=True)
class Cancellation:
    """``runs``: those whose jobs would be cancelled. ``preparation``: the job that would be, of
    those that make a store, and its state. ``left``: a line for each that has nothing to cancel."""

    runs: tuple[RunStatus, ...]
    preparation: tuple[str, str] | None
    left: tuple[str, ...]

    @property
    def jobs(self) -> list[str]:
        first = [self.preparation[0]] if self.preparation else []
        return first + [s.job.id for s in self.runs if s.job]

    def text(self) -> str:
        """What it would cancel, as a table."""
        rows = [
            (s.job.id, s.slurm.state, s.summary.run.id, epochs_cell(s), s.about)
            for s in self.runs
            if s.job and s.slurm
        ]
        if self.preparation:
            job, state = self.preparation
            none = tables.ABSENT
            rows.append((job, state, none, none, "prepares a store; what waits for it goes too"))
        return tables.aligned(HEADER, rows, left=len(HEADER))

    def carry_out(self) -> None:
        """Raises Phase2Error with Slurm's reason."""
        slurm.cancel(self.jobs)

    def after(self) -> list[str]:
        """How to go on, once they are cancelled."""
        lines = []
        for s in self.runs:
            run, manifest = s.summary.run, s.summary.manifest
            assert manifest is not None
            how = "its job saves its state as it ends" if s.lease else "nothing of it is lost"
            lines.append(f"run {run.id}: {how}; to go on: {resume_command(run, manifest)}")
        return lines


def plan(named: Named, name: str) -> Cancellation:
    """Raises Phase2Error where Slurm does not answer, and InputError for a run that is trained
    without it."""
    view = SlurmJobStates()
    found = run_statuses(named.runs, view)
    if view.problem:
        raise Phase2Error(f"nothing is cancelled: {view.problem}")
    if named.preparation is not None:
        job = named.preparation.job
        state = view.state(job)
        if state is not None and not state.over:
            return Cancellation((), (job.id, state.state), ())
        return Cancellation((), None, (f"job {job.id} is over already",))
    runs, left = [], []
    for s in found:
        run = s.summary.run
        if s.job and s.slurm and not s.slurm.over and _is_meant(s.job.id, named, name):
            runs.append(s)
        elif s.lease is not None and s.lease.job_id is None:
            raise InputError(
                f"run {run.id} has no job to cancel: {s.lease.who} trains it, press Ctrl-C there"
            )
        else:
            about = f" ({s.about})" if s.about else ""
            left.append(f"run {run.id} has no job to cancel, it is {s.state}{about}")
    return Cancellation(tuple(runs), None, tuple(left))


def _is_meant(job: str, named: Named, name: str) -> bool:
    """Where a job was named, a newer one of the same run is not meant."""
    return not named.by_job or name in (job, job.rpartition("_")[0])
