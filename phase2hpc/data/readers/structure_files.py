"""Structure files: one CIF or POSCAR, or a folder of them."""

from __future__ import annotations

import errno
import gzip
import logging
import lzma
import os
import re
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.cif.structures import structures_in_cif
from phase2hpc.data.readers.cif.syntax import MAX_BYTES, too_large
from phase2hpc.data.readers.file_types import (
    foreign_binary,
    is_cif_text,
    is_poscar_text,
    known_text,
)
from phase2hpc.data.readers.poscar import structures_in_poscar
from phase2hpc.data.readers.text_files import DAMAGED, DOS_END, decompressed, plain_name
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError
from phase2hpc.utils.regular_file import NotRegularFile, open_regular
from phase2hpc.utils.sandbox import sandboxed_map
from phase2hpc.utils.text import one_line

ID_PROP = "id_prop.csv"
CIF_SUFFIXES = (".cif", ".mcif")
POSCAR_SUFFIXES = (".vasp", ".poscar", ".contcar", ".xdatcar")
# "POSCAR", "POSCAR-Si", "POSCAR_1.txt", "mp-149_POSCAR"; not "POSCARs" nor "POSCAR.json".
_POSCAR_NAME = re.compile(
    r"(?:POSCAR|CONTCAR|XDATCAR)(?![a-z])(?!.*\.(?:jsonl?|csv|tsv|xml|db|h5|(?:ext)?xyz|cif)$)"
    r"|.*(?<![a-z])(?:POSCAR|CONTCAR|XDATCAR)$",
    re.IGNORECASE,
)
Items = list[RawCrystal | UnreadableRecord]
_log = logging.getLogger(__name__)


def is_cif(path: Path) -> bool:
    return _names_cif(path.name)


def is_poscar(path: Path) -> bool:
    return _names_poscar(path.name)


def _names_cif(name: str) -> bool:
    return plain_name(name).lower().endswith(CIF_SUFFIXES)


def _names_poscar(name: str) -> bool:
    plain = plain_name(name)
    return plain.lower().endswith(POSCAR_SUFFIXES) or _POSCAR_NAME.match(plain) is not None


def structure_id(path: Path) -> str:
    """The file's name without the suffixes of its compression and format: ``Si`` of Si.cif.gz,
    POSCAR-Si as it is."""
    name = plain_name(path.name)
    for suffix in (*CIF_SUFFIXES, *POSCAR_SUFFIXES):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def structure_files(folder: Path) -> list[Path]:
    """CIF and POSCAR files directly in a folder, by name; hidden ones are left out."""
    return [folder / name for name in _structure_names(folder)]


def _structure_names(folder: Path) -> list[str]:
    # Names, not paths: a folder may hold a million.
    return sorted(
        name
        for name in os.listdir(folder)
        if not name.startswith(".") and (_names_cif(name) or _names_poscar(name))
    )


def files_not_read(folder: Path) -> str:
    """Number and first names of what else is in a folder, folders with a slash; "" for nothing."""
    with os.scandir(folder) as entries:
        others = sorted(
            f"{entry.name}/" if entry.is_dir() else entry.name
            for entry in entries
            if not (entry.name.startswith(".") or entry.name == ID_PROP)
            and not (_names_cif(entry.name) or _names_poscar(entry.name))
        )
    if not others:
        return ""
    shown = ", ".join(one_line(name[:40]) for name in others[:3])
    return f"{len(others)} not read, not named as CIF or POSCAR: {shown}" + (
        ", ..." if len(others) > 3 else ""
    )


def read_structure_file(path: Path, name: str | None = None) -> list[RawCrystal | UnreadableRecord]:
    """All structures of one CIF, POSCAR or XDATCAR, at least one item.

    Never raises for the file's content: what fails is UnreadableRecord. It is read in a process
    with limits, as all structure files are.
    """
    return next(read_structure_files([(path, structure_id(path) if name is None else name)]))


def read_folder(
    folder: Path, partition: RecordPartition
) -> Iterator[RawCrystal | UnreadableRecord]:
    """Every structure file of a folder, by name, not recursive; ids are unique."""
    names = _structure_names(folder)
    others = files_not_read(folder)
    if not names:
        what = f" ({others})" if others else ""
        raise InputError(f"{folder}: no CIF or POSCAR file in this folder{what}")
    if others:
        _log.warning("%s: %s", folder, others)
    taken = Counter(map(structure_id, map(Path, names)))
    # Files are read ahead, so their blocks are kept until their items are yielded.
    blocks: deque[int] = deque()

    def tasks() -> Iterator[tuple[Path, str]]:
        for name in names:
            if partition.take():
                blocks.append(partition.current)
                path = folder / name
                plain = structure_id(path)
                yield path, plain if taken[plain] == 1 else name

    for items in read_structure_files(tasks()):
        partition.current = blocks.popleft()
        yield from items


def read_structure_files(tasks: Iterable[tuple[Path, str]]) -> Iterator[Items]:
    """Items of each (path, id), read in a process whose time and memory are limited."""
    return sandboxed_map(_read, tasks, _unreadable)


def _unreadable(task: tuple[Path, str], reason: str) -> Items:
    path, name = task
    return [UnreadableRecord(name, str(path), reason)]


def _read(task: tuple[Path, str]) -> Items:
    path, name = task
    try:
        data = _content(path)
    except NotRegularFile as error:
        return _unreadable(task, error.reason)
    except DAMAGED as error:
        return _unreadable(task, _why_not_read(path, error))
    except (_TooLarge, InputError) as error:
        return _unreadable(task, str(error))
    if len(data) > MAX_BYTES:
        return _unreadable(task, too_large(f"more than {MAX_BYTES >> 20}"))
    cif = is_cif_text(data) if is_poscar(path) or not is_cif(path) else not is_poscar_text(data)
    foreign = foreign_binary(data[:512])
    if foreign is None and not cif and not is_poscar_text(data):
        foreign = known_text(data)
    if foreign is not None:
        return _unreadable(task, f"not a structure file: it is {foreign}")
    read = structures_in_cif if cif else structures_in_poscar
    return read(data, name, str(path))


class _TooLarge(ValueError):
    """A file is too large; the message is the reason."""


def _content(path: Path) -> bytes:
    """At most MAX_BYTES + 1 bytes of a file, decompressed; raises _TooLarge for a larger file."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise _TooLarge(too_large(f"{size / 2**20:.1f}"))
        with decompressed(file, str(path)) as content:
            return bytes(content.read(MAX_BYTES + 1)).removesuffix(DOS_END)


def _why_not_read(path: Path, error: Exception) -> str:
    if isinstance(error, gzip.BadGzipFile):
        return "not compressed: the name ends in .gz, the content is no gzip (rename the file)"
    if isinstance(error, zipfile.BadZipFile):
        return "damaged: it is no whole zip archive, copy it again"
    if isinstance(error, (EOFError, zlib.error, lzma.LZMAError)):
        return "damaged: its compressed content is cut short or broken, copy it again"
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ELOOP:
        return "cannot be read: a symbolic link that leads to itself"
    if code == errno.ENOENT and path.is_symlink():
        return f"cannot be read: a symbolic link to {os.readlink(path)[:100]}, which is not there"
    if code in (errno.EACCES, errno.EPERM):
        return "cannot be read: no permission (chmod u+r?)"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot be read: {reason}"
