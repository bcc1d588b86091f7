"""Data-parallel training that Open MPI's mpiexec starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.runs.run_directory import RunDirectory

pytestmark = pytest.mark.slow
PHASE2HPC = Path(sys.executable).with_name("phase2hpc")


def _missing() -> str:
    mpiexec = shutil.which("mpiexec")
    if mpiexec is None:
        return "no mpiexec here: tests/slurm/install.sh installs Open MPI"
    said = subprocess.run([mpiexec, "--version"], capture_output=True, text=True).stdout
    return "" if "Open" in said else "mpiexec is not Open MPI's"


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if reason := _missing():
        pytest.skip(reason)


def train(models: Path, store: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine; the manual's way to run it as root and on few cores."""
    mpiexec = ["mpiexec", "--oversubscribe", "--bind-to", "none", "-n", "2"]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.run(
        [*mpiexec, PHASE2HPC, "train", "--algorithm", "cgcnn", "--level", "lite", "--device", "cpu",
         "--models-dir", models, "--store", store, *words],
        capture_output=True, text=True, timeout=300,
        env=os.environ | allowed | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_two_processes_train_one_run(tiny: Any, tmp_path: Path) -> None:
    """They stop together with 75, which mpiexec passes on, and go on together."""
    small = ("--epochs", "2", "--max-samples", "32", "--batch-size", "8", "--set", "hidden=16")
    done = train(tmp_path, tiny.store, "--run-id", "mpi", *small, "--max-hours", "1e-6")
    assert done.returncode == 75, done.stderr
    # mpiexec itself reports the code, after the one line of the run.
    (line,) = re.findall(r"^phase2hpc: .*", done.stderr, re.M)
    assert "state saved at step" in line
    run = RunDirectory(tmp_path / "multitask_cgcnn_lite" / "run_mpi")
    assert (run.read_manifest().processes, run.read_manifest().state) == (2, "stopped")
    done = train(tmp_path, tiny.store, "--resume", "--run-id", "mpi", "--max-hours", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results: ") == 1
    manifest = run.read_manifest()
    assert (manifest.processes, manifest.state, manifest.epoch) == (2, "finished", 2)
    assert len(list(tmp_path.glob("*/run_*"))) == 1
