"""Batches padded to one of a few shapes, so that steps of a shape are the same operations.

The padding is further crystals of weight zero: they take part in no loss, gradient or batch
statistics (``models.distributed_batch_norm``), and no message reaches another crystal from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.graph_arrays import GraphArrays

# Sizes from one power of two to the next: the largest adds 19%.
SIZES_PER_OCTAVE = 4
# Degree of an atom of padding, at least, relative to the mean degree: what a batch lacks in edges
# then finds a place at few atoms.
MIN_RELATIVE_DEGREE = 1.25


class Shape(NamedTuple):
    """Sizes of a padded batch."""

    crystals: int
    atoms: int
    edges: int


@dataclass(frozen=True)
class PaddedShapes:
    """The shapes of a run's batches, which depend on its crystals and not on the batches seen.

    crystals: of a padded batch. degree: the largest of an atom. mean_degree: edges per atom.
    """

    crystals: int
    degree: int
    mean_degree: float

    @classmethod
    def of_crystals(
        cls, arrays: GraphArrays, indices: npt.NDArray[np.int64], batch_size: int
    ) -> Self:
        """For batches of at most ``batch_size`` of these crystals."""
        edges = (arrays.edge_ptr[indices + 1] - arrays.edge_ptr[indices]).sum()
        mean = float(edges / (arrays.node_ptr[indices + 1] - arrays.node_ptr[indices]).sum())
        largest = int(arrays.max_degree[indices].max(initial=0))
        degree = max(largest, math.ceil(MIN_RELATIVE_DEGREE * mean), 1)
        return cls(batch_size + 1, degree, mean)

    def of(self, batch: CrystalData) -> Shape:
        """The smallest shape that holds the batch, with an atom or more in each further crystal."""
        least = batch.num_nodes + self.crystals - batch.num_graphs
        step = math.floor(SIZES_PER_OCTAVE * math.log2(least))
        while True:
            atoms = math.ceil(2 ** (step / SIZES_PER_OCTAVE))
            edges = math.ceil(atoms * self.mean_degree)
            missing = edges - batch.num_edges
            if atoms >= least and 0 <= missing <= (atoms - batch.num_nodes) * self.degree:
                return Shape(self.crystals, atoms, edges)
            step += 1

    def pad(self, batch: CrystalData) -> CrystalData:
        """The batch in its shape."""
        shape = self.of(batch)
        first_atom, first_crystal = batch.num_nodes, batch.num_graphs
        crystals, atoms, edges = (
            shape.crystals - first_crystal, shape.atoms - first_atom, shape.edges - batch.num_edges
        )  # fmt: skip
        device = batch.pos.device
        atom = torch.arange(atoms, device=device)
        # Every crystal has one atom, and the last the rest; an edge leads to its own atom's image.
        owner = first_crystal + atom.clamp(max=crystals - 1)
        ends = first_atom + 1 + torch.arange(crystals, device=device)
        ends[-1:].fill_(shape.atoms)
        receiver = first_atom + torch.arange(edges, device=device) * atoms // max(edges, 1)
        cell = torch.eye(3, dtype=batch.cell.dtype, device=device).expand(crystals, 3, 3)
        out = CrystalData(
            z=_extended(batch.z, atoms, 1),
            pos=_extended(batch.pos, atoms, 0.0),
            cell=torch.cat([batch.cell, cell]),
            edge_index=torch.cat([batch.edge_index, receiver.expand(2, edges)], dim=1),
            edge_shift=_extended(batch.edge_shift, edges, 1.0),
            batch=torch.cat([batch.batch, owner]),
            ptr=torch.cat([batch.ptr, ends]),
            y=_extended(batch.y, crystals, math.nan),
            index=_extended(batch.index, crystals, 0),
            weight=_extended(batch.weight, crystals, 0.0),
        )
        out.max_degree, out.padded = self.degree, True
        return out


def _extended(tensor: Tensor, rows: int, value: float) -> Tensor:
    return torch.cat([tensor, tensor.new_full((rows, *tensor.shape[1:]), value)])
