"""Lease of a run directory: at most one process trains a run, across hosts.

Depends on no lock server, file lock or clock of another host. The lease is a folder ``lease`` with
one file, named after its holder's random token. It is acquired by renaming a folder that already
contains the file onto ``lease``: a file system allows that only if the target is missing or empty,
so exactly one contender wins. It is broken by removing that file, whose name no later holder
shares, so only the lease that was judged expired can be removed. It is renewed by overwriting the
file in place, never by creating it, so a suspended holder cannot restore a lease that it lost.
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
    HeartbeatValue,
    Holder,
    LeaseRecord,
    expiry_seconds,
    find_holder,
    read_lease,
)
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.time_format import utc_now

log = logging.getLogger(__name__)

RENEWALS_PER_EXPIRY = 6
# A heartbeat older than this is replaced at once, a newer one at the next renewal.
SECONDS_PER_BEAT = 5.0
# The file keeps its length, so that a renewal needs no space on a full disk.
BLOCK = 2048
# Errors of a rename onto the lease when another process was faster.
TAKEN = GONE | {errno.ENOTEMPTY, errno.EEXIST}

HEARTBEAT = TypeAdapter(dict[str, HeartbeatValue])


class LeaseLost(Phase2Error):
    """Another process holds the run directory: nothing more may be written into it."""


class Lease:
    """Ownership of a run directory from ``acquire`` to ``release``; a context manager.

    A daemon thread renews it. A forked child neither renews nor releases its parent's lease.
    """

    def __init__(
        self,
        run: RunDirectory,
        job_id: str | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.run = run
        self._clock, self._sleep = clock, sleep
        self._record = LeaseRecord.of_this_process(secrets.token_hex(8), job_id, expiry_seconds())
        self._file = run.lease / f"{self._record.token}.json"
        self._values: dict[str, HeartbeatValue] = {}
        self._renewed = clock()
        self._beaten: float | None = None
        self._length = 0
        self._complained = False
        self._writing = threading.Lock()
        self._wake, self._released = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    @classmethod
    def acquire(
        cls,
        run: RunDirectory,
        job_id: str | None = None,
        *,
        stop: Callable[[], bool] = bool,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Lease:
        """Acquire the run, waiting where only its heartbeat shows whether the holder is alive.

        A dead process of this machine, this process itself and an earlier start of the same job
        lose it at once. A living process of this machine keeps it. Any other holder, and a
        damaged lease, is watched: it keeps the run if it renews, and loses it after its whole
        expiry without a renewal. stop: polled while waiting. clock, sleep: the passing of time,
        in seconds; the thread renews by real time.

        Raises InputError naming the holder, StoppedEarly when ``stop`` returns true, and
        Phase2Error where the folder cannot be written.
        """
        lease = cls(run, job_id, clock, sleep)
        try:
            lease._take(stop)
        except OSError as error:
            raise Phase2Error(
                f"{run.lease}: cannot be acquired ({error.strerror}): free space, or get write "
                "permission; if no process trains this run, remove it by hand"
            ) from error
        lease._thread.start()
        return lease

    def check(self) -> None:
        """Verify ownership; called just before the run directory is written.

        Raises LeaseLost naming the present holder. A lease removed by hand counts as lost: it
        cannot be told from one taken over by a process that has finished since.
        """
        # Late, as after a suspension: shows a contender that this process is alive.
        if self._clock() - self._renewed > self._record.expiry / 2:
            self._renew()
        try:
            mine = self._is_mine()
        except OSError as error:
            raise Phase2Error(
                f"{self._file}: cannot be read ({error.strerror}); nothing more is written: "
                "continue with --resume once the file system answers"
            ) from error
        if not mine:
            holder = read_lease(self.run)
            by = f"is now trained by {holder.owner}" if holder else "has lost its lease"
            raise LeaseLost(
                f"run '{self.run.id}' {by}: this process stops without writing more "
                "(its lease was not renewed in time, or removed); continue with --resume"
            )

    def beat(self, **values: HeartbeatValue) -> None:
        """Set the heartbeat; never waits for the file system."""
        self._values = HEARTBEAT.validate_python({**self._values, **values})
        if self._beaten is None or self._clock() - self._beaten > SECONDS_PER_BEAT:
            self._wake.set()

    def release(self) -> None:
        """Release the run directory unless another process holds it; idempotent."""
        if self._released.is_set() or os.getpid() != self._record.pid:
            return
        self._released.set()
        self._wake.set()
        # A thread that hangs in the file system may stay: it will find the file removed.
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
        held = self._clock()
        while True:
            now = self._clock()
            holder = find_holder(self.run)
            if holder is None:
                if self._enter():
                    return
                if now - held > own_expiry:
                    # No holder, and yet something hidden in the folder blocks the rename.
                    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
            elif self._may_take_at_once(holder):
                self._remove(holder.path)
                continue
            elif watched is None:
                watched = holder
                seconds = holder.record.expiry if holder.record else own_expiry
                deadline = self._clock() + seconds
                print(
                    f"run {self.run.id} is held by {holder.owner}; waiting up to {seconds:g} s for "
                    "its heartbeat",
                    flush=True,
                )
            elif (holder.path, holder.content) != (watched.path, watched.content):
                raise self._refusal(holder)
            elif now >= deadline:
                print(f"run {self.run.id}: no heartbeat, taken over", flush=True)
                self._remove(holder.path)
                continue
            if holder is not None:
                held = now
            if stop():
                raise StoppedEarly(f"stopped while waiting for run {self.run.id}: nothing changed")
            self._sleep(min(0.5, own_expiry / 20))

    def _may_take_at_once(self, holder: Holder) -> bool:
        """Raises InputError if a living process of this machine holds it."""
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
            f"run '{self.run.id}' is being trained by {holder.owner}: wait for it, stop it "
            f"({f'scancel {job}' if job else 'Ctrl-C there'}), or name another run by --run-id"
        )

    def _enter(self) -> bool:
        """Rename a folder with this process's file onto the lease; False if another was faster."""
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
        # The rename's own result is not reliable: NFS may repeat it, and the repeat fails.
        if not self._is_mine():
            return False
        self._renewed = self._clock()
        for left_over in self.run.path.glob(".lease.*"):
            _discard(left_over)
        return True

    def _is_mine(self) -> bool:
        # open, not stat: it revalidates with the server of a network file system.
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
        """Overwrite the file; False if there is nothing left to renew."""
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
            now = self._clock()
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
    """Remove a flat folder by its files' names, so that one renamed meanwhile is kept."""
    with suppress(OSError):
        for name in os.listdir(folder):
            (folder / name).unlink()
        folder.rmdir()
