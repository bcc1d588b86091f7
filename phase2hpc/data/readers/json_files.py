"""JSON sources: lines, arrays, and objects of records; data frames are in ``data_frames``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.data_frames import (
    MAX_FRAME_BYTES,
    column_records,
    frame_rows,
    wrapped_frame,
)
from phase2hpc.data.readers.json_records import is_record, is_structure, raw_crystal
from phase2hpc.data.readers.json_stream import (
    JsonStream,
    json_error,
    loads_unique,
    unique_keys,
)
from phase2hpc.data.readers.optimade import missing_pages_warning
from phase2hpc.data.readers.text_files import bounded_lines, is_unicode, open_text, plain_name
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError

Items = Iterator[RawCrystal | UnreadableRecord]
# Keys under which files keep their array of records: Alexandria, OPTIMADE and pandas, Materials
# Project, NOMAD and others.
_LISTS = ("data", "entries", "structures", "results", "materials", "records", "crystals")
_KNOWN = (
    "an array of records, one record, records by id, a data frame (pandas), an OPTIMADE response, "
    "or records under 'entries' or 'data'"
)
_log = logging.getLogger(__name__)


def read_json_lines(path: Path, partition: RecordPartition) -> Items:
    """One record a line; a line that is no JSON object becomes UnreadableRecord."""
    with open_text(path) as handle:
        for number, line in enumerate(bounded_lines(path, handle), start=1):
            if not line.strip() or not partition.take():
                continue
            place = f"{path}:{number}"
            try:
                if not is_unicode(line):
                    raise ValueError("not in UTF-8")
                record = loads_unique(line)
            except (ValueError, RecursionError) as error:
                reason = f"bad JSON: line {number}, {json_error(error)}"
                yield UnreadableRecord(f"line {number}", place, reason)
                continue
            yield raw_crystal(record, f"line {number}", place)


def read_json(path: Path, partition: RecordPartition) -> Items:
    """Records of a JSON document in any form that ``_KNOWN`` names, streamed but for data frames
    by column.

    Raises InputError for a document that is damaged, or in none of these forms.
    """
    first = partition.count
    try:
        with open_text(path) as handle:
            stream = JsonStream(handle)
            start = stream.peek()
            if start not in ("[", "{"):
                raise InputError(f"{path}: neither a JSON array nor a JSON object")
            read = _read_array if start == "[" else _read_object
            yield from read(path, stream, partition)
    except json.JSONDecodeError as error:
        done = partition.count - first
        raise InputError(
            f"{path}: damaged or cut short, not valid JSON ({error.msg}, record {done})"
        ) from None
    except (ValueError, RecursionError) as error:
        done = partition.count - first
        raise InputError(f"{path}: record {done} is not valid JSON ({json_error(error)})") from None


def _read_array(path: Path, stream: JsonStream, partition: RecordPartition) -> Items:
    yield from _records(path, stream.array(), stream, partition)
    _check_end(stream, "something follows the array")


def _records(
    path: Path,
    records: Iterable[Any],
    stream: JsonStream,
    partition: RecordPartition,
    index: tuple[str, ...] = (),
) -> Items:
    """Items of records in an array; ``index`` are the fields that name a record."""
    for number, record in enumerate(records):
        if number == 0 and isinstance(record, list) and any(isinstance(v, dict) for v in record):
            raise InputError(
                f"{path}: an array of arrays, a table without column names (pandas "
                "orient='values'?): write it with orient='split' or 'records'"
            )
        if not partition.take():
            continue
        place, name = f"{path}#{number}", f"record {number}"
        if index and isinstance(record, dict):
            name = "-".join(str(record.pop(field)) for field in index if field in record) or name
        yield _item(record, name, place, stream)


def _item(record: Any, name: str, place: str, stream: JsonStream) -> RawCrystal | UnreadableRecord:
    """The crystal of the record that the stream gave last."""
    if stream.repeated:
        reason = f"bad record: the key {stream.repeated!a} occurs twice"
        return UnreadableRecord(name, place, reason)
    return raw_crystal(record, name, place)


def _check_end(stream: JsonStream, message: str) -> None:
    if rest := stream.peek():
        raise json.JSONDecodeError(message, rest, 0)


def _read_object(path: Path, stream: JsonStream, partition: RecordPartition) -> Items:
    document: dict[str, Any] = {}
    streamed = ""
    keys = stream.keys()
    for key in keys:
        if key in document:
            raise InputError(f"{path}: the key {key[:40]!a} occurs twice")
        if stream.peek() == "[" and not streamed:
            if key == "data" and "columns" in document and "index" in document:
                yield from frame_rows(path, document, stream.array(), stream, partition)
                streamed = key
            elif key in _LISTS and stream.peek_inside() == "{":
                index = _primary_key(document)
                yield from _records(path, stream.array(), stream, partition, index)
                streamed = key
            if streamed:
                document[key] = None
                continue
        value = stream.value(MAX_FRAME_BYTES)
        named = key in _LISTS or is_record({key: value})
        if not document and is_record(value) and not named:
            yield from _records_by_id(path, key, value, keys, stream, partition)
            return _check_end(stream, "something follows the object")
        if stream.repeated:
            raise InputError(f"{path}: the key {stream.repeated!a} occurs twice in {key[:40]!a}")
        document[key] = value
    if warning := missing_pages_warning(document):
        _log.warning("%s: %s", path, warning)
    if not streamed:
        yield from _whole(path, document, stream, partition)
        if is_record(document):
            yield from _more_lines(path, stream, partition)
    _check_end(stream, "something follows the object")


def _primary_key(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Index columns of a pandas frame of orient "table"."""
    schema = document.get("schema")
    names = schema.get("primaryKey") if isinstance(schema, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _records_by_id(
    path: Path,
    key: str,
    value: Any,
    keys: Iterator[str],
    stream: JsonStream,
    partition: RecordPartition,
) -> Items:
    """Records of an object by id, streamed; the first is read already."""
    seen: set[str] = set()
    while True:
        if partition.take():
            place = f"{path}#{key}"
            if key in seen:
                yield UnreadableRecord(key, place, "bad record: its key occurs twice in the object")
            else:
                yield _item(value, key, place, stream)
        seen.add(key)
        if (following := next(keys, None)) is None:
            return
        key, value = following, stream.value()


def _whole(
    path: Path, document: dict[str, Any], stream: JsonStream, partition: RecordPartition
) -> Items:
    """Items of an object that could not be streamed."""
    if (text := wrapped_frame(document)) is not None:
        loaded = json.loads(text, object_pairs_hook=unique_keys) if isinstance(text, str) else text
        document = loaded if isinstance(loaded, dict) else {}
    if "columns" in document and "data" in document:
        yield from frame_rows(path, document, document["data"], stream, partition)
        return
    records: Iterable[tuple[str, Any]] | None = column_records(document)
    if records is None and is_record(document):
        records = [(plain_name(path.name).rpartition(".")[0] or path.name, document)]
    for key in _LISTS:
        inner = document.get(key)
        if records is None and is_record(inner):
            records = [(key, inner)]
        elif records is None and isinstance(inner, dict):
            records = inner.items() if any(map(_holds_structure, inner.values())) else None
        elif records is None and isinstance(inner, list):
            records = [(f"record {number}", record) for number, record in enumerate(inner)]
    if records is None and any(map(_holds_structure, document.values())):
        records = document.items()
    if records is None:
        raise InputError(f"{path}: {_other_document(document)}; a JSON source is {_KNOWN}")
    for number, (name, record) in enumerate(records):
        if partition.take():
            yield raw_crystal(record, name, f"{path}#{number}")


def _holds_structure(value: Any) -> bool:
    return is_record(value) or (isinstance(value, dict) and any(map(is_structure, value.values())))


def _more_lines(path: Path, stream: JsonStream, partition: RecordPartition) -> Items:
    """Records after a first one that is an object by itself: JSON lines under another name."""
    number = 0
    while stream.peek() == "{":
        record = stream.value()
        number += 1
        if partition.take():
            yield _item(record, f"record {number}", f"{path}#{number}", stream)


def _other_document(document: Mapping[str, Any]) -> str:
    """Description of an object that holds no record."""
    if "nextid" in document and "ids" in document:
        return "an ASE database in JSON: copy it with 'ase db FILE.json --insert-into FILE.db'"
    if isinstance(kind := document.get("@class"), str):
        return f"a {kind[:40]!a} and no structure"
    keys = ", ".join(f"{key[:30]!a}" for key in list(document)[:5])
    return f"no structure found in this JSON object (its keys: {keys or 'none'})"
