"""Where a run stands: from its manifest, its lease with the heartbeat in it, and Slurm.

The manifest says what the run's last process knew, the lease whether that process lives, Slurm
whether there is a job. None of them is enough: a job that is killed writes no manifest, Slurm
forgets a job minutes after its end, and on many clusters there is no accounting.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phase2hpc.cluster.monitor.exit_reason import exit_reason
from phase2hpc.cluster.monitor.job_states import SlurmJobStates, slurm_job
from phase2hpc.cluster.monitor.logs import job_folder
from phase2hpc.cluster.slurm.jobs import JobState, NamedJob
from phase2hpc.cluster.submit.prepare_job import find_preparation
from phase2hpc.errors import InputError
from phase2hpc.runs import provenance
from phase2hpc.runs.lease_record import LeaseRecord, find_holder, read_lease
from phase2hpc.runs.registry import RunSummary
from phase2hpc.runs.run_directory import Manifest
from phase2hpc.utils.text import one_line

State = Literal[
    "pending",  # a job waits to begin
    "starting",  # a job runs, training has not begun, or not again
    "running",  # gives signs of life
    "silent",  # its job runs, and it gives no sign of life
    "requeued",  # stopped, and its job waits to go on
    "stopping",  # its job is at its end
    "stopped",  # saved, and nothing goes on by itself
    "finished",
    "failed",
    "dead",  # ended without a word
    "unknown",  # nobody can be asked
    "unreadable",
]
# After these nothing more comes by itself.
ENDED = frozenset({"stopped", "finished", "failed", "dead", "unreadable"})
# Importing torch and reading a store may take so long.
START_SECONDS = 600


@dataclass(frozen=True)
class RunStatus:
    """``about``: what else there is to say, a line. ``job``: Slurm's newest of this run, and
    ``slurm`` what it says of it. ``lease``: of the process that trains it now."""

    summary: RunSummary
    state: State
    about: str = ""
    job: NamedJob | None = None
    slurm: JobState | None = None
    lease: LeaseRecord | None = None

    @property
    def over(self) -> bool:
        return self.state in ENDED

    def number(self, name: str) -> float | None:
        """A number of the heartbeat."""
        value = self.lease.heartbeat.get(name) if self.lease else None
        return float(value) if isinstance(value, (int, float)) else None


def run_status(summary: RunSummary, view: SlurmJobStates) -> RunStatus:
    """Where a run stands of which ``view`` was asked. Never raises: what cannot be read is said."""
    job = slurm_job(summary)
    said = view.state(job) if job else None
    # Read in the order opposite to that in which a run writes at its end: manifest, lease, exit.
    # Else one that finishes in between would look as if it had died.
    record = read_lease(summary.run)
    now = reread(summary)
    if now.manifest is None or slurm_job(now) == job:
        summary = now
    manifest = summary.manifest
    if manifest is None:
        return RunStatus(summary, "unreadable", one_line(summary.problem or ""))
    alive = record is not None and not _is_dead(record)
    if job and said and said.over and record and record.job_id == job.id:
        alive = False
    state, about = _judge(summary, manifest, job, said, record, alive, view)
    lease = record if alive else None
    return RunStatus(summary, state, one_line(about), job, said, lease)


def reread(summary: RunSummary) -> RunSummary:
    """The run with its manifest as it is now."""
    try:
        return RunSummary(summary.run, summary.run.read_manifest())
    except InputError as error:
        return RunSummary(summary.run, None, str(error))


def duration(seconds: float) -> str:
    """As in 1:02:03, or 2-01:02:03 with days."""
    minutes, rest = divmod(int(max(0.0, min(seconds, 1e9))), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-{hours:02d}" if days else f"{hours}") + f":{minutes:02d}:{rest:02d}"


def _judge(
    summary: RunSummary,
    manifest: Manifest,
    job: NamedJob | None,
    said: JobState | None,
    record: LeaseRecord | None,
    alive: bool,
    view: SlurmJobStates,
) -> tuple[State, str]:
    if manifest.state == "finished":
        return "finished", str(summary.run.path)
    if alive and record:
        state: State = "running" if manifest.state == "running" else "starting"
        if job is None or said is None or record.job_id != job.id:
            return state, record.who
        left = f", {duration(said.time_left)} of its time left" if said.time_left else ""
        return state, f"job {job.id} on {said.nodes or record.host}{left}"
    if job and said and said.waiting:
        again = manifest.state != "submitted"
        return ("requeued" if again else "pending"), _waits_for(summary, job, said, view)
    if manifest.state == "failed":
        return "failed", manifest.message
    if job and said and said.running:
        return _with_a_job(manifest, job, said, record)
    if manifest.state == "stopped":
        return "stopped", manifest.message
    if job and (record is None or record.job_id == job.id or manifest.state == "submitted"):
        return _after_a_job(summary, manifest, job, said, record, view)
    return _without_a_job(summary, manifest, record)


def _is_dead(record: LeaseRecord) -> bool:
    """Of a process that cannot be seen, its silence is all there is."""
    unseen = record.process == "unseen"
    return record.age > record.expiry if unseen else record.process == "gone"


def _waits_for(summary: RunSummary, job: NamedJob, said: JobState, view: SlurmJobStates) -> str:
    words = f"job {job.id} {said.state}" + (f" ({said.reason})" if said.reason else "")
    first = find_preparation(summary) if said.reason.startswith("Dependency") else None
    if first is not None:
        now = view.state(first.job)
        words += f", waits for job {first.job_id}, which prepares its store"
        words += f" ({now.state})" if now else ""
    return words + (f", starts about {said.start:%Y-%m-%d %H:%M}" if said.start else "")


def _with_a_job(
    manifest: Manifest, job: NamedJob, said: JobState, record: LeaseRecord | None
) -> tuple[State, str]:
    """Its job runs, and no process holds the run."""
    words = f"job {job.id} {said.state}" + (f" on {said.nodes}" if said.nodes else "")
    elapsed = said.elapsed or 0
    if said.state == "COMPLETING":
        return "stopping", words
    if manifest.state == "stopped" and elapsed < START_SECONDS:
        return "requeued", words
    if manifest.state != "submitted" and record and record.age < elapsed:
        return "silent", f"{words}, no sign of life for {duration(record.age)}"
    if elapsed > START_SECONDS:
        return "silent", f"{words} for {duration(elapsed)}, training has not begun"
    return "starting", words


def _after_a_job(
    summary: RunSummary,
    manifest: Manifest,
    job: NamedJob,
    said: JobState | None,
    record: LeaseRecord | None,
    view: SlurmJobStates,
) -> tuple[State, str]:
    """Submitted or running by the manifest; no process holds the run and no job lives."""
    gone = manifest.state == "running" and record is not None and record.process == "gone"
    if said is None and view.problem and not gone:
        return "unknown", f"{manifest.state} by its manifest, and Slurm is silent: {view.problem}"
    try:
        folder = job_folder(summary.run, manifest)
    except InputError as error:
        return "dead", str(error)
    lived = manifest.updated if manifest.state == "running" else None
    why = exit_reason(said, folder, job.id, lived)
    if said is None and record is not None and gone:
        why = f"{record.who} is gone; {why}"
    elif said is None:
        why = f"Slurm has no record of job {job.id} (any more); {why}"
    else:
        why = f"job {job.id} {why}"
    if manifest.state == "submitted":
        why += f"; before training began{_first_failed(summary, manifest, view)}"
    return "dead", why


def _first_failed(summary: RunSummary, manifest: Manifest, view: SlurmJobStates) -> str:
    first = find_preparation(summary)
    if first is None or (manifest.store and Path(manifest.store).exists()):
        return ""
    now = view.state(first.job)
    why = exit_reason(now, first.folder, first.job_id)
    return f": job {first.job_id}, which was to prepare its store, {why}"


def _without_a_job(
    summary: RunSummary, manifest: Manifest, record: LeaseRecord | None
) -> tuple[State, str]:
    """Trained without Slurm; submitted or running by the manifest, and no process holds it."""
    if manifest.state == "submitted":
        # Its maker is the process that runs all of them in turn.
        who = f"process {manifest.pid} on host {manifest.host}"
        if provenance.process_is_gone(manifest.host, manifest.pid, manifest.process_start):
            return "dead", f"{who} ended before training began"
        return "pending", f"waits for its turn in {who}"
    if record is None:
        try:
            holder = find_holder(summary.run)
        except OSError as error:
            return "unknown", f"{summary.run.lease}: cannot be read ({error.strerror})"
        if holder is not None:
            return "unknown", f"held by {holder.who}"
        return "dead", f"process {manifest.pid} on host {manifest.host} ended without a word"
    if record.process == "gone":
        return "dead", f"{record.who} ended without a word"
    return "dead", f"{record.who} gave no sign of life for {duration(record.age)}"
