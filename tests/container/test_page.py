"""The lines of docs/containers.md run as they stand there."""

from __future__ import annotations

import csv
import os
import re
import shutil
from pathlib import Path

import pytest
from container_engine import ROOT, Engine

PAGE = (ROOT / "docs" / "containers.md").read_text()
BLOCK = re.compile(r"<!-- run in CI: (\w+) -->\n```bash\n(.*?)```", re.DOTALL)
BLOCKS: dict[str, str] = dict(BLOCK.findall(PAGE))
# Docker itself cannot run here; podman takes its words. Without systemd there are no health checks.
DOCKER = """\
#!/bin/sh
if [ "$1" = run ]; then shift; exec podman run --no-healthcheck "$@"; fi
exec podman "$@"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The reader's working directory, with structures in it."""
    shutil.copytree(ROOT / "data" / "examples", tmp_path / "my-cifs")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    return tmp_path


def run(engine: Engine, folder: Path, runtime: str) -> str:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "APPTAINER_USERNS": "1", "OMP_NUM_THREADS": "1"}
    script = f"set -eux\n{BLOCKS[runtime]}"
    said = engine.run("bash", "-c", script, cwd=folder, environment=environment, timeout=600)
    rows = list(csv.DictReader((folder / "preds.csv").read_text().splitlines()))
    assert len(rows) == 10 and {row["status"] for row in rows} == {"ok"}
    return said


def test_every_block_is_run() -> None:
    assert BLOCKS.keys() == {"docker", "podman", "apptainer"}


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_docker_and_podman(engine: Engine, image: str, runtime: str, folder: Path) -> None:
    engine.run("podman", "tag", image, "localhost/phase2hpc")
    said = run(engine, folder, runtime)
    if runtime == "docker":
        assert "is already finished, nothing to resume" in said


def test_apptainer(engine: Engine, sif: Path, folder: Path) -> None:
    (folder / "phase2hpc.sif").symlink_to(sif)
    run(engine, folder, "apptainer")
    (trained,) = (folder / "models" / "multitask_lite_e3nn").iterdir()
    assert (trained / "metrics.json").exists()
