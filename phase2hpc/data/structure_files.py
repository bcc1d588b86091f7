"""Structure files: one CIF or POSCAR, a folder of them, a folder with its id_prop.csv."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from phase2hpc.data.cif import structures_in_cif
from phase2hpc.data.cif_syntax import MAX_BYTES
from phase2hpc.data.crystal import RawCrystal, Unreadable
from phase2hpc.data.labels import label_value, labels_in
from phase2hpc.data.poscar import structure_in_poscar
from phase2hpc.errors import InputError

ID_PROP = "id_prop.csv"
CIF_SUFFIXES = (".cif", ".mcif", ".cif.gz")
POSCAR_SUFFIXES = (".vasp", ".poscar", ".contcar")
_POSCAR_NAMES = ("POSCAR", "CONTCAR")
_MISSING = ("", "na", "n/a", "nan", "none", "null", "-", "?")


def is_cif(path: Path) -> bool:
    return path.name.lower().endswith(CIF_SUFFIXES)


def is_poscar(path: Path) -> bool:
    return path.name.lower().endswith(POSCAR_SUFFIXES) or path.name.startswith(_POSCAR_NAMES)


def structure_id(path: Path) -> str:
    """The file's name without the extension of its format: ``Si`` of Si.cif, POSCAR-Si as it is."""
    for suffix in (*CIF_SUFFIXES, *POSCAR_SUFFIXES):
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.name


def structure_files(folder: Path) -> list[Path]:
    """CIF and POSCAR files directly in a folder, by name; hidden ones are left out."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and (is_cif(path) or is_poscar(path))
    )


def read_structure_file(path: Path, name: str | None = None) -> list[RawCrystal | Unreadable]:
    """All of one CIF or POSCAR, at least one item. Never raises: what fails is Unreadable."""
    name = structure_id(path) if name is None else name
    try:
        opener = gzip.open if path.name.lower().endswith(".gz") else open
        with opener(path, "rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return [Unreadable(name, str(path), f"cannot be read: {reason}")]
    if is_poscar(path) and not is_cif(path):
        return [structure_in_poscar(data, name, str(path))]
    return structures_in_cif(data, name, str(path))


def read_folder(folder: Path) -> Iterator[RawCrystal | Unreadable]:
    """Every structure file of a folder, by name, not recursive; ids are unique."""
    files = structure_files(folder)
    if not files:
        raise InputError(f"{folder}: no CIF or POSCAR file in this folder")
    taken = Counter(structure_id(path) for path in files)
    for path in files:
        name = structure_id(path)
        yield from read_structure_file(path, name if taken[name] == 1 else path.name)


def read_id_prop(folder: Path) -> Iterator[RawCrystal | Unreadable]:
    """The structures that the folder's id_prop.csv lists, with its labels.

    The first column is the id (a file's name with or without extension), every other one a label.
    A header names them (``split`` is the split); without one they are ``target``, or
    ``target_1``, ``target_2``, ... A first line is a header if none of its label cells is a number
    or blank and no file has its id.
    """
    table = folder / ID_PROP
    by_name: dict[str, Path] = {}
    for path in structure_files(folder):
        by_name.setdefault(structure_id(path), path)
        by_name[path.name] = path
    with table.open(newline="", encoding="utf-8-sig") as handle:
        numbered = [
            (line, [c.strip() for c in row]) for line, row in enumerate(csv.reader(handle), 1)
        ]
    rows = [(line, row) for line, row in numbered if any(row)]
    if not rows:
        raise InputError(f"{table}: it is empty, expected lines of id and value")
    first = rows[0][1]
    if first[0] not in by_name and len(first) > 1 and all(_is_name(cell) for cell in first[1:]):
        names = first[1:]
        rows = rows[1:]
    else:
        width = max(len(row) for _, row in rows) - 1
        names = ["target"] if width == 1 else [f"target_{i + 1}" for i in range(width)]
    for line, row in rows:
        yield _id_prop_row(by_name, names, row, f"{table}:{line}")


def _is_name(cell: str) -> bool:
    return label_value(cell) is None and cell.lower() not in _MISSING


def _id_prop_row(
    by_name: dict[str, Path], names: list[str], row: list[str], place: str
) -> RawCrystal | Unreadable:
    identifier, cells = row[0], row[1:]
    path = by_name.get(identifier)
    if path is None:
        return Unreadable(identifier, place, f"no file: no CIF or POSCAR is named '{identifier}'")
    if len(cells) > len(names):
        return Unreadable(identifier, place, f"bad row: {len(cells)} values, {len(names)} columns")
    items = read_structure_file(path, identifier)
    if len(items) > 1:
        return Unreadable(
            identifier,
            str(path),
            f"several structures: {len(items)} in the file, one row of labels",
        )
    item = items[0]
    if isinstance(item, Unreadable):
        return item
    columns = dict(zip(names, cells, strict=False))
    split = columns.get("split") or None
    return replace(item, labels=labels_in(columns, skip=("split",)), split=split)
