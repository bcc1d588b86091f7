"""``--shards`` on a real Slurm: an array, and a last job that makes one result of its parts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import Tiny
from virtual_cluster import VirtualCluster

from phase2hpc.data.prepare import prepare_store
from phase2hpc.data.store.info import read_info
from phase2hpc.inference.prediction_table import write_predictions
from phase2hpc.inference.predictor import load_predictor


@pytest.fixture
def site(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text(tiny.source.read_text())
    Path("site.yaml").write_text(
        "partition: main\ncpus: 1\nmemory_gb: 1\nenvironment: {OMP_NUM_THREADS: '1'}\n"
        "setup: ['if [ \"$SLURM_ARRAY_TASK_ID\" = 1 ] && mkdir died; then exit 9; fi']\n"
    )
    return tmp_path


def phase2hpc(cluster: VirtualCluster, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "phase2hpc.cli.main", *map(str, words)], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, env=cluster.environment | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def jobs(said: str) -> tuple[str, str]:
    """Ids of the array and of the last job."""
    found = re.search(r"--jobs=(\d+),(\d+)", said)
    assert found, said
    return found[1], found[2]


def test_prepare_with_a_shard_that_fails(slurm: VirtualCluster, site: Path) -> None:
    words = ("prepare", "in.jsonl", "--store", "s.h5", "--shards", 3, "--profile", "site.yaml")
    array, last = jobs(phase2hpc(slurm, *words))
    slurm.wait_for(last, "FAILED", timeout=200)
    assert slurm.state(f"{array}_1") == "FAILED" and slurm.state(f"{array}_0") == "COMPLETED"
    log = Path(f"s.h5.jobs/{last}_0_log.err").read_text()
    assert "phase2hpc: 1 of 3 shards are missing (1)" in log and "Traceback" not in log
    assert not Path("s.h5").exists()

    said = phase2hpc(slurm, *words)
    array, last = jobs(said)
    assert "2 of 3 shards exist already" in said and f"{array}_0: shard 1" in said
    slurm.wait_for(last, "COMPLETED", timeout=200)
    alone = prepare_store(["in.jsonl"], "alone.h5", workers=1)
    made = read_info("s.h5")
    assert made.content_hash == alone.content_hash
    assert made.preparation == read_info("alone.h5").preparation
    assert "in 150   kept 150" in Path(f"s.h5.jobs/{last}_0_log.out").read_text()
    assert not Path("s.h5.shards").exists()
    assert "exists already" in phase2hpc(slurm, *words)


def test_predict(slurm: VirtualCluster, site: Path, trained: dict[str, Any]) -> None:
    Path("died").mkdir()
    run = trained["cgcnn"]
    said = phase2hpc(
        slurm, "predict", "in.jsonl", "--run", run.path, "--output", "p.csv", "--device", "cpu",
        "--shards", 2, "--profile", "site.yaml",
    )  # fmt: skip
    _, last = jobs(said)
    slurm.wait_for(last, "COMPLETED", timeout=200)
    predictor = load_predictor([run], "cpu", 1)
    rows = predictor.predict_all(["in.jsonl"], id_prop=True)
    write_predictions(Path("alone.csv"), rows, predictor.properties)
    assert Path("p.csv").read_bytes() == Path("alone.csv").read_bytes()
    assert "150 structures: 150 ok" in Path(f"p.csv.jobs/{last}_0_log.out").read_text()
