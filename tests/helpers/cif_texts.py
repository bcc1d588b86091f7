"""Texts of CIFs of one small cell, and what a CIF is read as."""

from __future__ import annotations

from collections import Counter

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.cif.structures import structures_in_cif
from phase2hpc.data.validation import Rejected, validate


def read(text: str | bytes) -> list[RawCrystal | UnreadableRecord]:
    return structures_in_cif(text.encode() if isinstance(text, str) else text, "x", "x.cif")


def outcome(text: str | bytes) -> str:
    """The atoms of the one crystal in a CIF as "Cl4 Na4", or the reason."""
    (item,) = read(text)
    if isinstance(item, UnreadableRecord):
        return item.reason
    try:
        validate(item)
    except Rejected as error:
        return str(error)
    counts = Counter(element(symbol) for symbol in item.species)
    return " ".join(f"{symbol}{count}" for symbol, count in sorted(counts.items()))


def element(symbol: str) -> str:
    return symbol.rstrip("+-0123456789")


CELL = """_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
"""
SITES = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 Na 0 0 0
Cl1 Cl .5 .5 .5
"""
NUMBER = "_symmetry_Int_Tables_number 225\n"


def with_head(head: str) -> str:
    return f"data_x\n{head}{CELL}{SITES}"


def with_column(tag: str, first: str, second: str, head: str = "") -> str:
    return (
        with_head(head)
        .replace("_atom_site_fract_x", f"{tag}\n_atom_site_fract_x")
        .replace("Na 0", f"Na {first} 0")
        .replace("Cl .5", f"Cl {second} .5")
    )


def with_labels(first: str, second: str) -> str:
    text = with_head(NUMBER).replace("_atom_site_type_symbol\n", "")
    return text.replace("Na1 Na", first).replace("Cl1 Cl", second)
