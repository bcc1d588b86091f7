"""An interrupted or killed preparation leaves nothing like a store behind, and can run again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from paused import PausedCommand, is_running
from tiny import Tiny

from phase2hpc.data.prepare import prepare_store
from phase2hpc.data.store.merge import merge_stores
from phase2hpc.data.store.verify import verify_store

# Called for every batch; before the store is closed; before it gets its name.
BATCH_DONE = "phase2hpc.utils.progress:Progress.advance"
BEFORE_CLOSING = "phase2hpc.data.store.writer:StoreWriter.finish"
BEFORE_RENAMING = "os:fsync"


@pytest.fixture
def source(tiny: Tiny, tmp_path: Path) -> Path:
    """A dozen batches of crystals, most of them duplicates."""
    path = tmp_path / "source.jsonl"
    path.write_text(tiny.source.read_text() * 10)
    return path


def assert_workers_end(workers: list[int]) -> None:
    limit = time.monotonic() + 300
    while any(map(is_running, workers)):
        assert time.monotonic() < limit, "workers outlive their parent"
        time.sleep(0.02)


def test_killed_repeatedly(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    store = folder / "s.h5"
    arguments = ("prepare", source, "--store", store, "--workers", 2)
    for function, call in ((BATCH_DONE, 1), (BATCH_DONE, 7), (BEFORE_CLOSING, 1),
                           (BEFORE_RENAMING, 1)):  # fmt: skip
        with PausedCommand(function, *arguments) as command:
            command.wait_for_call(call)
            assert any(name.startswith(".s.h5.") for name in os.listdir(folder))
            workers = command.workers()
            command.process.kill()
            assert command.finish() == (-signal.SIGKILL, "")
        assert_workers_end(workers)
        # Each start removes what killed ones left, so that it never adds up.
        assert len(os.listdir(folder)) <= 2
        assert all(name.startswith(".") for name in os.listdir(folder) if "rejects" not in name)
    prepare_store([source], store, workers=2)
    assert sorted(os.listdir(folder)) == ["s.h5", "s.h5.rejects.csv"]
    assert verify_store(store).ok


def test_interrupted(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    arguments = ("prepare", source, "--store", folder / "s.h5", "--workers", 2)
    with PausedCommand(BATCH_DONE, *arguments) as command:
        command.wait_for_call()
        workers = command.workers()
        assert len(workers) == 2
        # A terminal sends Ctrl-C to the whole process group.
        os.killpg(command.process.pid, signal.SIGINT)
        assert command.finish() == (130, "phase2hpc: interrupted\n")
    assert_workers_end(workers)
    assert os.listdir(folder) == []


def test_a_worker_is_killed(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    arguments = ("prepare", source, "--store", folder / "s.h5", "--workers", 2)
    with PausedCommand(BATCH_DONE, *arguments) as command:
        command.wait_for_call()
        os.kill(command.workers()[0], signal.SIGKILL)
        code, err = command.finish()
    assert code == 1 and err.count("\n") == 1 and "a worker process was ended by SIGKILL" in err
    assert os.listdir(folder) == []


@pytest.mark.parametrize("function", [BEFORE_CLOSING, BEFORE_RENAMING])
def test_merge_is_killed(tiny: Tiny, tmp_path: Path, function: str) -> None:
    folder = tmp_path / "stores"
    folder.mkdir()
    merge = ("store", "merge", tiny.store, tiny.store, "--store", folder / "m.h5")
    with PausedCommand(function, *merge) as command:
        command.wait_for_call()
        command.process.kill()
        command.finish()
    assert "m.h5" not in os.listdir(folder)
    merge_stores([tiny.store, tiny.store], folder / "m.h5")
    assert os.listdir(folder) == ["m.h5"]
