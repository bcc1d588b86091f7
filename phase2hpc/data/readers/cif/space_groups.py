"""Space groups by Hermann-Mauguin symbol, Hall symbol or number, in the setting that is meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import gemmi

from phase2hpc.utils.text_cache import cached_for_short_text


class SymmetryError(ValueError):
    """The symmetry that a file states cannot be used; the message is ``kind: detail``."""


class OpenSettingError(SymmetryError):
    """The origin choice is left open. ``settings``: the groups that may be meant."""

    def __init__(self, message: str, settings: Sequence[gemmi.SpaceGroup]) -> None:
        super().__init__(message)
        self.settings = tuple(settings)


# Suffixes of settings: as gemmi and cctbx write them, and as ICSD does.
_EXTENSIONS = {
    "1": "1", "2": "2", "S": "1", "Z": "2", "O1": "1", "O2": "2",
    "H": "H", "R": "R", "HR": "H",
}  # fmt: skip
_QUALIFIER = re.compile(r"-?[abc][123]?|ba-c|-?cba|-?cab|bca|a-cb")
_ORIGIN = re.compile(r"[\s,:(]+(?:origin|o\.?c\.?)[a-z\s]*([12])\)?$", re.IGNORECASE)
_NUMBER_BEHIND = re.compile(r"[\s,]*\((?:no\.?|#)?\s*(\d{1,3})\)$", re.IGNORECASE)
_SETTING_BEHIND = re.compile(r"\s*\((HR|[HRSZ])\)$", re.IGNORECASE)
# Monoclinic symbols that do not say which axis is unique; with a 1 behind, it is b: P 21/c 1.
_MONOCLINIC = re.compile(r"([PABCI])((?:21?)(?:/[abcnm])?|[abcnm])", re.IGNORECASE)
_UNIQUE_B = re.compile(r"([PABCI])\s*(21?/[abcnm])\s+1", re.IGNORECASE)
_LONG_FORMS = {"a": "{} {} 1 1", "b": "{} 1 {} 1", "c": "{} 1 1 {}"}
# Degrees by which an angle that is meant as 90 may differ.
_RIGHT = 0.01
# Elements of a symbol without blanks: P4/m-32/m is P 4/m -3 2/m.
_ELEMENT = re.compile(r"-[1-6]|(?:21|3[12]|4[123]|6[1-5]|[1-6])(?:/[a-z])?|[a-z]", re.IGNORECASE)


@dataclass(frozen=True)
class NamedGroup:
    """A space group that a symbol names; ``open_setting`` if it leaves the origin choice open."""

    group: gemmi.SpaceGroup
    open_setting: bool

    @property
    def number(self) -> int:
        return self.group.number


def by_name(symbol: str, cell: Sequence[float], setting: str | None = None) -> NamedGroup | None:
    """The space group of a Hermann-Mauguin symbol, None where it is not in the tables.

    Blanks, underscores and case do not matter; full symbols (F 4/m -3 2/m), old ones (F m 3 m) and
    screw axes as 2(1) are understood. A setting stands behind the symbol or in ``setting``
    (``_space_group_IT_coordinate_system_code``). ``cell``, a, b, c (angstrom) and three angles
    (degrees), tells the hexagonal from the rhombohedral cell of an R group, and the unique axis of
    a monoclinic one (P 21/b). Raises SymmetryError for a setting that the group does not have.
    """
    base, suffix = _split(symbol)
    axis = _unique_axis(cell)
    group = _lookup(base, cell[3], cell[5], axis)
    if group is None and " " not in base and base[-1:] in _EXTENSIONS and not suffix:
        # Fd-3mZ
        group = _lookup(base[:-1], cell[3], cell[5], axis)
        suffix = base[-1]
    if group is None:
        return None
    suffix = suffix or (setting or "").strip()
    if not suffix:
        return NamedGroup(group, group.ext in ("1", "2"))
    if base[:1] in "Hh" and suffix.upper() == "H":
        return NamedGroup(group, False)
    return NamedGroup(_in_setting(group, suffix, symbol), False)


def by_number(number: int, cell: Sequence[float], setting: str | None = None) -> NamedGroup:
    """The standard setting of a space-group number, or the one of ``setting``.

    Raises SymmetryError for what is no number of a space group.
    """
    group = gemmi.find_spacegroup_by_number(number) if 1 <= number <= 230 else None
    named = by_name(group.hm, cell, setting) if group is not None else None
    if named is None:
        raise SymmetryError(f"unknown space group: number {number}")
    return named


def by_hall(symbol: str) -> gemmi.GroupOps | None:
    """The operations of a Hall symbol, None where it is none."""
    try:
        return gemmi.symops_from_hall(symbol.strip("'\" ").replace("_", " "))
    except (RuntimeError, ValueError):
        return None


@lru_cache(maxsize=512)
def number_of(group: gemmi.GroupOps) -> int | None:
    """The number of a group in a setting of the tables, else None."""
    found = gemmi.find_spacegroup_by_ops(group)
    return found.number if found is not None else None


def refuse_open_setting(named: NamedGroup, name: str) -> None:
    """Raise OpenSettingError where a symbol or number leaves the origin choice open."""
    if named.open_setting:
        group = named.group
        raise OpenSettingError(
            f"ambiguous space group: {name} has two origin choices; write '{group.hm}:1' or "
            f"'{group.hm}:2', or list the symmetry operations",
            [entry for entry in _settings_of(group.number) if entry.hm == group.hm],
        )


@cached_for_short_text
def _split(symbol: str) -> tuple[str, str]:
    """The symbol in gemmi's spelling, and the setting behind it."""
    text = symbol.strip("'\" ").replace("_", "").replace("{", "").replace("}", "")
    text = re.sub(r"\\?bar\s*(\d)", r"-\1", text).replace("$", "")
    text = re.sub(r"(?<=[2346])\(([1-5])\)", r"\1", text)
    text = re.sub(r"\s*/\s*", "/", text)
    number = _NUMBER_BEHIND.search(text)
    if number is not None:
        text = text[: number.start()]
    origin = _ORIGIN.search(text)
    if origin is not None:
        return text[: origin.start()].strip(), origin[1]
    text = _SETTING_BEHIND.sub(r":\1", text)
    unique_b = _UNIQUE_B.fullmatch(text)
    if unique_b is not None:
        return f"{unique_b[1]} 1 {unique_b[2]} 1", ""
    base, colon, suffix = text.partition(":")
    if not colon and " " in base and base.split()[-1].upper() in _EXTENSIONS:
        stem, _, last = base.rpartition(" ")
        # "P 3 2 1" and "P 1 1 2" end in an axis, "F d -3 m 2" in a setting.
        if not last.isdigit() or _lookup(base, 90.0, 90.0) is None:
            base, suffix = stem, last
    return " ".join(base.split()), suffix.strip()


@lru_cache(maxsize=1024)
def _lookup(
    symbol: str, alpha: float, gamma: float, axis: str | None = None
) -> gemmi.SpaceGroup | None:
    for name in (_long_symbol(symbol, axis), symbol, _short_symbol(symbol)):
        found = gemmi.find_spacegroup_by_name(name, alpha, gamma) if name else None
        if found is not None:
            return found
    return None


def _unique_axis(cell: Sequence[float]) -> str | None:
    """The axis that is perpendicular to the two others, which are not so to each other."""
    oblique = [
        axis for axis, angle in zip("abc", cell[3:], strict=True) if abs(angle - 90) > _RIGHT
    ]
    return oblique[0] if len(oblique) == 1 else None


def _long_symbol(symbol: str, axis: str | None) -> str | None:
    """P 1 1 21/b of P 21/b where c is the unique axis."""
    match = _MONOCLINIC.fullmatch(symbol.replace(" ", "")) if axis is not None else None
    if axis is None or match is None:
        return None
    return _LONG_FORMS[axis].format(match[1].upper(), match[2].lower())


def _short_symbol(symbol: str) -> str | None:
    """The short form of a full symbol: F m -3 m of F 4/m -3 2/m, P n m a of P 21/n 21/m 21/a."""
    compact = symbol.replace(" ", "")
    elements = _ELEMENT.findall(compact[1:])
    if "".join(elements) != compact[1:] or len(elements) < 2:
        return None
    cubic = elements[1] in ("3", "-3")
    slashes = sum("/" in element for element in elements)
    if slashes < 2 and not cubic and elements[0] != "-3":
        return None  # monoclinic: P 1 21/c 1
    principal = elements[0][0] in "346-" and not cubic
    short = [
        element if i == 0 and principal else element.rpartition("/")[2]
        for i, element in enumerate(elements)
    ]
    return " ".join([compact[0], *short])


def _in_setting(group: gemmi.SpaceGroup, suffix: str, symbol: str) -> gemmi.SpaceGroup:
    """The tabulated setting ``suffix`` of a group.

    A qualifier (b2, cab) changes the setting of a standard symbol (P 21/c); with a symbol that
    names a setting itself it must agree. Raises SymmetryError otherwise.
    """
    # In _space_group_IT_coordinate_system_code, abc is the standard order of the axes.
    wanted = suffix.replace(" ", "").removesuffix("abc")
    if not wanted:
        return group
    origin = wanted[0] if wanted[:1] in ("1", "2") and len(wanted) > 1 else ""
    extension = origin or _EXTENSIONS.get(wanted.upper(), "")
    qualifier = wanted[len(origin) :].lower() if origin or not extension else ""
    known = not qualifier or _QUALIFIER.fullmatch(qualifier) is not None
    standard = gemmi.find_spacegroup_by_number(group.number)
    if known and (not extension or _has_extensions(group)):
        for entry in _settings_of(group.number):
            if extension and entry.ext != extension:
                continue
            if qualifier and entry.qualifier != qualifier:
                continue
            if entry.hm == group.hm or (qualifier and group.hm == standard.hm):
                refuse_open_setting(NamedGroup(entry, not extension and entry.ext in "12"), symbol)
                return entry
    raise SymmetryError(
        f"unknown space group: '{symbol[:30]}' with the setting '{suffix[:20]}', which it does not "
        "have in the tables (list the symmetry operations)"
    )


def _has_extensions(group: gemmi.SpaceGroup) -> bool:
    return group.ext in ("1", "2", "H", "R")


@lru_cache(maxsize=256)
def _settings_of(number: int) -> tuple[gemmi.SpaceGroup, ...]:
    return tuple(entry for entry in gemmi.spacegroup_table() if entry.number == number)
