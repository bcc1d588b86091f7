"""Layout of the HDF5 graph store: file, arrays by name, root attributes and content hash.

One immutable file of flat arrays with offsets (see ``graph_arrays.GraphArrays``). Read once, in
order, into memory, a shuffled epoch is 74 times faster than with one group per structure. Every
chunk has a checksum (fletcher32), the file a content hash over the logical arrays, which depends
neither on chunks, compression, versions nor time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from phase2hpc.config.properties import SCALES, ColumnSettings, shown_name
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.graph_arrays import EDGE_TABLE_BYTES, FIELDS, NODE_TABLE_BYTES
from phase2hpc.data.splits import MAX_FOLDS, MIN_FOLDS, SPLITS
from phase2hpc.data.store.structure_checks import (
    H5_ERRORS,
    InvalidStore,
    check_structure,
    members,
    text_attribute,
)
from phase2hpc.errors import InputError
from phase2hpc.utils.container_image import mount_hint
from phase2hpc.utils.error_text import first_line
from phase2hpc.utils.text import name_problem, one_line

FORMAT = "phase2hpc-graph-store"
# 2: label columns may have the attributes "lower_bound" and "scale". A store without them is
# written as version 1, which earlier programs read.
SCHEMA_VERSION = 2
LABELS = "labels"


class StoreNotFound(InputError):
    """The file is not a store, or one of a later version, as opposed to a damaged one."""


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


def open_file(path: str | os.PathLike[str]) -> h5py.File:
    """The HDF5 file of a complete store, read-only and without locks.

    Raises StoreNotFound for what is none, InputError for a damaged or incomplete one.
    """
    path = Path(path)
    if not path.exists():
        raise StoreNotFound(
            f"no store at {path}{mount_hint()}: make one with 'phase2hpc prepare --store {path}'"
        )
    if not path.is_file():
        raise StoreNotFound(f"{path} is not a file: give the store's .h5 file")
    try:
        if not h5py.is_hdf5(path):
            raise StoreNotFound(
                f"{path} is not an HDF5 file: give a store made by phase2hpc prepare"
            )
        file = h5py.File(path, "r", locking=False)
    except H5_ERRORS as error:
        raise damaged(path, error) from error
    try:
        _check_root(path, file)
    except BaseException:
        file.close()
        raise
    return file


def read_dataset(file: h5py.File, name: str, rows: slice = slice(None)) -> npt.NDArray[Any]:
    """Rows of a dataset; InputError naming it where a checksum does not fit."""
    try:
        values: npt.NDArray[Any] = file[name][rows]
    except H5_ERRORS as error:
        raise InputError(
            f"{file.filename}: '{name}' is damaged ({first_line(error)}): prepare the store "
            "again or copy it anew"
        ) from error
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def label_datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Label columns of an open store by name, sorted. Raises InvalidStore for a bad name."""
    columns = {}
    for member, dataset in (members(file, LABELS) or {}).items():
        name = text_attribute(dataset.attrs, "name")
        if problem := name_problem(name):
            raise InvalidStore(f"the label name {name[:40]!a} {problem}")
        if label_path(name) != f"{LABELS}/{member}":
            raise InvalidStore(f"'{LABELS}/{member}' says of itself that it is {name[:40]!a}")
        columns[name] = dataset
    return dict(sorted(columns.items()))


def dataset_paths(file: h5py.File) -> list[str]:
    """Every array of an open store, by its path in the file."""
    return [*FIELDS, *(label_path(name) for name in label_datasets(file))]


def describe(dataset: h5py.Dataset, digest: str) -> dict[str, Any]:
    """The part of the content hash that one array contributes."""
    dtype = dataset.dtype.newbyteorder("<").str
    return {"dtype": dtype, "shape": list(dataset.shape), "sha256": digest}


def content_hash(
    settings: GraphSettings,
    columns: Mapping[str, ColumnSettings],
    arrays: Mapping[str, Mapping[str, Any]],
) -> str:
    """SHA-256 over graph settings, settings of label columns, and arrays as ``describe`` gives."""
    content = {
        "schema_version": version_for(columns),
        "graph_settings": settings.to_dict(),
        "units": {name: column.unit or "" for name, column in columns.items()},
        "splits": SPLITS,
        "arrays": {name: dict(value) for name, value in arrays.items()},
    }
    if further := {name: values for name in columns if (values := _further(columns[name]))}:
        content["columns"] = further
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def version_for(columns: Mapping[str, ColumnSettings]) -> int:
    """The lowest schema version that can hold these settings of label columns."""
    return 2 if any(_further(column) for column in columns.values()) else 1


def _further(column: ColumnSettings) -> dict[str, Any]:
    return column.model_dump(include={"lower_bound", "scale"}, exclude_none=True)


def write_column(dataset: h5py.Dataset, name: str, column: ColumnSettings) -> None:
    """Set the attributes of a label column."""
    dataset.attrs["name"] = name
    dataset.attrs["unit"] = column.unit or ""
    for key, value in _further(column).items():
        dataset.attrs[key] = value


def _column_settings(dataset: h5py.Dataset) -> ColumnSettings:
    """Settings in the attributes of a label column. Raises InvalidStore for what cannot be one."""
    attributes = dataset.attrs
    bound = scale = None
    if "lower_bound" in attributes:
        bound = _scalar(attributes, "lower_bound")
        if not isinstance(bound, (np.floating, np.integer)) or not np.isfinite(bound):
            raise InvalidStore("the attribute 'lower_bound' of a label column is no finite number")
    if "scale" in attributes:
        scale = text_attribute(attributes, "scale")
        if scale not in SCALES:
            raise InvalidStore("the attribute 'scale' of a label column is no scale")
    return ColumnSettings.model_validate(
        {
            "unit": one_line(text_attribute(attributes, "unit")),
            "lower_bound": None if bound is None else float(bound),
            "scale": scale,
        }
    )


def label_path(name: str) -> str:
    """Path of a label column in the file."""
    # A slash in a column's name would make a group of it, and a single dot is the group itself.
    escaped = name.replace("%", "%25").replace("/", "%2F")
    return f"{LABELS}/{'%2E' if escaped == '.' else escaped}"


def _check_root(path: Path, file: h5py.File) -> None:
    attributes = file.attrs
    try:
        known = "format" in attributes and text_attribute(attributes, "format") == FORMAT
        version = _number(attributes, "schema_version") if known else 0
        newer = version > SCHEMA_VERSION
        # Of a later version nothing else is known.
        complete = newer or not known or _is_complete(attributes)
    except H5_ERRORS as error:
        raise damaged(path, error) from error
    if not known:
        raise StoreNotFound(
            f"{path} is an HDF5 file but not a phase2hpc graph store: make one with "
            "'phase2hpc prepare'"
        )
    if newer:
        raise StoreNotFound(
            f"{path} has store schema {version}, this version reads up to {SCHEMA_VERSION}: "
            "update phase2hpc or prepare the store again"
        )
    if not complete:
        raise InputError(f"{path} is incomplete: prepare the store again")


def _scalar(attributes: h5py.AttributeManager, name: str) -> Any:
    """The value of an attribute, None where it is an array."""
    return attributes[name] if attributes.get_id(name).shape == () else None


def _number(attributes: h5py.AttributeManager, name: str) -> int:
    value = _scalar(attributes, name)
    if not isinstance(value, np.integer) or value < 1:
        raise InvalidStore(f"the attribute '{name}' is no positive integer")
    return int(value)


def _is_complete(attributes: h5py.AttributeManager) -> bool:
    if "complete" not in attributes:
        return False
    value = _scalar(attributes, "complete")
    if not isinstance(value, np.bool_):
        raise InvalidStore("the attribute 'complete' is no truth value")
    return bool(value)


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
        columns = {name: _column_settings(dataset) for name, dataset in labels.items()}
        datasets = [file[name] for name in FIELDS] + list(labels.values())
        digest = text_attribute(attributes, "content_hash")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise InvalidStore("the attribute 'content_hash' is no SHA-256")
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
        raise InvalidStore(f"the attribute '{name}' is no JSON") from error
    except RecursionError as error:
        raise InvalidStore(f"the attribute '{name}' is nested too deeply") from error
    if not isinstance(value, dict):
        raise InvalidStore(f"the attribute '{name}' is no JSON object")
    return value


def _graph_settings(values: Mapping[str, Any]) -> GraphSettings:
    keys = [field.name for field in fields(GraphSettings)]
    if sorted(values) != sorted(keys):
        raise InvalidStore(f"the attribute 'graph_settings' does not hold {', '.join(keys)}")
    most = values["max_neighbors"]
    if any(type(values[key]) not in (int, float) for key in keys if key != "max_neighbors") or type(
        most
    ) not in (int, type(None)):
        raise InvalidStore("the attribute 'graph_settings' holds what is no number")
    return GraphSettings(**values)


def _summary(values: dict[str, Any]) -> dict[str, Any]:
    """Counts, counts by name, and counts by two names; raises InvalidStore for anything else."""
    if any(not _is_counts(value) for value in values.values()):
        raise InvalidStore("the attribute 'summary' holds what is no count")
    return values


def _is_counts(value: Any, depth: int = 2) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_is_counts(inner, depth - 1) for inner in value.values())
    return type(value) in (int, float)


def damaged(path: Path, error: Exception) -> InputError:
    """The error to raise for a file that could not be read."""
    return InputError(
        f"{path} is damaged or truncated ({first_line(error)}): prepare the store again or copy "
        "it anew"
    )
