"""Job states from squeue and sacct, and scancel.

Every field is requested by name. A command that fails raises Phase2Error with Slurm's message.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from phase2hpc.cluster.slurm.command import AccountingDisabled, UnknownJob, run_slurm
from phase2hpc.cluster.slurm.parsing import (
    expand_array,
    parse_duration,
    parse_exit_code,
    parse_time,
    parse_value,
)
from phase2hpc.errors import InputError
from phase2hpc.runs.job_id import array_id, is_slurm_job_id

# Fits the limit of a command line.
_MAX_IDS_PER_CALL = 1000
_QUEUE_FIELDS = (
    "JobArrayID", "State", "exit_code", "RestartCnt", "TimeUsed", "TimeLeft", "StartTime",
    "NodeList", "Reason", "STDOUT",
)  # fmt: skip
_ACCOUNTING_FIELDS = (
    "JobID", "State", "ExitCode", "ElapsedRaw", "Start", "NodeList", "Reason", "SubmitLine",
)  # fmt: skip

WAITING = frozenset(
    ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD",
     "SPECIAL_EXIT")
)  # fmt: skip
RUNNING = frozenset(
    ("RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED")
)


@dataclass(frozen=True)
class JobIdentity:
    """A job: its id, and the end of the path of its folder, which tells it from another job of
    the same id on a cluster whose ids were reset; empty if it has none. ``cluster``: its name, ''
    for that of this machine."""

    id: str
    folder: str
    cluster: str = ""


@dataclass(frozen=True)
class JobState:
    """A job or array element as Slurm sees it now.

    ``state`` is Slurm's word without additions (CANCELLED; 'by 0' is its ``reason``). ``exit_code``
    is a shell's: 128 plus the signal's number for a killed job; None before the end. ``elapsed``
    and ``time_left`` are seconds. ``start`` is local time, for a waiting job Slurm's estimate.
    ``restarts`` is None from accounting. ``origin`` contains the job's folder (its output file or
    submit line) and so identifies a job where ids were reset; empty if Slurm keeps none.
    """

    state: str
    reason: str = ""
    exit_code: int | None = None
    nodes: str = ""
    elapsed: int | None = None
    time_left: int | None = None
    start: datetime | None = None
    restarts: int | None = None
    origin: str = ""

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def running(self) -> bool:
        return self.state in RUNNING

    @property
    def over(self) -> bool:
        return not self.waiting and not self.running

    @property
    def completing(self) -> bool:
        return self.state == "COMPLETING"

    def is_of(self, job: JobIdentity) -> bool:
        """True if this is that job, and not another one of the same id."""
        return not self.origin or not job.folder or f"/{job.folder}/" in self.origin


def slurm_available() -> bool:
    """True if Slurm's commands are installed on this machine."""
    return all(shutil.which(command) for command in ("sbatch", "squeue"))


def queue_states(job_ids: Iterable[str], cluster: str | None = None) -> dict[str, JobState]:
    """States of the jobs that the controller knows, until some minutes after their end.

    The id of an array gives all its elements, as '12_0', '12_1', ... Unknown ids are absent.
    cluster: as in ``run_slurm``.
    """
    form = ",".join(f"{field}:|" for field in _QUEUE_FIELDS)
    found = {}
    for ids in _chunks(job_ids):
        try:
            answer = run_slurm(
                "squeue", "--noheader", "--array", "--states=all", f"--Format={form}",
                f"--jobs={','.join(ids)}", cluster=cluster,
            )  # fmt: skip
        except UnknownJob:
            # Only for a single id: of a list, squeue leaves unknown ones out.
            continue
        for line in answer.splitlines():
            parts = [part.strip() for part in line.split("|", len(_QUEUE_FIELDS) - 1)]
            if len(parts) < len(_QUEUE_FIELDS):
                continue  # a heading with the cluster's name
            job, state, code, restarts, elapsed, left, start, nodes, reason, output = parts
            found[job] = JobState(
                state=state,
                reason=parse_value(reason),
                exit_code=_exit_code(code, state),
                nodes=parse_value(nodes),
                elapsed=parse_duration(elapsed),
                time_left=parse_duration(left),
                start=parse_time(start),
                restarts=int(restarts) if restarts.isdigit() else None,
                origin=output.removesuffix("|"),
            )
    return found


def accounting_states(job_ids: Iterable[str], cluster: str | None = None) -> dict[str, JobState]:
    """States of the jobs that accounting knows, as ``queue_states``; empty without accounting."""
    found = {}
    for ids in _chunks(job_ids) if shutil.which("sacct") else []:
        # An element that never started is listed under its array only.
        arrays = dict.fromkeys(array_id(job) for job in ids)
        wanted = set(ids)
        try:
            answer = run_slurm("sacct", "--noheader", "--parsable2", "--allocations",
                           f"--format={','.join(_ACCOUNTING_FIELDS)}",
                           f"--jobs={','.join(arrays)}", cluster=cluster)  # fmt: skip
        except AccountingDisabled:
            return {}
        for line in answer.splitlines():
            parts = line.split("|", len(_ACCOUNTING_FIELDS) - 1)
            listed, full_state, code, elapsed, start, nodes, reason, *submitted = parts
            state, _, by = full_state.partition(" ")
            about = JobState(
                state=state,
                reason=parse_value(reason) or by,
                exit_code=_exit_code(code, state),
                nodes=parse_value(nodes),
                elapsed=int(elapsed) if elapsed.isdigit() else None,
                start=parse_time(start),
                origin="".join(submitted),
            )
            for job in expand_array(listed):
                if job in wanted or array_id(job) in wanted:
                    found[job] = about
    return found


def accounting_enabled() -> bool:
    """True if the cluster keeps accounting. Raises Phase2Error if sacct does not answer."""
    try:
        run_slurm("sacct", "--noheader", "--allocations", "--starttime=now", "--format=JobID")
    except AccountingDisabled:
        return False
    return True


def cancel(job_ids: Iterable[str], cluster: str | None = None) -> None:
    """Cancel jobs, arrays or elements; those that have ended or are unknown are ignored.

    cluster: as in ``run_slurm``.

    Raises InputError for a malformed id.
    """
    wanted = list(job_ids)
    for job in wanted:
        if not is_slurm_job_id(job):
            raise InputError(f"'{job}' is not the id of a Slurm job")
    for ids in _chunks(wanted):
        try:
            run_slurm("scancel", *ids, cluster=cluster)
        except UnknownJob:
            continue


def _exit_code(code: str, state: str) -> int | None:
    return None if state in WAITING | RUNNING else parse_exit_code(code)


def _chunks(job_ids: Iterable[str]) -> list[list[str]]:
    """Slurm's ids among them, each once, in chunks for one command line each."""
    ids = [job for job in dict.fromkeys(job_ids) if is_slurm_job_id(job)]
    return [
        ids[first : first + _MAX_IDS_PER_CALL] for first in range(0, len(ids), _MAX_IDS_PER_CALL)
    ]
