"""Export of a trained model or an ensemble, without information about this machine."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phase2hpc.checkpointing.exported_model import save_exported
from phase2hpc.config.run_config import RunConfig
from phase2hpc.config.settings import RuntimeSettings
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.inference.ensemble_members import check_members
from phase2hpc.inference.model_card import Terms, model_card
from phase2hpc.inference.predictor import calibration_of
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.model_selection import whole_ensemble
from phase2hpc.runs.registry import read_metrics
from phase2hpc.runs.run_directory import PREFIX, RunDirectory
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.os_errors import path_error

Metrics = dict[str, dict[str, dict[str, Any]]]

# Facts of a run that others need; paths, hosts, jobs and messages stay behind.
_PUBLIC = frozenset(
    {
        "schema_version", "algorithm", "level", "properties", "state", "created", "updated",
        "step", "epoch", "epochs", "seed", "versions", "git_commit", "store_hash",
        "training_crystals", "processes", "ensemble", "ensemble_member", "ensemble_size",
        "best_score", "best_epoch", "skipped_steps",
    }
)  # fmt: skip


def export_runs(
    runs: Sequence[RunDirectory],
    folder: Path,
    *,
    licence: str | None = None,
    data: str | None = None,
) -> RunDirectory:
    """Write a finished run, or the members of an ensemble in subfolders, to ``folder``.

    Weights as safetensors, settings, scaler, calibration, metrics, manifest and a model card. The
    folder can be given to ``predict --run`` and ``load_model``. licence, data: of the weights, and
    origin and terms of the training data, for the card. Raises InputError where a run is not
    finished, the runs cannot be averaged (``check_members``) or the folder is not empty.
    """
    for run in runs:
        if run.read_manifest().state != "finished":
            raise InputError(f"run {run.id} is not finished: only a finished run has results")
    ids = [run.id for run in runs]
    if twice := next((run_id for run_id in ids if ids.count(run_id) > 1), None):
        raise InputError(f"two runs are named '{twice}', and each has its folder: rename one")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: already exists: give a new or an empty folder")
    models = [TrainedModel.load(run.weights) for run in runs]
    check_members(runs, models)
    exported = RunDirectory(folder)
    terms = Terms(licence or "not stated", data or "")
    was_there = folder.exists()
    try:
        if len(runs) == 1:
            _write(runs[0], models[0], exported, terms)
        else:
            for run, model in zip(runs, models, strict=True):
                _write(run, model, RunDirectory(folder / f"{PREFIX}{run.id}"), terms)
            _write_ensemble(runs, models, exported, terms)
    except (OSError, Phase2Error) as error:
        _clear(exported, was_there)
        reason = error if isinstance(error, OSError) else error.__cause__
        if isinstance(reason, OSError):
            raise path_error(
                reason, f"{folder}: cannot be written", note="the incomplete export was removed"
            ) from error
        raise
    return exported


def _write(run: RunDirectory, best: TrainedModel, exported: RunDirectory, terms: Terms) -> None:
    """Write the files; the manifest last, which makes the folder a model."""
    save_exported(exported, best.state())
    exported.write_config(_public_config(best.config))
    files = [
        (run.metrics_json, exported.metrics_json),
        (run.metrics_csv, exported.metrics_csv),
        (run.calibration, exported.calibration),
    ]
    for source, target in files:
        if source.is_file():
            write_atomically(target, source.read_bytes())
    _write_card([run], [best], exported, terms, read_metrics(run))
    exported.write_manifest(_public_manifest(run.read_manifest(), exported.id))


def _write_ensemble(
    runs: Sequence[RunDirectory],
    models: Sequence[TrainedModel],
    exported: RunDirectory,
    terms: Terms,
) -> None:
    """Write the card and, of a whole ensemble, its own errors."""
    ensemble = whole_ensemble(runs)
    metrics = None
    if ensemble is not None:
        metrics = read_metrics(ensemble.results)
        target = RunDirectory(exported.path / ensemble.results.path.name)
        if metrics is not None:
            write_atomically(target.metrics_json, ensemble.results.metrics_json.read_bytes())
    _write_card(runs, models, exported, terms, metrics)


def _write_card(
    runs: Sequence[RunDirectory],
    models: Sequence[TrainedModel],
    exported: RunDirectory,
    terms: Terms,
    metrics: Metrics | None,
) -> None:
    calibrations = [calibration_of(model, run) for model, run in zip(models, runs, strict=True)]
    text = model_card(
        exported.path.resolve().name,
        models,
        [_public_manifest(run.read_manifest(), exported.id) for run in runs],
        (metrics or {}).get("test", {}),
        terms=terms,
        starts=[_start_of(model.config) for model in models],
        # As one, that is on the same crystals.
        calibrated=None not in calibrations
        and len({found.validation for found in calibrations if found}) == 1,
    )
    write_atomically(exported.model_card, text)


def _public_config(config: RunConfig) -> RunConfig:
    """The settings without paths: of the run that weights were taken from, its name."""
    return config.model_copy(update={"runtime": RuntimeSettings(), "init_from": _start_of(config)})


def _start_of(config: RunConfig) -> str | None:
    """The name of the run that the initial weights are from."""
    return RunDirectory(Path(config.init_from)).id if config.init_from else None


def _public_manifest(manifest: Manifest, run_id: str) -> Manifest:
    public = {key: getattr(manifest, key) for key in _PUBLIC}
    store = Path(manifest.store).name if manifest.store else None
    return Manifest(
        **public, run_id=run_id, store=store, host="", pid=0, process_start=None, image=None
    )


def _clear(exported: RunDirectory, folder_stays: bool) -> None:
    for path in list(exported.path.iterdir()) if exported.path.is_dir() else []:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not folder_stays and exported.path.exists():
        exported.path.rmdir()
