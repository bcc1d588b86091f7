"""Crystals in JSON: lines, arrays of records (JARVIS), and data frames (matbench, matminer)."""

from __future__ import annotations

import codecs
import gzip
import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np

from phase2hpc.config.properties import PROPERTIES
from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.labels import label_value, labels_in
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError
from phase2hpc.utils.text import name_problem, one_line

ID_FIELDS = ("id", "jid", "material_id", "mp_id", "mpid", "matbench_id", "name")
# Characters. A record is read as a whole, a frame's columns and index are, and its data where they
# come first; compressed, a few bytes may claim any number.
MAX_RECORD_BYTES = 1 << 26
MAX_FRAME_BYTES = 1 << 31
# Lattice, species, fractional coordinates, occupancies: as found, validation looks at them.
Geometry = tuple[Any, list[str], Any, list[float] | None]
_JARVIS_FIELDS = tuple(p.jarvis_field for p in PROPERTIES.values())


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file, also inside .gz or as the JSON member of a .zip, decompressed as it is read.

    What is not UTF-8 in it becomes half characters, so that the line it is on can be told.
    Raises InputError for UTF-16, and for a .zip without one member that can be read.
    """
    with ExitStack() as stack:
        suffix = path.suffix.lower()
        if suffix == ".gz":
            data: Any = stack.enter_context(gzip.open(path, "rb"))
        elif suffix == ".zip":
            data = stack.enter_context(_json_member(path, stack))
        else:
            data = stack.enter_context(path.open("rb"))
        if data.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise InputError(f"{path}: is in UTF-16: save it as UTF-8")
        yield TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _json_member(path: Path, stack: ExitStack) -> IO[bytes]:
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = [name for name in archive.namelist() if name.lower().endswith(".json")]
    if len(members) != 1:
        raise InputError(f"{path}: expected one .json in the archive, found {len(members)}")
    try:
        return archive.open(members[0])
    # A password, or a compression that this Python does not know.
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path}: {one_line(members[0])} cannot be unpacked ({error})") from None


def bounded_lines(path: Path, handle: TextIO) -> Iterator[str]:
    """The lines of a text; InputError at one so long that it is none."""
    number = 0
    while line := handle.readline(MAX_RECORD_BYTES):
        number += 1
        if len(line) == MAX_RECORD_BYTES:
            raise InputError(f"{path}, line {number}: longer than {MAX_RECORD_BYTES} characters")
        yield line


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where a key is in it twice, since either value may be meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the key {_repeated(pairs)!a} occurs twice")
    return found


def _repeated(pairs: list[tuple[str, Any]]) -> str:
    counts = Counter(key for key, _ in pairs)
    return max(counts, key=lambda key: counts[key])[:40]


class JsonStream:
    """Reads a JSON document piece by piece, so that a large array never stands in memory."""

    def __init__(self, handle: TextIO, chunk: int = 1 << 20) -> None:
        self._handle, self._chunk = handle, chunk
        self._buffer, self._position, self._ended = "", 0, False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)
        # A key that the last value has twice; to stop there would be the end of the whole file.
        self.repeated = ""

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

    def value(self, longest: int = MAX_RECORD_BYTES) -> Any:
        """The next whole value; ValueError for one of more than ``longest`` characters."""
        self.peek()
        while True:
            self.repeated = ""
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError:
                if len(self._buffer) - self._position > longest:
                    raise ValueError(f"longer than {longest} characters") from None
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

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            self.repeated = _repeated(pairs)
        return found

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


def read_json_lines(path: Path, units: RecordPartition) -> Iterator[RawCrystal | UnreadableRecord]:
    """One record a line; a line that is no JSON object becomes UnreadableRecord."""
    with open_text(path) as handle:
        for number, line in enumerate(bounded_lines(path, handle), start=1):
            if not line.strip() or not units.take():
                continue
            place = f"{path}:{number}"
            try:
                if not is_unicode(line):
                    raise ValueError("not in UTF-8")
                record = json.loads(line, object_pairs_hook=_unique_keys)
            except (ValueError, RecursionError) as error:
                yield UnreadableRecord(
                    f"line {number}", place, f"bad JSON: line {number}, {_why(error)}"
                )
                continue
            yield raw_crystal(record, f"line {number}", place)


def _why(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def read_json(path: Path, units: RecordPartition) -> Iterator[RawCrystal | UnreadableRecord]:
    """An array of records, or a data frame with index, columns and data (orient "split")."""
    first = units.count
    try:
        with open_text(path) as handle:
            stream = JsonStream(handle)
            start = stream.peek()
            if start == "[":
                items = _records(path, stream, units)
            elif start == "{":
                items = _read_frame(path, stream, units)
            else:
                raise InputError(f"{path}: neither a JSON array nor a JSON object")
            yield from items
    except json.JSONDecodeError as error:
        done = units.count - first
        raise InputError(
            f"{path}: damaged or cut short, not valid JSON ({error.msg}, record {done})"
        ) from None
    except (ValueError, RecursionError) as error:
        done = units.count - first
        raise InputError(f"{path}: record {done} is no JSON to read ({_why(error)})") from None


def _records(
    path: Path, stream: JsonStream, units: RecordPartition
) -> Iterator[RawCrystal | UnreadableRecord]:
    for number, record in enumerate(stream.array()):
        if not units.take():
            continue
        place = f"{path}#{number}"
        if stream.repeated:
            reason = f"bad record: the key {stream.repeated!a} occurs twice"
            yield UnreadableRecord(f"record {number}", place, reason)
        else:
            yield raw_crystal(record, f"record {number}", place)
    if rest := stream.peek():
        raise json.JSONDecodeError("something follows the array", rest, 0)


def _read_frame(
    path: Path, stream: JsonStream, units: RecordPartition
) -> Iterator[RawCrystal | UnreadableRecord]:
    frame: dict[str, Any] = {}
    stream.take("{")
    while stream.peek() != "}":
        key = stream.value()
        stream.take(":")
        if not isinstance(key, str) or key in frame:
            raise InputError(f"{path}: no data frame: {str(key)[:40]!a} is no key or occurs twice")
        if key == "data" and "columns" in frame and "index" in frame:
            yield from _rows(path, frame, stream.array(), stream, units)
            return
        frame[key] = stream.value(MAX_FRAME_BYTES)
        if stream.peek() == ",":
            stream.take(",")
    if "data" not in frame or "columns" not in frame:
        raise InputError(
            f"{path}: this JSON object is no data frame: expected index, columns and data (pandas "
            'orient="split", as matbench and matminer write)'
        )
    yield from _rows(path, frame, frame["data"], stream, units)


def _rows(
    path: Path,
    frame: Mapping[str, Any],
    rows: Iterable[Any],
    stream: JsonStream,
    units: RecordPartition,
) -> Iterator[RawCrystal | UnreadableRecord]:
    index = frame.get("index") or []
    for key, value in (("columns", frame["columns"]), ("index", index)):
        if not isinstance(value, list):
            raise InputError(f"{path}: no data frame: its '{key}' are no array")
    if isinstance(rows, (str, dict)) or not isinstance(rows, Iterable):
        raise InputError(f"{path}: no data frame: its 'data' are no array")
    columns = [str(name) for name in frame["columns"]]
    if len(set(columns)) < len(columns):
        raise InputError(f"{path}: two columns of the data frame have one name")
    if "structure" not in columns:
        raise InputError(f"{path}: no column 'structure', only {', '.join(columns)[:200]}")
    for number, row in enumerate(rows):
        if not units.take():
            continue
        fallback = str(index[number]) if number < len(index) else f"row {number}"
        place = f"{path}#{number}"
        if stream.repeated:
            yield UnreadableRecord(
                fallback, place, f"bad row: the key {stream.repeated!a} occurs twice"
            )
        elif not isinstance(row, list) or len(row) != len(columns):
            yield UnreadableRecord(fallback, place, f"bad row: not {len(columns)} values")
        else:
            yield raw_crystal(dict(zip(columns, row, strict=True)), fallback, place)


def record_id(record: Mapping[str, Any], fallback: str) -> str:
    """The first of the usual id fields that holds something, else ``fallback``."""
    for name in ID_FIELDS:
        value = record.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return fallback


def is_unicode(text: str) -> bool:
    """Whether a text can be stored: JSON can write half a character (a lone surrogate)."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def raw_crystal(record: Any, fallback_id: str, place: str) -> RawCrystal | UnreadableRecord:
    """A crystal from one record: ours, JARVIS's (``atoms``) or one with a pymatgen ``structure``.

    Labels are the numbers in the record's ``properties`` where it has them, and nothing beside
    them; else, of a JARVIS record, the fields of the nine properties only, since most of the many
    others of dft_3d are no targets; of any other record, its numeric columns.
    """
    if not isinstance(record, dict):
        return UnreadableRecord(fallback_id, place, "bad record: not a JSON object")
    identifier = record_id(record, fallback_id)
    if problem := name_problem(identifier):
        return UnreadableRecord(fallback_id, place, f"bad id: {identifier[:40]!a} {problem}")
    geometry: Geometry
    try:
        if "lattice" in record:
            geometry = (record["lattice"], record["species"], record["frac_coords"], None)
        elif "atoms" in record:
            geometry = _jarvis_geometry(record["atoms"])
        elif "structure" in record:
            geometry = pymatgen_geometry(record["structure"])
        else:
            return UnreadableRecord(
                identifier, place, "no structure: neither lattice, atoms nor structure"
            )
    except KeyError as error:
        return UnreadableRecord(
            identifier, place, f"bad record: the structure has no {error.args[0]!r}"
        )
    except (
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
        np.linalg.LinAlgError,
    ) as error:
        return UnreadableRecord(
            identifier, place, f"bad record: {' '.join(_why(error).split())[:150]}"
        )
    lattice, species, frac_coords, occupancies = geometry
    if not (isinstance(species, list) and all(isinstance(name, str) for name in species)):
        return UnreadableRecord(identifier, place, "bad record: species is not a list of symbols")
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
