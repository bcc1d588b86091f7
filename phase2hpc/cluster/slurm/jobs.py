"""What Slurm says of jobs, in the queue and in accounting, and their cancellation.

Every field is asked for by name. A command that fails is one Phase2Error with Slurm's own words.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from phase2hpc.cluster.slurm.command import ask
from phase2hpc.cluster.slurm.parsing import elements, exit_code, local_time, said, seconds
from phase2hpc.errors import InputError, Phase2Error

# A command line has an end; so many ids fit.
_IDS_A_CALL = 1000
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
class NamedJob:
    """A job: its id, and the end of the path of its folder, by which it is known again where
    Slurm's ids began anew; empty where it has none."""

    id: str
    folder: str


@dataclass(frozen=True)
class JobState:
    """A job, or one element of an array, as Slurm sees it now.

    ``state`` is Slurm's word without additions (CANCELLED; 'by 0' is its ``reason``). ``exit_code``
    is a shell's: 128 and the signal's number where a signal ended it; None while it has not ended.
    ``elapsed`` and ``time_left`` are seconds. ``start`` is local time, for a waiting job Slurm's
    estimate. ``restarts`` is None where accounting answered. ``origin`` has the folder that the
    job was submitted with in it (its output file, or the line that submitted it): ids begin anew on
    a cluster that was set up again, and this tells whose job it is. Empty where Slurm keeps none.
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

    def is_of(self, job: NamedJob) -> bool:
        """Whether this is that job, and not another one of the same number."""
        return not self.origin or not job.folder or f"/{job.folder}/" in self.origin


def is_job_id(text: str) -> bool:
    """Whether Slurm could have given this id to a job, or to an element of an array."""
    return re.fullmatch(r"\d+(_\d+)?", text) is not None


def slurm_available() -> bool:
    """Whether jobs can be submitted and followed from this machine."""
    return all(shutil.which(command) for command in ("sbatch", "squeue"))


def queue_states(job_ids: Iterable[str]) -> dict[str, JobState]:
    """The jobs that the controller knows, for some minutes after their end too.

    An array's own id brings all its elements, as '12_0', '12_1', ... Ids that it does not know
    are absent.
    """
    form = ",".join(f"{field}:|" for field in _QUEUE_FIELDS)
    found = {}
    for ids in _chunks(job_ids):
        try:
            answer = ask("squeue", "--noheader", "--array", "--states=all", f"--Format={form}",
                           f"--jobs={','.join(ids)}")  # fmt: skip
        except Phase2Error as error:
            # So it says of a single job; those of a list it leaves out.
            if "Invalid job id" not in str(error):
                raise
            continue
        for line in answer.splitlines():
            parts = [part.strip() for part in line.split("|", len(_QUEUE_FIELDS) - 1)]
            if len(parts) < len(_QUEUE_FIELDS):
                continue  # the cluster's name, before its jobs
            job, state, code, restarts, elapsed, left, start, nodes, reason, output = parts
            found[job] = JobState(
                state=state,
                reason=said(reason),
                exit_code=_ended_with(code, state),
                nodes=said(nodes),
                elapsed=seconds(elapsed),
                time_left=seconds(left),
                start=local_time(start),
                restarts=int(restarts) if restarts.isdigit() else None,
                origin=output.removesuffix("|"),
            )
    return found


def accounting_states(job_ids: Iterable[str]) -> dict[str, JobState]:
    """The jobs that accounting knows, long after their end too; as ``queue_states``.

    Empty where there is no sacct or no accounting.
    """
    found = {}
    for ids in _chunks(job_ids) if shutil.which("sacct") else []:
        # An element that never began stands under its array only.
        arrays = dict.fromkeys(job.partition("_")[0] for job in ids)
        wanted = set(ids)
        try:
            answer = ask("sacct", "--noheader", "--parsable2", "--allocations",
                           f"--format={','.join(_ACCOUNTING_FIELDS)}",
                           f"--jobs={','.join(arrays)}")  # fmt: skip
        except Phase2Error as error:
            if not _is_disabled(error):
                raise
            return {}
        for line in answer.splitlines():
            parts = line.split("|", len(_ACCOUNTING_FIELDS) - 1)
            listed, words, code, elapsed, start, nodes, reason, *submitted = parts
            state, _, by = words.partition(" ")
            about = JobState(
                state=state,
                reason=said(reason) or by,
                exit_code=_ended_with(code, state),
                nodes=said(nodes),
                elapsed=int(elapsed) if elapsed.isdigit() else None,
                start=local_time(start),
                origin="".join(submitted),
            )
            for job in elements(listed):
                if job in wanted or job.partition("_")[0] in wanted:
                    found[job] = about
    return found


def accounting_enabled() -> bool:
    """Whether sacct has anything to say. Raises Phase2Error where it cannot be asked."""
    try:
        ask("sacct", "--noheader", "--allocations", "--starttime=now", "--format=JobID")
    except Phase2Error as error:
        if not _is_disabled(error):
            raise
        return False
    return True


def cancel(job_ids: Iterable[str]) -> None:
    """Cancel jobs, arrays or elements; one that has ended, or that Slurm does not know, is fine.

    Raises InputError for what is not a job id.
    """
    wanted = list(job_ids)
    for job in wanted:
        if not is_job_id(job):
            raise InputError(f"'{job}' is not the id of a Slurm job")
    for ids in _chunks(wanted):
        try:
            ask("scancel", *ids)
        except Phase2Error as error:
            if not re.search("Invalid job id|already complet", str(error)):
                raise


def _is_disabled(error: Phase2Error) -> bool:
    return "accounting storage is disabled" in str(error).lower()


def _ended_with(code: str, state: str) -> int | None:
    return None if state in WAITING | RUNNING else exit_code(code)


def _chunks(job_ids: Iterable[str]) -> list[list[str]]:
    """The ids that can be Slurm's, each once, in portions that fit a command line."""
    ids = [job for job in dict.fromkeys(job_ids) if is_job_id(job)]
    return [ids[first : first + _IDS_A_CALL] for first in range(0, len(ids), _IDS_A_CALL)]
