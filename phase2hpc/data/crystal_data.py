"""Batch of crystals as a torch_geometric ``Data``."""

from __future__ import annotations

from typing import Any

import torch
from torch_geometric.data import Data


class CrystalData(Data):  # type: ignore[misc]
    """``Data`` of one or more crystals.

    z: (N,) int64 atomic numbers. pos: (N, 3) Cartesian, angstrom. cell: (B, 3, 3), rows are
    vectors. edge_index: (2, E) int64, row 0 the sender, row 1 the receiver, sorted by receiver.
    edge_shift: (E, 3) lattice image of the sender, in the dtype of ``pos``. batch: (N,) int64, and
    ptr: (B + 1,) int64, the crystal of each node. y: (B, P) labels, NaN where missing. index:
    (B,) int64, index in the source. weight: (B,) one, or zero for padding.
    """

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        # By its name, torch_geometric would treat it as node indices.
        return 0 if key == "index" else super().__inc__(key, value, *args, **kwargs)

    @property
    def num_graphs(self) -> int:
        return int(self.cell.shape[0])

    @property
    def max_degree(self) -> int:
        """Largest number of neighbours of an atom; the loader knows it without asking a GPU."""
        known: int | None = self.__dict__.get("_max_degree")
        if known is None:
            receiver = self.edge_index[1]
            known = int(torch.bincount(receiver).max()) if len(receiver) else 0
        return known

    @max_degree.setter
    def max_degree(self, value: int) -> None:
        self.__dict__["_max_degree"] = value
