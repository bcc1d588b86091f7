"""Training requests and their configurations. Imports no torch, for use on login nodes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phase2hpc.config import properties as property_table
from phase2hpc.config.algorithm_registry import algorithm_named, level_named
from phase2hpc.config.properties import ColumnSettings
from phase2hpc.config.run_config import RunConfig, build_config
from phase2hpc.config.settings import MAX_EPOCHS
from phase2hpc.errors import InputError
from phase2hpc.runs.registry import find_run
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.seeds import parse_seeds
from phase2hpc.utils.absolute_path import absolute_path

# Settings that have flags of their own and are not set by --set or --sweep.
OWN_FLAGS = (
    "store", "models_dir", "seed", "properties", "algorithm", "level", "run_id", "init_from",
    "auxiliary", "columns", "fold",
)  # fmt: skip


@dataclass(frozen=True)
class TrainRequest:
    """Arguments of ``phase2hpc train``; None and absent keys: the level's default, or, with
    ``resume``, the run's own.

    store: None for that of the shipped sample, which is prepared if missing. auxiliary:
    properties that are trained but not scored, as ``properties``. columns: unit, lower bound and
    scale by column, over the store's. fold: of a store with folds. overrides: flat settings by
    name, ``preset`` among them. init_from: the run whose weights to start from. accept_changes:
    resume although settings, store or code change the result. seeds: of an ensemble, empty for one
    run.
    """

    algorithm: str
    level: str
    models_dir: Path
    store: Path | None = None
    properties: str | None = None
    auxiliary: str | None = None
    columns: Mapping[str, ColumnSettings] = field(default_factory=dict)
    fold: int | None = None
    resume: bool = False
    run_id: str | None = None
    init_from: RunDirectory | None = None
    seed: int | None = None
    accept_changes: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


def check_request(request: TrainRequest) -> None:
    """Raise InputError for errors of a request that do not depend on the store.

    Called before a store is prepared or opened. Names of other columns than the nine properties
    are checked later, except with the shipped sample, which has no others.
    """
    row = level_named(algorithm_named(request.algorithm), request.level)
    asked = [spec for spec in (request.properties, request.auxiliary) if spec is not None]
    if request.store is None:
        for spec in asked:
            property_table.resolve(spec, ())
    _build(request, None, property_table.names_of(row.properties))


def new_config(
    request: TrainRequest,
    store: Path,
    columns: Mapping[str, ColumnSettings],
    *,
    announce: bool = True,
) -> RunConfig:
    """Configuration of a new run: the level's settings, overridden by the request's.

    columns: the store's label columns with their settings. announce: print which properties are
    trained where that is not the level's group. Raises InputError for unknown names.
    """
    row = level_named(algorithm_named(request.algorithm), request.level)
    available = list(columns)
    auxiliary: list[str] = []
    if request.auxiliary is not None:
        auxiliary = property_table.resolve(request.auxiliary, available)
    if request.properties is not None:
        names = property_table.resolve(request.properties, available)
        if both := [name for name in names if name in auxiliary]:
            raise InputError(
                f"{', '.join(both)}: in --properties and in --auxiliary, give it in one of them"
            )
    else:
        names, line = property_table.resolve_default(row.properties, available, auxiliary)
        if line and announce:
            print(line, flush=True)
    property_table.check_columns((*names, *auxiliary))
    for name in request.columns:
        if name not in (*names, *auxiliary):
            raise InputError(
                f"--column {name}: not among the properties to train ({', '.join(names)})"
            )
    settings = {}
    for name in (*names, *auxiliary):
        default = property_table.default_settings(name)
        own = columns.get(name, ColumnSettings())
        chosen = request.columns.get(name, ColumnSettings()).over(own).over(default)
        if chosen != default:
            settings[name] = chosen
    return _build(request, store, names, auxiliary=tuple(auxiliary), columns=settings)


def _build(
    request: TrainRequest, store: Path | None, names: Sequence[str], **fixed: Any
) -> RunConfig:
    return build_config(
        request.algorithm,
        request.level,
        names,
        {
            **request.overrides,
            # Absolute: a resume may run in another working directory.
            "store": None if store is None else absolute_path(store),
            "models_dir": absolute_path(request.models_dir),
        },
        seed=request.seed or 0,
        fold=request.fold,
        init_from=None if request.init_from is None else str(absolute_path(request.init_from.path)),
        **fixed,
    )


def train_request(
    *,
    algorithm: str,
    level: str,
    store: str | os.PathLike[str] | None,
    models_dir: str | os.PathLike[str],
    properties: str | Sequence[str] | None,
    all_properties: bool,
    auxiliary: str | Sequence[str] | None,
    column: Sequence[str] | None,
    fold: int | None,
    resume: bool,
    run_id: str | None,
    init_from: str | os.PathLike[str] | RunDirectory | None,
    seed: int | None,
    accept_changes: bool,
    settings: dict[str, Any],
    freeze: str | None = None,
    seeds: str | Sequence[int] | None = None,
) -> TrainRequest:
    """A request with the arguments of ``train``, checked as far as possible without the store.

    Raises:
        InputError: an argument is not valid, or two contradict each other.
    """
    level_named(algorithm_named(algorithm), level)
    if all_properties and properties:
        raise InputError("--all-properties and --properties: give only one of them")
    if resume and init_from:
        raise InputError("--resume uses the weights of the run itself: leave out --init-from")
    numbers = _seeds(seeds)
    if numbers and resume:
        raise InputError("--resume: an ensemble has its seeds: leave out --seeds, give --run-id")
    if numbers and seed is not None:
        raise InputError("--seed and --seeds: give one of them")
    if freeze is not None:
        if init_from is None:
            raise InputError("--freeze: needs --init-from, a run whose encoder is kept")
        if "frozen_epochs" in settings:
            raise InputError("--freeze and --set frozen_epochs: give only one of them")
        settings = {**settings, "frozen_epochs": _frozen_epochs(freeze)}
    folder = Path(models_dir)
    if init_from is not None and not isinstance(init_from, RunDirectory):
        init_from = find_run(folder, os.fspath(init_from))
    return TrainRequest(
        algorithm=algorithm,
        level=level,
        store=None if store is None else Path(store),
        models_dir=folder,
        properties="all9" if all_properties else _comma_list(properties),
        auxiliary=_comma_list(auxiliary),
        columns=property_table.parse_columns(column or ()),
        fold=fold,
        resume=resume,
        run_id=run_id,
        seed=seed,
        accept_changes=accept_changes,
        overrides=settings,
        init_from=init_from,
        seeds=numbers,
    )


def _seeds(seeds: str | Sequence[int] | None) -> tuple[int, ...]:
    if seeds is None:
        return ()
    return tuple(parse_seeds(seeds if isinstance(seeds, str) else ",".join(map(str, seeds))))


def _frozen_epochs(freeze: str) -> int:
    """Epochs of ``encoder`` (all) or ``encoder:N``."""
    part, _, number = freeze.partition(":")
    if part != "encoder" or (":" in freeze and not (number.isdecimal() and int(number) > 0)):
        raise InputError(f"--freeze {freeze}: write encoder, or encoder:N for the first N epochs")
    return min(int(number), MAX_EPOCHS) if number else MAX_EPOCHS


def _comma_list(names: str | Sequence[str] | None) -> str | None:
    return names if names is None or isinstance(names, str) else ",".join(names) or None
