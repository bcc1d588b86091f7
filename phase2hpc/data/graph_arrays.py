"""Many graphs as flat arrays, the form of stores, of worker results and of batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from phase2hpc.data.crystal import Crystal
from phase2hpc.data.electron_parity import UNDECIDED, parity_by_cell, parity_by_composition
from phase2hpc.data.graph import Graph
from phase2hpc.data.splits import SPLITS

NO_SPLIT = -1

Count = TypeVar("Count", int, npt.NDArray[np.int64])

# Labels are float32.
MAX_LABEL = float(np.finfo(np.float32).max)
# Memory that node_table and edge_table add, in bytes per node and per edge.
NODE_TABLE_BYTES = 32
EDGE_TABLE_BYTES = 8

# Every array but the labels: dtype, what one entry belongs to, and shape of one entry. In a
# store made with float64, frac_coords is float64.
FIELDS: dict[str, tuple[type[np.generic], str, tuple[int, ...]]] = {
    "node_ptr": (np.int64, "pointer", ()),
    "edge_ptr": (np.int64, "pointer", ()),
    "id_ptr": (np.int64, "pointer", ()),
    "atomic_number": (np.uint8, "node", ()),
    "frac_coords": (np.float32, "node", (3,)),
    "sender": (np.uint16, "edge", ()),
    "receiver": (np.uint16, "edge", ()),
    "image": (np.int8, "edge", (3,)),
    "lattice": (np.float64, "crystal", (3, 3)),
    "id_bytes": (np.uint8, "id", ()),
    "split": (np.int8, "crystal", ()),
}


def arrays_bytes(
    crystals: Count, nodes: Count, edges: Count, id_bytes: Count, *, labels: int, float64: bool
) -> Count:
    """Size in bytes of the arrays with these counts; ``labels`` is the number of columns."""
    counts = {
        "pointer": crystals + 1,
        "crystal": crystals,
        "node": nodes,
        "edge": edges,
        "id": id_bytes,
    }
    total = crystals * (labels * np.dtype(np.float32).itemsize)
    for name, (default, owner, tail) in FIELDS.items():
        dtype = np.dtype(np.float64 if float64 and name == "frac_coords" else default)
        total = total + counts[owner] * (dtype.itemsize * math.prod(tail))
    return total


@dataclass(frozen=True)
class GraphArrays:
    """N graphs with M nodes and E edges in all.

    node_ptr, edge_ptr, id_ptr: (N+1,) int64, from 0; graph i owns the entries ptr[i]:ptr[i+1].
    atomic_number: (M,) uint8. frac_coords: (M, 3) float32 or float64. sender, receiver: (E,)
    uint16, counted within the graph. image: (E, 3) int8, the sender's. lattice: (N, 3, 3) float64
    angstrom, rows are vectors. id_bytes: uint8, the ids in UTF-8. split: (N,) int8, an index
    into SPLITS or NO_SPLIT. labels: (N,) float32 by name, NaN where missing.
    """

    node_ptr: npt.NDArray[np.int64]
    edge_ptr: npt.NDArray[np.int64]
    id_ptr: npt.NDArray[np.int64]
    atomic_number: npt.NDArray[np.uint8]
    frac_coords: npt.NDArray[np.floating]
    sender: npt.NDArray[np.uint16]
    receiver: npt.NDArray[np.uint16]
    image: npt.NDArray[np.int8]
    lattice: npt.NDArray[np.float64]
    id_bytes: npt.NDArray[np.uint8]
    split: npt.NDArray[np.int8]
    labels: Mapping[str, npt.NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.lattice)

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        fields = sum(getattr(self, name).nbytes for name in FIELDS)
        return int(fields + sum(column.nbytes for column in self.labels.values()))

    def id(self, index: int) -> str:
        """Id of one crystal."""
        return self.id_bytes[self.id_ptr[index] : self.id_ptr[index + 1]].tobytes().decode()

    def ids(self) -> list[str]:
        """Ids of all crystals."""
        text = self.id_bytes.tobytes()
        return [text[a:b].decode() for a, b in pairwise(self.id_ptr.tolist())]

    def split_indices(self, name: str) -> npt.NDArray[np.int64]:
        """Indices of the crystals of a split, ascending."""
        return np.flatnonzero(self.split == SPLITS.index(name))

    def block(self, low: int, high: int) -> GraphArrays:
        """Graphs low to high - 1: views of the arrays, with pointers that begin at 0."""
        pointers = {
            "node": self.node_ptr[low : high + 1],
            "edge": self.edge_ptr[low : high + 1],
            "id": self.id_ptr[low : high + 1],
        }
        arrays: dict[str, Any] = {f"{owner}_ptr": ptr - ptr[0] for owner, ptr in pointers.items()}
        for name, (_, owner, _) in FIELDS.items():
            if owner in pointers:
                begin, end = pointers[owner][[0, -1]]
                arrays[name] = getattr(self, name)[begin:end]
            elif owner == "crystal":
                arrays[name] = getattr(self, name)[low:high]
        return GraphArrays(
            **arrays, labels={name: column[low:high] for name, column in self.labels.items()}
        )

    @cached_property
    def node_table(self) -> npt.NDArray[np.float64]:
        """(M, 4) float64: Cartesian position in angstrom and atomic number; made at first use.

        Slicing one table takes a third of the time of slicing its columns.
        """
        cell = np.repeat(self.lattice, np.diff(self.node_ptr), axis=0)
        frac = self.frac_coords.astype(np.float64)
        table = np.empty((len(frac), 4))
        table[:, :3] = sum(frac[:, i, None] * cell[:, i] for i in range(3))
        table[:, 3] = self.atomic_number
        return table

    @cached_property
    def edge_table(self) -> npt.NDArray[np.uint16]:
        """(E, 4) uint16: sender, receiver, then three int8 of the image and an unused byte."""
        table = np.zeros((len(self.sender), 4), dtype=np.uint16)
        table[:, 0] = self.sender
        table[:, 1] = self.receiver
        table.view(np.int8)[:, 4:7] = self.image
        return table

    @property
    def degrees(self) -> npt.NDArray[np.int64]:
        """(M,) number of neighbours of each atom."""
        first_node = np.repeat(self.node_ptr[:-1], np.diff(self.edge_ptr))
        return np.bincount(first_node + self.receiver, minlength=len(self.atomic_number))

    @cached_property
    def max_degree(self) -> npt.NDArray[np.int64]:
        """(N,) largest number of neighbours of an atom in each graph; made at first use."""
        # One entry past the end, for graphs without atoms there.
        ends = np.maximum.reduceat(np.append(self.degrees, 0), self.node_ptr[:-1])
        return np.where(np.diff(self.node_ptr) > 0, ends, 0)

    @cached_property
    def known_piezoelectric(self) -> npt.NDArray[np.int8]:
        """(N,) 1 where symmetry lets a crystal be piezoelectric, 0 where not, -1 where it has not
        been looked at: each validation of a training asks for the same crystals."""
        return np.full(len(self), -1, dtype=np.int8)

    def electron_parity(self, indices: npt.NDArray[np.integer]) -> npt.NDArray[np.int8]:
        """Parity of these crystals' numbers of electrons (``data.electron_parity``)."""
        known = self._known_parity
        for index in indices[known[indices] == UNDECIDED].tolist():
            atoms = slice(*self.node_ptr[index : index + 2].tolist())
            known[index] = parity_by_cell(
                self.lattice[index], self.frac_coords[atoms], self.atomic_number[atoms]
            )
        found: npt.NDArray[np.int8] = known[indices]
        return found

    @cached_property
    def _known_parity(self) -> npt.NDArray[np.int8]:
        return parity_by_composition(self.node_ptr, self.atomic_number)

    def take(self, indices: npt.NDArray[np.integer]) -> GraphArrays:
        """A copy of the graphs with these indices, in this order."""
        chosen = [int(i) for i in indices]
        return concatenate([self.block(i, i + 1) for i in chosen] or [self.block(0, 0)])


def pack(pairs: Iterable[tuple[Crystal, Graph]], *, float64: bool = False) -> GraphArrays:
    """Arrays of these graphs. Coordinates become float32, as in a store, unless ``float64``."""
    crystals: list[Crystal] = []
    graphs: list[Graph] = []
    for crystal, graph in pairs:
        crystals.append(crystal)
        graphs.append(graph)
    ids = [crystal.id.encode() for crystal in crystals]
    names = dict.fromkeys(name for crystal in crystals for name in crystal.labels)
    return GraphArrays(
        node_ptr=_pointers([len(crystal.numbers) for crystal in crystals]),
        edge_ptr=_pointers([len(graph.sender) for graph in graphs]),
        id_ptr=_pointers([len(text) for text in ids]),
        atomic_number=_joined("atomic_number", [c.numbers for c in crystals]),
        frac_coords=_joined(
            "frac_coords", [c.frac_coords for c in crystals], np.float64 if float64 else np.float32
        ),
        sender=_joined("sender", [g.sender for g in graphs]),
        receiver=_joined("receiver", [g.receiver for g in graphs]),
        image=_joined("image", [g.image for g in graphs]),
        lattice=_joined("lattice", [c.lattice[None] for c in crystals]),
        id_bytes=np.frombuffer(b"".join(ids), dtype=np.uint8),
        split=np.array(
            [NO_SPLIT if c.split is None else SPLITS.index(c.split) for c in crystals], np.int8
        ),
        labels={
            name: np.array([c.labels.get(name, np.nan) for c in crystals], dtype=np.float32)
            for name in names
        },
    )


def concatenate(blocks: Sequence[GraphArrays]) -> GraphArrays:
    """Concatenate at least one block; labels that a block lacks are NaN there."""
    arrays: dict[str, Any] = {}
    for name, (_, owner, _) in FIELDS.items():
        parts = [getattr(block, name) for block in blocks]
        if owner == "pointer":
            arrays[name] = _pointers(np.concatenate([np.diff(part) for part in parts]))
        else:
            arrays[name] = np.concatenate(parts)
    names = dict.fromkeys(name for block in blocks for name in block.labels)
    labels = {
        name: np.concatenate([block.labels.get(name, no_labels(len(block))) for block in blocks])
        for name in names
    }
    return GraphArrays(**arrays, labels=labels)


def no_labels(count: int) -> npt.NDArray[np.float32]:
    """A label column without labels."""
    return np.full(count, np.nan, dtype=np.float32)


def _pointers(counts: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    pointer = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=pointer[1:])
    return pointer


def _joined(
    name: str,
    parts: Sequence[npt.NDArray[Any]],
    dtype: type[np.generic] | None = None,
) -> npt.NDArray[Any]:
    default, _, tail = FIELDS[name]
    target = dtype or default
    if not parts:
        return np.empty((0, *tail), dtype=target)
    return np.concatenate(parts).astype(target, copy=False)
