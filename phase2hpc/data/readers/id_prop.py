"""A folder of structure files with a table of labels, ``id_prop.csv`` or another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.delimited import TABLE_SUFFIXES, Row, open_table
from phase2hpc.data.readers.labelled_files import (
    LabelTable,
    by_name,
    check_names,
    id_column,
    named_columns,
    read_labelled,
)
from phase2hpc.data.readers.labels import may_be_label
from phase2hpc.data.readers.structure_files import ID_PROP, structure_files, structure_id
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError

# Headers of columns of file names; ids are looked for first.
FILE_COLUMNS = (
    "file", "filename", "file_name", "path", "filepath", "file_path", "structure_file",
    "structure_path", "cif_file", "cif_path", "cif_filename", "cif_name", "poscar_file",
    "poscar_path", "cif", "structure", "poscar",
)  # fmt: skip


def read_id_prop(
    folder: Path, partition: RecordPartition, table: Path | None = None
) -> Iterator[RawCrystal | UnreadableRecord]:
    """The structures that a table of labels lists, in its order, then files without a row.

    table: the folder's id_prop.csv unless given. Its id is a file's name with or without
    extension, in the first column or in one that is named as ids or files are; every other column
    is a label. A header names them (``split`` is the split); without one they are ``target``, or
    ``target_1``, ``target_2``, ... A first line is a header if none of its label cells is a number
    or blank, no file has its id, and no other row repeats one of its label cells.

    A row without a file and a file without a row are UnreadableRecord. Raises InputError for a
    table without rows, or with two columns of one name.
    """
    path = table or folder / ID_PROP
    with open_table(path) as rows:
        everything = list(rows)
    if not everything:
        raise InputError(f"{path}: it is empty, expected lines of id and value")
    files = structure_files(folder)
    named = by_name(files, structure_id)
    listed: set[Path] = set()
    labels = _table(path, everything, lambda cell: isinstance(_find(named, folder, cell), Path))

    def find(cell: str) -> Path | str:
        found = _find(named, folder, cell)
        if isinstance(found, Path):
            listed.add(found)
        return found

    # All rows, also those of other readers: a file that is theirs has a row too.
    for row in labels.rows:
        if labels.key < len(row.cells):
            find(row.cells[labels.key])
    yield from read_labelled(labels, find, partition)
    for file in files:
        if file not in listed and partition.take():
            reason = f"no row: {path.name} has no line for this file"
            yield UnreadableRecord(structure_id(file), str(file), reason)


def tables_beside(folder: Path) -> list[Path]:
    """Tables in a folder whose rows name its structure files: labels that nobody asked for."""
    named = by_name(structure_files(folder), structure_id)
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.lower().endswith(TABLE_SUFFIXES) and path.is_file() and not path.is_symlink():
            try:
                with open_table(path, quiet=True) as rows:
                    head = [row for row, _ in zip(rows, range(20), strict=False)]
            except (InputError, OSError):
                continue
            if any(cell in named for row in head for cell in row.cells) and any(
                len(row.cells) > 1 for row in head
            ):
                found.append(path)
    return found


def _table(path: Path, rows: Sequence[Row], is_file: Callable[[str], bool]) -> LabelTable:
    first = rows[0].cells
    if len(first) > 1 and _is_header(rows, is_file):
        check_names(path, first)
        names, body = named_columns(first, rows[1:]), rows[1:]
        ident = id_column(first)
        lower = [name.lower() for name in first]
        candidates = [i for i in (ident, *map(_index(lower), FILE_COLUMNS), 0) if i is not None]
        key = max(dict.fromkeys(candidates), key=lambda i: _hits(body, i, is_file))
        return LabelTable(path, names, body, key, key if ident is None else ident)
    width = max(len(row.cells) for row in rows)
    names = ["id", "target"] if width == 2 else ["id", *(f"target_{i}" for i in range(1, width))]
    return LabelTable(path, names, rows, 0, 0)


def _index(names: Sequence[str]) -> Callable[[str], int | None]:
    return lambda name: names.index(name) if name in names else None


def _hits(rows: Sequence[Row], column: int, is_file: Callable[[str], bool]) -> int:
    return sum(column < len(row.cells) and is_file(row.cells[column]) for row in rows)


def _is_header(rows: Sequence[Row], is_file: Callable[[str], bool]) -> bool:
    first = rows[0].cells
    if any(map(is_file, first)):
        return False
    if id_column(first) is not None or first[0].lower() in FILE_COLUMNS:
        return True
    if any(map(may_be_label, first[1:])):
        return False
    repeated = any(
        i < len(row.cells) and row.cells[i] == cell
        for row in rows[1:]
        for i, cell in enumerate(first[1:], start=1)
    )
    return not repeated


def _find(named: Mapping[str, list[Path]], folder: Path, cell: str) -> Path | str:
    """The folder's file that a cell names, or in one line why there is none."""
    name = cell.removeprefix("./")
    found = named.get(name, [])
    if len(found) == 1:
        return found[0]
    if found:
        both = " and ".join(path.name for path in found[:2])
        return f"two files: '{cell}' is {both}, give the name with its extension"
    if "/" in name and Path(name).name in named:
        # A path, as long as it leads to the folder's own file.
        path = named[Path(name).name][0]
        target = Path(name) if Path(name).is_absolute() else folder.parent / name
        for candidate in (target, folder / name, Path(name)):
            if candidate.exists() and candidate.resolve() == path.resolve():
                return path
    return f"no file: no CIF or POSCAR is named '{cell}'"
