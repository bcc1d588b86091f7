"""What ``phase2hpc train`` was asked for. No torch here: a login node reads requests too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phase2hpc.config import properties as property_table
from phase2hpc.config.run_config import RunConfig, algorithm_named, build_config, level_named
from phase2hpc.runs.run_directory import RunDirectory

# Settings that have flags of their own and are not set by --set or --sweep.
OWN_FLAGS = (
    "store", "models_dir", "seed", "properties", "algorithm", "level", "run_id", "init_from",
)  # fmt: skip


@dataclass(frozen=True)
class TrainRequest:
    """None and absent keys: the level's default, or, with ``resume``, what the run has.

    store: None for the shipped sample's, which is prepared where it is not there yet. overrides:
    flat settings by name, ``preset`` among them. init_from: the run whose weights to start from.
    accept_changes: resume although settings, store or code change the result.
    """

    algorithm: str
    level: str
    models_dir: Path
    store: Path | None = None
    properties: str | None = None
    resume: bool = False
    run_id: str | None = None
    init_from: RunDirectory | None = None
    seed: int | None = None
    accept_changes: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)


def new_config(request: TrainRequest, store: Path, labels: Sequence[str]) -> RunConfig:
    """The level's settings with the request's on top; ``labels`` are the store's columns."""
    row = level_named(algorithm_named(request.algorithm), request.level)
    names = property_table.resolve(request.properties or row.properties, list(labels))
    return build_config(
        request.algorithm,
        request.level,
        names,
        {
            **request.overrides,
            # A resume may come from another working directory.
            "store": store.resolve(),
            "models_dir": request.models_dir.resolve(),
        },
        seed=request.seed or 0,
        init_from=None if request.init_from is None else str(request.init_from.path.resolve()),
    )
