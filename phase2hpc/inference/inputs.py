"""Structures to predict for, from files and from memory, as one stream of raw crystals."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from phase2hpc.data.convert import Raw
from phase2hpc.data.crystal import UnreadableRecord
from phase2hpc.data.readers.registry import describe, read
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
    units = partition or RecordPartition()
    items = _as_iterable(structures)
    opened = (_open(item, i, id_prop, units) for i, item in enumerate(items))
    # A wrong path in a list is an error before the work, not after half of it.
    return chain.from_iterable(list(opened) if isinstance(items, Sequence) else opened)


def _as_iterable(structures: Structures) -> Iterable[object]:
    if isinstance(structures, (str, os.PathLike)):
        return [structures]
    from phase2hpc.data.readers.in_memory import is_structure

    # pymatgen's and ASE's are iterables, of their sites.
    if is_structure(structures):
        return [structures]
    if isinstance(structures, Iterable):
        return structures
    raise TypeError(
        f"{type(structures).__name__} is not a structure: give a pymatgen Structure, ASE Atoms, a "
        "path, or an iterable of these"
    )


def _open(item: object, index: int, id_prop: bool, units: RecordPartition) -> Iterator[Raw]:
    if isinstance(item, (str, os.PathLike)):
        source = os.fspath(item)
        return _to_the_end(source, read(source, id_prop=id_prop, units=units), units)
    return _in_memory(item, f"structures#{index}", units)


def _in_memory(item: object, place: str, units: RecordPartition) -> Iterator[Raw]:
    from phase2hpc.data.readers.in_memory import read_object

    if units.take():
        yield read_object(item, place)


def _to_the_end(source: str, raws: Iterator[Raw], units: RecordPartition) -> Iterator[Raw]:
    """The crystals of a source; where a damaged file ends early, the last one says so."""
    try:
        yield from raws
    except InputError as error:
        if units.take():
            yield UnreadableRecord(describe(source), source, str(error))
