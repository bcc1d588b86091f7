"""Table of the nine properties: names, JARVIS-DFT fields, units and groups."""

from __future__ import annotations

from dataclasses import dataclass

from phase2hpc.errors import InputError

CORE = ("core4", "priority7", "all9")
PRIORITY = ("priority7", "all9")
SECONDARY = ("secondary2", "all9")


@dataclass(frozen=True)
class Property:
    """One scalar, intensive property of a crystal.

    ``lower_bound`` is the smallest physical value: predictions are clipped to it, training
    targets are not. ``heavy_tailed`` properties span decades and are learned on an asinh scale.
    """

    name: str
    jarvis_field: str
    unit: str
    symbol: str
    groups: tuple[str, ...]
    lower_bound: float | None = None
    heavy_tailed: bool = False


PROPERTIES: dict[str, Property] = {
    p.name: p
    for p in (
        Property("formation_energy", "formation_energy_peratom", "eV/atom", "E_f", CORE),
        Property("band_gap", "optb88vdw_bandgap", "eV", "E_g", CORE, lower_bound=0.0),
        Property("bulk_modulus", "bulk_modulus_kv", "GPa", "K_V", CORE),
        Property("shear_modulus", "shear_modulus_gv", "GPa", "G_V", CORE),
        Property("ehull", "ehull", "eV/atom", "E_hull", PRIORITY, lower_bound=0.0),
        Property("band_gap_mbj", "mbj_bandgap", "eV", "E_g(mBJ)", PRIORITY, lower_bound=0.0),
        Property("spillage", "spillage", "", "eta", PRIORITY, lower_bound=0.0),
        Property(
            "dielectric", "dfpt_piezo_max_dielectric", "", "eps_max", SECONDARY,
            lower_bound=1.0, heavy_tailed=True,
        ),
        Property(
            "piezoelectric", "dfpt_piezo_max_dij", "pC/N", "d_ij,max", SECONDARY,
            lower_bound=0.0, heavy_tailed=True,
        ),
    )
}  # fmt: skip

GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(p.name for p in PROPERTIES.values() if group in p.groups)
    for group in ("core4", "priority7", "secondary2", "all9")
}

_BY_JARVIS_FIELD = {p.jarvis_field: p.name for p in PROPERTIES.values()}


def canonical_name(column: str) -> str:
    """Name of the property in a label column: ours for a JARVIS field, else the column's own."""
    return _BY_JARVIS_FIELD.get(column, column)


def unit(name: str) -> str:
    """Unit of a property; empty if it is dimensionless or unknown."""
    known = PROPERTIES.get(name)
    return known.unit if known else ""


def resolve(spec: str, available: tuple[str, ...] | list[str]) -> list[str]:
    """Expand ``spec``, a group or a comma list, to property names.

    The nine properties come first, in the order of the table, then other columns in the order of
    ``spec``. ``available`` are the label columns of the store. Raises InputError for an unknown
    name.
    """
    wanted: list[str] = []
    for item in (part.strip() for part in spec.split(",")):
        if not item:
            continue
        names = GROUPS.get(item, (canonical_name(item),))
        for name in names:
            if name not in PROPERTIES and name not in available:
                raise InputError(
                    f"unknown property '{name}': use a group ({', '.join(GROUPS)}), one of "
                    f"{', '.join(PROPERTIES)}, or a label column of the store "
                    f"({', '.join(available) or 'there is none'})"
                )
            if name not in wanted:
                wanted.append(name)
    if not wanted:
        raise InputError("--properties is empty: give a group or a comma list")
    ranked = [name for name in PROPERTIES if name in wanted]
    return ranked + [name for name in wanted if name not in PROPERTIES]
