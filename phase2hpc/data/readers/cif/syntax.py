"""CIF syntax: bytes to data blocks, or the reason why they are no CIF."""

from __future__ import annotations

import re

from gemmi import cif

from phase2hpc.data.readers.cif.block import Block, CifError, from_gemmi
from phase2hpc.data.readers.cif.lenient import parse_leniently

# A crystal takes some kilobytes; measured reflections in the file, or many blocks, take megabytes.
MAX_BYTES = 32 * 2**20
MAX_BLOCKS = 10_000
_OTHER_FORMATS = {
    "it is compressed, name it .cif.gz": b"\x1f\x8b",
    "it is a zip archive, unpack it": b"PK\x03\x04",
    "it is a PDF document": b"%PDF",
    "it is an HDF5 file": b"\x89HDF",
}
_BLOCK = re.compile(r"(?<!\S)data_", re.IGNORECASE)
_BLOCK_LINE = re.compile(r"^data_", re.IGNORECASE | re.MULTILINE)
# Control characters too: they have no place in a CIF, nor on the terminal that shows a reason.
_NOT_ASCII_TEXT = re.compile(r"[^\n\t -~]")
_WHERE = re.compile(r"(?:string|data):(\d+)(?::\d+\(\d+\))?(?: in [^:]*)?: ?(.*)", re.DOTALL)


def too_large(size: str) -> str:
    """The reason for refusing a file of more than MAX_BYTES; ``size`` is a text in MiB."""
    return (
        f"file too large: {size} MiB, at most {MAX_BYTES >> 20} are read (split it, or remove the "
        "reflections)"
    )


def parse(data: bytes) -> list[Block]:
    """The data blocks in a file's bytes, at least one.

    Syntax errors in items that the structure does not need are tolerated. Raises CifError with
    the line of the first error where the file as a whole is not readable.
    """
    if len(data) > MAX_BYTES:
        raise CifError(too_large(f"{len(data) / 2**20:.1f}"))
    if not data.strip():
        raise CifError("empty file: there is nothing in it")
    for kind, magic in _OTHER_FORMATS.items():
        if data.startswith(magic):
            raise CifError(f"not a CIF: {kind}")
    if data[257:262] == b"ustar":
        raise CifError("not a CIF: it is a tar archive, unpack it")
    text = _decode(data)
    first = text.lstrip()[:1]
    if first == "<":
        raise CifError("not a CIF: it looks like a web page or XML, was the download refused?")
    if first in ("{", "[") and not _BLOCK_LINE.search(text):
        raise CifError("not a CIF: it looks like JSON; if it holds crystals, name it .json")
    if len(text) > 8 * MAX_BLOCKS:
        blocks = sum(1 for _ in _BLOCK.finditer(text))
        if blocks > MAX_BLOCKS:
            raise CifError(f"too many blocks: {blocks}, at most {MAX_BLOCKS} are read; split it")
    document = _parse_text(text)
    if not document:
        raise CifError("not a CIF: it has no data_ block")
    return document


def _parse_text(text: str) -> list[Block]:
    try:
        # Level 0 leaves duplicate tags and blocks, and tags without a value, to Block.item.
        return from_gemmi(cif.read_string(text, check_level=0))
    except (ValueError, RuntimeError) as error:
        blocks = parse_leniently(text)
        if blocks is None:
            raise CifError(_syntax_reason(str(error), text)) from None
        return blocks


def _decode(data: bytes) -> str:
    """ASCII text with Unix line ends; other characters stand only in names and comments."""
    try:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            text = data.decode("utf-16")
        else:
            text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        if not text.strip("\0 \r\n\t"):
            raise CifError("empty file: it holds nothing but zeros (was the disk full?)")
        raise CifError("not a CIF: it holds binary data")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\N{MINUS SIGN}", "-")
    # gemmi takes them in quoted text only. No number, symbol or operation can be made by an "x".
    return _NOT_ASCII_TEXT.sub("x", text)


def _syntax_reason(message: str, text: str) -> str:
    match = _WHERE.match(message)
    if match is None:
        return f"CIF syntax: {' '.join(message.removeprefix('string: ').split())[:150]}"
    line, what = int(match[1]), " ".join(match[2].split())
    lines = text.split("\n")
    shown = " ".join(lines[line - 1][:200].split())[:40] if 0 < line <= len(lines) else ""
    if "expected block header" in what:
        return f"not a CIF: line {line}, '{shown}' stands where a data_ block should begin"
    if "unterminated" in what or line >= len(lines):
        return f"truncated or damaged: line {line}, {what} ('{shown}')"
    return f"CIF syntax: line {line}, {what} ('{shown}')"
