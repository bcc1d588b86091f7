"""Sharded work: the call of each shard and the call that joins them.

Reads nothing of the sources and needs neither numpy nor torch: the nodes do the work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phase2hpc.cluster.node import shard_task
from phase2hpc.cluster.submit.resources import ResourceOverrides
from phase2hpc.cluster.submit.slurm_executor import Call
from phase2hpc.config.algorithms import Resources
from phase2hpc.errors import InputError
from phase2hpc.inference.prediction_request import file_hashes
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.absolute_path import absolute_path
from phase2hpc.utils.shard_folder import MAX_SHARDS, ShardFolder, fingerprints

SHARD_HOURS = 4.0
SHARD_MEMORY_GB = 16
PREPARE_CPUS = 8


@dataclass(frozen=True)
class ShardedWork:
    """Sharded work. target: the result. shards: the call of each shard. last: the call that joins
    them, named ``join``. folders: what is read or written. extra: the extra that it needs."""

    name: str
    target: Path
    folder: ShardFolder
    shards: tuple[Call, ...]
    last: Call
    join: str
    folders: tuple[Path, ...]
    resources: Resources
    wanted: ResourceOverrides
    extra: str

    @property
    def logs(self) -> Path:
        """Folder of the jobs' scripts and logs, which are kept."""
        return absolute_path(self.target.with_name(f"{self.target.name}.jobs"))


def prepare_in_shards(
    sources: Sequence[str],
    store: Path,
    options: Mapping[str, Any],
    shards: int,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> ShardedWork:
    """A sharded ``prepare``. options: as in ``shard_task.converter``. Raises InputError."""
    _validate(shards, sources)
    made_from: dict[str, Any] = {"sources": fingerprints(sources), **options}
    rule, table = options["split"], options.get("labels")
    files = [name for name in (rule, table) if name and Path(name).exists()]
    made_from["files"] = fingerprints(files)
    folder = ShardFolder.beside(store, shards, made_from)
    cwd, path = os.getcwd(), str(folder.path)
    calls: list[Call] = [
        (shard_task.prepare_shard, (cwd, path, shards, k, list(sources), dict(options), workers))
        for k in range(shards)
    ]
    last = (cwd, path, shards, list(sources), str(store), dict(options), overwrite)
    return ShardedWork(
        name="prepare",
        target=store,
        folder=folder,
        shards=tuple(calls),
        last=(shard_task.merge_prepared, last),
        join="merge",
        folders=_folders(store, [*sources, *files]),
        resources=Resources(SHARD_HOURS, workers or PREPARE_CPUS, SHARD_MEMORY_GB, 0),
        wanted=ResourceOverrides(nodes=1, gpus_per_node=0, tasks_per_node=1, cpus=workers),
        extra="data",
    )


def predict_in_shards(
    inputs: Sequence[str],
    output: Path,
    runs: Sequence[RunDirectory],
    shards: int,
    *,
    plain_folder: bool,
    device: str,
    threads: int,
    max_atoms: int | None = None,
    interval: float = 0.9,
) -> ShardedWork:
    """A sharded ``predict`` with the best weights of these runs. Raises InputError."""
    _validate(shards, inputs)
    made_from = {
        "inputs": fingerprints(inputs),
        "plain_folder": plain_folder,
        "models": [file_hashes(run) for run in runs],
        "device": device,
        "threads": threads,
        "max_atoms": max_atoms,
        "interval": interval,
    }
    folder = ShardFolder.beside(output, shards, made_from)
    cwd, path, models = os.getcwd(), str(folder.path), [str(run.path) for run in runs]
    further = (list(inputs), plain_folder, models, device, threads, max_atoms, interval)
    calls: list[Call] = [
        (shard_task.predict_shard, (cwd, path, shards, k, *further)) for k in range(shards)
    ]
    return ShardedWork(
        name="predict",
        target=output,
        folder=folder,
        shards=tuple(calls),
        last=(
            shard_task.join_predictions,
            (cwd, path, shards, list(inputs), models, str(output)),
        ),
        join="join",
        folders=_folders(output, [*inputs, *models]),
        resources=Resources(SHARD_HOURS, threads, SHARD_MEMORY_GB, int(device == "cuda")),
        wanted=ResourceOverrides(
            nodes=1, gpus_per_node=0 if device == "cpu" else None, cpus=threads
        ),
        extra="train",
    )


def _validate(shards: int, sources: Sequence[str]) -> None:
    if shards > MAX_SHARDS:
        raise InputError(f"--shards {shards}: at most {MAX_SHARDS}")
    for source in sources:
        # A name that the readers resolve, such as ``jarvis:dft_3d``, is not a path.
        if not Path(source).exists() and ":" not in source:
            raise InputError(f"{source}: no such file or folder")


def _folders(target: Path, sources: Sequence[str]) -> tuple[Path, ...]:
    paths = [Path(source) for source in sources if Path(source).exists()]
    return (target.parent, *(path if path.is_dir() else path.parent for path in paths))
