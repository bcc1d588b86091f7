"""Crystals in ASE's formats: extended XYZ and SQLite databases.

ase parses single frames only: its XYZ reader loops for as long as a frame's count says, and its
database reader opens for writing and follows whatever schema the file brings.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.elements import SYMBOLS
from phase2hpc.data.readers.extxyz_frame import FrameError, in_ase_spelling
from phase2hpc.data.readers.json_records import ID_FIELDS, record_id
from phase2hpc.data.readers.labels import labels_in
from phase2hpc.data.readers.periodicity import VACUUM_NOTE, periodicity_problem
from phase2hpc.data.readers.text_files import MAX_RECORD_BYTES, bounded_lines, open_text
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError
from phase2hpc.utils.error_text import type_and_message
from phase2hpc.utils.text import one_line

# Exceptions of ase's parser for a damaged frame.
_FRAME_ERRORS = (
    OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError,
    ArithmeticError,
)  # fmt: skip
_PAIR = re.compile(r"""(?:^|\s)["']?(\w+)["']?\s*=\s*("[^"]*"|'[^']*'|\S+)""")
_DB_COLUMNS = ("id", "numbers", "positions", "cell", "pbc", "key_value_pairs")
# Results of a calculator that are one number a structure.
_DB_LABELS = ("energy", "free_energy", "magmom")


class _NoNextFrame(Exception):
    """The beginning of the next frame is not known; the message says why."""


def read_extxyz(path: Path, partition: RecordPartition) -> Iterator[RawCrystal | UnreadableRecord]:
    """Frames of an extended XYZ file; numbers of the comment line are labels.

    So are those that ase gives to a calculator (``energy``, ``free_energy``, ``magmom``). What is
    not one number a structure (``stress``, ``dipole``, ``forces``) is no label, and is named in
    the crystal's note. A frame without an id is ``<file>#<number>``. A line that should be a count
    of atoms and is none is reported, and nothing is read after it.
    """
    try:
        from ase.io.extxyz import read_xyz
    except ImportError:
        raise InputError(
            "this source needs ase: pip install 'phase2hpc[data]', or give JSON lines"
        ) from None
    number = 0
    try:
        for number, (line, frame) in enumerate(_frames(path)):
            if not partition.take():
                number += 1
                continue
            name, place = f"{path.stem}#{number}", f"{path}#{number}"
            number += 1
            try:
                frame = in_ase_spelling(frame, line)
                atoms = next(read_xyz(StringIO("".join(frame)), index=0))
            except FrameError as error:
                yield UnreadableRecord(name, place, str(error))
                continue
            except (*_FRAME_ERRORS, StopIteration) as error:
                reason = f"bad frame: {type_and_message(error)}"
                yield UnreadableRecord(name, place, reason)
                continue
            columns = atoms.info | (atoms.calc.results if atoms.calc else {})
            columns |= _ids_as_written(frame[1], columns)
            if not atoms.cell.array.any():
                reason = "no cell: the comment line of the frame has no Lattice"
                yield UnreadableRecord(record_id(columns, name), place, reason)
                continue
            yield _crystal(
                atoms.cell.array, atoms.numbers.tolist(), atoms.positions, atoms.pbc.tolist(),
                columns, name, place,
            )  # fmt: skip
    except _NoNextFrame as error:
        if partition.take():
            yield UnreadableRecord(
                f"{path.stem}#{number}", f"{path}#{number}", f"bad frame: {error}"
            )


def _frames(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of each frame: count, comment, atoms, and up to three of VEC that follow; with
    the number of the first one in the file."""
    with open_text(path) as handle:
        lines = bounded_lines(path, handle)
        line, number = next(lines, ""), 1
        while line.strip():
            if not re.fullmatch(r"\s*[0-9]{1,9}\s*", line):
                shown = one_line(line.strip()[:40])
                raise _NoNextFrame(f"'{shown}' where its count of atoms should be")
            wanted, frame, size = int(line) + 2, [line], 0
            while line := next(lines, ""):
                if len(frame) >= wanted and not line.lstrip().startswith("VEC"):
                    break
                frame.append(line)
                size += len(line)
                if size > MAX_RECORD_BYTES:
                    raise _NoNextFrame(f"it has more than {MAX_RECORD_BYTES} characters")
            if len(frame) < wanted:
                raise _NoNextFrame(f"cut short after {len(frame)} of {wanted} lines")
            yield number, frame
            number += len(frame)


def _ids_as_written(comment: str, columns: Mapping[str, Any]) -> dict[str, str]:
    """Id fields that ase made numbers of, as text: ``007`` is another id than ``7``."""
    numeric = {name for name in ID_FIELDS if isinstance(columns.get(name), (int, float, np.number))}
    if not numeric:
        return {}
    return {name: value.strip("\"'") for name, value in _PAIR.findall(comment) if name in numeric}


def read_ase_db(path: Path, partition: RecordPartition) -> Iterator[RawCrystal | UnreadableRecord]:
    """Rows of an ASE database (SQLite), which is only read.

    Labels are numeric key-value pairs and the energies and magnetic moment of a calculator.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_RECORD_BYTES)
            # Nothing in the file's own schema may call a function.
            database.execute("PRAGMA trusted_schema = OFF")
            labels = _check_schema(path, database)
            columns = ", ".join((*_DB_COLUMNS, *labels))
            for row in database.execute(f"SELECT {columns} FROM systems"):
                if partition.take():
                    fixed, results = row[: len(_DB_COLUMNS)], row[len(_DB_COLUMNS) :]
                    yield _db_row(path, dict(zip(labels, results, strict=True)), *fixed)
    except sqlite3.Error as error:
        raise InputError(f"{path}: not a readable ASE database ({error})") from None


def _check_schema(path: Path, database: sqlite3.Connection) -> list[str]:
    """The columns of _DB_LABELS that are there.

    InputError unless ``systems`` is a plain table: views and generated columns compute.
    """
    found = database.execute("SELECT type, sql FROM sqlite_master WHERE name = 'systems'")
    kinds = [(kind, str(sql)) for kind, sql in found]
    if len(kinds) != 1 or kinds[0][0] != "table" or "VIRTUAL" in kinds[0][1].upper().split():
        raise InputError(f"{path}: not an ASE database: no table 'systems' in it")
    columns = {row[1]: row[6] for row in database.execute("PRAGMA table_xinfo(systems)")}
    for name in _DB_COLUMNS:
        if columns.get(name) != 0:
            raise InputError(f"{path}: not an ASE database: its 'systems' have no plain '{name}'")
    return [name for name in _DB_LABELS if columns.get(name) == 0]


def _db_row(
    path: Path,
    results: Mapping[str, Any],
    row: Any,
    numbers: Any,
    positions: Any,
    cell: Any,
    pbc: Any,
    pairs: Any,
) -> RawCrystal | UnreadableRecord:
    name, place = f"{path.stem}#{row}", f"{path}#{row}"
    try:
        columns = json.loads(pairs) if pairs else {}
        if not isinstance(columns, dict):
            raise ValueError("its key-value pairs are no JSON object")
        return _crystal(
            np.frombuffer(cell, "<f8").reshape(3, 3),
            np.frombuffer(numbers, "<i4").tolist(),
            np.frombuffer(positions, "<f8").reshape(-1, 3),
            [bool(pbc >> axis & 1) for axis in range(3)],
            {**results, **columns},
            name,
            place,
        )
    except (TypeError, ValueError, RecursionError, AttributeError) as error:
        reason = f"bad row: {type_and_message(error)}"
        return UnreadableRecord(name, place, reason)


def _crystal(
    lattice: Any,
    numbers: list[int],
    positions: Any,
    pbc: Sequence[bool],
    columns: Mapping[str, Any],
    fallback_id: str,
    place: str,
) -> RawCrystal | UnreadableRecord:
    identifier = record_id(columns, fallback_id)
    if not np.isfinite(lattice).all() or abs(np.linalg.det(lattice)) < 1e-6:
        reason = "bad cell: the lattice vectors span no volume"
        if not all(pbc):
            reason = "not periodic: a direction without a lattice vector, and no vacuum is known"
        return UnreadableRecord(identifier, place, reason)
    frac_coords = np.linalg.solve(lattice.T, positions.T).T
    if problem := periodicity_problem(lattice, frac_coords, pbc):
        return UnreadableRecord(identifier, place, problem)
    notes = [] if all(pbc) else [VACUUM_NOTE]
    # Of a number that is no label, the name; text is none.
    arrays = [name for name, value in columns.items() if isinstance(value, np.ndarray)]
    if arrays:
        names = ", ".join(sorted(arrays))[:100]
        notes.append(f"no label is made of {names}: more than one number a structure")
    split = columns.get("split")
    return RawCrystal(
        id=identifier,
        input=place,
        lattice=lattice,
        species=[SYMBOLS[z] if 0 < z < len(SYMBOLS) else f"number {z}" for z in numbers],
        frac_coords=frac_coords,
        labels=labels_in(columns, skip=(*ID_FIELDS, "split")),
        split=split if isinstance(split, str) else None,
        note="; ".join(notes),
    )
