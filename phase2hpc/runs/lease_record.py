"""Lease record: the process that holds a run directory, and whether it is alive."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from phase2hpc.errors import InputError
from phase2hpc.runs import provenance
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.regular_file import NotRegularFile, open_regular
from phase2hpc.utils.time_format import utc_now

# Seconds without a renewal after which a holder loses the run; EXPIRY_VARIABLE overrides it, for
# file systems that hang longer. What counts is the number in the holder's own record.
EXPIRY = 90.0
EXPIRY_VARIABLE = "PHASE2HPC_LEASE_EXPIRY"
# A record with a longer expiry counts as damaged.
MAX_EXPIRY = 3600.0
MAX_RECORD_BYTES = 65_536
# Errors of an access to a file that some host removed, or whose folder it replaced.
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})

HeartbeatValue = int | float | str | None


class LeaseRecord(BaseModel):
    """Record written by the process that holds a run.

    ``expiry``: seconds without a renewal after which others may take the run. ``renewed``: by the
    holder's clock. ``heartbeat``: progress of training (epoch, step, loss, ...). ``age``: seconds
    since the last renewal, limited by clock skew; display only, taking a lease does not use it.
    """

    token: str
    host: str
    machine: str | None = None
    pid: int
    process_start: str | None = None
    job_id: str | None = None
    restarts: int = 0
    expiry: float = Field(gt=0, le=MAX_EXPIRY)
    renewals: int = 0
    renewed: datetime
    heartbeat: dict[str, HeartbeatValue] = {}
    age: float = Field(default=0.0, exclude=True)

    @classmethod
    def of_this_process(cls, token: str, job_id: str | None, expiry: float) -> LeaseRecord:
        restarts = os.environ.get("SLURM_RESTART_COUNT", "")
        return cls(
            token=token,
            host=provenance.host(),
            machine=machine(),
            pid=os.getpid(),
            process_start=provenance.process_start(os.getpid()),
            job_id=job_id,
            restarts=int(restarts) if restarts.isdigit() else 0,
            expiry=expiry,
            renewed=utc_now(),
        )

    @property
    def owner(self) -> str:
        """The process, for messages."""
        if self.job_id is None:
            return f"process {self.pid} on host {self.host}"
        return f"job {self.job_id} on node {self.host} (process {self.pid})"

    @property
    def process(self) -> Literal["this", "living", "gone", "unseen"]:
        """The process that wrote this; 'unseen' if it is not visible from here, dead or alive."""
        if self.machine != machine():
            return "unseen"
        if self.machine is None:
            if self.host != provenance.host():
                return "unseen"
            if self.pid == os.getpid():
                return "this"
            gone = provenance.process_is_gone(self.host, self.pid, self.process_start)
            return "gone" if gone else "living"
        if provenance.process_start(self.pid) != self.process_start:
            return "gone"
        return "this" if self.pid == os.getpid() else "living"


@dataclass(frozen=True)
class Holder:
    """The file that holds a run directory; ``record`` is None if it is damaged."""

    path: Path
    content: bytes
    record: LeaseRecord | None

    @property
    def owner(self) -> str:
        """The process, for messages."""
        return self.record.owner if self.record else f"another process (damaged lease {self.path})"


def expiry_seconds() -> float:
    """EXPIRY, or the environment's value. Raises InputError if that is not a valid number."""
    text = os.environ.get(EXPIRY_VARIABLE, str(EXPIRY))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= MAX_EXPIRY:
        raise InputError(
            f"{EXPIRY_VARIABLE}={text}: must be 0.1 to {MAX_EXPIRY:g} seconds, or unset for "
            f"{EXPIRY:g}"
        )
    return seconds


def machine() -> str | None:
    """Boot id and PID namespace, equal for processes that see each other; None without /proc.

    Host names do not suffice: containers of one host may share its name and not its processes.
    """
    start = provenance.process_start(os.getpid())
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
    return None if start is None else f"{start.partition(':')[0]}:{namespace}"


def find_holder(run: RunDirectory) -> Holder | None:
    """The file that holds a run; None if there is none. Raises OSError if it cannot be read."""
    for path in _files(run.lease):
        try:
            return _read(path)
        except OSError as error:
            if error.errno not in GONE:
                raise
    return None


def read_lease(run: RunDirectory) -> LeaseRecord | None:
    """The record of the process that holds a run, for display.

    None if no process holds it, or the lease is damaged or unreadable; never raises.
    """
    for _ in range(3):
        try:
            holder = find_holder(run)
        except OSError:
            return None
        if holder is None:
            return None
        if holder.record is not None:
            return holder.record
        time.sleep(0.02)  # it may be in the middle of a renewal
    return None


def _files(lease: Path) -> list[Path]:
    try:
        # NFS keeps a removed file that is still open under a hidden name.
        return [lease / name for name in sorted(os.listdir(lease)) if not name.startswith(".")]
    except NotADirectoryError:
        return [lease]
    except OSError as error:
        if error.errno not in GONE:
            raise
        return []


def _read(path: Path) -> Holder:
    try:
        with open_regular(path) as file:
            written = os.fstat(file.fileno()).st_mtime
            content = file.read(MAX_RECORD_BYTES)
    except NotRegularFile:
        return Holder(path, b"", None)
    try:
        record = LeaseRecord.model_validate_json(content)
        now = time.time()
        record.age = max(0.0, min(now - written, now - record.renewed.timestamp()))
    except (ValidationError, ValueError, OverflowError):
        return Holder(path, content, None)
    return Holder(path, content, record)
