"""Records as a CSV or JSON file."""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from phase2hpc.utils.atomic_io import PartialFile
from phase2hpc.utils.os_errors import write_error


def write_records(path: Path, records: Iterable[dict[str, Any]], header: Sequence[str]) -> None:
    """Write records as CSV, or as JSON if the name ends in .json; completely or not at all.

    One record at a time is in memory.
    """
    try:
        partial = PartialFile(path)
        try:
            # Surrogates are of undecodable file names.
            with partial.path.open(
                "w", encoding="utf-8", errors="backslashreplace", newline=""
            ) as file:
                _write(file, path.suffix.lower() == ".json", records, header)
            partial.commit()
        finally:
            partial.discard()
    except OSError as error:
        note = "the existing file is unchanged" if path.exists() else ""
        raise write_error(error, f"--output {path}: cannot be written", note=note) from None


def _write(
    file: TextIO, as_json: bool, records: Iterable[dict[str, Any]], header: Sequence[str]
) -> None:
    if as_json:
        _write_json(file, records)
        return
    writer = csv.DictWriter(file, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in record.items()} for record in records)


def _write_json(file: TextIO, records: Iterable[dict[str, Any]]) -> None:
    separator = "[\n"
    for record in records:
        text = json.dumps(record, indent=1, allow_nan=False)
        file.write(separator + textwrap.indent(text, " "))
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.7g}" if isinstance(value, float) else str(value)
