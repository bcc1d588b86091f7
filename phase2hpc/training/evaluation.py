"""Final evaluation: metrics and predictions of the best weights on val and test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from phase2hpc.inference.batched import Outputs
from phase2hpc.inference.calibrate import fit_calibration
from phase2hpc.inference.labelled_predictions import LabelledPredictions
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.inference.uncertainty import ErrorEstimator
from phase2hpc.models.multitask import MultiTaskModel
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.metrics import (
    SPLITS,
    PropertyMetrics,
    metrics_by_property,
    metrics_table,
    write_metrics,
)
from phase2hpc.training.trainer import Trainer


def evaluate(
    trainer: Trainer,
    run: RunDirectory,
    infer: Callable[[MultiTaskModel, npt.NDArray[np.int64]], Outputs],
    before_write: Callable[[], None],
) -> None:
    """Write metrics, predictions and calibration of the best weights, and print the tables.

    A collective call; the main rank writes. infer: as
    ``Trainer.infer_on_all_ranks``. before_write: called before each file. Both may raise: the
    evaluation can be repeated.
    """
    # Read on one rank: another node may not see the file yet.
    best = trainer.world.run_on_main(lambda: TrainedModel.load(run.best))
    model = best.model.to(trainer.device)
    reference = trainer.labels(trainer.train)
    metrics: dict[str, dict[str, PropertyMetrics]] = {}
    outputs = {split: infer(model, trainer.store.split_indices(split)) for split in SPLITS}
    calibration = fit_calibration(
        best, trainer.store, outputs["val"], lambda indices: infer(model, indices)
    )
    estimator = ErrorEstimator([best.scaler], [calibration])
    if trainer.world.is_main:
        before_write()
        calibration.save(run.calibration)
    for split in SPLITS:
        indices = trainer.store.split_indices(split)
        labels = trainer.labels(indices)
        found = outputs[split]
        prediction = found.physical(best.scaler)
        metrics[split] = metrics_by_property(trainer.properties, prediction, labels, reference)
        if trainer.world.is_main:
            print(f"\n{split}: {len(indices)} crystals, weights of epoch {best.epoch}")
            print(metrics_table(metrics[split], trainer.scaler.units), flush=True)
            before_write()
            distance = calibration.embedding.distance(found.vectors)
            estimate = estimator.estimate([found], distance[None])
            LabelledPredictions.of_store(
                trainer.store, indices, trainer.properties, prediction, labels, estimate
            ).write(run.predictions(split))
    if trainer.world.is_main:
        before_write()
        write_metrics(run, metrics, trainer.scaler.units)
