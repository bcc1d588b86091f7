"""Crystals in a table: a CSV with a column of CIFs."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.cif.structures import structures_in_cif
from phase2hpc.data.readers.json_records import (
    ID_FIELDS,
    MAX_RECORD_BYTES,
    bounded_lines,
    is_unicode,
    open_text,
    raw_crystal,
    record_id,
)
from phase2hpc.data.readers.labels import labels_in
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError
from phase2hpc.utils.text import name_problem

CIF_COLUMNS = ("cif", "structure", "cif_text", "cif_string", "cif_str", "structure_cif")


def read_csv(path: Path, units: RecordPartition) -> Iterator[RawCrystal | UnreadableRecord]:
    """One structure a row: CIF text (or a pymatgen Structure as JSON) in one column.

    The column is named as in CIF_COLUMNS or is the first that holds a data_ block in the first
    row; an id column is one of the usual names, else the row's number is the id; every other
    numeric column is a label, ``split`` the split.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    with open_text(path) as handle:
        column = ""
        try:
            reader = csv.DictReader(bounded_lines(path, handle))
            _check_header(path, reader.fieldnames or ())
            for number, row in enumerate(reader, start=1):
                column = column or _structure_column(path, row)
                if units.take():
                    yield _csv_row(row, column, number, f"{path}:{reader.line_num}")
        except csv.Error as error:
            line = reader.line_num
            raise InputError(f"{path}, line {line}: not a readable CSV ({error})") from None


def _check_header(path: Path, names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if name and (problem := name_problem(name)):
            raise InputError(f"{path}: the column name {name[:40]!a} {problem}")
        if name and count > 1:
            raise InputError(f"{path}: {count} columns are named '{name}'")


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


def _csv_row(
    row: dict[str, Any], column: str, number: int, place: str
) -> RawCrystal | UnreadableRecord:
    identifier = record_id(row, f"row {number}")
    if None in row or row[column] is None:
        return UnreadableRecord(
            identifier, place, "bad row: the number of cells differs from the header"
        )
    if not all(is_unicode(cell) for cell in row.values() if cell):
        return UnreadableRecord(f"row {number}", place, "bad row: it is not in UTF-8")
    text = row[column]
    if text.lstrip().startswith("{"):
        item = raw_crystal({"id": identifier, "structure": text}, identifier, place)
    else:
        items = structures_in_cif(text.encode(), identifier, place)
        if len(items) > 1:
            return UnreadableRecord(
                identifier, place, f"several structures: {len(items)} in one row"
            )
        item = items[0]
    if isinstance(item, RawCrystal):
        item.labels = labels_in(row, skip=(*ID_FIELDS, column, "split"))
        item.split = row.get("split") or None
    return item
