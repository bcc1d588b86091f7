"""Verification of a store: checksums, content hash and structure of the graphs.

Runs in a child process, because a damaged HDF5 file can crash the HDF5 library.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phase2hpc.data.graph_arrays import NO_SPLIT, GraphArrays
from phase2hpc.data.splits import SPLITS
from phase2hpc.data.store.info import StoreInfo, read_info, stored_hash
from phase2hpc.data.store.layout import (
    StoreNotFound,
    content_hash,
    damaged,
    dataset_paths,
    describe,
    open_file,
    read_dataset,
)
from phase2hpc.data.store.memory_budget import free_memory
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.structure_checks import H5_ERRORS
from phase2hpc.data.store.verified_cache import remember, remembered, state_of
from phase2hpc.errors import InputError
from phase2hpc.utils.error_text import first_line
from phase2hpc.utils.rlimits import limit_memory, limit_seconds, silence_crashes
from phase2hpc.utils.text import name_problem
from phase2hpc.utils.worker_pool import Worker, WorkerDied

READ_BYTES = 1 << 26
BLOCK_BYTES = 1 << 24
PIECE_EDGES = 1 << 14
# Tolerance of edge lengths, angstrom: coordinates are rounded to single precision.
LENGTH_TOLERANCE = 1e-3
# Limits of the child process: bytes beyond its initial memory, and CPU seconds, plus some per byte.
# A valid store is read hundreds of times faster.
MIN_MEMORY = 1 << 31
MIN_SECONDS = 60.0
BYTES_A_SECOND = 1 << 20


@dataclass
class VerifyReport:
    """Result of ``verify_store``; ``problems`` is empty for a valid store."""

    path: Path
    info: StoreInfo | None = None
    arrays: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """The fields of ``--json``; counts and hash are those of the file's root, None without."""
        info = self.info
        return {
            "path": str(self.path),
            "ok": self.ok,
            "problems": self.problems,
            "crystals": info.crystals if info else None,
            "nodes": info.nodes if info else None,
            "edges": info.edges if info else None,
            "arrays": self.arrays,
            "content_hash": info.content_hash if info else None,
        }

    def lines(self) -> list[str]:
        """The report as text."""
        if self.info is None or not self.ok:
            return [f"{self.path}: DAMAGED", *(f"  {problem}" for problem in self.problems)]
        return [
            f"{self.path}: ok",
            f"  {self.info.crystals} crystals, {self.info.nodes} atoms, {self.info.edges} edges",
            f"  {self.arrays} arrays read, every checksum fits",
            f"  content hash {self.info.content_hash} fits",
        ]


def verify_store(path: str | os.PathLike[str]) -> VerifyReport:
    """Read all of a store in a child process and report its problems.

    Raises StoreNotFound (an InputError) for a file that is not a store.
    """
    path = Path(path)
    report = VerifyReport(path)
    doing = "the file's root"
    worker = Worker(_Check(path))
    try:
        worker.send("info")
        report.info, names = worker.receive()
        descriptions = {}
        for name in names:
            doing = f"'{name}'"
            worker.send(name)
            problem, description = worker.receive()
            descriptions[name] = description
            report.arrays += 1
            if problem:
                report.problems.append(problem)
        if report.problems:
            return report
        info = report.info
        if content_hash(info.graph_settings, info.columns, descriptions) != info.content_hash:
            report.problems.append("the content hash does not match the arrays and their settings")
        doing = "the graphs"
        worker.send("graphs")
        report.problems += worker.receive()
    except WorkerDied as error:
        report.problems.append(f"reading {doing} crashed or exceeded its limits ({error})")
    except StoreNotFound:
        raise
    except InputError as error:
        report.problems.append(str(error))
    finally:
        worker.close()
    return report


def verify_once(path: str | os.PathLike[str]) -> None:
    """Verify a store, unless the cache of verified stores contains it in its current state.

    Raises InputError naming what is damaged, StoreNotFound for a file that is not a store.
    """
    path = Path(path)
    try:
        state = state_of(path)
    except OSError:
        state = None
    if state and (known := remembered(state)) is not None and stored_hash(path) == known:
        return
    report = verify_store(path)
    if report.info is None or not report.ok:
        problem = report.problems[0]
        # Problems of the root are complete messages that begin with the path.
        if not problem.startswith(str(path)):
            problem = f"{path} is damaged: {problem}: prepare the store again or copy it again"
        raise InputError(problem)
    if state:
        remember(state, report.info.content_hash)


def inspect(path: str | os.PathLike[str]) -> StoreInfo:
    """``read_info`` in a child process, for a file that is not verified and may crash its reader.

    Raises InputError, also for a crash."""
    worker = Worker(_Check(Path(path)))
    try:
        worker.send("info")
        info: StoreInfo = worker.receive()[0]
        return info
    except WorkerDied as error:
        raise damaged(Path(path), error) from None
    finally:
        worker.close()


@dataclass(frozen=True)
class _Check:
    """Task of the child process: "info", "graphs", or the name of an array."""

    path: Path

    def __call__(self, task: str) -> Any:
        try:
            if task == "info":
                silence_crashes()
                limit_memory(max(MIN_MEMORY, free_memory() // 2))
                limit_seconds(MIN_SECONDS)
                info = read_info(self.path)
                limit_seconds(MIN_SECONDS + info.memory / BYTES_A_SECOND)
                with open_file(self.path) as file:
                    return info, dataset_paths(file)
            if task == "graphs":
                return _graph_problems(Store.open(self.path, budget=0))
            return self._read(task)
        except H5_ERRORS as error:
            raise damaged(self.path, error) from None

    def _read(self, name: str) -> tuple[str | None, dict[str, Any] | None]:
        digest = hashlib.sha256()
        with open_file(self.path) as file:
            try:
                dataset = file[name]
                row_bytes = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))
                step = max(1, READ_BYTES // row_bytes)
                for low in range(0, len(dataset), step):
                    values = read_dataset(file, name, slice(low, low + step))
                    digest.update(np.ascontiguousarray(values.astype(dataset.dtype)).data)
                return None, describe(dataset, digest.hexdigest())
            except InputError as error:
                return str(error), None
            except H5_ERRORS as error:
                return f"'{name}' is damaged ({first_line(error)})", None


def _graph_problems(store: Store) -> list[str]:
    found: Counter[str] = Counter()
    identifiers: Counter[str] = Counter()
    for block in store.blocks(BLOCK_BYTES):
        names = block.ids()
        identifiers.update(names)
        for name in names:
            if problem := name_problem(name):
                found[f"ids: one {problem}"] += 1
        found.update(block_problems(block, store.graph_settings.cutoff))
    if any(count > 1 for count in identifiers.values()):
        found["ids that occur twice"] += 1
    return list(found)


def block_problems(arrays: GraphArrays, cutoff: float) -> list[str]:
    """Problems of the values of these graphs, one line each; indices must be valid."""
    with np.errstate(invalid="ignore", over="ignore"):
        volume = np.linalg.det(arrays.lattice)
        length = _edge_lengths(arrays)
    checks = {
        "frac_coords: not finite": ~np.isfinite(arrays.frac_coords),
        "lattice: not finite or without volume": ~np.isfinite(volume) | (volume == 0),
        "split: not a split": (arrays.split < NO_SPLIT) | (arrays.split >= len(SPLITS)),
    }
    checks[f"image: an edge longer than the cutoff of {cutoff:g} A"] = ~(
        length <= cutoff + LENGTH_TOLERANCE
    )
    for name, column in arrays.labels.items():
        checks[f"labels/{name}: infinite"] = np.isinf(column)
    return [message for message, wrong in checks.items() if wrong.any()]


def _edge_lengths(arrays: GraphArrays) -> npt.NDArray[np.float64]:
    """(E,) in angstrom, in pieces whose columns stay in the cache."""
    metric = arrays.lattice @ arrays.lattice.transpose(0, 2, 1)
    frac = np.ascontiguousarray(arrays.frac_coords.T, dtype=np.float64)
    length = np.empty(len(arrays.sender))
    bounds = _piece_bounds(arrays.edge_ptr)
    for low, high in pairwise(bounds):
        edges = slice(int(arrays.edge_ptr[low]), int(arrays.edge_ptr[high]))
        counts = np.diff(arrays.edge_ptr[low : high + 1])
        first = np.repeat(arrays.node_ptr[low:high], counts)
        sender, receiver = first + arrays.sender[edges], first + arrays.receiver[edges]
        image = arrays.image[edges]
        apart = [frac[k][sender] - frac[k][receiver] + image[:, k] for k in range(3)]
        square = np.zeros(len(sender))
        for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
            factor = metric[low:high, i, j] * (1.0 if i == j else 2.0)
            square += np.repeat(factor, counts) * apart[i] * apart[j]
        length[edges] = np.sqrt(np.maximum(square, 0.0))
    return length


def _piece_bounds(edge_ptr: npt.NDArray[np.int64]) -> list[int]:
    """Bounds of pieces of at most PIECE_EDGES edges, or of one crystal."""
    bounds = [0]
    while bounds[-1] < len(edge_ptr) - 1:
        begin = bounds[-1]
        end = int(np.searchsorted(edge_ptr, edge_ptr[begin] + PIECE_EDGES, side="right")) - 1
        bounds.append(max(end, begin + 1))
    return bounds
