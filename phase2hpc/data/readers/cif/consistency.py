"""Checks of the atoms against what the file says besides: cell volume, formula, units, density."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import gemmi
import numpy as np

from phase2hpc.data.elements import SYMBOLS, atomic_number
from phase2hpc.data.readers.cif.block import Block, CifError, number_in

# Atomic fractions of the sites and of _chemical_formula_sum may differ by rounding only.
FORMULA_TOLERANCE = 3e-3
# What _cell_volume may differ by from the volume of the cell, relatively and in angstrom^3: lengths
# or volume are sometimes rounded to two digits.
VOLUME_TOLERANCE = (0.03, 1.0)
# Densities are measured as well as calculated, and hydrogens are often missing from the sites.
DENSITY_TOLERANCE = 0.2
# Grams per cm^3 of one atomic mass unit per cubic angstrom.
DENSITY_UNIT = 1.66053907

# Characters of a formula that is compared with the sites.
MAX_FORMULA = 200
# Cells that are a multiple of one another, as centred and primitive ones are.
_CELL_RATIOS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (3, 1), (4, 1))
# In the order in which they are trusted; all but the first are often free text.
_FORMULA_TAGS = tuple(
    f"_chemical_formula_{kind}" for kind in ("sum", "moiety", "structural", "analytical", "iupac")
)
_DENSITY_TAGS = (
    "_exptl_crystal_density_diffrn",
    "_exptl_crystal_density_meas",
    "_cell_density_diffrn",
)


def check_volume(block: Block, volume: float) -> None:
    """Refuse a cell that contradicts the file's own volume: one of them was changed or damaged."""
    text = block.undisputed_text("_cell_volume")
    stated = number_in(text) if text else np.nan
    relative, absolute = VOLUME_TOLERANCE
    # Programs that do not know the volume write 0.
    if stated > 0 and abs(stated - volume) > max(relative * volume, absolute):
        raise CifError(
            f"conflicting cell: lengths and angles make {volume:.5g} A^3, _cell_volume says "
            f"{stated:.5g} (correct the wrong one)"
        )


def formula_counts(block: Block, tag: str = "_chemical_formula_sum") -> dict[int, float] | None:
    """Atoms by atomic number in a formula, None where it is free text or absent."""
    text = block.undisputed_text(tag) if tag in block else None
    parts = text.replace(",", " ").split() if text and len(text) <= MAX_FORMULA else []
    counts: dict[int, float] = {}
    for part in parts:
        match = re.fullmatch(r"([A-Z][a-z]?)(\d+\.?\d*|\d*)", part)
        number = atomic_number(match[1]) if match else None
        if match is None or number is None:
            return None
        counts[number] = counts.get(number, 0.0) + float(match[2] or 1.0)
    return counts if 0.0 < sum(counts.values()) < np.inf else None


def formula_units(block: Block) -> int:
    """``_cell_formula_units_Z``, 0 where it is unknown."""
    text = block.undisputed_text("_cell_formula_units_z")
    return int(text) if text and re.fullmatch(r"\d{1,4}", text) else 0


def check_formula(block: Block, species: Sequence[str]) -> None:
    """Refuse sites that contradict the file's own formula: rows or hydrogens are missing.

    Formulas that cannot be parsed are left alone: they are often free text.
    """
    counts = formula_counts(block)
    found = Counter(atomic_number(symbol) for symbol in species)
    if counts is None or None in found:
        return
    text = block.undisputed_text("_chemical_formula_sum")
    total, n = sum(counts.values()), len(species)
    if n < total - 0.5 or _fractions_differ(counts, found, total, n):
        made = " ".join(f"{SYMBOLS[z]}{found[z]}" for z in sorted(z for z in found if z))
        raise CifError(
            f"missing atoms: the sites make {made[:80]}, _chemical_formula_sum says {text} "
            "(rows, hydrogens or symmetry lost?)"
        )
    units = formula_units(block)
    # Some programs write the whole cell's formula whatever the units. A primitive cell may have
    # inherited the units of the conventional one, which holds two, three or four of it.
    if units and n not in (total, *(k * units * total / m for k, m in _CELL_RATIOS)):
        raise CifError(
            f"missing atoms: {n} in the cell, but _cell_formula_units_Z {units} times "
            f"_chemical_formula_sum ({text}) makes {units * total:g} (rows or symmetry lost?)"
        )


def makes_formula(block: Block, species: Sequence[str]) -> bool:
    """Whether the atoms are ``_cell_formula_units_Z`` times ``_chemical_formula_sum``, both of
    which are given."""
    counts, units = formula_counts(block), formula_units(block)
    found = Counter(atomic_number(symbol) for symbol in species)
    if counts is None or not units or None in found:
        return False
    total, n = sum(counts.values()), len(species)
    return abs(n - units * total) < 0.5 and not _fractions_differ(counts, found, total, n)


def _fractions_differ(
    counts: Mapping[int, float], found: Mapping[int | None, int], total: float, n: int
) -> bool:
    return any(
        abs(counts.get(z, 0.0) / total - found.get(z, 0) / n) > FORMULA_TOLERANCE
        for z in {*counts, *found}
        if z is not None
    )


def check_units_of_unstated_symmetry(block: Block, species: Sequence[str]) -> None:
    """Refuse sites without symmetry that make fewer formula units than the cell is said to hold."""
    units, n = formula_units(block), len(species)
    if not units:
        return
    formulas = ((tag, formula_counts(block, tag)) for tag in _FORMULA_TAGS)
    tag, counts = next(((t, c) for t, c in formulas if c is not None), ("", None))
    if counts is None:
        short = {symbol: k for symbol, k in Counter(species).items() if k % units}
        if short:
            symbol, count = next(iter(short.items()))
            raise CifError(
                f"missing symmetry: the file states none, and {count} sites of {symbol} do not "
                f"make _cell_formula_units_Z {units} equal formula units"
            )
        return
    total = sum(counts.values())
    whole_cell = all(count % units == 0 for count in counts.values())
    if not (abs(n - units * total) < 0.5 or (whole_cell and abs(n - total) < 0.5)):
        raise CifError(
            f"missing symmetry: the file states none, and its {n} sites do not make "
            f"_cell_formula_units_Z {units} times {tag}, {units * total:g} atoms"
        )


def check_density(block: Block, species: Sequence[str], volume: float) -> None:
    """Refuse sites without symmetry whose mass does not make the density that is stated."""
    numbers = Counter(atomic_number(symbol) for symbol in species)
    if None in numbers:
        return
    mass = sum(gemmi.Element(z).weight * count for z, count in numbers.items() if z)
    made = DENSITY_UNIT * mass / volume
    for tag in _DENSITY_TAGS:
        text = block.undisputed_text(tag) if tag in block else None
        stated = number_in(text) if text else np.nan
        if stated > 0 and abs(made / stated - 1.0) > DENSITY_TOLERANCE:
            raise CifError(
                f"missing symmetry: no operation is known, and the sites make {made:.3g} g/cm^3 "
                f"where {tag} says {stated:.4g}"
            )
    text = block.undisputed_text("_chemical_formula_weight")
    weight, units = number_in(text) if text else np.nan, formula_units(block)
    if weight > 0 and units and abs(mass / (weight * units) - 1.0) > DENSITY_TOLERANCE:
        raise CifError(
            f"missing symmetry: no operation is known, and the sites weigh {mass:.5g} u where "
            f"_cell_formula_units_Z {units} times _chemical_formula_weight makes "
            f"{weight * units:.5g} u"
        )
