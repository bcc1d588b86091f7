"""Batch of crystals as tensors, with the fields of a torch_geometric ``Data``.

torch_geometric itself takes as long to import as torch; only ``StoreDataset`` needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor


class Sizes:
    """Sizes of a batch, from its tensors.

    padded: crystals of weight zero were added (``data.padding``). widths: (n, D) for groups of
    atoms by falling degree: the atoms before the n-th, without those of the group before, have at
    most D neighbours; None if unknown.
    """

    padded: bool = False
    widths: list[tuple[int, int]] | None = None
    cell: Tensor
    edge_index: Tensor

    @property
    def num_graphs(self) -> int:
        return int(self.cell.shape[0])

    @property
    def num_edges(self) -> int:
        return int(self.edge_index.shape[1])

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


class CrystalData(Sizes):
    """One or more crystals.

    z: (N,) int64 atomic numbers. pos: (N, 3) Cartesian, angstrom. cell: (B, 3, 3), rows are
    vectors. edge_index: (2, E) int64, row 0 the sender, row 1 the receiver, sorted by receiver.
    edge_shift: (E, 3) lattice image of the sender, in the dtype of ``pos``. batch: (N,) int64, and
    ptr: (B + 1,) int64, the crystal of each node. y: (B, P) labels, NaN where missing. index:
    (B,) int64, index in the source. weight: (B,) one, or zero for padding. electron_parity: (B,)
    int64, of ``data.electron_parity``.
    """

    z: Tensor
    pos: Tensor
    edge_shift: Tensor
    batch: Tensor
    ptr: Tensor
    y: Tensor
    index: Tensor
    weight: Tensor
    electron_parity: Tensor

    def __init__(self, **tensors: Tensor) -> None:
        self.__dict__.update(tensors)

    @property
    def num_nodes(self) -> int:
        return int(self.z.shape[0])

    @property
    def largest(self) -> int:
        """Edges of the crystal with the most."""
        return int(torch.bincount(self.batch[self.edge_index[1]]).max()) if self.num_edges else 0

    @property
    def on_gpu(self) -> bool:
        return self.pos.is_cuda

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return [name for name, value in self.__dict__.items() if isinstance(value, Tensor)]

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def clone(self) -> Self:
        """A copy with its own memory."""
        return self._with(Tensor.clone)

    def to(self, *where: Any, **options: Any) -> Self:
        """A copy on a device, as ``Tensor.to``."""
        return self._with(lambda tensor: tensor.to(*where, **options))

    def pin_memory(self) -> Self:
        """A copy in pinned memory."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Self:
        other = type(self)()
        for name, value in self.__dict__.items():
            other.__dict__[name] = change(value) if isinstance(value, Tensor) else value
        return other
