"""VASP's POSCAR and CONTCAR (version 5, with a line of element symbols)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.truncation import ends_openly, looks_cut
from phase2hpc.utils.text import one_line

MAX_ATOMS = 100_000


class PoscarError(ValueError):
    """No crystal can be had from this POSCAR; the message is ``kind: detail``, one line."""


def structure_in_poscar(data: bytes, name: str, source: str) -> RawCrystal | UnreadableRecord:
    """The crystal of a POSCAR, or why there is none. Never raises for what is in ``data``."""
    try:
        if b"\0" in data:
            raise PoscarError("not a POSCAR: it holds binary data")
        lines = data.decode("utf-8-sig", errors="replace").splitlines()
        return _read(lines, name, source, ends_openly(data))
    except PoscarError as error:
        return UnreadableRecord(name, source, one_line(str(error)))


def _read(lines: list[str], name: str, source: str, open_end: bool) -> RawCrystal:
    if not any(line.strip() for line in lines):
        raise PoscarError("empty file: there is nothing in it")
    if len(lines) < 8:
        raise PoscarError(f"not a POSCAR: {len(lines)} lines, a POSCAR has at least 8")
    scale = _floats(lines, 1, "the scale factor")
    lattice = np.array([_floats(lines, i, "a lattice vector", 3) for i in (2, 3, 4)])
    species = _species(lines)
    mode_line = 8 if lines[7].strip()[:1] in ("S", "s") else 7
    mode = lines[mode_line].strip()[:1].lower() if mode_line < len(lines) else ""
    if mode not in ("d", "c", "k"):
        raise PoscarError(
            f"bad POSCAR: line {mode_line + 1} must say Direct or Cartesian, not "
            f"'{lines[mode_line].strip()[:30] if mode_line < len(lines) else ''}'"
        )
    first = mode_line + 1
    if len(lines) < first + len(species):
        raise PoscarError(
            f"truncated POSCAR: {len(species)} atoms announced, {len(lines) - first} lines follow"
        )
    rows = range(first, first + len(species))
    coords = np.array([_floats(lines, i, "coordinates", 3) for i in rows])
    last = [lines[i].split()[2] for i in rows]
    if open_end and len(lines) == rows.stop and looks_cut(last[-1], last[:-1]):
        raise PoscarError(
            f"truncated POSCAR: the file ends in '{last[-1][:20]}', which looks cut (if the file "
            "is whole, end it with a line end)"
        )
    factors = _factors(scale, lattice)
    lattice = lattice * factors
    if mode != "d":
        if not abs(np.linalg.det(lattice)) > 1e-9:
            raise PoscarError("bad cell: the lattice vectors span no volume")
        coords = np.linalg.solve(lattice.T, (coords * factors).T).T
    return RawCrystal(id=name, input=source, lattice=lattice, species=species, frac_coords=coords)


def _species(lines: list[str]) -> list[str]:
    symbols, counts = lines[5].split(), lines[6].split()
    if symbols and all(re.fullmatch(r"\d+", word) for word in symbols):
        raise PoscarError(
            "no elements: line 6 has numbers (the VASP 4 form); put the symbols above them"
        )
    if not symbols or not all(word[0].isalpha() for word in symbols):
        raise PoscarError(f"not a POSCAR: line 6 must name the elements, not '{lines[5][:30]}'")
    if len(counts) < len(symbols) or not all(
        re.fullmatch(r"\d{1,20}", word) for word in counts[: len(symbols)]
    ):
        raise PoscarError(f"bad POSCAR: line 7 must count the atoms of {' '.join(symbols)[:40]}")
    numbers = [int(word) for word in counts[: len(symbols)]]
    if len(counts) > len(symbols) and counts[len(symbols)].isdecimal():
        raise PoscarError("bad POSCAR: line 7 has more counts than line 6 has elements")
    if not 0 < sum(numbers) <= MAX_ATOMS:
        raise PoscarError(f"bad POSCAR: line 7 counts {sum(numbers)} atoms, at most {MAX_ATOMS}")
    # VASP appends the potential: "Fe_pv", "Ti_sv_GW", "O/3a1b2c4d".
    names = [re.split(r"[_/]", word)[0] for word in symbols]
    return [symbol for symbol, n in zip(names, numbers, strict=True) for _ in range(n)]


def _factors(
    scale: Sequence[float], lattice: npt.NDArray[np.float64]
) -> float | npt.NDArray[np.float64]:
    """What multiplies Cartesian components: a number, or one number for each of x, y, z."""
    if len(scale) >= 3 and all(value > 0 for value in scale[:3]):
        return np.array(scale[:3])
    if scale[0] > 0:
        return scale[0]
    volume = abs(np.linalg.det(lattice))
    if scale[0] == 0 or volume < 1e-12:
        raise PoscarError("bad cell: the scale factor or the volume is zero")
    return float((-scale[0] / volume) ** (1 / 3))


def _floats(lines: list[str], index: int, what: str, count: int = 1) -> list[float]:
    values: list[float] = []
    for word in lines[index].split()[:3]:
        try:
            values.append(float(word))
        except ValueError:
            break
    if len(values) < count or not np.isfinite(values).all():
        raise PoscarError(
            f"bad POSCAR: line {index + 1} must hold {what}, not '{lines[index].strip()[:30]}'"
        )
    return values
