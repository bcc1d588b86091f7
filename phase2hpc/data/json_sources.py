"""Crystals in JSON: lines, arrays of records (JARVIS), and data frames (matbench, matminer)."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from phase2hpc.data.crystal import RawCrystal, Unreadable
from phase2hpc.data.labels import label_value, labels_in
from phase2hpc.errors import InputError
from phase2hpc.properties import PROPERTIES

ID_FIELDS = ("id", "jid", "material_id", "mp_id", "mpid", "matbench_id", "name")
# Lattice, species, fractional coordinates, occupancies: as found, validation looks at them.
Geometry = tuple[Any, list[str], Any, list[float] | None]
_JARVIS_FIELDS = tuple(p.jarvis_field for p in PROPERTIES.values())


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file, also inside .gz or as the JSON member of a .zip, decompressed as it is read."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as handle:
            yield handle
    elif suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.lower().endswith(".json")]
            if len(members) != 1:
                raise InputError(f"{path}: expected one .json in the archive, found {len(members)}")
            with archive.open(members[0]) as member:
                yield TextIOWrapper(member, encoding="utf-8-sig")
    else:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            yield handle


class JsonStream:
    """Reads a JSON document piece by piece, so that a large array never stands in memory."""

    def __init__(self, handle: TextIO, chunk: int = 1 << 20) -> None:
        self._handle, self._chunk = handle, chunk
        self._buffer, self._position, self._ended = "", 0, False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not blank, "" at the end."""
        while True:
            while self._position < len(self._buffer):
                if not self._buffer[self._position].isspace():
                    return self._buffer[self._position]
                self._position += 1
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        """Step over one of the characters ``expected``."""
        if (found := self.peek()) not in expected or not found:
            raise json.JSONDecodeError(f"expected one of {expected!r}", found, 0)
        self._position += 1

    def value(self) -> Any:
        """The next whole value."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            # A number at the end of what has been read may go on.
            if end < len(self._buffer) or not self._more():
                self._position = end
                return value

    def array(self) -> Iterator[Any]:
        """The values of an array, one after another."""
        self.take("[")
        if self.peek() == "]":
            return self.take("]")
        while True:
            yield self.value()
            if self.peek() == "]":
                return self.take("]")
            self.take(",")

    def _more(self) -> bool:
        if self._ended:
            return False
        # What was not understood yet doubles, so that a long value is not tried too often.
        unread = len(self._buffer) - self._position
        piece = self._handle.read(max(self._chunk, unread))
        self._ended = not piece
        self._buffer = self._buffer[self._position :] + piece
        self._position = 0
        return not self._ended


def read_json_lines(path: Path) -> Iterator[RawCrystal | Unreadable]:
    """One record a line; a line that is no JSON object becomes an Unreadable with its number."""
    with open_text(path) as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Unreadable(f"line {number}", place, f"bad JSON: line {number}, {error}")
                continue
            yield raw_crystal(record, f"line {number}", place)


def read_json(path: Path) -> Iterator[RawCrystal | Unreadable]:
    """An array of records, or a data frame with index, columns and data (orient "split")."""
    try:
        with open_text(path) as handle:
            stream = JsonStream(handle)
            start = stream.peek()
            if start == "[":
                for number, record in enumerate(stream.array()):
                    yield raw_crystal(record, f"record {number}", f"{path}#{number}")
            elif start == "{":
                yield from _read_frame(path, stream)
            else:
                raise InputError(f"{path}: neither a JSON array nor a JSON object")
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: damaged or cut short, not valid JSON ({error.msg})") from None


def _read_frame(path: Path, stream: JsonStream) -> Iterator[RawCrystal | Unreadable]:
    frame: dict[str, Any] = {}
    stream.take("{")
    while stream.peek() != "}":
        key = stream.value()
        stream.take(":")
        if key == "data" and "columns" in frame and "index" in frame:
            yield from _rows(path, frame, stream.array())
            return
        frame[key] = stream.value()
        if stream.peek() == ",":
            stream.take(",")
    if not all(isinstance(frame.get(key), list) for key in ("columns", "data")):
        raise InputError(
            f"{path}: this JSON object is no data frame: expected index, columns and data (pandas "
            'orient="split", as matbench and matminer write)'
        )
    yield from _rows(path, frame, iter(frame["data"]))


def _rows(
    path: Path, frame: Mapping[str, Any], rows: Iterator[Any]
) -> Iterator[RawCrystal | Unreadable]:
    columns = [str(name) for name in frame["columns"]]
    if "structure" not in columns:
        raise InputError(f"{path}: no column 'structure', only {', '.join(columns)[:200]}")
    index = frame.get("index") or []
    for number, row in enumerate(rows):
        fallback = str(index[number]) if number < len(index) else f"row {number}"
        place = f"{path}#{number}"
        if not isinstance(row, list) or len(row) != len(columns):
            yield Unreadable(fallback, place, f"bad row: not {len(columns)} values")
        else:
            yield raw_crystal(dict(zip(columns, row, strict=True)), fallback, place)


def record_id(record: Mapping[str, Any], fallback: str) -> str:
    """The first of the usual id fields that holds something, else ``fallback``."""
    for name in ID_FIELDS:
        value = record.get(name)
        if isinstance(value, (str, int)) and str(value).strip():
            return str(value).strip()
    return fallback


def is_unicode(text: str) -> bool:
    """Whether a text can be stored: JSON can write half a character (a lone surrogate)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def raw_crystal(record: Any, fallback_id: str, place: str) -> RawCrystal | Unreadable:
    """A crystal from one record: ours, JARVIS's (``atoms``) or one with a pymatgen ``structure``.

    Labels are the numbers in the record's ``properties`` where it has them, and nothing beside
    them; else, of a JARVIS record, the fields of the nine properties only, since most of the many
    others of dft_3d are no targets; of any other record, its numeric columns.
    """
    if not isinstance(record, dict):
        return Unreadable(fallback_id, place, "bad record: not a JSON object")
    identifier = record_id(record, fallback_id)
    if not is_unicode(identifier):
        reason = f"bad id: {identifier!a} is no valid Unicode"
        return Unreadable(fallback_id, place, reason)
    geometry: Geometry
    try:
        if "lattice" in record:
            geometry = (record["lattice"], record["species"], record["frac_coords"], None)
        elif "atoms" in record:
            geometry = _jarvis_geometry(record["atoms"])
        elif "structure" in record:
            geometry = pymatgen_geometry(record["structure"])
        else:
            return Unreadable(
                identifier, place, "no structure: neither lattice, atoms nor structure"
            )
    except KeyError as error:
        return Unreadable(identifier, place, f"bad record: the structure has no {error.args[0]!r}")
    except (TypeError, ValueError, IndexError, AttributeError, np.linalg.LinAlgError) as error:
        return Unreadable(identifier, place, f"bad record: {' '.join(str(error).split())[:150]}")
    lattice, species, frac_coords, occupancies = geometry
    if not (isinstance(species, list) and all(isinstance(name, str) for name in species)):
        return Unreadable(identifier, place, "bad record: species is not a list of symbols")
    properties = record.get("properties")
    if isinstance(properties, dict):
        labels = labels_in(properties)
    elif "atoms" in record:
        labels = labels_in({name: record.get(name) for name in _JARVIS_FIELDS})
    else:
        labels = labels_in(record, skip=(*ID_FIELDS, "structure", "split"))
    split = record.get("split")
    return RawCrystal(
        id=identifier,
        input=place,
        lattice=lattice,
        species=species,
        frac_coords=frac_coords,
        occupancies=occupancies,
        labels=labels,
        split=split if isinstance(split, str) else None,
    )


def _jarvis_geometry(atoms: Mapping[str, Any]) -> Geometry:
    lattice, coords = atoms["lattice_mat"], atoms["coords"]
    if atoms.get("cartesian"):
        matrix = np.array(lattice, dtype=np.float64)
        coords = np.linalg.solve(matrix.T, np.array(coords, dtype=np.float64).T).T
    return lattice, [str(symbol).strip() for symbol in atoms["elements"]], coords, None


def pymatgen_geometry(structure: Mapping[str, Any] | str) -> Geometry:
    """Lattice, species, coordinates and occupancies of a pymatgen Structure, as a dict or JSON.

    A site shared by several species counts as several sites, none of them full. Raises KeyError,
    TypeError, ValueError, IndexError or AttributeError for what is no structure.
    """
    data = json.loads(structure) if isinstance(structure, str) else structure
    species: list[str] = []
    coords: list[Any] = []
    occupancies: list[float] = []
    for site in data["sites"]:
        for kind in site["species"]:
            species.append(kind["element"])
            coords.append(site["abc"])
            occupancy = label_value(kind["occu"])
            occupancies.append(float("nan") if occupancy is None else occupancy)
    return data["lattice"]["matrix"], species, coords, occupancies
