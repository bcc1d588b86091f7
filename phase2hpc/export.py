"""A trained model to hand on: what inference and its reader need, nothing of where it was made."""

from __future__ import annotations

from pathlib import Path

from phase2hpc.config import RuntimeSettings
from phase2hpc.errors import InputError
from phase2hpc.files import write_atomically
from phase2hpc.runs import RunDirectory
from phase2hpc.training.best import BestModel


def export_run(run: RunDirectory, folder: Path) -> RunDirectory:
    """Write best.pt, settings, manifest and metrics of a finished run to ``folder``.

    Paths, host and process of this machine are left out. The folder can be given to ``predict
    --run``. Raises InputError where the run is not finished or the folder is not empty.
    """
    manifest = run.read_manifest()
    if manifest.state != "finished":
        raise InputError(
            f"run {run.id} is {manifest.effective_state}: only a finished run has results"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already; name a new or an empty folder")
    best = BestModel.load(run.best)
    exported = RunDirectory(folder)
    best.save(exported)
    exported.write_config(run.read_config().model_copy(update={"runtime": RuntimeSettings()}))
    store = Path(manifest.store).name if manifest.store else None
    anonymous = {"host": "", "pid": 0, "process_start": None, "job_ids": [], "store": store}
    exported.write_manifest(manifest.model_copy(update={"run_id": exported.id, **anonymous}))
    for source, target in (
        (run.metrics_json, exported.metrics_json),
        (run.metrics_csv, exported.metrics_csv),
    ):
        write_atomically(target, source.read_bytes())
    return exported
