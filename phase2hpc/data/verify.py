"""Is a store whole? Every checksum, the content hash and the structure of the graphs.

It runs in a child process: a damaged HDF5 file can crash the library that reads it.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phase2hpc.data.arrays import NO_SPLIT, GraphArrays
from phase2hpc.data.splits import SPLITS
from phase2hpc.data.store import Store
from phase2hpc.data.store_layout import (
    NoStore,
    StoreInfo,
    content_hash,
    dataset_paths,
    describe,
    open_file,
    read_dataset,
    read_info,
    stored_hash,
)
from phase2hpc.data.trusted import remember, remembered, state_of
from phase2hpc.data.workers import Worker, WorkerDied
from phase2hpc.errors import InputError

READ_BYTES = 1 << 26


@dataclass
class VerifyReport:
    """What ``verify_store`` found; ``problems`` is empty for a store that can be trusted."""

    path: Path
    info: StoreInfo | None = None
    arrays: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

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
    """Read all of a store in a child process and report what is wrong with it.

    Raises NoStore (an InputError) where there is none at all.
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
        if content_hash(info.graph_settings, info.units, descriptions) != info.content_hash:
            report.problems.append("the content hash does not fit the arrays and their settings")
        doing = "the graphs"
        worker.send("graphs")
        report.problems += worker.receive()
    except WorkerDied as error:
        report.problems.append(f"reading {doing} crashed: {error}")
    except NoStore:
        raise
    except InputError as error:
        report.problems.append(str(error))
    finally:
        worker.close()
    return report


def trust(path: str | os.PathLike[str]) -> None:
    """Return if this store is whole: verified now, unless it is known to be as it was then.

    Stores that this user prepared, merged or verified are known by real path, size, time of
    change and content hash. Raises InputError naming what is damaged, NoStore where there is none.
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
        # What comes from the file's root is a whole sentence already.
        if not problem.startswith(str(path)):
            problem = f"{path} is damaged: {problem}: prepare the store again or copy it anew"
        raise InputError(problem)
    if state:
        remember(state, report.info.content_hash)


@dataclass(frozen=True)
class _Check:
    """The child's side: "info", "graphs", or the name of an array."""

    path: Path

    def __call__(self, task: str) -> Any:
        if task == "info":
            info = read_info(self.path)
            with open_file(self.path) as file:
                return info, dataset_paths(file)
        if task == "graphs":
            return _graph_problems(Store.open(self.path, budget=0))
        return self._read(task)

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
            except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
                return f"'{name}' is damaged ({error})", None


def _graph_problems(store: Store) -> list[str]:
    found: Counter[str] = Counter()
    sizes = {
        "node_ptr": (store.node_ptr, store.info.nodes, 1),
        "edge_ptr": (store.edge_ptr, store.info.edges, 0),
    }
    for name, (pointer, end, least) in sizes.items():
        if len(pointer) != len(store) + 1 or pointer[0] != 0 or pointer[-1] != end:
            found[f"{name} does not span its arrays"] += 1
        elif len(store) and np.diff(pointer).min() < least:
            found[f"{name} does not ascend"] += 1
    if found:
        return list(found)
    identifiers: Counter[str] = Counter()
    for block in store.blocks(READ_BYTES):
        try:
            identifiers.update(block.ids())
        except UnicodeDecodeError:
            found["ids that are no UTF-8"] += 1
        found.update(block_problems(block))
    if any(count > 1 for count in identifiers.values()):
        found["ids that occur twice"] += 1
    return list(found)


def block_problems(arrays: GraphArrays) -> list[str]:
    """What cannot be in these graphs, one line each; nothing for sound ones."""
    edge_counts = np.diff(arrays.edge_ptr)
    atoms = np.repeat(np.diff(arrays.node_ptr), edge_counts)
    crystal = np.repeat(np.arange(len(arrays)), edge_counts)
    place = crystal * (1 << 16) + arrays.receiver
    with np.errstate(invalid="ignore"):
        volume = np.linalg.det(arrays.lattice)
    numbers = arrays.atomic_number
    checks = {
        "sender: an index beyond the crystal's atoms": arrays.sender >= atoms,
        "receiver: an index beyond the crystal's atoms": arrays.receiver >= atoms,
        "receiver: edges are not sorted by receiver": np.diff(place) < 0,
        "atomic_number: not an element": (numbers < 1) | (numbers > 118),
        "frac_coords: not finite": ~np.isfinite(arrays.frac_coords),
        "lattice: not finite or without volume": ~np.isfinite(volume) | (volume == 0),
        "split: not a split": (arrays.split < NO_SPLIT) | (arrays.split >= len(SPLITS)),
    }
    for name, column in arrays.labels.items():
        checks[f"labels/{name}: infinite"] = np.isinf(column)
    return [message for message, wrong in checks.items() if wrong.any()]
