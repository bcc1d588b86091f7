"""Where a user's result goes: what can be wrong with the place, found before the work."""

from __future__ import annotations

import logging
from pathlib import Path

from phase2hpc.errors import InputError
from phase2hpc.utils.atomic_io import PartialFile
from phase2hpc.utils.container_image import goes_with_container
from phase2hpc.utils.os_errors import refused_place

log = logging.getLogger(__name__)


def check_output(path: Path) -> None:
    """Raises InputError where ``path`` cannot be written: better now than after the work."""
    if path.is_dir():
        raise InputError(f"--output {path}: this is a folder, name a file in it")
    if path.suffix.lower() not in (".csv", ".json"):
        raise InputError(f"--output {path}: name a .csv or a .json file")
    try:
        PartialFile(path).discard()
    except OSError as error:
        raise refused_place(error, f"--output {path}: cannot be written") from None
    warn_if_lost(path)


def warn_if_lost(path: Path) -> None:
    """Say that a result will not outlive the container that it is made in."""
    if goes_with_container(path):
        log.warning(
            "%s lies inside of this container and goes with it: mount a folder "
            "(docker and podman --volume, apptainer --bind) and write there",
            path,
        )
