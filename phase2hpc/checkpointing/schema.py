"""What the state files hold: their schemas, by version, and the way from a version to the next.

Version 1 (0.1) named neither its kind nor its version. A change of what a file holds, or of what
it means, is a new version with a step in ``_STEPS``, and frozen files of it
in tests/checkpointing/frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phase2hpc.checkpointing.file_format import CorruptCheckpoint, NewerVersion
from phase2hpc.utils.error_text import first_problem

SCHEMA_VERSION = 2

Kind = Literal["best", "checkpoint"]
State = dict[str, Any]
Tensors = dict[str, torch.Tensor]


class _Schema(BaseModel):
    """Keys that are not named here are kept: more may be said in a file than is needed of it."""

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
    arithmetic: int
    rng: list[dict[str, Any]] = Field(min_length=1)
    history: list[dict[str, Any]]
    loss_sums: torch.Tensor
    counted: int | None = Field(ge=0)
    skipped: dict[str, int | float]
    best_score: float
    best_epoch: int = Field(ge=0)


_SCHEMAS: dict[Kind, type[_Schema]] = {"best": _Best, "checkpoint": _Checkpoint}


def versioned(kind: Kind, state: State) -> State:
    """``state`` as a file of this kind and of the present version says it."""
    return {"kind": kind, "schema_version": SCHEMA_VERSION, **state}


def current(kind: Kind, state: State) -> State:
    """What a file of any version so far holds, in the present version's words.

    Raises NewerVersion, and CorruptCheckpoint where it is another kind of file or keys
    are missing or of another type.
    """
    version = state.get("schema_version", 1)
    if type(version) is not int or version < 1:
        raise CorruptCheckpoint(f"its schema version is {version!r}")
    if version > SCHEMA_VERSION:
        raise NewerVersion(
            f"written in schema version {version}, this one reads up to {SCHEMA_VERSION}"
        )
    for step in range(version, SCHEMA_VERSION):
        state = _STEPS[step](state)
    try:
        _SCHEMAS[kind].model_validate(state)
    except ValidationError as error:
        raise CorruptCheckpoint(f"no state of a {kind}: {first_problem(error, 'key')}") from None
    return state


def _say_more(state: State) -> State:
    """Version 1 to 2: the kind is named, and runs may skip steps and have several processes."""
    if "weights" in state:
        return {"kind": "best", **state, "schema_version": 2}
    return {
        "kind": "checkpoint",
        "arithmetic": 1,
        **state,
        "rng": [state.get("rng")],
        # Not said there; it follows from the position in the epoch.
        "counted": None,
        "skipped": {"total": 0, "in_epoch": 0, "in_row": 0, "rate_factor": 1.0},
        "schema_version": 2,
    }


_STEPS: dict[int, Callable[[State], State]] = {1: _say_more}
