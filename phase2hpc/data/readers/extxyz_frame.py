"""One frame of an extended XYZ file, checked and in ase's spelling before ase parses it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from phase2hpc.data.elements import SYMBOLS, atomic_number
from phase2hpc.utils.text import one_line

# ase makes room for each column that a comment line claims, before it reads an atom.
_MAX_COLUMNS = 1000
_ITEM = re.compile(
    r"""(?P<key>"(?:\\.|[^"\\])*"|'[^']*'|[^\s="']+)"""
    r"""(?:\s*=\s*(?P<value>"(?:\\.|[^"\\])*"|'[^']*'|\{[^}]*\}|\[\s*\[.*?\]\s*\]|\S+))?"""
)
_DEFAULT_PROPERTIES = "species:S:1:pos:R:3"


class FrameError(ValueError):
    """No crystal can be read from a frame; the message is ``kind: detail``, one line."""


def in_ase_spelling(frame: Sequence[str], line: int) -> list[str]:
    """The lines of a frame (count, comment, atoms, vectors), whose first is ``line`` of its file.

    Elements become plain symbols (H of D, Na of 11, Fe of Fe3+), ``lattice=`` and ``properties=``
    get their capitals. Raises FrameError with the line that is wrong.
    """
    natoms = int(frame[0])
    comment = frame[1]
    # With vectors below the atoms, ase does not parse the comment.
    properties = _DEFAULT_PROPERTIES
    if len(frame) == natoms + 2:
        comment = _with_key(_with_key(comment, "Lattice"), "Properties")
        lattice = _value(comment, "Lattice")
        if lattice is not None and not _nine_numbers(lattice):
            raise FrameError(
                f"bad frame: line {line + 1}, its Lattice is '{one_line(lattice[:40])}', not nine "
                'numbers (write Lattice="ax ay az bx by bz cx cy cz")'
            )
        properties = _value(comment, "Properties") or properties
    columns, width = _columns(properties, line + 1)
    atoms = [
        _atom(row, columns, width, line + number)
        for number, row in enumerate(frame[2 : natoms + 2], 2)
    ]
    return [frame[0], comment, *atoms, *frame[natoms + 2 :]]


def _item(comment: str, key: str) -> re.Match[str] | None:
    """The item of a key in capitals as given, else in any."""
    found = [m for m in _ITEM.finditer(comment) if m["value"] is not None]
    for match in found:
        if match["key"].strip("\"'") == key:
            return match
    return next((m for m in found if m["key"].strip("\"'").lower() == key.lower()), None)


def _with_key(comment: str, key: str) -> str:
    match = _item(comment, key)
    if match is None:
        return comment
    return comment[: match.start("key")] + key + comment[match.end("key") :]


def _value(comment: str, key: str) -> str | None:
    match = _item(comment, key)
    return None if match is None else match["value"].strip("\"'{}").strip()


def _nine_numbers(text: str) -> bool:
    words = text.replace(",", " ").split()
    return len(words) == 9 and all(map(_is_number, words))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _columns(properties: str, line: int) -> tuple[dict[str, range], int]:
    """Columns of each property, and their number."""
    fields = properties.split(":")
    columns: dict[str, range] = {}
    width = 0
    for name, count in zip(fields[::3], fields[2::3], strict=False):
        if not re.fullmatch(r"[0-9]+", count):
            break
        # Longer numbers are not converted.
        size = int(count[:9])
        columns[name] = range(width, width + size)
        width += size
    if width > _MAX_COLUMNS:
        raise FrameError(f"bad frame: its Properties claim more than {_MAX_COLUMNS} columns")
    if len(columns) * 3 != len(fields):
        raise FrameError(
            f"bad frame: line {line}, its Properties are '{one_line(properties[:40])}', not "
            "name:type:count of each column"
        )
    if len(columns.get("pos", columns.get("positions", ()))) != 3:
        raise FrameError(f"bad frame: line {line}, its Properties have no pos:R:3")
    if columns.keys().isdisjoint(("species", "symbols", "Z", "numbers")):
        raise FrameError(f"bad frame: line {line}, its Properties have no species:S:1")
    return columns, width


def _atom(row: str, columns: dict[str, range], width: int, line: int) -> str:
    words = row.split()
    shown = one_line(row.strip()[:40])
    if len(words) < width:
        raise FrameError(f"bad frame: line {line} has {len(words)} of {width} columns: '{shown}'")
    position = columns.get("pos") or columns["positions"]
    if not all(_is_number(words[i]) for i in position):
        raise FrameError(f"bad frame: line {line}, a coordinate is no number: '{shown}'")
    species = columns.get("species") or columns.get("symbols")
    if not species or columns.keys() & {"Z", "numbers"}:
        return row
    word = words[species[0]]
    # X is ase's symbol of no element, which validation refuses.
    number = int(word) if re.fullmatch(r"[0-9]{1,3}", word) else atomic_number(word)
    if number is None or number >= len(SYMBOLS):
        raise FrameError(
            f"unknown element: line {line}, '{one_line(word[:20])}' (elements H to Lr are known)"
        )
    words[species[0]] = SYMBOLS[number]
    return " ".join(words) + "\n"
