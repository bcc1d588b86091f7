"""Crystals in tables: a CSV with a column of CIFs, extended XYZ, ASE databases."""

from __future__ import annotations

import csv
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phase2hpc.data.cif import structures_in_cif
from phase2hpc.data.crystal import RawCrystal, Unreadable
from phase2hpc.data.json_sources import ID_FIELDS, open_text, raw_crystal, record_id
from phase2hpc.data.labels import labels_in
from phase2hpc.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

CIF_COLUMNS = ("cif", "structure", "cif_text", "cif_string", "cif_str", "structure_cif")
_LONGEST_CELL = 2**26
# What ase's parsers raise when they stumble over a damaged file.
_ASE_ERRORS = (
    OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError
)  # fmt: skip


def read_csv(path: Path) -> Iterator[RawCrystal | Unreadable]:
    """One structure a row: CIF text (or a pymatgen Structure as JSON) in one column.

    The column is named as in CIF_COLUMNS or is the first that holds a data_ block in the first
    row; an id column is one of the usual names, else the row's number is the id; every other
    numeric column is a label, ``split`` the split.
    """
    csv.field_size_limit(_LONGEST_CELL)
    with open_text(path) as handle:
        column = ""
        try:
            reader = csv.DictReader(handle)
            for number, row in enumerate(reader, start=1):
                column = column or _structure_column(path, row)
                yield _csv_row(row, column, number, f"{path}:{reader.line_num}")
        except csv.Error as error:
            raise InputError(f"{path}: not a readable CSV ({error})") from None


def _structure_column(path: Path, row: Mapping[str, Any]) -> str:
    by_lower = {str(name).strip().lower(): name for name in row if name}
    for name in CIF_COLUMNS:
        if name in by_lower:
            return by_lower[name]
    for name, cell in row.items():
        if isinstance(cell, str) and "data_" in cell and "_cell_length_a" in cell:
            return name
    raise InputError(
        f"{path}: no column of CIF text (one named {' or '.join(CIF_COLUMNS[:2])}); found "
        f"{', '.join(str(name) for name in row)[:200]}"
    )


def _csv_row(row: dict[str, Any], column: str, number: int, place: str) -> RawCrystal | Unreadable:
    identifier = record_id(row, f"row {number}")
    if None in row or row[column] is None:
        return Unreadable(identifier, place, "bad row: the number of cells differs from the header")
    text = row[column]
    if text.lstrip().startswith("{"):
        item = raw_crystal({"id": identifier, "structure": text}, identifier, place)
    else:
        items = structures_in_cif(text.encode(), identifier, place)
        if len(items) > 1:
            return Unreadable(identifier, place, f"several structures: {len(items)} in one row")
        item = items[0]
    if isinstance(item, RawCrystal):
        item.labels = labels_in(row, skip=(*ID_FIELDS, column, "split"))
        item.split = row.get("split") or None
    return item


def read_extxyz(path: Path) -> Iterator[RawCrystal | Unreadable]:
    """Frames of an extended XYZ file; numbers in the comment line (``info``) are labels.

    A frame without an id is ``<file>#<number>``. What follows a frame that cannot be read is
    reported once: its end cannot be found.
    """
    ase_io = _import_ase("ase.io")
    frames = ase_io.iread(path, index=":", format="extxyz")
    number = 0
    while True:
        try:
            atoms = next(frames)
        except StopIteration:
            return
        except _ASE_ERRORS as error:
            reason = f"bad frame: {type(error).__name__}, {' '.join(str(error).split())[:120]}"
            yield Unreadable(f"{path.stem}#{number}", f"{path}#{number}", reason)
            return
        yield _from_atoms(atoms, atoms.info, f"{path.stem}#{number}", f"{path}#{number}")
        number += 1


def read_ase_db(path: Path) -> Iterator[RawCrystal | Unreadable]:
    """Rows of an ASE database; its numeric key-value pairs are labels."""
    ase_db = _import_ase("ase.db")
    try:
        for row in ase_db.connect(path).select():
            place = f"{path}#{row.id}"
            yield _from_atoms(row.toatoms(), row.key_value_pairs, f"{path.stem}#{row.id}", place)
    except (sqlite3.Error, zlib.error, *_ASE_ERRORS) as error:
        raise InputError(f"{path}: not a readable ASE database ({error})") from None


def _from_atoms(
    atoms: Atoms, columns: Mapping[str, Any], fallback_id: str, place: str
) -> RawCrystal | Unreadable:
    identifier = record_id(columns, fallback_id)
    if not atoms.pbc.all():
        return Unreadable(identifier, place, "not periodic: a crystal repeats in three directions")
    lattice = atoms.cell.array
    if abs(atoms.cell.volume) < 1e-6:
        return Unreadable(identifier, place, "bad cell: the lattice vectors span no volume")
    split = columns.get("split")
    return RawCrystal(
        id=identifier,
        input=place,
        lattice=lattice,
        species=atoms.get_chemical_symbols(),
        frac_coords=atoms.get_scaled_positions(wrap=False),
        labels=labels_in(columns, skip=(*ID_FIELDS, "split")),
        split=split if isinstance(split, str) else None,
    )


def _import_ase(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise InputError(
            "this source needs ase: pip install 'phase2hpc[data]', or give JSON lines"
        ) from None
