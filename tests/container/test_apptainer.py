"""apptainer.def's image, whose build has run its own test already."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from container_engine import ROOT, Engine
from same_run import assert_same_run

import phase2hpc
from phase2hpc.runs.run_directory import RunDirectory, family_folder

NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
WORDS = ("--algorithm", "e3nn", "--level", "lite", "--max-samples", "40", "--threads", "1",
         "--store", "data/tiny.h5")  # fmt: skip


@pytest.fixture
def work(sif: Path, tiny) -> Path:
    """A folder of another user's; pytest's own are closed to others."""
    folder = sif.parent / "work"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    shutil.copy(tiny.store, folder / "data" / "tiny.h5")
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, "nobody", "nogroup")
    return folder


def contained(engine: Engine, sif: Path, work: Path, *words: str, user: bool = True) -> str:
    """With nothing of the caller's environment, home or /tmp."""
    environment = ("env", "-i", f"PATH={os.environ['PATH']}")
    return engine.run(
        *(NOBODY if user else ()), *environment, "apptainer", "run", "--userns", "--cleanenv",
        "--contain", "--env", "OMP_NUM_THREADS=1", "--bind", f"{work}:/work", "--pwd", "/work",
        sif, *words, timeout=300,
    )  # fmt: skip


def test_labels_and_help(engine: Engine, sif: Path, label: dict[str, str]) -> None:
    said = engine.run("apptainer", "inspect", sif)
    for line in (f"version: {phase2hpc.__version__}", f"revision: {label['REVISION']}"):
        assert f"org.opencontainers.image.{line}" in said
    assert "apptainer test phase2hpc.sif" in engine.run("apptainer", "run-help", sif)


def test_train_and_predict_as_another_user(engine: Engine, sif: Path, work: Path, label) -> None:
    contained(engine, sif, work, "train", *WORDS, "--run-id", "one")
    shutil.copy(ROOT / "data" / "examples" / "C-diamond.cif", work)
    contained(engine, sif, work, "predict", "--cif", "C-diamond.cif", "--output", "preds.csv")
    assert ",ok," in (work / "preds.csv").read_text()
    assert {path.owner() for path in work.rglob("*")} - {"root"} == {"nobody"}
    folder = work / "models" / family_folder("e3nn", "lite")
    manifest = RunDirectory(folder / "run_one").read_manifest()
    assert manifest.state == "finished" and manifest.image is not None
    assert manifest.image.revision == label["REVISION"] and len(manifest.image.packages) > 60


def test_the_same_as_in_docker(engine: Engine, image: str, sif: Path, work: Path) -> None:
    """Bit by bit."""
    # In a namespace without other users not even root writes what is theirs.
    for path in (work, *work.rglob("*")):
        shutil.chown(path, "root", "root")
    contained(engine, sif, work, "train", *WORDS, "--run-id", "apptainer", user=False)
    engine.run(
        "podman", "run", "--rm", "--no-healthcheck", "--user", "0", "--env", "OMP_NUM_THREADS=1",
        "--volume", f"{work}:/work", image, "train", *WORDS, "--run-id", "docker", timeout=300,
    )  # fmt: skip
    folder = work / "models" / family_folder("e3nn", "lite")
    assert_same_run(*(RunDirectory(folder / f"run_{name}") for name in ("apptainer", "docker")))


def test_where_it_writes(engine: Engine, sif: Path) -> None:
    """Below /tmp in each user's own folder, unless told otherwise; the image itself is
    read-only, and packages in the user's home are not seen."""
    names = ("PHASE2HPC_CACHE", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "PYTHONNOUSERSITE")
    start = ("apptainer", "exec", "--userns")
    show = (sif, "sh", "-c", " ".join(["echo", *(f"${name}" for name in names)]))
    own = f"/tmp/phase2hpc-{os.getuid()}"
    said = engine.run(*start, *show).split()
    assert said == [own, f"{own}/matplotlib", f"{own}/inductor", "1"]
    said = engine.run(*start, "--env", "PHASE2HPC_CACHE=/elsewhere", *show).split()
    assert said[0] == "/elsewhere"
    done = subprocess.run(
        ["apptainer", "exec", "--userns", sif, "touch", "/opt/phase2hpc/new"],
        env=engine.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode != 0 and "Read-only file system" in done.stderr
