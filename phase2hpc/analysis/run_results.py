"""Results of a run or an ensemble, as reports and comparisons read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phase2hpc.config.run_config import RunConfig
from phase2hpc.errors import InputError
from phase2hpc.runs.ensemble import ENSEMBLE_PREFIX, Ensemble, find_ensemble
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.registry import find_run, read_metrics
from phase2hpc.runs.run_directory import RunDirectory, read_json

if TYPE_CHECKING:
    from phase2hpc.inference.labelled_predictions import LabelledPredictions

Metrics = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class RunResults:
    """A finished run, or the runs of an ensemble as one.

    folder: with metrics.json and predictions_{val,test}.csv. members: one for a run. config and
    manifest: of the first member.
    """

    id: str
    folder: RunDirectory
    members: tuple[RunDirectory, ...]
    config: RunConfig
    manifest: Manifest
    metrics: Mapping[str, Metrics]

    @property
    def properties(self) -> tuple[str, ...]:
        return tuple(self.metrics["test"])

    @property
    def is_ensemble(self) -> bool:
        return self.folder.path.name.startswith(ENSEMBLE_PREFIX)

    def unit(self, name: str) -> str:
        return self.config.column(name).unit or ""

    def metric(self, name: str, key: str, split: str = "test") -> float | None:
        """A number of metrics.json; None where there is none."""
        return self.metrics[split].get(name, {}).get(key)

    def predictions(self, split: str) -> LabelledPredictions | None:
        """Predictions beside labels; None where there is no file, as with a shipped model."""
        from phase2hpc.inference.labelled_predictions import read_labelled_predictions

        path = self.folder.predictions(split)
        return read_labelled_predictions(path) if path.exists() else None

    @cached_property
    def test(self) -> LabelledPredictions | None:
        return self.predictions("test")

    @cached_property
    def histories(self) -> list[list[dict[str, Any]]]:
        """Records of the epochs of each member that has them."""
        return [_history(run) for run in self.members if run.history.exists()]

    @property
    def seconds(self) -> float | None:
        """Time of training on this data, validation left out; of all members together."""
        seconds = [record["seconds"] for history in self.histories for record in history]
        return sum(seconds) if seconds else None

    @property
    def crystals_per_second(self) -> float | None:
        """Mean over all epochs."""
        crystals = self.manifest.training_crystals
        epochs = sum(len(history) for history in self.histories)
        return epochs * crystals / self.seconds if crystals and self.seconds else None


def results_of_run(run: RunDirectory) -> RunResults:
    """Raises InputError for a run without results."""
    manifest = run.read_manifest()
    metrics = read_metrics(run)
    if metrics is None or manifest.state != "finished":
        raise InputError(f"run {run.id} is not finished: only finished runs have test errors")
    return RunResults(run.id, run, (run,), run.read_config(), manifest, metrics)


def results_of_ensemble(ensemble: Ensemble) -> RunResults:
    """Raises InputError as ``ensemble_results``."""
    from phase2hpc.training.ensemble_results import ensemble_results

    folder = ensemble_results(ensemble)
    metrics = read_metrics(folder)
    assert metrics is not None
    first = ensemble.members[0]
    return RunResults(
        ensemble.id, folder, ensemble.members, first.read_config(), first.read_manifest(), metrics
    )


def results_of_folder(folder: RunDirectory) -> RunResults:
    """Results of a run directory, or of the ensemble whose results are in this folder."""
    ensemble = find_ensemble(folder.path.parent, str(folder.path))
    return results_of_run(folder) if ensemble is None else results_of_ensemble(ensemble)


def find_results(models_dir: Path, names: Sequence[str]) -> list[RunResults]:
    """Results of runs and ensembles by name, each once. Raises InputError as ``find_run``."""
    found: dict[Path, RunResults] = {}
    for name in names:
        ensemble = find_ensemble(models_dir, name)
        if ensemble is None:
            one = results_of_run(find_run(models_dir, name))
        else:
            one = results_of_ensemble(ensemble)
        found.setdefault(one.folder.path.resolve(), one)
    return list(found.values())


def different_stores(results: Sequence[RunResults]) -> str:
    """Two of these results with different or unknown stores in words, "" where all have one."""
    first = results[0]
    store = first.manifest.store_hash or ""
    for other in results[1:]:
        here = other.manifest.store_hash or ""
        if here != store or not store:
            return (
                f"runs {first.id} and {other.id} were trained on different stores "
                f"({store[:12] or 'unknown'} and {here[:12] or 'unknown'}), whose test sets differ"
            )
    return ""


def check_same_tests(results: Sequence[RunResults]) -> str:
    """The reason why errors of these results do not rank them, "" where they do."""
    if problem := different_stores(results):
        return problem
    first = results[0]
    for other in results[1:]:
        if other.config.fold != first.config.fold:
            folds = [r.config.fold or "none" for r in (first, other)]
            return (
                f"runs {first.id} and {other.id} were tested on different crystals (fold "
                f"{folds[0]} and {folds[1]})"
            )
    return ""


def _history(run: RunDirectory) -> list[dict[str, Any]]:
    history = read_json(run.history)
    required = ("epoch", "train_loss", "val_mae", "val_score", "seconds")
    if not isinstance(history, list) or not all(
        isinstance(record, dict) and all(key in record for key in required) for record in history
    ):
        raise InputError(f"{run.history}: not a run's history")
    return history
