"""Space-group symmetry as a CIF states it, and the atoms it makes of a few sites."""

from __future__ import annotations

import re
from collections.abc import Sequence

import gemmi
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Images of a site closer than this (angstrom) are one atom: coordinates rounded to two or three
# digits miss their special position by that much, and no two atoms of a crystal come so near.
SAME_ATOM = 0.1
# A space group has at most 192 in any setting of the tables; a larger cell may have more of them.
MAX_OPERATIONS = 1000
# How far, relatively, an operation may change the cell's metric: relaxed cells are symmetric to
# the tolerance with which their symmetry was found.
METRIC_TOLERANCE = 0.05
_LARGE_INTEGER = re.compile(r"(?<![.\d])\d{4,}")
# ICSD writes the setting behind the Hermann-Mauguin symbol.
_SETTINGS = {"S": "1", "Z": "2", "H": "H", "HR": "H", "R": "R"}


class SymmetryError(ValueError):
    """The symmetry a file states cannot be used; the message is ``kind: detail``."""


def space_group_operations(
    triplets: Sequence[str],
    hall: str | None,
    hermann_mauguin: str | None,
    number: int | None,
    cell: Sequence[float],
) -> tuple[Array, Array]:
    """Rotations (m, 3, 3) and translations (m, 3) in fractional coordinates.

    The listed operations (``triplets``) are used where there are any, else the Hall symbol, the
    Hermann-Mauguin symbol, the number of the space group; none of them means P1. ``cell`` is
    a, b, c in angstrom and alpha, beta, gamma in degrees. Raises SymmetryError where they
    contradict each other or the cell, form no group, or leave the setting open.
    """
    named = _by_name(hermann_mauguin, cell[3], cell[5])
    declared = {
        f"symbol {hermann_mauguin}": named.number if named else None,
        f"number {number}": number,
    }
    if triplets:
        group = _group(triplets)
        declared["the listed operations"] = _number_of(group)
    elif hall is not None:
        group = _by_hall(hall)
        declared[f"Hall symbol {hall}"] = _number_of(group)
    elif named is not None:
        _refuse_open_setting(named, str(hermann_mauguin))
        group = named.operations()
    elif hermann_mauguin is not None:
        raise SymmetryError(
            f"unknown space group: '{hermann_mauguin[:30]}', and no symmetry operations are listed"
        )
    elif number is not None:
        group = _by_number(number)
    else:
        group = gemmi.GroupOps([gemmi.Op("x,y,z")])
    known = {source: value for source, value in declared.items() if value is not None}
    if len(set(known.values())) > 1:
        said = ", ".join(f"{source}: No. {value}" for source, value in known.items())
        raise SymmetryError(f"conflicting symmetry: {said}")
    rotations = np.array([op.rot for op in group], dtype=np.float64) / gemmi.Op.DEN
    translations = np.array([op.tran for op in group], dtype=np.float64) / gemmi.Op.DEN
    _check_metric(rotations, cell)
    return rotations, translations


def expand(
    frac: Array, lattice: Array, rotations: Array, translations: Array
) -> tuple[Array, npt.NDArray[np.intp]]:
    """All atoms of the cell: fractional coordinates (n, 3), and the site (n,) each is an image of.

    A site within SAME_ATOM of a special position is put on it exactly (the mean of the images
    that coincide), so that 0.3333 for 1/3 neither doubles the atom nor breaks the symmetry.
    """
    if len(rotations) == 1:
        return frac, np.arange(len(frac))
    positions, sites = [], []
    for site, point in enumerate(frac):
        shift = rotations @ point + translations - point
        shift -= np.rint(shift)
        at_home = np.linalg.norm(shift @ lattice, axis=1) < SAME_ATOM
        special = point + shift[at_home].mean(axis=0)
        images = rotations @ special + translations
        images -= np.floor(images)
        apart = images[:, None] - images[None]
        apart -= np.rint(apart)
        first = (np.abs(apart) < 1e-6).all(axis=2).argmax(axis=1)
        images = images[first == np.arange(len(images))]
        positions.append(images)
        sites.append(np.full(len(images), site))
    return np.concatenate(positions), np.concatenate(sites)


def _group(triplets: Sequence[str]) -> gemmi.GroupOps:
    operations = {}
    if len(triplets) > MAX_OPERATIONS:
        raise SymmetryError(
            f"too many symmetry operations: {len(triplets)} are listed, at most {MAX_OPERATIONS} "
            "are taken (a space group has up to 192)"
        )
    for text in triplets:
        try:
            # Unusual cells have operations like "x, -y, 2x-z", as pymatgen writes them.
            op = gemmi.Op(re.sub(r"(\d)([xyzXYZ])", r"\1*\2", text.strip("'\" "))).wrap()
        except (RuntimeError, ValueError):
            raise SymmetryError(f"bad symmetry operation: '{text[:40]}'") from None
        # gemmi lets larger integers overflow to others.
        if _LARGE_INTEGER.search(text):
            raise SymmetryError(f"bad symmetry operation: '{text[:40]}' holds a huge number")
        if op.is_hkl() or abs(op.det_rot()) != gemmi.Op.DEN**3 or not re.search("[xX]", text):
            raise SymmetryError(f"bad symmetry operation: '{text[:40]}' is no operation on x, y, z")
        operations[op.triplet()] = op
    group = gemmi.GroupOps(list(operations.values()))
    try:
        group.add_missing_elements()
    except RuntimeError as error:
        raise SymmetryError(
            f"incomplete symmetry: the listed operations form no group ({error})"
        ) from None
    complete = {op.wrap().triplet() for op in group}
    if complete != set(operations):
        raise SymmetryError(
            f"incomplete symmetry: {len(operations)} operations are listed, the group they "
            f"generate has {len(complete)}"
        )
    return group


def _number_of(group: gemmi.GroupOps) -> int | None:
    found = gemmi.find_spacegroup_by_ops(group)
    return found.number if found is not None else None


def _by_hall(symbol: str) -> gemmi.GroupOps:
    try:
        return gemmi.symops_from_hall(symbol)
    except (RuntimeError, ValueError):
        raise SymmetryError(f"unknown space group: Hall symbol '{symbol[:30]}'") from None


def _by_name(symbol: str | None, alpha: float, gamma: float) -> gemmi.SpaceGroup | None:
    """The space group of a Hermann-Mauguin symbol, None where it is not in the tables.

    The angles tell the hexagonal from the rhombohedral cell of an R group.
    """
    if symbol is None:
        return None
    name = symbol.replace("_", "").strip()
    base, _, setting = name.partition(":")
    if not setting and " " in base and base.split()[-1] in _SETTINGS:
        stem, _, suffix = base.rpartition(" ")
        # "P 3 2 1 R" is a setting, but the last word of "P 1" or "F d d d" is not.
        base, setting = stem, _SETTINGS[suffix]
    base, setting = base.strip(), setting.strip().upper()
    group = gemmi.find_spacegroup_by_name(f"{base}:{setting}") if setting else None
    return group or gemmi.find_spacegroup_by_name(base, alpha, gamma)


def _refuse_open_setting(group: gemmi.SpaceGroup, name: str) -> None:
    explicit = ":" in name or name.split()[-1] in _SETTINGS
    if group.ext in ("1", "2") and not explicit:
        raise SymmetryError(
            f"ambiguous space group: {name} has two origin choices; write '{group.hm}:1' or "
            f"'{group.hm}:2', or list the symmetry operations"
        )


def _by_number(number: int) -> gemmi.GroupOps:
    group = gemmi.find_spacegroup_by_number(number) if 1 <= number <= 230 else None
    if group is None:
        raise SymmetryError(f"unknown space group: number {number}")
    _refuse_open_setting(group, group.hm)
    return group.operations()


def _check_metric(rotations: Array, cell: Sequence[float]) -> None:
    lengths = np.array(cell[:3])
    cos_alpha, cos_beta, cos_gamma = np.cos(np.radians(cell[3:])).tolist()
    metric = np.outer(lengths, lengths) * np.array(
        [[1.0, cos_gamma, cos_beta], [cos_gamma, 1.0, cos_alpha], [cos_beta, cos_alpha, 1.0]]
    )
    change = np.swapaxes(rotations, 1, 2) @ metric @ rotations - metric
    if (np.abs(change) / np.outer(lengths, lengths)).max() > METRIC_TOLERANCE:
        shown = ", ".join(f"{value:g}" for value in cell)
        raise SymmetryError(
            f"conflicting symmetry: the symmetry operations do not fit the cell ({shown})"
        )
