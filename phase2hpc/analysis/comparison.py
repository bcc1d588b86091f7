"""Comparison of finished runs: test errors side by side, cross-validation folds averaged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from phase2hpc.config.run_config import RunConfig
from phase2hpc.errors import InputError
from phase2hpc.runs.registry import read_metrics
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils import tables

# Settings in which runs of one recipe may differ.
_NOT_THE_RECIPE = ("fold", "seed", "init_from")


@dataclass(frozen=True)
class ComparedRun:
    """A finished run with its test metrics by property."""

    run: RunDirectory
    config: RunConfig
    store_hash: str
    metrics: Mapping[str, Mapping[str, Any]]

    @property
    def recipe(self) -> str:
        """All settings that change the result, but for fold and seed, as a key."""
        identity = self.config.identity()
        kept = {key: value for key, value in identity.items() if key not in _NOT_THE_RECIPE}
        return json.dumps(kept, sort_keys=True, default=str)


@dataclass(frozen=True)
class ComparedGroup:
    """Runs of one recipe: one run, or its folds and seeds.

    mae and se: by property, in its unit; the standard error is that of a single run's test
    crystals, or over folds (else seeds) of their means, None where there is one only. score: mean
    over the properties of MAE / MAD.
    """

    name: str
    runs: tuple[ComparedRun, ...]
    mae: Mapping[str, float]
    se: Mapping[str, float | None]
    score: float


def compare(runs: Sequence[RunDirectory]) -> list[ComparedGroup]:
    """Groups of these runs by recipe, the lowest score first.

    Raises InputError for a run without results, and where the runs cannot be ranked: trained on
    different stores, tested on different folds, or without a common property.
    """
    if not runs:
        raise InputError("no run to compare: name runs by id or directory")
    compared = [_read(run) for run in {run.path.resolve(): run for run in runs}.values()]
    _check_same_data(compared)
    recipes: dict[str, list[ComparedRun]] = {}
    for one in compared:
        recipes.setdefault(one.recipe, []).append(one)
    folds = {key: sorted({r.config.fold or 0 for r in found}) for key, found in recipes.items()}
    if len({tuple(numbers) for numbers in folds.values()}) > 1:
        listed = "; ".join(
            f"{found[0].run.id}: {', '.join(map(str, folds[key]))}"
            for key, found in recipes.items()
        )
        raise InputError(
            f"these recipes were tested on different folds ({listed}): train each on the same ones"
        )
    shared = [
        name
        for name in compared[0].metrics
        if all((one.metrics.get(name) or {}).get("mae") is not None for one in compared)
    ]
    if not shared:
        raise InputError("these runs have no property in common that has test labels")
    groups = [_group(found, shared) for found in recipes.values()]
    return sorted(groups, key=lambda group: group.score)


def _read(run: RunDirectory) -> ComparedRun:
    manifest = run.read_manifest()
    metrics = read_metrics(run)
    if metrics is None or manifest.state != "finished":
        raise InputError(f"run {run.id} is not finished: only finished runs have test errors")
    return ComparedRun(run, run.read_config(), manifest.store_hash or "", metrics["test"])


def _check_same_data(runs: Sequence[ComparedRun]) -> None:
    first = runs[0]
    for other in runs[1:]:
        if other.store_hash != first.store_hash or not first.store_hash:
            raise InputError(
                f"runs {first.run.id} and {other.run.id} were trained on different stores "
                f"({first.store_hash[:12] or 'unknown'} and {other.store_hash[:12] or 'unknown'}), "
                "whose test sets differ: their errors do not rank them"
            )
        if (other.config.fold is None) != (first.config.fold is None):
            one, two = (f"{r.run.id}: {r.config.fold or 'none'}" for r in (first, other))
            raise InputError(
                f"these runs have different test sets (fold of {one}, of {two}): compare runs with "
                "folds, or runs without"
            )


def _group(runs: Sequence[ComparedRun], properties: Sequence[str]) -> ComparedGroup:
    by_fold: dict[int, list[ComparedRun]] = {}
    for one in runs:
        by_fold.setdefault(one.config.fold or 0, []).append(one)
    mae: dict[str, float] = {}
    se: dict[str, float | None] = {}
    ratios = []
    for name in properties:
        of_folds = [fmean(r.metrics[name]["mae"] for r in found) for found in by_fold.values()]
        values = of_folds if len(by_fold) > 1 else [r.metrics[name]["mae"] for r in runs]
        mae[name] = fmean(values)
        if len(values) > 1:
            se[name] = stdev(values) / math.sqrt(len(values))
        else:
            se[name] = runs[0].metrics[name].get("mae_se")
        ratios += [r.metrics[name]["mae"] / r.metrics[name]["mad"] for r in runs
                   if r.metrics[name].get("mad")]  # fmt: skip
    first = runs[0]
    name = first.run.id if len(runs) == 1 else f"{first.config.algorithm} {first.config.level}"
    if len(by_fold) > 1:
        name += f", {len(by_fold)} folds"
    if len(runs) > len(by_fold):
        name += f", {len(runs)} runs"
    return ComparedGroup(name, tuple(runs), mae, se, fmean(ratios) if ratios else math.nan)


def comparison_table(groups: Sequence[ComparedGroup]) -> str:
    """Test MAE ± standard error by property, one row a group; single runs of folds below it."""
    properties = list(groups[0].mae)
    units = {name: groups[0].runs[0].config.column(name).unit for name in properties}
    header = ["test MAE", *(f"{p} ({units[p]})" if units[p] else p for p in properties)]
    rows = []
    for group in groups:
        values = [tables.with_error(group.mae[p], group.se[p]) for p in properties]
        rows.append([group.name, *values, tables.number(group.score, 3)])
        if len(group.runs) > 1:
            rows += [
                [
                    f"  {_label(one)}",
                    *(tables.number(one.metrics[p]["mae"]) for p in properties),
                    "",
                ]
                for one in sorted(group.runs, key=lambda r: (r.config.fold or 0, r.config.seed))
            ]
    return tables.aligned([*header, "mean MAE/MAD"], rows)


def comparison_records(groups: Sequence[ComparedGroup]) -> list[dict[str, Any]]:
    """The same as records for JSON."""
    return [
        {
            "name": group.name,
            "runs": [str(one.run.path) for one in group.runs],
            "folds": sorted({one.config.fold for one in group.runs if one.config.fold}),
            "mae": dict(group.mae),
            "mae_se": dict(group.se),
            "score": None if math.isnan(group.score) else group.score,
        }
        for group in groups
    ]


def _label(one: ComparedRun) -> str:
    fold = f"fold {one.config.fold}, " if one.config.fold else ""
    return f"{fold}seed {one.config.seed}: {one.run.id}"
