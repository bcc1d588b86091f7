"""Structure files with the labels of a table: id_prop.csv, ``--labels FILE``, a column of paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.delimited import Row
from phase2hpc.data.readers.json_records import ID_FIELDS
from phase2hpc.data.readers.labels import Labels, decimal_comma_columns, labels_in
from phase2hpc.data.readers.structure_files import Items, read_structure_files
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError
from phase2hpc.utils.text import name_problem

SPLIT = "split"


@dataclass(frozen=True)
class LabelTable:
    """Rows of a table with the names of its columns.

    names: of all columns. key: index of the column that says which file a row is of. ident: of the
    column with the ids of crystals.
    """

    path: Path
    names: Sequence[str]
    rows: Sequence[Row]
    key: int
    ident: int

    def columns(self, row: Row) -> dict[str, str]:
        """Label cells of a row by column name, the split included."""
        skip = (self.key, self.ident)
        pairs = enumerate(zip(self.names, row.cells, strict=False))
        return {name: cell for i, (name, cell) in pairs if i not in skip}


def check_names(path: Path, names: Sequence[str]) -> None:
    """Raise InputError for a column name that cannot be one, or that two columns have."""
    for name, count in Counter(names).items():
        if name and (problem := name_problem(name)):
            raise InputError(f"{path}: the column name {name[:40]!a} {problem}")
        if name and count > 1:
            raise InputError(f"{path}: {count} columns are named '{name}'")


def named_columns(names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """The names, with ``column_3`` for an unnamed third column that is not blank."""
    filled = {i for row in rows for i, cell in enumerate(row.cells) if cell}
    return [name or (f"column_{i + 1}" if i in filled else "") for i, name in enumerate(names)]


def id_column(names: Sequence[str]) -> int | None:
    """Index of the first column named as ids are ("id", "material_id", ...), None without one."""
    lower = [name.lower() for name in names]
    return next((lower.index(name) for name in ID_FIELDS if name in lower), None)


def read_labelled(
    table: LabelTable,
    find: Callable[[str], Path | str],
    partition: RecordPartition,
) -> Iterator[RawCrystal | UnreadableRecord]:
    """The structures that a table lists, in its order, with its labels.

    find: the file of a row's key cell, or the reason in one line why there is none.
    """
    comma = decimal_comma_columns(map(table.columns, table.rows))
    mine = [(partition.current, row) for row in table.rows if partition.take()]
    found = [_file_of(table, row, find) for _, row in mine]
    read = read_structure_files(
        (path, _id_of(table, row))
        for (_, row), path in zip(mine, found, strict=True)
        if isinstance(path, Path)
    )
    for (block, row), path in zip(mine, found, strict=True):
        place = f"{table.path}:{row.line}"
        columns = {name: cell for name, cell in table.columns(row).items() if name}
        split = next((name for name in columns if name.lower() == SPLIT), SPLIT)
        labels = labels_in(columns, skip=(split,), decimal_comma=comma, place=place)
        if isinstance(path, Path):
            split_name = columns.get(split) or None
            item = _labelled(next(read), _id_of(table, row), labels, split_name)
        else:
            item = UnreadableRecord(_id_of(table, row), place, path, labels)
        partition.current = block
        yield item


def _id_of(table: LabelTable, row: Row) -> str:
    cell = row.cells[table.ident] if table.ident < len(row.cells) else ""
    return cell or f"row {row.line}"


def _file_of(table: LabelTable, row: Row, find: Callable[[str], Path | str]) -> Path | str:
    if len(row.cells) > len(table.names):
        extra = len(row.cells) - 1
        return f"bad row: {extra} values, {len(table.names) - 1} columns"
    key = row.cells[table.key] if table.key < len(row.cells) else ""
    return find(key)


def _labelled(
    items: Items, identifier: str, labels: Labels, split: str | None
) -> RawCrystal | UnreadableRecord:
    item = items[0]
    if len(items) > 1:
        reason = f"several structures: {len(items)} in the file, one row of labels"
        return UnreadableRecord(identifier, item.input.partition("#")[0], reason, labels)
    if isinstance(item, UnreadableRecord):
        return replace(item, labels=labels)
    return replace(item, labels=labels, split=split)


def by_name(files: Sequence[Path], name_of: Callable[[Path], str]) -> Mapping[str, list[Path]]:
    """Files by their id and by their whole name."""
    found: dict[str, list[Path]] = {}
    for path in files:
        for name in {path.name, name_of(path)}:
            found.setdefault(name, []).append(path)
    return found
