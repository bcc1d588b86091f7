"""Files that are replaced whole or not at all."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.files import write_atomically


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


def test_imports_no_torch() -> None:
    code = (
        "import sys, phase2hpc.files, phase2hpc.runs, phase2hpc.registry;"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
