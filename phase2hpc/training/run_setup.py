"""Creation of a run directory with its configuration and manifest.

Imports no torch, for use on login nodes. A process killed during the creation leaves a directory
without a manifest, which the same request with the same ``--run-id`` reuses.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from phase2hpc.config.run_config import RunConfig
from phase2hpc.errors import InputError
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import PREFIX, RunDirectory, checked_run_id, create_run
from phase2hpc.utils.os_errors import path_error


def new_directory(models_dir: Path, family: str, run_id: str | None) -> RunDirectory:
    """Create the directory of a run, or return an existing one without a manifest.

    Raises InputError as ``create_run``.
    """
    if run_id:
        run = RunDirectory(models_dir / family / (PREFIX + checked_run_id(run_id)))
        if run.path.is_dir() and never_started(run):
            return run
    return create_run(models_dir, family, run_id)


def never_started(run: RunDirectory) -> bool:
    """True if the directory holds nothing but files written before the manifest."""
    names = {path.name for path in run.path.iterdir()}
    before = {run.lease.name, run.config.name}
    return all(name in before or name.startswith(".") for name in names)


def write_first_files(run: RunDirectory, config: RunConfig, manifest: Manifest) -> None:
    """Write the configuration and then the manifest, holding the lease.

    Raises InputError where another process has begun the run meanwhile. Where a file cannot be
    written, raises as ``path_error`` and removes the directory.
    """
    if not never_started(run):
        raise InputError(
            f"{run.path}: another process has started this run: continue it with --resume"
        )
    try:
        run.write_config(config)
        run.write_manifest(manifest)
    except OSError as error:
        shutil.rmtree(run.path, ignore_errors=True)
        raise path_error(error, f"{run.path}: no run can be made here") from error
