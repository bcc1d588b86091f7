"""Creation of an ensemble's run directories, and selection of the ensemble that is resumed.

Imports no torch, for use on login nodes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from phase2hpc.config.properties import ColumnSettings
from phase2hpc.errors import InputError
from phase2hpc.runs.ensemble import Ensemble, ensemble_of, find_ensemble
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory, checked_run_id, family_folder, new_run_id
from phase2hpc.training.request import TrainRequest, new_config
from phase2hpc.training.resume_config import run_to_resume
from phase2hpc.training.run_setup import never_started, new_directory, write_first_files
from phase2hpc.training.seeds import seed_label, seed_suffix


def create_ensemble(
    request: TrainRequest,
    store: Path,
    store_hash: str,
    columns: Mapping[str, ColumnSettings],
) -> Ensemble:
    """Create the run directory of each seed, before the first is trained; none if one fails.

    columns: as of ``new_config``. Raises InputError as ``new_config`` and ``create_run``, and if
    the ensemble exists.
    """
    name = checked_run_id(request.run_id) if request.run_id else new_run_id()
    if find_ensemble(request.models_dir, name) is not None:
        raise InputError(
            f"ensemble '{name}' exists already in {request.models_dir}: continue it with "
            "--resume, or choose another --run-id"
        )
    family = family_folder(request.algorithm, request.level)
    made: list[RunDirectory] = []
    try:
        for seed in request.seeds:
            config = new_config(replace(request, seed=seed), store, columns, announce=not made)
            run = new_directory(request.models_dir, family, name + seed_suffix(seed))
            made.append(run)
            manifest = Manifest.for_run(run, config, store, store_hash)
            manifest.state = "submitted"
            manifest.ensemble, manifest.ensemble_size = name, len(request.seeds)
            manifest.ensemble_member = seed_label(seed)
            write_first_files(run, config, manifest)
    except BaseException:
        for run in made:
            shutil.rmtree(run.path, ignore_errors=True)
        raise
    return Ensemble(name, tuple(made))


def ensemble_to_resume(request: TrainRequest) -> Ensemble | None:
    """The ensemble that ``--resume`` names, or that of the newest unfinished run.

    None for a single run, and without a name for the runs of jobs, which are resumed one by one.
    """
    if request.run_id:
        family = request.models_dir / family_folder(request.algorithm, request.level)
        return find_ensemble(family, request.run_id)
    run = run_to_resume(request)
    if never_started(run) or run.read_manifest().submission is not None:
        return None
    return ensemble_of(run)
