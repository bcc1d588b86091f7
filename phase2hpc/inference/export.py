"""Export of a trained model, without information about this machine."""

from __future__ import annotations

from pathlib import Path

from phase2hpc.config.settings import RuntimeSettings
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.os_errors import path_error


def export_run(run: RunDirectory, folder: Path) -> RunDirectory:
    """Write best.pt, settings, manifest and metrics of a finished run to ``folder``.

    The folder can be given to ``predict --run``. Raises InputError where the run is not finished or
    the folder is not empty.
    """
    manifest = run.read_manifest()
    if manifest.state != "finished":
        raise InputError(f"run {run.id} is not finished: only a finished run has results")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: already exists: give a new or an empty folder")
    exported = RunDirectory(folder)
    was_there = folder.exists()
    try:
        _write(run, manifest, exported)
    except (OSError, Phase2Error) as error:
        _clear(exported, was_there)
        reason = error if isinstance(error, OSError) else error.__cause__
        if isinstance(reason, OSError):
            raise path_error(
                reason, f"{folder}: cannot be written", note="the incomplete export was removed"
            ) from error
        raise
    return exported


def _write(run: RunDirectory, manifest: Manifest, exported: RunDirectory) -> None:
    """Write the files; the manifest last, which makes the folder a model."""
    TrainedModel.load(run.best).save(exported)
    exported.write_config(run.read_config().model_copy(update={"runtime": RuntimeSettings()}))
    for source, target in (
        (run.metrics_json, exported.metrics_json),
        (run.metrics_csv, exported.metrics_csv),
    ):
        write_atomically(target, source.read_bytes())
    store = Path(manifest.store).name if manifest.store else None
    anonymous = {"host": "", "pid": 0, "process_start": None, "job_ids": [], "store": store}
    exported.write_manifest(manifest.model_copy(update={"run_id": exported.id, **anonymous}))


def _clear(exported: RunDirectory, folder_stays: bool) -> None:
    for path in (exported.best, exported.config, exported.metrics_json, exported.metrics_csv):
        path.unlink(missing_ok=True)
    if not folder_stays and exported.path.exists():
        exported.path.rmdir()
