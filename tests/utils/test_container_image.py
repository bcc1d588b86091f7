"""What a process says of the image it runs in, by what the image's build wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from phase2hpc.data.readers.registry import read
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.manifest import Manifest
from phase2hpc.utils.container_image import (
    DIGEST_VARIABLE,
    is_lost_with_container,
    mount_hint,
    this_image,
)

ABOUT = {"run_id": "a", "algorithm": "e3nn", "level": "lite", "properties": ["ehull"]}


@pytest.fixture
def image(in_image: Callable[..., Path]) -> Path:
    """The folder of an image's Python environment."""
    return in_image()


def manifest() -> Manifest:
    """Written, and read back."""
    made = Manifest(**ABOUT, epochs=1, seed=0)
    return Manifest.model_validate_json(made.model_dump_json())


def test_manifest_in_an_image(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = manifest().image
    assert found is not None and found.digest is None
    assert found.packages == ["numpy==2.0", "torch==2.13.0+cpu"]
    assert str(found) == "phase2hpc 1.2 for cpu, commit abc-dirty"
    monkeypatch.setenv(DIGEST_VARIABLE, "sha256:12")
    found = manifest().image
    assert found is not None and found.digest == "sha256:12" and "sha256:12" in str(found)


def test_outside_of_an_image() -> None:
    assert this_image() is None and manifest().image is None


@pytest.mark.parametrize("label", ["{", "[]", '{"version": "1.2"}'])
def test_a_broken_label(image: Path, label: str) -> None:
    (image / "image.json").write_text(label)
    with pytest.raises(Phase2Error, match="image.json: not an image label .*; rebuild the image"):
        this_image()


def test_no_package_list(image: Path) -> None:
    (image / "packages.txt").unlink()
    with pytest.raises(Phase2Error, match="packages.txt"):
        this_image()


# ---- what a container takes with it ----------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no memory file system here")
def test_a_place_in_memory_goes_with_a_container(image: Path) -> None:
    assert is_lost_with_container(Path("/dev/shm/models/run"))


def test_the_containers_own_root_goes_with_it(image: Path) -> None:
    assert is_lost_with_container(Path("/models"))


def test_outside_of_a_container_nothing_goes() -> None:
    assert not is_lost_with_container(Path("/models")) and mount_hint() == ""


def test_a_path_that_is_not_mounted(image: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file or folder in this container \(is its"):
        read(tmp_path / "mine.cif")
