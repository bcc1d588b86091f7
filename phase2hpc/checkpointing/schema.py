"""Schemas of best.pt and checkpoint.pt, and migrations between their versions.

A change of a file's content or its meaning is a new version with a migration in ``_MIGRATIONS`` and
frozen files in tests/checkpointing/frozen. Version 1 (phase2hpc 0.1) had neither ``kind`` nor
``schema_version``; version 3 is the first in a plain torch archive (``file_format``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phase2hpc.checkpointing.file_errors import CorruptCheckpoint, NewerVersion
from phase2hpc.utils.error_text import first_problem

SCHEMA_VERSION = 3

Kind = Literal["best", "checkpoint"]
State = dict[str, Any]
Tensors = dict[str, torch.Tensor]


class _Schema(BaseModel):
    """Types are checked strictly; unknown keys are kept."""

    model_config = ConfigDict(strict=True, extra="allow", arbitrary_types_allowed=True)


class _Scaler(_Schema):
    properties: list[str] = Field(min_length=1)
    mean: list[float]
    std: list[float]
    asinh_scale: list[float]
    label_fraction: list[float]


class _Best(_Schema):
    kind: Literal["best"]
    config: str
    graph_settings: dict[str, float | int | None]
    scaler: _Scaler
    weights: Tensors
    elements: list[int]
    epoch: int = Field(ge=0)
    score: float


class _Optimizer(_Schema):
    state: dict[int, dict[str, Any]]
    param_groups: list[dict[str, Any]]


class _Checkpoint(_Schema):
    kind: Literal["checkpoint"]
    step: int = Field(ge=0)
    model: Tensors
    averaged: Tensors
    loss: Tensors
    optimizer: _Optimizer
    scaler: _Scaler
    sampler: dict[str, Any]
    numerics_version: int
    rng: list[dict[str, Any]] = Field(min_length=1)
    history: list[dict[str, Any]]
    loss_sums: torch.Tensor
    counted: int | None = Field(ge=0)
    skipped: dict[str, int | float]
    best_score: float
    best_epoch: int = Field(ge=0)
    # What the order of crystals in an epoch follows from; None in states of older versions.
    order: dict[str, Any] | None = None


_SCHEMAS: dict[Kind, type[_Schema]] = {"best": _Best, "checkpoint": _Checkpoint}


def versioned(kind: Kind, state: State) -> State:
    """``state`` with its kind and the current schema version."""
    return {"kind": kind, "schema_version": SCHEMA_VERSION, **state}


def migrate(kind: Kind, state: State) -> State:
    """The content of a file of any version in the current schema.

    Raises NewerVersion, and CorruptCheckpoint where the file is of another kind, or keys are
    missing or of another type.
    """
    version = state.get("schema_version", 1)
    if type(version) is not int or version < 1:
        raise CorruptCheckpoint(f"its schema version is {version!r}")
    if version > SCHEMA_VERSION:
        raise NewerVersion(
            f"written in schema version {version}, this one reads up to {SCHEMA_VERSION}"
        )
    for number in range(version, SCHEMA_VERSION):
        state = _MIGRATIONS[number](state)
    try:
        _SCHEMAS[kind].model_validate(state)
    except ValidationError as error:
        raise CorruptCheckpoint(
            f"not a valid {kind} state: {first_problem(error, 'key')}"
        ) from None
    return state


def _from_version_1(state: State) -> State:
    """Add the kind, the generators of several processes and the counters of skipped steps."""
    if "weights" in state:
        return {"kind": "best", **state, "schema_version": 2}
    return {
        "kind": "checkpoint",
        "arithmetic": 1,
        **state,
        "rng": [state.get("rng")],
        # Derived from the position in the epoch.
        "counted": None,
        "skipped": {"total": 0, "in_epoch": 0, "in_row": 0, "rate_factor": 1.0},
        "schema_version": 2,
    }


def _from_version_2(state: State) -> State:
    """Rename ``arithmetic`` to ``numerics_version``."""
    state = {**state, "schema_version": 3}
    if "arithmetic" in state:
        state["numerics_version"] = state.pop("arithmetic")
    return state


_MIGRATIONS: dict[int, Callable[[State], State]] = {1: _from_version_1, 2: _from_version_2}
