"""Validation of raw crystals; each rejection has a kind and a reason of one line.

Nothing is repaired. Only notation changes: coordinates are wrapped into the cell, oxidation states
dropped, deuterium written as hydrogen, entries of one element that share a site made one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phase2hpc.data.crystal import Crystal, RawCrystal
from phase2hpc.data.elements import COVALENT_RADII, SYMBOLS, atomic_number
from phase2hpc.data.neighbor_search import Pairs, pairs_within
from phase2hpc.data.shared_sites import is_full, with_whole_sites

# Beyond this a coordinate is no fraction of a cell, and wrapping it would cost digits.
MAX_FRACTION = 1e4
# Flatter cells make neighbour lists explode; no reduced cell of a crystal comes near.
MIN_HEIGHT = 0.1
# Longer cells hold little but vacuum, and vesin divides by zero in those that are thin besides.
MAX_HEIGHT = 500.0


@dataclass(frozen=True)
class Limits:
    """Limits of a crystal that is accepted.

    max_atoms: atoms in the cell (at most 624 in 47,000 crystals of the Materials Project; a
    quarter of the metal-organic frameworks of CoRE MOF have more than 1000).
    min_volume, max_volume: angstrom^3 per atom (4.4 to 88 in the sample data; solid hydrogen
    under pressure has about 1.5, a monolayer in a thick vacuum some hundreds; an isolated atom in
    a box of 20 angstrom has 8000 and is no crystal). overlap: two atoms are too close below this
    fraction of the sum of their covalent radii (the smallest in the sample data is 0.63).
    """

    max_atoms: int = 1000
    min_volume: float = 1.0
    max_volume: float = 1000.0
    overlap: float = 0.5


DEFAULT_LIMITS = Limits()


class Rejected(ValueError):
    """A crystal is not accepted. ``kind`` groups reasons; str() is ``kind: detail``."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


def reason_kind(reason: str) -> str:
    """The kind that a reason of ``Rejected`` or ``UnreadableRecord`` begins with."""
    return reason.split(":", 1)[0]


def validate(raw: RawCrystal, limits: Limits = DEFAULT_LIMITS) -> Crystal:
    """The validated crystal; raises Rejected with the first reason found.

    A left-handed lattice is accepted as it is.
    """
    crystal = check_record(raw, limits)
    radius = overlap_radius(crystal.numbers, limits)
    pairs = pairs_within(crystal.lattice, crystal.frac_coords, radius)
    refuse_overlap(crystal.numbers, pairs, limits)
    return crystal


def check_record(raw: RawCrystal, limits: Limits = DEFAULT_LIMITS) -> Crystal:
    """As ``validate``, but for overlapping atoms, which ``refuse_overlap`` finds."""
    raw = with_whole_sites(raw)
    lattice = _matrix(raw.lattice, "bad cell", "lattice")
    if lattice.shape != (3, 3):
        raise Rejected("bad cell", f"the lattice has shape {lattice.shape}, not (3, 3)")
    n = len(raw.species)
    if n == 0:
        raise Rejected("no atoms", "the cell is empty")
    if n > limits.max_atoms:
        raise Rejected(
            "too many atoms",
            f"{n} in the cell, at most {limits.max_atoms} are taken (--max-atoms)",
        )
    _check_cell(lattice, n, limits)
    numbers = _numbers(raw)
    _check_occupancies(raw)
    frac = _matrix(raw.frac_coords, "bad coordinates", "coordinates")
    if frac.shape != (n, 3):
        raise Rejected("bad coordinates", f"{n} species, but coordinates of shape {frac.shape}")
    if np.abs(frac).max() > MAX_FRACTION:
        raise Rejected(
            "bad coordinates", f"{np.abs(frac).max():g} is not a fraction of a lattice vector"
        )
    frac = frac - np.floor(frac)
    frac[frac >= 1.0] = 0.0  # -1e-17 wraps to exactly 1
    return Crystal(
        id=raw.id,
        lattice=lattice,
        numbers=numbers,
        frac_coords=frac,
        labels=raw.labels,
        split=raw.split,
    )


def _matrix(values: object, kind: str, what: str) -> npt.NDArray[np.float64]:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise Rejected(kind, f"the {what} are not rows of three numbers") from None
    if not np.isfinite(array).all():
        raise Rejected(kind, f"the {what} hold a value that is not finite")
    return array


def _check_cell(lattice: npt.NDArray[np.float64], n: int, limits: Limits) -> None:
    a, b, c = lattice.tolist()
    normals = (_cross(b, c), _cross(c, a), _cross(a, b))
    volume = abs(sum(x * y for x, y in zip(a, normals[0], strict=True)))
    areas = [(x * x + y * y + z * z) ** 0.5 for x, y, z in normals]
    if not all(map(math.isfinite, (volume, *areas))):
        raise Rejected("bad cell", "the lattice vectors are too long")
    if volume < 1e-6 or min(areas) == 0.0:
        raise Rejected("bad cell", f"the cell has no volume ({volume:.3g} A^3)")
    per_atom = volume / n
    if per_atom < limits.min_volume:
        raise Rejected(
            "volume", f"{per_atom:.3g} A^3 per atom, less than {limits.min_volume:g}: too dense"
        )
    if per_atom > limits.max_volume:
        raise Rejected(
            "volume", f"{per_atom:.5g} A^3 per atom, more than {limits.max_volume:g}: no crystal"
        )
    heights = [volume / area for area in areas]
    if min(heights) < MIN_HEIGHT:
        raise Rejected(
            "bad cell",
            f"extremely thin or skewed (height {min(heights):.2g} A): give the reduced (Niggli) "
            "cell",
        )
    if max(heights) > MAX_HEIGHT:
        raise Rejected(
            "bad cell", f"{max(heights):.5g} A from face to face, at most {MAX_HEIGHT:g} are taken"
        )


def _cross(u: list[float], v: list[float]) -> tuple[float, float, float]:
    # Twenty times faster than np.cross on single vectors.
    return (u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0])


def _numbers(raw: RawCrystal) -> npt.NDArray[np.uint8]:
    known = {symbol: atomic_number(str(symbol)) for symbol in set(raw.species)}
    unknown = sorted(str(symbol) for symbol, number in known.items() if number is None)
    if unknown:
        shown = ", ".join(repr(symbol[:20]) for symbol in unknown[:5])
        raise Rejected("unknown element", f"{shown} (elements H to Lr are known)")
    return np.array([known[symbol] for symbol in raw.species], dtype=np.uint8)


def _check_occupancies(raw: RawCrystal) -> None:
    if raw.occupancies is None:
        return
    if len(raw.occupancies) != len(raw.species):
        raise Rejected(
            "disordered", f"{len(raw.occupancies)} occupancies for {len(raw.species)} sites"
        )
    for index, (symbol, occupancy) in enumerate(zip(raw.species, raw.occupancies, strict=True)):
        if not is_full(occupancy):
            raise Rejected(
                "disordered", f"site {index + 1} ({symbol}) has occupancy {occupancy:g}, not 1"
            )


def overlap_radius(numbers: npt.NDArray[np.uint8], limits: Limits = DEFAULT_LIMITS) -> float:
    """Distance beyond which no two of these elements overlap, in angstrom."""
    return 2.0 * limits.overlap * float(COVALENT_RADII[numbers].max())


def refuse_overlap(
    numbers: npt.NDArray[np.uint8], pairs: Pairs, limits: Limits = DEFAULT_LIMITS
) -> None:
    """Raise Rejected for the closest two atoms that overlap.

    pairs: within ``overlap_radius`` at least.
    """
    if not len(pairs.distance):
        return
    reach = limits.overlap * COVALENT_RADII[numbers]
    excess = pairs.distance / (reach[pairs.receiver] + reach[pairs.sender])
    worst = int(excess.argmin())
    if excess[worst] >= 1.0:
        return
    i, j = sorted((int(pairs.receiver[worst]), int(pairs.sender[worst])))
    distance = float(pairs.distance[worst])
    a, b = SYMBOLS[numbers[i]], SYMBOLS[numbers[j]]
    pair = f"atoms {i + 1} ({a}) and {j + 1} ({b}) are" if i != j else f"images of {a} {i + 1} are"
    twice = ": the same site twice?" if distance < 0.05 else ""
    raise Rejected("too close", f"{pair} {distance:.3f} A apart{twice}")
