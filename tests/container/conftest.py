"""The images of this checkout, built once a session when first used."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_engine import ROOT, Engine, missing

HERE = Path(__file__).parent
IMAGE = "localhost/phase2hpc:test"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("container")
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    engine = Engine()
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


@pytest.fixture(scope="session")
def label() -> dict[str, str]:
    """What the build is told of itself."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=ROOT,
        capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"REVISION": commit or "none", "CREATED": now}


@pytest.fixture(scope="session")
def image(engine: Engine, label: dict[str, str]) -> str:
    """The name of the image that the Dockerfile makes."""
    engine.build(ROOT, IMAGE, **label)
    return IMAGE


@pytest.fixture(scope="session")
def sif(engine: Engine, image: str) -> Iterator[Path]:
    """The file that apptainer.def makes of it; its own test has passed."""
    if shutil.which("apptainer") is None:
        pytest.skip("no Apptainer here")
    # Other users read it too, which they cannot in pytest's folders.
    with tempfile.TemporaryDirectory(prefix="phase2hpc-sif-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        archive = folder / "phase2hpc.tar"
        engine.run("buildah", "push", "-q", image, f"docker-archive:{archive}:{image}", timeout=600)
        engine.apptainer_build(
            folder / "phase2hpc.sif", ROOT / "apptainer.def", "--build-arg", f"FROM={archive}"
        )
        archive.unlink()
        yield folder / "phase2hpc.sif"
