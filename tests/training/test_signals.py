"""Signals during start-up, twice, and during a save."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from same_run import assert_same_run, disturb

from phase2hpc.checkpointing.file_format import read_step
from phase2hpc.checkpointing.manager import load_newest
from phase2hpc.errors import StoppedEarly
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.stop_request import SIGNALS

RUN = Path("multitask_cgcnn_lite") / "run_one"


@pytest.fixture
def undisturbed(trained) -> RunDirectory:
    return trained["cgcnn"]


def during_a_sync(monkeypatch, run: RunDirectory, act, number: int) -> None:
    """Do ``act`` inside this process's flush to disk ``number`` after the save of step 2."""
    original, calls = os.fsync, []

    def fsync(descriptor):
        original(descriptor)
        if run.checkpoint.exists() and read_step(run.checkpoint) >= 2:
            calls.append(descriptor)
            if len(calls) == number:
                act()

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("sync", [1, 6, 8])
@pytest.mark.parametrize("name", [number.name for number in SIGNALS])
def test_during_a_save(name, sync, train_tiny, undisturbed, tmp_path, monkeypatch) -> None:
    """Whatever file is being written: the save ends, then the run stops."""
    with monkeypatch.context() as patch:
        during_a_sync(
            patch,
            RunDirectory(tmp_path / RUN),
            lambda: signal.raise_signal(signal.Signals[name]),
            sync,
        )
        with pytest.raises(StoppedEarly, match=f"{name}: state saved at step"):
            train_tiny(tmp_path, properties="all9", checkpoint_steps=2)
    disturb()
    run = train_tiny(tmp_path, properties=None, resume=True)
    assert_same_run(run, undisturbed)


@pytest.mark.parametrize("sync", range(1, 10))
def test_a_second_interrupt_leaves_at_once_with_the_state_intact(
    sync, train_tiny, undisturbed, tmp_path, monkeypatch
) -> None:
    """In the middle of a save too: what was there before is what it goes on from."""

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        during_a_sync(patch, RunDirectory(tmp_path / RUN), twice, sync)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path, properties="all9", checkpoint_steps=2)
    run = RunDirectory(tmp_path / RUN)
    assert load_newest(run) is not None and run.damaged_checkpoints() == []
    assert run.read_manifest().state == "stopped"
    disturb()
    train_tiny(tmp_path, properties=None, resume=True)
    assert_same_run(run, undisturbed)
    assert not list(run.path.glob(".*.partial"))


def test_twice_only_stops_once(train_tiny, undisturbed, tmp_path, monkeypatch) -> None:
    """A scheduler that asks again while the state is being saved."""

    def again() -> None:
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2):
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        during_a_sync(patch, RunDirectory(tmp_path / RUN), again, 5)
        with pytest.raises(StoppedEarly):
            train_tiny(tmp_path, properties="all9", checkpoint_steps=2)
    run = train_tiny(tmp_path, properties=None, resume=True)
    assert_same_run(run, undisturbed)


# ---- in the first second ---------------------------------------------------------------------


def catches(process: subprocess.Popen, number: signal.Signals) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("name", [number.name for number in SIGNALS])
def test_as_soon_as_it_is_started(name, train_tiny, tiny, tmp_path) -> None:
    """Seconds before torch is there: one step, saved, exit 75, and it can be resumed."""
    number = signal.Signals[name]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "phase2hpc.__main__", "train", "--algorithm", "cgcnn", "--level",
            "lite", "--store", tiny.store, "--models-dir", tmp_path, "--run-id", "one",
            "--epochs", "2", "--max-samples", "20",
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        # Python itself catches SIGINT from its first moment on.
        while not catches(process, signal.SIGTERM):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 75, err
    assert err.splitlines()[-1] == f"phase2hpc: {name}: state saved at step 1 of 2"
    run = RunDirectory(tmp_path / RUN)
    assert run.read_manifest().state == "stopped"
    train_tiny(tmp_path, properties=None, resume=True)
    assert run.read_manifest().state == "finished"
