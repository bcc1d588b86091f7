"""The HDF5 graph store: its layout, written once, read many times.

One immutable file of flat arrays with offsets (see ``arrays.GraphArrays``), never a group a
structure: read once, in order, into memory, that is 74 times faster a shuffled epoch than a
group a structure. Every chunk carries a checksum (fletcher32), the file a content hash over the
logical arrays, which depends neither on chunks, compression, versions nor time.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

import phase2hpc
from phase2hpc.data.arrays import (
    EDGE_TABLE_BYTES,
    FIELDS,
    NODE_TABLE_BYTES,
    GraphArrays,
    no_labels,
)
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.memory import store_budget
from phase2hpc.data.partial import PartialFile
from phase2hpc.data.splits import SPLITS
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.properties import unit

FORMAT = "phase2hpc-graph-store"
SCHEMA_VERSION = 1
# Rows a chunk: below HDF5's default cache of 1 MiB a chunk in every array but the labels' ones.
CHUNK_ROWS = 1 << 16
LATTICE_CHUNK_ROWS = 1 << 13
# On 15,670 crystals level 4 is 5 times smaller than none and read within 0.1 s; 6 writes twice
# as slowly for 6% less.
GZIP_LEVEL = 4
LABELS = "labels"


@dataclass(frozen=True)
class StoreInfo:
    """What the root of a store says. ``size`` in bytes on disk, ``memory`` once in RAM."""

    path: Path
    crystals: int
    nodes: int
    edges: int
    graph_settings: GraphSettings
    float64: bool
    units: Mapping[str, str]
    source: Mapping[str, Any]
    preparation: Mapping[str, Any]
    summary: Mapping[str, Any]
    versions: Mapping[str, str]
    created: str
    content_hash: str
    size: int
    memory: int


class StoreWriter:
    """Writes a store block by block, with memory for a few chunks only.

    Use as a context manager: the store appears under its name when the block ends without an
    exception and ``finish`` was called; otherwise nothing stays behind.

    source: what the crystals came from (name and hash), for the reader. preparation: what the
    result depends on, compared when the same store is asked for again. summary: counts to show.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        graph_settings: GraphSettings,
        float64: bool = False,
        source: Mapping[str, Any] | None = None,
        preparation: Mapping[str, Any] | None = None,
        chunk_rows: int = CHUNK_ROWS,
        compression: int | None = GZIP_LEVEL,
    ) -> None:
        self.path = Path(path)
        self.crystals = 0
        self._settings = graph_settings
        self._attributes = {"source": source or {}, "preparation": preparation or {}}
        self._chunk_rows = chunk_rows
        self._compression = compression
        self._ends = {"node_ptr": 0, "edge_ptr": 0, "id_ptr": 0}
        self._finished = False
        try:
            self._partial = PartialFile(self.path)
        except OSError as error:
            raise self._failure(error) from error
        try:
            self._file = h5py.File(self._partial.path, "w", locking=False)
            self._columns = {name: self._column(name, float64) for name in FIELDS}
            self._labels: dict[str, _Column] = {}
            for name in self._ends:
                self._columns[name].append(np.zeros(1, dtype=np.int64))
        except (OSError, RuntimeError) as error:
            raise self._failed(error) from error

    def append(self, block: GraphArrays) -> None:
        """Add these graphs after those already there. Raises Phase2Error where the disk is full."""
        try:
            for name, column in self._columns.items():
                values = getattr(block, name)
                if name in self._ends:
                    values = values[1:] + self._ends[name]
                    self._ends[name] += int(getattr(block, name)[-1])
                column.append(values)
            for name in block.labels:
                if name not in self._labels:
                    self._labels[name] = self._label_column(name)
                    for low in range(0, self.crystals, self._chunk_rows):
                        missing = min(self._chunk_rows, self.crystals - low)
                        self._labels[name].append(no_labels(missing))
            for name, column in self._labels.items():
                values = block.labels.get(name, no_labels(len(block)))
                # One bit pattern for every NaN, or the hash would tell them apart.
                column.append(np.where(np.isnan(values), np.float32(np.nan), values))
        except (OSError, RuntimeError) as error:
            raise self._failed(error) from error
        self.crystals += len(block)

    def finish(self, summary: Mapping[str, Any] | None = None) -> str:
        """Write what is left and the root attributes; returns the content hash."""
        try:
            everything = {**self._columns}
            everything.update({_label_path(name): column for name, column in self._labels.items()})
            for column in everything.values():
                column.close()
            digest = content_hash(
                self._settings,
                {name: unit(name) for name in self._labels},
                {path: column.description() for path, column in everything.items()},
            )
            attributes = self._file.attrs
            attributes["format"] = FORMAT
            attributes["schema_version"] = SCHEMA_VERSION
            attributes["graph_settings"] = json.dumps(self._settings.to_dict())
            for name, value in self._attributes.items():
                attributes[name] = json.dumps(value)
            attributes["summary"] = json.dumps(summary or {})
            attributes["versions"] = json.dumps(_versions())
            now = datetime.datetime.now(datetime.UTC)
            attributes["created"] = now.isoformat(timespec="seconds")
            attributes["content_hash"] = digest
            attributes["complete"] = True
            self._file.close()
        except (OSError, RuntimeError) as error:
            raise self._failed(error) from error
        self._finished = True
        return digest

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._finished:
            try:
                self._partial.commit()
            except OSError as failure:
                raise self._failed(failure) from failure
            return
        # The file goes first: closing one that the disk has no room for fails again.
        self._partial.discard()
        try:
            self._file.close()
        except (OSError, RuntimeError) as failure:
            if kind is None:
                raise self._failed(failure) from failure

    def _failed(self, error: Exception) -> Phase2Error:
        self._partial.discard()
        return self._failure(error)

    def _failure(self, error: Exception) -> Phase2Error:
        code = getattr(error, "errno", None)
        reason = os.strerror(code) if code else _first_line(error)
        return Phase2Error(
            f"cannot write the store {self.path} ({reason}): make room or give another --store; "
            "nothing is left of this one"
        )

    def _column(self, name: str, float64: bool) -> _Column:
        dtype, _, tail = FIELDS[name]
        if name == "frac_coords" and float64:
            dtype = np.float64
        rows = min(self._chunk_rows, LATTICE_CHUNK_ROWS) if tail == (3, 3) else self._chunk_rows
        return self._create(name, np.dtype(dtype), tail, rows)

    def _label_column(self, name: str) -> _Column:
        column = self._create(_label_path(name), np.dtype(np.float32), (), self._chunk_rows)
        column.dataset.attrs["name"] = name
        column.dataset.attrs["unit"] = unit(name)
        return column

    def _create(self, path: str, dtype: np.dtype[Any], tail: tuple[int, ...], rows: int) -> _Column:
        dataset = self._file.create_dataset(
            path,
            shape=(0, *tail),
            maxshape=(None, *tail),
            chunks=(rows, *tail),
            dtype=dtype.newbyteorder("<"),
            fletcher32=True,
            shuffle=self._compression is not None and dtype.itemsize > 1,
            compression=self._compression,
        )
        if path == "split":
            dataset.attrs["names"] = json.dumps(SPLITS)
        return _Column(dataset)


class _Column:
    """Appends to one dataset in whole chunks (each is compressed once) and hashes as it goes."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self._rows: int = dataset.chunks[0]
        self._waiting: list[npt.NDArray[Any]] = []
        self._count = 0
        self._hash = hashlib.sha256()

    def append(self, values: npt.NDArray[Any]) -> None:
        self._waiting.append(np.asarray(values, dtype=self.dataset.dtype))
        self._count += len(values)
        if self._count >= self._rows:
            self._write(self._count - self._count % self._rows)

    def close(self) -> None:
        if self._count:
            self._write(self._count)

    def description(self) -> dict[str, Any]:
        return describe(self.dataset, self._hash.hexdigest())

    def _write(self, count: int) -> None:
        values = np.concatenate(self._waiting)
        now = np.ascontiguousarray(values[:count])
        self._waiting = [values[count:].copy()]
        self._count -= count
        begin = len(self.dataset)
        self.dataset.resize(begin + count, axis=0)
        self.dataset[begin:] = now
        self._hash.update(now.data)


class Store:
    """A store opened for reading: in memory where it fits, else read block by block.

    arrays: everything, or None where ``info.memory`` exceeds the budget. node_ptr, edge_ptr,
    split and labels are in memory in both cases. No file handle is ever kept, so a store may be
    pickled (it is opened anew at the other end) and used after a fork.
    """

    def __init__(
        self, info: StoreInfo, arrays: GraphArrays | None, small: dict[str, Any], budget: int
    ) -> None:
        self.info = info
        self.arrays = arrays
        self.budget = budget
        self.node_ptr: npt.NDArray[np.int64] = small["node_ptr"]
        self.edge_ptr: npt.NDArray[np.int64] = small["edge_ptr"]
        self._id_ptr: npt.NDArray[np.int64] = small["id_ptr"]
        self.split: npt.NDArray[np.int8] = small["split"]
        self.labels: Mapping[str, npt.NDArray[np.float32]] = small["labels"]

    @classmethod
    def open(cls, path: str | os.PathLike[str], budget: int | None = None) -> Store:
        """Read a store; ``budget`` is the memory its arrays may take, in bytes.

        The default is PHASE2HPC_STORE_BUDGET ("8G") or half of what is free. Raises InputError
        where there is no store, or none that this version can read.
        """
        limit = store_budget() if budget is None else budget
        with open_file(path) as file:
            info = _info(Path(path), file)
            small: dict[str, Any] = {
                name: read_dataset(file, name)
                for name in ("node_ptr", "edge_ptr", "id_ptr", "split")
            }
            small["labels"] = {
                name: read_dataset(file, _label_path(name)) for name in sorted(info.units)
            }
            arrays = None
            if info.memory <= limit:
                rest: dict[str, Any] = {
                    name: read_dataset(file, name) for name in FIELDS if name not in small
                }
                arrays = GraphArrays(**small, **rest)
        return cls(info, arrays, small, limit)

    def __len__(self) -> int:
        return self.info.crystals

    @property
    def path(self) -> Path:
        return self.info.path

    @property
    def graph_settings(self) -> GraphSettings:
        return self.info.graph_settings

    @property
    def content_hash(self) -> str:
        return self.info.content_hash

    def split_indices(self, name: str) -> npt.NDArray[np.int64]:
        """Indices of the crystals of a split (train, val or test), ascending."""
        return np.flatnonzero(self.split == SPLITS.index(name))

    def ids(self, indices: npt.NDArray[np.integer]) -> list[str]:
        """Ids of these crystals."""
        if self.arrays is not None:
            return [self.arrays.id(int(i)) for i in indices]
        with open_file(self.path) as file:
            text = file["id_bytes"]
            return [text[self._id_ptr[i] : self._id_ptr[i + 1]].tobytes().decode() for i in indices]

    def read_block(self, low: int, high: int) -> GraphArrays:
        """Graphs low to high - 1, with pointers from 0."""
        if self.arrays is not None:
            return self.arrays.block(low, high)
        ranges = {
            "node": self.node_ptr[low : high + 1],
            "edge": self.edge_ptr[low : high + 1],
            "id": self._id_ptr[low : high + 1],
        }
        arrays: dict[str, Any] = {f"{owner}_ptr": ptr - ptr[0] for owner, ptr in ranges.items()}
        with open_file(self.path) as file:
            for name, (_, owner, _) in FIELDS.items():
                if owner in ranges:
                    rows = slice(int(ranges[owner][0]), int(ranges[owner][-1]))
                    arrays[name] = read_dataset(file, name, rows)
            arrays["lattice"] = read_dataset(file, "lattice", slice(low, high))
        arrays["split"] = self.split[low:high]
        labels = {name: column[low:high] for name, column in self.labels.items()}
        return GraphArrays(**arrays, labels=labels)

    def block_bounds(self, max_bytes: int) -> npt.NDArray[np.int64]:
        """Cuts 0 = b_0 < b_1 < ... = N such that a block takes at most about ``max_bytes``."""
        node_bytes = 25 if self.info.float64 else 13
        used = self.node_ptr * node_bytes + self.edge_ptr * 7 + self._id_ptr
        used = used + np.arange(len(used)) * (97 + 4 * len(self.labels))
        bounds = [0]
        while bounds[-1] < len(self):
            begin = bounds[-1]
            end = int(np.searchsorted(used, used[begin] + max_bytes, side="right")) - 1
            bounds.append(min(max(end, begin + 1), len(self)))
        return np.array(bounds, dtype=np.int64)

    def blocks(self, max_bytes: int = 1 << 26) -> Iterator[GraphArrays]:
        """All graphs in order, in blocks of bounded memory."""
        bounds = self.block_bounds(max_bytes).tolist()
        for low, high in pairwise(bounds):
            yield self.read_block(low, high)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "budget": self.budget}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(Store.open(state["path"], state["budget"]).__dict__)


def write_store(
    path: str | os.PathLike[str],
    arrays: GraphArrays,
    graph_settings: GraphSettings,
    **options: Any,
) -> str:
    """Write these graphs as one store (options as for StoreWriter); returns the content hash."""
    float64 = arrays.frac_coords.dtype == np.float64
    with StoreWriter(path, graph_settings=graph_settings, float64=float64, **options) as writer:
        writer.append(arrays)
        return writer.finish()


def read_info(path: str | os.PathLike[str]) -> StoreInfo:
    """What a store says of itself, without reading its arrays. Raises InputError as ``open``."""
    with open_file(path) as file:
        return _info(Path(path), file)


def open_file(path: str | os.PathLike[str]) -> h5py.File:
    """The HDF5 file of a complete store, read-only and without locks; InputError otherwise."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"no store at {path}: make one with 'phase2hpc prepare --store {path}'")
    if not path.is_file():
        raise InputError(f"{path} is not a file: give the store's .h5 file")
    try:
        if not h5py.is_hdf5(path):
            raise InputError(f"{path} is not an HDF5 file: give a store made by phase2hpc prepare")
        file = h5py.File(path, "r", locking=False)
    except (OSError, RuntimeError) as error:
        raise _damaged(path, error) from error
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
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(
            f"{file.filename}: '{name}' is damaged ({_first_line(error)}): prepare the store "
            "again or copy it anew"
        ) from error
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def label_datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Label columns of an open store by name, sorted."""
    group = file.get(LABELS, {})
    return dict(sorted((dataset.attrs["name"], dataset) for dataset in group.values()))


def dataset_paths(file: h5py.File) -> list[str]:
    """Every array of an open store, by its path in the file."""
    return [*FIELDS, *(_label_path(name) for name in label_datasets(file))]


def describe(dataset: h5py.Dataset, digest: str) -> dict[str, Any]:
    """What the content hash knows of one array."""
    dtype = dataset.dtype.newbyteorder("<").str
    return {"dtype": dtype, "shape": list(dataset.shape), "sha256": digest}


def content_hash(
    settings: GraphSettings, units: Mapping[str, str], arrays: Mapping[str, Mapping[str, Any]]
) -> str:
    """SHA-256 over graph settings, label names and units, and the arrays as ``describe`` gives."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "graph_settings": settings.to_dict(),
        "units": dict(units),
        "splits": SPLITS,
        "arrays": {name: dict(value) for name, value in arrays.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _label_path(name: str) -> str:
    # A slash in a column's name would make a group of it.
    return f"{LABELS}/{name.replace('%', '%25').replace('/', '%2F')}"


def _check_root(path: Path, file: h5py.File) -> None:
    try:
        found, version, complete = (
            file.attrs.get(name) for name in ("format", "schema_version", "complete")
        )
        known, newer = str(found) == FORMAT, int(version or 0) > SCHEMA_VERSION
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    if not known:
        raise InputError(
            f"{path} is an HDF5 file but not a phase2hpc graph store: make one with "
            "'phase2hpc prepare'"
        )
    if newer:
        raise InputError(
            f"{path} has store schema {version}, this version reads up to {SCHEMA_VERSION}: "
            "update phase2hpc or prepare the store again"
        )
    if not complete:
        raise InputError(f"{path} is incomplete: prepare the store again")


def _info(path: Path, file: h5py.File) -> StoreInfo:
    try:
        attributes = file.attrs
        labels = label_datasets(file)
        datasets = [file[name] for name in FIELDS] + list(labels.values())
        return StoreInfo(
            path=path,
            crystals=len(file["lattice"]),
            nodes=len(file["atomic_number"]),
            edges=len(file["sender"]),
            graph_settings=GraphSettings(**json.loads(attributes["graph_settings"])),
            float64=file["frac_coords"].dtype == np.float64,
            units={name: str(dataset.attrs["unit"]) for name, dataset in labels.items()},
            source=json.loads(attributes["source"]),
            preparation=json.loads(attributes["preparation"]),
            summary=json.loads(attributes["summary"]),
            versions=json.loads(attributes["versions"]),
            created=str(attributes["created"]),
            content_hash=str(attributes["content_hash"]),
            size=path.stat().st_size,
            memory=sum(dataset.size * dataset.dtype.itemsize for dataset in datasets)
            + len(file["atomic_number"]) * NODE_TABLE_BYTES
            + len(file["sender"]) * EDGE_TABLE_BYTES,
        )
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is damaged or truncated ({_first_line(error)}): prepare the store again or copy "
        "it anew"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _versions() -> dict[str, str]:
    return {
        "phase2hpc": phase2hpc.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }
