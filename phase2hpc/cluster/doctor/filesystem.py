"""Whether a folder keeps the promises that runs rely on: whole files, exclusive names, locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from phase2hpc.cluster.doctor.check import Check, fail, ok, warn
from phase2hpc.utils.mounts import file_system, nearest_folder

# Of two clocks: files seem to come from the future, and a run may be taken for dead.
MAX_SKEW_SECONDS, _SKEW_FAIL = 2.0, 30.0
# A run at level max keeps about a quarter of a GiB; a store of all of JARVIS-DFT about two.
_FREE_WARN, _FREE_FAIL = 10.0, 1.0
_SLOW_SYNC_SECONDS = 1.0
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
    """Atomic rename, exclusive link, locks, flush, room, clock, and whether nodes may see it.

    Tried in a temporary folder, which is removed: in ``folder``, or where that is not there yet
    in the nearest folder above it.
    """
    place = nearest_folder(folder)
    try:
        trial = tempfile.TemporaryDirectory(prefix=".phase2hpc-doctor-", dir=place)
    except OSError as error:
        advice = "choose a folder that you may write by --models-dir, or make room"
        return [fail("folder", f"{place}: cannot be written ({error.strerror})", advice)]
    where = f"{folder}" if place == folder.expanduser().resolve() else f"{place}, for {folder}"
    with trial as path:
        inside = Path(path)
        checks = [_kind(place, where)]
        for name, check in _TRIALS.items():
            try:
                checks.append(check(inside))
            except OSError as error:
                checks.append(
                    fail(name, f"fails: {error.strerror or error}", "choose another file system")
                )
    return checks


def _kind(place: Path, where: str) -> Check:
    kind = file_system(place) or "unknown"
    if kind.startswith(_SHARED):
        return ok("folder", f"{where}: {kind}, a shared file system")
    advice = "batch jobs need a folder that every node sees: ask where your site has one"
    return warn("folder", f"{where}: {kind}, perhaps of this machine only", advice)


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
        return fail("exclusive names", "a folder could be made twice", "choose another file system")
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
        return ok("exclusive names", "folders and links are made once")
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
            answer = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _TRY_LOCK, str(path), kind],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            if answer.stdout.strip() != "held":
                missing.append(f"{kind}: not honoured by another process")
    if not missing:
        return ok("locks", "flock and fcntl, between processes of this machine")
    advice = "leftovers of killed writers are then cleared after a day only; mount it with locks"
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
    return warn("flush to disk", found, "slow: save more seldom by --checkpoint-minutes")


def _room(folder: Path) -> Check:
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize / 2**30
    found = f"{free:.1f} GiB free"
    if state.f_files and state.f_favail < 1000:
        return fail("room", f"{found}, but only {state.f_favail} more files", "remove small files")
    if free < _FREE_FAIL:
        return fail("room", found, "make room (phase2hpc runs prune), or choose another folder")
    if free < _FREE_WARN:
        return warn("room", found, "make room (phase2hpc runs prune); a quota may be nearer still")
    return ok("room", f"{found} (a quota of yours may be nearer)")


def _clock(folder: Path) -> Check:
    path = folder / "clock"
    before = time.time()
    path.touch()
    after = time.time()
    written = path.stat().st_mtime
    # A file system's clock may be as coarse as its ticks.
    skew = max(before - written, written - after, 0.0)
    found = f"the file server's and this machine's are {skew:.1f} s apart"
    if skew > _SKEW_FAIL:
        return fail("clock", found, "have it set (NTP): runs are told living from dead by time")
    if skew > MAX_SKEW_SECONDS:
        return warn("clock", found, "have it set (NTP) before it grows")
    return ok("clock", found)


_TRIALS: dict[str, Callable[[Path], Check]] = {
    "atomic rename": _rename,
    "exclusive names": _link,
    "locks": _locks,
    "flush to disk": _flush,
    "room": _room,
    "clock": _clock,
}
