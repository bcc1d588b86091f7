"""Root attributes of a store, validated."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phase2hpc.config.properties import ColumnSettings, shown_name
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.graph_arrays import EDGE_TABLE_BYTES, FIELDS, NODE_TABLE_BYTES
from phase2hpc.data.splits import MAX_FOLDS, MIN_FOLDS, SPLITS
from phase2hpc.data.store.layout import (
    LABELS,
    column_settings,
    damaged,
    label_datasets,
    open_file,
)
from phase2hpc.data.store.structure_checks import (
    H5_ERRORS,
    InvalidStore,
    check_structure,
    text_attribute,
)
from phase2hpc.utils.text import one_line


@dataclass(frozen=True)
class StoreInfo:
    """Root attributes of a store. ``size`` in bytes on disk, ``memory`` in bytes once in RAM.

    units: unit by label column. columns: unit, lower bound and scale by label column.
    """

    path: Path
    crystals: int
    nodes: int
    edges: int
    graph_settings: GraphSettings
    float64: bool
    units: Mapping[str, str]
    columns: Mapping[str, ColumnSettings]
    source: Mapping[str, Any]
    preparation: Mapping[str, Any]
    summary: Mapping[str, Any]
    versions: Mapping[str, str]
    created: str
    content_hash: str
    size: int
    memory: int


def read_info(path: str | os.PathLike[str]) -> StoreInfo:
    """Root attributes of a store, without reading its arrays. Raises InputError as ``open``."""
    with open_file(path) as file:
        return info_of(Path(path), file)


def stored_hash(path: str | os.PathLike[str]) -> str:
    """The content hash in a store's root. Raises InputError as ``open_file``."""
    with open_file(path) as file:
        try:
            return text_attribute(file.attrs, "content_hash")
        except H5_ERRORS as error:
            raise damaged(Path(path), error) from error


def info_json(info: StoreInfo) -> dict[str, Any]:
    """The info for JSON: names of fields as in StoreInfo, sizes in bytes."""
    return {
        **{field.name: getattr(info, field.name) for field in fields(info)},
        "path": str(info.path),
        "graph_settings": info.graph_settings.to_dict(),
        "columns": {name: column.model_dump() for name, column in info.columns.items()},
    }


def info_lines(info: StoreInfo) -> list[str]:
    """The info as text."""
    settings = ", ".join(f"{key} {value}" for key, value in info.graph_settings.to_dict().items())
    lines = [
        f"{info.path}: {info.size / 1e6:,.1f} MB, {info.memory / 1e6:,.1f} MB in memory",
        f"  crystals      {info.crystals:,} with {info.nodes:,} atoms and {info.edges:,} edges",
        f"  graph         {settings}, {'double' if info.float64 else 'single'} precision",
        f"  source        {one_line(str(info.source.get('name', 'unknown')))}",
        f"  created       {info.created}",
        f"  content hash  {info.content_hash}",
        f"  {'':<32}{''.join(f'{name:>10}' for name in SPLITS)}",
    ]
    splits, labels = info.summary.get("splits", {}), info.summary.get("labels", {})
    counts = {"crystals": splits, **{name: labels.get(name, {}) for name in info.units}}
    for name, by_split in counts.items():
        row = "".join(f"{by_split.get(split, 0):>10,}" for split in SPLITS)
        lines.append(f"  {shown_name(name, info.columns):<32}{row}{_settings(info, name)}")
    if folds := number_of_folds(info):
        lines.append(f"  folds         {folds}, by formula: train --fold 1 to {folds}")
    return lines


def _settings(info: StoreInfo, name: str) -> str:
    """Lower bound and scale of a column where they are given, as text."""
    column = info.columns.get(name, ColumnSettings())
    bound = [] if column.lower_bound is None else [f"min {column.lower_bound:g}"]
    parts = [*bound, *([f"scale {column.scale}"] if column.scale else [])]
    return f"   {', '.join(parts)}" if parts else ""


def number_of_folds(info: StoreInfo) -> int | None:
    """Number of folds that a store was prepared with, None for none."""
    folds = info.preparation.get("folds")
    return folds if type(folds) is int and MIN_FOLDS <= folds <= MAX_FOLDS else None


def info_of(path: Path, file: h5py.File) -> StoreInfo:
    """Root attributes of an open store, its structure checked.

    Raises InputError where it is damaged, or no store that phase2hpc wrote.
    """
    try:
        if file.userblock_size:
            raise InvalidStore(f"it begins with {file.userblock_size} bytes that are not its own")
        check_structure(file, LABELS)
        attributes = file.attrs
        labels = label_datasets(file)
        columns = {name: column_settings(dataset) for name, dataset in labels.items()}
        datasets = [file[name] for name in FIELDS] + list(labels.values())
        digest = text_attribute(attributes, "content_hash")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise InvalidStore("the attribute 'content_hash' is not a SHA-256 digest")
        return StoreInfo(
            path=path,
            crystals=len(file["lattice"]),
            nodes=len(file["atomic_number"]),
            edges=len(file["sender"]),
            graph_settings=_graph_settings(_json_attribute(attributes, "graph_settings")),
            float64=file["frac_coords"].dtype == np.float64,
            units={name: column.unit or "" for name, column in columns.items()},
            columns=columns,
            source=_json_attribute(attributes, "source"),
            preparation=_json_attribute(attributes, "preparation"),
            summary=_summary(_json_attribute(attributes, "summary")),
            versions=_json_attribute(attributes, "versions"),
            created=one_line(text_attribute(attributes, "created")),
            content_hash=digest,
            size=path.stat().st_size,
            memory=sum(dataset.nbytes for dataset in datasets)
            + len(file["atomic_number"]) * NODE_TABLE_BYTES
            + len(file["sender"]) * EDGE_TABLE_BYTES,
        )
    except H5_ERRORS as error:
        raise damaged(path, error) from error


def _json_attribute(attributes: h5py.AttributeManager, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text_attribute(attributes, name))
    except json.JSONDecodeError as error:
        raise InvalidStore(f"the attribute '{name}' is not JSON") from error
    except RecursionError as error:
        raise InvalidStore(f"the attribute '{name}' is nested too deeply") from error
    if not isinstance(value, dict):
        raise InvalidStore(f"the attribute '{name}' is not a JSON object")
    return value


def _graph_settings(values: Mapping[str, Any]) -> GraphSettings:
    keys = [field.name for field in fields(GraphSettings)]
    if sorted(values) != sorted(keys):
        raise InvalidStore(f"the attribute 'graph_settings' does not hold {', '.join(keys)}")
    most = values["max_neighbors"]
    if any(type(values[key]) not in (int, float) for key in keys if key != "max_neighbors") or type(
        most
    ) not in (int, type(None)):
        raise InvalidStore("the attribute 'graph_settings' has a value that is not a number")
    return GraphSettings(**values)


def _summary(values: dict[str, Any]) -> dict[str, Any]:
    """Counts, counts by name, and counts by two names; raises InvalidStore for anything else."""
    if any(not _is_counts(value) for value in values.values()):
        raise InvalidStore("the attribute 'summary' has a value that is not a count")
    return values


def _is_counts(value: Any, depth: int = 2) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_is_counts(inner, depth - 1) for inner in value.values())
    return type(value) in (int, float)
