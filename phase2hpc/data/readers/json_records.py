"""Crystals in single JSON records: our own, JARVIS, pymatgen, OPTIMADE, or with a CIF."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from phase2hpc.config.properties import PROPERTIES
from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers import optimade
from phase2hpc.data.readers.cif.structures import structures_in_cif
from phase2hpc.data.readers.json_stream import json_error
from phase2hpc.data.readers.labels import labels_in
from phase2hpc.data.readers.pymatgen_json import (
    entry_columns,
    is_entry,
    structure_geometry,
    unwrapped,
)
from phase2hpc.data.readers.record_geometry import Geometry, RecordError

ID_FIELDS = (
    "id", "jid", "material_id", "mp_id", "mpid", "matbench_id", "name", "entry_id", "mat_id",
)  # fmt: skip
STRUCTURE = "structure"
CIF = "cif"
_JARVIS_FIELDS = tuple(p.jarvis_field for p in PROPERTIES.values())
# A malformed record raises one of these somewhere in it.
_MALFORMED = (
    TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError,
    np.linalg.LinAlgError,
)  # fmt: skip


def record_id(record: Mapping[str, Any], fallback: str) -> str:
    """Value of the first id field that holds a text or an integer, else ``fallback``."""
    for name in ID_FIELDS:
        value = record.get(name)
        if type(value) is not bool and isinstance(value, (str, Integral)) and str(value).strip():
            return str(value).strip()
    return fallback


def raw_crystal(record: Any, fallback_id: str, place: str) -> RawCrystal | UnreadableRecord:
    """The crystal of one record, in any of the forms of this module.

    Labels are the numbers in the record's ``properties`` where it has them, and nothing beside
    them; else of a JARVIS record the fields of the nine properties only, since most of the many
    others of dft_3d are no targets; of an entry its ``data`` and energy; of an OPTIMADE entry the
    database's own properties; of any other record its numeric columns.
    """
    if isinstance(record, str) and record.lstrip().startswith("{"):
        # Otherwise it is no object.
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(record)
    if not isinstance(record, dict):
        return UnreadableRecord(fallback_id, place, "bad record: not a JSON object")
    identifier = record_id(record, "")
    if not identifier and isinstance(record.get("data"), dict):
        identifier = record_id(record["data"], "")
    identifier = identifier or fallback_id
    try:
        form = next((form for form in _FORMS if form.matches(record)), None)
        if form is None:
            raise RecordError(f"no structure: {_other_content(record)}")
        item = form.read(record, identifier, place)
        if isinstance(item, UnreadableRecord):
            return item
        properties = record.get("properties")
        columns = properties if isinstance(properties, dict) else form.columns(record)
    except RecordError as error:
        return UnreadableRecord(identifier, place, str(error))
    except KeyError as error:
        reason = f"bad record: the structure has no {str(error.args[0])[:40]!a}"
        return UnreadableRecord(identifier, place, reason)
    except _MALFORMED as error:
        reason = f"bad record: {' '.join(json_error(error).split())[:150]}"
        return UnreadableRecord(identifier, place, reason)
    split = record.get("split")
    item.labels = labels_in(columns)
    item.split = split if isinstance(split, str) else None
    return item


def is_record(value: Any) -> bool:
    """True for an object that has one of the fields in which records have their structure."""
    return isinstance(value, dict) and not _RECORD_FIELDS.isdisjoint(value)


def structure_field(record: Mapping[str, Any]) -> str | None:
    """The field of a record's pymatgen Structure, whatever its name; None where there is none.

    Raises RecordError where there are several and none is ``structure``.
    """
    if STRUCTURE in record:
        return STRUCTURE
    found = [name for name, value in record.items() if is_structure(value)]
    if len(found) > 1:
        names = ", ".join(found)[:60]
        raise RecordError(
            f"several structures: in the fields {names}; name the one to read 'structure'"
        )
    return found[0] if found else None


def is_structure(value: Any) -> bool:
    """True for a pymatgen Structure as an object."""
    return isinstance(value, dict) and "sites" in value and "lattice" in value


def _cif_crystal(
    record: Mapping[str, Any], identifier: str, place: str
) -> RawCrystal | UnreadableRecord:
    items = structures_in_cif(_cif_text(record).encode(), identifier, place)
    if len(items) > 1:
        raise RecordError(f"several structures: {len(items)} in one CIF")
    return items[0]


def _cif_text(record: Mapping[str, Any]) -> str:
    """CIF text in the field ``cif`` or ``structure``, "" where there is none."""
    for name in (CIF, STRUCTURE):
        text = record.get(name)
        if isinstance(text, str) and "data_" in text and not text.lstrip().startswith("{"):
            return text
    return ""


def _own_geometry(record: Mapping[str, Any]) -> Geometry:
    return Geometry(
        unwrapped(record["lattice"]), record["species"], unwrapped(record["frac_coords"])
    )


def _jarvis_geometry(record: Mapping[str, Any]) -> Geometry:
    atoms = record.get("atoms", record)
    lattice, coords = atoms["lattice_mat"], atoms["coords"]
    if _is_true(atoms.get("cartesian")):
        matrix = np.array(lattice, dtype=np.float64)
        coords = np.linalg.solve(matrix.T, np.array(coords, dtype=np.float64).T).T
    return Geometry(lattice, [str(symbol).strip() for symbol in atoms["elements"]], coords)


def _is_true(flag: Any) -> bool:
    """A boolean, or one as text."""
    if not isinstance(flag, str):
        return bool(flag)
    text = flag.strip().lower()
    if text not in ("true", "false"):
        raise RecordError(f"bad record: cartesian is {flag[:20]!a}, neither true nor false")
    return text == "true"


def _structure_columns(record: Mapping[str, Any]) -> Mapping[str, Any]:
    if is_entry(record):
        columns: Mapping[str, Any] = entry_columns(record)
    else:
        columns = record
    left_out = {*ID_FIELDS, structure_field(record), "split", "@module", "@class", "@version"}
    return {name: value for name, value in columns.items() if name not in left_out}


def _other_columns(record: Mapping[str, Any]) -> Mapping[str, Any]:
    left_out = {*ID_FIELDS, CIF, STRUCTURE, "split"}
    return {name: value for name, value in record.items() if name not in left_out}


def _other_content(record: Mapping[str, Any]) -> str:
    """Description of a record that has no structure."""
    if is_entry(record):
        return "a ComputedEntry has a composition and an energy only (write ComputedStructureEntry)"
    if "positions" in record and "numbers" in record:
        return "an ASE Atoms object as JSON (write it with ase as extxyz or .db)"
    if isinstance(name := record.get("@class"), str):
        return f"it is a {name[:40]!a}"
    return "neither lattice, atoms, structure nor cif"


Item = RawCrystal | UnreadableRecord
Record = Mapping[str, Any]


def _read_by(geometry_of: Callable[[Record], Geometry]) -> Callable[[Record, str, str], Item]:
    def read(record: Record, identifier: str, place: str) -> Item:
        geometry = geometry_of(record)
        species = geometry.species
        if not (isinstance(species, list) and all(isinstance(name, str) for name in species)):
            raise RecordError("bad record: species is not a list of symbols")
        return RawCrystal(
            id=identifier,
            input=place,
            lattice=geometry.lattice,
            species=species,
            frac_coords=geometry.frac_coords,
            occupancies=geometry.occupancies,
            note=geometry.note,
        )

    return read


@dataclass(frozen=True)
class _Form:
    """One form of a record: its test, its reader, and the columns that its labels are in."""

    matches: Callable[[Record], bool]
    read: Callable[[Record, str, str], Item]
    columns: Callable[[Record], Record]


_RECORD_FIELDS = frozenset(
    {STRUCTURE, CIF, "atoms", "attributes", "lattice", "lattice_mat", "lattice_vectors", "sites"}
)
_FORMS = (
    _Form(
        optimade.is_resource,
        _read_by(lambda record: optimade.resource_geometry(optimade.attributes_of(record))),
        lambda record: optimade.label_columns(optimade.attributes_of(record)),
    ),
    # A Structure by itself: its properties, where it has some, are its labels.
    _Form(lambda record: "sites" in record, _read_by(structure_geometry), lambda record: {}),
    _Form(lambda record: "lattice" in record, _read_by(_own_geometry), _other_columns),
    _Form(
        lambda record: "atoms" in record or "lattice_mat" in record,
        _read_by(_jarvis_geometry),
        lambda record: {name: record.get(name) for name in _JARVIS_FIELDS},
    ),
    _Form(lambda record: bool(_cif_text(record)), _cif_crystal, _other_columns),
    _Form(
        lambda record: structure_field(record) is not None,
        _read_by(lambda record: structure_geometry(record[structure_field(record) or STRUCTURE])),
        _structure_columns,
    ),
)
