"""Slabs and wires: structures that are not periodic in every direction, as ASE writes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Angstrom between periodic images along a direction that is not periodic: the default cutoff, so
# that no atom has a neighbour across it.
MIN_VACUUM = 6.0
VACUUM_NOTE = (
    "not periodic in every direction: read as a periodic cell with its vacuum, as a POSCAR is"
)


def periodicity_problem(
    lattice: npt.NDArray[np.float64], frac_coords: npt.NDArray[np.float64], pbc: Sequence[bool]
) -> str | None:
    """Reason why the periodic cell would be another structure; None where it is the same.

    lattice (3, 3) in angstrom, rows are vectors; frac_coords (n, 3), not wrapped along directions
    that are not periodic; pbc: True for each periodic direction.
    """
    if all(pbc):
        return None
    if not any(pbc):
        return "not periodic: a molecule or cluster, and a crystal repeats in three directions"
    volume = abs(float(np.linalg.det(lattice)))
    for axis in range(3):
        if pbc[axis]:
            continue
        a, b = lattice[axis - 2], lattice[axis - 1]
        height = volume / float(np.linalg.norm(np.cross(a, b)))
        vacuum = height * (1.0 - float(np.ptp(frac_coords[:, axis])))
        if not vacuum >= MIN_VACUUM:
            return (
                f"not periodic: not along {'abc'[axis]}, where its cell has {max(vacuum, 0):.3g} A "
                f"of vacuum and at least {MIN_VACUUM:g} are needed to read it as a periodic cell "
                "(set pbc to true in all directions if it is a crystal)"
            )
    return None
