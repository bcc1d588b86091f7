"""The syntax of CIF: bytes to gemmi's document, its values as text and numbers, or the reason."""

from __future__ import annotations

import re

from gemmi import cif

# A crystal takes some kilobytes; measured reflections in the file, or many blocks, take megabytes.
MAX_BYTES = 32 * 2**20
# gemmi looks for a block's name among those of all blocks before it.
MAX_BLOCKS = 10_000
_OTHER_FORMATS = {
    "it is compressed, name it .cif.gz": b"\x1f\x8b",
    "it is a zip archive, unpack it": b"PK\x03\x04",
    "it is a PDF document": b"%PDF",
    "it is an HDF5 file": b"\x89HDF",
}
_BLOCK = re.compile(r"(?<!\S)data_", re.IGNORECASE)
# Control characters too: they have no place in a CIF, nor on the terminal that shows a reason.
_NOT_ASCII_TEXT = re.compile(r"[^\n\t -~]")
_WHERE = re.compile(r"(?:string|data):(\d+)(?::\d+\(\d+\))?(?: in [^:]*)?: ?(.*)", re.DOTALL)


class CifError(ValueError):
    """No crystal can be had from this CIF; the message is ``kind: detail``, one line."""


def too_large(size: str) -> str:
    """The reason for a no to a file of more than MAX_BYTES; size as text, of the unit MiB."""
    return (
        f"file too large: {size} MiB, at most {MAX_BYTES >> 20} are read (split it, or remove the "
        "reflections)"
    )


def parse(data: bytes) -> cif.Document:
    """The document in a file's bytes; raises CifError with the line where the syntax breaks."""
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
    if text.lstrip()[:1] == "<":
        raise CifError("not a CIF: it looks like a web page or XML, was the download refused?")
    if text.lstrip()[:1] in "{[":
        raise CifError("not a CIF: it looks like JSON; if it holds crystals, name it .json")
    if len(text) > 8 * MAX_BLOCKS:
        blocks = sum(1 for _ in _BLOCK.finditer(text))
        if blocks > MAX_BLOCKS:
            raise CifError(f"too many blocks: {blocks}, at most {MAX_BLOCKS} are read; split it")
    try:
        document = cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise CifError(_syntax_reason(str(error), text)) from None
    if len(document) == 0:
        raise CifError("not a CIF: it has no data_ block")
    return document


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
    # gemmi takes them in quoted text only. No number, symbol or operation can be made by an "x".
    return _NOT_ASCII_TEXT.sub("x", text)


def _syntax_reason(message: str, text: str) -> str:
    match = _WHERE.match(message)
    if match is None:
        return f"CIF syntax: {' '.join(message.removeprefix('string: ').split())[:150]}"
    line, what = int(match[1]), " ".join(match[2].split())
    lines = text.split("\n")
    shown = " ".join(lines[line - 1][:200].split())[:40] if 0 < line <= len(lines) else ""
    if "CIF_2.0" in text[:100]:
        return f"CIF 2 syntax: line {line} ('{shown}') is not CIF 1.1; save the file as CIF 1.1"
    if "expected block header" in what:
        return f"not a CIF: line {line}, '{shown}' stands where a data_ block should begin"
    if "number of values in loop" in what:
        return (
            f"damaged loop: the values of the loop at line {line} do not fill its columns "
            "(a ragged row, or a truncated file)"
        )
    if "unterminated" in what or "has no value" in what or line >= len(lines):
        return f"truncated or damaged: line {line}, {what} ('{shown}')"
    return f"CIF syntax: line {line}, {what} ('{shown}')"


def column(block: cif.Block, name: str) -> list[str]:
    """Values of ``_atom_site_<name>`` as written, empty where the block has none."""
    return list(block.find_values(f"_atom_site_{name}"))


def first_value(block: cif.Block, *tags: str) -> str | None:
    """The first value any of the tags has, None where all are absent, '.', '?' or blank."""
    for tag in tags:
        for value in block.find_values(tag):
            text = "" if cif.is_null(value) else " ".join(cif.as_string(value).split())
            if text:
                return text
    return None


def number_in(text: str) -> float:
    """A CIF number, its standard uncertainty in brackets dropped; nan for what is none."""
    return cif.as_number(cif.as_string(text))
