"""Delimited text tables: encoding and delimiter by content, rows with their line numbers."""

from __future__ import annotations

import codecs
import csv
import gzip
import logging
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from phase2hpc.data.readers.text_files import MAX_RECORD_BYTES, bounded_lines, is_unicode
from phase2hpc.errors import InputError
from phase2hpc.utils.text import one_line

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".dat")
# A comma comes last: in a table of decimal commas every row has one.
_DELIMITERS = ("\t", ";", "|", ",")
_HEAD_BYTES = 1 << 16
_SNIFFED_ROWS = 50
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, whose mark it begins with.
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """Cells of a row, stripped of blanks around them, and the line on which it begins."""

    line: int
    cells: list[str]


@contextmanager
def open_table(path: Path, *, quiet: bool = False) -> Iterator[Iterator[Row]]:
    """Rows of a table that are not blank, streamed; also from .gz, or the one table in a .zip.

    The encoding is UTF-8, UTF-16 or UTF-32 by byte order mark, or UTF-16 by its zero bytes; a row
    that is not in UTF-8 is read as Windows-1252 (a superset of Latin-1), with a warning unless
    ``quiet``. The delimiter is comma, semicolon, tab or bar, else blanks: the one that gives rows
    of one width.
    Raises InputError for what is no table.
    """
    with ExitStack() as stack:
        data = stack.enter_context(_open_binary(path, stack))
        head = data.peek(_HEAD_BYTES)[:_HEAD_BYTES]
        encoding = _encoding(head)
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        sample = head.decode(encoding, errors="replace")
        # What is unpacked comes in pieces of any size.
        whole = len(head) < _HEAD_BYTES and path.suffix.lower() not in (".gz", ".zip")
        text = TextIOWrapper(data, encoding=encoding, errors=errors, newline="")
        yield _rows(path, text, _delimiter(sample, whole), quiet)


def _open_binary(path: Path, stack: ExitStack) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path, "rb")
    if suffix == ".zip":
        return _table_member(path, stack)
    return path.open("rb", buffering=_HEAD_BYTES)


def _table_member(path: Path, stack: ExitStack) -> IO[bytes]:
    archive = stack.enter_context(zipfile.ZipFile(path))
    names = [name for name in archive.namelist() if name.lower().endswith(TABLE_SUFFIXES)]
    if len(names) != 1:
        raise InputError(f"{path}: expected one table in the archive, found {len(names)}")
    try:
        return archive.open(names[0])
    # A password, or a compression that this Python does not know.
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path}: {one_line(names[0])} cannot be unpacked ({error})") from None


def _encoding(head: bytes) -> str:
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    pairs = head[: len(head) // 2 * 2]
    even, odd = pairs[::2].count(0), pairs[1::2].count(0)
    # ASCII characters in UTF-16 have a zero byte each, and all on one side.
    if odd > len(pairs) // 4 and not even:
        return "utf-16-le"
    if even > len(pairs) // 4 and not odd:
        return "utf-16-be"
    return "utf-8"


def _delimiter(sample: str, whole: bool) -> str | None:
    """None: the columns are separated by blanks."""
    best, widest = ",", 1
    for delimiter in _DELIMITERS:
        widths = _widths(sample, delimiter, whole)
        if len(set(widths)) == 1 and widths[0] > 1:
            return delimiter
        # Rows of several widths: a faulty row must not hide the delimiter of all others.
        if widths and (most := max(set(widths), key=widths.count)) > widest:
            best, widest = delimiter, most
    if widest == 1:
        lines = [line for line in sample.splitlines() if line.strip()]
        blanks = [len(line.split()) for line in (lines if whole else lines[:-1])]
        if blanks and min(blanks) == max(blanks) > 1:
            return None
    return best


def _widths(sample: str, delimiter: str, whole: bool) -> list[int]:
    widths: list[int] = []
    try:
        for row in csv.reader(sample.splitlines(keepends=True), delimiter=delimiter):
            if any(cell.strip() for cell in row):
                widths.append(len(row))
            if len(widths) > _SNIFFED_ROWS:
                return widths[:-1]
    except csv.Error:
        return widths
    # The last row of a part of a file may be cut.
    return widths if whole or len(widths) < 2 else widths[:-1]


def _rows(path: Path, text: TextIOWrapper, delimiter: str | None, quiet: bool) -> Iterator[Row]:
    csv.field_size_limit(MAX_RECORD_BYTES)
    lines = bounded_lines(path, text)
    warned = quiet
    line = 0
    try:
        if delimiter is None:
            reader: Any = (row.split() for row in lines)
        else:
            reader = csv.reader(lines, delimiter=delimiter)
        for number, row in enumerate(reader, start=1):
            begin, line = line + 1, reader.line_num if delimiter else number
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not all(map(is_unicode, cells)):
                if not warned:
                    _log.warning(
                        "%s, line %d: not in UTF-8, read as Latin-1 (Windows-1252): save the table "
                        "as UTF-8 if names look wrong", path, begin,
                    )  # fmt: skip
                    warned = True
                cells = [_latin(cell) for cell in cells]
            yield Row(begin, cells)
    except csv.Error as error:
        raise InputError(f"{path}, line {line + 1}: not a readable CSV ({error})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: damaged, not in {error.encoding} ({error.reason})") from None


def _latin(cell: str) -> str:
    data = cell.encode("utf-8", "surrogateescape")
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")
