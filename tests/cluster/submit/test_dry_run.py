"""``submit --dry-run``: what it prints, what it needs, and no trace of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from plans import MakePlan

from phase2hpc.cluster.submit.local_executor import local_text
from phase2hpc.cluster.submit.submission import dry_run
from phase2hpc.errors import InputError

_BLOCKED = """
import sys
for name in ("torch", "numpy", "h5py", "torch_geometric", "e3nn", "pymatgen", "ase"):
    sys.modules[name] = None
from phase2hpc.cli.main import main
main()
"""


def test_dry_run_needs_neither_torch_nor_slurm_and_leaves_no_trace(site: Path) -> None:
    before = sorted(site.rglob("*"))
    ended = subprocess.run(
        [sys.executable, "-c", _BLOCKED, "submit", "--level", "smoke", "--profile", "cpu",
         "--store", "tiny.h5", "--properties", "band_gap,mass", "--lr", "0.002", "--dry-run",
         "--run-id", "mine", "--time", "01:00:00"],
        capture_output=True, text=True, timeout=60, cwd=site,
        env=os.environ | {"PATH": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    for words in ('"band_gap",\n    "mass"', '"lr": 0.002', "#SBATCH --time=60\n", "\nsrun "):
        assert words in ended.stdout
    assert "whether the store has a column 'mass'" in ended.stderr
    assert sorted(site.rglob("*")) == before


def test_dry_run_prints_what_would_be_submitted(plan: MakePlan) -> None:
    found = plan("cpu", train={"store": Path("fresh.h5")}, seeds="0-1", sources=("x.jsonl",))
    assert found.prepare is not None
    text = dry_run([found])
    assert found.prepare.text() in text
    assert found.script_after("ID_OF_THE_FIRST_JOB").text() in text
    assert "mine-s1 (seed=1)" in text
    assert local_text(plan("here").script) in dry_run([plan("here")])


def test_dry_run_of_an_image_that_is_not_there_yet(plan: MakePlan, site: Path) -> None:
    (site / "image.sif").unlink()
    with pytest.raises(InputError, match=r"container image image\.sif: no such file"):
        plan("container")
    text = dry_run([plan("container", dry_run=True)])
    assert f"# container image {site}/image.sif is not checked: no such file here yet" in text
    assert f"{site}/image.sif python3 -u -m submitit" in text
    # One that is there is checked.
    (site / "image.sif").write_text("nothing")
    with pytest.raises(InputError, match="not an image"):
        plan("container", dry_run=True)


def test_dry_run_shows_what_becomes_of_variables_for_sbatch(
    plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "passed to sbatch" not in dry_run([plan("gpu")])
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    monkeypatch.setenv("SBATCH_WCKEY", "w")
    text = dry_run([plan("gpu")])
    assert "# not passed to sbatch, since the script decides: SBATCH_PARTITION=other\n" in text
    assert "# passed to sbatch from this shell: SBATCH_WCKEY=w\n" in text
    # This one does not set a partition.
    assert "from this shell: SBATCH_PARTITION=other SBATCH_WCKEY=w\n" in dry_run([plan("cpu")])
