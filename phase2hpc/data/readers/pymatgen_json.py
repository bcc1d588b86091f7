"""pymatgen objects as JSON: Structure, ComputedStructureEntry, numpy arrays wrapped by monty."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from phase2hpc.data.readers.labels import label_value
from phase2hpc.data.readers.periodicity import VACUUM_NOTE, periodicity_problem
from phase2hpc.data.readers.record_geometry import Geometry, RecordError


def unwrapped(value: Any) -> Any:
    """The list in ``{"@module": "numpy", "@class": "array", "data": [...]}``, else the value."""
    if isinstance(value, dict) and value.get("@module") == "numpy" and "data" in value:
        return value["data"]
    return value


def structure_geometry(structure: Mapping[str, Any] | str) -> Geometry:
    """Geometry of a pymatgen Structure, as a dict or as JSON text.

    A site shared by several species counts as several sites, none of them full. Raises
    RecordError, KeyError, TypeError, ValueError, IndexError or AttributeError for what is no
    structure.
    """
    if isinstance(structure, str) and structure.lstrip()[:1] not in ("{", "["):
        raise RecordError(
            f"bad record: the structure is the text {structure[:20]!a}..., neither JSON nor CIF "
            "(write Structure.as_dict())"
        )
    data = json.loads(structure) if isinstance(structure, str) else structure
    sites = data["sites"]
    if "lattice" not in data and isinstance(sites, list):
        raise RecordError(
            "not periodic: a molecule, without a lattice, and a crystal repeats in three directions"
        )
    lattice, note = unwrapped(data["lattice"]["matrix"]), ""
    species: list[str] = []
    coords: list[Any] = []
    occupancies: list[float] = []
    for site in sites:
        for kind in site["species"]:
            species.append(kind["element"])
            coords.append(unwrapped(site["abc"]))
            occupancy = label_value(kind["occu"])
            occupancies.append(float("nan") if occupancy is None else occupancy)
    pbc = unwrapped(data["lattice"].get("pbc", (True, True, True)))
    if not all(pbc):
        matrix = np.array(lattice, dtype=np.float64)
        if problem := periodicity_problem(matrix, np.array(coords, dtype=np.float64), pbc):
            raise RecordError(problem)
        note = VACUUM_NOTE
    return Geometry(lattice, species, coords, occupancies, note)


def is_entry(record: Mapping[str, Any]) -> bool:
    """True for a ComputedEntry or ComputedStructureEntry."""
    return "energy" in record and "composition" in record and "correction" in record


def entry_columns(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Label columns of an entry: its ``data``, and ``energy`` (eV per cell, corrected, as the
    attribute of that name)."""
    data = entry.get("data")
    columns = dict(data) if isinstance(data, dict) else {}
    energy, correction = label_value(entry["energy"]), label_value(entry["correction"] or 0.0)
    if energy is not None and correction is not None:
        columns["energy"] = energy + correction
    return columns
