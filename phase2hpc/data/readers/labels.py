"""Label cells as numbers, and a report of the cells that hold none."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from numbers import Real
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np

from phase2hpc.config.properties import PROPERTIES, canonical_name
from phase2hpc.data.readers.header_units import same_unit, split_unit

# Above this median (eV/atom) a column cannot be energy above hull; the 2022 edition has 0.1.
EHULL_MEDIAN_LIMIT = 0.5
_EHULL_MIN_VALUES = 20

# Cells that stand for no value, in lower case: pandas' list and the dashes of typeset tables.
MISSING_MARKERS = frozenset(
    (
        "", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "n.a.", "nan", "-nan", "1.#ind",
        "-1.#ind", "1.#qnan", "-1.#qnan", "none", "null", "nil", "nat", "missing", "-", "--",
        "---", "\u2013", "\u2014", "\u2212", "?", ".",
    )
)  # fmt: skip
# Python's float() also takes 1_000 and digits of other scripts; Fortran writes D exponents.
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d+)?", re.ASCII)
_COMMA_NUMBER = re.compile(r"[+-]?\d*,\d+(?:[eEdD][+-]?\d+)?", re.ASCII)
# 1,500 is one and a half or fifteen hundred.
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
_UNICODE_MINUS = "\u2212"
_MAX_SHOWN = 40

# text: not a number. boolean: read as 1 or 0. comma: a decimal comma read as a point. minus: a
# Unicode minus read as "-". duplicate: the property has another column, taken before. unit: in
# another unit than the property's.
Kind = Literal["text", "boolean", "comma", "minus", "duplicate", "unit"]
NOT_TAKEN: tuple[Kind, ...] = ("text", "duplicate", "unit")


class LabelCell(NamedTuple):
    """A cell that is not plainly a number: its property, the kind of cell and its text."""

    name: str
    kind: Kind
    text: str


class Labels(dict[str, float]):
    """Labels of one record by property name, with what its other label cells held.

    cells: those that are not plainly numbers. missing: properties whose cell is a missing marker.
    units: by property, of columns that name theirs. place: "file:line" of the record's labels,
    where that is not the structure's own. renamed: (source, old name) of those that ``renamed``
    has given another name.
    """

    cells: tuple[LabelCell, ...] = ()
    missing: tuple[str, ...] = ()
    units: Mapping[str, str] = {}
    place: str = ""
    renamed: frozenset[tuple[str, str]] = frozenset()


def label_value(value: Any) -> float | None:
    """The finite number that a cell holds; None for anything else, booleans included."""
    number, kind = _parsed(value, decimal_comma=False)
    return None if kind == "boolean" else number


def may_be_label(value: Any) -> bool:
    """True for a cell that holds a number, a boolean or a missing marker."""
    return is_missing(value) or _parsed(value, decimal_comma=True)[0] is not None


def is_missing(value: Any) -> bool:
    """True for a missing marker: None, NaN, blank, "N/A", "--" and their like."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING_MARKERS
    if type(value) is float:  # most cells; a look at Real takes as long as all the rest
        return value != value
    # math.isnan overflows on large integers.
    return value is None or (isinstance(value, Real) and value != value)


def labels_in(
    columns: Mapping[str, Any],
    skip: Iterable[str] = (),
    *,
    decimal_comma: frozenset[str] = frozenset(),
    place: str = "",
) -> Labels:
    """Labels by property name: JARVIS fields renamed, a unit in the column's name taken off it.

    decimal_comma: columns whose numbers are written with one. place: as of ``Labels``.
    """
    skipped = set(skip)
    labels, cells, missing, units = Labels(), [], [], {}
    source: dict[str, str] = {}
    for column, value in columns.items():
        if not column or column in skipped:
            continue
        name, unit = column_name(column)
        if is_missing(value):
            missing.append(name)
            continue
        if name in PROPERTIES and unit and not same_unit(unit, PROPERTIES[name].unit):
            cells.append(LabelCell(name, "unit", column))
            continue
        number, kind = _parsed(value, column in decimal_comma)
        if number is None:
            cells.append(LabelCell(name, "text", shown(value)))
        elif name in labels:
            if labels[name] != number:
                cells.append(LabelCell(name, "duplicate", column))
            continue
        else:
            labels[name] = number
            if kind is not None:
                cells.append(LabelCell(name, kind, shown(value)))
        source[name] = column
        if unit and name not in PROPERTIES:
            units[name] = unit
    if cells:
        labels.cells = tuple(cells)
    if place and (cells or missing):
        labels.place = place
    if missing:
        labels.missing = tuple(name for name in missing if name not in source)
    if units:
        labels.units = units
    return labels


def renamed(labels: Mapping[str, float], names: Mapping[str, str], source: str = "") -> Labels:
    """The same labels under other names; a label whose new name is taken stays as a cell.

    source: name of the file or folder that they are from.
    """
    result = Labels()
    of = labels if isinstance(labels, Labels) else Labels(labels)
    cells = [cell._replace(name=names.get(cell.name, cell.name)) for cell in of.cells]
    for name, value in of.items():
        new = names.get(name, name)
        if new in result:
            cells.append(LabelCell(new, "duplicate", name))
        else:
            result[new] = value
    result.cells, result.place = tuple(cells), of.place
    result.missing = tuple(names.get(name, name) for name in of.missing)
    result.units = {names.get(name, name): text for name, text in of.units.items()}
    there = {*of, *of.missing, *(cell.name for cell in of.cells)}
    result.renamed = frozenset((source, name) for name in names if name in there)
    return result


@lru_cache(maxsize=1 << 12)
def column_name(column: str) -> tuple[str, str]:
    """Property name and unit ("" if none) of a column: ``Eg (eV)`` is ``Eg`` in eV."""
    name, unit = split_unit(column.strip())
    return canonical_name(name), unit


def decimal_comma_columns(rows: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """Columns whose numbers are written with decimal commas throughout.

    A column is one where at least one cell can only be a number with a decimal comma (so not
    1,500, which may be grouped) and no cell has a decimal point.
    """
    sure: set[str] = set()
    against: set[str] = set()
    for row in rows:
        for column, cell in row.items():
            text = cell.strip().replace(_UNICODE_MINUS, "-")
            if _COMMA_NUMBER.fullmatch(text):
                if not _GROUPED.fullmatch(text):
                    sure.add(column)
            elif "." in text and _NUMBER.fullmatch(text):
                against.add(column)
    return frozenset(sure - against)


def shown(value: Any) -> str:
    """A cell's content for a message, in one line of bounded length."""
    text = " ".join(str(value).split())
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def _parsed(value: Any, decimal_comma: bool) -> tuple[float | None, Kind | None]:
    """The number of a cell, None if it holds none, and how it differs from a plain number."""
    if type(value) is float and math.isfinite(value):
        return value, None
    if isinstance(value, (bool, np.bool_)):
        return float(value), "boolean"
    kind: Kind | None = None
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in ("true", "false"):
            return float(text.lower() == "true"), "boolean"
        if _UNICODE_MINUS in text:
            text, kind = text.replace(_UNICODE_MINUS, "-"), "minus"
        if decimal_comma and _COMMA_NUMBER.fullmatch(text):
            text, kind = text.replace(",", "."), "comma"
        if not _NUMBER.fullmatch(text):
            return None, None
        value = text.replace("d", "e").replace("D", "e")
    elif not isinstance(value, Real):
        return None, None
    try:
        number = float(value)
    except OverflowError:
        return None, None
    return (number, kind) if math.isfinite(number) else (None, None)


def ehull_warning(values: Iterable[float]) -> str | None:
    """A warning if these ``ehull`` values (eV/atom) cannot be energies above the hull, else None.

    The 2021 edition of JARVIS dft_3d has another quantity in that field, with a median of 1.6.
    """
    known = list(values)
    if len(known) < _EHULL_MIN_VALUES or median(known) <= EHULL_MEDIAN_LIMIT:
        return None
    return (
        f"the median of ehull is {median(known):.2f} eV/atom: this is not the energy above hull "
        "(the 2021 edition of JARVIS dft_3d has another quantity under that name); use the 2022 "
        "edition or leave ehull out"
    )
