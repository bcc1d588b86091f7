"""Results of an ensemble: predictions of the mean of its members, and their errors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np

from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.inference.labelled_predictions import (
    LabelledPredictions,
    read_labelled_predictions,
)
from phase2hpc.runs.ensemble import Ensemble, ensemble_of
from phase2hpc.runs.registry import read_metrics
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.metrics import SPLITS, PropertyMetrics, property_metrics, write_metrics

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
    except (Phase2Error, OSError) as error:
        log.warning("no results of the ensemble of run %s: %s", run.id, error)
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

    The prediction is the mean over the members and sigma their sample standard deviation. Raises
    InputError as ``ensemble_results``.
    """
    ensemble.check()
    results = ensemble.results
    results.path.mkdir(exist_ok=True)
    metrics: dict[str, dict[str, PropertyMetrics]] = {}
    for split in SPLITS:
        tables = [read_labelled_predictions(run.predictions(split)) for run in ensemble.members]
        joined = mean_of(tables)
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
    """Mean over models, with their sample standard deviation as sigma.

    Raises InputError where their crystals or properties differ.
    """
    first = tables[0]
    if any(t.ids != first.ids or t.properties != first.properties for t in tables):
        raise InputError("the members of the ensemble were tested on different crystals")
    stacked = {
        name: np.stack([table.prediction[name] for table in tables]) for name in first.properties
    }
    several = len(tables) > 1
    return LabelledPredictions(
        first.ids,
        first.formulas,
        first.atoms,
        first.target,
        {name: values.mean(axis=0) for name, values in stacked.items()},
        {name: values.std(axis=0, ddof=1) for name, values in stacked.items()} if several else {},
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
