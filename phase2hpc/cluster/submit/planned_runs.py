"""Runs of a submission: one, or those of an array, each with its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from phase2hpc.cluster.submit.store_size import PlannedStore
from phase2hpc.cluster.submit.sweep import Member
from phase2hpc.config.properties import ColumnSettings
from phase2hpc.config.run_config import RunConfig
from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import PREFIX, RunDirectory, checked_run_id, family_folder
from phase2hpc.training.request import TrainRequest, new_config
from phase2hpc.utils.absolute_path import absolute_path


@dataclass(frozen=True)
class PlannedRun:
    """A run and its settings; its directory exists only if it is resumed."""

    run: RunDirectory
    config: RunConfig
    member: Member


def new_runs(
    train: TrainRequest, store: PlannedStore, base: str, members: Sequence[Member]
) -> list[PlannedRun]:
    """One run for each member. base: of their ids. Raises InputError for wrong settings."""
    swept = {member.properties for member in members}
    asked = ",".join(filter(None, (train.properties, train.auxiliary, *train.columns, *swept)))
    columns = store.columns(asked or None)
    return [
        PlannedRun(
            _run_of(train, base + member.suffix),
            _config(train, store.path, columns, member, announce=member is members[0]),
            member,
        )
        for member in members
    ]


def _config(
    train: TrainRequest,
    store: Path,
    columns: Mapping[str, ColumnSettings],
    member: Member,
    *,
    announce: bool,
) -> RunConfig:
    for key in train.overrides.keys() & member.overrides.keys():
        raise InputError(f"--sweep {key}: --{key.replace('_', '-')} is given too")
    if member.properties is not None and train.properties is not None:
        raise InputError("--sweep properties: --properties (or --all-properties) is given too")
    request = replace(
        train,
        seed=train.seed if member.seed is None else member.seed,
        overrides={**train.overrides, **member.overrides},
        properties=train.properties if member.properties is None else member.properties,
    )
    return new_config(request, store, columns, announce=announce)


def _run_of(train: TrainRequest, run_id: str) -> RunDirectory:
    family = train.models_dir / family_folder(train.algorithm, train.level)
    run = RunDirectory(family / (PREFIX + checked_run_id(run_id)))
    if run.path.exists():
        raise InputError(
            f"run '{run.id}' exists already in {family}: continue it with --resume, or choose "
            "another --run-id"
        )
    if "%" in str(absolute_path(run.path)):
        raise InputError(f"{absolute_path(run.path)}: Slurm cannot write logs to a path with '%'")
    return run
