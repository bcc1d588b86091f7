"""Calibration of a trained model on the store it was trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from phase2hpc.data.sampler import draw_subset, training_crystals
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.verify import verify_once
from phase2hpc.errors import InputError
from phase2hpc.inference.batched import Outputs, infer
from phase2hpc.inference.calibration import Calibration
from phase2hpc.inference.devices import choose_device
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.inference.training_embedding import MAX_CRYSTALS
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.os_errors import path_error
from phase2hpc.utils.package_files import default_store
from phase2hpc.utils.progress import Progress

log = logging.getLogger(__name__)

# Crystals between two steps of progress.
CHUNK = 1024

Indices = npt.NDArray[np.int64]


def fit_calibration(
    best: TrainedModel, store: Store, outputs: Outputs, infer_rows: Callable[[Indices], Outputs]
) -> Calibration:
    """Calibration of a model by the train and val splits of its store, as its run used them.

    outputs: of the model for the val split. infer_rows: gives those for other crystals.
    """
    train, val = _trained_on(best, store), store.split_indices("val")
    reported = best.scaler.reported
    return Calibration.fit(
        weights_hash=best.weights_hash,
        validation=f"{store.content_hash} fold {store.fold or 0}",
        properties=reported,
        training_vectors=infer_rows(draw_subset(train, MAX_CRYSTALS, seed=0)).vectors,
        outputs=outputs,
        targets=store.label_matrix(reported, val),
        max_atoms=int((store.node_ptr[train + 1] - store.node_ptr[train]).max()),
    )


def _trained_on(best: TrainedModel, store: Store) -> Indices:
    config = best.config
    outputs = (*config.properties, *config.auxiliary)
    return training_crystals(store, outputs, config.training.max_samples, config.seed)


def calibrate(
    run: RunDirectory,
    store: Path | None = None,
    *,
    device: str = "auto",
) -> Calibration:
    """Fit the calibration of a finished run, or of a shipped model, and write it beside best.pt.

    store: None for that of the run, where it still is, or of the sample. A store with other
    content than the run's is a warning. Raises InputError where there is no such store, it has no
    val crystals, or its graphs are not those the model was trained on.
    """
    place = choose_device(device)
    best = TrainedModel.load(run.weights, place)
    path = store or _store_of(run)
    verify_once(path)
    source = Store.open(path)
    _check_store(run, best, source, chosen=store is not None)
    source.use_fold(best.config.fold)
    trained_on = _trained_on(best, source)
    if not len(trained_on):
        raise InputError(
            f"{path}: no crystal of its train split has a label of the model's properties: give "
            "the store that the model was trained on"
        )
    total = len(source.split_indices("val")) + min(len(trained_on), MAX_CRYSTALS)
    with Progress("calibrating", total, "crystals") as progress:

        def outputs(rows: Indices) -> Outputs:
            found = []
            for part in np.array_split(rows, -(-len(rows) // CHUNK)):
                found.append(
                    infer(
                        best.model,
                        source,
                        part,
                        device=place,
                        dtype=best.dtype,
                        max_edges=best.config.training.max_edges,
                    )
                )
                progress.advance(len(part))
            return Outputs(
                np.concatenate([part.scaled for part in found]),
                np.concatenate([part.vectors for part in found]),
                np.concatenate([part.zero for part in found]),
            )

        of_val = outputs(source.split_indices("val"))
        calibration = fit_calibration(best, source, of_val, outputs)
    try:
        calibration.save(run.calibration)
    except OSError as error:
        raise path_error(error, f"{run.calibration}: cannot be written") from None
    return calibration


def _store_of(run: RunDirectory) -> Path:
    recorded = Path(run.read_manifest().store or "") if run.manifest.exists() else Path()
    # An exported model has the name of its store alone.
    path = recorded if recorded.is_absolute() else default_store()
    if not path.is_file():
        raise InputError(
            f"{run.path}: the store it was trained on is not at {path}: name it by --store"
        )
    return path


def _check_store(run: RunDirectory, best: TrainedModel, store: Store, *, chosen: bool) -> None:
    """chosen: by the user."""
    if store.graph_settings != best.graph_settings:
        raise InputError(
            f"{store.path}: its graphs are not those that {run.weights} was trained on: prepare it "
            "with the same --cutoff and --max-neighbors"
        )
    for split in ("train", "val"):
        if len(store.split_indices(split)) == 0:
            raise InputError(f"{store.path}: its {split} split is empty, prepare it again")
    expected = run.read_manifest().store_hash if run.manifest.exists() else None
    if expected is not None and expected != store.content_hash and not chosen:
        raise InputError(
            f"{store.path} is not the store that {run.path} was trained on: name that one, or "
            "another to calibrate on, by --store"
        )
    if expected is not None and expected != store.content_hash:
        log.warning(
            "%s is not the store that the model was trained on: crystals it has learned may be "
            "among those that its errors are measured on",
            store.path,
        )
