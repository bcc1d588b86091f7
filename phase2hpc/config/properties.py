"""The nine properties (names, JARVIS-DFT fields, units, groups) and settings of label columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from phase2hpc.errors import InputError

# Columns of a table of predictions: those of each property, after its name, and the others.
COLUMN_SUFFIXES = ("_target", "", "_sigma", "_low", "_high", "_error")
OTHER_COLUMNS = ("id", "input", "formula", "atoms", "status", "reason", "in_domain")

CORE = ("core4", "priority7", "all9")
PRIORITY = ("priority7", "all9")
SECONDARY = ("secondary2", "all9")

Scale = Literal["linear", "log", "asinh", "auto"]
SCALES: tuple[Scale, ...] = get_args(Scale)


class ColumnSettings(BaseModel):
    """Settings of a label column; None where they are not given.

    unit: of the labels. lower_bound: the value below which no physical crystal lies; predictions
    are clipped to it, training targets never are. scale: on which the column is learned; "auto"
    chooses by the skew of the training labels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    unit: str | None = None
    lower_bound: float | None = None
    scale: Scale | None = None

    def over(self, other: ColumnSettings) -> ColumnSettings:
        """These settings, with missing ones from ``other``."""
        return other.model_copy(update=self.model_dump(exclude_none=True))


@dataclass(frozen=True)
class Property:
    """One scalar, intensive property of a crystal; see ``ColumnSettings`` for bound and scale.

    piezoelectric: it is zero where symmetry forbids piezoelectricity.
    """

    name: str
    jarvis_field: str
    unit: str
    symbol: str
    groups: tuple[str, ...]
    lower_bound: float | None = None
    scale: Scale = "linear"
    piezoelectric: bool = False


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
            lower_bound=1.0, scale="asinh",
        ),
        Property(
            "piezoelectric", "dfpt_piezo_max_dij", "pC/N", "d_ij,max", SECONDARY,
            lower_bound=0.0, scale="asinh", piezoelectric=True,
        ),
    )
}  # fmt: skip

GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(p.name for p in PROPERTIES.values() if group in p.groups)
    for group in ("core4", "priority7", "secondary2", "all9")
}

_BY_JARVIS_FIELD = {p.jarvis_field: p.name for p in PROPERTIES.values()}
_ASSIGNMENT = re.compile(r"(?P<name>.+?):(?P<settings>\s*(?:unit|min|scale)\s*=.*)", re.DOTALL)
_KEYS = {"unit": "unit", "min": "lower_bound", "scale": "scale"}


def canonical_name(column: str) -> str:
    """Property name of a label column: the name of this package for a JARVIS field, else as is."""
    return _BY_JARVIS_FIELD.get(column, column)


def unit(name: str) -> str:
    """Unit of a property; empty if it is dimensionless or unknown."""
    known = PROPERTIES.get(name)
    return known.unit if known else ""


def default_settings(name: str) -> ColumnSettings:
    """Default settings of a column: those of the nine properties, else a linear scale."""
    known = PROPERTIES.get(name)
    if known is None:
        return ColumnSettings(unit="", scale="linear")
    return ColumnSettings(unit=known.unit, lower_bound=known.lower_bound, scale=known.scale)


def parse_columns(assignments: Iterable[str]) -> dict[str, ColumnSettings]:
    """Settings by column from ``gap:unit=eV,min=0,scale=asinh``.

    Raises InputError for another syntax, an unknown key or value, a column given twice, and a
    unit of one of the nine properties that differs from its own.
    """
    columns: dict[str, ColumnSettings] = {}
    for item in assignments:
        found = _ASSIGNMENT.fullmatch(item)
        if found is None:
            raise InputError(
                f"--column '{item}': write it as NAME:unit=UNIT,min=NUMBER,scale=SCALE"
            )
        name = canonical_name(found["name"].strip())
        if name in columns:
            raise InputError(f"--column {name}: given twice, put its settings into one")
        values: dict[str, Any] = {}
        for part in found["settings"].split(","):
            key, equals, value = (text.strip() for text in part.partition("="))
            if not equals or key not in _KEYS or _KEYS[key] in values:
                raise InputError(f"--column {name}: '{part.strip()}' is not unit=, min= or scale=")
            values[_KEYS[key]] = value
        try:
            columns[name] = ColumnSettings.model_validate(values)
        except ValidationError as error:
            key = str(error.errors()[0]["loc"][0])
            wanted = {"scale": f"one of {', '.join(SCALES)}", "lower_bound": "a finite number"}
            raise InputError(
                f"--column {name}: {values[key]!r} is not {wanted.get(key, 'a text')}"
            ) from None
        known, given = PROPERTIES.get(name), columns[name].unit
        if known is not None and given is not None and given != known.unit:
            raise InputError(
                f"--column {name}: its unit is {known.unit or 'none'}, not {given}: convert the "
                "labels, or give the column another name"
            )
    return columns


def columns_text(columns: Mapping[str, ColumnSettings]) -> str:
    """Settings as ``parse_columns`` reads them, without what is not given."""
    texts = []
    for name, settings in columns.items():
        values = [(key, getattr(settings, field)) for key, field in _KEYS.items()]
        given = [
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in values
            if value not in (None, "")
        ]
        if given:
            texts.append(f"{name}:{','.join(given)}")
    return " ".join(texts)


def parse_renames(assignments: Iterable[str]) -> dict[tuple[str, str], str]:
    """New names by (source, column) from ``gap_pbe=mp_gap`` or ``FILE:gap_pbe=mp_gap``.

    The source is a file name, "" for all sources. Raises InputError.
    """
    renames: dict[tuple[str, str], str] = {}
    for item in assignments:
        old, equals, new = (text.strip() for text in item.partition("="))
        source, _, column = (text.strip() for text in old.rpartition(":"))
        if not equals or not column or not new:
            raise InputError(f"--rename '{item}': write it as OLD=NEW or SOURCE:OLD=NEW")
        key = (source, canonical_name(column))
        if renames.setdefault(key, new) != new:
            raise InputError(f"--rename {old}: two different new names")
    return renames


def resolve(spec: str, available: Sequence[str]) -> list[str]:
    """Property names of ``spec``, a group or a comma list, in canonical order.

    The nine properties are in the order of the table, followed by other columns in the given order.
    ``available`` are the label columns of the store. Raises InputError for an unknown name.
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
                    f"{', '.join(PROPERTIES)}, or a column of the store with training labels "
                    f"({', '.join(available) or 'it has none'})"
                )
            if name not in wanted:
                wanted.append(name)
    if not wanted:
        raise InputError("--properties is empty: give a group or a comma list")
    return in_order(wanted)


def names_of(group: str) -> tuple[str, ...]:
    """The properties of a group, or those of a comma list."""
    return GROUPS.get(group) or tuple(name.strip() for name in group.split(","))


def resolve_default(
    group: str, available: Sequence[str], auxiliary: Sequence[str] = ()
) -> tuple[list[str], str]:
    """Properties to train by default, and a line for the user, "" where it is the whole group.

    The default are those of the level's group or comma list that the store has; if it has none, all
    its columns; either without the auxiliary ones. Raises InputError for a store without other
    label columns.
    """
    if not available:
        raise InputError(
            "the store has no labels, so there is nothing to train: prepare it from sources with "
            "labels (id_prop.csv in the folder, or --labels FILE)"
        )
    scored = [name for name in available if name not in auxiliary]
    if not scored:
        raise InputError(
            "--auxiliary names all label columns of the store, so nothing is left to score: name "
            "one by --properties instead"
        )
    wanted = names_of(group)
    there = [name for name in wanted if name in scored]
    if len(there) == len(wanted):
        return there, ""
    if there:
        missing = {
            "no labels": [name for name in wanted if name not in (*available, *auxiliary)],
            "auxiliary": [name for name in wanted if name in auxiliary],
        }
        without = "; ".join(f"{', '.join(names)}: {why}" for why, names in missing.items() if names)
        return there, f"properties: {', '.join(there)} ({group} without {without})"
    names = in_order(scored)
    others = "all other columns" if auxiliary else "all columns"
    return names, (
        f"properties: {', '.join(names)} ({others} of the store, which has none of {group})"
    )


def in_order(names: Iterable[str]) -> list[str]:
    """The nine properties in the order of the table, then the others in the given order."""
    found = list(names)
    return [name for name in PROPERTIES if name in found] + [
        name for name in found if name not in PROPERTIES
    ]


def shown_name(name: str, columns: Mapping[str, ColumnSettings]) -> str:
    """``gap (eV)``, or the name alone of a column without unit."""
    text = columns[name].unit if name in columns else unit(name)
    return f"{name} ({text})" if text else name


def check_columns(names: Iterable[str]) -> None:
    """Raise InputError where two properties would have the same column in a table of predictions,
    or one that of something else."""
    owners = dict.fromkeys(OTHER_COLUMNS, "the table itself")
    for name in names:
        for column in (f"{name}{suffix}" for suffix in COLUMN_SUFFIXES):
            if (other := owners.setdefault(column, f"'{name}'")) != f"'{name}'":
                raise InputError(
                    f"property '{name}': tables of predictions have a column '{column}' for "
                    f"{other}: rename one (prepare --rename)"
                )
