"""``submit --container`` on a real Slurm, from a login node that has the base install alone."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_engine import ROOT
from same_run import assert_same_run
from virtual_cluster import VirtualCluster, missing

from phase2hpc.runs.run_directory import RunDirectory, family_folder

SLOWLY = ROOT / "tests" / "slurm" / "slowly"
PROFILE = f"""
partition: main
gpus: 0
cpus: 1
memory_gb: 2
environment:
  PYTHONPATH: {SLOWLY}
  OMP_NUM_THREADS: "1"
  STEP_SECONDS: "{{seconds}}"
container:
  image: none
  options: [--userns]
  binds: [{SLOWLY}]
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[VirtualCluster]:
    if reason := missing():
        pytest.skip(reason)
    cluster = VirtualCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def login_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``phase2hpc`` of an environment with the base install."""
    folder = tmp_path_factory.mktemp("login") / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", ROOT], check=True
    )
    found = subprocess.run([python, "-c", "import torch"], capture_output=True)
    assert found.returncode != 0
    return folder / "bin" / "phase2hpc"


def test_two_nodes_and_a_requeue(
    cluster: VirtualCluster, login_node: Path, sif: Path, tiny, tmp_path: Path
) -> None:
    """Two runs of two nodes; the one that is requeued ends as the other, bit by bit."""
    digest = f"sha256:{hashlib.sha256(sif.read_bytes()).hexdigest()}"
    jobs: dict[str, str] = {}
    for name, seconds in (("requeued", 0.5), ("undisturbed", 0)):
        profile = tmp_path / f"{name}.yaml"
        profile.write_text(PROFILE.format(seconds=seconds))
        done = subprocess.run(
            [login_node, "submit", "--algorithm", "e3nn", "--level", "lite", "--epochs", "4",
             "--max-samples", "40", "--threads", "1", "--store", tiny.store,
             "--models-dir", tmp_path / "models", "--run-id", name, "--nodes", "2",
             "--profile", profile, "--container", sif],
            env=cluster.environment, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (jobs[name],) = re.findall(r"^job (\d+) ", done.stdout, re.M)
    folder = tmp_path / "models" / family_folder("e3nn", "lite")
    runs = {name: RunDirectory(folder / f"run_{name}") for name in jobs}
    history = runs["requeued"].history
    cluster.wait_until(
        lambda: history.exists() and len(json.loads(history.read_text())) >= 1,
        "an epoch is done", 300, jobs["requeued"],
    )  # fmt: skip
    cluster.requeue(jobs["requeued"])
    cluster.wait_for(jobs["requeued"], "COMPLETED", timeout=300, restarts=1)
    cluster.wait_for(jobs["undisturbed"], "COMPLETED", timeout=300, restarts=0)
    for name, run in runs.items():
        manifest = run.read_manifest()
        assert manifest.state == "finished" and manifest.processes == 2
        assert manifest.job_ids == [jobs[name]]
        assert manifest.image is not None and manifest.image.digest == digest
        assert manifest.image.packages
    assert_same_run(runs["requeued"], runs["undisturbed"])
