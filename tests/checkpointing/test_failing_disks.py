"""Checkpoints on disks that are full or fail at any call."""

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import STEPS, best_of, clear, found_step, names, state_of

from phase2hpc.checkpointing.manager import load_best, save_best, save_checkpoint
from phase2hpc.errors import Phase2Error
from phase2hpc.runs.run_directory import RunDirectory


def test_full_disk_keeps_the_old_state(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(1), 1, keep=1)
    save_best(run, best_of(1))
    big = state_of(2, model={"w": torch.zeros(100_000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(Phase2Error, match=r"checkpoint\.pt: cannot be saved: .*--resume"):
            save_checkpoint(run, big, 2, keep=1)
        with pytest.raises(Phase2Error, match=r"best\.pt: cannot be saved"):
            save_best(run, best_of(2, weights=big["model"]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(run) == ["best.pt", "checkpoint.pt"]
    assert found_step(run) == 1
    assert load_best(run.best)["epoch"] == 1
    save_checkpoint(run, state_of(2), 2, keep=1)
    assert found_step(run) == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_an_error_at_any_call_leaves_a_state(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    for name in STEPS:
        for failing in range(1, 100):
            clear(run)
            save_checkpoint(run, state_of(1), 1, keep=2)
            save_checkpoint(run, state_of(2), 2, keep=2)
            calls = 0
            real = getattr(os, name)

            def fail(*given: Any, real: Any = real, failing: int = failing, **named: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == failing:
                    raise OSError(code, os.strerror(code))
                return real(*given, **named)

            saved = True
            with monkeypatch.context() as patch:
                patch.setattr(os, name, fail)
                try:
                    save_checkpoint(run, state_of(3), 3, keep=2)
                except Phase2Error as error:
                    saved = False
                    assert "cannot be" in str(error) and "\n" not in str(error)
            assert found_step(run) in ((3,) if saved else (2, 3)), (name, failing)
            # A file that could not be read is set aside, whole as it may be.
            assert code == errno.EIO or not run.damaged_checkpoints()
            save_checkpoint(run, state_of(4), 4, keep=2)
            assert found_step(run) == 4
            assert not [n for n in names(run) if n.endswith(".partial")]
            if calls < failing:
                break
        assert calls > 0, name


def test_what_reads_back_otherwise_is_not_taken(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(run, state_of(1), 1, keep=2)
    whole = run.checkpoint.stat().st_size
    real = os.pread
    for place in (0, whole // 2, whole - 1):

        def lie(file: int, size: int, offset: int, place: int = place) -> bytes:
            read = bytearray(real(file, size, offset))
            if offset <= place < offset + len(read):
                read[place - offset] ^= 1
            return bytes(read)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", lie)
            with pytest.raises(Phase2Error, match="cannot be saved: the content read back differs"):
                save_checkpoint(run, state_of(2), 2, keep=2)
        assert names(run) == ["checkpoint.pt"]
        assert found_step(run) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=16", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_file_system(small_disk: Path) -> None:
    run = RunDirectory(small_disk / "run")
    save_checkpoint(run, state_of(1), 1, keep=2)
    save_best(run, best_of(1))
    ballast = small_disk / "ballast"
    for room in (0, 4096, 8192):  # nothing fits; the first part; all but the last
        space = os.statvfs(small_disk)
        ballast.write_bytes(bytes(max(space.f_bavail * space.f_bsize - room, 0)))
        with pytest.raises(Phase2Error, match=r"no space left on device.*go on with --resume"):
            save_checkpoint(run, state_of(2, more=torch.zeros(9000)), 2, keep=2)
        with pytest.raises(Phase2Error, match="no space left"):
            save_best(run, best_of(2, weights={"w": torch.zeros(9000)}))
        assert names(run) == ["best.pt", "checkpoint.pt"]
        assert found_step(run) == 1 and load_best(run.best)["epoch"] == 1
        ballast.unlink()
    save_checkpoint(run, state_of(2), 2, keep=2)
    assert found_step(run) == 2
    # Without a free inode not even the temporary file can be made.
    free = os.statvfs(small_disk).f_favail
    for number in range(free):
        (small_disk / str(number)).touch()
    with pytest.raises(Phase2Error, match="no space left"):
        save_checkpoint(run, state_of(3), 3, keep=2)
    assert found_step(run) == 2
    (small_disk / "0").unlink()
    # Room for the new file, none for a link to the old one: it is renamed instead.
    save_checkpoint(run, state_of(3), 3, keep=2)
    assert found_step(run) == 3
