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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from phase2hpc.config.properties import SCALES, ColumnSettings
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.graph_arrays import FIELDS
from phase2hpc.data.splits import SPLITS
from phase2hpc.data.store.structure_checks import (
    H5_ERRORS,
    InvalidStore,
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


def open_file(path: str | os.PathLike[str]) -> h5py.File:
    """The HDF5 file of a complete store, read-only and without locks.

    Raises StoreNotFound for a file that is not a store, InputError for a damaged or incomplete one.
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
    """Rows of a dataset. Raises InputError naming it where a checksum does not match."""
    try:
        values: npt.NDArray[Any] = file[name][rows]
    except H5_ERRORS as error:
        raise InputError(
            f"{file.filename}: '{name}' is damaged ({first_line(error)}): prepare the store "
            "again or copy it again"
        ) from error
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def label_datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Label columns of an open store by name, sorted. Raises InvalidStore for an invalid name."""
    columns = {}
    for member, dataset in (members(file, LABELS) or {}).items():
        name = text_attribute(dataset.attrs, "name")
        if problem := name_problem(name):
            raise InvalidStore(f"the label name {name[:40]!a} {problem}")
        if label_path(name) != f"{LABELS}/{member}":
            raise InvalidStore(f"'{LABELS}/{member}' has the name {name[:40]!a}")
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


def column_settings(dataset: h5py.Dataset) -> ColumnSettings:
    """Settings in the attributes of a label column. Raises InvalidStore for invalid ones."""
    attributes = dataset.attrs
    bound = scale = None
    if "lower_bound" in attributes:
        bound = _scalar(attributes, "lower_bound")
        if not isinstance(bound, (np.floating, np.integer)) or not np.isfinite(bound):
            raise InvalidStore(
                "the attribute 'lower_bound' of a label column is not a finite number"
            )
    if "scale" in attributes:
        scale = text_attribute(attributes, "scale")
        if scale not in SCALES:
            raise InvalidStore("the attribute 'scale' of a label column is not a known scale")
    return ColumnSettings.model_validate(
        {
            "unit": one_line(text_attribute(attributes, "unit")),
            "lower_bound": None if bound is None else float(bound),
            "scale": scale,
        }
    )


def label_path(name: str) -> str:
    """Path of a label column in the file."""
    # In HDF5 a slash separates groups, and a single dot is the group itself.
    escaped = name.replace("%", "%25").replace("/", "%2F")
    return f"{LABELS}/{'%2E' if escaped == '.' else escaped}"


def _check_root(path: Path, file: h5py.File) -> None:
    attributes = file.attrs
    try:
        known = "format" in attributes and text_attribute(attributes, "format") == FORMAT
        version = _number(attributes, "schema_version") if known else 0
        newer = version > SCHEMA_VERSION
        # The other attributes of a later version are not defined here.
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
        raise InvalidStore(f"the attribute '{name}' is not a positive integer")
    return int(value)


def _is_complete(attributes: h5py.AttributeManager) -> bool:
    if "complete" not in attributes:
        return False
    value = _scalar(attributes, "complete")
    if not isinstance(value, np.bool_):
        raise InvalidStore("the attribute 'complete' is not a boolean")
    return bool(value)


def damaged(path: Path, error: Exception) -> InputError:
    """The error to raise for a file that could not be read."""
    return InputError(
        f"{path} is damaged or truncated ({first_line(error)}): prepare the store again or copy "
        "it again"
    )
