"""Who holds a run directory: the record in its lease, and what of it can be told from here."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from phase2hpc.runs import provenance
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.regular_file import NotRegularFile, open_regular
from phase2hpc.utils.time_format import utc_now

# A lease that promises to live longer is taken for damaged.
MAX_EXPIRY = 3600.0
# More is not read of a file, whatever lies there.
MAX_RECORD_BYTES = 65_536
# What an access says when the file was removed, or its folder replaced, by any host.
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})

HeartbeatValue = int | float | str | None


class LeaseRecord(BaseModel):
    """What the process that holds a run says of itself.

    ``expiry``: seconds without a renewal after which others may take the run. ``renewed``: by the
    holder's clock. ``heartbeat``: where training is (epoch, step, loss, ...). ``age``: seconds
    since the last renewal as near as two clocks can tell; for people, no decision rests on it.
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
    def who(self) -> str:
        if self.job_id is None:
            return f"process {self.pid} on host {self.host}"
        return f"job {self.job_id} on node {self.host} (process {self.pid})"

    @property
    def process(self) -> Literal["this", "living", "gone", "unseen"]:
        """The process that wrote this; 'unseen' where this one cannot see it, dead or alive."""
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
    """The file that holds a run directory; ``record`` is None where it is damaged."""

    path: Path
    content: bytes
    record: LeaseRecord | None

    @property
    def who(self) -> str:
        return self.record.who if self.record else f"another process (damaged lease {self.path})"


def machine() -> str | None:
    """Boot and process namespace, which processes that see each other share; None without /proc.

    A host's name proves nothing: containers of one host may share it and not their processes.
    """
    start = provenance.process_start(os.getpid())
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
    return None if start is None else f"{start.partition(':')[0]}:{namespace}"


def find_holder(run: RunDirectory) -> Holder | None:
    """The file that holds a run; None where nobody does. Raises OSError where that is not known."""
    for path in _files(run.lease):
        try:
            return _read(path)
        except OSError as error:
            if error.errno not in GONE:
                raise
    return None


def read_lease(run: RunDirectory) -> LeaseRecord | None:
    """The record of the process that holds a run, for people to read.

    None where nobody holds it, or the lease is damaged or cannot be read; never raises.
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
        # Hidden: what a network file system keeps of a removed file that is still open.
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
