"""pandas data frames in JSON, in the orients that name their columns.

"split" is streamed where ``index`` and ``columns`` come before ``data`` (pandas, matbench and
matminer write them so); "columns", the default of ``DataFrame.to_json``, is read as a whole.
"records", "index" and "table" are records, records by id, and records under ``data``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.json_records import CIF, STRUCTURE, is_structure, raw_crystal
from phase2hpc.data.readers.json_stream import JsonStream
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError

# Characters of a frame that is read as a whole.
MAX_FRAME_BYTES = 1 << 31


def wrapped_frame(document: Mapping[str, Any]) -> Any:
    """Content of a DataFrame that monty wrapped, as JSON text; None for anything else."""
    return document.get("data") if document.get("@class") == "DataFrame" else None


def frame_rows(
    path: Path,
    frame: Mapping[str, Any],
    rows: Iterable[Any],
    stream: JsonStream,
    partition: RecordPartition,
) -> Iterator[RawCrystal | UnreadableRecord]:
    """Items of the rows (arrays of values) of a frame of orient "split".

    Raises InputError for a frame without a column of structures.
    """
    index = frame.get("index") or []
    for key, value in (("columns", frame["columns"]), ("index", index)):
        if not isinstance(value, list):
            raise InputError(f"{path}: no data frame: its '{key}' are no array")
    if isinstance(rows, (str, dict)) or not isinstance(rows, Iterable):
        raise InputError(f"{path}: no data frame: its 'data' are no array")
    columns = [str(name) for name in frame["columns"]]
    if len(set(columns)) < len(columns):
        raise InputError(f"{path}: two columns of the data frame have one name")
    known = not {STRUCTURE, CIF}.isdisjoint(columns)
    for number, row in enumerate(rows):
        if not known and isinstance(row, list):
            if not any(map(is_structure, row)):
                names = ", ".join(columns)[:200]
                raise InputError(f"{path}: no column '{STRUCTURE}' or '{CIF}', only {names}")
            known = True
        if not partition.take():
            continue
        fallback = str(index[number]) if number < len(index) else f"row {number}"
        place = f"{path}#{number}"
        if stream.repeated:
            reason = f"bad row: the key {stream.repeated!a} occurs twice"
            yield UnreadableRecord(fallback, place, reason)
        elif not isinstance(row, list) or len(row) != len(columns):
            yield UnreadableRecord(fallback, place, f"bad row: not {len(columns)} values")
        else:
            yield raw_crystal(dict(zip(columns, row, strict=True)), fallback, place)


def column_records(document: Mapping[str, Any]) -> list[tuple[str, Any]] | None:
    """Index and record of each row of a frame of orient "columns"; None for another document.

    Such a document has an object of the same keys, the index, for each column, and structures in
    one of them.
    """
    columns = list(document.values())
    if not columns or not all(isinstance(column, dict) and column for column in columns):
        return None
    first = columns[0].keys()
    if any(column.keys() != first for column in columns) or not any(
        all(map(is_structure, column.values()))
        or (name in (STRUCTURE, CIF) and not is_structure(column))
        for name, column in document.items()
    ):
        return None
    return [(key, {name: column[key] for name, column in document.items()}) for key in first]
