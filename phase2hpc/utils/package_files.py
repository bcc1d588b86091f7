"""Paths of shipped files: top-level folders of a checkout, or ``phase2hpc/_shared`` of a wheel.

Files made from them (the sample's store) go beside them in a checkout, and to the user's cache
for a wheel or a read-only checkout.
"""

from __future__ import annotations

import os
from pathlib import Path

from phase2hpc.errors import Phase2Error

_PACKAGE = Path(__file__).resolve().parent.parent
_SHARED = _PACKAGE / "_shared"

SAMPLE = "jarvis_dft3d_15k"
# The shipped model that predicts where nothing has been trained.
DEFAULT_MODEL = "e3nn-ensemble"
# Overrides the folder of everything that phase2hpc caches.
CACHE_VARIABLE = "PHASE2HPC_CACHE"


def is_checkout() -> bool:
    """True if the package runs from its source tree (an editable install included)."""
    return not _SHARED.is_dir()


def shared_path(name: str) -> Path:
    """A shipped file or folder by its path in the source tree, as in ``data/examples``.

    Raises Phase2Error if it is missing: the package is incomplete.
    """
    path = (_PACKAGE.parent if is_checkout() else _SHARED) / name
    if not path.exists():
        raise Phase2Error(f"{path}: this file of phase2hpc is missing: install phase2hpc again")
    return path


def sample_source() -> Path:
    """The sample data set (JSON lines, gzip), a SOURCE for ``prepare``; see data/README.md."""
    return shared_path(f"data/{SAMPLE}.jsonl.gz")


def cache_dir() -> Path:
    """The folder for files that can be made again; it may not exist yet.

    ``$PHASE2HPC_CACHE``, else ``$XDG_CACHE_HOME/phase2hpc``, else ``~/.cache/phase2hpc``. Not from
    platformdirs, which takes a relative ``$XDG_CACHE_HOME``.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification demands that a relative path is ignored.
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return root / "phase2hpc"


def default_store() -> Path:
    """Path of the store of the sample data set; it may not exist yet.

    Beside the sample in a checkout, but in the cache for a wheel, if ``$PHASE2HPC_CACHE`` is set,
    or if that folder is read-only and has no store.
    """
    if is_checkout() and not os.environ.get(CACHE_VARIABLE):
        beside = sample_source().parent / f"{SAMPLE}.h5"
        if beside.exists() or os.access(beside.parent, os.W_OK):
            return beside
    return cache_dir() / f"{SAMPLE}.h5"


def pretrained_models() -> list[Path]:
    """Folders of the shipped models and ensembles: the one that predicts by default, the others
    by name."""
    try:
        folder = shared_path("models/pretrained")
    except Phase2Error:
        return []
    models = (path for path in folder.iterdir() if path.is_dir())
    return sorted(models, key=lambda path: (path.name != DEFAULT_MODEL, path.name))
