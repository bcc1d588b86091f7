"""The lease of a run directory: one process trains a run, on whatever hosts others try.

No lock server, no file lock and no clock of another host is trusted. The lease is a folder
``lease`` that holds one file, named by its holder's own random token. It is taken by renaming a
folder that has the file in it already onto ``lease``, which a file system does only where that is
missing or empty, so one of many takers wins. It is taken away by removing that file, whose name
no later holder shares, so nobody removes a lease that he has not judged. It is renewed by
overwriting the file in place, never by creating it, so a holder that was suspended cannot bring
back what it lost.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter

from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.runs.lease_record import (
    GONE,
    MAX_EXPIRY,
    HeartbeatValue,
    Holder,
    LeaseRecord,
    find_holder,
    read_lease,
)
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.time_format import utc_now

log = logging.getLogger(__name__)

# Seconds after which a holder of whom nothing is heard loses the run; ``EXPIRY_VARIABLE`` sets
# another number, for tests and for file systems that hang longer. The holder's own number counts.
EXPIRY = 90.0
EXPIRY_VARIABLE = "PHASE2HPC_LEASE_EXPIRY"
RENEWALS_PER_EXPIRY = 6
# A heartbeat is written at once where none was for so many seconds.
SECONDS_PER_BEAT = 5.0
# The file keeps its length, so that renewing needs no room on a full disk.
BLOCK = 2048
# What a rename onto the lease says when somebody else was faster.
TAKEN = GONE | {errno.ENOTEMPTY, errno.EEXIST}

HEARTBEAT = TypeAdapter(dict[str, HeartbeatValue])


class LeaseLost(Phase2Error):
    """Another process owns the run directory by now: nothing more may be written into it."""


def expiry_seconds() -> float:
    """EXPIRY, or what the environment says. Raises InputError where that is no number."""
    text = os.environ.get(EXPIRY_VARIABLE, str(EXPIRY))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= MAX_EXPIRY:
        raise InputError(
            f"{EXPIRY_VARIABLE}={text}: give seconds from 0.1 to {MAX_EXPIRY:g}, or leave it "
            f"out for {EXPIRY:g}"
        )
    return seconds


def current_job_id() -> str | None:
    """Slurm's id of the job that this process is in, ``ARRAY_TASK`` for an element of an array."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID") or None


class Lease:
    """Ownership of a run directory, from ``acquire`` until ``release``; a context manager.

    A daemon thread renews it. A forked child has it for reading only: it neither renews nor
    releases what is its parent's.
    """

    def __init__(self, run: RunDirectory, job_id: str | None) -> None:
        self.run = run
        self._record = LeaseRecord.of_this_process(secrets.token_hex(8), job_id, expiry_seconds())
        self._file = run.lease / f"{self._record.token}.json"
        self._values: dict[str, HeartbeatValue] = {}
        self._renewed = time.monotonic()
        self._beaten: float | None = None
        self._length = 0
        self._complained = False
        self._writing = threading.Lock()
        self._wake, self._released = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    @classmethod
    def acquire(
        cls, run: RunDirectory, job_id: str | None = None, *, stop: Callable[[], bool] = bool
    ) -> Lease:
        """Take the run, waiting where only time can tell whether its holder lives.

        A dead process of this machine, this process itself and another incarnation of the same
        job lose it at once; a living process of this machine refuses at once; any other is
        watched, refuses when it renews, and loses it when it does not for its whole expiry. A
        damaged lease is watched in the same way. stop: asked while waiting.

        Raises InputError naming the holder, StoppedEarly when ``stop`` says so, and Phase2Error
        where the folder cannot be written.
        """
        lease = cls(run, job_id)
        try:
            lease._take(stop)
        except OSError as error:
            raise Phase2Error(
                f"{run.lease}: cannot be taken ({error.strerror}): make room, or get the right to "
                "write there; if nobody trains this run, remove it by hand"
            ) from error
        lease._thread.start()
        return lease

    def check(self) -> None:
        """Make sure, just before the run directory is written, that it is still this process's.

        Raises LeaseLost naming the holder of now. A lease removed by hand counts as lost: it looks
        the same as one that was taken over by a process that has finished since.
        """
        # Late, as after a suspension: a taker about to give up waiting sees that we live.
        if time.monotonic() - self._renewed > self._record.expiry / 2:
            self._renew()
        try:
            mine = self._is_mine()
        except OSError as error:
            raise Phase2Error(
                f"{self._file}: cannot be read ({error.strerror}); nothing more is written: go on "
                "with --resume once the file system answers"
            ) from error
        if not mine:
            holder = read_lease(self.run)
            by = f"is trained by {holder.who} by now" if holder else "has lost its lease"
            raise LeaseLost(
                f"run '{self.run.id}' {by}: this process stops without writing more "
                "(it gave no sign of life for too long, or the lease was removed); --resume goes on"
            )

    def beat(self, **values: HeartbeatValue) -> None:
        """Set where training is, for others to read; never waits for the file system."""
        self._values = HEARTBEAT.validate_python({**self._values, **values})
        if self._beaten is None or time.monotonic() - self._beaten > SECONDS_PER_BEAT:
            self._wake.set()

    def release(self) -> None:
        """Give the run directory free, unless it is another's by now; again does nothing."""
        if self._released.is_set() or os.getpid() != self._record.pid:
            return
        self._released.set()
        self._wake.set()
        # One that hangs in the file system may stay behind: all it can do is find the file gone.
        self._thread.join(timeout=5)
        try:
            self._remove(self._file)
        except OSError as error:
            log.warning("%s cannot be removed (%s)", self._file, error.strerror)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _take(self, stop: Callable[[], bool]) -> None:
        watched: Holder | None = None
        own_expiry = self._record.expiry
        deadline = 0.0
        held = time.monotonic()
        while True:
            now = time.monotonic()
            holder = find_holder(self.run)
            if holder is None:
                if self._enter():
                    return
                if now - held > own_expiry:
                    # Nobody holds it, and yet something hidden keeps the folder from being ours.
                    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
            elif self._may_take_at_once(holder):
                self._remove(holder.path)
                continue
            elif watched is None:
                watched = holder
                seconds = holder.record.expiry if holder.record else own_expiry
                deadline = time.monotonic() + seconds
                print(
                    f"run {self.run.id} is held by {holder.who}; waiting up to {seconds:g} s for "
                    "it to show a sign of life",
                    flush=True,
                )
            elif (holder.path, holder.content) != (watched.path, watched.content):
                raise self._refusal(holder)
            elif now >= deadline:
                print(f"run {self.run.id}: no sign of life, taken over", flush=True)
                self._remove(holder.path)
                continue
            if holder is not None:
                held = now
            if stop():
                raise StoppedEarly(f"stopped while waiting for run {self.run.id}: nothing changed")
            time.sleep(min(0.5, own_expiry / 20))

    def _may_take_at_once(self, holder: Holder) -> bool:
        """Raises InputError where a living process of this machine holds it."""
        if holder.record is None:
            return False
        process = holder.record.process
        if process == "living":
            raise self._refusal(holder)
        job_id = self._record.job_id
        return process != "unseen" or (job_id is not None and holder.record.job_id == job_id)

    def _refusal(self, holder: Holder) -> InputError:
        job = holder.record.job_id if holder.record else None
        return InputError(
            f"run '{self.run.id}' is being trained by {holder.who}: wait for it, stop it "
            f"({f'scancel {job}' if job else 'Ctrl-C there'}), or name another run by --run-id"
        )

    def _enter(self) -> bool:
        """Rename a folder with our file in it onto the lease; False: somebody else was faster."""
        folder = self.run.path / f".lease.{self._record.token}"
        try:
            folder.mkdir(exist_ok=True)
        except FileNotFoundError:
            raise InputError(f"{self.run.path}: no such run directory") from None
        try:
            _overwrite(folder / self._file.name, self._content(), os.O_CREAT)
            os.rename(folder, self.run.lease)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
        finally:
            _discard(folder)
        # Not the rename's own word: over a network it may have been repeated, and failed then.
        if not self._is_mine():
            return False
        self._renewed = time.monotonic()
        for left_over in self.run.path.glob(".lease.*"):
            _discard(left_over)
        return True

    def _is_mine(self) -> bool:
        # Opened, not only looked up: that is what asks the server of a network file system.
        try:
            os.close(os.open(self._file, os.O_RDONLY))
        except OSError as error:
            if error.errno not in GONE:
                raise
            return False
        return True

    def _remove(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            path.unlink()
        with suppress(OSError):
            self.run.lease.rmdir()

    def _keep_renewing(self) -> None:
        while True:
            self._wake.wait(self._record.expiry / RENEWALS_PER_EXPIRY)
            self._wake.clear()
            if not self._renew():
                return

    def _renew(self) -> bool:
        """Overwrite the file; False where there is nothing more to renew."""
        if os.getpid() != self._record.pid:
            return False
        with self._writing:
            if self._released.is_set():
                return False
            values = self._values
            self._record = self._record.model_copy(
                update={
                    "renewals": self._record.renewals + 1,
                    "renewed": utc_now(),
                    "heartbeat": values,
                }
            )
            now = time.monotonic()
            try:
                _overwrite(self._file, self._content())
            except OSError as error:
                if error.errno in GONE:
                    return False
                if not self._complained:
                    log.warning("%s cannot be renewed (%s): still trying", self._file, error)
                self._complained = True
                return True
            self._renewed = now
            if values:
                self._beaten = now
            return True

    def _content(self) -> bytes:
        data = self._record.model_dump_json().encode()
        self._length = max(self._length, -(-len(data) // BLOCK) * BLOCK)
        return data.ljust(self._length - 1) + b"\n"


def _overwrite(path: Path, content: bytes, flags: int = 0) -> None:
    file = os.open(path, os.O_WRONLY | flags, 0o666)
    try:
        if os.pwrite(file, content, 0) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(file)


def _discard(folder: Path) -> None:
    """Remove a folder of files by their names alone: one that is renamed meanwhile is spared."""
    with suppress(OSError):
        for name in os.listdir(folder):
            (folder / name).unlink()
        folder.rmdir()
