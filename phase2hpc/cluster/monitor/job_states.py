"""What Slurm says of the jobs of runs: asked once for all of them, and of accounting only what
the queue does not tell."""

from __future__ import annotations

from collections.abc import Iterable

from phase2hpc.cluster.monitor.logs import job_folder
from phase2hpc.cluster.slurm import jobs as slurm
from phase2hpc.cluster.slurm.jobs import JobState, NamedJob
from phase2hpc.cluster.submit.prepare_job import find_preparation
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.registry import RunSummary


def slurm_job(summary: RunSummary) -> NamedJob | None:
    """The run's newest job; None where that was none of Slurm's."""
    manifest = summary.manifest
    if manifest is None or not manifest.job_ids or not slurm.is_job_id(manifest.job_ids[-1]):
        return None
    job = manifest.job_ids[-1]
    try:
        folder = job_folder(summary.run, manifest)
    except InputError:
        folder = None
    # A job whose script is not there is one in which somebody trains by hand.
    if folder is None or not (folder / f"{job.partition('_')[0]}_submission.sh").exists():
        return NamedJob(job, "")
    # The end of the path only: another host may see the models elsewhere.
    return NamedJob(job, "/".join(folder.parts[-3 if folder.name == "job" else -2 :]))


class SlurmJobStates:
    """``ask`` about runs, then ``state`` of their jobs.

    ``problem``: why Slurm could not be asked, None where it answered. ``note``: why accounting,
    which there is, could not.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self.note: str | None = None
        self._queue: dict[str, JobState] = {}
        self._ended: dict[str, JobState] = {}

    def ask(self, summaries: Iterable[RunSummary]) -> None:
        """One squeue, and one sacct at most for jobs that the queue does not explain."""
        self.problem = self.note = None
        self._queue = {}
        wanted: set[str] = set()
        unexplained: set[str] = set()
        for summary in summaries:
            if summary.manifest is None or summary.manifest.state == "finished":
                continue
            if job := slurm_job(summary):
                wanted.add(job.id)
                if summary.manifest.state in ("submitted", "running"):
                    unexplained.add(job.id)
            if summary.manifest.state == "submitted" and (first := find_preparation(summary)):
                wanted.add(first.job_id)
                unexplained.add(first.job_id)
        if not wanted:
            return
        if not slurm.slurm_available():
            self.problem = "no Slurm on this machine"
            return
        try:
            self._queue = slurm.queue_states(sorted(wanted))
        except Phase2Error as error:
            self.problem = str(error)
            return
        unexplained -= {job for job, state in self._queue.items() if not state.over}
        self._ask_accounting(sorted(unexplained - self._ended.keys()))

    def _ask_accounting(self, ids: list[str]) -> None:
        try:
            answer = slurm.accounting_states(ids)
        except Phase2Error as error:
            self.note = str(error)
            return
        # One that still runs by the records alone died without their being told.
        self._ended |= {job: state for job, state in answer.items() if state.over}

    def state(self, job: NamedJob) -> JobState | None:
        """None where Slurm knows it not, or knows another job by its number."""
        queued = self._queue.get(job.id)
        if queued is not None and not queued.over:
            return queued if queued.is_of(job) else None
        # Accounting knows more of an ended one: who cancelled it, say.
        for found in (self._ended.get(job.id), queued):
            if found is not None and found.is_of(job):
                return found
        return None
