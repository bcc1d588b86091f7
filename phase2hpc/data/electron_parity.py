"""Whether a crystal's number of electrons is odd, which means over atoms cannot count.

With an odd number of electrons in the primitive cell a band is half filled: without a magnetic
moment the crystal is a metal (Ashcroft and Mermin, Solid State Physics, 1976, chapter 12). With an
odd number in the formula unit and an even one in the cell, it is closed-shell only if formula units
pair. A mean over atoms is the same for a cell and its double, and tells compositions apart, but not
odd numbers from even ones.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phase2hpc.data.symmetry import primitive_size

EVEN, ODD_FORMULA, ODD_CELL = range(3)
PARITIES = 3
# The primitive cell decides between ODD_FORMULA and ODD_CELL.
UNDECIDED = -1

_BASE = 256  # above every atomic number


def parity_by_composition(
    node_ptr: npt.NDArray[np.int64], atomic_numbers: npt.NDArray[np.integer]
) -> npt.NDArray[np.int8]:
    """Parity of each crystal, (N,), or ``UNDECIDED``; crystals are neutral.

    node_ptr (N + 1,), atomic_numbers (M,): as in ``GraphArrays``.
    """
    crystal = np.repeat(np.arange(len(node_ptr) - 1), np.diff(node_ptr))
    kinds, counts = np.unique(crystal * _BASE + atomic_numbers, return_counts=True)
    owner, number = np.divmod(kinds, _BASE)
    present, first = np.unique(owner, return_index=True)
    parity = np.full(len(node_ptr) - 1, EVEN, dtype=np.int8)
    if len(present):
        formula_units = np.gcd.reduceat(counts, first)
        odd = np.add.reduceat(counts * number, first) // formula_units % 2 == 1
        # A cell of an odd number of formula units has an odd number of primitive cells.
        parity[present[odd]] = np.where(formula_units[odd] % 2, ODD_CELL, UNDECIDED)
    return parity


def parity_by_cell(
    lattice: npt.NDArray[np.floating],
    frac_coords: npt.NDArray[np.floating],
    atomic_numbers: npt.NDArray[np.integer],
) -> int:
    """Parity of a crystal whose formula unit has an odd number of electrons."""
    cells = len(atomic_numbers) // primitive_size(lattice, frac_coords, atomic_numbers)
    electrons = int(np.sum(atomic_numbers, dtype=np.int64)) // cells
    return ODD_CELL if electrons % 2 else ODD_FORMULA
