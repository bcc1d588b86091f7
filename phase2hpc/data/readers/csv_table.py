"""Crystals in a delimited table: a column of CIF text, of pymatgen Structures or of file paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.cif.structures import structures_in_cif
from phase2hpc.data.readers.delimited import Row, open_table
from phase2hpc.data.readers.id_prop import FILE_COLUMNS
from phase2hpc.data.readers.json_records import raw_crystal
from phase2hpc.data.readers.labelled_files import (
    SPLIT,
    LabelTable,
    check_names,
    id_column,
    named_columns,
    read_labelled,
)
from phase2hpc.data.readers.labels import decimal_comma_columns, labels_in
from phase2hpc.data.readers.structure_files import is_cif, is_poscar
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError

CIF_COLUMNS = ("cif", "structure", "cif_text", "cif_string", "cif_str", "structure_cif")
# Rows from whose cells the column of structures is told.
_ROWS_SEEN = 20


def read_csv(path: Path, partition: RecordPartition) -> Iterator[RawCrystal | UnreadableRecord]:
    """One structure a row: CIF text, a pymatgen Structure as JSON, or the path of a file.

    The column of texts is named as in CIF_COLUMNS or is the first with a data_ block in it; the
    column of paths (relative to the table's folder) is the first whose cells name structure files
    that are there. An id column is one of the usual names, else the row's number is the id; every
    other column is a label, ``split`` the split.
    """
    with open_table(path, quiet=True) as rows:
        header = next(rows, None)
        if header is None:
            raise InputError(f"{path}: it is empty, expected a line of column names")
        check_names(path, header.cells)
        head = [row for row, _ in zip(rows, range(_ROWS_SEEN), strict=False)]
    if not head:
        raise InputError(f"{path}: no structure in it, only a line of column names")
    names = header.cells
    column = _text_column(names, head)
    if column is not None:
        yield from _read_texts(path, names, column, partition)
        return
    column = _path_column(path, names, head)
    if column is None:
        raise InputError(
            f"{path}: no column of CIF text (one named {' or '.join(CIF_COLUMNS[:2])}), and none "
            f"of paths of structure files; found {', '.join(names)[:200]}. Labels of a folder of "
            "files: give the folder, and this table by --labels"
        )
    with open_table(path) as rows:
        next(rows)
        body = list(rows)
    ident = id_column(names)
    table = LabelTable(
        path, named_columns(names, body), body, column, column if ident is None else ident
    )
    yield from read_labelled(table, lambda cell: _file(path, cell), partition)


def files_of(path: Path) -> list[Path]:
    """The structure files that a table names, in its order; empty for one of texts."""
    with open_table(path, quiet=True) as rows:
        header = next(rows, None)
        head = [row for row, _ in zip(rows, range(_ROWS_SEEN), strict=False)]
        if header is None or _text_column(header.cells, head) is not None:
            return []
        column = _path_column(path, header.cells, head)
        if column is None:
            return []
        cells = [row.cells[column] for row in (*head, *rows) if column < len(row.cells)]
    return [found for cell in cells if isinstance(found := _file(path, cell), Path)]


def _read_texts(
    path: Path, names: Sequence[str], column: int, partition: RecordPartition
) -> Iterator[RawCrystal | UnreadableRecord]:
    ident, split = id_column(names), _index_of(names, SPLIT)
    apart = {i for i in (column, ident, split) if i is not None}
    names = [name or f"column_{i + 1}" for i, name in enumerate(names)]

    def label_cells(row: Row) -> dict[str, str]:
        pairs = enumerate(zip(names, row.cells, strict=False))
        # An unnamed first column is the index of a data frame.
        skip = apart if names[0] != "column_1" else {0, *apart}
        return {name: cell for i, (name, cell) in pairs if i not in skip}

    # Whether commas are decimal is known only after the last row, so the table is read twice.
    with open_table(path, quiet=True) as rows:
        next(rows)
        comma = decimal_comma_columns(map(label_cells, rows))
    with open_table(path) as rows:
        next(rows)
        for number, row in enumerate(rows, start=1):
            if not partition.take():
                continue
            cells, place = row.cells, f"{path}:{row.line}"
            identifier = _cell(cells, ident) or f"row {number}"
            labels = labels_in(label_cells(row), decimal_comma=comma)
            if len(cells) != len(names):
                reason = "bad row: the number of cells differs from the header"
                yield UnreadableRecord(identifier, place, reason, labels)
                continue
            item = replace(_structure(cells[column], identifier, place), labels=labels)
            if isinstance(item, RawCrystal):
                item.split = _cell(cells, split) or None
            yield item


def _structure(text: str, identifier: str, place: str) -> RawCrystal | UnreadableRecord:
    if text.startswith("{"):
        return raw_crystal({"id": identifier, "structure": text}, identifier, place)
    items = structures_in_cif(text.encode(), identifier, place)
    if len(items) > 1:
        return UnreadableRecord(identifier, place, f"several structures: {len(items)} in one row")
    return items[0]


def _cell(cells: Sequence[str], index: int | None) -> str:
    return cells[index] if index is not None and index < len(cells) else ""


def _index_of(names: Sequence[str], name: str) -> int | None:
    lower = [other.lower() for other in names]
    return lower.index(name) if name in lower else None


def _text_column(names: Sequence[str], rows: Sequence[Row]) -> int | None:
    """Index of the column of CIF or JSON texts, None without one."""
    for index in (_index_of(names, name) for name in CIF_COLUMNS):
        if index is not None and not _are_paths(_column(rows, index)):
            return index
    for index in range(len(names)):
        if any("data_" in cell and "_cell_length_a" in cell for cell in _column(rows, index)):
            return index
    return None


def _are_paths(cells: Sequence[str]) -> bool:
    return any(_is_structure_name(cell) for cell in cells)


def _path_column(path: Path, names: Sequence[str], rows: Sequence[Row]) -> int | None:
    """Index of the column whose cells name structure files; a named one where none is there."""
    for index in range(len(names)):
        if any(isinstance(_file(path, cell), Path) for cell in _column(rows, index)):
            return index
    named = (_index_of(names, name) for name in FILE_COLUMNS)
    return next((i for i in named if i is not None and _are_paths(_column(rows, i))), None)


def _column(rows: Sequence[Row], index: int) -> list[str]:
    return [row.cells[index] for row in rows if index < len(row.cells)]


def _is_structure_name(cell: str) -> bool:
    """True for a cell that may be a file name: one short line with a suffix or name of a format."""
    if not cell or "\n" in cell or len(cell) > 4096 or "\0" in cell:
        return False
    return is_cif(Path(cell)) or is_poscar(Path(cell))


def _file(table: Path, cell: str) -> Path | str:
    """The file that a cell names, or in one line why there is none."""
    if not _is_structure_name(cell):
        return f"no file: '{cell[:100]}' is not the name of a CIF or POSCAR"
    path = table.parent / Path(cell).expanduser()
    try:
        there = path.exists()
    except OSError as error:
        return f"no file: '{cell[:100]}' ({error.strerror or error})"
    return path if there else f"no file: '{cell[:100]}' is not there (from {table.parent})"
