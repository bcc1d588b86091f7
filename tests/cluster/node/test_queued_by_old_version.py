"""Jobs queued by version 0.1, whose pickles name modules of the old layout, still start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission
from submitted_run import submitted
from tiny import Tiny

from phase2hpc.data.store.info import read_info
from phase2hpc.utils.shard_folder import ShardFolder

TASK, SHARD_TASK = "phase2hpc.cluster.task", "phase2hpc.cluster.shard_task"
OPTIONS: dict[str, Any] = {"graph": {}, "split": None, "seed": 0, "float64": False}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``start(module, name, *arguments)`` writes the pickle of a call as the old version did, by
    reference to its old module and name, and starts it as the old batch script did."""
    folder = tmp_path / "job"
    folder.mkdir()

    def run(module: str, name: str, *arguments: object) -> None:
        # Imported, or the function would be pickled by value.
        function = getattr(import_module(module), name)
        pickle = folder / "local-ab_submitted.pkl"
        with monkeypatch.context() as patch:
            for attribute, value in (
                ("__module__", module), ("__name__", name), ("__qualname__", name)
            ):  # fmt: skip
                patch.setattr(function, attribute, value)
            DelayedSubmission(function, *arguments).dump(pickle)
        written = pickle.read_bytes()
        assert module.encode() in written and name.encode() in written
        assert b"cluster.node" not in written
        variables = {
            "SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "local-ab",
            "SUBMITIT_LOCAL_NTASKS": "1", "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0", "SUBMITIT_LOCAL_GLOBALID": "0",
            "SUBMITIT_LOCAL_LOCALID": "0", "PHASE2HPC_RESTARTS": "0", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        ended = subprocess.run(
            [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)],
            capture_output=True, text=True, timeout=300, env=os.environ | variables,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr

    return run


def test_a_training_job(start: Callable[..., None], tiny: Tiny, tmp_path: Path) -> None:
    run = submitted(tmp_path / "models", tiny.store, epochs=1)
    start(TASK, "train", str(run.path), 1.0, 120)
    assert run.read_manifest().state == "finished" and run.best.exists()


def test_the_job_that_prepares_a_store(
    start: Callable[..., None], tiny: Tiny, tmp_path: Path
) -> None:
    start(TASK, "prepare", str(tmp_path / "s.h5"), [str(tiny.source)])
    assert read_info(tmp_path / "s.h5").content_hash == read_info(tiny.store).content_hash


def test_shards_and_the_job_that_merges_them(
    start: Callable[..., None], tiny: Tiny, tmp_path: Path
) -> None:
    sources, store = [str(tiny.source)], tmp_path / "s.h5"
    folder = ShardFolder.beside(store, 2, {"sources": sources})
    shared = (str(tmp_path), str(folder.path), 2)
    for shard in range(2):
        start(SHARD_TASK, "prepare_shard", *shared, shard, sources, OPTIONS, 1)
    start(SHARD_TASK, "merge_prepared", *shared, sources, str(store), OPTIONS, False)
    assert read_info(store).content_hash == read_info(tiny.store).content_hash
