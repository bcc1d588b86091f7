"""Absolute paths that keep the user's symbolic links."""

from __future__ import annotations

import os
from pathlib import Path


def absolute_path(path: Path) -> Path:
    """The path from the root, without ``..``, through the links that the user wrote.

    The target of a link may exist on one machine only, as under an automounter. A relative path
    starts at the shell's ``PWD``, which keeps the links that led there, unless that is out of date.
    """
    path = path.expanduser()
    if not path.is_absolute():
        path = _working_directory() / path
    # 'link/..' is not the folder of the link: without the links where that matters.
    plain = Path(os.path.normpath(path))
    return plain if ".." not in path.parts or _same(plain, path) else path.resolve()


def _working_directory() -> Path:
    physical, logical = Path.cwd(), Path(os.environ.get("PWD", ""))
    return logical if logical.is_absolute() and _same(logical, physical) else physical


def _same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()
