"""pymatgen and ASE objects to raw crystals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.json_records import ID_FIELDS, raw_crystal

if TYPE_CHECKING:
    from ase import Atoms

NOT_PERIODIC = "not periodic: a crystal repeats in three directions"


def is_structure(value: object) -> bool:
    """True if ``value`` is a structure or molecule of pymatgen or ASE."""
    from ase import Atoms
    from pymatgen.core import SiteCollection

    return isinstance(value, (Atoms, SiteCollection))


def read_object(value: object, place: str) -> RawCrystal | UnreadableRecord:
    """The crystal that an object describes, or the reason why it describes none.

    The id is the one in ``Structure.properties`` or ``Atoms.info`` (fields as in a JSON record),
    else ``place``. No labels are read.
    """
    from ase import Atoms
    from pymatgen.core import IMolecule, IStructure

    if isinstance(value, Atoms):
        return _read_atoms(value, place)
    if isinstance(value, IMolecule):
        return UnreadableRecord(place, place, NOT_PERIODIC)
    if not isinstance(value, IStructure):
        reason = f"not a structure: {type(value).__name__}, not a pymatgen Structure or ASE Atoms"
        return UnreadableRecord(place, place, reason)
    return raw_crystal({**_ids(value.properties), "structure": value.as_dict()}, place, place)


def _read_atoms(atoms: Atoms, place: str) -> RawCrystal | UnreadableRecord:
    cell = np.array(atoms.cell)
    if not atoms.pbc.any():
        return UnreadableRecord(place, place, NOT_PERIODIC)
    if not np.isfinite(cell).all() or abs(np.linalg.det(cell)) < 1e-6:
        return UnreadableRecord(place, place, "bad cell: the lattice vectors span no volume")
    coordinates = np.linalg.solve(cell.T, atoms.positions.T).T.tolist()
    sites = [
        {"species": species, "abc": abc}
        for species, abc in zip(_species(atoms), coordinates, strict=True)
    ]
    structure = {"lattice": {"matrix": cell.tolist(), "pbc": atoms.pbc.tolist()}, "sites": sites}
    return raw_crystal({**_ids(atoms.info), "structure": structure}, place, place)


def _species(atoms: Atoms) -> list[list[dict[str, Any]]]:
    """Species with occupancies of each site.

    Of a site that a CIF gives several species or a partial one, ASE keeps one; the occupancies are
    in ``info["occupancy"]``: {kind of the site: {species: occupancy}}.
    """
    occupancies = atoms.info.get("occupancy")
    kinds = atoms.arrays.get("spacegroup_kinds")
    full = [[{"element": symbol, "occu": 1.0}] for symbol in atoms.get_chemical_symbols()]
    if not isinstance(occupancies, Mapping) or kinds is None:
        return full
    written = [occupancies.get(str(kind), occupancies.get(kind)) for kind in kinds.tolist()]
    return [
        # The species of a full site may have been substituted since.
        [{"element": symbol, "occu": share} for symbol, share in table.items()]
        if table and list(table.values()) != [1.0]
        else whole
        for table, whole in zip(written, full, strict=True)
    ]


def _ids(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in ID_FIELDS if name in fields}
