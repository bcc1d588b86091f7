"""Slurm job states of runs, from one squeue and, for ended jobs, one sacct."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from phase2hpc.cluster.monitor.exit_reason import exit_reason, reason_of_slurm
from phase2hpc.cluster.monitor.logs import job_folder
from phase2hpc.cluster.monitor.pending_reason import pending_advice
from phase2hpc.cluster.slurm import jobs as slurm
from phase2hpc.cluster.slurm.jobs import JobIdentity, JobState
from phase2hpc.cluster.submit.prepare_job import SCRIPT_SUFFIX, find_preparation
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.job_id import array_id, is_slurm_job_id
from phase2hpc.runs.registry import RunSummary, registry
from phase2hpc.runs.state import run_status

_Key = tuple[str, str]


class SlurmScheduler:
    """``runs.state.Scheduler`` for Slurm.

    ``problem``: why Slurm could not be queried, None if it was. ``note``: why existing accounting
    could not.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self.note: str | None = None
        # By cluster and job.
        self._queue: dict[_Key, JobState] = {}
        self._ended: dict[_Key, JobState] = {}
        # Runs whose failed dependencies are being explained, in case they name each other.
        self._explained: set[Path] = set()

    def query(self, summaries: Iterable[RunSummary]) -> None:
        """One squeue and at most one sacct of each cluster, for jobs that the queue does not
        explain."""
        self.problem = self.note = None
        self._queue = {}
        queued: set[_Key] = set()
        unexplained: set[_Key] = set()
        for summary in summaries:
            manifest = summary.manifest
            if manifest is None or manifest.state == "finished":
                continue
            cluster = manifest.cluster
            queued.update((cluster, job) for job in manifest.job_ids if is_slurm_job_id(job))
            if manifest.state in ("submitted", "running") and (job := self.newest_job(summary)):
                unexplained.add((cluster, job))
            if manifest.state == "submitted":
                first = find_preparation(summary)
                before = [*manifest.after, *([first.job_id] if first else [])]
                queued.update((cluster, job) for job in before)
                unexplained.update((cluster, job) for job in before)
        if not queued:
            return
        if not slurm.slurm_available():
            self.problem = "no Slurm on this machine"
            return
        for cluster in sorted({cluster for cluster, _ in queued}):
            jobs = sorted(job for its, job in queued if its == cluster)
            try:
                found = slurm.queue_states(jobs, cluster)
            except Phase2Error as error:
                self.problem = f"cluster {cluster}: {error}" if cluster else str(error)
                continue
            self._queue |= {(cluster, job): state for job, state in found.items()}
            ended = {job for its, job in unexplained - self._ended.keys() if its == cluster}
            ended -= {job for job, state in found.items() if not state.over}
            self._query_accounting(cluster, sorted(ended))

    def _query_accounting(self, cluster: str, job_ids: list[str]) -> None:
        try:
            answer = slurm.accounting_states(job_ids, cluster)
        except Phase2Error as error:
            self.note = str(error)
            return
        # A job that still runs by accounting alone ended while slurmdbd was unreachable.
        self._ended |= {(cluster, job): state for job, state in answer.items() if state.over}

    def state(self, job: JobIdentity) -> JobState | None:
        """None if Slurm has no record of the job, or knows another job by its id."""
        queued = self._queue.get((job.cluster, job.id))
        if queued is not None and not queued.over:
            return queued if queued.is_of(job) else None
        # Accounting knows more about an ended job, such as who cancelled it.
        for found in (self._ended.get((job.cluster, job.id)), queued):
            if found is not None and found.is_of(job):
                return found
        return None

    def newest_job(self, summary: RunSummary) -> str | None:
        job_ids = summary.manifest.job_ids if summary.manifest else []
        return job_ids[-1] if job_ids and is_slurm_job_id(job_ids[-1]) else None

    def record(self, summary: RunSummary) -> JobState | None:
        job_id = self.newest_job(summary)
        return self.state(_identity(summary, job_id)) if job_id else None

    def active_job(self, summary: RunSummary) -> tuple[str, JobState] | None:
        for job_id in summary.manifest.job_ids if summary.manifest else []:
            found = self.state(_identity(summary, job_id))
            if found is not None and not found.over:
                return job_id, found
        return None

    def pending_reason(self, summary: RunSummary) -> str:
        job = self.record(summary)
        assert job is not None
        reason = f"job {self.newest_job(summary)} {job.state}"
        reason += f" ({job.reason})" if job.reason else ""
        if job.reason.startswith("Dependency"):
            first = find_preparation(summary)
            if first is not None:
                reason += f", waits for job {first.job_id}, which prepares its store"
                reason += self._in_brackets(first.job)
            for before in self._before(summary):
                reason += f", waits for job {before.id}{self._in_brackets(before)}"
        return reason + (f", starts about {job.start:%Y-%m-%d %H:%M}" if job.start else "")

    def _in_brackets(self, job: JobIdentity) -> str:
        now = self.state(job)
        return f" ({now.state})" if now else ""

    def _before(self, summary: RunSummary) -> list[JobIdentity]:
        """The jobs that the newest one starts after; elements of an array where Slurm knows it by
        them."""
        manifest = summary.manifest
        assert manifest is not None
        found = []
        for job in manifest.after:
            elements = [
                known
                for cluster, known in sorted(self._queue.keys() | self._ended.keys())
                if cluster == manifest.cluster and known != job and array_id(known) == job
            ]
            found += [JobIdentity(known, "", manifest.cluster) for known in elements or [job]]
        return found

    def pending_advice(self, summary: RunSummary) -> str:
        """Remedy for the pending reason of the newest job; '' where it is to wait."""
        job = self.record(summary)
        if job is None or not job.waiting:
            return ""
        return pending_advice(
            job.reason,
            run=summary.run.id,
            job=str(self.newest_job(summary)),
            profile=_profile(summary),
        )

    def exit_reason(self, summary: RunSummary, last_seen: datetime | None) -> str:
        manifest, job_id = summary.manifest, self.newest_job(summary)
        assert manifest is not None and job_id is not None
        try:
            folder = job_folder(summary.run, manifest)
        except InputError as error:
            return str(error)
        reason = exit_reason(
            self.record(summary), folder, job_id, last_seen, profile=_profile(summary)
        )
        if manifest.state != "submitted":
            return reason
        reason += "; before training started"
        record = self.record(summary)
        gave_up = record is None or record.state == "CANCELLED"
        if gave_up and (why := self._failed_before(summary)):
            return f"{reason}: {why}"
        first = find_preparation(summary)
        if first is None or (manifest.store and Path(manifest.store).exists()):
            return reason
        why = exit_reason(
            self.state(first.job), first.folder, first.job_id, profile=_profile(summary)
        )
        return f"{reason}: job {first.job_id}, which was to prepare its store, {why}"

    def _failed_before(self, summary: RunSummary) -> str:
        """Failures of the jobs that this one was to start after; '' where none has failed.

        Their runs tell it where Slurm has forgotten them."""
        if summary.run.path in self._explained:
            return ""
        self._explained.add(summary.run.path)
        try:
            failed = [why for job in self._before(summary) if (why := self._failure(summary, job))]
        finally:
            self._explained.discard(summary.run.path)
        return "; ".join(failed)

    def _failure(self, summary: RunSummary, job: JobIdentity) -> str:
        """Failure of a job in words; '' if there is none, or none that is known."""
        for other in registry(summary.run.path.parent.parent):
            manifest = other.manifest
            if manifest and manifest.cluster == job.cluster and job.id in manifest.job_ids:
                now = run_status(other, self)
                failed = now.over and now.state != "finished"
                about = f"run {other.run.id}, which it was to start after, is {now.state}"
                return f"{about} ({now.detail})" if failed else ""
        state, named = self.state(job), f"job {job.id}, which it was to start after,"
        if state is None:
            unexplained = self.record(summary) is None
            return f"{named} is not known to Slurm (any more) either" if unexplained else ""
        failed = state.over and state.state != "COMPLETED"
        return f"{named} {reason_of_slurm(state)}" if failed else ""


def _profile(summary: RunSummary) -> str:
    """Name of the site profile that the newest job was submitted with, for commands."""
    request = summary.manifest.submission if summary.manifest else None
    return shlex.quote(request.profile) if request else "PROFILE"


def _identity(summary: RunSummary, job_id: str) -> JobIdentity:
    """A job of a run; without a folder if phase2hpc did not submit it (``salloc``, ``srun``)."""
    manifest = summary.manifest
    assert manifest is not None
    try:
        folder = job_folder(summary.run, manifest)
    except InputError:
        folder = None
    if folder is None or not (folder / f"{array_id(job_id)}{SCRIPT_SUFFIX}").exists():
        return JobIdentity(job_id, "", manifest.cluster)
    # Only the end of the path: other hosts may mount the models folder elsewhere.
    return JobIdentity(job_id, "/".join(folder.parts[-2:]), manifest.cluster)
