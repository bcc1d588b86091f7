"""Files that are replaced whole or not at all."""

import errno
import os
import re
import resource
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.utils.atomic_io import PartialFile, clear_partials, write_atomically


def test_writes_text_and_bytes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "Å\n")
    assert path.read_bytes() == "Å\n".encode()
    write_atomically(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_full_disk_leaves_old_file_and_no_debris(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError):
            write_atomically(path, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_durable_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def record(name: str) -> None:
        real = getattr(os, name)

        def recorded(*args: Any) -> None:
            calls.append(name)
            real(*args)

        monkeypatch.setattr(os, name, recorded)

    record("fsync")
    record("replace")
    write_atomically(tmp_path / "a", "new")
    assert calls == ["fsync", "replace", "fsync"]


def test_read_back_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushed, then dropped from memory, then read."""
    calls: list[str] = []

    def record(name: str) -> None:
        real = getattr(os, name)

        def recorded(*given: Any) -> Any:
            calls.append(name)
            return real(*given)

        monkeypatch.setattr(os, name, recorded)

    for name in ("write", "fsync", "posix_fadvise", "pread"):
        record(name)
    write_atomically(tmp_path / "a", bytes(2_500_000))
    assert calls == ["write", "fsync", "posix_fadvise", "pread", "pread", "pread", "fsync"]


@pytest.mark.parametrize("wrong", [b"", b"ol", b"nEw", b"newer"])
def test_what_reads_back_otherwise_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: bytes
) -> None:
    path = tmp_path / "a"
    write_atomically(path, "old")
    real = os.fsync

    def spoil(file: int) -> None:
        real(file)
        os.ftruncate(file, 0)
        os.pwrite(file, wrong, 0)

    monkeypatch.setattr(os, "fsync", spoil)
    with pytest.raises(OSError, match="read back"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_written_in_parts_by_a_system_that_takes_little_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, pread = os.write, os.pread
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    monkeypatch.setattr(os, "pread", lambda file, size, offset: pread(file, min(size, 5), offset))
    write_atomically(tmp_path / "a", bytes(range(100)))
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


def test_a_folder_that_cannot_be_flushed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    failure = errno.EINVAL

    def refuse(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(failure, os.strerror(failure))
        real(file)

    monkeypatch.setattr(os, "fsync", refuse)
    write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    failure = errno.EIO
    with pytest.raises(OSError):
        write_atomically(tmp_path / "a", "newer")


def leave(folder: Path, target: str, host: str, hours: float = 0) -> Path:
    path = folder / f".{target}.{host}.0123456789ab.partial"
    path.write_bytes(b"half")
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))
    return path


def test_what_killed_writers_left_is_cleared(tmp_path: Path) -> None:
    here = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
    mine, mine_of_b = leave(tmp_path, "a.pt", here), leave(tmp_path, "b.json", here)
    elsewhere, old = leave(tmp_path, "a.pt", "other", 1), leave(tmp_path, "a.pt", "other2", 25)
    foreign = [tmp_path / name for name in (".a.pt.partial", "a.partial", ".a.pt.swp")]
    for path in foreign:
        path.touch()
    write_atomically(tmp_path / "a.pt", "whole")
    assert not mine.exists() and not old.exists()
    assert mine_of_b.exists() and elsewhere.exists()
    clear_partials(tmp_path)
    left = {"a.pt", elsewhere.name, *(path.name for path in foreign)}
    assert set(os.listdir(tmp_path)) == left
    clear_partials(tmp_path / "absent")


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    partial = PartialFile(tmp_path / "a")
    os.utime(partial.path, (0, 0))
    clear_partials(tmp_path)
    other = PartialFile(tmp_path / "a")
    assert partial.path.exists() and other.path.exists()
    for each in (partial, other):
        each.write(b"whole")
        each.commit()
    assert os.listdir(tmp_path) == ["a"]


def test_names_of_partials_that_are_no_files_do_no_harm(tmp_path: Path) -> None:
    here = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
    (tmp_path / "precious").write_text("kept")
    places = [tmp_path / f".a.{here}.{n:012x}.partial" for n in range(3)]
    os.mkfifo(places[0])
    places[1].mkdir()
    places[2].symlink_to("precious")
    write_atomically(tmp_path / "a", "whole")
    assert (tmp_path / "precious").read_text() == "kept"
    assert (tmp_path / "a").read_text() == "whole"


def test_imports_no_torch() -> None:
    code = (
        "import sys, phase2hpc.utils.atomic_io, phase2hpc.runs.run_directory;"
        "import phase2hpc.runs.registry;"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
