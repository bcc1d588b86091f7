"""Evidence against P1 in a block whose symmetry was not understood, and other unread physics.

A file without symmetry is read as P1, each site one atom, only if nothing in it speaks against
that: otherwise a file whose symmetry stands in an unknown tag would become another crystal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import gemmi
from gemmi import cif

from phase2hpc.data.readers.cif.block import Block, CifError, number_in, plain_text
from phase2hpc.utils.text_cache import cached_for_short_text

# Patterns, not lists: dictionaries grow, and programs have tags of their own.
_MODULATION = re.compile(
    r"_cell_(?:modulation|subsystem|wave_vector)|superspace|_ssg(?:_|$)|"
    r"_atom_sites?_.*(?:fourier|modulat|wave_vector|special_func|legendre|_ortho|_xharm|phason)"
)
_KIND_OF_STRUCTURE = "_exptl_crystal_type_of_structure"
_SYMMETRY = re.compile(
    r"symmetry|space_?group|symop|sym_op|spgr|_sgr?(?:_|$)|hermann|mauguin|_h-m|schoenf|"
    r"wyckoff|pearson|crystal_system|cell_setting|_magn|_moment|^_parent|bravais|laue|centring|"
    r"centering|"
    r"point_group|_it_number|int_tables|hall(?:_|$)|^_sym|equiv_pos"
)
# The symmetry of a measurement, a calculation or a reference says nothing of the sites.
_NOT_OF_THE_SITES = re.compile(
    r"_(?:refln|reflns|diffrn|exptl|refine|geom_.*_publ|citation|publ|journal|audit|software|"
    r"computing|database)_|_magnification|magnesium|_details?$|_special_details"
)
# Values that speak of symmetry whatever their tag: an operation other than x,y,z.
_OPERATION = re.compile(r"(?!x,y,z)(?:[-+\d./]*[xyz][-+xyz\d./]*,){2}[-+\d./]*[xyz][-+xyz\d./]*")
_COUNTS = re.compile(r"_atom_site_.*(?:multiplicity|order)$")
_OPERATION_NUMBERS = re.compile(r"(?:symop|equiv).*_id$")
_BOND_CODES = re.compile(r"_(?:geom|hbond|valence)_.*symmetry")
_PEARSON = re.compile(r"([amothc][PABCIFRS])(\d{1,4})")
# Values that P1 has too.
_TRIVIAL = {
    "p1", "1", "1a", "a", "c1", "c1-1", "c1^1", "c_1", "c_1^1", "p1(1)", "triclinic", "anorthic",
    "x,y,z", "x,y,z,1", "x,y,z,+1", "0", "no", "none", "unknown", "p", "-1", "ap",
}  # fmt: skip
# -1 is the point group of the Patterson function and the Laue class of P1, not a point group.
_CENTRIC_IN_P1 = re.compile(r"laue|patterson")


def refuse_modulated(blocks: Sequence[Block]) -> None:
    """Raise CifError for incommensurately modulated and composite structures."""
    for block in blocks:
        for tag, item in block:
            if tag == _KIND_OF_STRUCTURE:
                modulated = any(plain_text(v).lower() in ("mod", "comp") for v in item.values())
            elif _is_of_modulation(tag):
                values = [plain_text(value) for value in item.values()]
                modulated = any(value and number_in(value) != 0.0 for value in values)
            else:
                continue
            if modulated:
                raise CifError(
                    f"modulated structure: {item.tag[:60]} describes waves that no single cell "
                    "holds (give a commensurate approximant as an ordinary structure)"
                )


@cached_for_short_text
def _is_of_modulation(tag: str) -> bool:
    return _MODULATION.search(tag) is not None


def refuse_evidence_against_p1(block: Block, others: Sequence[Block], sites: int) -> None:
    """Raise CifError where a tag says that the sites are not all atoms of the cell.

    ``others`` are the blocks of the file that hold no sites of their own.
    """
    if block.has_faults:
        raise CifError(
            "missing symmetry: no symmetry is stated and the file has syntax errors, which may "
            "have swallowed it"
        )
    for source in (block, *others):
        for tag, item in source:
            if not _SYMMETRY.search(tag) or _NOT_OF_THE_SITES.search(tag):
                against = _operation_or_group(tag, item.values())
            elif tag.endswith("_id") and not _OPERATION_NUMBERS.search(tag):
                continue
            else:
                against = _against_p1(tag, item.values(), sites)
            if against is not None:
                where = "" if source is block else f" in the block data_{source.name[:20]}"
                raise CifError(
                    f"unread symmetry: {item.tag[:60]}{where} says {against}, and no symmetry "
                    "operations, symbol or number could be read (write "
                    "_symmetry_equiv_pos_as_xyz)"
                )


def _operation_or_group(tag: str, values: Sequence[str]) -> str | None:
    """A value that is a symmetry operation, or the name of a space group in a tag of groups."""
    for value in values[:2]:
        text = plain_text(value)
        if _OPERATION.fullmatch(text.lower().replace(" ", "")):
            return f"'{text[:30]}'"
    if "group" in tag and "disorder" not in tag and values:
        text = plain_text(values[0])
        found = gemmi.find_spacegroup_by_name(text) if 0 < len(text) < 30 else None
        if found is not None and found.number > 1:
            return f"'{text}'"
    return None


def _against_p1(tag: str, values: Sequence[str], sites: int) -> str | None:
    """The first value that P1 does not have, None where there is none."""
    if not values:
        return "nothing"
    for value in values:
        text = plain_text(value)
        if not text:
            continue
        plain = text.lower().replace(" ", "").strip("'\"")
        pearson = _PEARSON.fullmatch(text)
        if "pearson" in tag and pearson is not None:
            agrees = int(pearson[2]) == sites
        elif _COUNTS.search(tag):
            agrees = number_in(cif.as_string(value)) in (0.0, 1.0)
        elif _BOND_CODES.search(tag):
            agrees = re.fullmatch(r"1(_\d{3})?|x,y,z|0", plain) is not None
        elif plain == "-1":
            agrees = _CENTRIC_IN_P1.search(tag) is not None
        else:
            agrees = plain in _TRIVIAL
        if not agrees:
            return f"'{text[:30]}'"
    return None
