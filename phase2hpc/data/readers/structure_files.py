"""Structure files: one CIF or POSCAR, or a folder of them."""

from __future__ import annotations

import errno
import gzip
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.cif.structures import structures_in_cif
from phase2hpc.data.readers.cif.syntax import MAX_BYTES, too_large
from phase2hpc.data.readers.poscar import structure_in_poscar
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError
from phase2hpc.utils.regular_file import NotRegularFile, open_regular
from phase2hpc.utils.sandbox import sandboxed_map

CIF_SUFFIXES = (".cif", ".mcif", ".cif.gz")
POSCAR_SUFFIXES = (".vasp", ".poscar", ".contcar")
_POSCAR_NAMES = ("POSCAR", "CONTCAR")
Items = list[RawCrystal | UnreadableRecord]


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


def read_structure_file(path: Path, name: str | None = None) -> list[RawCrystal | UnreadableRecord]:
    """All of one CIF or POSCAR, at least one item. Never raises: what fails is UnreadableRecord.

    It is read in a process with limits, as all structure files are.
    """
    return next(read_files([(path, structure_id(path) if name is None else name)]))


def read_structure_files(paths: Iterable[Path]) -> Iterator[Items]:
    """As ``read_structure_file`` of each, in order, in one process for all."""
    return read_files((path, structure_id(path)) for path in paths)


def read_folder(folder: Path, units: RecordPartition) -> Iterator[RawCrystal | UnreadableRecord]:
    """Every structure file of a folder, by name, not recursive; ids are unique."""
    files = structure_files(folder)
    if not files:
        raise InputError(f"{folder}: no CIF or POSCAR file in this folder")
    taken = Counter(structure_id(path) for path in files)
    names = [structure_id(path) for path in files]
    tasks = [
        (path, name if taken[name] == 1 else path.name)
        for path, name in zip(files, names, strict=True)
    ]
    # Files are read ahead, so their blocks are kept until their items are yielded.
    mine = [(units.current, task) for task in tasks if units.take()]
    for (block, _), items in zip(mine, read_files(task for _, task in mine), strict=True):
        units.current = block
        yield from items


def read_files(tasks: Iterable[tuple[Path, str]]) -> Iterator[Items]:
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
    except (OSError, EOFError, zlib.error) as error:
        return _unreadable(task, _why_not_read(path, error))
    except _NotAFile as error:
        return _unreadable(task, str(error))
    if len(data) > MAX_BYTES:
        return _unreadable(task, too_large(f"more than {MAX_BYTES >> 20}"))
    if is_poscar(path) and not is_cif(path):
        return [structure_in_poscar(data, name, str(path))]
    return structures_in_cif(data, name, str(path))


class _NotAFile(ValueError):
    """What has the name of a structure file is none, or too large a one; the message says it."""


def _content(path: Path) -> bytes:
    """At most MAX_BYTES + 1 bytes of a file, decompressed; raises _NotAFile for what is no file."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise _NotAFile(too_large(f"{size / 2**20:.1f}"))
        if not path.name.lower().endswith(".gz"):
            return file.read(MAX_BYTES + 1)
        with gzip.open(file) as content:
            return content.read(MAX_BYTES + 1)


def _why_not_read(path: Path, error: Exception) -> str:
    if isinstance(error, gzip.BadGzipFile):
        return "not compressed: the name ends in .gz, the content is no gzip (rename the file)"
    if isinstance(error, (EOFError, zlib.error)):
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
