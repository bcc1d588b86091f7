"""Structures in OPTIMADE responses (https://specification.optimade.org, version 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from phase2hpc.data.readers.periodicity import VACUUM_NOTE, periodicity_problem
from phase2hpc.data.readers.record_geometry import Geometry, RecordError

# Structure features that say that the listed sites are not the whole crystal.
_INCOMPLETE = {
    "implicit_atoms": "has atoms without positions (implicit_atoms)",
    "site_attachments": "has atoms attached to sites (site_attachments)",
    "assemblies": "is disordered (assemblies)",
}


def is_resource(record: Mapping[str, Any]) -> bool:
    """True for an entry of a response, or the attributes of one."""
    return isinstance(record.get("attributes"), dict) or "lattice_vectors" in record


def attributes_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Attributes of an entry. Raises RecordError for an entry of another type."""
    kind = record.get("type", "structures")
    if kind != "structures":
        raise RecordError(f"no structure: an OPTIMADE entry of type {str(kind)[:30]!a}")
    attributes = record.get("attributes")
    return attributes if isinstance(attributes, dict) else record


def resource_geometry(attributes: Mapping[str, Any]) -> Geometry:
    """Geometry of a structure entry's attributes; a site shared by species is several sites.

    Raises RecordError for a structure that its sites do not describe as a whole, KeyError,
    TypeError, ValueError or AttributeError for a malformed one.
    """
    for name in ("lattice_vectors", "cartesian_site_positions", "species_at_sites"):
        if attributes.get(name) is None:
            raise RecordError(f"no structure: it has no {name} (ask for it in response_fields)")
    for feature in attributes.get("structure_features") or ():
        if feature in _INCOMPLETE:
            raise RecordError(f"disordered: it {_INCOMPLETE[feature]}")
    lattice = np.array(attributes["lattice_vectors"], dtype=np.float64)
    positions = np.array(attributes["cartesian_site_positions"], dtype=np.float64)
    names = attributes["species_at_sites"]
    if not np.isfinite(lattice).all() or abs(np.linalg.det(lattice)) < 1e-6:
        raise RecordError("bad cell: the lattice vectors span no volume")
    frac = np.asarray(np.linalg.solve(lattice.T, positions.T).T, dtype=np.float64)
    if len(names) != len(frac):
        raise RecordError(f"bad record: {len(names)} species_at_sites, {len(frac)} positions")
    kinds = {kind["name"]: _occupants(kind) for kind in attributes.get("species") or ()}
    species: list[str] = []
    coords: list[Any] = []
    occupancies: list[float] = []
    for name, position in zip(names, frac.tolist(), strict=True):
        # Without the list of species, the name at a site can only be an element.
        for symbol, concentration in kinds.get(name, [(name, 1.0)]):
            species.append(symbol)
            coords.append(position)
            occupancies.append(concentration)
    pbc = [kind == 1 for kind in attributes.get("dimension_types") or (1, 1, 1)]
    if problem := periodicity_problem(lattice, frac, pbc):
        raise RecordError(problem)
    return Geometry(lattice, species, coords, occupancies, "" if all(pbc) else VACUUM_NOTE)


def _occupants(kind: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Symbol and concentration of each element that a species stands for."""
    if kind.get("attached"):
        raise RecordError(f"disordered: its species {str(kind['name'])[:20]!a} has attached atoms")
    symbols, concentrations = kind["chemical_symbols"], kind["concentration"]
    pairs = [(str(s), float(c)) for s, c in zip(symbols, concentrations, strict=True)]
    if any(symbol == "vacancy" for symbol, _ in pairs):
        raise RecordError(f"disordered: its species {str(kind['name'])[:20]!a} has vacancies")
    return pairs


def label_columns(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a database's own properties, whose names begin with its prefix (``_mp_``)."""
    return {name: value for name, value in attributes.items() if name.startswith("_")}


def missing_pages_warning(document: Mapping[str, Any]) -> str:
    """A warning where a response is one page of several, else ""."""
    meta, links = document.get("meta"), document.get("links")
    more = isinstance(meta, dict) and meta.get("more_data_available") is True
    following = isinstance(links, dict) and links.get("next")
    if not (more or following):
        return ""
    available = meta.get("data_available") if isinstance(meta, dict) else None
    total = f" of {available} entries" if isinstance(available, int) else ""
    return f"one page{total} of an OPTIMADE response: fetch the others too (links.next)"
