"""A folder of structure files with a table of labels, ``id_prop.csv``."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.labels import label_value, labels_in
from phase2hpc.data.readers.structure_files import (
    Items,
    read_files,
    structure_files,
    structure_id,
)
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError

ID_PROP = "id_prop.csv"
_MISSING = ("", "na", "n/a", "nan", "none", "null", "-", "?")


def read_id_prop(folder: Path, units: RecordPartition) -> Iterator[RawCrystal | UnreadableRecord]:
    """The structures that the folder's id_prop.csv lists, with its labels.

    The first column is the id (a file's name with or without extension), every other one a label.
    A header names them (``split`` is the split); without one they are ``target``, or
    ``target_1``, ``target_2``, ... A first line is a header if none of its label cells is a number
    or blank and no file has its id.
    """
    table = folder / ID_PROP
    by_name: dict[str, Path] = {}
    for path in structure_files(folder):
        by_name.setdefault(structure_id(path), path)
        by_name[path.name] = path
    with table.open(newline="", encoding="utf-8-sig") as handle:
        numbered = [
            (line, [c.strip() for c in row]) for line, row in enumerate(csv.reader(handle), 1)
        ]
    rows = [(line, row) for line, row in numbered if any(row)]
    if not rows:
        raise InputError(f"{table}: it is empty, expected lines of id and value")
    first = rows[0][1]
    if first[0] not in by_name and len(first) > 1 and all(_is_name(cell) for cell in first[1:]):
        names = first[1:]
        rows = rows[1:]
    else:
        width = max(len(row) for _, row in rows) - 1
        names = ["target"] if width == 1 else [f"target_{i + 1}" for i in range(width)]
    mine = [(units.current, (row, f"{table}:{line}")) for line, row in rows if units.take()]
    items = _id_prop_rows(by_name, names, [row for _, row in mine])
    for (block, _), item in zip(mine, items, strict=True):
        units.current = block
        yield item


def _is_name(cell: str) -> bool:
    return label_value(cell) is None and cell.lower() not in _MISSING


def _id_prop_rows(
    by_name: Mapping[str, Path], names: Sequence[str], rows: Sequence[tuple[list[str], str]]
) -> Iterator[RawCrystal | UnreadableRecord]:
    read = read_files((by_name[row[0]], row[0]) for row, _ in rows if _fits(by_name, names, row))
    for row, place in rows:
        identifier, cells = row[0], row[1:]
        if _fits(by_name, names, row):
            yield _labelled(identifier, names, cells, next(read))
        elif identifier not in by_name:
            reason = f"no file: no CIF or POSCAR is named '{identifier}'"
            yield UnreadableRecord(identifier, place, reason)
        else:
            reason = f"bad row: {len(cells)} values, {len(names)} columns"
            yield UnreadableRecord(identifier, place, reason)


def _fits(by_name: Mapping[str, Path], names: Sequence[str], row: Sequence[str]) -> bool:
    return row[0] in by_name and len(row) - 1 <= len(names)


def _labelled(
    identifier: str, names: Sequence[str], cells: Sequence[str], items: Items
) -> RawCrystal | UnreadableRecord:
    item = items[0]
    if len(items) > 1:
        reason = f"several structures: {len(items)} in the file, one row of labels"
        return UnreadableRecord(identifier, item.input.partition("#")[0], reason)
    if isinstance(item, UnreadableRecord):
        return item
    columns = dict(zip(names, cells, strict=False))
    split = columns.get("split") or None
    return replace(item, labels=labels_in(columns, skip=("split",)), split=split)
