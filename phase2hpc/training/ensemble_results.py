"""Results of an ensemble: predictions of the mean of its members, and their errors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch

from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError
from phase2hpc.inference.batched import infer
from phase2hpc.inference.calibration import Calibration
from phase2hpc.inference.devices import choose_device
from phase2hpc.inference.labelled_predictions import (
    LabelledPredictions,
    read_labelled_predictions,
)
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.inference.uncertainty import ErrorEstimator
from phase2hpc.runs.ensemble import Ensemble, ensemble_of
from phase2hpc.runs.registry import read_metrics
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.metrics import SPLITS, PropertyMetrics, property_metrics, write_metrics
from phase2hpc.utils.error_text import first_line
from phase2hpc.utils.package_files import default_store

log = logging.getLogger(__name__)


def write_if_complete(run: RunDirectory) -> Ensemble | None:
    """Write the results of the ensemble of a run that has just finished, if it is the last.

    Returns the ensemble if they were written. What prevents it is a warning: the run has its
    results. Several members that end at once write the same.
    """
    try:
        ensemble = ensemble_of(run)
        if ensemble is None or ensemble.unfinished() or ensemble.is_sweep:
            return None
        write_ensemble_results(ensemble)
        return ensemble
    # Whatever it is: the run has its results, and is finished.
    except Exception as error:
        log.warning("no results of the ensemble of run %s: %s", run.id, first_line(error))
        return None


def ensemble_results(ensemble: Ensemble) -> RunDirectory:
    """Folder of the results, written if they are not there.

    Raises InputError as ``Ensemble.check``, and for members without predictions.
    """
    ensemble.check()
    if not ensemble.results.metrics_json.exists():
        write_ensemble_results(ensemble)
    return ensemble.results


def write_ensemble_results(ensemble: Ensemble) -> None:
    """Write predictions_{val,test}.csv, metrics.json and metrics.csv.

    The prediction is the mean over the members, and sigma that of ``predict``; without the store
    there is none, which is a warning. Raises InputError as ``ensemble_results``.
    """
    ensemble.check()
    results = ensemble.results
    results.path.mkdir(exist_ok=True)
    sigmas = _Sigmas.of(ensemble)
    metrics: dict[str, dict[str, PropertyMetrics]] = {}
    for split in SPLITS:
        tables = [read_labelled_predictions(run.predictions(split)) for run in ensemble.members]
        joined = mean_of(tables)
        if sigmas is not None:
            joined = replace(joined, sigma=sigmas.of_split(split))
        joined.write(results.predictions(split))
        own = [(read_metrics(run) or {}).get(split, {}) for run in ensemble.members]
        metrics[split] = {}
        for name in joined.properties:
            found = property_metrics(joined.prediction[name], joined.target[name], [])
            # Of the training labels, which differ where the members drew their crystals.
            found["mad"], found["constant_mae"] = (
                _mean(table.get(name, {}).get(key) for table in own)
                for key in ("mad", "constant_mae")
            )
            metrics[split][name] = found
    config = ensemble.members[0].read_config()
    units = {name: config.column(name).unit or "" for name in config.properties}
    write_metrics(results, metrics, units)


def mean_of(tables: Sequence[LabelledPredictions]) -> LabelledPredictions:
    """Mean over models, without sigma.

    Raises InputError where their crystals or properties differ.
    """
    first = tables[0]
    if any(t.ids != first.ids or t.properties != first.properties for t in tables):
        raise InputError("the members of the ensemble were tested on different crystals")
    means = {
        name: np.mean([table.prediction[name] for table in tables], axis=0)
        for name in first.properties
    }
    return LabelledPredictions(first.ids, first.formulas, first.atoms, first.target, means)


class _Sigmas:
    """Uncertainty of an ensemble's predictions for the crystals of its store."""

    def __init__(
        self,
        models: Sequence[TrainedModel],
        calibrations: Sequence[Calibration],
        store: Store,
        device: torch.device,
    ) -> None:
        self.models, self.calibrations = models, calibrations
        self.store, self.device = store, device
        self.estimator = ErrorEstimator([m.scaler for m in models], calibrations)

    @classmethod
    def of(cls, ensemble: Ensemble) -> _Sigmas | None:
        """None, with a warning, without the store or the calibrations."""
        config = ensemble.members[0].read_config()
        try:
            store = Store.open(config.runtime.store or default_store())
            if store.content_hash != ensemble.manifests()[0].store_hash:
                raise InputError(f"{store.path}: not the store of the runs any more")
            store.use_fold(config.fold)
            device = choose_device(config.runtime.device)
            calibrations = [Calibration.load(run.calibration) for run in ensemble.members]
            models = [TrainedModel.load(run.best, device) for run in ensemble.members]
        except InputError as error:
            log.warning("ensemble %s: predictions without sigma (%s)", ensemble.id, error)
            return None
        known = [found for found in calibrations if found is not None]
        if len(known) < len(calibrations):
            log.warning("ensemble %s: predictions without sigma: not calibrated", ensemble.id)
            return None
        return cls(models, known, store, device)

    def of_split(self, split: str) -> dict[str, npt.NDArray[np.float64]]:
        """Sigma by property, rows as in the store."""
        indices = self.store.split_indices(split)
        outputs, distances = [], []
        for model, calibration in zip(self.models, self.calibrations, strict=True):
            limit = model.config.training.max_edges
            found = infer(
                model.model, self.store, indices,
                device=self.device, dtype=model.dtype, max_edges=limit,
            )  # fmt: skip
            outputs.append(found)
            distances.append(calibration.embedding.distance(found.vectors))
        sigma = self.estimator.estimate(outputs, np.stack(distances)).sigma
        names = self.models[0].scaler.reported
        return {name: sigma[:, column] for column, name in enumerate(names)}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
