"""Symmetry of a crystal: what it forbids, and the size of the primitive cell."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import spglib

# In angstrom: how far an atom may lie from its image under a symmetry operation.
TOLERANCE = 0.01


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
    """Number of atoms of the primitive cell; of this cell where symmetry cannot be found."""
    cell = _spglib_cell(lattice, frac_coords, atomic_numbers)
    try:
        primitive = spglib.find_primitive(cell, symprec=TOLERANCE)
    except spglib.SpglibError:
        primitive = None
    return len(atomic_numbers) if primitive is None else len(primitive[2])


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
    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    rarest = np.flatnonzero(atomic_numbers == numbers[counts.argmin()])
    coords = np.asarray(frac_coords, dtype=np.float64)
    vectors = np.asarray(lattice, dtype=np.float64)
    different = atomic_numbers[:, None] != atomic_numbers[None, :]
    for partner in rarest:
        image = coords[rarest[0]] + coords[partner] - coords
        # The first few atoms refuse almost every centre that is none.
        if all(
            _all_have_a_twin(image[rows], coords, different[rows], vectors)
            for rows in (slice(0, 4), slice(4, None))
        ):
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


def _all_have_a_twin(
    images: npt.NDArray[np.float64],
    coords: npt.NDArray[np.float64],
    different: npt.NDArray[np.bool_],
    lattice: npt.NDArray[np.float64],
) -> bool:
    """Whether each image (n, 3) lies on an atom of its kind; different: (n, N), other elements."""
    offset = images[:, None, :] - coords[None, :, :]
    offset -= np.round(offset)
    distance = np.linalg.norm(offset @ lattice, axis=2)
    return bool((np.where(different, np.inf, distance).min(axis=1) < TOLERANCE).all())
