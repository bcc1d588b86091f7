"""HDF5 graph store reader."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.graph_arrays import FIELDS, GraphArrays, arrays_bytes
from phase2hpc.data.splits import SPLITS, formula_fold, split_in_fold
from phase2hpc.data.store.info import StoreInfo, info_of, number_of_folds
from phase2hpc.data.store.layout import LABELS, damaged, label_path, open_file, read_dataset
from phase2hpc.data.store.memory_budget import free_memory, store_budget
from phase2hpc.data.store.structure_checks import (
    H5_ERRORS,
    check_pointers,
    check_structure,
    index_problems,
)
from phase2hpc.errors import InputError


class Store:
    """A store opened for reading: in memory where it fits, else read block by block.

    arrays: all arrays, or None where ``info.memory`` exceeds the budget. node_ptr, edge_ptr,
    split and labels are in memory in both cases. No file handle is kept open, so that a store can
    be pickled (unpickling opens the file again) and used after a fork.
    """

    def __init__(
        self,
        info: StoreInfo,
        arrays: GraphArrays | None,
        small: dict[str, Any],
        budget: int,
        state: tuple[int, ...],
    ) -> None:
        self.info = info
        self.arrays = arrays
        self.budget = budget
        self._state = state
        self.node_ptr: npt.NDArray[np.int64] = small["node_ptr"]
        self.edge_ptr: npt.NDArray[np.int64] = small["edge_ptr"]
        self._id_ptr: npt.NDArray[np.int64] = small["id_ptr"]
        self.split: npt.NDArray[np.int8] = small["split"]
        self.labels: Mapping[str, npt.NDArray[np.float32]] = small["labels"]
        self.fold: int | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], budget: int | None = None) -> Store:
        """Read a store; ``budget`` is the memory its arrays may take, in bytes.

        The default is PHASE2HPC_STORE_BUDGET ("8G"), else half of the free memory. Structure,
        pointers and indices are checked before use; the content hash only by
        ``verify.verify_once``.

        Raises InputError for a missing file, a file that is not a store of a known version, and
        invalid structure, pointers or indices.
        """
        limit = store_budget() if budget is None else budget
        with open_file(path) as file:
            info = info_of(Path(path), file)
            state = _state_of(file)
            _check_room(info)
            small: dict[str, Any] = {
                name: read_dataset(file, name)
                for name in ("node_ptr", "edge_ptr", "id_ptr", "split")
            }
            small["labels"] = {
                name: read_dataset(file, label_path(name)) for name in sorted(info.units)
            }
            try:
                ends = {"node_ptr": info.nodes, "edge_ptr": info.edges}
                ends["id_ptr"] = len(file["id_bytes"])
                check_pointers({name: small[name] for name in ends}, ends)
            except H5_ERRORS as error:
                raise damaged(info.path, error) from error
            arrays = None
            if info.memory <= limit:
                rest: dict[str, Any] = {
                    name: read_dataset(file, name) for name in FIELDS if name not in small
                }
                arrays = GraphArrays(**small, **rest)
                _check_indices(info.path, arrays)
        return cls(info, arrays, small, limit, state)

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

    def use_fold(self, fold: int | None) -> None:
        """Use the splits of one cross-validation fold (from 1).

        None keeps the current splits. Raises InputError for a store without folds and for a fold
        out of range.
        """
        if fold is None or fold == self.fold:
            return
        folds = number_of_folds(self.info)
        if folds is None:
            raise InputError(
                f"--fold: {self.path} was prepared without folds: prepare it with --folds 5"
            )
        if not 1 <= fold <= folds:
            raise InputError(f"--fold {fold}: {self.path} has folds 1 to {folds}")
        split = np.empty(len(self), dtype=np.int8)
        place = 0
        for block in self.blocks():
            for low, high in pairwise(block.node_ptr.tolist()):
                own = formula_fold(block.atomic_number[low:high], folds)
                split[place] = SPLITS.index(split_in_fold(own, fold, folds))
                place += 1
        self.split, self.fold = split, fold
        if self.arrays is not None:
            self.arrays = replace(self.arrays, split=split)

    def ids(self, indices: npt.NDArray[np.integer]) -> list[str]:
        """Ids of these crystals."""
        if self.arrays is not None:
            return [self.arrays.id(int(i)) for i in indices]
        with self._reopened() as file:
            rows = [slice(int(self._id_ptr[i]), int(self._id_ptr[i + 1])) for i in indices]
            texts = [read_dataset(file, "id_bytes", row).tobytes() for row in rows]
        try:
            return [text.decode() for text in texts]
        except UnicodeDecodeError as error:
            raise damaged(self.path, error) from error

    def label_matrix(
        self, names: Sequence[str], indices: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float32]:
        """Labels (n, P) of these crystals; NaN where missing, and in a column that is not there."""
        missing = np.full(len(self), np.nan, dtype=np.float32)
        return np.stack([self.labels.get(name, missing)[indices] for name in names], axis=1)

    def labelled(
        self, names: Sequence[str], indices: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.integer]:
        """Those of these crystals that have a label of at least one of the columns."""
        return indices[np.isfinite(self.label_matrix(names, indices)).any(axis=1)]

    def atomic_numbers(self, indices: npt.NDArray[np.integer]) -> list[npt.NDArray[np.uint8]]:
        """Atomic numbers of the atoms of each of these crystals."""
        rows = [slice(int(self.node_ptr[i]), int(self.node_ptr[i + 1])) for i in indices]
        if self.arrays is not None:
            return [self.arrays.atomic_number[row] for row in rows]
        with self._reopened() as file:
            return [read_dataset(file, "atomic_number", row) for row in rows]

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
        with self._reopened() as file:
            for name, (_, owner, _) in FIELDS.items():
                if owner in ranges:
                    rows = slice(int(ranges[owner][0]), int(ranges[owner][-1]))
                    arrays[name] = read_dataset(file, name, rows)
            arrays["lattice"] = read_dataset(file, "lattice", slice(low, high))
        arrays["split"] = self.split[low:high]
        labels = {name: column[low:high] for name, column in self.labels.items()}
        block = GraphArrays(**arrays, labels=labels)
        _check_indices(self.path, block)
        return block

    def block_bounds(self, max_bytes: int) -> npt.NDArray[np.int64]:
        """Block bounds 0 = b_0 < b_1 < ... = N, each block of at most about ``max_bytes``."""
        used = arrays_bytes(
            np.arange(len(self.node_ptr)),
            self.node_ptr,
            self.edge_ptr,
            self._id_ptr,
            labels=len(self.labels),
            float64=self.info.float64,
        )
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
        return {
            "path": self.path,
            "budget": self.budget,
            "content_hash": self.content_hash,
            "fold": self.fold,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        opened = Store.open(state["path"], state["budget"])
        if opened.content_hash != state["content_hash"]:
            raise _replaced(opened.path)
        opened.use_fold(state["fold"])
        self.__dict__.update(opened.__dict__)

    def _reopened(self) -> h5py.File:
        """Open the file again; InputError if its content has changed since."""
        file = open_file(self.path)
        try:
            if _state_of(file) != self._state:
                check_structure(file, LABELS)
                if file.attrs["content_hash"] != self.content_hash:
                    raise _replaced(self.path)
                self._state = _state_of(file)
        except H5_ERRORS as error:
            file.close()
            raise damaged(self.path, error) from error
        except InputError:
            file.close()
            raise
        return file


def _state_of(file: h5py.File) -> tuple[int, ...]:
    found = os.fstat(file.id.get_vfd_handle())
    return found.st_ino, found.st_size, found.st_mtime_ns


def _replaced(path: Path) -> InputError:
    return InputError(f"{path} was replaced by another store while it was in use: start again")


def _check_room(info: StoreInfo) -> None:
    """Raise InputError where pointers and labels, which are always in memory, do not fit."""
    needed, free = info.crystals * (25 + 4 * len(info.units)), free_memory()
    if needed > free:
        raise InputError(
            f"{info.path}: pointers and labels of {info.crystals:,} crystals take "
            f"{needed / 1e9:,.1f} GB of memory, {free / 1e9:,.1f} GB are free"
        )


def _check_indices(path: Path, arrays: GraphArrays) -> None:
    if problems := index_problems(arrays):
        raise damaged(path, ValueError(problems[0]))
