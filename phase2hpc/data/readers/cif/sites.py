"""Atom sites of a CIF block: elements, coordinates and occupancies, all of them or a reason."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gemmi import cif

from phase2hpc.data.readers.cif.block import Block, CifError, number_in, plain_text
from phase2hpc.data.readers.cif.elements import element_of_label, element_of_type, is_vacancy

MAX_SITES = 20_000
# A double this large has no digits left behind its point.
NO_FRACTION = 1e15
FULL = 0.999
_AXES = ("fract_x", "fract_y", "fract_z")
_COLUMNS = (
    *_AXES, "label", "type_symbol", "occupancy", "calc_flag", "attached_hydrogens",
    "disorder_group", "disorder_assembly",
)  # fmt: skip
_RATIO = re.compile(r"([+-]?\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Sites:
    """Symbols as written, fractional coordinates (n, 3) and occupancies (n,)."""

    symbols: list[str]
    frac: npt.NDArray[np.float64]
    occupancies: npt.NDArray[np.float64]


def read_sites(block: Block) -> Sites:
    """The sites with atoms: dummies, vacancies and sites of occupancy 0 are left out."""
    columns = _columns(block)
    n = len(columns["fract_x"])
    names = columns["label"] or columns["type_symbol"]
    occupancies = _occupancies(columns["occupancy"], names)
    kept = [i for i in range(n) if occupancies[i] != 0.0 and not _is_empty(columns, i)]
    if not kept:
        raise CifError("no atoms: all sites are dummies, vacancies or have occupancy 0")
    if len(kept) < n:
        columns = {name: [c[i] for i in kept] if c else [] for name, c in columns.items()}
        names, occupancies, n = [names[i] for i in kept], occupancies[kept], len(kept)
    _refuse_missing_hydrogens(columns["attached_hydrogens"], names)
    _refuse_alternatives(columns, occupancies, names)
    frac = np.array([[_coordinate(text) for text in columns[axis]] for axis in _AXES]).T
    bad = np.argwhere(~(np.abs(frac) < NO_FRACTION))
    if len(bad):
        site, axis = bad[0]
        text = columns[_AXES[axis]][site]
        unknown = ", it has no position (fill it in)" if text == "?" else ""
        text = cif.as_string(text)[:20] or text
        raise CifError(
            f"bad coordinates: _atom_site_{_AXES[axis]} of {names[site][:20]} is '{text}'{unknown}"
        )
    types, labels = columns["type_symbol"], columns["label"]
    symbols = [
        element_of_type(types[i])
        if types and not cif.is_null(types[i])
        else element_of_label(labels[i] if labels else "?")
        for i in range(n)
    ]
    return Sites(symbols, frac, occupancies)


def refuse_macromolecular(block: Block) -> None:
    """Raise CifError for mmCIF: dotted tags as in core CIF, but only Cartesian coordinates."""
    if "_atom_site_fract_x" not in block and any(
        item.tag.lower() == "_atom_site.cartn_x"
        for item in block.items.get("_atom_site_cartn_x", ())
    ):
        raise CifError("mmCIF: this is the macromolecular dialect; give a core CIF (.cif)")


def _columns(block: Block) -> dict[str, list[str]]:
    """The columns of the sites, empty where there is none; all of one loop and of one length."""
    items = {name: block.item(f"_atom_site_{name}") for name in _COLUMNS}
    columns = {name: [] if item is None else item.values() for name, item in items.items()}
    n = len(columns["fract_x"])
    if not all(columns[axis] for axis in _AXES):
        if "_atom_site_cartn_x" in block:
            raise CifError("no fractional coordinates: the sites have only Cartesian ones")
        if any(columns.values()):
            raise CifError("no coordinates: _atom_site_fract_x, _y, _z must all be there")
        raise CifError("no atoms: the file lists no _atom_site_ (was it cut short?)")
    if n > MAX_SITES:
        raise CifError(f"too many atoms: {n} sites")
    if len({item.loop for item in items.values() if item is not None}) > 1 or any(
        column and len(column) != n for column in columns.values()
    ):
        raise CifError(
            "damaged loop: the columns of _atom_site_ stand in several loops or differ in length"
        )
    if not columns["label"] and not columns["type_symbol"]:
        raise CifError("unknown element: the sites have neither type symbols nor labels")
    return columns


def _is_empty(columns: Mapping[str, Sequence[str]], i: int) -> bool:
    flags, types, labels = (columns[x] for x in ("calc_flag", "type_symbol", "label"))
    if flags and plain_text(flags[i]).lower() == "dum":
        return True
    return is_vacancy(types[i] if types else None, labels[i] if labels else None)


def _coordinate(text: str) -> float:
    """A fractional coordinate: a number, a ratio (1/3), or '.', which is the default, 0."""
    value = number_in(text)
    if value != value:
        if text == ".":
            return 0.0
        ratio = _RATIO.fullmatch(cif.as_string(text))
        if ratio is not None and int(ratio[2]):
            return int(ratio[1]) / int(ratio[2])
    return value


def _occupancies(column: Sequence[str], names: Sequence[str]) -> npt.NDArray[np.float64]:
    # The CIF dictionary's default, for a missing column as for '.' and '?', is a full site.
    values = [1.0 if cif.is_null(text) else number_in(text) for text in column]
    for value, name, text in zip(values, names, column, strict=False):
        if not math.isfinite(value):
            raise CifError(f"bad occupancy: of {name[:20]}, it is '{text[:20]}'")
    return np.array(values or [1.0] * len(names))


def _refuse_missing_hydrogens(column: Sequence[str], names: Sequence[str]) -> None:
    for name, text in zip(names, column, strict=False):
        if number_in(text) > 0:
            raise CifError(f"missing atoms: {name[:20]} has attached hydrogens without coordinates")


def _refuse_alternatives(
    columns: Mapping[str, Sequence[str]],
    occupancies: npt.NDArray[np.float64],
    names: Sequence[str],
) -> None:
    """Refuse sites that exclude one another although each has occupancy 1.

    Groups of one assembly are alternatives; a negative one is disordered about a special
    position. The CSD marks the atoms of a minor alternative by a question mark in the label.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    assemblies = columns["disorder_assembly"]
    for i, text in enumerate(columns["disorder_group"]):
        group = plain_text(text)
        if group in ("", "0") or occupancies[i] < FULL:
            continue
        assembly = plain_text(assemblies[i]) if assemblies else ""
        groups[assembly].add(group)
        if group.startswith("-") or len(groups[assembly]) > 1:
            raise CifError(
                f"disordered: {names[i][:20]} is in _atom_site_disorder_group {group[:10]}, one of "
                "several alternatives that all have occupancy 1 (keep one of them)"
            )
    for name in names:
        if cif.as_string(name).endswith("?") and len(name) > 1:
            raise CifError(
                f"disordered: the label {name[:20]} marks an alternative position (keep one)"
            )
