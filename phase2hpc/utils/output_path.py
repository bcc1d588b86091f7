"""Checks of an output path before the work begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from phase2hpc.errors import InputError
from phase2hpc.utils.atomic_io import PartialFile
from phase2hpc.utils.container_image import is_lost_with_container
from phase2hpc.utils.os_errors import path_error

log = logging.getLogger(__name__)


def check_output(
    path: Path, suffixes: Sequence[str] = (".csv", ".json"), flag: str = "--output"
) -> None:
    """Raise InputError if ``path`` cannot be written, or has none of these endings.

    flag: the option that names it.
    """
    if path.is_dir():
        raise InputError(f"{flag} {path}: this is a folder, name a file in it")
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{flag} {path}: name a {' or a '.join(suffixes)} file")
    try:
        PartialFile(path).discard()
    except OSError as error:
        raise path_error(error, f"{flag} {path}: cannot be written") from None
    warn_if_lost(path)


def warn_if_lost(path: Path) -> None:
    """Warn if a result would be lost when this container ends."""
    if is_lost_with_container(path):
        log.warning(
            "%s is inside of this container and is lost when it ends: mount a folder "
            "(docker and podman --volume, apptainer --bind) and write there",
            path,
        )
