"""Registry of source formats: a path (or ``jarvis:...``) to raw crystals."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import logging
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.ase_formats import read_ase_db, read_extxyz
from phase2hpc.data.readers.cif.syntax import MAX_BYTES
from phase2hpc.data.readers.csv_table import files_of, read_csv
from phase2hpc.data.readers.file_types import (
    foreign_binary,
    foreign_file,
    is_cif_text,
    is_extxyz_text,
    is_json_document,
    is_json_text,
    is_poscar_text,
    is_sqlite,
)
from phase2hpc.data.readers.id_prop import read_id_prop
from phase2hpc.data.readers.json_files import read_json, read_json_lines
from phase2hpc.data.readers.json_records import raw_crystal
from phase2hpc.data.readers.labels import ehull_warning
from phase2hpc.data.readers.structure_files import (
    ID_PROP,
    files_not_read,
    is_cif,
    is_poscar,
    read_folder,
    read_structure_file,
    read_structure_files,
    structure_files,
    structure_id,
)
from phase2hpc.data.readers.text_files import DAMAGED, content_name, head, plain_name
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError
from phase2hpc.utils.container_image import mount_hint
from phase2hpc.utils.text import MAX_NAME_LENGTH, name_problem, one_line

JARVIS_PREFIX = "jarvis:"
ACCEPTED = (
    "JSON lines (.jsonl), JSON (.json) of JARVIS, matbench, pymatgen, pandas or OPTIMADE, .csv or "
    ".tsv with a column of CIFs or of paths, .extxyz, each also as .gz, .bz2, .xz or .zip, an ASE "
    ".db, .cif, POSCAR or XDATCAR (.vasp), a folder of such files (with or without id_prop.csv), "
    "or jarvis:dft_3d"
)
# The 2022 edition of dft_3d, in which ehull is the energy above hull.
DFT_3D_URL = "https://ndownloader.figshare.com/files/38521619"
DFT_3D_FILE = "jdft_3d-12-12-2022.json.zip"

Items = Iterator[RawCrystal | UnreadableRecord]
Reader = Callable[[Path, RecordPartition], Items]
_log = logging.getLogger(__name__)


def read(
    source: str | Path,
    *,
    id_prop: bool = True,
    labels: Path | None = None,
    partition: RecordPartition | None = None,
) -> Items:
    """Raw crystals of a source in its order, streamed where the format allows.

    A record that cannot be read is an UnreadableRecord in its place. With ``id_prop=False`` a
    folder is all its structure files by name, whatever its id_prop.csv says. ``labels``: a table
    to read in place of a folder's id_prop.csv; other sources have their own. ``partition``: reads
    and counts only its records; None: all.

    Raises InputError at once for a missing path, an empty folder or an unknown format; while
    reading for a file that is damaged as a whole or holds nothing.
    """
    partition = partition or RecordPartition()
    if str(source).startswith(JARVIS_PREFIX):
        return _watched(_read_jarvis_tools(str(source), partition), str(source), partition)
    path = _existing(source)
    if labels is not None and path.is_dir():
        return _watched(read_id_prop(path, partition, _existing(labels)), str(source), partition)
    return _watched(_reader(path, id_prop)(path, partition), str(source), partition)


def check_source(source: str | Path, *, id_prop: bool = True) -> None:
    """Raises InputError as ``read`` does at once."""
    if not str(source).startswith(JARVIS_PREFIX):
        _reader(_existing(source), id_prop)


def is_structure_file(source: str | Path) -> bool:
    """True if ``source`` has the name of a CIF or POSCAR file and is not a folder."""
    path = Path(source)
    return (is_cif(path) or is_poscar(path)) and not path.is_dir()


def read_each(paths: Iterable[Path], partition: RecordPartition) -> Items:
    """As ``read`` of each of these structure files, in order, in one process for all: to start
    one takes longer than to read a file."""
    known_labels: set[str] = set()
    for items in read_structure_files((path, structure_id(path)) for path in map(_existing, paths)):
        for item in items:
            if partition.take():
                yield with_usable_names(item, known_labels)


def describe(source: str | Path) -> str:
    """The file's or folder's own name, for messages."""
    text = str(source)
    return text if text.startswith(JARVIS_PREFIX) else Path(text).resolve().name


def source_hash(source: str | Path, labels: Path | None = None) -> str:
    """SHA-256 (hex) over the content of a source: equal content, equal hash, wherever it lies.

    Of a folder, the names and contents of its structure files and its table of labels (id_prop.csv
    or ``labels``); of a table of paths, those of the files that it names too; of
    ``jarvis:...``, the name, for its editions do not change under one name. Raises InputError for
    what cannot be read.
    """
    digest = hashlib.sha256()
    if str(source).startswith(JARVIS_PREFIX):
        digest.update(str(source).encode())
        return digest.hexdigest()
    path = _existing(source)
    try:
        if path.is_dir():
            _update_files(digest, structure_files(path))
            table = path / ID_PROP if labels is None else _existing(labels)
            if table.exists():
                digest.update(f"{ID_PROP}\0{table.stat().st_size}\0".encode())
                _update(digest, table)
        else:
            _update(digest, path)
            if _reader(path, id_prop=True) is read_csv:
                _update_files(digest, files_of(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    return digest.hexdigest()


def _existing(source: str | Path) -> Path:
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder{mount_hint()}; a source is {ACCEPTED}")
    # A pipe would be read to its end for its hash, and a device has none.
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{path}: neither a file nor a folder; a source is {ACCEPTED}")
    return path


def _update_files(digest: hashlib._Hash, files: Sequence[Path]) -> None:
    for file in files:
        if not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        # One that is too large or not readable is rejected by itself, not its source.
        if size <= MAX_BYTES and os.access(file, os.R_OK):
            _update(digest, file)


def _update(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)


def _reader(path: Path, id_prop: bool) -> Reader:
    if path.is_dir():
        if id_prop and (path / ID_PROP).exists():
            return read_id_prop
        if not structure_files(path):
            others = files_not_read(path)
            what = f" ({others})" if others else ""
            raise InputError(f"{path}: no CIF or POSCAR file in this folder{what}")
        return read_folder
    if is_cif(path) or is_poscar(path):
        return _read_one
    try:
        name, begin = content_name(path).lower(), head(path)
    # Damaged, or not permitted: reading it as its name says gives the reason.
    except DAMAGED:
        name, begin = plain_name(path.name).lower(), b""
    if foreign := foreign_binary(begin):
        raise InputError(f"{path}: it is {foreign}")
    for suffixes, reader in _READERS:
        if name.endswith(suffixes):
            return read_json if reader is read_json_lines and is_json_document(begin) else reader
    for matches, reader in _BY_CONTENT:
        if matches(begin):
            return reader
    if path.suffix.lower() == ".zip" and not begin:
        return read_json
    if foreign := foreign_file(name, begin):
        raise InputError(f"{path}: it is {foreign}")
    raise InputError(f"{path}: unknown format; a source is {ACCEPTED}")


def _read_one(path: Path, partition: RecordPartition) -> Items:
    for item in read_structure_file(path):
        if partition.take():
            yield item


_READERS: tuple[tuple[tuple[str, ...], Reader], ...] = (
    ((".jsonl", ".ndjson"), read_json_lines),
    ((".json",), read_json),
    ((".csv", ".tsv"), read_csv),
    ((".extxyz", ".xyz"), read_extxyz),
    ((".db",), read_ase_db),
)
# Of a name that says nothing.
_BY_CONTENT: tuple[tuple[Callable[[bytes], bool], Reader], ...] = (
    (is_sqlite, read_ase_db),
    (is_json_text, read_json),
    (is_cif_text, _read_one),
    (is_extxyz_text, read_extxyz),
    (is_poscar_text, _read_one),
)


def _watched(items: Items, source: str, partition: RecordPartition) -> Items:
    """The items; an error of the file as a whole becomes InputError, and notes become warnings."""
    ehull: list[float] = []
    notes: Counter[str] = Counter()
    crystals = 0
    known_labels: set[str] = set()
    first = partition.count
    try:
        for item in items:
            checked = with_usable_names(item, known_labels)
            if isinstance(checked, RawCrystal):
                crystals += 1
                notes.update([checked.note] if checked.note else ())
                if "ehull" in checked.labels:
                    ehull.append(checked.labels["ehull"])
            yield checked
    except (*DAMAGED, csv.Error) as error:
        raise InputError(f"{source}: damaged or cut short, cannot be read ({error})") from None
    if partition.count == first:
        raise InputError(f"{source}: no structure in it")
    for note, count in notes.items():
        _log.warning("%s: %d of %d structures: %s", source, count, crystals, note)
    if warning := ehull_warning(ehull):
        _log.warning("%s: %s", source, warning)


def with_usable_names(
    item: RawCrystal | UnreadableRecord, known_labels: set[str]
) -> RawCrystal | UnreadableRecord:
    """The item, or UnreadableRecord if its id or the name of a label is not a usable name.

    known_labels: names that were found usable, which are not checked again.
    """
    if isinstance(item, UnreadableRecord):
        return replace(item, id=one_line(item.id[:MAX_NAME_LENGTH]), reason=one_line(item.reason))
    if problem := name_problem(item.id):
        escaped = one_line(item.id[:MAX_NAME_LENGTH])
        return UnreadableRecord(escaped, item.input, f"bad id: it {problem}")
    for name in item.labels:
        if name not in known_labels:
            if problem := name_problem(name):
                reason = f"bad label: its name {name[:40]!a} {problem}"
                return UnreadableRecord(item.id, item.input, reason)
            known_labels.add(name)
    return item


def _read_jarvis_tools(source: str, partition: RecordPartition) -> Items:
    """Records that jarvis-tools downloads (or has in its cache): ``jarvis:dft_3d`` and others.

    ``dft_3d`` is the 2022 edition where jarvis-tools has several, since others have other labels.
    """
    name = source.removeprefix(JARVIS_PREFIX)
    advice = (
        f"fetch {DFT_3D_URL} on a machine with a network, save it as {DFT_3D_FILE} and give that "
        "path as the SOURCE"
    )
    try:
        from jarvis.db import figshare
    except ImportError:
        raise InputError(f"{source}: jarvis-tools is not installed; {advice}") from None
    editions = figshare.get_db_info()
    edition = "dft_3d_2022" if name == "dft_3d" and "dft_3d_2022" in editions else name
    if edition not in editions:
        raise InputError(f"{source}: jarvis-tools has no data set '{name}'")
    try:
        # It prints progress where our tables go.
        with contextlib.redirect_stdout(sys.stderr):
            records = figshare.data(edition)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        kind = type(error).__name__
        raise InputError(f"{source}: the download failed ({kind}); {advice}") from None
    for number, record in enumerate(records):
        if not partition.take():
            continue
        yield raw_crystal(record, f"record {number}", f"{source}#{number}")
