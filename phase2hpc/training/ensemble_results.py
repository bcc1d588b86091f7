"""Results of an ensemble: predictions of the mean of its members, and their errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

import numpy as np

from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError
from phase2hpc.inference.labelled_predictions import (
    LabelledPredictions,
    read_labelled_predictions,
)
from phase2hpc.inference.predictor import load_predictor
from phase2hpc.inference.uncertainty import Estimate
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

    The prediction is the mean over the members, and its uncertainty that of ``predict``; without
    the store there is none, which is a warning. Raises InputError as ``ensemble_results``.
    """
    ensemble.check()
    results = ensemble.results
    results.path.mkdir(exist_ok=True)
    uncertainty = _uncertainty(ensemble)
    metrics: dict[str, dict[str, PropertyMetrics]] = {}
    for split in SPLITS:
        tables = [read_labelled_predictions(run.predictions(split)) for run in ensemble.members]
        joined = mean_of(tables)
        if uncertainty is not None:
            joined = joined.with_estimate(uncertainty(split))
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
    """Mean over models, without uncertainty.

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


def _uncertainty(ensemble: Ensemble) -> Callable[[str], Estimate] | None:
    """Uncertainty of the predictions for a split; None, with a warning, without the store."""
    config = ensemble.members[0].read_config()
    try:
        store = Store.open(config.runtime.store or default_store())
        if store.content_hash != ensemble.manifests()[0].store_hash:
            raise InputError(f"{store.path}: not the store of the runs any more")
        store.use_fold(config.fold)
        predictor = load_predictor(ensemble.members, config.runtime.device)
    except InputError as error:
        log.warning("ensemble %s: predictions without sigma (%s)", ensemble.id, error)
        return None
    return lambda split: predictor.infer(store, store.split_indices(split)).estimate


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
