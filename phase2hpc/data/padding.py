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

from phase2hpc.data.graph_arrays import GraphArrays

# Sizes from one power of two to the next: the largest adds 19%.
SIZES_PER_OCTAVE = 4
# Degree of an atom of padding, at least, relative to the mean degree: what a batch lacks in edges
# then finds a place at few atoms.
MIN_RELATIVE_DEGREE = 1.25
# Shares of a batch's atoms that may have more neighbours than the narrow width.
WIDE_SHARES = (1 / 8, 1 / 4, 1 / 2, 1)
# Share of all atoms that have at most as many neighbours as the narrow width, or more of them.
NARROW_QUANTILE = 0.95


class Shape(NamedTuple):
    """Sizes of a padded batch. wide: atoms that have room for the largest number of neighbours."""

    crystals: int
    atoms: int
    edges: int
    wide: int


@dataclass(frozen=True)
class PaddedShapes:
    """The shapes of a run's batches, which depend on its crystals and not on the batches seen.

    crystals: of a padded batch. degree: the largest of an atom; narrow: that of most. mean_degree:
    edges per atom. wide: atoms with more than ``narrow`` neighbours by crystal of the store.
    """

    crystals: int
    degree: int
    narrow: int
    mean_degree: float
    wide: npt.NDArray[np.int64]

    @classmethod
    def of_crystals(
        cls, arrays: GraphArrays, indices: npt.NDArray[np.int64], batch_size: int
    ) -> Self:
        """For batches of at most ``batch_size`` of these crystals."""
        degrees = arrays.degrees
        nodes = np.diff(arrays.node_ptr)
        chosen = np.zeros(len(nodes), dtype=bool)
        chosen[indices] = True
        here = degrees[np.repeat(chosen, nodes)]
        mean = float(here.mean())
        likely = np.quantile(here, NARROW_QUANTILE, method="higher")
        narrow = max(int(likely), math.ceil(MIN_RELATIVE_DEGREE * mean), 1)
        above = np.concatenate([[0], np.cumsum(degrees > narrow)])
        wide = above[arrays.node_ptr[1:]] - above[arrays.node_ptr[:-1]]
        return cls(batch_size + 1, max(int(here.max()), narrow), narrow, mean, wide)

    def of(self, indices: npt.NDArray[np.int64], atoms_here: int, edges_here: int) -> Shape:
        """The smallest shape that holds these crystals, and an atom or more in each further one."""
        least = atoms_here + self.crystals - len(indices)
        step = math.floor(SIZES_PER_OCTAVE * math.log2(least))
        while True:
            atoms = math.ceil(2 ** (step / SIZES_PER_OCTAVE))
            edges = math.ceil(atoms * self.mean_degree)
            missing = edges - edges_here
            if atoms >= least and 0 <= missing <= (atoms - atoms_here) * self.narrow:
                break
            step += 1
        wide = int(self.wide[indices].sum())
        room = next(n for n in (math.ceil(share * atoms) for share in WIDE_SHARES) if n >= wide)
        return Shape(self.crystals, atoms, edges, room)
