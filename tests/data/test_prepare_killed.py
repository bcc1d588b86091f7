"""A preparation that is killed leaves nothing that looks like a store, and can be done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import Tiny

from phase2hpc.data.prepare import prepare
from phase2hpc.data.store.merge import merge_stores
from phase2hpc.data.store.verify import verify_store

PROGRAM = (sys.executable, "-m", "phase2hpc.cli.main")


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_until(happened: Callable[[], object]) -> None:
    limit = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < limit, "it never came to it"
        time.sleep(0.002)


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit code and what it said, its workers' last words with it."""
    _, err = process.communicate(timeout=60)
    return process.returncode, err.decode()


@pytest.fixture
def source(tiny: Tiny, tmp_path: Path) -> Path:
    """Enough crystals to be caught in the middle of them, all but the first as duplicates."""
    path = tmp_path / "source.jsonl"
    path.write_text(tiny.source.read_text() * 10)
    return path


def test_killed_again_and_again(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    store = folder / "s.h5"
    arguments = ("prepare", source, "--store", store, "--workers", 2)
    for seconds in (0.0, 0.05):
        before = set(folder.glob("*")) | set(folder.glob(".*"))
        process = start(*arguments)
        wait_until(lambda known=before: {*folder.glob(".s.h5.*")} - known)
        time.sleep(seconds)
        process.kill()
        code, err = finish(process)
        if store.exists():
            break  # on a fast machine: what is there is whole, which is seen below
        assert (code, err) == (-signal.SIGKILL, "")
        # What other killed ones left is cleared away, so it never adds up.
        assert len(os.listdir(folder)) <= 2
        assert all(name.startswith(".") for name in os.listdir(folder) if "rejects" not in name)
    prepare([source], store, workers=2)
    assert sorted(os.listdir(folder)) == ["s.h5", "s.h5.rejects.csv"]
    assert verify_store(store).ok


def test_a_worker_is_killed(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    process = start("prepare", source, "--store", folder / "s.h5", "--workers", 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: process.poll() is not None or len(children.read_text().split()) == 2)
    # A worker that is only starting is killed, too: nothing of its making is there to be lost.
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    code, err = finish(process)
    assert code == 1 and err.count("\n") == 1 and "a worker process was ended by SIGKILL" in err
    assert os.listdir(folder) == []


def test_merge_is_killed(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    folder.mkdir()
    merge = ("store", "merge", tiny.store, tiny.store, "--store", folder / "m.h5")
    process = start(*merge)
    wait_until(lambda: os.listdir(folder))
    process.kill()
    finish(process)
    assert "m.h5" not in os.listdir(folder) or verify_store(folder / "m.h5").ok
    (folder / "m.h5").unlink(missing_ok=True)
    merge_stores([tiny.store, tiny.store], folder / "m.h5")
    assert os.listdir(folder) == ["m.h5"]
