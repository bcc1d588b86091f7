"""POSCAR, CONTCAR and XDATCAR, the structure files of VASP (versions 4, 5 and 6).

Own parser: ase and pymatgen accept cut files, unknown elements and mixed scale factors, and
neither reads all of wrapped species lines, Fortran exponents and comments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.elements import ATOMIC_NUMBERS, atomic_number
from phase2hpc.data.readers.truncation import ends_openly, looks_truncated
from phase2hpc.utils.text import one_line

MAX_ATOMS = 100_000
MAX_FRAMES = 10_000

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d{1,4})?")
_CONFIGURATION = re.compile(r"\s*(?:direct\s+configuration|konfig)\s*=", re.IGNORECASE)
_FUSED = re.compile(r"(?<=\d)-(?=\d*\.\d)")
_INTEGER = re.compile(r"\d{1,20}")


class PoscarError(ValueError):
    """The text is not a valid POSCAR; the message is ``kind: detail``, one line."""


@dataclass(frozen=True)
class _Header:
    """Cell and species, up to the line of counts.

    lattice (3, 3) in angstrom, scaled; factors multiply Cartesian coordinates; symbols is None in
    the VASP 4 form, which has counts only; comment is the first line.
    """

    lattice: npt.NDArray[np.float64]
    factors: float | npt.NDArray[np.float64]
    symbols: list[str] | None
    counts: list[int]
    comment: str


def structures_in_poscar(
    data: bytes, name: str, source: str
) -> list[RawCrystal | UnreadableRecord]:
    """The crystal of a POSCAR, or one crystal for each frame of an XDATCAR.

    Frames have the ids ``name#0``, ``name#1``, ... Never raises for the content of ``data``: an
    error becomes an UnreadableRecord, which ends the list.
    """
    try:
        if b"\0" in data:
            raise PoscarError("not a POSCAR: it holds binary data")
        lines = data.decode("utf-8-sig", errors="replace").splitlines()
        if not any(line.strip() for line in lines):
            raise PoscarError("empty file: there is nothing in it")
        if len(lines) < 8:
            raise PoscarError(f"not a POSCAR: {len(lines)} lines, a POSCAR has at least 8")
        header, after = _header(lines, 0)
        if after < len(lines) and _CONFIGURATION.match(lines[after]):
            return _frames(lines, header, after, name, source, ends_openly(data))
        return [_structure(lines, header, after, name, source, ends_openly(data))[0]]
    except PoscarError as error:
        return [UnreadableRecord(name, source, one_line(str(error)))]


def _frames(
    lines: list[str], header: _Header, line: int, name: str, source: str, open_end: bool
) -> list[RawCrystal | UnreadableRecord]:
    """Frames of an XDATCAR; ``line`` is the first ``Direct configuration=``.

    Where the cell varies, the header is repeated before each frame.
    """
    items: list[RawCrystal | UnreadableRecord] = []
    while line < len(lines) and any(rest.strip() for rest in lines[line : line + 8]):
        identifier, place = f"{name}#{len(items)}", f"{source}#{len(items)}"
        try:
            if len(items) == MAX_FRAMES:
                raise PoscarError(f"too many frames: more than {MAX_FRAMES}, split the file")
            if not _CONFIGURATION.match(lines[line]):
                header, line = _header(lines, line)
                if line >= len(lines) or not _CONFIGURATION.match(lines[line]):
                    raise PoscarError(
                        f"bad XDATCAR: line {line + 1} must say 'Direct configuration='"
                    )
            item, line = _structure(lines, header, line, identifier, place, open_end)
            items.append(item)
        except PoscarError as error:
            items.append(UnreadableRecord(identifier, place, one_line(str(error))))
            break
    return items


def _header(lines: list[str], start: int) -> tuple[_Header, int]:
    """The header that begins at line ``start``, and the index of the line after it."""
    if len(lines) < start + 7:
        raise PoscarError("truncated POSCAR: the file ends in its header")
    scale = _scale(lines, start + 1)
    vectors = np.array([_floats(lines, start + i, "a lattice vector") for i in (2, 3, 4)])
    factors = _factors(scale, vectors)
    symbols, counts, after = _species(lines, start + 5)
    return _Header(vectors * factors, factors, symbols, counts, lines[start]), after


def _structure(
    lines: list[str], header: _Header, line: int, name: str, source: str, open_end: bool
) -> tuple[RawCrystal, int]:
    """The crystal whose coordinate mode (or ``Selective dynamics``) is at ``line``, and the index
    of the line after its last atom."""
    selective = lines[line].strip()[:1] in ("S", "s") if line < len(lines) else False
    mode_line = line + selective
    mode = lines[mode_line].strip()[:1].lower() if mode_line < len(lines) else ""
    if not mode.isalpha():
        shown = lines[mode_line].strip()[:30] if mode_line < len(lines) else ""
        raise PoscarError(
            f"bad POSCAR: line {mode_line + 1} must say Direct or Cartesian, not '{shown}'"
        )
    first, total = mode_line + 1, sum(header.counts)
    if len(lines) < first + total:
        raise PoscarError(
            f"truncated POSCAR: {total} atoms announced, {len(lines) - first} lines follow"
        )
    rows = range(first, first + total)
    coords = np.array([_floats(lines, i, "coordinates") for i in rows])
    words = [_words(lines[i]) for i in rows]
    _refuse_further_atom(lines, rows.stop, total)
    at_end = open_end and rows.stop == len(lines)
    if at_end and looks_truncated(words[-1][2], [row[2] for row in words[:-1]]):
        raise PoscarError(
            f"truncated POSCAR: the file ends in '{words[-1][2][:20]}', which looks cut (if the "
            "file is whole, end it with a line end)"
        )
    symbols = header.symbols
    if symbols is None:
        symbols = _unnamed_species(header, words, 6 if selective else 3, at_end)
    # VASP takes every other word than Cartesian as Direct.
    if mode in ("c", "k"):
        if not abs(np.linalg.det(header.lattice)) > 1e-9:
            raise PoscarError("bad cell: the lattice vectors span no volume")
        coords = np.linalg.solve(header.lattice.T, (coords * header.factors).T).T
    species = [s for s, n in zip(symbols, header.counts, strict=True) for _ in range(n)]
    _refuse_other_elements(species, words, 6 if selective else 3, first)
    return RawCrystal(name, source, header.lattice, species, coords), rows.stop


def _refuse_further_atom(lines: list[str], line: int, total: int) -> None:
    """Refuse a row of coordinates right behind the last atom; velocities follow a blank line."""
    words = _words(lines[line]) if line < len(lines) else []
    if len(words) >= 3 and all(_NUMBER.fullmatch(word) for word in words[:3]):
        raise PoscarError(
            f"bad POSCAR: {total} atoms announced, and line {line + 1} has coordinates of a "
            "further one"
        )


def _refuse_other_elements(
    species: Sequence[str], rows: Sequence[Sequence[str]], column: int, first: int
) -> None:
    """Refuse rows whose last word, in ``column``, is another element than the header's; any
    other text there is a comment, or flags."""
    for index, (symbol, row) in enumerate(zip(species, rows, strict=True)):
        named = _element(row[column]) if len(row) == column + 1 else ""
        if named in ATOMIC_NUMBERS and ATOMIC_NUMBERS[named] != atomic_number(symbol):
            raise PoscarError(
                f"bad POSCAR: line {first + index + 1} names {named}, by the header the atom is "
                f"{symbol}"
            )


def _species(lines: list[str], line: int) -> tuple[list[str] | None, list[int], int]:
    """Symbols (None in the VASP 4 form) and counts, each on one line or more, and the index of the
    line after them."""
    words: list[str] = []
    number, symbol_lines = line + 1, 0
    while line < len(lines):
        found = _before_comment(lines[line])
        if not found or not found[0][0].isalpha():
            break
        # The line after the first one may be a coordinate mode where the counts are missing.
        if symbol_lines and not all(atomic_number(_element(word)) for word in found):
            break
        words += found
        symbol_lines += 1
        line += 1
    counts: list[int] = []
    if not words and not _leading_counts(lines, line):
        shown = lines[line].strip()[:30] if line < len(lines) else ""
        raise PoscarError(f"not a POSCAR: line {number} must name the elements, not '{shown}'")
    count_line = line + 1
    while (not words or len(counts) < len(words)) and (more := _leading_counts(lines, line)):
        counts += more
        line += 1
    if not words:
        _check_total(counts, count_line)
        return None, counts, line
    symbols, rest = words[: len(counts)], words[len(counts) :]
    # Words after the last symbol are a comment, unless one of them may be an element.
    if not counts or any(atomic_number(_element(word)) for word in rest):
        raise PoscarError(
            f"bad POSCAR: line {count_line} must count the atoms of {' '.join(words)[:40]}"
        )
    if len(counts) > len(symbols):
        raise PoscarError(
            f"bad POSCAR: line {count_line} has more counts than line {number} has elements"
        )
    _check_total(counts, count_line)
    return [_element(word) for word in symbols], counts, line


def _leading_counts(lines: list[str], line: int) -> list[int]:
    """The integers that a line begins with; a number that is no count makes it none."""
    counts: list[int] = []
    for word in _before_comment(lines[line]) if line < len(lines) else ():
        if not _INTEGER.fullmatch(word):
            return [] if _NUMBER.fullmatch(word) else counts
        counts.append(int(word))
    return counts


def _check_total(counts: list[int], line: int) -> None:
    if not 0 < sum(counts) <= MAX_ATOMS:
        raise PoscarError(
            f"bad POSCAR: line {line} counts {sum(counts)} atoms, at most {MAX_ATOMS}"
        )


def _unnamed_species(
    header: _Header, rows: Sequence[Sequence[str]], column: int, at_end: bool
) -> list[str]:
    """Symbols of the VASP 4 form, one for each count: from ``column`` of the coordinate rows,
    else from the first line, where it has as many elements as there are counts."""
    symbols, start = list[str](), 0
    for count in header.counts:
        group = {row[column] if len(row) > column else "" for row in rows[start : start + count]}
        start += count
        if len(group) == 1 and atomic_number(symbol := group.pop()):
            symbols.append(symbol)
    if len(symbols) == len(header.counts):
        if at_end and header.counts[-1] == 1 and len(symbols[-1]) == 1:
            raise PoscarError(
                f"truncated POSCAR: the file ends in '{symbols[-1]}', which may be cut (if the "
                "file is whole, end it with a line end)"
            )
        return symbols
    words = _before_comment(header.comment)
    if not symbols and len(words) == len(header.counts) and all(map(atomic_number, words)):
        return words
    raise PoscarError(
        "no elements: the file has only counts (the VASP 4 form), and neither the coordinate rows "
        "nor the first line name an element for each count; put the symbols above the counts"
    )


def _element(word: str) -> str:
    """The symbol in a potential's name: ``Fe_pv``, ``Ti_sv_GW``, ``O/3a1b2c4d``.

    ``H.75``, a hydrogen of fractional charge that saturates surfaces, is no element.
    """
    symbol = re.split(r"[_/]", word)[0]
    return f"pseudo-{symbol}" if re.fullmatch(r"[A-Za-z]{1,2}\d*\.\d+", symbol) else symbol


def _before_comment(line: str) -> list[str]:
    return re.split(r"[!#]", line, maxsplit=1)[0].split()


def _scale(lines: list[str], index: int) -> list[float]:
    """One scale factor, or three positive ones."""
    values: list[float] = []
    for word in lines[index].split():
        if not _NUMBER.fullmatch(word):
            break
        values.append(_number(word))
    # Text may follow, a number may not.
    one = len(values) == 1
    three = len(values) == 3 and min(values) > 0
    if not (one or three) or not np.isfinite(values).all():
        raise PoscarError(
            f"bad POSCAR: line {index + 1} must hold the scale factor, or three that are positive, "
            f"not '{lines[index].strip()[:30]}'"
        )
    return values


def _factors(
    scale: Sequence[float], vectors: npt.NDArray[np.float64]
) -> float | npt.NDArray[np.float64]:
    """Multiplier of Cartesian components: a number, or one for each of x, y, z.

    A negative scale factor is the volume of the cell, in cubic angstrom.
    """
    if len(scale) == 3:
        return np.array(scale)
    if scale[0] > 0:
        return scale[0]
    volume = abs(np.linalg.det(vectors))
    if scale[0] == 0 or volume < 1e-12:
        raise PoscarError("bad cell: the scale factor or the volume is zero")
    return float((-scale[0] / volume) ** (1 / 3))


def _floats(lines: list[str], index: int, what: str) -> list[float]:
    """The three numbers that a line begins with."""
    words = _words(lines[index])[:3]
    if len(words) == 3 and all(_NUMBER.fullmatch(word) for word in words):
        values = [_number(word) for word in words]
        if np.isfinite(values).all():
            return values
    raise PoscarError(
        f"bad POSCAR: line {index + 1} must hold {what}, not '{lines[index].strip()[:30]}'"
    )


def _words(line: str) -> list[str]:
    """Words of a line of numbers; a fixed format leaves no blank before some minus signs."""
    return _FUSED.sub(" -", line).split()


def _number(word: str) -> float:
    return float(word.replace("d", "e").replace("D", "e"))
