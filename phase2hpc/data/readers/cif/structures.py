"""CIF files: gemmi reads the syntax, this module says what is wrong with the rest.

Parsers take what they can of a broken file: gemmi gives a file without a cell one of 1 x 1 x 1
and makes atoms of '?', pymatgen takes a cell of nan and says of most else only that the file has
no structures. Here every file becomes whole crystals or one clear reason, ``kind: detail``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import cast

import gemmi
import numpy as np
import numpy.typing as npt
from gemmi import cif

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.elements import SYMBOLS, atomic_number
from phase2hpc.data.readers.cif.sites import read_sites
from phase2hpc.data.readers.cif.symmetry import SymmetryError, expand, space_group_operations
from phase2hpc.data.readers.cif.syntax import CifError, first_value, number_in, parse
from phase2hpc.data.readers.truncation import ends_openly, looks_cut

MAX_IMAGES = 100_000
# Atomic fractions of the sites and of _chemical_formula_sum may differ by rounding only.
FORMULA_TOLERANCE = 3e-3
# What _cell_volume may differ by from the volume of the cell, relatively and in angstrom^3: lengths
# or volume are sometimes rounded to two digits.
VOLUME_TOLERANCE = (0.03, 1.0)

# Characters of a formula that is compared with the sites.
MAX_FORMULA = 200
# Cells that are a multiple of one another, as centred and primitive ones are.
_CELL_RATIOS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (3, 1), (4, 1))

_CELL_TAGS = tuple(
    f"_cell_{part}"
    for part in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
)
_OPERATION_TAGS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
_HALL_TAGS = ("_space_group_name_Hall", "_symmetry_space_group_name_Hall")
_SYMBOL_TAGS = ("_space_group_name_H-M_alt", "_symmetry_space_group_name_H-M")
_NUMBER_TAGS = ("_space_group_IT_number", "_symmetry_Int_Tables_number")


def structures_in_cif(data: bytes, name: str, source: str) -> list[RawCrystal | UnreadableRecord]:
    """What a CIF holds: one item for each data block with atoms, at least one item in all.

    One block takes ``name`` as its id, several take ``name#block``. ``source`` is what ``input``
    of the items says. Never raises for what is in ``data``.
    """
    try:
        document = parse(data)
    except CifError as error:
        return [UnreadableRecord(name, source, str(error))]
    blocks = _structure_blocks(document)
    items: list[RawCrystal | UnreadableRecord] = []
    for block in blocks:
        suffix = f"#{block.name}" if len(blocks) > 1 else ""
        try:
            if block.name == document[-1].name and ends_openly(data):
                _refuse_cut_value(block)
            items.append(_crystal(block, name + suffix, source + suffix))
        except (CifError, SymmetryError) as error:
            items.append(UnreadableRecord(name + suffix, source + suffix, str(error)))
    return items


def _structure_blocks(document: cif.Document) -> list[cif.Block]:
    """Blocks with atoms; if there is none, the one whose lack of them is worth reporting."""
    tags = [(block, _tags(block)) for block in document]
    with_atoms = [block for block, names in tags if "_atom_site_" in names]
    with_cell = [block for block, names in tags if "_cell_" in names]
    return with_atoms or with_cell[:1] or [document[0]]


def _tags(block: cif.Block) -> str:
    names: list[str] = []
    for item in block:
        if item.pair is not None:
            names.append(cast(Sequence[str], item.pair)[0])
        elif item.loop is not None:
            names.extend(item.loop.tags)
    # Dotted names are those of mmCIF.
    return " ".join(names).lower().replace("_atom_site.", "_atom_site_").replace("_cell.", "_cell_")


def _refuse_cut_value(block: cif.Block) -> None:
    """Refuse a block whose last value, the file's last bytes, is shorter than it should be."""
    items = list(block)
    loop = items[-1].loop if items else None
    if loop is None:
        return
    rows = [
        list(loop.values[i : i + loop.width()]) for i in range(0, len(loop.values), loop.width())
    ]
    column, last = [row[-1] for row in rows], rows[-1]
    names = [tag.lower() for tag in loop.tags]
    cut = looks_cut(column[-1], column[:-1])
    if names[-1] == "_atom_site_type_symbol" and "_atom_site_label" in names:
        # "Na1 ... N" of "Na1 ... Na".
        label = re.match(r"[A-Z][a-z]?", last[names.index("_atom_site_label")])
        cut = label is not None and label[0] != last[-1] and label[0].startswith(last[-1])
    if cut:
        raise CifError(
            f"truncated: the file ends in '{last[-1][:20]}', which looks cut, of "
            f"{loop.tags[-1][:40]} (if the file is whole, end it with a line end)"
        )


def _crystal(block: cif.Block, name: str, source: str) -> RawCrystal:
    _refuse_other_dialects(block)
    cell = _cell(block)
    symbols, frac, occupancies = read_sites(block)
    lattice = np.array(gemmi.UnitCell(*cell).orth.mat).T
    if not np.isfinite(lattice).all() or abs(np.linalg.det(lattice)) < 1e-6:
        raise CifError(f"bad cell: {', '.join(f'{x:g}' for x in cell)} has no volume")
    _check_volume(block, abs(float(np.linalg.det(lattice))))
    rotations, translations = _operations(block, cell)
    if len(rotations) * len(frac) > MAX_IMAGES:
        raise CifError(
            f"too many atoms: {len(frac)} sites times {len(rotations)} symmetry operations"
        )
    positions, site = expand(frac, lattice, rotations, translations)
    species = [symbols[i] for i in site]
    if (occupancies == 1.0).all():
        _check_formula(block, species)
    return RawCrystal(
        id=name,
        input=source,
        lattice=lattice,
        species=species,
        frac_coords=positions,
        occupancies=occupancies[site].tolist(),
    )


def _refuse_other_dialects(block: cif.Block) -> None:
    if block.find_values("_cell.length_a") or block.find_values("_atom_site.Cartn_x"):
        raise CifError("mmCIF: this is the macromolecular dialect; give a core CIF (.cif)")
    if block.find_mmcif_category("_space_group_symop_magn") or any(
        block.find_values(tag)
        for stem in ("_space_group_symop_magn_operation", "_space_group_symop_magn_centering")
        for tag in (f"{stem}.xyz", f"{stem}_xyz")
    ):
        raise CifError("magnetic CIF: its symmetry is magnetic; give the nuclear structure's CIF")


def _cell(block: cif.Block) -> list[float]:
    cell = []
    for tag in _CELL_TAGS:
        text = first_value(block, tag)
        if text is None:
            raise CifError(f"no cell: {tag} is missing or unknown")
        value = number_in(text)
        if not np.isfinite(value) or value <= 0.0:
            raise CifError(f"bad cell: {tag} is '{text[:30]}'")
        if tag.startswith("_cell_angle") and value >= 180.0:
            raise CifError(f"bad cell: {tag} is {value:g} degrees")
        cell.append(value)
    a, b, g = np.cos(np.radians(cell[3:])).tolist()
    if 1.0 - a * a - b * b - g * g + 2.0 * a * b * g <= 1e-9:
        raise CifError(f"bad cell: angles {cell[3]:g}, {cell[4]:g}, {cell[5]:g} close no cell")
    return cell


def _operations(
    block: cif.Block, cell: Sequence[float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    triplets: list[str] = []
    for tag in _OPERATION_TAGS:
        listed = [cif.as_string(v) for v in block.find_values(tag) if not cif.is_null(v)]
        triplets = triplets or listed
    number = first_value(block, *_NUMBER_TAGS)
    if number is not None and not re.fullmatch(r"\d{1,3}", number):
        raise CifError(f"unknown space group: number '{number[:20]}'")
    return space_group_operations(
        triplets,
        first_value(block, *_HALL_TAGS),
        first_value(block, *_SYMBOL_TAGS),
        int(number) if number else None,
        cell,
    )


def _check_volume(block: cif.Block, volume: float) -> None:
    """Refuse a cell that contradicts the file's own volume: one of them was changed or damaged."""
    text = first_value(block, "_cell_volume")
    stated = number_in(text) if text else np.nan
    relative, absolute = VOLUME_TOLERANCE
    if abs(stated - volume) > max(relative * volume, absolute):
        raise CifError(
            f"conflicting cell: lengths and angles make {volume:.5g} A^3, _cell_volume says "
            f"{stated:.5g} (correct the wrong one)"
        )


def _check_formula(block: cif.Block, species: Sequence[str]) -> None:
    """Refuse sites that contradict the file's own formula: rows or hydrogens are missing.

    Formulas this cannot read are left alone: they are often free text.
    """
    text = first_value(block, "_chemical_formula_sum")
    parts = text.replace(",", " ").split() if text and len(text) <= MAX_FORMULA else []
    matches = [re.fullmatch(r"([A-Z][a-z]?)(\d+\.?\d*|\d*)", part) for part in parts]
    counts: dict[int, float] = {}
    for match in matches:
        number = atomic_number(match[1]) if match else None
        if match is None or number is None:
            return
        counts[number] = counts.get(number, 0.0) + float(match[2] or 1.0)
    found = Counter(atomic_number(symbol) for symbol in species)
    total, n = sum(counts.values()), len(species)
    if not 0.0 < total < np.inf or None in found:
        return
    made = " ".join(f"{SYMBOLS[z]}{found[z]}" for z in sorted(z for z in found if z))
    if (
        any(
            abs(counts.get(z, 0.0) / total - found[z] / n) > FORMULA_TOLERANCE
            for z in {*counts, *found}
            if z is not None
        )
        or n < total - 0.5
    ):
        raise CifError(
            f"missing atoms: the sites make {made[:80]}, _chemical_formula_sum says {text} "
            "(rows, hydrogens or symmetry lost?)"
        )
    stated = first_value(block, "_cell_formula_units_Z")
    units = int(stated) if stated and re.fullmatch(r"\d{1,4}", stated) else 0
    # Some programs write the whole cell's formula whatever the units. A primitive cell may have
    # inherited the units of the conventional one, which holds two, three or four of it.
    if units and n not in (total, *(k * units * total / m for k, m in _CELL_RATIOS)):
        raise CifError(
            f"missing atoms: {n} in the cell, but _cell_formula_units_Z {units} times "
            f"_chemical_formula_sum ({text}) makes {units * total:g} (rows or symmetry lost?)"
        )
