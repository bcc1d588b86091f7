"""Graph store writer: block by block, committed atomically."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

import phase2hpc
from phase2hpc.config.properties import ColumnSettings, unit
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.graph_arrays import FIELDS, GraphArrays, no_labels
from phase2hpc.data.splits import SPLITS
from phase2hpc.data.store.hdf5_fileobj import DeferredErrorFile
from phase2hpc.data.store.layout import (
    FORMAT,
    content_hash,
    describe,
    label_path,
    version_for,
    write_column,
)
from phase2hpc.errors import Phase2Error
from phase2hpc.utils.atomic_io import PartialFile
from phase2hpc.utils.os_errors import path_error, write_error
from phase2hpc.utils.time_format import utc_now

# Rows per chunk: below HDF5's default chunk cache of 1 MiB for every array except labels.
CHUNK_ROWS = 1 << 16
LATTICE_CHUNK_ROWS = 1 << 13
# On 15,670 crystals level 4 is 5 times smaller than none and read within 0.1 s; 6 writes twice
# as slowly for 6% less.
GZIP_LEVEL = 4


class StoreWriter:
    """Writes a store block by block, with memory for a few chunks only.

    Use as a context manager: the store appears under its name when the block ends without an
    exception and ``finish`` was called; otherwise nothing is left.

    source: name and hash of the sources. preparation: everything that the content depends on,
    compared when the same store is prepared again.
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
            raise path_error(error, f"cannot write the store {self.path}") from error
        try:
            self._disk = DeferredErrorFile(self._partial.path)
        except OSError as error:
            self._partial.discard()
            raise self._failed(error) from error
        self._file = h5py.File(self._partial.path, "w", driver="fileobj", fileobj=self._disk)
        self._columns = {name: self._column(name, float64) for name in FIELDS}
        self._labels: dict[str, _Column] = {}
        for name in self._ends:
            self._columns[name].append(np.zeros(1, dtype=np.int64))

    def append(self, block: GraphArrays) -> None:
        """Append graphs. Raises Phase2Error where the disk is full."""
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
            # One bit pattern for every NaN, so that the hash does not depend on it.
            column.append(np.where(np.isnan(values), np.float32(np.nan), values))
        self.crystals += len(block)
        try:
            self._disk.check()
        except OSError as error:
            raise self._failed(error) from error

    def finish(
        self,
        summary: Mapping[str, Any] | None = None,
        columns: Mapping[str, ColumnSettings] | None = None,
    ) -> str:
        """Write the last chunks and root attributes, sync the file, and return the content hash.

        summary: counts to show. columns: settings of label columns; where they are missing, the
        units of the nine properties. Raises Phase2Error where the disk is full.
        """
        settings = {
            name: (columns or {}).get(name, ColumnSettings(unit=unit(name)))
            for name in self._labels
        }
        for name, column in self._labels.items():
            write_column(column.dataset, name, settings[name])
        everything = {**self._columns}
        everything.update({label_path(name): column for name, column in self._labels.items()})
        for column in everything.values():
            column.close()
        digest = content_hash(
            self._settings,
            settings,
            {path: column.description() for path, column in everything.items()},
        )
        attributes = self._file.attrs
        attributes["format"] = FORMAT
        attributes["schema_version"] = version_for(settings)
        attributes["graph_settings"] = json.dumps(self._settings.to_dict())
        for name, value in self._attributes.items():
            attributes[name] = json.dumps(value)
        attributes["summary"] = json.dumps(summary or {})
        attributes["versions"] = json.dumps(_versions())
        attributes["created"] = utc_now().isoformat(timespec="seconds")
        attributes["content_hash"] = digest
        attributes["complete"] = True
        self._file.close()
        try:
            self._disk.check()
            self._disk.close()
        except OSError as error:
            raise self._failed(error) from error
        self._finished = True
        return digest

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._finished:
                self._partial.commit()
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            # First, to free the space that closing the file needs.
            self._partial.discard()
            self._file.close()
            with suppress(OSError):  # of a file that is given up
                self._disk.close()

    def _failed(self, error: OSError) -> Phase2Error:
        return write_error(
            error,
            f"cannot write the store {self.path}",
            note="the incomplete new store was removed"
            + (", the existing one is unchanged" if self.path.exists() else ""),
        )

    def _column(self, name: str, float64: bool) -> _Column:
        dtype, _, tail = FIELDS[name]
        if name == "frac_coords" and float64:
            dtype = np.float64
        rows = min(self._chunk_rows, LATTICE_CHUNK_ROWS) if tail == (3, 3) else self._chunk_rows
        return self._create(name, np.dtype(dtype), tail, rows)

    def _label_column(self, name: str) -> _Column:
        return self._create(label_path(name), np.dtype(np.float32), (), self._chunk_rows)

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
    """Appends to one dataset in whole chunks (each is compressed once) and hashes as it goes.

    Values wait in a buffer of one chunk.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self._buffer = np.empty(dataset.chunks, dataset.dtype)
        self._count = 0
        self._hash = hashlib.sha256()

    def append(self, values: npt.NDArray[Any]) -> None:
        while len(values):
            part = values[: len(self._buffer) - self._count]
            self._buffer[self._count : self._count + len(part)] = part
            self._count += len(part)
            values = values[len(part) :]
            if self._count == len(self._buffer):
                self._write()

    def close(self) -> None:
        if self._count:
            self._write()

    def description(self) -> dict[str, Any]:
        return describe(self.dataset, self._hash.hexdigest())

    def _write(self) -> None:
        values = self._buffer[: self._count]
        begin = len(self.dataset)
        self.dataset.resize(begin + self._count, axis=0)
        self.dataset[begin:] = values
        self._hash.update(values.data)
        self._count = 0


def _versions() -> dict[str, str]:
    return {
        "phase2hpc": phase2hpc.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }
