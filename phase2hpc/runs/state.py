"""Run state from manifest, lease and scheduler.

The manifest holds what the run's last process recorded, the lease shows whether that process is
alive, and the scheduler whether there is a job. None suffices alone: a killed job records nothing,
Slurm forgets a job minutes after its end, and many clusters keep no accounting.

Every command that prints a state gets it here. The scheduler is passed in: nothing here knows
which one it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from phase2hpc.runs import provenance
from phase2hpc.runs.lease_record import LeaseRecord, find_holder, read_lease
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.registry import RunSummary
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.text import one_line
from phase2hpc.utils.time_format import format_duration

State = Literal[
    "pending",  # its job waits to start
    "starting",  # its job runs, training has not begun, or not again
    "running",  # its heartbeat is recent
    "unresponsive",  # its job runs, without a recent heartbeat
    "requeued",  # stopped, its job waits to continue
    "stopping",  # its job is completing
    "stopped",  # state saved, no job
    "finished",
    "failed",
    "interrupted",  # ended without recording why: killed, cancelled, node lost
    "unknown",  # the scheduler or the file system does not answer
    "unreadable",  # no valid manifest
]
# States that do not change by themselves.
ENDED = frozenset({"stopped", "finished", "failed", "interrupted", "unreadable"})
# Importing torch and reading a store may take this long.
MAX_START_SECONDS = 600


class JobRecord(Protocol):
    """A job as its scheduler sees it now; durations in seconds, None where not known."""

    @property
    def state(self) -> str: ...
    @property
    def nodes(self) -> str: ...
    @property
    def elapsed(self) -> int | None: ...
    @property
    def time_left(self) -> int | None: ...
    @property
    def waiting(self) -> bool: ...
    @property
    def running(self) -> bool: ...
    @property
    def completing(self) -> bool: ...
    @property
    def over(self) -> bool: ...


class Scheduler(Protocol):
    """Job states of runs: ``query`` once for all runs, then ask about each.

    ``problem``: why the scheduler gave no answer, None where it did.
    """

    problem: str | None

    def query(self, summaries: Iterable[RunSummary]) -> None: ...

    def newest_job(self, summary: RunSummary) -> str | None:
        """Id of the run's newest job; None where that was not a job of this scheduler."""

    def record(self, summary: RunSummary) -> JobRecord | None:
        """The newest job; None where the scheduler has no record of it."""

    def active_job(self, summary: RunSummary) -> tuple[str, JobRecord] | None:
        """Any job of the run, the newest or not, that waits or runs."""

    def pending_reason(self, summary: RunSummary) -> str:
        """Reason why the newest job is pending."""

    def exit_reason(self, summary: RunSummary, last_seen: datetime | None) -> str:
        """Reason why the newest job ended. last_seen: when the run was last known to be alive."""


@dataclass(frozen=True)
class RunStatus:
    """A run's state, with one line of detail.

    ``job_id`` is its newest job's and ``job`` the scheduler's record of it; ``lease`` is None
    unless a process trains the run now.
    """

    summary: RunSummary
    state: State
    detail: str = ""
    job_id: str | None = None
    job: JobRecord | None = None
    lease: LeaseRecord | None = None

    @property
    def over(self) -> bool:
        return self.state in ENDED

    def heartbeat(self, name: str) -> float | None:
        """A number of the heartbeat."""
        value = self.lease.heartbeat.get(name) if self.lease else None
        return float(value) if isinstance(value, (int, float)) else None

    def as_json(self) -> dict[str, Any]:
        """The fields of ``--json``: run, path, state, detail, algorithm, level, job, epoch,
        epochs, step, loss, crystals_per_second, seconds_left, best_score, created, updated."""
        manifest = self.summary.manifest
        epoch, step = self.heartbeat("epoch"), self.heartbeat("step")
        fields: dict[str, Any] = {
            "run": self.summary.run.id,
            "path": str(self.summary.run.path),
            "state": self.state,
            "detail": self.detail,
        }
        if manifest is None:
            return fields
        return fields | {
            "algorithm": manifest.algorithm,
            "level": manifest.level,
            "properties": manifest.properties,
            "ensemble": manifest.ensemble,
            "job": manifest.job_ids[-1] if manifest.job_ids else None,
            "epoch": manifest.epoch if epoch is None else int(epoch),
            "epochs": manifest.epochs,
            "step": manifest.step if step is None else int(step),
            **{key: self.heartbeat(key) for key in ("loss", "crystals_per_second", "seconds_left")},
            "best_score": manifest.best_score,
            "created": manifest.created.isoformat(),
            "updated": manifest.updated.isoformat(),
        }


def run_statuses(summaries: Iterable[RunSummary], scheduler: Scheduler) -> list[RunStatus]:
    """The status of each run; the scheduler is queried once for all."""
    listed = list(summaries)
    scheduler.query(listed)
    return [run_status(summary, scheduler) for summary in listed]


def status_of(run: RunDirectory, scheduler: Scheduler) -> RunStatus:
    """The status of one run."""
    (status,) = run_statuses([RunSummary.read(run)], scheduler)
    return status


def run_status(summary: RunSummary, scheduler: Scheduler) -> RunStatus:
    """The status of a run that ``scheduler`` was queried about. Never raises."""
    job_id = scheduler.newest_job(summary)
    job = scheduler.record(summary)
    # Read in the order opposite to that in which a run writes at its end (manifest, lease, exit):
    # otherwise one that finishes in between would look interrupted.
    record = read_lease(summary.run)
    if summary.manifest is None or summary.manifest.state != "finished":
        latest = RunSummary.read(summary.run)
        if latest.manifest is None or scheduler.newest_job(latest) == job_id:
            summary = latest
    manifest = summary.manifest
    if manifest is None:
        return RunStatus(summary, "unreadable", one_line(summary.problem or ""))
    alive = record is not None and not _is_expired(record)
    if job and job.over and record and record.job_id == job_id:
        alive = False
    found = _Evidence(summary, manifest, job_id, job, record, alive, scheduler)
    state, detail = _evaluate(found)
    return RunStatus(summary, state, one_line(detail), job_id, job, record if alive else None)


@dataclass(frozen=True)
class _Evidence:
    """All that is known of a run. alive: whether the lease's process is."""

    summary: RunSummary
    manifest: Manifest
    job_id: str | None
    job: JobRecord | None
    lease: LeaseRecord | None
    alive: bool
    scheduler: Scheduler


def _is_expired(record: LeaseRecord) -> bool:
    # Of a process that cannot be seen from here only its heartbeat is known.
    if record.process == "unseen":
        return record.age > record.expiry
    return record.process == "gone"


def _evaluate(found: _Evidence) -> tuple[State, str]:
    manifest, job, lease = found.manifest, found.job, found.lease
    if manifest.state == "finished":
        return "finished", str(found.summary.run.path)
    if found.alive and lease:
        return _alive(found, lease)
    if job and job.waiting:
        state: State = "pending" if manifest.state == "submitted" else "requeued"
        return state, found.scheduler.pending_reason(found.summary)
    if manifest.state == "failed":
        return "failed", manifest.message
    if job and job.running:
        return _job_without_lease(found, job)
    if manifest.state == "stopped":
        return "stopped", manifest.message
    is_of_job = lease is None or lease.job_id == found.job_id or manifest.state == "submitted"
    if found.job_id and is_of_job:
        return _after_job(found, found.job_id)
    return _without_job(found)


def _alive(found: _Evidence, lease: LeaseRecord) -> tuple[State, str]:
    state: State = "running" if found.manifest.state == "running" else "starting"
    job = found.job
    if job is None or lease.job_id != found.job_id:
        return state, lease.owner
    left = f", {format_duration(job.time_left)} of its time limit left" if job.time_left else ""
    return state, f"job {found.job_id} on {job.nodes or lease.host}{left}"


def _job_without_lease(found: _Evidence, job: JobRecord) -> tuple[State, str]:
    """Its job runs, and no process holds the run."""
    detail = f"job {found.job_id} {job.state}" + (f" on {job.nodes}" if job.nodes else "")
    elapsed = job.elapsed or 0
    lease, recorded = found.lease, found.manifest.state
    if job.completing:
        return "stopping", detail
    if recorded == "stopped" and elapsed < MAX_START_SECONDS:
        return "requeued", detail
    if recorded != "submitted" and lease and lease.age < elapsed:
        return "unresponsive", f"{detail}, no heartbeat for {format_duration(lease.age)}"
    if elapsed > MAX_START_SECONDS:
        return (
            "unresponsive",
            f"{detail} for {format_duration(elapsed)}, training has not started",
        )
    return "starting", detail


def _after_job(found: _Evidence, job_id: str) -> tuple[State, str]:
    """Submitted or running by the manifest; no process holds the run and no job lives."""
    manifest, lease, job = found.manifest, found.lease, found.job
    exited = manifest.state == "running" and lease is not None and lease.process == "gone"
    if job is None and found.scheduler.problem and not exited:
        problem = found.scheduler.problem
        return "unknown", f"'{manifest.state}' in its manifest; no answer about its job: {problem}"
    last_seen = manifest.updated if manifest.state == "running" else None
    reason = found.scheduler.exit_reason(found.summary, last_seen)
    if job is not None:
        detail = f"job {job_id} {reason}"
    elif lease is not None and exited:
        detail = f"{lease.owner} has exited; {reason}"
    else:
        detail = f"no record of job {job_id} (any more); {reason}"
    return "interrupted", detail


def _without_job(found: _Evidence) -> tuple[State, str]:
    """Trained without a scheduler; submitted or running by the manifest, no process holds it."""
    manifest, lease, run = found.manifest, found.lease, found.summary.run
    owner = f"process {manifest.pid} on host {manifest.host}"
    if manifest.state == "submitted":
        # Created by the process that runs all members of an ensemble in turn.
        if provenance.process_is_gone(manifest.host, manifest.pid, manifest.process_start):
            return "interrupted", f"{owner} exited before training started"
        return "pending", f"waits for its turn in {owner}"
    if lease is None:
        try:
            holder = find_holder(run)
        except OSError as error:
            return "unknown", f"{run.lease}: cannot be read ({error.strerror})"
        if holder is not None:
            return "unknown", f"held by {holder.owner}"
        return "interrupted", f"{owner} exited without recording its state"
    if lease.process == "gone":
        return "interrupted", f"{lease.owner} exited without recording its state"
    return "interrupted", f"{lease.owner}: no heartbeat for {format_duration(lease.age)}"
