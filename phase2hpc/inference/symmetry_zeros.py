"""Properties that are zero by the symmetry of a crystal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phase2hpc.config.properties import PROPERTIES
from phase2hpc.data.graph_arrays import GraphArrays
from phase2hpc.data.symmetry import is_piezoelectric


def can_be_zero_by_symmetry(name: str) -> bool:
    """Whether symmetry decides in some crystals that a property is zero."""
    return name in PROPERTIES and PROPERTIES[name].piezoelectric


def zero_by_symmetry(
    arrays: GraphArrays, indices: npt.NDArray[np.integer], properties: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """(n, P): whether symmetry makes a property of a crystal exactly zero."""
    zero = np.zeros((len(indices), len(properties)), dtype=bool)
    columns = [p for p, name in enumerate(properties) if can_be_zero_by_symmetry(name)]
    if columns:
        known = arrays.known_piezoelectric
        for index in indices[known[indices] < 0].tolist():
            atoms = slice(*arrays.node_ptr[index : index + 2].tolist())
            known[index] = is_piezoelectric(
                arrays.lattice[index], arrays.frac_coords[atoms], arrays.atomic_number[atoms]
            )
        zero[:, columns] = known[indices, None] == 0
    return zero
