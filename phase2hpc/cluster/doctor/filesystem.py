"""Checks of a folder's file system: rename, exclusive creation, locks, flush, space, clock."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from phase2hpc.cluster.doctor.check import Check, fail, ok, warn
from phase2hpc.utils.command import output_of
from phase2hpc.utils.mounts import file_system, nearest_folder

# Clock skew: a running run may look interrupted.
MAX_SKEW_SECONDS, _MAX_SKEW_FAIL_SECONDS = 2.0, 30.0
# A run at level max keeps about a quarter of a GiB; a store of all of JARVIS-DFT about two.
_FREE_WARN, _FREE_FAIL = 10.0, 1.0
_SLOW_SYNC_SECONDS = 1.0
_TRY_SECONDS = 30.0
_SHARED = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "panfs", "weka", "glusterfs", "cifs", "9p",
           "afs", "orangefs", "daos", "vast", "fuse.")  # fmt: skip
_TRY_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "r+")
try:
    getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("held")
else:
    print("free")
"""


def folder_checks(folder: Path) -> list[Check]:
    """All checks, in a temporary folder inside ``folder`` or its nearest existing parent."""
    place = nearest_folder(folder)
    try:
        trial = tempfile.TemporaryDirectory(prefix=".phase2hpc-doctor-", dir=place)
    except OSError as error:
        advice = "choose a writable folder with --models-dir, or free space"
        return [fail("folder", f"{place}: cannot be written ({error.strerror})", advice)]
    where = f"{folder}" if place == folder.expanduser().resolve() else f"{place}, for {folder}"
    with trial as path:
        inside = Path(path)
        checks = [_file_system_type(place, where)]
        for name, check in _CHECKS.items():
            try:
                checks.append(check(inside))
            except OSError as error:
                checks.append(
                    fail(name, f"fails: {error.strerror or error}", "choose another file system")
                )
    return checks


def _file_system_type(place: Path, where: str) -> Check:
    kind = file_system(place) or "unknown"
    if kind.startswith(_SHARED):
        return ok("folder", f"{where}: {kind}, a shared file system")
    advice = "batch jobs need a folder that every node sees: ask your site"
    return warn("folder", f"{where}: {kind}, perhaps local to this machine", advice)


def _rename(folder: Path) -> Check:
    old, new = folder / "rename", folder / "rename.new"
    old.write_text("old")
    new.write_text("new")
    with open(old) as reader:
        os.replace(new, old)
        whole = reader.read() == "old" and old.read_text() == "new" and not new.exists()
    if whole:
        return ok("atomic rename", "a reader sees the old file or the new")
    return fail("atomic rename", "a reader saw neither", "choose another file system for runs")


def _link(folder: Path) -> Check:
    first, second = folder / "link", folder / "link.second"
    first.write_text("first")
    (folder / "taken").mkdir()
    try:
        (folder / "taken").mkdir()
    except FileExistsError:
        pass
    else:
        return fail(
            "exclusive names", "a folder could be created twice", "choose another file system"
        )
    try:
        os.link(first, second)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        return warn(
            "exclusive names",
            f"no hard links ({error.strerror})",
            "older checkpoints are then renamed instead: nothing to do",
        )
    try:
        os.link(first, second)
    except FileExistsError:
        return ok("exclusive names", "folders and links are created exclusively")
    return fail("exclusive names", "a link replaced a file", "choose another file system")


def _locks(folder: Path) -> Check:
    path = folder / "lock"
    path.touch()
    missing = []
    for kind in ("flock", "lockf"):
        with open(path, "r+") as file:
            try:
                getattr(fcntl, kind)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                missing.append(f"{kind}: {error.strerror}")
                continue
            program = [sys.executable, "-I", "-S", "-c", _TRY_LOCK, str(path), kind]
            if output_of(program, _TRY_SECONDS) != "held":
                missing.append(f"{kind}: not seen by another process")
    if not missing:
        return ok("locks", "flock and fcntl, among processes of this machine")
    advice = "temporary files of killed writers are then kept for a day; mount it with locks"
    return warn("locks", "; ".join(missing), advice)


def _flush(folder: Path) -> Check:
    begun = time.monotonic()
    with open(folder / "flush", "wb") as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
    took = time.monotonic() - begun
    found = f"1 MiB and its folder in {1000 * took:.0f} ms"
    if took < _SLOW_SYNC_SECONDS:
        return ok("flush to disk", found)
    return warn("flush to disk", found, "slow: save less often with --checkpoint-minutes")


def _room(folder: Path) -> Check:
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize / 2**30
    found = f"{free:.1f} GiB free"
    if state.f_files and state.f_favail < 1000:
        return fail(
            "free space", f"{found}, but only {state.f_favail} more files", "remove small files"
        )
    if free < _FREE_FAIL:
        return fail(
            "free space", found, "free space (phase2hpc runs prune), or choose another folder"
        )
    if free < _FREE_WARN:
        return warn(
            "free space", found, "free space (phase2hpc runs prune); a quota may be lower still"
        )
    return ok("free space", f"{found} (a quota may be lower)")


def _clock(folder: Path) -> Check:
    path = folder / "clock"
    before = time.time()
    path.touch()
    after = time.time()
    written = path.stat().st_mtime
    # File times may be as coarse as the kernel's tick.
    skew = max(before - written, written - after, 0.0)
    found = f"file server and this machine differ by {skew:.1f} s"
    if skew > _MAX_SKEW_FAIL_SECONDS:
        return fail("clock", found, "have it set (NTP): heartbeats are judged by time")
    if skew > MAX_SKEW_SECONDS:
        return warn("clock", found, "have it set (NTP) before it grows")
    return ok("clock", found)


_CHECKS: dict[str, Callable[[Path], Check]] = {
    "atomic rename": _rename,
    "exclusive names": _link,
    "locks": _locks,
    "flush to disk": _flush,
    "free space": _room,
    "clock": _clock,
}
