"""The syntax of CIF: bytes to gemmi's document, its values as text and numbers, or the reason."""

from __future__ import annotations

import re

from gemmi import cif

MAX_BYTES = 64 * 2**20
_WHERE = re.compile(r"(?:string|data):(\d+)(?::\d+\(\d+\))?(?: in [^:]*)?: ?(.*)", re.DOTALL)


class CifError(ValueError):
    """No crystal can be had from this CIF; the message is ``kind: detail``, one line."""


def parse(data: bytes) -> cif.Document:
    """The document in a file's bytes; raises CifError with the line where the syntax breaks."""
    if len(data) > MAX_BYTES:
        raise CifError(f"file too large: {len(data) >> 20} MiB, at most {MAX_BYTES >> 20} are read")
    if not data.strip():
        raise CifError("empty file: there is nothing in it")
    text = _decode(data)
    if text.lstrip()[:1] == "<":
        raise CifError("not a CIF: it looks like a web page or XML, was the download refused?")
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
        raise CifError("not a CIF: it holds binary data")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # gemmi takes them in quoted text only. No number, symbol or operation can be made by an "x".
    return text if text.isascii() else re.sub(r"[^\x00-\x7f]", "x", text)


def _syntax_reason(message: str, text: str) -> str:
    match = _WHERE.match(message)
    if match is None:
        return f"CIF syntax: {' '.join(message.removeprefix('string: ').split())[:150]}"
    line, what = int(match[1]), " ".join(match[2].split())
    lines = text.split("\n")
    shown = lines[line - 1].strip()[:40] if 0 < line <= len(lines) else ""
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
