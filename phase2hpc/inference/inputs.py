"""Structures to predict for, from files and from memory, as one stream of raw crystals."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from phase2hpc.data.convert import Raw
from phase2hpc.data.crystal import UnreadableRecord
from phase2hpc.data.readers.in_memory import is_structure, read_object
from phase2hpc.data.readers.registry import (
    check_source,
    describe,
    is_structure_file,
    read,
    read_each,
    with_usable_names,
)
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import IStructure

    Structure = IStructure | Atoms | str | os.PathLike[str]
    Structures = Structure | Iterable[Structure]


def read_structures(
    structures: Structures, *, id_prop: bool = False, partition: RecordPartition | None = None
) -> Iterator[Raw]:
    """Raw crystals of structures in order, at least one for each.

    structures: pymatgen Structure, ASE Atoms, path of anything that ``prepare`` reads, or an
    iterable of these. A structure in memory without an id of its own is ``structures#N``, N its
    position. id_prop: read only the files that a folder's id_prop.csv lists, not all of it.
    partition: reads only its part; None: everything.

    What cannot be read is an UnreadableRecord in its place. Raises InputError for a path that does
    not exist or has an unknown format: at once, or when its turn comes in an iterable that is not
    a sequence; TypeError for something that is neither a structure nor an iterable.
    """
    partition = partition or RecordPartition()
    items = _as_iterable(structures)
    if isinstance(items, Sequence):
        for item in items:
            if isinstance(item, (str, os.PathLike)):
                check_source(os.fspath(item), id_prop=id_prop)
    return _read_items(items, id_prop, partition)


def _read_items(
    items: Iterable[object], id_prop: bool, partition: RecordPartition
) -> Iterator[Raw]:
    for are_files, group in groupby(enumerate(items), key=lambda pair: _is_file(pair[1])):
        if are_files:
            yield from read_each((Path(str(item)) for _, item in group), partition)
            continue
        for index, item in group:
            if isinstance(item, (str, os.PathLike)):
                source = os.fspath(item)
                yield from _to_the_end(
                    source, read(source, id_prop=id_prop, partition=partition), partition
                )
            elif partition.take():
                yield with_usable_names(read_object(item, f"structures#{index}"), set())


def _is_file(item: object) -> bool:
    return isinstance(item, (str, os.PathLike)) and is_structure_file(os.fspath(item))


def _as_iterable(structures: Structures) -> Iterable[object]:
    if isinstance(structures, (str, os.PathLike)):
        return [structures]
    # pymatgen's and ASE's structures are iterable themselves, over their sites.
    if is_structure(structures):
        return [structures]
    if isinstance(structures, Iterable):
        return structures
    raise TypeError(
        f"{type(structures).__name__} is not a structure: give a pymatgen Structure, ASE Atoms, a "
        "path, or an iterable of these"
    )


def _to_the_end(source: str, raws: Iterator[Raw], partition: RecordPartition) -> Iterator[Raw]:
    """The crystals of a source; if it cannot be read to its end, the last one has the reason."""
    try:
        yield from raws
    except InputError as error:
        if partition.take():
            yield UnreadableRecord(describe(source), source, str(error))
