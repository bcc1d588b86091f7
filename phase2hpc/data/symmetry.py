"""Symmetry of a crystal: what it forbids, and the size of the primitive cell."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import spglib

# In angstrom: how far an atom may lie from its image under a symmetry operation.
TOLERANCE = 0.01
# The atoms that are looked at first to refuse an operation, and the size of a cell that is worth
# it.
FIRST_ATOMS = 4
MANY_ATOMS = 12
# The size of a cell up to which translations are tried one by one.
SMALL_CELL = 64
# Smallest orbit of an atom, in the primitive cell, that can make a crystal 432 (``_can_be_432``).
MIN_ORBIT_432 = 4
# Relative deviation of the lattice from a cubic one; TOLERANCE on the shortest of vectors makes
# half of it.
CUBIC_TOLERANCE = 0.03


def is_piezoelectric(
    lattice: npt.NDArray[np.floating],
    frac_coords: npt.NDArray[np.floating],
    atomic_numbers: npt.NDArray[np.integer],
) -> bool:
    """False where symmetry makes the piezoelectric tensor zero.

    That is so in crystals with a centre of inversion and in point group 432 (Nye, Physical
    Properties of Crystals, 1957, chapter VII). lattice (3, 3) in angstrom, rows are vectors;
    frac_coords (N, 3). Where symmetry cannot be found, nothing is forbidden.
    """
    if is_centrosymmetric(lattice, frac_coords, atomic_numbers):
        return False
    if not _can_be_432(lattice, atomic_numbers):
        return True
    cell = _spglib_cell(lattice, frac_coords, atomic_numbers)
    try:
        found = spglib.get_symmetry_dataset(cell, symprec=TOLERANCE)
    # spglib reports a failure by None or an exception, by its version and settings.
    except spglib.SpglibError:
        return True
    return found is None or str(found.pointgroup).strip() != "432"


def primitive_size(
    lattice: npt.NDArray[np.floating],
    frac_coords: npt.NDArray[np.floating],
    atomic_numbers: npt.NDArray[np.integer],
) -> int:
    """Number of atoms of the primitive cell; of this cell where symmetry cannot be found.

    A translation takes one atom of the rarest element to another of its kind. In small cells these
    are soon tried, in large ones spglib is faster.
    """
    atoms = len(atomic_numbers)
    if atoms > SMALL_CELL:
        try:
            found = spglib.find_primitive(
                _spglib_cell(lattice, frac_coords, atomic_numbers), symprec=TOLERANCE
            )
        except spglib.SpglibError:
            found = None
        return atoms if found is None else len(found[2])
    cell = _Cell(lattice, frac_coords, atomic_numbers)
    first = cell.coords[cell.rarest[0]]
    translations = 1 + sum(
        cell.is_mapped(cell.coords + (cell.coords[partner] - first)) for partner in cell.rarest[1:]
    )
    # Where distortions are as large as the tolerance, what is found may be no group.
    return atoms if cell.formula_units % translations else atoms // translations


def is_centrosymmetric(
    lattice: npt.NDArray[np.floating],
    frac_coords: npt.NDArray[np.floating],
    atomic_numbers: npt.NDArray[np.integer],
) -> bool:
    """Whether the crystal has a centre of inversion, within ``TOLERANCE``.

    An inversion takes one atom of the rarest element to another of its kind, so these pairs give
    all possible centres. spglib decides it too, at ten times the cost: it identifies the space
    group.
    """
    cell = _Cell(lattice, frac_coords, atomic_numbers)
    first = cell.coords[cell.rarest[0]]
    return any(
        cell.is_mapped(first + cell.coords[partner] - cell.coords) for partner in cell.rarest
    )


def _can_be_432(lattice: npt.NDArray[np.floating], atomic_numbers: npt.NDArray[np.integer]) -> bool:
    """False where a crystal without a centre of inversion cannot be of point group 432.

    spglib, which decides the others, takes ten times as long. In the space groups of 432 (207 to
    214), orbits of one to three atoms of the primitive cell have coordinates without a parameter,
    and those of one group together are centrosymmetric (International Tables A): some element has a
    larger one. And the lattice is cubic, which the given cell, a whole multiple of the primitive
    one, shows: with the edge a of the cube, products of its vectors are multiples of a^2, or of
    a^2 / 4 where the cube is centred.
    """
    counts = np.bincount(atomic_numbers)
    most = int(counts.max())
    if most < MIN_ORBIT_432:
        return False
    vectors = np.asarray(lattice, dtype=np.float64)
    volume = abs(float(np.linalg.det(vectors)))
    products = vectors @ vectors.T
    lengths = np.sqrt(products.diagonal())
    errors = CUBIC_TOLERANCE * lengths[:, None] * lengths
    multiple = math.gcd(*counts[counts > 0].tolist())
    for cells in range(1, multiple + 1):
        if multiple % cells or most < MIN_ORBIT_432 * cells:
            continue
        # Primitive, body-centred and face-centred: cells of the lattice in the cube.
        for points, unit in ((1, 1.0), (2, 0.25), (4, 0.25)):
            step = unit * (points * volume / cells) ** (2 / 3)
            if (np.abs(products - step * np.rint(products / step)) <= errors).all():
                return True
    return False


def _spglib_cell(
    lattice: npt.NDArray[np.floating],
    frac_coords: npt.NDArray[np.floating],
    atomic_numbers: npt.NDArray[np.integer],
) -> tuple[list[list[float]], list[list[float]], list[int]]:
    return (
        np.asarray(lattice, dtype=np.float64).tolist(),
        np.asarray(frac_coords, dtype=np.float64).tolist(),
        np.asarray(atomic_numbers).tolist(),
    )


class _Cell:
    """Atoms of a cell. rarest: those of the rarest element. formula_units: their number."""

    def __init__(
        self,
        lattice: npt.NDArray[np.floating],
        frac_coords: npt.NDArray[np.floating],
        atomic_numbers: npt.NDArray[np.integer],
    ) -> None:
        counts = np.bincount(atomic_numbers)
        number = np.where(counts, counts, counts.max() + 1).argmin()
        self.rarest = np.flatnonzero(atomic_numbers == number)
        self.formula_units = int(np.gcd.reduce(counts))
        self.coords = np.asarray(frac_coords, dtype=np.float64)
        self._lattice = np.asarray(lattice, dtype=np.float64)
        self._same = atomic_numbers[:, None] == atomic_numbers

    def is_mapped(self, images: npt.NDArray[np.float64]) -> bool:
        """Whether the image (N, 3) of every atom lies on an atom of its kind."""
        # The first few atoms refuse almost every operation that is no symmetry.
        first = FIRST_ATOMS if len(images) > MANY_ATOMS else len(images)
        return self._on_atoms(images, slice(first)) and (
            first == len(images) or self._on_atoms(images, slice(first, None))
        )

    def _on_atoms(self, images: npt.NDArray[np.float64], some: slice) -> bool:
        offset = (images[some, None] - self.coords).reshape(-1, 3)
        offset -= np.rint(offset)
        offset = offset @ self._lattice
        near = np.einsum("ij,ij->i", offset, offset) < TOLERANCE**2
        same = self._same[some]
        return bool((near.reshape(same.shape) & same).any(axis=1).all())
