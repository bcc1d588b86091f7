"""Comparison of finished runs: settings, test errors, and their paired differences.

Runs of one recipe, which differ in fold or seed only, are one group: each crystal's absolute error
is averaged over the runs that tested it. ``±`` is a standard error over crystals throughout.
"""

from __future__ import annotations

import json
import logging
import math
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from phase2hpc.analysis.run_results import (
    RunResults,
    different_stores,
    results_of_ensemble,
    results_of_run,
)
from phase2hpc.config.properties import in_order
from phase2hpc.errors import InputError
from phase2hpc.runs.ensemble import NOT_THE_RECIPE, Ensemble, differing_settings, find_ensemble
from phase2hpc.runs.registry import find_run
from phase2hpc.utils import tables

log = logging.getLogger(__name__)

# Settings in which runs of one group may differ.
_NOT_OF_THE_GROUP = ("fold", *NOT_THE_RECIPE)
_MAX_CELL = 20


@dataclass(frozen=True)
class MeanError:
    """MAE of n crystals and its standard error, None where it is not known."""

    mae: float
    se: float | None
    n: int


# Identity is enough, and makes it a key.
@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one recipe: one run or ensemble, or its folds and seeds.

    score: mean over the common properties of MAE / MAD, NaN without any MAD.
    """

    runs: tuple[RunResults, ...]
    properties: tuple[str, ...]

    @property
    def name(self) -> str:
        first = self.runs[0]
        if len(self.runs) == 1:
            return first.id
        folds = len({one.config.fold for one in self.runs})
        parts = [f"{first.config.algorithm} {first.config.level}"]
        parts += [f"{folds} folds"] if folds > 1 else []
        parts += [f"{len(self.runs)} runs"] if len(self.runs) > folds else []
        return ", ".join(parts)

    @property
    def title(self) -> str:
        """The name, with the model where the name does not say it."""
        config = self.runs[0].config
        alone = len(self.runs) == 1
        return f"{self.name} ({config.algorithm} {config.level})" if alone else self.name

    @cached_property
    def errors(self) -> dict[str, dict[str, float]]:
        """Absolute error by property and crystal; no property without predictions of all runs."""
        found: dict[str, dict[str, list[float]]] = {}
        for one in self.runs:
            table = one.test
            for name in self.properties:
                if table is None or name not in table.properties:
                    return {}
                of_crystals = found.setdefault(name, {})
                for key, error in zip(table.ids, table.error(name).tolist(), strict=True):
                    if not math.isnan(error):
                        of_crystals.setdefault(key, []).append(abs(error))
        return {
            name: {key: fmean(values) for key, values in crystals.items()}
            for name, crystals in found.items()
        }

    def mean_error(self, name: str) -> MeanError:
        """Over all tested crystals. Of several runs without predictions: mean over the runs."""
        if len(self.runs) == 1:
            run = self.runs[0]
            return MeanError(
                run.metric(name, "mae") or 0.0, run.metric(name, "mae_se"),
                int(run.metric(name, "n") or 0),
            )  # fmt: skip
        if name in self.errors:
            return _mean(self.errors[name].values())
        values = [run.metric(name, "mae") or 0.0 for run in self.runs]
        return MeanError(fmean(values), None, int(self.runs[0].metric(name, "n") or 0))

    @property
    def score(self) -> float:
        ratios = [
            (run.metric(name, "mae") or 0.0) / mad
            for run in self.runs
            for name in self.properties
            if (mad := run.metric(name, "mad"))
        ]
        return fmean(ratios) if ratios else math.nan


@dataclass(frozen=True)
class Difference:
    """Mean over the common test crystals of |error| of a group minus |error| of the best.

    Positive: the best has the lower error. se: the standard error of this mean over crystals, to
    which a bootstrap of the crystals converges.
    """

    name: str
    group: Group
    mean: float
    se: float | None
    n: int


@dataclass(frozen=True)
class Comparison:
    """Groups, the best score first, with their paired differences to the first.

    settings: those that differ between groups, a value for each.
    """

    groups: tuple[Group, ...]
    settings: Mapping[str, Sequence[object]]

    @cached_property
    def differences(self) -> list[Difference]:
        """By property; none where predictions are missing."""
        best, found = self.groups[0], []
        for name in best.properties:
            for other in self.groups[1:]:
                mine, theirs = best.errors.get(name, {}), other.errors.get(name, {})
                pairs = [theirs[key] - mine[key] for key in mine if key in theirs]
                if pairs:
                    mean = _mean(pairs)
                    found.append(Difference(name, other, mean.mae, mean.se, mean.n))
        return found

    def text(self) -> str:
        """The tables. Groups are named by letters, so that columns stay narrow."""
        letters = dict(zip(self.groups, _letters(), strict=False))
        properties = self.groups[0].properties
        unit = self.groups[0].runs[0].unit
        shown = {name: f"{name} ({unit(name)})" if unit(name) else name for name in properties}
        lines = [f"{letter}  {group.title}" for group, letter in letters.items()]
        if self.settings:
            rows = [[key, *map(_short, values)] for key, values in self.settings.items()]
            lines += ["", tables.aligned(["setting", *letters.values()], rows)]
        rows = []
        for name in properties:
            errors = [group.mean_error(name) for group in self.groups]
            cells = [tables.with_error(error.mae, error.se) for error in errors]
            rows.append([shown[name], str(errors[0].n), *cells])
        scores = [tables.number(_json_number(group.score), 3) for group in self.groups]
        rows.append(["mean MAE/MAD", "", *scores])
        lines += ["", tables.aligned(["test MAE ± SE", "n", *letters.values()], rows)]
        lines += self._several_runs(letters, shown)
        if self.differences:
            lines += ["", self._difference_table(letters, shown)]
            lines.append("positive: A has the lower error; SE over the common test crystals")
        elif len(self.groups) > 1:
            lines += ["", "no paired differences: not all of these runs have predictions_test.csv"]
        return "\n".join(lines)

    def _difference_table(self, letters: Mapping[Group, str], shown: Mapping[str, str]) -> str:
        first = letters[self.groups[0]]
        header = ["paired difference ± SE", *(f"{letters[g]} - {first}" for g in self.groups[1:])]
        rows = []
        for name in self.groups[0].properties:
            cells = {
                d.group: tables.with_error(d.mean, d.se) for d in self.differences if d.name == name
            }
            rows.append([shown[name], *(cells.get(g, tables.ABSENT) for g in self.groups[1:])])
        return tables.aligned(header, rows)

    def _several_runs(self, letters: Mapping[Group, str], shown: Mapping[str, str]) -> list[str]:
        """MAE of the single runs of groups of several."""
        lines: list[str] = []
        for group in (group for group in self.groups if len(group.runs) > 1):
            runs = sorted(group.runs, key=lambda one: (one.config.fold or 0, one.config.seed))
            labels = [_label(one) for one in runs]
            rows = [
                [shown[name], *(tables.number(one.metric(name, "mae"), 3) for one in runs)]
                for name in group.properties
            ]
            lines += ["", tables.aligned([f"MAE of {letters[group]} by run", *labels], rows)]
        return lines

    def as_json(self) -> dict[str, Any]:
        """The fields of ``--json``: ``groups`` (name, runs, folds, mae, mae_se, n, score),
        ``settings`` by name, a value for each group, and ``differences`` to the first group
        (property, group, mean, se, n)."""
        groups = []
        for group in self.groups:
            errors = {name: group.mean_error(name) for name in group.properties}
            groups.append(
                {
                    "name": group.name,
                    "runs": [str(one.folder.path) for one in group.runs],
                    "folds": sorted({r.config.fold for r in group.runs if r.config.fold}),
                    "mae": {name: error.mae for name, error in errors.items()},
                    "mae_se": {name: error.se for name, error in errors.items()},
                    "n": {name: error.n for name, error in errors.items()},
                    "score": _json_number(group.score),
                }
            )
        differences = [
            {"property": d.name, "group": d.group.name, "mean": d.mean, "se": d.se, "n": d.n}
            for d in self.differences
        ]
        return {"groups": groups, "settings": dict(self.settings), "differences": differences}


def runs_to_compare(models_dir: Path, names: Sequence[str]) -> list[RunResults]:
    """Results by name: of a run, of an ensemble as one, of each run of a sweep.

    Raises InputError as ``find_run`` and for what has no results.
    """
    found: list[RunResults] = []
    for name in names:
        ensemble = find_ensemble(models_dir, name)
        if ensemble is None:
            found.append(results_of_run(find_run(models_dir, name)))
        elif ensemble.is_sweep:
            found += _finished_runs(ensemble)
        else:
            found.append(results_of_ensemble(ensemble))
    return list({one.folder.path.resolve(): one for one in found}.values())


def _finished_runs(ensemble: Ensemble) -> list[RunResults]:
    """Results of the finished runs of a sweep or search; the others are named in a warning.

    Raises InputError if none is finished.
    """
    states = {manifest.run_id: manifest.state for manifest in ensemble.manifests()}
    finished = [run for run in ensemble.members if states[run.id] == "finished"]
    if finished and len(finished) < len(states):
        others = [name for name, state in states.items() if state != "finished"]
        log.warning("%s: left out, since not finished: %s", ensemble.id, ", ".join(others))
    return [results_of_run(run) for run in finished or ensemble.members]


def compare(runs: Sequence[RunResults]) -> Comparison:
    """Groups of these runs by recipe.

    Raises InputError where the runs cannot be ranked: trained on different stores, tested on
    different folds, or without a common property.
    """
    if not runs:
        raise InputError("no run to compare: name runs by id or directory")
    _check_same_data(runs)
    recipes: dict[str, list[RunResults]] = {}
    for one in runs:
        recipes.setdefault(_recipe(one), []).append(one)
    folds = {key: sorted({r.config.fold or 0 for r in found}) for key, found in recipes.items()}
    if len({tuple(numbers) for numbers in folds.values()}) > 1:
        listed = "; ".join(
            f"{found[0].id}: {', '.join(map(str, folds[key]))}" for key, found in recipes.items()
        )
        raise InputError(
            f"these recipes were tested on different folds ({listed}): train each on the same ones"
        )
    shared = tuple(
        name
        for name in in_order(runs[0].properties)
        if all(one.metric(name, "mae") is not None for one in runs)
    )
    if not shared:
        raise InputError("these runs have no property in common that has test labels")
    groups = sorted((Group(tuple(r), shared) for r in recipes.values()), key=lambda g: g.score)
    settings = differing_settings([group.runs[0].config for group in groups])
    # Of a group of folds or starts, its first run's says nothing.
    settings.pop("fold", None)
    members = [len(group.runs[0].members) for group in groups]
    if max(members) > 1:
        settings["members of the ensemble"] = list(members)
    return Comparison(tuple(groups), settings)


def _recipe(one: RunResults) -> str:
    """All settings that change the result, but for fold and seed, as a key."""
    identity = one.config.identity()
    kept = {key: value for key, value in identity.items() if key not in _NOT_OF_THE_GROUP}
    kept["ensemble"] = one.id if one.is_ensemble else None
    return json.dumps(kept, sort_keys=True, default=str)


def _check_same_data(runs: Sequence[RunResults]) -> None:
    if problem := different_stores(runs):
        raise InputError(f"{problem}: their errors do not rank them")
    first = runs[0]
    for other in runs[1:]:
        if (other.config.fold is None) != (first.config.fold is None):
            one, two = (f"{r.id}: {r.config.fold or 'none'}" for r in (first, other))
            raise InputError(
                f"these runs have different test sets (fold of {one}, of {two}): compare runs with "
                "folds, or runs without"
            )


def _mean(values: Iterable[float]) -> MeanError:
    known = list(values)
    se = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return MeanError(fmean(known), se, len(known))


def _label(one: RunResults) -> str:
    seed = f"seed {one.config.seed}"
    return f"fold {one.config.fold}, {seed}" if one.config.fold else seed


def _short(value: object) -> str:
    """A setting in a narrow column; the whole is in --json."""
    if value is None:
        return tables.ABSENT
    if isinstance(value, list):
        value = ",".join(map(str, value))
    text = str(value)
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 3] + "..."


def _letters() -> Iterable[str]:
    yield from string.ascii_uppercase
    for first in string.ascii_uppercase:
        yield from (first + second for second in string.ascii_uppercase)


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else value
