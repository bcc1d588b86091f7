"""Sites that several entries of one element share, as those of mixed valence, as one atom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from phase2hpc.data.crystal import RawCrystal
from phase2hpc.data.elements import atomic_number

FULL_OCCUPANCY_TOLERANCE = 1e-3
# Angstrom between entries that are one site.
SAME_SITE = 0.01
# With more it is disorder, and each is compared with the others.
MAX_PARTIAL = 10_000


def is_full(occupancy: float) -> bool:
    """Whether a site of this occupancy is one atom."""
    return abs(occupancy - 1.0) <= FULL_OCCUPANCY_TOLERANCE


def is_ordered(raw: RawCrystal) -> bool:
    """Whether every entry is one atom."""
    return raw.occupancies is None or all(map(is_full, raw.occupancies))


def with_whole_sites(raw: RawCrystal) -> RawCrystal:
    """The crystal with entries at one position, of one element and of occupancies that add up to
    1, as one site: Fe2+ 0.5 and Fe3+ 0.5, or H 0.5 and D 0.5.

    As it is where any partial entry is left over, and where it is malformed, which validation
    says.
    """
    if raw.occupancies is None or is_ordered(raw):
        return raw
    occupancies = np.array(raw.occupancies, dtype=np.float64)
    partial = np.flatnonzero(~(np.abs(occupancies - 1.0) <= FULL_OCCUPANCY_TOLERANCE))
    parts = occupancies[partial]
    if len(partial) > MAX_PARTIAL or not ((parts > 0.0) & (parts < 1.0)).all():
        return raw
    try:
        lattice = np.array(raw.lattice, dtype=np.float64)
        frac = np.array(raw.frac_coords, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return raw
    shapes = lattice.shape, frac.shape, len(raw.species)
    if shapes != ((3, 3), (len(occupancies), 3), len(occupancies)):
        return raw
    if not (np.isfinite(lattice).all() and np.isfinite(frac).all()):
        return raw
    # 0 where it is no element, which is refused whatever its occupancy.
    numbers = np.array([atomic_number(str(raw.species[i])) or 0 for i in partial.tolist()])
    first = _first_of_each_site(lattice, frac[partial], numbers, parts)
    if first is None:
        return raw
    left_out = set(partial.tolist()).difference(partial[first].tolist())
    kept = [i for i in range(len(frac)) if i not in left_out]
    occupancies[partial] = 1.0
    return replace(
        raw,
        species=[raw.species[i] for i in kept],
        frac_coords=frac[kept],
        occupancies=occupancies[kept].tolist(),
    )


def _first_of_each_site(
    lattice: npt.NDArray[np.float64],
    frac: npt.NDArray[np.float64],
    numbers: npt.NDArray[np.int64],
    occupancies: npt.NDArray[np.float64],
) -> list[int] | None:
    """The first entry of each site, None unless every entry belongs to a site that is full."""
    first: list[int] = []
    free = np.ones(len(frac), dtype=bool)
    for i in range(len(frac)):
        if not free[i]:
            continue
        shift = frac - frac[i]
        distance = np.linalg.norm((shift - np.rint(shift)) @ lattice, axis=1)
        site = free & (numbers == numbers[i]) & (distance < SAME_SITE)
        if not is_full(float(occupancies[site].sum())):
            return None
        free &= ~site
        first.append(i)
    return first
