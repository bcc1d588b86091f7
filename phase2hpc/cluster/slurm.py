"""What Slurm says of jobs and partitions: the only place that calls its commands.

Every field is asked for by name and the user's own format and filter variables are left out, so
that the answers are the same text from 22.05 on. A command that fails is one Phase2Error with
Slurm's own words.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from phase2hpc.cluster.slurm_text import elements, exit_code, local_time, said, seconds
from phase2hpc.errors import InputError, Phase2Error

TIMEOUT_SECONDS = 30.0
# A node that is not free so soon will not be for a while.
NODE_SECONDS = 60
# A command line has an end; so many ids fit.
_IDS_A_CALL = 1000
_QUEUE_FIELDS = (
    "JobArrayID", "State", "exit_code", "RestartCnt", "TimeUsed", "TimeLeft", "StartTime",
    "NodeList", "Reason", "STDOUT",
)  # fmt: skip
_ACCOUNTING_FIELDS = (
    "JobID", "State", "ExitCode", "ElapsedRaw", "Start", "NodeList", "Reason", "SubmitLine",
)  # fmt: skip
_NODE_FORMAT = "%R|%N|%c|%m|%G|%f|%T"
# Filters and formats of the user's would change what is asked, the last what is answered.
_USERS_OWN = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SCONTROL_")
_PLAIN = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard", "SLURM_BITSTR_LEN": "0"}

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


@dataclass(frozen=True)
class Node:
    """A node's size: cores, memory in GiB, generic resources as Slurm writes them."""

    name: str
    cpus: int
    memory_gb: float
    gres: str
    features: frozenset[str]
    state: str

    def gpus(self, kind: str | None = None) -> int:
        """GPUs of the node, of one type where ``kind`` names it."""
        return sum(int(count) for name, count in self._gpus() if kind is None or name == kind)

    def gpu_types(self) -> set[str]:
        return {name for name, _ in self._gpus() if name}

    def _gpus(self) -> list[tuple[str, str]]:
        return re.findall(r"(?:^|,)gpu:(?:([^:,()]+):)?(\d+)", self.gres)


@dataclass(frozen=True)
class Partition:
    """A partition's limits (None: no limit) and its nodes. ``accounts`` None: all may use it."""

    name: str
    default: bool
    up: bool
    max_hours: float | None
    max_nodes: int | None
    accounts: frozenset[str] | None
    nodes: tuple[Node, ...]


def is_job_id(text: str) -> bool:
    """Whether Slurm could have given this id to a job, or to an element of an array."""
    return re.fullmatch(r"\d+(_\d+)?", text) is not None


def slurm_available() -> bool:
    """Whether jobs can be submitted and followed from this machine."""
    return all(shutil.which(command) for command in ("sbatch", "squeue"))


def version() -> str:
    """The installed Slurm's, as in '22.05.8'; no controller is asked."""
    return _call("sbatch", "--version").split()[-1]


def queue_states(job_ids: Iterable[str]) -> dict[str, JobState]:
    """The jobs that the controller knows, for some minutes after their end too.

    An array's own id brings all its elements, as '12_0', '12_1', ... Ids that it does not know
    are absent.
    """
    form = ",".join(f"{field}:|" for field in _QUEUE_FIELDS)
    found = {}
    for ids in _chunks(job_ids):
        try:
            answer = _call("squeue", "--noheader", "--array", "--states=all", f"--Format={form}",
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
            answer = _call("sacct", "--noheader", "--parsable2", "--allocations",
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
        _call("sacct", "--noheader", "--allocations", "--starttime=now", "--format=JobID")
    except Phase2Error as error:
        if not _is_disabled(error):
            raise
        return False
    return True


def partitions() -> dict[str, Partition]:
    """Every partition, those hidden from this user too, by name."""
    nodes: dict[str, list[Node]] = {}
    for line in _call(
        "sinfo", "--all", "--Node", "--noheader", f"--format={_NODE_FORMAT}"
    ).splitlines():
        parts = line.split("|")
        if len(parts) != _NODE_FORMAT.count("|") + 1:
            continue
        partition, name, cpus, memory, gres, features, state = parts
        nodes.setdefault(partition, []).append(
            Node(name, int(cpus.rstrip("+")), int(memory.rstrip("+")) / 1024, gres,
                 frozenset(said(features).split(",")) - {""}, state)
        )  # fmt: skip
    found = {}
    for line in _call("scontrol", "--all", "--oneliner", "show", "partition").splitlines():
        facts = dict(re.findall(r"(\S+?)=(\S*)", line))
        if "PartitionName" not in facts:
            continue
        name, accounts = facts["PartitionName"], facts.get("AllowAccounts", "ALL")
        longest = seconds(facts.get("MaxTime", ""))
        found[name] = Partition(
            name=name,
            default=facts.get("Default") == "YES",
            up=facts.get("State") == "UP",
            max_hours=None if longest is None else longest / 3600,
            max_nodes=int(most) if (most := facts.get("MaxNodes", "")).isdigit() else None,
            accounts=None if accounts == "ALL" else frozenset(accounts.split(",")),
            nodes=tuple(nodes.get(name, ())),
        )
    return found


def would_start(options: Sequence[str]) -> str:
    """What ``sbatch --test-only`` answers to these options, in one line; nothing is submitted.

    Raises Phase2Error with Slurm's reason where it would refuse the job.
    """
    # It reads a script from standard input only without --wrap.
    return _call("sbatch", "--test-only", *options, "--wrap=true", answer_on="stderr")


def run_on_node(options: Sequence[str], shell: str) -> str:
    """What a line of shell prints on a node, as a job of one task that waits for a free node.

    Raises Phase2Error with Slurm's reason, also where no node is free for a minute.
    """
    immediate = f"--immediate={NODE_SECONDS}"
    return _call("srun", *options, immediate, "sh", "-c", shell, timeout=2 * NODE_SECONDS)


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
            _call("scancel", *ids)
        except Phase2Error as error:
            if not re.search("Invalid job id|already complet", str(error)):
                raise


def _call(
    command: str, *arguments: str, answer_on: str = "stdout", timeout: float | None = None
) -> str:
    limit = TIMEOUT_SECONDS if timeout is None else timeout
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_USERS_OWN)}
    try:
        done = subprocess.run(
            [command, *arguments],
            env=environment | _PLAIN,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except FileNotFoundError:
        raise Phase2Error(
            f"{command}: not found: no Slurm on this machine, or not on PATH"
        ) from None
    except subprocess.TimeoutExpired:
        raise Phase2Error(
            f"{command}: no answer within {limit:g} s: Slurm's controller is busy or down"
        ) from None
    except OSError as error:
        raise Phase2Error(f"{command}: cannot be started ({error.strerror})") from None
    if done.returncode:
        said = [re.sub(rf"^{command}: ?", "", line.strip()) for line in done.stderr.splitlines()]
        said = [re.sub(r"^(error|fatal): ?", "", line) for line in said if line]
        words = "; ".join(dict.fromkeys(said))
        raise Phase2Error(f"{command}: {words or f'failed with exit code {done.returncode}'}")
    return done.stdout if answer_on == "stdout" else " ".join(done.stderr.split())


def _is_disabled(error: Phase2Error) -> bool:
    return "accounting storage is disabled" in str(error).lower()


def _ended_with(code: str, state: str) -> int | None:
    return None if state in WAITING | RUNNING else exit_code(code)


def _chunks(job_ids: Iterable[str]) -> list[list[str]]:
    """The ids that can be Slurm's, each once, in portions that fit a command line."""
    ids = [job for job in dict.fromkeys(job_ids) if is_job_id(job)]
    return [ids[first : first + _IDS_A_CALL] for first in range(0, len(ids), _IDS_A_CALL)]
