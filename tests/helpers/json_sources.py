"""JSON sources of two salts, in several forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

from phase2hpc.data.crystal import RawCrystal

SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
CESIUM = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
BOTH = [SALT, CESIUM]


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def assert_both(
    items: list[Any], ids: list[str] | None = None, gaps: tuple[float, ...] = (5.0, 8.3)
) -> None:
    """The two structures, with their ids and, where given, the label ``gap``."""
    assert all(isinstance(item, RawCrystal) for item in items), items
    for item, structure in zip(items, BOTH, strict=True):
        assert list(item.species) == [site.specie.symbol for site in structure]
        assert np.allclose(item.lattice, structure.lattice.matrix)
        assert np.allclose(item.frac_coords, structure.frac_coords)
    if ids is not None:
        assert [item.id for item in items] == ids
    assert tuple(item.labels.get("gap") for item in items) == (gaps or (None, None))


DICTS = [structure.as_dict() for structure in BOTH]


def resource(structure: Structure = SALT, **changes: Any) -> dict[str, Any]:
    symbols = sorted({site.specie.symbol for site in structure})
    attributes = {
        "lattice_vectors": structure.lattice.matrix.tolist(),
        "cartesian_site_positions": structure.cart_coords.tolist(),
        "species_at_sites": [site.specie.symbol for site in structure],
        "species": [{"name": s, "chemical_symbols": [s], "concentration": [1.0]} for s in symbols],
        "nsites": len(structure), "dimension_types": [1, 1, 1], "structure_features": [],
        "_mp_gap": 5.0, "_mp_stability": {"a": 1},
    }  # fmt: skip
    return {"id": "x", "type": "structures", "attributes": attributes | changes}
